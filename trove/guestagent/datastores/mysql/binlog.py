"""The binary log, as far as it must be understood to be cut between two transactions.

A file begins with a format description. What follows is events, those of one transaction together:
the first names its global transaction id, in MariaDB (numbers of a domain, of a server and of the
transaction: https://mariadb.com/kb/en/replication-protocol/) and in MySQL, where it may be of none
(a UUID and a number: https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_replication_binlog_event.html).
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
import struct
import uuid
from collections.abc import Iterator
from typing import Any, BinaryIO

from trove.common import exception

BASE_NAME = "mysql-bin"
_MAGIC = b"\xfebin"
_HEADER = struct.Struct("<IBIIIH")
_GTID_BODY = struct.Struct("<QIB")
#: Flags, UUID, number.
_ORACLE_GTID_BODY = struct.Struct("<B16sQ")
_QUERY_BODY = struct.Struct("<IIBHH")
_QUERY, _STOP, _ROTATE, _FORMAT, _XID, _XA_PREPARE = 2, 3, 4, 15, 16, 38
_CHECKPOINT, _GTID, _GTID_LIST, _ENCRYPTION, _QUERY_COMPRESSED = 161, 162, 163, 164, 165
#: Of MySQL alone. A tagged id is one of more parts, which are not looked into.
_ORACLE_GTID, _ANONYMOUS, _PREVIOUS_GTIDS, _PAYLOAD, _TAGGED = 33, 34, 35, 40, 42
_BETWEEN = frozenset({_STOP, _ROTATE, _FORMAT, _CHECKPOINT, _GTID_LIST, _PREVIOUS_GTIDS})
_FIRST = frozenset({_GTID, _ORACLE_GTID, _ANONYMOUS, _TAGGED})
#: What MySQL's log has that is not replayed: of statements that read files or variables, which a
#: session must ask for, and the word that something is missing.
_REFUSED = frozenset({6, 8, 9, 10, 11, 12, 14, 17, 18, 26})
#: How the statements begin that end a transaction.
_ENDS = (b"COMMIT", b"ROLLBACK", b"XA COMMIT", b"XA ROLLBACK", b"XA PREPARE")
#: Flags of the format description and of a transaction.
_IN_USE = 1
_STANDALONE = 1
_CHUNK_BYTES = 256 * 1024
_MOST_HEAD_BYTES = 16 * 1024 * 1024
_NUMBERED = re.compile(rf"{BASE_NAME}\.(\d+)\Z")
_GTID_TEXT = re.compile(r"(\d+)-(\d+)-(\d+)\Z")
_UUID = r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})"
_ORACLE_GTID_TEXT = re.compile(rf"{_UUID}:(\d+)\Z", re.IGNORECASE)
#: Numbers of a server's transactions: the last one counts.
_ORACLE_GTIDS_TEXT = re.compile(rf"{_UUID}(?::[\d:-]*?)??[:-](\d+)\Z", re.IGNORECASE)


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class Gtid:
    """A global transaction id: numbers grow within a domain.

    A domain is a number in MariaDB, the UUID of a server in MySQL, where nothing else says which
    server it was; the one of a transaction without an id is empty.
    """

    domain: int | str
    server: int
    sequence: int

    def __str__(self) -> str:
        """Return it as the server writes it."""
        if isinstance(self.domain, str):
            return f"{self.domain}:{self.sequence}"
        return f"{self.domain}-{self.server}-{self.sequence}"


def parse_gtid(text: str) -> Gtid:
    """Return the id that a text means; raises GuestError."""
    text = text.strip()
    match = _GTID_TEXT.match(text)
    if match is not None:
        return Gtid(*map(int, match.groups()))
    return _oracle_gtid(_ORACLE_GTID_TEXT.match(text), text)


def _oracle_gtid(match: re.Match[str] | None, text: str) -> Gtid:
    if match is None:
        raise exception.GuestError(
            reason=f"{text[:80]!r} is no position in the log: one looks like 0-1-4711 in MariaDB,"
            " and in MySQL like 3e11fa47-71ca-11e1-9e33-c80aa9429562:4711"
        )
    return Gtid(match[1].lower(), 0, int(match[2]))


def parse_gtids(text: str) -> dict[int | str, Gtid]:
    """Return the last id of each domain, of a list with commas; raises GuestError."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    found = [
        parse_gtid(part)
        if _GTID_TEXT.match(part)
        else _oracle_gtid(_ORACLE_GTIDS_TEXT.match(part), part)
        for part in parts
    ]
    return {gtid.domain: gtid for gtid in found}


