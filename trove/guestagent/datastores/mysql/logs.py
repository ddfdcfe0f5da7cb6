"""The logs of the MySQL family: general and slow queries, the server's errors, the agent's own.

The server writes the first two into a directory of its own on the volume; the agent makes pieces of
them, in a directory that only the agent enters. All of them are switched and opened anew without a
restart of the server.
"""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Mapping

from trove.datastores import mysql
from trove.datastores import spec as datastore_spec
from trove.guestagent.datastores import base
from trove.guestagent.datastores.mysql import connection
from trove.guestagent.logs import own, part, stream
from trove.guestagent.system import filesystem

_MIB = 1024 * 1024
#: System logs are small.
_SYSTEM_BOUNDS = stream.Bounds(total_bytes=8 * _MIB, piece_bytes=_MIB)
#: Log -> (system variable that switches it, statement that has it opened anew).
_SWITCHED: Mapping[str, tuple[str, str]] = {
    mysql.GENERAL_LOG: ("general_log", "FLUSH LOCAL GENERAL LOGS"),
    mysql.SLOW_QUERY_LOG: ("slow_query_log", "FLUSH LOCAL SLOW LOGS"),
}


class MysqlLogFiles:
    """Where the logs of an instance are, and what the server's configuration says of them."""

    def __init__(self, environment: base.Environment, connector: connection.Connector) -> None:
        """Take the instance and what connects to its server."""
        self._environment = environment
        self._layout = environment.layout
        self._connector = connector
        self.streams = {name: self._make_switched(name) for name in _SWITCHED}

    @property
    def _pieces_dir(self) -> pathlib.Path:
        return self._layout.volume_agent_dir / "logs"

    def _active(self, name: str) -> pathlib.Path:
        return self._layout.engine_logs_dir / f"{name}.log"

    def _make_switched(self, name: str) -> stream.Stream:
        return stream.Stream(
            self._active(name),
            self._pieces_dir / name,
            reopen=functools.partial(self._execute, _SWITCHED[name][1]),
        )

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
            options[option] = "ON" if self.streams[name].record.enabled else "OFF"
            options[f"{option}-file"] = str(self._active(name))
        return options

    def switch(self, name: str, enabled: bool) -> None:
        """Have the running server write a log or not; raises GuestError."""
        variable = _SWITCHED[name][0]
        if enabled:
            self.ensure_directories()
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


def _bounds(environment: base.Environment) -> stream.Bounds:
    """Return how much of the volume a log may take: a 32nd, 16 to 256 MiB."""
    volume_gib = (environment.store.find("settings") or {}).get("volume_size_gib") or 1
    total = max(16, min(int(volume_gib) * 32, 256)) * _MIB
    return stream.Bounds(total_bytes=total, piece_bytes=total // 8)


def _is_nearly_full(environment: base.Environment) -> bool:
    try:
        return filesystem.disk_use(environment.layout.mount_point).is_nearly_full
    except FileNotFoundError:
        # nothing is installed yet
        return False


def make(files: MysqlLogFiles, environment: base.Environment) -> part.StreamLogs:
    """Return the logs of an instance, put together."""
    layout = environment.layout
    own_dir = layout.agent_dir / "logs"
    own_log = own.OwnLog(own_dir / "guest.log")
    switched = tuple(
        part.Source(
            spec=datastore_spec.LogSpec(name=name, type=datastore_spec.LogType.USER),
            stream=files.streams[name],
            bounds=functools.partial(_bounds, environment),
            switch=functools.partial(files.switch, name),
        )
        for name in _SWITCHED
    )
    error = part.Source(
        spec=datastore_spec.LogSpec(name=mysql.ERROR_LOG, type=datastore_spec.LogType.SYS),
        stream=stream.Stream(
            layout.log,
            own_dir / mysql.ERROR_LOG,
            reopen=files.reopen_errors,
            make_active=files.ensure_error_log,
        ),
        bounds=lambda: _SYSTEM_BOUNDS,
        keeps_published=True,
    )
    guest = part.Source(
        spec=datastore_spec.GUEST_LOG,
        stream=stream.Stream(
            own_dir / "guest.log",
            own_dir / datastore_spec.GUEST_LOG.name,
            reopen=own_log.reopen,
        ),
        bounds=lambda: _SYSTEM_BOUNDS,
        keeps_published=True,
    )
    return part.StreamLogs(
        (*switched, error, guest),
        is_nearly_full=functools.partial(_is_nearly_full, environment),
        own_log=own_log,
    )
