"""MySQL's binary log, and the statements that copies are made of, as versions have them that no
test runs: https://dev.mysql.com/doc/refman/8.4/en/ and the sources that it documents."""

from __future__ import annotations

import base64
import io
import pathlib
import struct
import uuid
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import pymysql.err
import pytest
import zstandard

from tests.fixtures import keeping
from trove.common import exception
from trove.guestagent.datastores.mysql import (
    binlog,
    connection,
    definitions,
    dumps,
    events,
    logical,
)
from trove.guestagent.datastores.mysql import dialect as dialects

SERVER = uuid.UUID("3e11fa47-71ca-11e1-9e33-c80aa9429562")
QUERY, ROTATE, FORMAT, INTVAR, USER_VAR, XID, TABLE_MAP, WRITE, RAND = (
    2,
    4,
    15,
    5,
    14,
    16,
    19,
    30,
    13,
)
GTID, ANONYMOUS, PREVIOUS, XA_PREPARE, PAYLOAD = 33, 34, 35, 38, 40


class Log:
    """A file of MySQL's log, made by hand, with checksums."""

    def __init__(self, *, previous: bytes = bytes(8), has_checksums: bool = True) -> None:
        """Begin it."""
        self.has_checksums = has_checksums
        self.data = bytearray(b"\xfebin")
        body = b"\4\0" + b"8.0.36".ljust(50, b"\0") + bytes(43) + bytes([has_checksums])
        self._add(FORMAT, body, with_checksum=True)
        self.head_end = len(self.data)
        self.add(PREVIOUS, previous)

    def _add(self, kind: int, body: bytes, *, with_checksum: bool, flags: int = 0) -> None:
        size = 19 + len(body) + 4 * with_checksum
        header = struct.pack("<IBIIIH", 2000, kind, 7, size, len(self.data) + size, flags)
        self.data += header + body
        if with_checksum:
            self.data += struct.pack("<I", zlib.crc32(header + body))

    def add(self, kind: int, body: bytes = b"", *, flags: int = 0) -> Log:
        """Append an event."""
        self._add(kind, body, with_checksum=self.has_checksums, flags=flags)
        return self

    def begin(self, number: int | None) -> Log:
        """Append the beginning of a transaction, with an id or without."""
        body = struct.pack("<B16sQ", 1, SERVER.bytes, number or 0) + bytes(17)
        return self.add(ANONYMOUS if number is None else GTID, body)

    def say(
        self, text: bytes, *, status: bytes = b"", database: bytes = b"app", error: int = 0
    ) -> Log:
        """Append a statement."""
        body = struct.pack("<IIBHH", 9, 0, len(database), error, len(status))
        return self.add(QUERY, body + status + database + b"\0" + text)

    def row(self, *, is_last: bool = True) -> Log:
        """Append a change of rows."""
        self.add(TABLE_MAP, b"map")
        return self.add(WRITE, bytes(6) + struct.pack("<H", is_last) + b"row")

    def groups(self, *, end: int | None = None) -> list[binlog.Group]:
        """Return the transactions in it."""
        self.scanner = binlog.Scanner(io.BytesIO(self.data))
        return list(self.scanner.groups(self.head_end, end or len(self.data)))


class Said:
    """A session that takes everything, and gives what a test says."""

    def __init__(self, answers: Sequence[tuple[str, Any]] = (), *, fails: int = 0) -> None:
        """Take answers, by what statements begin with, and the number of an error."""
        self.statements: list[bytes] = []
        self._answers = answers
        self._fails = fails

    def say(self, statement: bytes) -> None:
        """Take a statement."""
        if self._fails and not statement.startswith((b"SET", b"USE", b"BINLOG")):
            raise pymysql.err.OperationalError(self._fails, "no")
        self.statements.append(statement)

    def execute(self, template: str, **values: object) -> Any:
        """Return what belongs to a statement."""
        names = {name: getattr(value, "name", value) for name, value in values.items()}
        text = template.format(**names)
        self.statements.append(text.encode())
        for begin, answer in self._answers:
            if text.startswith(begin):
                return answer
        return ()

    def rows(self, template: str, **values: object) -> Iterator[tuple[bytes | None, ...]]:
        """Yield the rows of a table."""
        columns = values["columns"]
        assert isinstance(columns, connection.Columns)
        self.statements.append(template.encode())
        yield tuple(b"5" for _ in columns.names)


def _speak(log: Log, **options: Any) -> list[bytes]:
    said: Any = Said(**options)
    events.Speaker(said).say(io.BytesIO(log.data))
    return list(said.statements)


