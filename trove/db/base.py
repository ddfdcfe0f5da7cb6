"""The way to the SQL backend: oslo.db's enginefacade, transactions as context managers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from oslo_config import cfg
from oslo_db.sqlalchemy import enginefacade
from sqlalchemy import orm

from trove.common import exception


class _Context:
    """What enginefacade hangs its sessions on; one a transaction."""


enginefacade.transaction_context_provider(_Context)


def _tune_sqlite(dbapi_connection: Any, record: Any) -> None:
    """Have writers and readers of SQLite side by side, and keep what was committed."""
    cursor = dbapi_connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.execute("PRAGMA busy_timeout=10000")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


class Database:
    """Sessions on the configured backend.

    ``reader()`` and ``writer()`` are context managers that give a Session in a transaction; a
    writer commits at the end and rolls back on an exception. Errors are oslo.db's.
    """

    def __init__(self, connection: str, **options: Any) -> None:
        """Take an SQLAlchemy URL and enginefacade options; connects on first use."""
        self._manager = enginefacade.transaction_context()
        self._manager.configure(connection=connection, **options)
        self.is_sqlite = connection.startswith("sqlite")
        if self.is_sqlite:
            self._manager.append_on_engine_create(
                lambda engine: sa.event.listen(engine, "connect", _tune_sqlite)
            )

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
        with self._manager.reader.using(_Context()) as session:
            yield session

    @contextlib.contextmanager
    def writer(self) -> Iterator[orm.Session]:
        """Give a session for writing, committed at the end."""
        with self._manager.writer.using(_Context()) as session:
            yield session

    def dispose(self) -> None:
        """Close all connections."""
        self._manager.dispose_pool()
