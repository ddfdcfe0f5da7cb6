"""Copies of a running MySQL server: the statements that make its databases again.

No program that copies Oracle's MySQL can be counted on: mariabackup refuses it (tried with 5.6),
XtraBackup and CLONE are not in every version, and the dump programs differ by version, fail with
one of another (MariaDB's with 5.6), and lose digits: the server shows six of a FLOAT, so that a
copy is not the database, and changes of rows that the log names by their values find none. So the
agent reads the server itself, in the one way that all versions have.

All that no snapshot holds is read while writes are locked out for a moment: where the log is, the
accounts, all definitions, and tables of engines without transactions, which wait in a file. The
rows of all other tables are read in a snapshot of that moment, while the server is written to.
Who changes or drops a table that was not read yet makes the backup fail. Triggers come last: they
are not to fire again. A copy is complete when it says how many statements it has.
"""

from __future__ import annotations

import contextlib
import struct
import tempfile
import time
from collections.abc import Iterator, Mapping
from typing import IO, Any

from oslo_log import log

from trove.common import exception
from trove.datastores import mysql
from trove.guestagent.datastores import base
from trove.guestagent.datastores.mysql import binlog, connection, definitions, probe, template
from trove.guestagent.datastores.mysql import dialect as dialects
from trove.guestagent.system import filesystem

LOG = log.getLogger(__name__)

#: Of the facts of a backup, and of its bytes.
FORMAT = 1
#: Seconds that writes, and whoever changes tables, may keep the copy from locking them out.
_LOCK_WAIT_S = 20
_STATEMENT_TIMEOUT_S = 900
#: Longest that a storage may keep the server waiting, which gives up by itself otherwise.
_PATIENCE_S = 7 * 86400
_SPOOL_BYTES = 4 * 1024 * 1024
_READ_BYTES = 256 * 1024
#: How long a statement is; 0 behind the last one, where the number of all follows.
_LENGTH = struct.Struct(">I")
_COUNT = struct.Struct(">Q")
_MOST_STATEMENT_BYTES = 1 << 30
#: A table was changed or dropped, or is of other columns now (mysqld_error.h).
_CHANGED = frozenset({1146, 1412, 1054, 1049})
_LOCK_TIMEOUT = 1205
#: What databases that are copied are read and made with; the modes are those of the session.
READING = (
    "SET SESSION time_zone = '+00:00', sql_quote_show_create = 1, net_write_timeout = {patience},"
    " wait_timeout = {wait}, lock_wait_timeout = {lock}/*!80000 , max_execution_time = 0*/"
)
#: Accounts of the servers' own, which each has already.
_OWN_ACCOUNTS = (mysql.AGENT_USER, "mysql.sys", "mysql.session", "mysql.infoschema")


def frame(statement: bytes) -> bytes:
    """Return a statement as it stands in a copy."""
    return _LENGTH.pack(len(statement)) + statement


class Reader:
    """Reads the statements of a copy; raises GuestError unless it is whole."""

    def __init__(self, content: base.Content) -> None:
        """Take what the storage has."""
        self._content = content
        self._buffer = bytearray()

    def statements(self) -> Iterator[bytes]:
        """Yield them."""
        count = 0
        while size := _LENGTH.unpack(self._take(_LENGTH.size))[0]:
            if size > _MOST_STATEMENT_BYTES:
                raise exception.GuestError(reason="the backup is damaged")
            yield self._take(size)
            count += 1
        if _COUNT.unpack(self._take(_COUNT.size))[0] != count or not count:
            raise exception.GuestError(reason="the backup has not all its statements")
        if self._buffer or self._content.read(1):
            raise exception.GuestError(reason="the backup goes on behind its end")

    def _take(self, count: int) -> bytes:
        while len(self._buffer) < count:
            data = self._content.read(max(_READ_BYTES, count - len(self._buffer)))
            if not data:
                raise exception.GuestError(reason="the backup ends too early")
            self._buffer += data
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken


