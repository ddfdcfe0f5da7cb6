"""Events of MySQL's binary log, said to a server as statements.

Rows are said as they are (``BINLOG``), statements with the settings of the session that they were
logged with. So the log of a version is said to a server of that version or a later one, whatever
programs there are. What the events hold is described in
https://dev.mysql.com/doc/dev/mysql-server/latest/namespacemysql_1_1binlog_1_1event.html.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import io
import pathlib
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO, Self

import zstandard

from trove.common import exception
from trove.guestagent.datastores.mysql import binlog, connection, definitions, replay

_HEADER = struct.Struct("<IBIIIH")
_QUERY_BODY = struct.Struct("<IIBHH")
_QUERY, _INTVAR, _FORMAT, _RAND, _XID, _TABLE_MAP = 2, 5, 15, 13, 16, 19
_XA_PREPARE, _PAYLOAD = 38, 40
#: Writes, updates and deletes, in their three forms.
_ROWS = frozenset({23, 24, 25, 30, 31, 32, 39})
#: Stop, rotation, what may be ignored, the text of statements, ids.
_SILENT = frozenset({3, 4, 28, 29, 33, 34, 35, 36, 37, 42})
#: Flags of an event and of rows.
_NO_USE = 8
_LAST_ROWS = 1
_CHECKSUM_BYTES = 4
_CRC32 = 1
#: Flags of a session, as a statement has them.
_AUTO_IS_NULL, _NO_FOREIGN_KEYS, _RELAXED_UNIQUE = 1 << 14, 1 << 26, 1 << 27
#: Statements that no database and no settings matter to.
_BRACKETS = frozenset({b"BEGIN", b"COMMIT", b"ROLLBACK"})
_INTVARS = {1: "LAST_INSERT_ID", 2: "INSERT_ID"}
#: More databases than a statement lists.
_TOO_MANY = 254
_MOST_PAYLOAD_BYTES = 1 << 30
#: Longest that one statement may take.
_STATEMENT_TIMEOUT_S = 86400


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Event:
    """An event; ``data`` is all of it, ``body`` what is behind its header."""

    time_s: int
    kind: int
    flags: int
    data: bytes
    body: bytes


class Speaker:
    """Says the events of files to a server, in one session.

    Raises ServerError for what the server refuses, GuestError for what cannot be said.
    """

    def __init__(self, session: connection.Bulk) -> None:
        """Take a session that nobody else uses."""
        self._session = session
        self._settings: dict[bytes, bytes] = {}
        #: Maps and rows of a statement that has more.
        self._rows: list[bytes] = []

    def say(self, stream: BinaryIO) -> None:
        """Say all events of a file that begins as a file of the log does."""
        head = binlog.read_head(stream)
        description = head.data[4:]
        self._session.say(_binlog([description]))
        algorithm = description[-_CHECKSUM_BYTES - 1]
        if algorithm > _CRC32:
            raise exception.GuestError(reason="the binary log has checksums of an unknown kind")
        stream.seek(head.end)
        for event in _events(stream, has_checksums=algorithm == _CRC32):
            self._say(event)
        if self._rows:
            raise exception.GuestError(reason="the binary log ends within a statement")

    def _say(self, event: _Event) -> None:
        if event.kind in _SILENT or event.kind == _FORMAT:
            return
        if event.kind == _TABLE_MAP:
            self._rows.append(event.data)
        elif event.kind in _ROWS:
            self._rows.append(event.data)
            # behind the number of the table, of 6 bytes
            if struct.unpack_from("<H", event.body, 6)[0] & _LAST_ROWS:
                rows, self._rows = self._rows, []
                self._session.say(_binlog(rows))
        elif event.kind == _QUERY:
            self._query(event)
        elif event.kind == _XID:
            self._session.say(b"COMMIT")
        elif event.kind == _INTVAR:
            kind, value = struct.unpack_from("<BQ", event.body)
            self._session.say(f"SET SESSION {_INTVARS[kind]} = {value}".encode())
        elif event.kind == _RAND:
            seeds = struct.unpack_from("<QQ", event.body)
            self._session.say(b"SET SESSION RAND_SEED1 = %d, RAND_SEED2 = %d" % seeds)
        elif event.kind == _XA_PREPARE:
            self._session.say(_prepare(event.body))
        elif event.kind == _PAYLOAD:
            for inner in _events(io.BytesIO(_payload(event.body)), has_checksums=False):
                self._say(inner)
        else:
            raise exception.GuestError(
                reason=f"the binary log has an event of a kind that is not replayed ({event.kind})"
            )

    def _query(self, event: _Event) -> None:
        """Say a statement."""
        thread, _, database_bytes, error, status_bytes = _QUERY_BODY.unpack_from(event.body)
        begin = _QUERY_BODY.size
        status = event.body[begin : begin + status_bytes]
        begin += status_bytes
        database = event.body[begin : begin + database_bytes]
        text = event.body[begin + database_bytes + 1 :]
        if text.upper() not in _BRACKETS:
            settings, micros = _settings_of(status)
            settings[b"pseudo_thread_id"] = b"%d" % thread
            self._set(settings)
            self._session.say(b"SET SESSION timestamp = %d.%06d" % (event.time_s, micros))
            if database and not event.flags & _NO_USE:
                self._session.say(b"USE `" + database.replace(b"`", b"``") + b"`")
        try:
            self._session.say(text)
        except connection.ServerError as e:
            # it went wrong then as well, and did a part
            if not error or e.args[0] != error:
                raise

    def _set(self, settings: dict[bytes, bytes]) -> None:
        """Have the session as a statement's was."""
        changed = {
            name: value for name, value in settings.items() if self._settings.get(name) != value
        }
        if changed:
            pairs = b", ".join(name + b" = " + value for name, value in changed.items())
            self._session.say(b"SET SESSION " + pairs)
            self._settings |= changed