def number_of(name: str) -> int:
    """Return the number of a file of the log; raises GuestError."""
    match = _NUMBERED.match(name)
    if match is None:
        raise exception.GuestError(reason=f"{name[:80]!r} is no file of the binary log")
    return int(match[1])


def name_of(number: int) -> str:
    """Return the name of the file with a number."""
    return f"{BASE_NAME}.{number:06d}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """How a file begins. ``data`` is what a file of some of its events must begin with.

    ``digest`` tells it from another file of the same name: of when it was begun, and after what.
    """

    data: bytes
    digest: str

    @property
    def end(self) -> int:
        """Return where the first event after the format description is."""
        return len(self.data)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A transaction, or a statement that is one: where it is, and what its events say.

    ``time_s`` is when its statement began, or what the session said was the time. One that
    ``is_refused`` has what is not replayed.
    """

    gtid: Gtid
    start: int
    end: int
    time_s: int
    is_refused: bool = False


@dataclasses.dataclass(slots=True, kw_only=True)
class _Event:
    kind: int
    time_s: int
    server: int
    start: int
    end: int
    flags: int


class Damaged(exception.GuestError):
    """The file does not go on as such a file does."""


def read_head(stream: BinaryIO) -> Head:
    """Return how a file begins; raises Damaged."""
    stream.seek(0)
    if stream.read(len(_MAGIC)) != _MAGIC:
        raise Damaged(reason="the file is no binary log")
    description = _read_event(stream, len(_MAGIC), kind=_FORMAT)
    data = bytearray(_MAGIC + description)
    # set while the server writes to the file
    data[len(_MAGIC) + 17] &= ~_IN_USE & 0xFF
    digest = hashlib.sha256(data)
    stream.seek(len(data))
    follows = stream.read(_HEADER.size)
    if len(follows) == _HEADER.size and follows[4] == _ENCRYPTION:
        raise Damaged(reason="the binary log is encrypted")
    if len(follows) == _HEADER.size and follows[4] in (_GTID_LIST, _PREVIOUS_GTIDS):
        digest.update(_read_event(stream, len(data), kind=follows[4]))
    return Head(data=bytes(data), digest=digest.hexdigest()[:32])


def _read_event(stream: BinaryIO, start: int, *, kind: int) -> bytes:
    stream.seek(start)
    header = stream.read(_HEADER.size)
    if len(header) < _HEADER.size or header[4] != kind:
        raise Damaged(reason="the binary log does not begin as one")
    size = _HEADER.unpack(header)[3]
    if not _HEADER.size <= size <= _MOST_HEAD_BYTES:
        raise Damaged(reason="the binary log does not begin as one")
    rest = stream.read(size - _HEADER.size)
    if len(rest) != size - _HEADER.size:
        raise Damaged(reason="the binary log ends in its beginning")
    return header + rest


