"""What the databases of a MySQL server are made of, as statements that make it again."""

from __future__ import annotations

import binascii
import contextlib
import dataclasses
import re
from collections.abc import Callable, Iterator
from typing import Any

from trove.common import exception
from trove.datastores import mysql
from trove.guestagent.datastores.mysql import connection

#: Names something that is gone.
BLIND = frozenset({1356, 1146, 1305, 1054, 1449})
#: Engines whose tables have no rows of their own.
_ROWLESS = frozenset({"MRG_MYISAM", "FEDERATED", "BLACKHOLE"})
_INNODB = "INNODB"
_NUMBERS = frozenset(
    {"tinyint", "smallint", "mediumint", "int", "bigint", "decimal", "float", "double"}
)
_ASCII = frozenset({"date", "time", "datetime", "timestamp", "year"})
_SPECIAL = re.compile(rb"[\x00\n\r\x1a'\\]")
_ESCAPES = {b"\0": b"\\0", b"\n": b"\\n", b"\r": b"\\r", b"\x1a": b"\\Z"}
#: About how long the statements are that insert rows.
_INSERT_BYTES = 1024 * 1024
#: What a session is to have that makes them.
WRITING = (
    b"SET SESSION time_zone = '+00:00', sql_mode = 'NO_AUTO_VALUE_ON_ZERO',"
    b" foreign_key_checks = 0, unique_checks = 0, innodb_strict_mode = 0"
)


def quote(value: bytes) -> bytes:
    """Return text as it stands in a statement."""
    if _SPECIAL.search(value):
        value = _SPECIAL.sub(lambda found: _ESCAPES.get(found[0], b"\\" + found[0]), value)
    return b"'" + value + b"'"


def _hex(value: bytes) -> bytes:
    return b"0x" + binascii.hexlify(value) if value else b"''"


def _plain(value: bytes) -> bytes:
    return value