class EventVoice(replay.Voice):
    """The agent itself says what the log has."""

    def __init__(self, connector: connection.Connector) -> None:
        """Take what connects to the server."""
        self._connector = connector
        self._session: connection.Bulk | None = None
        self._speaker: Speaker | None = None

    def __enter__(self) -> Self:
        """Connect."""
        with _explained():
            self._session = self._connector.bulk(timeout_s=_STATEMENT_TIMEOUT_S)
        self._speaker = Speaker(self._session)
        return self

    def __exit__(self, *exc: object) -> None:
        """Disconnect."""
        if self._session is not None:
            self._session.close()

    def say(self, path: pathlib.Path) -> None:
        """Say all transactions of a file."""
        assert self._speaker is not None  # noqa: S101 (for the type checker)
        with _explained(), open(path, "rb") as stream:
            self._speaker.say(stream)

    def finish(self) -> None:
        """Nothing is left: each statement was answered before the next one."""


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except connection.ServerError as e:
        number = str(e.args[0]) if e.args else "0"
        text = str(e.args[1]) if len(e.args) > 1 else type(e).__name__
        raise exception.GuestError(reason=replay.refusal(number, "-", text)) from None


def _events(stream: BinaryIO, *, has_checksums: bool) -> Iterator[_Event]:
    """Yield the events of a file from where it is on; raises GuestError for a damaged one."""
    tail = _CHECKSUM_BYTES if has_checksums else 0
    while header := stream.read(_HEADER.size):
        if len(header) < _HEADER.size:
            raise exception.GuestError(reason="the binary log ends within an event")
        time_s, kind, _, size, _, flags = _HEADER.unpack(header)
        rest = stream.read(max(size - _HEADER.size, 0))
        if len(rest) != size - _HEADER.size or len(rest) < tail:
            raise exception.GuestError(reason="the binary log ends within an event")
        data = header + rest
        if tail and zlib.crc32(data[:-tail]) != int.from_bytes(data[-tail:], "little"):
            raise exception.GuestError(reason="the binary log is damaged: a checksum is wrong")
        yield _Event(
            time_s=time_s,
            kind=kind,
            flags=flags,
            data=data,
            body=rest[: len(rest) - tail],
        )


