"""Connections of the agent to its engine, and the one place where SQL is put together.

Statements are templates in ``str.format`` style. Every value goes through :func:`_quote`: a plain
``str`` becomes a string literal, :class:`Identifier` and :class:`GrantPattern` become what their
names say. Nothing else reaches a statement.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import pathlib
import re
import socket
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pymysql
import pymysql.converters
import pymysql.err

from trove.common import exception
from trove.datastores import mysql
from trove.guestagent.datastores import base

#: What a server refuses, as the driver raises it.
ServerError = pymysql.err.MySQLError
#: Errors of the server that the agent tells apart (mysqld_error.h).
DATABASE_EXISTS = 1007
DATABASE_MISSING = 1008
UNKNOWN_DATABASE = 1049
NO_SUCH_GRANT = 1141
CANNOT_USER = 1396
ACCESS_DENIED = frozenset({1044, 1045, 1227, 1698})
DISK_FULL = frozenset({3, 1021, 1114, 1026})
#: There is no server, or no more.
LOST = frozenset({2002, 2003, 2006, 2013})
#: Keeps what the agent does, passwords among it, out of the general log and the slow one, which
#: tenants publish. MySQL itself never writes passwords there, and its slow log has no such switch.
UNLOGGED = "SET SESSION sql_log_off = 1/*M!100000 , slow_query_log = 0*/"
_CONNECT_TIMEOUT_S = 3
_STATEMENT_TIMEOUT_S = 30


@dataclasses.dataclass(frozen=True, slots=True)
class Identifier:
    """A name of a database or the like."""

    name: str


@dataclasses.dataclass(frozen=True, slots=True)
class GrantPattern:
    """A database in a grant; ``escaped`` unless an older grant without escapes is meant."""

    name: str
    escaped: bool = True


@dataclasses.dataclass(frozen=True, slots=True)
class Columns:
    """Columns to be read, with all the digits that they have."""

    names: tuple[str, ...]
    #: Those of single precision, of which six digits are shown unless they are calculated with.
    single: frozenset[str] = frozenset()


def quote_name(name: str) -> str:
    """Return a name as it stands in a statement."""
    return "`" + name.replace("`", "``") + "`"


def _quote(connection: pymysql.connections.Connection[Any], value: object) -> str:
    """Return a value as it stands in a statement."""
    if isinstance(value, Identifier):
        return quote_name(value.name)
    if isinstance(value, Columns):
        return ", ".join(
            quote_name(name) + (" + 0e0" if name in value.single else "") for name in value.names
        )
    if isinstance(value, GrantPattern):
        pattern = mysql.escape_grant_pattern(value.name) if value.escaped else value.name
        return "`" + pattern.replace("`", "``") + "`"
    if isinstance(value, str):
        with connection.cursor() as cursor:
            return cursor.mogrify("%s", (value,))
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, float) and math.isfinite(value):
        return repr(value)
    raise TypeError(f"{type(value).__name__} cannot stand in a statement")


class Session:
    """An open connection; errors of the server stay pymysql's, others become GuestError."""

    def __init__(self, connection: pymysql.connections.Connection[Any]) -> None:
        """Use a connection."""
        self._connection = connection

    def execute(self, template: str, **values: object) -> Sequence[tuple[Any, ...]]:
        """Run a statement and return its rows."""
        quoted = {name: _quote(self._connection, value) for name, value in values.items()}
        with self._connection.cursor() as cursor:
            cursor.execute(template.format(**quoted))
            return cursor.fetchall()


def log_status(session: Session | Bulk) -> tuple[str, int] | None:
    """Return file and position up to which the binary log is written, None without a log.

    The statement has another name since MySQL 8.2, and the old one is gone since 8.4.
    """
    version = _text(session.execute("SELECT VERSION()")[0][0])
    numbers = tuple(int(number) for number in re.findall(r"\d+", version)[:2])
    is_renamed = numbers >= (8, 2) and "MariaDB" not in version
    rows = session.execute("SHOW BINARY LOG STATUS" if is_renamed else "SHOW MASTER STATUS")
    return (_text(rows[0][0]), int(rows[0][1])) if rows else None


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


