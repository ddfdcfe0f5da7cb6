"""The engine of the Redis family as a process.

Writes are in the log of writes (``appendonlydir``), snapshots come on top. A server that is to log
its writes and finds no log starts empty, whatever snapshot lies beside: so one that finds a
snapshot alone is started without the log, and told to begin it once the snapshot is loaded.
"""

from __future__ import annotations

import os
import pathlib
import re
from typing import ClassVar

from trove.datastores import redis as facts
from trove.datastores import redis_configuration
from trove.guestagent import tls
from trove.guestagent.datastores import base, server
from trove.guestagent.datastores.redis import connection, template
from trove.guestagent.datastores.redis import dialect as dialects
from trove.guestagent.datastores.redis import users as user_lists
from trove.guestagent.system import filesystem, process

#: Warnings of the server; in a failed start the last ones tell why.
_WARNING = re.compile(r"^\d+:\w .{15,35} # (.+)$", re.MULTILINE)
_REFUSED = re.compile(r"FATAL CONFIG FILE ERROR.*?\n>>> (.+?)(?:\n\Z|\n\d+:|\Z)", re.DOTALL)
_LACK_OF_MEMORY = ("out of memory allocating", "cannot allocate memory", "oom loading db")
_DAMAGED = (
    "bad file format reading the append only file",
    "unexpected end of file reading the append only file",
    "invalid aof manifest file",
    "internal error in rdb reading",
    "unrecoverable error reading the append only file",
    "wrong signature trying to load db",
    "short read or oom loading db",
    "rdb crc error",
)
#: Advice about the machine, which the server gives at every start.
_ADVICE = ("WARNING", "Warning")


