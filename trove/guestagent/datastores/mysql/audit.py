"""The audit log of MariaDB: who connected, or failed to, and statements that define data or rights.

The server's own plugin writes it. It is loaded when the log is first enabled, and from then on at
every start for as long as the log is enabled: the configuration file says so, and has the plugin
stay until the server ends. Nothing is left in the data, which a backup would carry to a server
without the plugin.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable

from oslo_log import log

from trove.common import exception
from trove.datastores import mysql
from trove.guestagent.datastores.mysql import connection

LOG = log.getLogger(__name__)

_PLUGIN = "server_audit"
#: Where packages and archives have the plugins, below the server's base directory.
_PLUGIN_DIRS = ("lib/mysql/plugin", "lib64/mysql/plugin", "lib/plugin")
_EVENTS = "CONNECT,QUERY_DDL,QUERY_DCL"
#: Options of the configuration file that a running server need not be told, nor waits for.
OPTIONS = frozenset(
    {
        "plugin_load_add",
        _PLUGIN,
        *(
            f"{_PLUGIN}_{name}"
            for name in ("excl_users", "events", "file_rotations", "file_path", "logging")
        ),
    }
)


class AuditLog:
    """What writes the audit log."""

    def __init__(
        self,
        connector: connection.Connector,
        *,
        path: pathlib.Path,
        find_basedir: Callable[[], str],
        rewrite_configuration: Callable[[], object],
    ) -> None:
        """Take the server and the file to write.

        ``rewrite_configuration`` brings :meth:`options` into the file that the server reads: it
        reads it again when it loads the plugin.
        """
        self._connector = connector
        self._path = path
        self._find_basedir = find_basedir
        self._rewrite_configuration = rewrite_configuration

    def options(self, *, enabled: bool) -> dict[str, str]:
        """Return the options of the server's configuration file."""
        if not enabled:
            return {}
        if not self._is_installed():
            LOG.warning("the server starts without an audit log: it has no plugin %s", _PLUGIN)
            return {}
        # loose: a server that cannot load the plugin starts without it
        return {
            "plugin-load-add": _PLUGIN,
            "loose-server-audit": "FORCE_PLUS_PERMANENT",
            **{
                f"loose-{_PLUGIN}-{name}".replace("_", "-"): value
                for name, value in self._settings().items()
            },
            "loose-server-audit-logging": "ON",
        }

    def _settings(self) -> dict[str, str]:
        return {
            "excl_users": mysql.AGENT_USER,
            "events": _EVENTS,
            # the agent makes the pieces
            "file_rotations": "0",
            "file_path": str(self._path),
        }

    def _is_installed(self) -> bool:
        base = pathlib.Path(self._find_basedir())
        return any((base / each / f"{_PLUGIN}.so").is_file() for each in _PLUGIN_DIRS)

    def switch(self, enabled: bool) -> None:
        """Have the running server write the log or not; raises GuestError."""
        if enabled and not self._is_installed():
            raise exception.GuestError(
                reason=f"the server is installed without its plugin {_PLUGIN}: install the whole"
                " package mariadb-server, or rebuild the image"
            )
        with self._connector.session() as session:
            if enabled:
                self._load(session)
                _begin(session)
            elif _is_loaded(session):
                session.execute("SET GLOBAL server_audit_logging = OFF")

    def _load(self, session: connection.Session) -> None:
        if not _is_loaded(session):
            self._rewrite_configuration()
            session.execute(f"INSTALL SONAME '{_PLUGIN}'")
        # the configuration file alone says what is loaded at a start
        session.execute("SET SESSION sql_log_bin = 0")
        session.execute("DELETE FROM mysql.plugin WHERE LOWER(name) = {name}", name=_PLUGIN)
        # a table that was written and is open looks damaged to the program that tries options
        session.execute("FLUSH LOCAL TABLES mysql.plugin")
        for name, value in self._settings().items():
            shown = int(value) if value.isdigit() else value
            session.execute(f"SET GLOBAL {_PLUGIN}_{name} = {{value}}", value=shown)

    def reopen(self, *, enabled: bool) -> None:
        """Have the server open the file anew, if it writes to one; raises GuestError."""
        with self._connector.session() as session:
            if _is_loaded(session):
                path = str(self._path)
                session.execute("SET GLOBAL server_audit_file_path = {path}", path=path)
                if enabled:
                    _begin(session)


def _begin(session: connection.Session) -> None:
    """Have the log written; raises GuestError when it is not."""
    session.execute("SET GLOBAL server_audit_logging = ON")
    status = {
        str(name).lower(): str(value)
        for name, value in session.execute("SHOW GLOBAL STATUS LIKE 'server_audit_%'")
    }
    if status.get("server_audit_active") != "ON":
        said = status.get("server_audit_last_error") or "it does not say why"
        raise exception.GuestError(reason=f"the server writes no audit log: {said[:300]}")


def _is_loaded(session: connection.Session) -> bool:
    rows = session.execute(
        "SELECT 1 FROM information_schema.PLUGINS"
        " WHERE LOWER(PLUGIN_NAME) = {name} AND PLUGIN_STATUS = 'ACTIVE'",
        name=_PLUGIN,
    )
    return bool(rows)
