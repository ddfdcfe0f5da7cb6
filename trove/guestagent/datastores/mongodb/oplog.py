"""The oplog: what MongoDB changed, entry by entry, each with a time of its own.

Such a time ("optime") is seconds since 1970 and a number within the second, here written ``T:I``.
It only grows, and no two entries of a set share one. Entries go about as bytes (BSON): only their
lengths are read, and a few fields where they matter.

What is read is committed: on the disk of this, the only, member of the set. It cannot be taken back
by a crash.
"""

from __future__ import annotations

import dataclasses
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Self

import bson
from bson import raw_bson
from pymongo import errors

from trove.common import exception
from trove.guestagent.datastores import base
from trove.guestagent.datastores.mongodb import connection

_LENGTH = struct.Struct("<i")
#: Largest entry that a server makes: a document and some more.
_MOST_ENTRY_BYTES = 17 * 1024 * 1024
#: Of small entries this is half a MiB, of large ones the server gives fewer.
_BATCH_ENTRIES = 2000
_COMMIT_TIMEOUT_S = 20.0
_LOOK_S = 0.02


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class OpTime:
    """When something was changed; comparable."""

    seconds: int
    number: int

    def __str__(self) -> str:
        """Return it as positions are written."""
        return f"{self.seconds}:{self.number}"

    @classmethod
    def parse(cls, text: Any) -> Self:
        """Return what :meth:`__str__` made; raises GuestError."""
        seconds, _, number = str(text).partition(":")
        if not (seconds.isdecimal() and number.isdecimal()) or len(str(text)) > 21:
            raise exception.GuestError(
                reason=f"{str(text)[:50]!r} is no time of an oplog, such as 1700000000:1"
            )
        return cls(int(seconds), int(number))

    @classmethod
    def of(cls, timestamp: bson.Timestamp) -> Self:
        """Return a time as the driver has it."""
        return cls(timestamp.time, timestamp.inc)

    @property
    def timestamp(self) -> bson.Timestamp:
        """The time as the driver has it."""
        return bson.Timestamp(self.seconds, self.number)


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """An entry, as far as it matters here; ``wall_s`` is the server's clock."""

    time: OpTime
    term: int
    wall_s: float
    is_noop: bool
    document: raw_bson.RawBSONDocument


def read_entry(data: bytes) -> Entry:
    """Return an entry from its bytes; raises GuestError."""
    try:
        document = raw_bson.RawBSONDocument(data)
        wall = document["wall"]
        return Entry(
            time=OpTime.of(document["ts"]),
            term=int(document.get("t", -1)),
            wall_s=wall.timestamp() if wall.tzinfo is not None else _utc_s(wall),
            is_noop=document["op"] == "n",
            document=document,
        )
    except (bson.errors.BSONError, KeyError, TypeError, AttributeError) as e:
        raise exception.GuestError(
            reason=f"the oplog has an entry that makes no sense ({type(e).__name__})"
        ) from None


def _utc_s(naive: Any) -> float:
    return float((naive - bson.EPOCH_NAIVE).total_seconds())


def split(data: bytes) -> Iterator[bytes]:
    """Return the entries in a row of whole ones; raises GuestError."""
    place = 0
    while place < len(data):
        end = place + length_at(data, place)
        if end > len(data):
            raise exception.GuestError(reason="an entry of the oplog is cut off")
        yield data[place:end]
        place = end


def length_at(data: bytes | bytearray, place: int) -> int:
    """Return the length of the document that begins at a place; raises GuestError."""
    if len(data) - place < _LENGTH.size:
        raise exception.GuestError(reason="an entry of the oplog is cut off")
    (length,) = _LENGTH.unpack_from(data, place)
    if not 5 <= length <= _MOST_ENTRY_BYTES:
        raise exception.GuestError(reason="an entry of the oplog has a length that makes no sense")
    return int(length)


def documents(read: Callable[[int], bytes]) -> Iterator[bytes]:
    """Return the entries of something that is read in parts; raises GuestError."""
    pending = bytearray()
    while part := read(1024 * 1024):
        pending += part
        place = 0
        while len(pending) - place >= _LENGTH.size:
            length = length_at(pending, place)
            if len(pending) - place < length:
                break
            yield bytes(pending[place : place + length])
            place += length
        del pending[:place]
    if pending:
        raise exception.GuestError(reason="an entry of the oplog is cut off")


@dataclasses.dataclass(frozen=True, slots=True)
class Head:
    """The newest entry, and which run of the server wrote it."""

    time: OpTime
    term: int
    run: str


def newest(client: connection.Client) -> Head:
    """Return the newest entry once it is on the disk; raises GuestError."""
    deadline = time.monotonic() + _COMMIT_TIMEOUT_S
    pause = threading.Event()
    wanted: Head | None = None
    while True:
        hello = client.admin.command("hello")
        last = hello.get("lastWrite") or {}
        try:
            if wanted is None:
                wanted = Head(
                    OpTime.of(last["opTime"]["ts"]),
                    int(last["opTime"]["t"]),
                    str(hello["topologyVersion"]["processId"]),
                )
            committed = OpTime.of(last["majorityOpTime"]["ts"])
        except KeyError:
            raise base.NotReady(reason="its replica set has not begun yet") from None
        if committed >= wanted.time:
            return wanted
        if time.monotonic() > deadline:
            raise exception.GuestError(
                reason="the database does not bring its log to the disk: see whether the disk is"
                " full or slow"
            )
        pause.wait(_LOOK_S)


def read_range(
    client: connection.Client, after: OpTime, until: OpTime, *, most_bytes: int, term: int | None
) -> bytes:
    """Return the entries behind one, up to another; about ``most_bytes``, at least one entry.

    Raises LogLost unless the one that they are behind is there.
    """
    collection = client.local["oplog.rs"]
    found = bytearray()
    is_first = True
    try:
        window = {"ts": {"$gte": after.timestamp, "$lte": until.timestamp}}
        with collection.find_raw_batches(window, batch_size=_BATCH_ENTRIES) as batches:
            batch: Any
            for batch in batches:
                start = 0
                if is_first:
                    is_first = False
                    start = length_at(batch, 0)
                    _check_first(read_entry(bytes(batch[:start])), after, term)
                found += memoryview(batch)[start:]
                if len(found) >= most_bytes:
                    break
    except errors.OperationFailure as e:
        if e.code == connection.CAPPED_POSITION_LOST:
            raise base.LogLost(reason=overwritten(after)) from None
        raise
    if is_first:
        raise base.LogLost(reason=overwritten(after))
    return bytes(found)


def entry_at(client: connection.Client, when: OpTime) -> Entry:
    """Return the entry of a time; raises LogLost."""
    with client.local["oplog.rs"].find_raw_batches({"ts": when.timestamp}, limit=1) as batches:
        batch: Any
        for batch in batches:
            return read_entry(bytes(batch))
    raise base.LogLost(reason=overwritten(when))


def _check_first(first: Entry, after: OpTime, term: int | None) -> None:
    if first.time != after:
        raise base.LogLost(reason=overwritten(after))
    if term is not None and first.term != term:
        raise base.LogLost(reason=f"the entry at {after} is of another history of the database")


def overwritten(after: OpTime) -> str:
    """Return why there is no entry of this time."""
    return (
        f"the oplog has no entry at {after}: it was overwritten, as the oplog is too small for what"
        " is written, or the database is another one"
    )