def name_of(*names: str) -> bytes:
    return ".".join(connection.quote_name(name) for name in names).encode()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table to read, and how its values stand in statements."""

    database: str
    name: str
    engine: str
    columns: connection.Columns
    quotes: tuple[Callable[[bytes], bytes], ...]

    def __str__(self) -> str:
        """Return its name with that of its database."""
        return f"{self.database}.{self.name}"

    @property
    def is_transactional(self) -> bool:
        """Tell whether a snapshot holds its rows."""
        return self.engine == _INNODB

    @property
    def has_rows(self) -> bool:
        """Tell whether it has rows of its own."""
        return self.engine not in _ROWLESS


class Definitions:
    """Reads what databases are made of, as statements."""

    def __init__(self, session: connection.Session, raw: connection.Bulk) -> None:
        """Take a session for names, and one for definitions in characters of their own."""
        self._session = session
        self._raw = raw
        #: What cannot be made again: it names something that is gone.
        self.left_out: list[str] = []
        #: Statements for when all rows are there.
        self.triggers: list[bytes] = []

    def databases(self) -> list[str]:
        """Return the names of the tenant's databases."""
        rows = self._session.execute("SELECT SCHEMA_NAME FROM information_schema.SCHEMATA")
        names = sorted(str(row[0]) for row in rows)
        return [
            name
            for name in names
            if name.lower() not in mysql.RESERVED_DATABASES and not name.startswith("#mysql50#")
        ]

    def tables(self, database: str, only: tuple[str, ...] = ()) -> list[Table]:
        """Return the tables of a database, or those of these names that there are."""
        rows = self._session.execute(
            "SELECT TABLE_NAME, ENGINE FROM information_schema.TABLES"
            " WHERE TABLE_SCHEMA = {database} AND TABLE_TYPE = 'BASE TABLE' ORDER BY 1",
            database=database,
        )
        self._check_whole(database)
        columns = self._columns(database)
        found = []
        for name, engine in rows:
            if only and str(name).lower() not in only:
                continue
            if engine is None:
                raise exception.GuestError(
                    reason=f"the table {database}.{name} cannot be read: repair or drop it"
                )
            chosen = columns.get(str(name), [])
            found.append(
                Table(
                    database=database,
                    name=str(name),
                    engine=str(engine).upper(),
                    columns=connection.Columns(
                        tuple(column for column, _, _ in chosen),
                        frozenset(column for column, kind, _ in chosen if kind == "float"),
                    ),
                    quotes=tuple(_quoting(kind, is_text) for _, kind, is_text in chosen),
                )
            )
        return found

    def _check_whole(self, database: str) -> None:
        """Raise GuestError for a table that cannot be read, which other lists leave out."""
        rows = self._session.execute(
            "SHOW FULL TABLES FROM {database}", database=connection.Identifier(database)
        )
        for name, kind in rows:
            if kind not in ("BASE TABLE", "VIEW"):
                raise exception.GuestError(
                    reason=f"the table {database}.{name} cannot be read: repair or drop it"
                )

    def _columns(self, database: str) -> dict[str, list[tuple[str, str, bool]]]:
        """Return name, type, and whether it is of characters, of columns that take values."""
        rows = self._session.execute(
            "SELECT TABLE_NAME, COLUMN_NAME, DATA_TYPE, CHARACTER_SET_NAME, EXTRA"
            " FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = {database}"
            " ORDER BY TABLE_NAME, ORDINAL_POSITION",
            database=database,
        )
        found: dict[str, list[tuple[str, str, bool]]] = {}
        for table, column, kind, charset, extra in rows:
            if not re.search(r"(VIRTUAL|STORED) GENERATED", str(extra), re.IGNORECASE):
                is_text = charset is not None or str(kind).lower() == "json"
                found.setdefault(str(table), []).append((str(column), str(kind).lower(), is_text))
        return found

    def make_table(self, table: Table) -> bytes:
        """Return the statement that makes a table again, in its database."""
        text = bytes(self._show("SHOW CREATE TABLE", table.database, table.name)[1])
        head = b"CREATE TABLE " + name_of(table.name)
        return b"CREATE TABLE " + name_of(table.database, table.name) + text.removeprefix(head)

    def make(self, databases: list[str]) -> Iterator[bytes]:
        """Yield the statements that make all but rows and triggers."""
        views = []
        for database in databases:
            row = self._raw.execute(
                "SHOW CREATE DATABASE IF NOT EXISTS {database}",
                database=connection.Identifier(database),
            )[0]
            yield row[1]
            yield b"USE " + name_of(database)
            for table in self.tables(database):
                yield self._show("SHOW CREATE TABLE", database, table.name)[1]
            for name in self._named(database, "VIEWS", "TABLE"):
                # one of other views, which may come later
                columns = self._columns(database).get(name)
                if columns:
                    views.append((database, name))
                    values = b", ".join(b"1 AS " + name_of(column) for column, _, _ in columns)
                    yield b"CREATE VIEW " + name_of(name) + b" AS SELECT " + values
                else:
                    self.left_out.append(f"{database}.{name}")
            yield from self._routines(database)
            yield from self._events(database)
            self.triggers += self._triggers(database)
        for database, name in views:
            yield from self._view(database, name)

    def _named(self, database: str, what: str, column: str) -> list[str]:
        rows = self._session.execute(
            f"SELECT {column}_NAME FROM information_schema.{what}"  # noqa: S608
            f" WHERE {column}_SCHEMA = {{database}} ORDER BY 1",
            database=database,
        )
        return [str(row[0]) for row in rows]

    def _show(self, statement: str, database: str, name: str) -> tuple[Any, ...]:
        """Return what the server says of an object."""
        row = self._raw.execute(
            f"{statement} {{database}}.{{name}}",
            database=connection.Identifier(database),
            name=connection.Identifier(name),
        )[0]
        return tuple(row)

    @contextlib.contextmanager
    def _own_characters(self) -> Iterator[None]:
        """Have definitions in the characters that they were written in."""
        self._raw.execute("SET SESSION character_set_results = NULL")
        try:
            yield
        finally:
            self._raw.execute("SET SESSION character_set_results = utf8mb4")

    def _view(self, database: str, name: str) -> Iterator[bytes]:
        try:
            with self._own_characters():
                row = self._show("SHOW CREATE VIEW", database, name)
        except connection.ServerError as e:
            if e.args[0] not in BLIND:
                raise
            self.left_out.append(f"{database}.{name}")
            return
        yield b"USE " + name_of(database)
        yield b"DROP VIEW " + name_of(name)
        yield from _said_with(row[1], client=row[2], collation=row[3])

    def _routines(self, database: str) -> Iterator[bytes]:
        rows = self._session.execute(
            "SELECT ROUTINE_TYPE, ROUTINE_NAME FROM information_schema.ROUTINES"
            " WHERE ROUTINE_SCHEMA = {database} ORDER BY 1, 2",
            database=database,
        )
        for kind, name in rows:
            with self._own_characters():
                row = self._show(f"SHOW CREATE {kind}", database, str(name))
            _, modes, text, client, collation, _ = row
            yield from _said_with(text, client=client, collation=collation, modes=modes)

    def _events(self, database: str) -> Iterator[bytes]:
        for name in self._named(database, "EVENTS", "EVENT"):
            with self._own_characters():
                row = self._show("SHOW CREATE EVENT", database, name)
            _, modes, zone, text, client, collation, _ = row
            yield b"SET SESSION time_zone = " + quote(zone)
            yield from _said_with(text, client=client, collation=collation, modes=modes)
            yield b"SET SESSION time_zone = '+00:00'"

    def _triggers(self, database: str) -> list[bytes]:
        rows = self._session.execute(
            "SELECT TRIGGER_NAME FROM information_schema.TRIGGERS WHERE TRIGGER_SCHEMA = {database}"
            " ORDER BY EVENT_OBJECT_TABLE, ACTION_TIMING, EVENT_MANIPULATION, ACTION_ORDER",
            database=database,
        )
        found: list[bytes] = []
        for (name,) in rows:
            with self._own_characters():
                row = self._show("SHOW CREATE TRIGGER", database, str(name))
            _, modes, text, client, collation = row[:5]
            found += _said_with(text, client=client, collation=collation, modes=modes)
        return [b"USE " + name_of(database), *found] if found else []