def test_transactions_of_mysql_are_found_with_their_ids_and_ends() -> None:
    log = Log().begin(4).say(b"BEGIN").row().add(XID, bytes(8))
    log.begin(None).say(b"CREATE TABLE t (i INT)")
    log.begin(5).say(b"BEGIN").row().say(b"COMMIT")
    log.begin(6).say(b"XA START X'01',X'',1").row().say(b"XA END X'01',X'',1")
    log.add(XA_PREPARE, bytes(13)).begin(7).say(b"XA COMMIT X'01',X'',1")
    log.begin(8).add(PAYLOAD, b"zstd")
    whole = len(log.data)
    found = log.groups()
    ids = [f"{SERVER}:{number}" for number in (4, 5, 6, 7, 8)]
    assert [str(group.gtid) for group in found if group.gtid.domain] == ids
    assert [group.gtid.domain for group in found].count("") == 1
    assert not any(group.is_refused for group in found)
    assert log.scanner.end == whole
    # of each, what is cut off does not count
    ends = [log.head_end + 19 + 8 + 4, *(group.end for group in found)]
    for number, end in enumerate(ends[1:], start=1):
        for cut in range(ends[number - 1], end):
            assert len(log.groups(end=cut)) == number - 1
        assert len(log.groups(end=end)) == number


def test_statements_that_are_not_replayed_are_told_and_ids_are_needed() -> None:
    log = Log().begin(1).say(b"BEGIN").add(USER_VAR, b"x").say(b"INSERT").add(XID, bytes(8))
    assert [group.is_refused for group in log.groups()] == [True]
    with pytest.raises(binlog.Damaged, match="without ids"):
        Log().say(b"BEGIN").row().add(XID, bytes(8)).groups()


def test_files_of_mysql_are_told_apart_by_what_was_before_them() -> None:
    one, other = (Log(previous=bytes([n] * 8)) for n in (1, 2))
    heads = [binlog.read_head(io.BytesIO(log.data)) for log in (one, other)]
    assert heads[0].data == heads[1].data
    assert heads[0].digest != heads[1].digest


def test_sets_of_ids_are_read_up_to_their_ends() -> None:
    server, other = str(SERVER), str(uuid.UUID(int=1))
    assert binlog.parse_gtids(f"{server.upper()}:1-3:5-9:11, {other}:7,\n") == {
        server: binlog.Gtid(server, 0, 11),
        other: binlog.Gtid(other, 0, 7),
    }
    assert str(binlog.parse_gtid(f"{server}:42")) == f"{server}:42"
    for wrong in (f"{server}:1-5", f"{server}:", f"{server}:tag:5", "x:5", f"{server}5"):
        with pytest.raises(exception.GuestError, match="no position"):
            binlog.parse_gtid(wrong)


def test_rows_are_said_as_they_are_and_together() -> None:
    log = Log().begin(1).say(b"BEGIN").row(is_last=False).row().add(XID, bytes(8))
    said = _speak(log)
    assert [statement.split(b"'")[0].strip() for statement in said] == [
        b"BINLOG",
        b"BEGIN",
        b"BINLOG",
        b"COMMIT",
    ]
    described, rows = (said[number].split(b"'")[1].split() for number in (0, 2))
    assert base64.b64decode(described[0]) == bytes(log.data[4 : log.head_end])
    assert [base64.b64decode(each)[4] for each in rows] == [TABLE_MAP, WRITE, TABLE_MAP, WRITE]
    assert all(base64.b64decode(each) in log.data for each in rows)
    with pytest.raises(exception.GuestError, match="within a statement"):
        _speak(Log().begin(1).row(is_last=False))


def test_statements_have_the_settings_that_they_were_logged_with() -> None:
    status = b"".join(
        (
            struct.pack("<BI", 0, 1 << 26),
            struct.pack("<BQ", 1, 1168113696),
            b"\x06\x03std",
            struct.pack("<BHH", 3, 2, 1),
            struct.pack("<BHHH", 4, 255, 255, 8),
            b"\x05\x03UTC",
            struct.pack("<BH", 7, 2),
            struct.pack("<BH", 8, 33),
            b"\x0c\x02app\0zoo\0",
            b"\x0b\x01a\x01b",
            struct.pack("<B", 13) + (7).to_bytes(3, "little"),
            b"\x10\x01",
            struct.pack("<BQ", 17, 5),
            struct.pack("<BH", 18, 255),
            b"\x13\x00",
            b"\x14\x00",
        )
    )
    said = _speak(Log().begin(1).say(b"CREATE TABLE `t` (i INT)", status=status, database=b"a`b"))
    settings = said[1].decode()
    assert settings.startswith("SET SESSION ")
    assert dict(each.split(" = ") for each in settings[12:].split(", ")) == {
        "foreign_key_checks": "0",
        "unique_checks": "1",
        "sql_auto_is_null": "0",
        "sql_mode": "1168113696",
        "auto_increment_increment": "2",
        "auto_increment_offset": "1",
        "character_set_client": "255",
        "collation_connection": "255",
        "collation_server": "8",
        "time_zone": "'UTC'",
        "lc_time_names": "2",
        "collation_database": "33",
        "explicit_defaults_for_timestamp": "1",
        "default_collation_for_utf8mb4": "255",
        "sql_require_primary_key": "0",
        "default_table_encryption": "0",
        "pseudo_thread_id": "9",
    }
    assert said[2:] == [
        b"SET SESSION timestamp = 2000.000007",
        b"USE `a``b`",
        b"CREATE TABLE `t` (i INT)",
    ]
    with pytest.raises(exception.GuestError, match="not known"):
        _speak(Log().begin(1).say(b"CREATE", status=b"\x63\x00"))


