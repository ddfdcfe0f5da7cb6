"""The logs of the MySQL family: general and slow queries, the server's errors, the agent's own.

MariaDB has an audit log too. The server writes those that tenants switch into a directory of its
own on the volume; the agent makes pieces of them, in a directory that only the agent enters. All
are switched and opened anew without a restart of the server.
"""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable, Mapping

from trove.datastores import mysql
from trove.guestagent.datastores import base, logs
from trove.guestagent.datastores.mysql import audit, connection
from trove.guestagent.logs import part, stream
from trove.guestagent.system import filesystem

#: Log -> (system variable that switches it, statement that has it opened anew).
_SWITCHED: Mapping[str, tuple[str, str]] = {
    mysql.GENERAL_LOG: ("general_log", "FLUSH LOCAL GENERAL LOGS"),
    mysql.SLOW_QUERY_LOG: ("slow_query_log", "FLUSH LOCAL SLOW LOGS"),
}


class MysqlLogFiles:
    """Where the logs of an instance are, and what the server's configuration says of them."""

    def __init__(
        self,
        environment: base.Environment,
        connector: connection.Connector,
        *,
        make_audit: Callable[[pathlib.Path], audit.AuditLog] | None,
    ) -> None:
        """Take the instance, what connects to its server, and what makes an audit log of a path.

        None for a server that has no audit log.
        """
        self._environment = environment
        self._layout = environment.layout
        self._connector = connector
        self.streams = {name: self._make_switched(name) for name in _SWITCHED}
        self._audit: audit.AuditLog | None = None
        if make_audit is not None:
            self._audit = make_audit(self._active(mysql.AUDIT_LOG))
            self.streams[mysql.AUDIT_LOG] = self._make_stream(mysql.AUDIT_LOG, self._reopen_audit)

    @property
    def _pieces_dir(self) -> pathlib.Path:
        return self._layout.volume_agent_dir / "logs"

    def _active(self, name: str) -> pathlib.Path:
        return self._layout.engine_logs_dir / f"{name}.log"

    def _make_switched(self, name: str) -> stream.Stream:
        return self._make_stream(name, functools.partial(self._execute, _SWITCHED[name][1]))

    def _make_stream(self, name: str, reopen: Callable[[], None]) -> stream.Stream:
        return stream.Stream(self._active(name), self._pieces_dir / name, reopen=reopen)

    def _is_enabled(self, name: str) -> bool:
        return self.streams[name].record.enabled

    def _reopen_audit(self) -> None:
        assert self._audit is not None  # noqa: S101 (for the type checker)
        self._audit.reopen(enabled=self._is_enabled(mysql.AUDIT_LOG))

    def ensure_directories(self) -> None:
        """Have the directories that a running server needs, and the agent's own."""
        owner = self._layout.engine_user
        self._layout.make_volume_agent_dir()
        filesystem.ensure_directory(self._layout.engine_logs_dir, mode=0o750, owner=owner)
        filesystem.ensure_directory(self._pieces_dir, mode=0o700)

    def ensure_error_log(self) -> None:
        """Have the file that the server writes its errors to, its own: it opens it anew itself."""
        filesystem.ensure_log(self._layout.log, owner=self._layout.engine_user)

    def options(self) -> dict[str, str]:
        """Return the options of the server's configuration file."""
        options = {"log-error": str(self._layout.log), "log-output": "FILE"}
        for name, (variable, _) in _SWITCHED.items():
            option = variable.replace("_", "-")
            options[option] = "ON" if self._is_enabled(name) else "OFF"
            options[f"{option}-file"] = str(self._active(name))
        if self._audit is not None:
            options |= self._audit.options(enabled=self._is_enabled(mysql.AUDIT_LOG))
        return options

    def switch(self, name: str, enabled: bool) -> None:
        """Have the running server write a log or not; raises GuestError."""
        if enabled:
            self.ensure_directories()
        if name == mysql.AUDIT_LOG:
            assert self._audit is not None  # noqa: S101 (for the type checker)
            self._audit.switch(enabled)
            return
        variable = _SWITCHED[name][0]
        if enabled:
            with self._connector.session() as session:
                path = str(self._active(name))
                session.execute(f"SET GLOBAL {variable}_file = {{path}}", path=path)
        self._execute(f"SET GLOBAL {variable} = {'ON' if enabled else 'OFF'}")

    def _execute(self, statement: str) -> None:
        with self._connector.session() as session:
            session.execute(statement)

    def reopen_errors(self) -> None:
        """Have the server write its errors to a new file."""
        self._execute("FLUSH LOCAL ERROR LOGS")


def make(files: MysqlLogFiles, environment: base.Environment) -> part.StreamLogs:
    """Return the logs of an instance, put together."""
    return logs.compose(
        environment,
        switched=files.streams,
        switch=files.switch,
        error_log=mysql.ERROR_LOG,
        reopen_errors=files.reopen_errors,
        make_error_log=files.ensure_error_log,
    )
