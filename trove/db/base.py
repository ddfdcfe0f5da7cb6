"""The way to the SQL backend: oslo.db's enginefacade, transactions as context managers.

A writer on SQLite takes the write lock when it begins: a transaction that first read and then
wrote would fail at once, without waiting, when another one had committed in between. On servers
transactions are READ COMMITTED: every change is a conditional UPDATE that sees the newest row, and
gap locks would only add deadlocks.

Readers use plain sessions: they have nothing to commit, and enginefacade's bookkeeping costs more
than the query. They have a pool of their own. On SQLite files, since oslo.db opens the file anew
for each transaction; on servers, since READ COMMITTED gives each statement its own snapshot anyway,
and without transactions a read is one round trip instead of four.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import sqlalchemy as sa
from oslo_config import cfg
from oslo_db import api as oslo_db_api
from oslo_db import exception as oslo_db_exception
from oslo_db.sqlalchemy import enginefacade, exc_filters
from sqlalchemy import orm

from trove.common import exception
from trove.db import events, notifications

#: Anything the backend refused or could not do.
DatabaseError = oslo_db_exception.DBError

#: MariaDB and MySQL: ER_DISK_FULL, ER_ERROR_ON_WRITE, ER_RECORD_FILE_FULL.
_SERVER_FULL = frozenset({1021, 1026, 1114})
#: SQLite, of which a full disk is either one or the other.
_SQLITE_FULL = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR})


class BackendFailed(oslo_db_exception.DBError):
    """The backend itself could not do it; oslo.db leaves such errors to SQLAlchemy's class."""

    def __init__(self, error: sa.exc.OperationalError) -> None:
        """Take the error that it was told by."""
        super().__init__(error)
        cause = error.orig
        if isinstance(cause, sqlite3.Error):
            # the upper bits say more than is asked here
            code = getattr(cause, "sqlite_errorcode", 0) & 0xFF
            self.is_full = code in _SQLITE_FULL
        else:
            self.is_full = bool(set(getattr(cause, "args", ())[:1]) & _SERVER_FULL)


_F = TypeVar("_F", bound=Callable[..., Any])


def retry_on_conflict(function: _F) -> _F:
    """Repeat a function that is one whole transaction when the backend ended it for a deadlock.

    Galera and InnoDB may refuse any transaction so; nothing of it was kept.
    """
    wrap = oslo_db_api.wrap_db_retry(
        max_retries=10, retry_interval=0.02, max_retry_interval=0.5, retry_on_deadlock=True
    )
    return wrap(function)


class _Context:
    """What enginefacade hangs its sessions on; one a transaction."""


enginefacade.transaction_context_provider(_Context)

_WRITER = "trove_writer"
_IDLE_SINCE = "trove_idle_since"
#: A connection that answered this recently is not tried before it is used.
_TRUSTED_S = 1.0


def _tune_sqlite(dbapi_connection: Any, record: Any) -> None:
    """Have writers and readers of SQLite side by side, and keep what was committed."""
    cursor = dbapi_connection.cursor()
    cursor.execute("PRAGMA busy_timeout=20000")
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _begin_immediate(connection: sa.Connection) -> None:
    """Have a writer hold the write lock from the beginning.

    oslo.db has just begun a deferred transaction, in which nothing happened yet: this swaps it.
    """
    if _WRITER in connection.get_execution_options():
        connection.exec_driver_sql("ROLLBACK")
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def _tune_server(dbapi_connection: Any, record: Any) -> None:
    """Choose the isolation of a MariaDB or MySQL session."""
    cursor = dbapi_connection.cursor()
    cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
    cursor.close()


def _tune_sqlite_reader(dbapi_connection: Any, record: Any) -> None:
    """Refuse writes and let SQLAlchemy begin transactions, so that a reader has one snapshot."""
    _tune_sqlite(dbapi_connection, record)
    dbapi_connection.isolation_level = None
    dbapi_connection.execute("PRAGMA query_only=ON").close()


def _make_sqlite_reader(connection: str) -> sa.Engine:
    """Return an engine for reading an SQLite file, with connections that are kept open."""
    engine = sa.create_engine(connection, poolclass=sa.QueuePool, max_overflow=-1)
    exc_filters.register_engine(engine)
    sa.event.listen(engine, "connect", _tune_sqlite_reader)
    sa.event.listen(engine, "begin", lambda begun: begun.exec_driver_sql("BEGIN"))
    return engine


def _tune_server_reader(dbapi_connection: Any, record: Any) -> None:
    """Refuse writes."""
    cursor = dbapi_connection.cursor()
    cursor.execute("SET SESSION TRANSACTION READ ONLY")
    cursor.close()