class RedisService(server.Server):
    """A server of the family."""

    configuration_name: ClassVar[str] = "engine.conf"
    stop_timeout_s: ClassVar[float] = 60.0
    headroom_bytes: ClassVar[int] = 16 * 1024 * 1024

    def __init__(self, dialect: dialects.Dialect, environment: base.Environment) -> None:
        """Take the member of the family and where to run it."""
        super().__init__(environment)
        self._dialect = dialect
        self.socket = self._run_dir / "engine.sock"
        password = environment.store.password("os_admin")
        self.connector = connection.Connector(
            self.socket, password=password, version_field=dialect.version_field
        )
        self.users = user_lists.UserList(self._layout, self.connector, password=password)
        #: Whether the running server was given its users by this agent.
        self._knows_users = False

    # -- installing -----

    def check_programs(self) -> None:
        """Raise GuestError unless the server program is installed."""
        self.find_server()

    def find_server(self) -> pathlib.Path:
        """Return the server program; raises GuestError."""
        return template.find_server(self._dialect, basedir=self._environment.basedir)

    def has_tls(self) -> bool:
        """Tell whether the server program was built with TLS; raises GuestError."""
        return template.has_tls(self.find_server(), user=self._layout.engine_user)

    def make_data(self, work: pathlib.Path) -> None:
        """Make a new data directory: the server fills it."""
        filesystem.ensure_directory(work, mode=0o700, owner=self._layout.engine_user)

    # -- the configuration -----

    def _has_log_of_writes(self) -> bool:
        return (self._layout.data_dir / "appendonlydir" / "appendonly.aof.manifest").exists()

    def _must_load_snapshot(self) -> bool:
        return not self._has_log_of_writes() and (self._layout.data_dir / "dump.rdb").exists()

    def options(self, settings: base.Settings) -> dict[str, str]:
        """Return what settings mean for the server, as the file says it; raises GuestError."""
        return redis_configuration.options(
            memory_mib=settings.memory_mib, vcpus=settings.vcpus, overrides=settings.overrides
        )

    def tls_options(self, setting: tls.Setting) -> dict[str, str]:
        """Return the options of TLS, ports among them, by name."""
        directory = self.tls_store.directory
        return {
            "tls-cert-file": str(directory / tls.CERTIFICATE),
            "tls-key-file": str(directory / tls.KEY),
            "tls-ca-cert-file": str(directory / tls.CA),
            "tls-auth-clients": "yes" if setting.requires_client_certificate else "no",
            "tls-port": str(self.tls_port),
            "port": "0" if setting.requires_tls else str(self._environment.port),
        }

    @property
    def tls_port(self) -> int:
        """Where the server speaks TLS: the port behind the one for plain connections."""
        return self._environment.port + facts.TLS_PORT - facts.PORT

    @property
    def address(self) -> str:
        """Where the server listens."""
        return self._environment.bind_address

    def render_configuration(self, settings: base.Settings) -> str:
        """Return the text of the configuration file."""
        layout = self._layout
        values = self.options(settings)
        if self._must_load_snapshot():
            values["appendonly"] = "no"
        places = {
            "bind": self.address,
            "unixsocket": str(self.socket),
            "unixsocketperm": "700",
            "dir": str(layout.data_dir),
            "logfile": str(layout.log),
            "aclfile": str(self.users.path),
        }
        if settings.has_tls and self.has_tls():
            places.update(self.tls_options(self.tls_store.setting()))
        else:
            places["port"] = str(self._environment.port)
        return redis_configuration.render(values, places, memory_mib=settings.memory_mib)

    # -- the process -----

    @property
    def marker(self) -> str:
        """The path of this instance's configuration file."""
        return str(self._config_file)

    def command(self) -> process.Command:
        """Check programs, directories and the ports, and return how to start the server."""
        layout = self._layout
        program = self.find_server()
        for port in (self._environment.port, self.tls_port):
            self.check_port(port)
        # a new release of the agent may write another configuration, and other rules
        self.rewrite_configuration()
        self.users.adopt(former_data_dir=layout.replaced_data_dir)
        self.users.write_file()
        self._knows_users = True
        self.ensure_error_log()
        layout.make_volume_agent_dir()
        filesystem.ensure_directory(self.logs_dir, mode=0o700)
        return process.Command(
            argv=(str(program), self.marker),
            marker=self.marker,
            user=layout.engine_user,
            log=layout.log,
            directory=layout.data_dir,
            environment={"PATH": os.defpath, "LC_ALL": "C.UTF-8", "TZ": "UTC"},
        )

    @property
    def logs_dir(self) -> pathlib.Path:
        """Where the agent writes logs for the server, on the volume."""
        return self._layout.volume_agent_dir / "logs"

    def ensure_error_log(self) -> None:
        """Have the file that the server writes to, its own: it opens it anew for each line."""
        filesystem.ensure_log(self._layout.log, owner=self._layout.engine_user)

    def ping(self) -> str:
        """Return the version of the server when it answers."""
        return self.connector.ping(greet=self._greet)

    def prove_write(self) -> None:
        """Delete a key that nobody has: a server that cannot store its writes refuses that."""
        self.connector.prove_write()

    def _greet(self, client: connection.Client) -> None:
        """Have a server that answers for the first time log its writes and know its users."""
        if client.config_get("appendonly")["appendonly"] == "no":
            client.config_set({"appendonly": "yes"})
        if not self._has_log_of_writes():
            raise base.NotReady(reason="it is writing its data to the log of writes")
        if not self._knows_users:
            self.users.synchronize(client)
            self._knows_users = True

    def disconnect(self) -> None:
        """Close the connection that pings use."""
        self.connector.disconnect()

    def set_read_only(self, is_read_only: bool) -> None:
        """Have the server refuse the tenants' writes but deletions, or take them again."""
        self.users.set_read_only(is_read_only)

    def explain_exit(self, return_code: int | None, log: str) -> str:
        """Return why the server ended, from what it wrote."""
        lowered = log.lower()
        if "no space left on device" in lowered:
            return "The disk is full: resize the volume or delete files on it."
        if "address already in use" in lowered:
            return (
                f"Port {self._environment.port} or {self.tls_port} is taken by another program:"
                " stop it, the database starts by itself then."
            )
        refused = _REFUSED.search(log)
        if refused is not None:
            words = " ".join(refused[1].split())
            return f"The configuration is refused by the database: {words[:300]}"
        if any(words in lowered for words in _DAMAGED):
            return (
                "The data cannot be read, a file is damaged: restore a backup. What the server"
                " says is in its log."
            )
        if any(words in lowered for words in _LACK_OF_MEMORY):
            return "The server has too little memory: resize the instance to a larger flavor."
        errors = [words for words in _WARNING.findall(log) if not words.startswith(_ADVICE)]
        return server.explain_end(return_code, errors)
