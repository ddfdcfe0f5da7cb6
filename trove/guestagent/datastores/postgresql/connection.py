"""Connections of the agent to its engine, and the one place where SQL is put together.

Statements are :mod:`psycopg2.sql` templates: ``{name}`` is a piece that was made by :func:`name`,
:func:`text` or :func:`names`; nothing else reaches a statement. The agent's settings are its own
whatever a tenant makes the default of a database: in particular where names are looked up, so that
no function of a tenant's is ever called by a superuser, and that nothing of it is logged, passwords
among it.

The driver is psycopg2: its successor costs an agent 12 MiB more, for asyncio and a larger library.
It is driven as for an event loop, since it waits for an answer for ever otherwise.
"""

from __future__ import annotations

import contextlib
import pathlib
import select
import socket
import struct
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, LiteralString

import psycopg2
from psycopg2 import errors, extensions, sql

from trove.common import exception
from trove.datastores import postgresql
from trove.guestagent.datastores import base

#: What a server refuses, as the driver raises it.
ServerError = psycopg2.Error

#: The message SSLRequest: its length and a number that no version of the protocol has.
TLS_REQUEST = struct.pack("!II", 8, 80877103)

_CONNECT_TIMEOUT_S = 3
_STATEMENT_TIMEOUT_S = 30.0
_LOOK_S = 0.05
_RELOAD_TIMEOUT_S = 10.0
_OPTIONS = {
    "search_path": "pg_catalog",
    "default_transaction_read_only": "off",
    "default_transaction_isolation": "read\\ committed",
    "role": "none",
    "row_security": "off",
    "statement_timeout": "25s",
    "lock_timeout": "10s",
    "idle_session_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "standard_conforming_strings": "on",
    "client_min_messages": "warning",
    "synchronous_commit": "on",
    "log_statement": "none",
    "log_min_duration_statement": "-1",
    "log_min_duration_sample": "-1",
    "log_duration": "off",
    "log_min_error_statement": "panic",
}
#: The same for what a version has first.
_LATER_OPTIONS = {17: {"transaction_timeout": "0", "event_triggers": "off"}}


def name(text: str) -> sql.Identifier:
    """Return a name of a database, a role or the like."""
    return sql.Identifier(text)


def names(texts: Iterable[str]) -> sql.Composed:
    """Return a list of names."""
    return sql.SQL(", ").join(map(sql.Identifier, texts))


def text(value: str) -> sql.Literal[str]:
    """Return a text where a statement takes no parameters."""
    return sql.Literal(value)


def _wait(connection: extensions.connection, until_s: float) -> None:
    """Wait for the end of an exchange until a moment; raises OperationalError."""
    while (state := connection.poll()) != extensions.POLL_OK:
        left_s = until_s - time.monotonic()
        if left_s <= 0:
            raise psycopg2.OperationalError("the server did not answer in time")
        reading = [connection] if state == extensions.POLL_READ else []
        writing = [connection] if state == extensions.POLL_WRITE else []
        select.select(reading, writing, [], left_s)


