"""The mark of a backup: a row of the agent's own among the system's tables, not replicated."""

from __future__ import annotations

import pymysql.err

from trove.guestagent.datastores.mysql import connection

#: The table, of the database ``mysql``.
NAME = "trove_backup"
_TABLE = (
    "CREATE TABLE IF NOT EXISTS mysql.trove_backup"
    " (id TINYINT PRIMARY KEY, mark VARCHAR(64) NOT NULL) ENGINE = InnoDB"
)
_BRIEF = "SET SESSION sql_log_bin = 0, lock_wait_timeout = 2, innodb_lock_wait_timeout = 2"
_NO_SUCH_TABLE = 1146


def write(connector: connection.Connector, mark: str) -> None:
    """Write a mark, durably; raises GuestError."""
    with connector.session() as session:
        session.execute(_BRIEF)
        session.execute(_TABLE)
        session.execute("REPLACE INTO mysql.trove_backup (id, mark) VALUES (1, {mark})", mark=mark)


def find(connector: connection.Connector) -> str | None:
    """Return the mark that there is; raises GuestError."""
    with connector.session() as session:
        try:
            rows = session.execute("SELECT mark FROM mysql.trove_backup WHERE id = 1")
        except pymysql.err.MySQLError as e:
            if e.args[0] != _NO_SUCH_TABLE:
                raise
            return None
    return str(rows[0][0]) if rows else None
