"""The archive of PostgreSQL's log: its bytes as they are written, straight from its files.

Nothing is switched and no command is run for it: a tick on an idle server is a question, and a
busy one's log leaves the volume long before a file of it is full. A slot has the server keep what
was not shipped yet, up to ``max_slot_wal_keep_size``; beyond it, and when the data were put back in
time or came from elsewhere, the log is lost and the archive begins anew.
"""

from __future__ import annotations

import pathlib
import secrets
from collections.abc import Mapping
from typing import Any

from trove.datastores import spec as datastore_spec
from trove.guestagent.datastores import base
from trove.guestagent.datastores.postgresql import connection, slots, wal
from trove.guestagent.system import filesystem, users

#: Kind of what is kept: bytes of the log.
LOG_KIND = "log"
FORMAT = 1


def find_incarnation(data_dir: pathlib.Path) -> str | None:
    """Return what tells these data from those of another history, None when nothing does yet."""
    try:
        return (data_dir / wal.INCARNATION).read_text(encoding="ascii").strip() or None
    except FileNotFoundError:
        return None


def set_incarnation(data_dir: pathlib.Path, owner: users.SystemUser) -> str:
    """Have these data be of a history of their own from now on; returns its name."""
    made = secrets.token_hex(16)
    filesystem.write_file(data_dir / wal.INCARNATION, made, mode=0o600, owner=owner)
    return made


def ensure_incarnation(data_dir: pathlib.Path, owner: users.SystemUser) -> str:
    """Return the name of the history of data."""
    return find_incarnation(data_dir) or set_incarnation(data_dir, owner)


class PostgresqlArchive(base.Archive):
    """The log of a running server."""

    capabilities = frozenset({datastore_spec.Capability.POINT_IN_TIME})

    def __init__(self, environment: base.Environment, connector: connection.Connector) -> None:
        """Take where the server's files are, and connections to it."""
        self._layout = environment.layout
        self._connector = connector

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
            now = wal.moment(session)
        if now.timeline != position["timeline"]:
            raise base.LogLost(reason="the database goes on in another history (timeline)")
        if now.lsn < first:
            raise base.LogLost(reason="the database was put back in time")
        if now.lsn == first:
            return None
        end = min(now.lsn, first + most_bytes)
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