def test_small_events_are_said_in_words() -> None:
    xid = struct.pack("<Biii", 0, 1, 2, 1) + b"ab\0"
    log = Log().begin(1).add(INTVAR, struct.pack("<BQ", 2, 55)).add(RAND, struct.pack("<QQ", 3, 4))
    log.add(XA_PREPARE, xid).add(XA_PREPARE, b"\1" + xid[1:])
    assert _speak(log)[1:] == [
        b"SET SESSION INSERT_ID = 55",
        b"SET SESSION RAND_SEED1 = 3, RAND_SEED2 = 4",
        b"XA PREPARE X'6162',X'00',1",
        b"XA COMMIT X'6162',X'00',1 ONE PHASE",
    ]
    with pytest.raises(exception.GuestError, match="not replayed"):
        _speak(Log().begin(1).add(USER_VAR, b"x"))


@pytest.mark.parametrize("is_compressed", [True, False])
def test_a_compressed_transaction_is_taken_apart(is_compressed: bool) -> None:
    inner = Log(has_checksums=False)
    start = len(inner.data)
    inner.say(b"BEGIN").row().add(XID, bytes(8))
    data = bytes(inner.data[start:])
    packed = zstandard.compress(data) if is_compressed else data
    fields = b"\x02\x01\x00" if is_compressed else b"\x02\x03\xfc\xff\x00"
    size = b"\xfc" + struct.pack("<H", len(packed))
    fields += b"\x01\x03" + size + b"\x03\x03\xfc" + struct.pack("<H", len(data)) + b"\x00"
    said = _speak(Log().begin(1).add(PAYLOAD, fields + packed))
    assert [statement.split(b"'")[0].strip() for statement in said[1:]] == [
        b"BEGIN",
        b"BINLOG",
        b"COMMIT",
    ]
    if is_compressed:
        with pytest.raises(exception.GuestError, match="damaged"):
            _speak(Log().begin(1).add(PAYLOAD, fields + b"x" + packed[1:]))


def test_a_log_that_is_damaged_or_cut_off_is_not_said() -> None:
    log = Log().begin(1).say(b"BEGIN").row().add(XID, bytes(8))
    for position in range(log.head_end + 30, len(log.data) - 5, 17):
        damaged = Log().begin(1).say(b"BEGIN").row().add(XID, bytes(8))
        damaged.data[position] ^= 0x20
        with pytest.raises(exception.GuestError):
            _speak(damaged)
    cut = Log().begin(1).say(b"BEGIN").row()
    del cut.data[-3:]
    with pytest.raises(exception.GuestError, match="within an event"):
        _speak(cut)


def test_a_statement_may_fail_as_it_did_and_no_other_way(tmp_path: pathlib.Path) -> None:
    log = Log().begin(1).say(b"INSERT INTO plain SELECT 1", error=1062)
    assert _speak(log, fails=1062)[-1] == b"USE `app`"
    with pytest.raises(pymysql.err.OperationalError):
        _speak(log, fails=1146)
    path = tmp_path / "mysql-bin.000001"
    path.write_bytes(log.data)

    class Connector:
        def bulk(self, *, timeout_s: int) -> Any:
            said: Any = Said(fails=1064)
            said.close = lambda: None
            return said

    connector: Any = Connector()
    with (
        events.EventVoice(connector) as voice,
        pytest.raises(exception.GuestError, match=r"1064.*is not understood"),
    ):
        voice.say(path)


