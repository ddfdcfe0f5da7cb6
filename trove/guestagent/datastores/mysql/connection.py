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
import socket
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pymysql
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


def _quote(connection: pymysql.connections.Connection[Any], value: object) -> str:
    """Return a value as it stands in a statement."""
    if isinstance(value, Identifier):
        return "`" + value.name.replace("`", "``") + "`"
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

    def connect(self, *, timeout_s: int) -> pymysql.connections.Connection[Any]:
        """Open a connection whose statements may take so long; raises ServerError."""
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

    @contextlib.contextmanager
    def session(self) -> Iterator[Session]:
        """Open a connection for some statements; raises GuestError for what the server refuses."""
        connection = None
        try:
            connection = self.connect(timeout_s=_STATEMENT_TIMEOUT_S)
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