def _binlog(events: list[bytes]) -> bytes:
    return b"BINLOG '\n" + b"\n".join(base64.b64encode(event) for event in events) + b"\n'"


def _prepare(body: bytes) -> bytes:
    """Return the statement that prepares a distributed transaction."""
    one_phase, form, first, second = struct.unpack_from("<Biii", body)
    names = body[13 : 13 + first + second]
    xid = b"X'%b',X'%b',%d" % (names[:first].hex().encode(), names[first:].hex().encode(), form)
    return b"XA COMMIT " + xid + b" ONE PHASE" if one_phase else b"XA PREPARE " + xid


def _payload(body: bytes) -> bytes:
    """Return the events of a transaction that was compressed."""
    position = 0
    algorithm = 0
    while True:
        field, position = _length(body, position)
        if field == 0:
            break
        size, position = _length(body, position)
        if field == 2:
            algorithm, _ = _length(body, position)
        position += size
    data = body[position:]
    if algorithm == 255:
        return data
    try:
        with zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data)) as reader:
            events = reader.read(_MOST_PAYLOAD_BYTES)
    except zstandard.ZstdError:
        raise exception.GuestError(reason="a compressed transaction is damaged") from None
    return bytes(events)


def _length(data: bytes, position: int) -> tuple[int, int]:
    """Return a number of one to nine bytes, and where it ends."""
    first = data[position]
    if first < 251:
        return first, position + 1
    size = {252: 2, 253: 3, 254: 8}[first]
    end = position + 1 + size
    return int.from_bytes(data[position + 1 : end], "little"), end


def _settings_of(status: bytes) -> tuple[dict[bytes, bytes], int]:
    """Return the variables that a statement was logged with, and the microseconds of its time."""
    found: dict[bytes, bytes] = {b"collation_database": b"DEFAULT", b"lc_time_names": b"0"}
    micros = 0
    position = 0

    def number(size: int) -> int:
        nonlocal position
        value = int.from_bytes(status[position : position + size], "little")
        position += size
        return value

    def text() -> bytes:
        nonlocal position
        size = number(1)
        value = status[position : position + size]
        position += size
        return value

    def databases() -> None:
        nonlocal position
        count = number(1)
        for _ in range(0 if count == _TOO_MANY else count):
            position = status.index(b"\0", position) + 1

    skipped: dict[int, Callable[[], object]] = {
        2: lambda: (text(), number(1)),
        6: text,
        9: lambda: number(8),
        10: lambda: number(4),
        11: lambda: (text(), text()),
        12: databases,
        17: lambda: number(8),
    }
    single = {
        7: (b"lc_time_names", 2),
        8: (b"collation_database", 2),
        16: (b"explicit_defaults_for_timestamp", 1),
        18: (b"default_collation_for_utf8mb4", 2),
        19: (b"sql_require_primary_key", 1),
        20: (b"default_table_encryption", 1),
        1: (b"sql_mode", 8),
    }
    while position < len(status):
        code = number(1)
        if code in single:
            name, size = single[code]
            found[name] = b"%d" % number(size)
        elif code == 0:
            flags = number(4)
            found[b"foreign_key_checks"] = b"%d" % (not flags & _NO_FOREIGN_KEYS)
            found[b"unique_checks"] = b"%d" % (not flags & _RELAXED_UNIQUE)
            found[b"sql_auto_is_null"] = b"%d" % bool(flags & _AUTO_IS_NULL)
        elif code == 3:
            found[b"auto_increment_increment"] = b"%d" % number(2)
            found[b"auto_increment_offset"] = b"%d" % number(2)
        elif code == 4:
            for name in (b"character_set_client", b"collation_connection", b"collation_server"):
                found[name] = b"%d" % number(2)
        elif code == 5:
            found[b"time_zone"] = definitions.quote(text())
        elif code == 13:
            micros = number(3)
        elif code in skipped:
            skipped[code]()
        else:
            raise exception.GuestError(
                reason=f"a statement was logged with a setting that is not known ({code})"
            )
    return found, micros