def is_view(statement: bytes) -> bool:
    """Tell whether a statement makes a view as it was."""
    return statement.startswith(b"CREATE ALGORITHM=")


def _said_with(
    text: bytes | None, *, client: bytes, collation: bytes, modes: bytes | None = None
) -> Iterator[bytes]:
    """Yield a definition with the settings that the server remembers with it."""
    if text is None:
        raise exception.GuestError(reason="the database does not show the text of a routine")
    yield (
        b"SET SESSION character_set_client = "
        + quote(client)
        + b", collation_connection = "
        + quote(collation)
        + (b", sql_mode = " + quote(modes) if modes is not None else b"")
    )
    yield text
    yield b"SET NAMES utf8mb4"
    yield WRITING


def _quoting(kind: str, is_text: bool) -> Callable[[bytes], bytes]:
    if is_text or kind in _ASCII:
        return quote
    return _plain if kind in _NUMBERS else _hex


def insert(
    session: connection.Bulk,
    table: Table,
    *,
    condition: str = "",
    verb: bytes = b"INSERT",
    **values: object,
) -> Iterator[bytes]:
    """Yield statements with all rows of a table; raises ServerError."""
    columns = b", ".join(name_of(name) for name in table.columns.names)
    head = verb + b" INTO " + name_of(table.database, table.name) + b" (" + columns + b") VALUES "
    quotes = table.quotes
    rows: list[bytes] = []
    size_bytes = 0
    for row in session.rows(
        "SELECT {columns} FROM {database}.{name}" + condition,  # noqa: S608
        columns=table.columns,
        database=connection.Identifier(table.database),
        name=connection.Identifier(table.name),
        **values,
    ):
        line = b"(%b)" % b",".join(
            [
                b"NULL" if value is None else quoting(value)
                for quoting, value in zip(quotes, row, strict=True)
            ]
        )
        rows.append(line)
        size_bytes += len(line)
        if size_bytes >= _INSERT_BYTES:
            yield head + b",".join(rows)
            rows, size_bytes = [], 0
    if rows:
        yield head + b",".join(rows)
