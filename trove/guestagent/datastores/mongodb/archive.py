"""The oplog, shipped off the volume while it grows.

A position is the entry that was read last, by its time and term: as long as the oplog has exactly
it, nothing is missing behind it. A server that has nothing to do writes an entry of no content
every ten seconds; they are read and left where they are, but for one piece in some hours, so that
the position does not fall out of the oplog of a database that is hardly used.

MongoDB overwrites its oplog where it is full, whoever has yet to read it. While there is an archive
the server is told to keep the last hour whatever its size.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from typing import Any

from trove.common import exception
from trove.guestagent.datastores import base
from trove.guestagent.datastores.mongodb import connection, oplog, retention

#: Two entries whose times are in order may have clocks that are not, by less than this.
_DISORDER_S = 1.0
#: From when on entries without content are kept too.
_IDLE_S = 6 * 3600.0


class PieceStream(base.Stream):
    """Entries of the oplog, read already."""

    def __init__(self, data: bytes, facts: dict[str, Any]) -> None:
        """Take whole entries and what they are."""
        self._data = memoryview(data)
        self._place = 0
        self._facts = facts

    def read(self, most: int) -> bytes:
        """Return some of the entries' bytes."""
        part = bytes(self._data[self._place : self._place + most])
        self._place += len(part)
        return part

    def finish(self) -> dict[str, Any]:
        """Return which entries they are."""
        if self._place != len(self._data):
            raise exception.GuestError(reason="the piece of the oplog was not read to its end")
        return self._facts

    def close(self) -> None:
        """Forget the entries."""
        self._data = memoryview(b"")
        self._place = 0


@dataclasses.dataclass(frozen=True, slots=True)
class _Seen:
    """Behind a position there is nothing of content up to an entry of the same run."""

    position: oplog.OpTime
    last: oplog.OpTime
    term: int


@dataclasses.dataclass(frozen=True, slots=True)
class _Mark:
    """What the server had written to its oplog since its start when it was at a position."""

    position: oplog.OpTime
    run: str
    written_bytes: int


class MongodbArchive(base.Archive):
    """The oplog of one server."""

    def __init__(self, connector: connection.Connector, retained: retention.Retention) -> None:
        """Take what connects to the server, and what has it keep its oplog."""
        self._connector = connector
        self._retention = retained
        self._seen: _Seen | None = None
        self._mark: _Mark | None = None

    def start(self) -> Mapping[str, Any]:
        """Return the newest entry; the server keeps the last hour of them from now on."""
        with self._connector.session() as client:
            self._retention.keep_for_archive(client)
            head = oplog.newest(client)
        self._seen = self._mark = None
        return position_of(head.time, head.term)

    def read(self, position: Mapping[str, Any], *, most_bytes: int) -> base.Piece | None:
        """Return what was written since; None when it has no content."""
        after, term = parse(position)
        began_s = time.time()
        with self._connector.session() as client:
            head = oplog.newest(client)
            self._retention.keep_for_archive(client, run=head.run)
            _check_head(head, after)
            seen = self._seen
            # what is known to have no content is not read again
            known = seen is not None and seen.position == after and seen.last <= head.time
            start, start_term = (seen.last, seen.term) if seen and known else (after, term)
            data = self._read(client, start, head, term=start_term, most_bytes=most_bytes)
            if _is_idle(data, after, head):
                if data:
                    last = oplog.read_entry(_last(data))
                    self._seen = _Seen(after, last.time, last.term)
                return None
            if start != after:
                data = self._read(client, after, head, term=term, most_bytes=most_bytes)
        self._seen = None
        last = oplog.read_entry(_last(data))
        is_all = last.time == head.time
        facts = {
            "engine": "mongodb",
            "from": str(after),
            "until": str(last.time),
            "until_s": last.wall_s,
            "entries": sum(1 for _ in oplog.split(data)),
        }
        return base.Piece(
            until=position_of(last.time, last.term),
            # clocks of entries that were written at once are not quite in order
            as_of_s=began_s if is_all else min(last.wall_s - _DISORDER_S, began_s),
            stream=PieceStream(data, facts),
        )

    def _read(
        self,
        client: connection.Client,
        start: oplog.OpTime,
        head: oplog.Head,
        *,
        term: int,
        most_bytes: int,
    ) -> bytes:
        if start == head.time and term == head.term:
            return b""
        return oplog.read_range(client, start, head.time, most_bytes=most_bytes, term=term)

    def pending_bytes(self, position: Mapping[str, Any]) -> int:
        """Return how much there is behind a position.

        Counted once, then known by what the server counts itself.
        """
        after, term = parse(position)
        with self._connector.session() as client:
            head = oplog.newest(client)
            _check_head(head, after)
            seen = self._seen
            known = seen is not None and seen.position == after and seen.last == head.time
            if known or (head.time == after and head.term == term):
                return 0
            statistics = client.local.command("collStats", "oplog.rs")
            cursor = statistics["wiredTiger"]["cursor"]
            written = int(cursor["insert key and value bytes"])
            mark = self._mark
            if mark is None or (mark.position, mark.run) != (after, head.run):
                mark = _Mark(after, head.run, written - _count(client, after))
                self._mark = mark
            return max(1, written - mark.written_bytes)

    def release(self, position: Mapping[str, Any]) -> None:
        """Do nothing: MongoDB overwrites its oplog by itself."""

    def stop(self) -> None:
        """Let the server overwrite its oplog as it is configured to."""
        self._seen = self._mark = None
        with self._connector.session() as client:
            self._retention.end_archive(client)


def position_of(when: oplog.OpTime, term: int) -> dict[str, Any]:
    """Return a position."""
    return {"time": str(when), "term": term}


def parse(position: Mapping[str, Any]) -> tuple[oplog.OpTime, int]:
    """Return time and term of a position; raises GuestError."""
    try:
        return oplog.OpTime.parse(position["time"]), int(position["term"])
    except (KeyError, TypeError, ValueError):
        raise exception.GuestError(reason="the position in the oplog makes no sense") from None


def _check_head(head: oplog.Head, after: oplog.OpTime) -> None:
    if head.time < after:
        raise base.LogLost(
            reason=f"the oplog ends at {head.time}, before {after}: the database is an older one"
        )


def _is_idle(data: bytes, after: oplog.OpTime, head: oplog.Head) -> bool:
    """Tell whether entries have no content, and are not so many that they are kept all the same."""
    if not data:
        return head.time.seconds - after.seconds < _IDLE_S
    return head.time.seconds - after.seconds < _IDLE_S and all(
        oplog.read_entry(entry).is_noop for entry in oplog.split(data)
    )


def _last(data: bytes) -> bytes:
    for entry in oplog.split(data):
        found = entry
    return found


def _count(client: connection.Client, after: oplog.OpTime) -> int:
    """Return the size of all entries behind one; raises LogLost."""
    stages: list[dict[str, Any]] = [
        {"$match": {"ts": {"$gte": after.timestamp}}},
        {
            "$group": {
                "_id": None,
                "first": {"$first": "$ts"},
                "size": {"$sum": {"$bsonSize": "$$ROOT"}},
            }
        },
    ]
    with client.local["oplog.rs"].aggregate(stages) as found:
        for each in found:
            if oplog.OpTime.of(each["first"]) == after:
                return int(each["size"])
    raise base.LogLost(reason=oplog.overwritten(after))
