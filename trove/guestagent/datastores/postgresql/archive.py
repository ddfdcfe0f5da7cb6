"""The archive of PostgreSQL's log: its bytes as they are written, straight from its files.

Nothing is switched and no command is run for it: a tick on an idle server is a question, and a
busy one's log leaves the volume long before a file of it is full. A slot has the server keep what
was not shipped yet, up to ``max_slot_wal_keep_size``; beyond it, and when the data were put back in
time or came from elsewhere, the log is lost and the archive begins anew.
"""

from __future__ import annotations

import pathlib
import secrets
from collections.abc import Mapping, MutableSequence
from typing import Any

from trove.datastores import spec as datastore_spec
from trove.guestagent.datastores import base
from trove.guestagent.datastores.postgresql import connection, slots, wal
from trove.guestagent.system import filesystem, users

#: Kind of what is kept: bytes of the log.
LOG_KIND = "log"
FORMAT = 1
#: So much of its own log a server may write before that is archived: checkpoints, the proof that
#: it writes.
_IDLE_BYTES = 1024 * 1024


def find_incarnation(data_dir: pathlib.Path) -> str | None:
    """Return what tells these data from those of another history, None when nothing does yet."""
    try:
        return (data_dir / wal.INCARNATION).read_text(encoding="ascii").strip() or None
    except FileNotFoundError:
        return None


def new_incarnation() -> str:
    """Return a name for a history of data."""
    return secrets.token_hex(16)


def ensure_incarnation(data_dir: pathlib.Path, owner: users.SystemUser) -> str:
    """Return the name of the history of data, which has one from now on."""
    found = find_incarnation(data_dir)
    if found is None:
        found = new_incarnation()
        filesystem.write_file(data_dir / wal.INCARNATION, found, mode=0o600, owner=owner)
    return found


class PostgresqlArchive(base.Archive):
    """The log of a running server."""

    capabilities = frozenset({datastore_spec.Capability.POINT_IN_TIME})

    def __init__(
        self,
        environment: base.Environment,
        connector: connection.Connector,
        *,
        own_transactions: MutableSequence[int],
    ) -> None:
        """Take where the server's files are, and connections to it.

        ``own_transactions`` are numbers of those that changed nothing of a tenant's.
        """
        self._layout = environment.layout
        self._connector = connector
        self._own = own_transactions
        #: A position, and the number of the next transaction when none ran, just before it.
        self._still: tuple[int, int] | None = None

    @property
    def _log_dir(self) -> pathlib.Path:
        return self._layout.data_dir / "pg_wal"

    def start(self) -> Mapping[str, Any]:
        """Have the server keep its log from now on."""
        incarnation = ensure_incarnation(self._layout.data_dir, self._layout.engine_user)
        with self._connector.session() as session:
            slots.drop(session, slots.ARCHIVE)
            slots.create(session, slots.ARCHIVE)
            now = wal.moment(session)
        # files are read from their beginning: restoring needs whole ones
        first = now.lsn - now.lsn % now.segment_bytes
        return {
            "lsn": wal.show(first),
            "timeline": now.timeline,
            "segment_bytes": now.segment_bytes,
            "incarnation": incarnation,
            "as_of_s": now.time_s,
        }

    def read(self, position: Mapping[str, Any], *, most_bytes: int) -> base.Piece | None:
        """Return the log from a position on, up to where it is on the disk."""
        first = wal.parse(str(position["lsn"]))
        with self._connector.kept() as session:
            self._check(session, position)
            numbers = self._numbers(session)
            if self._is_idle(session, first, numbers):
                return None
            now = wal.moment(session, own=self._own)
        if now.timeline != position["timeline"]:
            raise base.LogLost(reason="the database goes on in another history (timeline)")
        if now.lsn < first:
            raise base.LogLost(reason="the database was put back in time")
        if now.lsn == first:
            return None
        end = min(now.lsn, first + most_bytes)
        is_still = numbers[0] == numbers[1]
        self._still = (end, numbers[1]) if end == now.lsn and is_still else None
        # what is in a part of the log alone is not known: nothing newer than before it
        as_of_s = now.time_s if end == now.lsn else float(position["as_of_s"])
        until = {**position, "lsn": wal.show(end), "as_of_s": as_of_s}
        facts = {
            "manager": "postgresql",
            "format": FORMAT,
            "kind": LOG_KIND,
            "incarnation": position["incarnation"],
            "timeline": now.timeline,
            "segment_bytes": now.segment_bytes,
            "from_lsn": wal.show(first),
            "to_lsn": wal.show(end),
            "is_whole": end == now.lsn,
            "as_of_s": as_of_s,
        }

        def check() -> None:
            with self._connector.kept() as later:
                self._check(later, position)

        stream = wal.Range(
            self._log_dir,
            first=first,
            end=end,
            timeline=now.timeline,
            segment_bytes=now.segment_bytes,
            facts=facts,
            check=check,
        )
        return base.Piece(until=until, as_of_s=as_of_s, stream=stream)

    @staticmethod
    def _numbers(session: connection.Session) -> tuple[int, int]:
        """Return the number of the oldest transaction that runs, and that of the next one."""
        ((oldest, following),) = session.execute(
            "SELECT pg_snapshot_xmin(s)::text, pg_snapshot_xmax(s)::text"
            " FROM pg_current_snapshot() AS s"
        )
        return int(oldest), int(following)

    def _is_idle(self, session: connection.Session, first: int, numbers: tuple[int, int]) -> bool:
        """Tell whether there is little log behind a position, and no transaction but the agent's.

        None ran when the log up to there was read, and all that began since are known; those that
        write the log without a number change nothing that a tenant sees.
        """
        if self._still is None or self._still[0] != first:
            return False
        if wal.flushed(session) - first > _IDLE_BYTES:
            return False
        return set(range(self._still[1], numbers[1])) <= set(self._own)

    def _check(self, session: connection.Session, position: Mapping[str, Any]) -> None:
        """Raise LogLost unless the server has all of its log from a position on."""
        if find_incarnation(self._layout.data_dir) != position["incarnation"]:
            raise base.LogLost(reason="the database was restored, or came from elsewhere")
        slot = slots.find(session, slots.ARCHIVE)
        if slot is None:
            raise base.LogLost(reason="the database no longer keeps its log for the archive")
        if slot.lsn is None:
            raise base.LogLost(
                reason="more of the log waited for the archive than the database keeps"
            )
        # it keeps whole files
        segment_bytes = int(position["segment_bytes"])
        if slot.lsn // segment_bytes > wal.parse(str(position["lsn"])) // segment_bytes:
            raise base.LogLost(reason="the database has removed log that was not archived")

    def pending_bytes(self, position: Mapping[str, Any]) -> int:
        """Return how much of the log on the disk is behind a position."""
        with self._connector.kept() as session:
            self._check(session, position)
            end = wal.flushed(session)
        return max(0, end - wal.parse(str(position["lsn"])))

    def release(self, position: Mapping[str, Any]) -> None:
        """Let the server remove its log up to a position."""
        with self._connector.session() as session:
            slots.advance(session, slots.ARCHIVE, wal.parse(str(position["lsn"])))

    def stop(self) -> None:
        """Drop the slot."""
        with self._connector.session() as session:
            slots.drop(session, slots.ARCHIVE)