class Session:
    """An open connection; errors of the server stay psycopg2's, others become GuestError."""

    def __init__(self, connection: extensions.connection, *, timeout_s: float) -> None:
        """Use a connection, and give up on a server that does not answer in time."""
        self._connection = connection
        self._timeout_s = timeout_s
        self._prepared: dict[str, str] = {}

    def execute(
        self, template: LiteralString, *values: object, **pieces: sql.Composable
    ) -> Sequence[tuple[Any, ...]]:
        """Run a statement with these values in place of ``%s`` and return its rows."""
        statement = sql.SQL(template)
        return self._run(statement.format(**pieces) if pieces else statement, values or None)

    def _run(
        self, statement: sql.Composable, values: Sequence[object] | None = None
    ) -> Sequence[tuple[Any, ...]]:
        with self._connection.cursor() as cursor:
            cursor.execute(statement, values)
            _wait(self._connection, time.monotonic() + self._timeout_s)
            return cursor.fetchall() if cursor.description is not None else []

    def repeat(self, query: LiteralString) -> Sequence[tuple[Any, ...]]:
        """Return the rows of a query that the server plans once for this connection."""
        prepared = self._prepared.get(query)
        if prepared is None:
            prepared = f"trove_{len(self._prepared)}"
            self._run(sql.SQL("PREPARE {} AS ").format(name(prepared)) + sql.SQL(query))
            self._prepared[query] = prepared
        return self.execute("EXECUTE {name}", name=name(prepared))

    @property
    def major_version(self) -> int:
        """The first number of the server's version."""
        return int(self._connection.server_version // 10000)

    def verifier(self, user: str, password: str) -> str:
        """Return what the server keeps of a password (SCRAM), so that it never sees the password.

        It does not depend on the user's name.
        """
        return str(
            extensions.encrypt_password(
                password, user, scope=self._connection, algorithm="scram-sha-256"
            )
        )

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def explain(error: psycopg2.Error) -> str:
    """Return what an error of the server means for people; statements are not repeated."""
    if isinstance(error, errors.DiskFull):
        return "the disk is full: delete data or resize the volume"
    if error.pgcode is None:
        return "the database does not answer: see the status of the instance"
    return f"the database says ({error.pgcode}) {(error.diag.message_primary or '')[:300]}"


class Connector:
    """Opens connections over the engine's socket as the agent's own account."""

    def __init__(self, directory: pathlib.Path, *, port: int, data_dir: pathlib.Path) -> None:
        """Take where the engine's socket is, the port that names it, and the data directory."""
        self._directory = directory
        self._port = port
        self._data_dir = data_dir
        self._kept: Session | None = None
        self._lock = threading.Lock()

    def _options(self) -> str:
        """Return the settings of a session, as far as the version of the data has them."""
        options = dict(_OPTIONS)
        with contextlib.suppress(OSError, ValueError):
            major = int((self._data_dir / "PG_VERSION").read_text(encoding="ascii"))
            for first, later in _LATER_OPTIONS.items():
                if major >= first:
                    options.update(later)
        return " ".join(f"-c {name}={value}" for name, value in options.items())

    def _connect(self, database: str, *, timeout_s: float) -> Session:
        connection = psycopg2.connect(
            host=str(self._directory),
            port=self._port,
            user=postgresql.AGENT_USER,
            dbname=database,
            application_name="trove",
            client_encoding="UTF8",
            options=self._options(),
            # nothing of the environment or of the agent's home counts
            passfile=str(self._directory / "none"),
            sslmode="disable",
            gssencmode="disable",
            async_=True,
        )
        try:
            _wait(connection, time.monotonic() + min(timeout_s, _CONNECT_TIMEOUT_S))
        except BaseException:
            connection.close()
            raise
        return Session(connection, timeout_s=timeout_s)

    @contextlib.contextmanager
    def session(self, database: str = postgresql.HOME_DATABASE) -> Iterator[Session]:
        """Open a connection for some statements; raises GuestError for what the server refuses."""
        session = None
        try:
            session = self._connect(database, timeout_s=_STATEMENT_TIMEOUT_S)
            yield session
        except psycopg2.Error as e:
            # from None: the chain would put the statement into a log
            raise exception.GuestError(reason=explain(e)) from None
        finally:
            if session is not None:
                session.close()

    @contextlib.contextmanager
    def kept(self) -> Iterator[Session]:
        """Use the connection that is kept, one thread at a time; raises NotReady."""
        with self._lock:
            try:
                if self._kept is None:
                    self._kept = self._connect(
                        postgresql.HOME_DATABASE, timeout_s=float(_CONNECT_TIMEOUT_S)
                    )
                yield self._kept
            except psycopg2.Error as e:
                self._drop()
                raise base.NotReady(reason=explain(e)) from None

    def knock(self) -> None:
        """Have the server answer a new client, which costs it no session; raises NotReady.

        Sessions that there are go on when the server itself takes no new ones.
        """
        path = self._directory / f".s.PGSQL.{self._port}"
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as channel:
                channel.settimeout(_CONNECT_TIMEOUT_S)
                channel.connect(str(path))
                channel.sendall(TLS_REQUEST)
                if channel.recv(1):
                    return
        except OSError:
            pass
        raise base.NotReady(reason="the database does not answer: see the status of the instance")

    def reload(self) -> None:
        """Have the server read its files again, and wait until it has; raises GuestError."""
        moment = threading.Event()
        until_s = time.monotonic() + _RELOAD_TIMEOUT_S
        with self.session() as session:
            ((before,),) = session.execute("SELECT pg_conf_load_time()")
            session.execute("SELECT pg_reload_conf()")
            while session.execute("SELECT pg_conf_load_time()")[0][0] == before:
                if time.monotonic() > until_s:
                    raise exception.GuestError(reason="the database did not read its files again")
                moment.wait(_LOOK_S / 5)

    def disconnect(self) -> None:
        """Close the kept connection."""
        with self._lock:
            self._drop()

    def _drop(self) -> None:
        if self._kept is not None:
            kept, self._kept = self._kept, None
            with contextlib.suppress(psycopg2.Error, OSError):
                kept.close()