class _Reading:
    """The sessions of a copy, and the statements that they give."""

    def __init__(self, dialect: dialects.Dialect, connector: connection.Connector) -> None:
        """Open the sessions; raises ServerError."""
        self._dialect = dialect
        self._connector = connector
        self.rows = connector.bulk(timeout_s=_STATEMENT_TIMEOUT_S)
        self.tables: list[definitions.Table] = []
        self.triggers: list[bytes] = []
        self.facts: dict[str, Any] = {}

    def prepare(self, spool: IO[bytes]) -> int:
        """Read what is to be read while nobody writes; returns how many statements that is."""
        self._set_up(self.rows)
        with (
            # the end of the session is that of the lock
            self._connector.session(timeout_s=_STATEMENT_TIMEOUT_S) as lock,
            contextlib.closing(self._connector.bulk(timeout_s=_STATEMENT_TIMEOUT_S)) as raw,
        ):
            self._set_up(raw)
            self._lock(lock)
            self.rows.execute("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            self.rows.execute("START TRANSACTION WITH CONSISTENT SNAPSHOT")
            self.facts = self._place(lock)
            count = 0
            for statement in self._locked(lock, raw):
                spool.write(frame(statement))
                count += 1
            return count

    @staticmethod
    def _set_up(session: connection.Bulk) -> None:
        session.execute(READING, patience=_PATIENCE_S, wait=_PATIENCE_S, lock=_LOCK_WAIT_S)

    @staticmethod
    def _lock(session: connection.Session) -> None:
        session.execute("SET SESSION lock_wait_timeout = {lock}", lock=_LOCK_WAIT_S)
        try:
            # first what takes long: writing what is not written yet, of all tables
            session.execute("FLUSH LOCAL TABLES")
            session.execute("FLUSH TABLES WITH READ LOCK")
        except connection.ServerError as e:
            if e.args[0] != _LOCK_TIMEOUT:
                raise
            raise exception.GuestError(
                reason="statements that take long keep the backup from a moment without writes:"
                " make it at a quieter time"
            ) from None

    def _place(self, session: connection.Session) -> dict[str, Any]:
        """Return where the log is."""
        if session.execute("XA RECOVER"):
            raise exception.GuestError(
                reason="there are prepared transactions, which no copy holds (XA RECOVER): commit"
                " them or roll them back"
            )
        row = connection.log_status(session)
        if row is None:
            raise exception.GuestError(reason="the server writes no binary log")
        gtids = session.execute("SELECT @@GLOBAL.gtid_executed")[0][0]
        return {
            "binlog": {"file": row[0], "position": row[1]},
            "gtid": "".join(str(gtids).split()),
            "consistent_s": time.time(),
        }

    def _locked(self, session: connection.Session, raw: connection.Bulk) -> Iterator[bytes]:
        source = definitions.Definitions(session, raw)
        databases = source.databases()
        yield definitions.WRITING
        yield from self._accounts(source, raw)
        for table in source.tables("mysql", (probe.NAME,)):
            yield source.make_table(table)
            yield from definitions.insert(raw, table)
        yield from source.make(databases)
        tables = [table for each in databases for table in source.tables(each)]
        self.tables = [table for table in tables if table.is_transactional]
        for table in tables:
            if table.has_rows and not table.is_transactional:
                yield from definitions.insert(raw, table)
        self.triggers = source.triggers
        self.facts |= {
            "databases": len(databases),
            "tables": len(tables),
            "left_out": source.left_out,
        }
        for name in source.left_out:
            LOG.warning("a view was not copied, what it names is gone: %s", name)

    def _accounts(self, source: definitions.Definitions, raw: connection.Bulk) -> Iterator[bytes]:
        """Yield what makes the accounts, as they are in the tables of rights."""
        for table in source.tables("mysql", self._dialect.grant_tables):
            column = "TO_USER" if "TO_USER" in table.columns.names else "User"
            condition = f" WHERE {column} NOT IN ({{own0}}, {{own1}}, {{own2}}, {{own3}})"
            names = {f"own{number}": name for number, name in enumerate(_OWN_ACCOUNTS)}
            yield from definitions.insert(raw, table, condition=condition, verb=b"REPLACE", **names)
        yield b"FLUSH PRIVILEGES"

    def close(self) -> None:
        """End the sessions."""
        self.rows.close()


@contextlib.contextmanager
def explained(table: definitions.Table | None = None) -> Iterator[None]:
    """Put what the server refuses in words, without the statement."""
    try:
        yield
    except connection.ServerError as e:
        if table is not None and e.args and e.args[0] in _CHANGED:
            reason = f"the table {table} was changed or dropped during the backup: make it again"
        else:
            reason = connection.explain(e)
        raise exception.GuestError(reason=reason) from None
    except OSError as e:
        raise exception.GuestError(reason=filesystem.explain(e, "copying the database")) from None


class DumpStream(base.Stream):
    """The statements, as the server is read."""

    def __init__(
        self, reading: _Reading, spool: IO[bytes], *, count: int, facts: Mapping[str, Any]
    ) -> None:
        """Take what was read already, with how many statements that is."""
        self._reading = reading
        self._spool = spool
        self._count = count
        self._facts = facts
        self._parts = self._all()
        self._buffer = b""
        self._bytes = 0
        self._has_ended = False
        self._is_closed = False

    def _all(self) -> Iterator[bytes]:
        self._spool.seek(0)
        while data := self._spool.read(_READ_BYTES):
            yield data
        for table in self._reading.tables:
            with explained(table):
                for statement in definitions.insert(self._reading.rows, table):
                    yield self._framed(statement)
        for statement in self._reading.triggers:
            yield self._framed(statement)
        yield _LENGTH.pack(0) + _COUNT.pack(self._count)

    def _framed(self, statement: bytes) -> bytes:
        self._count += 1
        return frame(statement)

    def read(self, most: int) -> bytes:
        """Return what comes next."""
        if not self._buffer:
            with explained():
                self._buffer = next(self._parts, b"")
        data, self._buffer = self._buffer[:most], self._buffer[most:]
        self._bytes += len(data)
        self._has_ended = not data
        return data

    def finish(self) -> dict[str, Any]:
        """Return the facts of the copy."""
        if self._is_closed or not self._has_ended:
            raise exception.GuestError(reason="the database was not read to its end")
        return {**self._facts, **self._reading.facts, "data_bytes": self._bytes}

    def close(self) -> None:
        """End the sessions; what is read meanwhile fails."""
        self._is_closed = True
        self._reading.rows.interrupt()
        self._reading.close()
        self._spool.close()


class Dumper:
    """Copies the running server."""

    def __init__(
        self,
        dialect: dialects.Dialect,
        environment: base.Environment,
        *,
        connector: connection.Connector,
    ) -> None:
        """Take the server."""
        self._dialect = dialect
        self._environment = environment
        self._layout = environment.layout
        self._connector = connector

    def estimate_bytes(self) -> int:
        """Return about how long the statements are: as long as the rows."""
        with self._connector.session() as session:
            names = ", ".join(f"'{name}'" for name in sorted(mysql.RESERVED_DATABASES))
            rows = session.execute(
                "SELECT SUM(DATA_LENGTH) FROM information_schema.TABLES"  # noqa: S608
                f" WHERE TABLE_TYPE = 'BASE TABLE' AND TABLE_SCHEMA NOT IN ({names})"
            )
        return int(rows[0][0] or 0)

    def open(self) -> DumpStream:
        """Begin to copy all of it."""
        program = template.find_server(self._dialect, basedir=self._environment.basedir)
        facts = {
            "format": FORMAT,
            "manager": self._dialect.spec.manager,
            "engine_version": template.server_version(program),
            "kind": "full",
            "began_s": time.time(),
        }
        # on the volume, as it may hold whole tables
        self._layout.make_volume()
        with contextlib.ExitStack() as stack, explained():
            spool = stack.enter_context(
                tempfile.TemporaryFile(dir=self._layout.temporary_dir, buffering=_SPOOL_BYTES)
            )
            reading = _Reading(self._dialect, self._connector)
            stack.callback(reading.close)
            count = reading.prepare(spool)
            place = reading.facts["binlog"]
            place["digest"] = self._digest(str(place["file"]))
            stack.pop_all()
        return DumpStream(reading, spool, count=count, facts=facts)

    def _digest(self, file: str) -> str | None:
        """Return what tells a file of the log from others of its name."""
        binlog.number_of(file)
        with open(self._layout.data_dir / file, "rb") as stream:
            return binlog.read_head(stream).digest