class Bulk:
    """A connection that gives rows as they come, and takes ready statements, as bytes.

    All raise ServerError.
    """

    def __init__(self, connection: pymysql.connections.Connection[Any]) -> None:
        """Use a raw connection."""
        self._connection = connection
        self._channel: socket.socket | None = connection._sock  # type: ignore[attr-defined]

    def execute(self, template: str, **values: object) -> Sequence[tuple[Any, ...]]:
        """Run a statement and return its rows."""
        return Session(self._connection).execute(template, **values)

    def say(self, statement: bytes) -> None:
        """Run a statement that is ready, and has no rows."""
        # the driver takes bytes as they are
        self._connection.query(statement)

    def rows(self, template: str, **values: object) -> Iterator[tuple[bytes | None, ...]]:
        """Run a statement and yield its rows, of which one is in memory at a time."""
        quoted = {name: _quote(self._connection, value) for name, value in values.items()}
        self._connection.query(template.format(**quoted), unbuffered=True)
        result: Any = self._connection._result  # type: ignore[attr-defined]
        while (row := result._read_rowdata_packet_unbuffered()) is not None:
            yield row

    def interrupt(self) -> None:
        """Have a statement that another thread waits for end."""
        if self._channel is not None:
            with contextlib.suppress(OSError):
                self._channel.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close it, whatever was not read; may be called again."""
        self.interrupt()
        result: Any = self._connection._result  # type: ignore[attr-defined]
        if result is not None:
            # it would read all there is at its end
            result.unbuffered_active = False
        with contextlib.suppress(pymysql.err.MySQLError, OSError):
            self._connection.close()


def explain(error: pymysql.err.MySQLError) -> str:
    """Return what an error of the server means for people; statements are not repeated."""
    number = error.args[0] if error.args else 0
    if number in ACCESS_DENIED:
        return (
            "the database refuses the service's own account, which somebody with root access"
            " must have changed: restart the instance to restore it"
        )
    if number in DISK_FULL:
        return "the disk is full: delete data or resize the volume"
    if isinstance(error, pymysql.err.OperationalError) and number in LOST:
        return "the database does not answer: see the status of the instance"
    text = str(error.args[1]) if len(error.args) > 1 else type(error).__name__
    return f"the database says ({number}) {text[:300]}"


class Connector:
    """Opens connections over the engine's socket as the agent's own account."""

    def __init__(self, path: pathlib.Path, *, password: str) -> None:
        """Take where the engine listens and the password of the agent's account."""
        self._path = path
        self._password = password
        self._kept: pymysql.connections.Connection[Any] | None = None

    def connect(
        self, *, timeout_s: int, is_raw: bool = False
    ) -> pymysql.connections.Connection[Any]:
        """Open a connection whose statements may take so long; raises ServerError.

        A raw one gives all values as the bytes that the server sends.
        """
        conversions = pymysql.converters.conversions
        if is_raw:
            conversions = {k: v for k, v in conversions.items() if not isinstance(k, int)}
        # the modes are ours whatever a tenant makes the default: quoting depends on them
        connection = pymysql.connect(
            user=mysql.AGENT_USER,
            password=self._password,
            charset="utf8mb4",
            sql_mode="STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION",
            init_command=UNLOGGED,
            read_timeout=timeout_s,
            write_timeout=timeout_s,
            autocommit=True,
            local_infile=False,
            # a socket of this machine needs none, and reading all its authorities takes long
            ssl_disabled=True,
            use_unicode=not is_raw,
            conv=conversions,
            defer_connect=True,
        )
        # PyMySQL leaks a socket of its own when nobody listens
        try:
            channel = self.channel(timeout_s=_CONNECT_TIMEOUT_S)
        except OSError as e:
            raise pymysql.err.OperationalError(2002, str(e)) from None
        connection.connect(channel)
        return connection

    def channel(self, *, timeout_s: float) -> socket.socket:
        """Open a connection on which nothing was said yet; raises OSError."""
        channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        channel.settimeout(timeout_s)
        try:
            channel.connect(str(self._path))
        except OSError:
            channel.close()
            raise
        return channel

    def bulk(self, *, timeout_s: int) -> Bulk:
        """Open a connection for many rows; raises ServerError."""
        return Bulk(self.connect(timeout_s=timeout_s, is_raw=True))

    @contextlib.contextmanager
    def session(self, *, timeout_s: int = _STATEMENT_TIMEOUT_S) -> Iterator[Session]:
        """Open a connection for some statements; raises GuestError for what the server refuses."""
        connection = None
        try:
            connection = self.connect(timeout_s=timeout_s)
            yield Session(connection)
        except pymysql.err.MySQLError as e:
            # from None: the chain would put the statement, and so a password, into a log
            raise exception.GuestError(reason=explain(e)) from None
        finally:
            if connection is not None:
                connection.close()

    def ping(self) -> str:
        """Return the server's version over a connection that is kept; raises NotReady."""
        try:
            if self._kept is None:
                self._kept = self.connect(timeout_s=_CONNECT_TIMEOUT_S)
            else:
                self._kept.ping(reconnect=False)
            version = str(self._kept.get_server_info())  # type: ignore[no-untyped-call]
            # MariaDB pretends to be 5.5.5 for the sake of old replicas
            return version.removeprefix("5.5.5-")
        except pymysql.err.MySQLError as e:
            self.disconnect()
            raise base.NotReady(reason=explain(e)) from None

    def disconnect(self) -> None:
        """Close the kept connection."""
        if self._kept is not None:
            kept, self._kept = self._kept, None
            with contextlib.suppress(pymysql.err.MySQLError, OSError):
                kept.close()


class KeptConnection:
    """A connection that is kept from one use to the next; several threads may use it in turn."""

    #: Longest a disconnect waits for statements under way, which time out by themselves.
    _PATIENCE_S = 0.2

    def __init__(self, connector: Connector) -> None:
        """Take what connects, when it is first needed."""
        self._connector = connector
        self._lock = threading.Lock()
        self._connection: pymysql.connections.Connection[Any] | None = None

    @contextlib.contextmanager
    def session(self) -> Iterator[Session]:
        """Use the connection for some statements; raises NotReady, GuestError."""
        with self._lock:
            try:
                if self._connection is None:
                    self._connection = self._connector.connect(timeout_s=_CONNECT_TIMEOUT_S)
                yield Session(self._connection)
            except pymysql.err.MySQLError as e:
                self._close()
                if isinstance(e, pymysql.err.OperationalError) and e.args[0] in LOST:
                    raise base.NotReady(reason=explain(e)) from None
                raise exception.GuestError(reason=explain(e)) from None

    def disconnect(self) -> None:
        """Close the connection, unless it is in use for longer than a moment."""
        if self._lock.acquire(timeout=self._PATIENCE_S):
            try:
                self._close()
            finally:
                self._lock.release()

    def _close(self) -> None:
        if self._connection is not None:
            kept, self._connection = self._connection, None
            with contextlib.suppress(pymysql.err.MySQLError, OSError):
                kept.close()