def _make_server_reader(connection: str, options: Mapping[str, Any]) -> sa.Engine:
    """Return an engine for reading from MariaDB or MySQL, without transactions."""
    sizes = {
        name: options[given]
        for name, given in (
            ("pool_size", "max_pool_size"),
            ("max_overflow", "max_overflow"),
            ("pool_timeout", "pool_timeout"),
            ("pool_recycle", "connection_recycle_time"),
        )
        if options.get(given) is not None
    }
    engine = sa.create_engine(
        connection, isolation_level="AUTOCOMMIT", skip_autocommit_rollback=True, **sizes
    )
    exc_filters.register_engine(engine)
    sa.event.listen(engine, "connect", _tune_server_reader)
    _ping_after_rest(engine)
    return engine


def _ping_after_rest(engine: sa.Engine) -> None:
    """Try a connection that was idle for a while before it is used: the server may be gone.

    One that just answered is trusted: asking costs as much as a short query.
    """

    def rest(dbapi_connection: Any, record: Any) -> None:
        record.info[_IDLE_SINCE] = time.monotonic()

    def ping(dbapi_connection: Any, record: Any, proxy: Any) -> None:
        since = record.info.get(_IDLE_SINCE)
        if since is None or time.monotonic() - since < _TRUSTED_S:
            return
        try:
            engine.dialect.do_ping(dbapi_connection)
        except engine.dialect.loaded_dbapi.Error as e:
            # the pool connects anew
            raise sa.exc.DisconnectionError from e

    sa.event.listen(engine, "checkin", rest)
    sa.event.listen(engine, "checkout", ping)


def _listen(engine: sa.Engine) -> None:
    if engine.dialect.name == "sqlite":
        sa.event.listen(engine, "connect", _tune_sqlite)
        sa.event.listen(engine, "begin", _begin_immediate)
    elif engine.dialect.name in ("mysql", "mariadb"):
        sa.event.listen(engine, "connect", _tune_server)


def _with_charset(connection: str) -> str:
    """Ask MySQL and MariaDB for real UTF-8 where the URL does not say a character set."""
    url = sa.make_url(connection)
    if url.get_backend_name() not in ("mysql", "mariadb") or "charset" in url.query:
        return connection
    return url.update_query_dict({"charset": "utf8mb4"}).render_as_string(hide_password=False)


class Database:
    """Sessions on the configured backend.

    ``reader()`` and ``writer()`` are context managers that give a Session in a transaction; a
    writer commits at the end and rolls back on an exception. Errors are oslo.db's.
    """

    def __init__(self, connection: str, **options: Any) -> None:
        """Take an SQLAlchemy URL and enginefacade options; connects on first use."""
        connection = _with_charset(connection)
        self._manager = enginefacade.transaction_context()
        self._manager.configure(connection=connection, **options)
        self._manager.append_on_engine_create(_listen)
        self.is_sqlite = connection.startswith("sqlite")
        #: Whether notifications are written: somebody sends them on.
        self.notifies = False
        url = sa.make_url(connection)
        self._reader: sa.Engine | None = None
        if url.get_backend_name() in ("mysql", "mariadb"):
            self._reader = _make_server_reader(connection, options)
        elif self.is_sqlite and url.database not in (None, "", ":memory:"):
            self._reader = _make_sqlite_reader(connection)

    def __repr__(self) -> str:
        """Say nothing of the connection: its URL holds a password."""
        return f"<Database {'sqlite' if self.is_sqlite else 'server'}>"

    @classmethod
    def from_config(cls, conf: cfg.ConfigOpts) -> Database:
        """Make a Database from the [database] group."""
        group = conf.database
        if not group.connection:
            raise exception.ConfigurationError(reason="[database] connection is not set")
        options: dict[str, Any] = {"connection_recycle_time": group.connection_recycle_time}
        if not group.connection.startswith("sqlite"):
            options |= {
                "max_pool_size": group.max_pool_size,
                "max_overflow": group.max_overflow,
                "pool_timeout": group.pool_timeout,
                "max_retries": group.max_retries,
                "retry_interval": group.retry_interval,
                "mysql_sql_mode": group.mysql_sql_mode,
            }
        return cls(group.connection, **options)

    @property
    def engine(self) -> sa.Engine:
        """The engine, for migrations and tests."""
        return self._manager.writer.get_engine()

    @contextlib.contextmanager
    def reader(self) -> Iterator[orm.Session]:
        """Give a session for reading."""
        with orm.Session(
            self._reader or self.engine, autoflush=False, expire_on_commit=False
        ) as session:
            try:
                yield session
            except sa.exc.OperationalError as e:
                raise BackendFailed(e) from e

    @contextlib.contextmanager
    def writer(self) -> Iterator[orm.Session]:
        """Give a session for writing, committed at the end together with the events of it."""
        try:
            with self._manager.writer.using(_Context()) as session:
                if self.is_sqlite:
                    session.connection(execution_options={_WRITER: True})
                session.info[notifications.ENABLED] = self.notifies
                yield session
                # the last of a transaction: see there
                events.write_pending(session)
        except sa.exc.OperationalError as e:
            raise BackendFailed(e) from e

    def dispose(self) -> None:
        """Close all connections."""
        self._manager.dispose_pool()
        if self._reader is not None:
            self._reader.dispose()