@pytest.mark.parametrize(
    ("version", "statement"),
    [
        ("5.6.24-log", b"SHOW MASTER STATUS"),
        ("8.0.36", b"SHOW MASTER STATUS"),
        ("8.2.0", b"SHOW BINARY LOG STATUS"),
        ("8.4.3-commercial", b"SHOW BINARY LOG STATUS"),
        ("10.11.6-MariaDB-log", b"SHOW MASTER STATUS"),
        ("11.4.2-MariaDB", b"SHOW MASTER STATUS"),
    ],
)
def test_the_place_in_the_log_is_asked_for_as_the_version_has_it(
    version: str, statement: bytes
) -> None:
    said: Any = Said([("SELECT VERSION", ((version,),)), ("SHOW", (("mysql-bin.000003", 157),))])
    assert connection.log_status(said) == ("mysql-bin.000003", 157)
    assert said.statements[-1] == statement


def test_generated_columns_take_no_values_and_each_type_has_its_quotes() -> None:
    columns = (
        ("t", "id", "bigint", None, "auto_increment"),
        ("t", "twice", "int", None, "VIRTUAL GENERATED"),
        ("t", "thrice", "int", None, "STORED GENERATED"),
        ("t", "made", "datetime", None, "DEFAULT_GENERATED"),
        ("t", "doc", "json", None, ""),
        ("t", "name", "varchar", "utf8mb4", "INVISIBLE"),
        ("t", "hash", "varbinary", None, ""),
        ("t", "place", "geometry", None, ""),
        ("t", "share", "float", None, ""),
    )
    said: Any = Said(
        [
            ("SHOW FULL TABLES", (("t", "BASE TABLE"), ("v", "VIEW"))),
            ("SELECT TABLE_NAME, ENGINE", (("t", "InnoDB"),)),
            ("SELECT TABLE_NAME, COLUMN_NAME", columns),
        ]
    )
    (table,) = definitions.Definitions(said, said).tables("app")
    assert table.is_transactional
    assert table.has_rows
    assert list(definitions.insert(said, table)) == [
        b"INSERT INTO `app`.`t` (`id`, `made`, `doc`, `name`, `hash`, `place`, `share`)"
        b" VALUES (5,'5','5','5',0x35,0x35,5)"
    ]
    assert table.columns.single == {"share"}
    assert definitions.quote(b"a'b\\c\0\n\r\x1a\"%") == b"'a\\'b\\\\c\\0\\n\\r\\Z\"%'"


def test_the_accounts_of_mysql_8_are_all_its_tables_of_rights() -> None:
    tables = dialects.MYSQL_8.grant_tables
    assert {"global_grants", "role_edges", "default_roles"} < set(tables)
    columns = [
        (table, column, "char", "utf8mb4", "")
        for table in tables
        for column in (("FROM_USER", "TO_USER") if table == "role_edges" else ("Host", "User"))
    ]
    said: Any = Said(
        [
            (
                "SELECT TABLE_NAME, ENGINE",
                tuple((table, "InnoDB") for table in (*tables, "servers")),
            ),
            ("SELECT TABLE_NAME, COLUMN_NAME", columns),
        ]
    )

    class Connector:
        def bulk(self, *, timeout_s: int) -> Any:
            return said

    connector: Any = Connector()
    reading = dumps._Reading(dialects.MYSQL_8, connector)
    statements = list(reading._accounts(definitions.Definitions(said, said), said))
    assert len(statements) == len(tables) + 1
    assert statements[-1] == b"FLUSH PRIVILEGES"
    assert all(each.startswith(b"REPLACE INTO `mysql`.") for each in statements[:-1])
    read = [each for each in said.statements if each.startswith(b"SELECT {columns}")]
    assert sum(b" WHERE TO_USER NOT IN" in each for each in read) == 1
    assert sum(b" WHERE User NOT IN" in each for each in read) == len(tables) - 1


def test_a_copy_counts_its_statements() -> None:
    whole = dumps.frame(b"one") + dumps.frame(b"two") + bytes(4) + struct.pack(">Q", 2)
    assert list(dumps.Reader(keeping.MemoryContent(whole)).statements()) == [b"one", b"two"]
    for wrong in (
        whole[:-1],
        whole[:-8],
        dumps.frame(b"one") + bytes(4) + struct.pack(">Q", 2),
        bytes(12),
        whole + b"\0",
        b"\xff\xff\xff\xff" + whole,
    ):
        with pytest.raises(exception.GuestError):
            list(dumps.Reader(keeping.MemoryContent(wrong)).statements())


def test_what_a_check_says_is_read() -> None:
    good = (("app.t", "check", "note", "x"), ("app.t", "check", "status", "OK"))
    assert logical._complaints(good) == []
    lacks = (("app.v", "check", "note", "The storage engine for the table doesn't support check"),)
    assert logical._complaints(lacks) == []
    bad = (("app.t", "check", "Error", "Broken"), ("app.t", "check", "error", "Corrupt"))
    assert logical._complaints(bad) == ["app.t: Broken", "app.t: Corrupt"]
