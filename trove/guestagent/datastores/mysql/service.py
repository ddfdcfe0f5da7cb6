"""The engine of the MySQL family as a process.

The agent's account is asserted by an init file at every start of the engine, so that no tenant can
lock the agent out for longer than until the next restart.
"""

from __future__ import annotations

import os
import pathlib
import re
from collections.abc import Mapping
from typing import ClassVar

from oslo_log import log

from trove.common import exception
from trove.datastores import mysql, mysql_configuration
from trove.guestagent.datastores import base, server
from trove.guestagent.datastores.mysql import (
    archive,
    audit,
    configuration,
    connection,
    logs,
    queries,
    template,
    writes,
)
from trove.guestagent.datastores.mysql import dialect as dialects
from trove.guestagent.system import filesystem, process

LOG = log.getLogger(__name__)

#: Longest the server program may take to read its options.
_TRIAL_TIMEOUT_S = 30.0
_LACK_OF_MEMORY = (
    "cannot allocate memory",
    "out of memory",
    # MariaDB 10.11.12 and later
    "cannot map innodb_buffer_pool",
)
_ERROR_LINE = re.compile(r"\[ERROR\] (.+)$", re.MULTILINE)


class MysqlService(server.Server):
    """A server of the family."""

    configuration_name: ClassVar[str] = "my.cnf"
    stop_timeout_s: ClassVar[float] = 60.0

    def __init__(self, dialect: dialects.Dialect, environment: base.Environment) -> None:
        """Take the member of the family and where to run it."""
        super().__init__(environment)
        self._dialect = dialect
        self._socket = self._run_dir / "engine.sock"
        self._init_file = self._layout.secret_dir / "init.sql"
        self._password = environment.store.password("os_admin")
        self.connector = connection.Connector(self._socket, password=self._password)
        #: For figures, which are read while pings go on.
        self.kept = connection.KeptConnection(self.connector)
        self._writes = writes.Writes(
            dialect, self.connector, kept=self.kept, store=environment.store
        )
        has_audit_log = mysql.AUDIT_LOG in {each.name for each in dialect.spec.logs}
        self.log_files = logs.MysqlLogFiles(
            environment,
            self.connector,
            make_audit=self._make_audit_log if has_audit_log else None,
        )

    def _make_audit_log(self, path: pathlib.Path) -> audit.AuditLog:
        return audit.AuditLog(
            self.connector,
            path=path,
            find_basedir=self._find_basedir,
            rewrite_configuration=self.rewrite_configuration,
        )

    def _find_basedir(self) -> str:
        basedir = self._environment.basedir
        program = template.find_server(self._dialect, basedir=basedir)
        return template.find_basedir(program, basedir=basedir)

    @property
    def socket(self) -> pathlib.Path:
        """Where the server listens for the agent."""
        return self._socket

    @property
    def configuration_file(self) -> pathlib.Path:
        """What the server reads its options from."""
        return self._config_file

    # -- installing -----

    def check_programs(self) -> None:
        """Raise GuestError unless the server program is installed."""
        template.find_server(self._dialect, basedir=self._environment.basedir)

    def make_data(self, work: pathlib.Path) -> None:
        """Make a new data directory."""
        template.build(
            self._dialect,
            target=work,
            user=self._layout.engine_user,
            basedir=self._environment.basedir,
        )

    def reachable_paths(self) -> tuple[pathlib.Path, ...]:
        """Return the paths that the engine's user must be able to reach."""
        return (self._layout.data_dir, self._config_file, self._socket)

    def demand_of_clients(self) -> str:
        """Return what new accounts demand of their clients' TLS, as in CREATE USER."""
        return "X509" if self.tls_store.setting().requires_client_certificate else "NONE"

    def try_configuration(self, text: str) -> None:
        """Raise ConfigurationRefused unless the server could start with a configuration.

        Asked for help, the program reads its options, complains as it would at a start, and ends
        without a look at the data.
        """
        trial = self._layout.engine_dir / "trial.cnf"
        program = template.find_server(self._dialect, basedir=self._environment.basedir)
        filesystem.write_file(trial, text, mode=0o644)
        try:
            result = process.run(
                [str(program), f"--defaults-file={trial}", "--help", "--verbose"],
                timeout_s=_TRIAL_TIMEOUT_S,
                user=self._layout.engine_user,
            )
        finally:
            trial.unlink(missing_ok=True)
        errors = _ERROR_LINE.findall(result.output)
        if result.return_code != 0 or errors:
            words = (errors or result.output.strip().splitlines() or ["no reason was given"])[0]
            raise exception.ConfigurationRefused(reason=f"the database says {words[:300]}")

    def started_with(self) -> Mapping[str, str | int] | None:
        """Return the options that the running server read at its start, when they are known."""
        return (self._store.find("started_with") or {}).get("options")

    def _note_start(self) -> None:
        text = self._config_file.read_text(encoding="utf-8")
        try:
            self._store.save("started_with", {"options": mysql_configuration.options(text)})
        except OSError:
            # on a full disk a server that runs is better than knowing what it runs with
            LOG.warning("what the server starts with was not remembered", exc_info=True)

    def render_configuration(self, settings: base.Settings) -> str:
        """Return the text of the configuration file."""
        environment, layout = self._environment, self._layout
        setting = self.tls_store.setting()
        return configuration.render(
            self._dialect.template,
            settings,
            basedir=self._find_basedir(),
            data_dir=layout.data_dir,
            temporary_dir=layout.temporary_dir,
            exchange_dir=layout.exchange_dir,
            tls_dir=self.tls_store.directory,
            requires_tls=setting.requires_tls,
            run_dir=self._run_dir,
            socket=self._socket,
            init_file=self._init_file,
            bind_address=environment.bind_address,
            port=environment.port,
            keeps_log=archive.is_kept(environment.store),
            logs=self.log_files.options(),
        )

    def _write_init_file(self) -> None:
        """Write what asserts the agent's account; not replicated, not logged."""
        statements = [
            connection.UNLOGGED,
            "SET SESSION sql_log_bin = 0",
            # letters and digits only: see crypto.generate_password
            *(each.format(password=self._password) for each in self._dialect.syntax.assert_agent),
        ]
        if self._dialect.has_disabled_actors and self._counts_statements():
            # last: the server reads no further when it refuses a line
            statements.append(queries.UNCOUNTED.format(user=mysql.AGENT_USER))
        text = "".join(f"{statement};\n" for statement in statements)
        owner = self._layout.engine_user
        filesystem.ensure_file(self._init_file, text, mode=0o600, owner=owner)

    def _counts_statements(self) -> bool:
        """Tell whether the configuration to start with has statistics of statements."""
        options = mysql_configuration.options(self._config_file.read_text(encoding="utf-8"))
        return options.get("performance_schema") == "ON"

    # -- the process -----

    @property
    def marker(self) -> str:
        """The option that names this instance's configuration file."""
        return f"--defaults-file={self._config_file}"

    def command(self) -> process.Command:
        """Check programs, directories and the port, and return how to start the server."""
        layout = self._layout
        program = template.find_server(self._dialect, basedir=self._environment.basedir)
        self.check_port()
        # a new release of the agent may write another configuration
        self.rewrite_configuration()
        self._note_start()
        self._write_init_file()
        self.log_files.ensure_directories()
        self.log_files.ensure_error_log()
        return process.Command(
            argv=(str(program), self.marker),
            marker=self.marker,
            user=layout.engine_user,
            log=layout.log,
            directory=layout.data_dir,
            environment={"PATH": os.defpath, "LC_ALL": "C.UTF-8", "TZ": "UTC"},
        )

    def ping(self) -> str:
        """Return the version of the server when it answers."""
        return self.connector.ping().split("-", 1)[0]

    def disconnect(self) -> None:
        """Close the connections that pings and figures use."""
        self.connector.disconnect()
        self.kept.disconnect()

    def set_read_only(self, is_read_only: bool) -> None:
        """Have the server refuse the tenants' writes, or take them again."""
        self._writes.set_read_only(is_read_only)

    def prove_write(self) -> None:
        """Write a row of the agent's own."""
        self._writes.prove()

    def explain_exit(self, return_code: int | None, log: str) -> str:
        """Return why the server ended, from the errors it wrote."""
        lowered = log.lower()
        if "no space left on device" in lowered or "disk is full" in lowered:
            return "The disk is full: resize the volume or delete files on it."
        if "address already in use" in lowered:
            return (
                f"Port {self._environment.port} is taken by another program: stop it, the"
                " database starts by itself then."
            )
        if any(words in lowered for words in _LACK_OF_MEMORY):
            return "The server has too little memory: resize the instance to a larger flavor."
        # the last line of a failed start says only that it failed
        errors = [error for error in _ERROR_LINE.findall(log) if error.strip() != "Aborting"]
        return server.explain_end(return_code, errors)