class Scanner:
    """Goes through the transactions of some of a file."""

    def __init__(self, stream: BinaryIO, *, origin: int = 0) -> None:
        """Take a file; ``origin`` is the position of its first byte in the server's file."""
        self._stream = stream
        self._origin = origin
        self._buffer = b""
        self._buffered_from = 0
        #: Where the last whole transaction, or event between two, ended.
        self.end = 0
        #: Whether the file was ended by the server.
        self.is_closed = False

    def groups(self, start: int, end: int) -> Iterator[Group]:
        """Yield the transactions from a position on to another one, the last one if it is whole.

        Raises Damaged.
        """
        self.end = start
        first: _Event | None = None
        last: _Event | None = None
        #: The first statement of MySQL's transaction, which says whether it is one of several.
        statement: _Event | None = None
        gtid = Gtid(0, 0, 0)
        is_standalone = is_refused = False
        for event in self._events(start, end):
            if event.kind in _FIRST or event.kind in _BETWEEN:
                if first is not None and last is not None:
                    yield self._group(gtid, first, last, is_refused)
                first = statement = None
                is_refused = False
            if event.kind in _FIRST:
                first = event
                gtid, is_standalone = self._read_gtid(event)
            elif event.kind in _BETWEEN:
                self.end = event.end
                self.is_closed = event.kind in (_STOP, _ROTATE)
            elif first is None and event.kind in (_QUERY, _XID):
                raise Damaged(reason="the binary log has transactions without ids")
            elif first is not None and first.kind != _GTID:
                if statement is None and event.kind == _QUERY:
                    statement = event
                is_refused = is_refused or event.kind in _REFUSED
            last = event
        if statement is not None:
            is_standalone = not self._text(statement).startswith((b"BEGIN", b"XA START"))
        if first is not None and last is not None and self._is_whole(last, is_standalone):
            yield self._group(gtid, first, last, is_refused)

    def _read_gtid(self, event: _Event) -> tuple[Gtid, bool]:
        """Return the id that an event names, and whether one statement is all, where it says so."""
        body = event.start + _HEADER.size
        if event.kind == _GTID:
            sequence, domain, flags = self._unpack(_GTID_BODY, body)
            return Gtid(domain, event.server, sequence), bool(flags & _STANDALONE)
        if event.kind == _ORACLE_GTID:
            _, server, sequence = self._unpack(_ORACLE_GTID_BODY, body)
            return Gtid(str(uuid.UUID(bytes=server)), 0, sequence), False
        return Gtid("", 0, 0), False

    def _group(self, gtid: Gtid, first: _Event, last: _Event, is_refused: bool) -> Group:
        self.end = last.end
        return Group(
            gtid=gtid,
            start=first.start,
            end=last.end,
            time_s=first.time_s,
            is_refused=is_refused,
        )

    def _is_whole(self, last: _Event, is_standalone: bool) -> bool:
        """Tell whether a transaction ends with an event, which nothing follows."""
        if last.kind in (_XID, _XA_PREPARE, _PAYLOAD):
            return True
        if last.kind not in (_QUERY, _QUERY_COMPRESSED):
            return False
        if is_standalone or last.kind == _QUERY_COMPRESSED:
            return is_standalone
        return self._text(last).startswith(_ENDS)

    def _text(self, event: _Event) -> bytes:
        """Return how a statement begins, in capitals."""
        body = event.start + _HEADER.size
        _, _, database_bytes, _, status_bytes = self._unpack(_QUERY_BODY, body)
        text = body + _QUERY_BODY.size + status_bytes + database_bytes + 1
        return self._bytes(text, min(16, event.end - text)).upper()

    def _events(self, start: int, end: int) -> Iterator[_Event]:
        """Yield the events; ends before one that is cut off by the end."""
        position = start
        while position + _HEADER.size <= end:
            time_s, kind, server, size, following, flags = self._unpack(_HEADER, position)
            if size < _HEADER.size or following != (position + size) & 0xFFFFFFFF:
                raise Damaged(reason=f"the binary log is damaged at position {position}")
            if position + size > end:
                return
            yield _Event(
                kind=kind,
                time_s=time_s,
                server=server,
                start=position,
                end=position + size,
                flags=flags,
            )
            position += size

    def _unpack(self, form: struct.Struct, position: int) -> tuple[Any, ...]:
        offset = position - self._buffered_from
        if offset < 0 or offset + form.size > len(self._buffer):
            self._fill(position, form.size)
            offset = 0
        return form.unpack_from(self._buffer, offset)

    def _bytes(self, position: int, count: int) -> bytes:
        self._fill(position, count)
        return self._buffer[:count]

    def _fill(self, position: int, count: int) -> None:
        self._stream.seek(position - self._origin)
        self._buffer = self._stream.read(_CHUNK_BYTES)
        self._buffered_from = position
        if len(self._buffer) < count:
            raise Damaged(reason=f"the binary log ends at position {position}")
