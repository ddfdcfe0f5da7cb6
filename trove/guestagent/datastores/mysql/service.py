"""The engine of the MySQL family as a process, and its data directory.

The data directory appears by a rename and is complete when it appears. The agent's account is
asserted by an init file at every start of the engine, so that no tenant can lock the agent out for
longer than until the next restart.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import re
import threading
from collections.abc import Mapping
from typing import ClassVar

from oslo_log import log

from trove.common import exception
from trove.datastores import mysql, mysql_configuration
from trove.guestagent import certificates, tls
from trove.guestagent.datastores import base
from trove.guestagent.datastores.mysql import configuration, connection, logs, template
from trove.guestagent.datastores.mysql import dialect as dialects
from trove.guestagent.system import filesystem, process
from trove.rpc import payloads

LOG = log.getLogger(__name__)

#: Space that must be left on the volume for a new server to start: redo log, undo, first tables.
_HEADROOM_BYTES = 64 * 1024 * 1024
#: Longest the server program may take to read its options.
_TRIAL_TIMEOUT_S = 30.0
_LACK_OF_MEMORY = (
    "cannot allocate memory",
    "out of memory",
    # MariaDB 10.11.12 and later
    "cannot map innodb_buffer_pool",
)
_ERROR_LINE = re.compile(r"\[ERROR\] (.+)$", re.MULTILINE)


class MysqlService(base.Service):
    """A server of the family."""

    stop_timeout_s: ClassVar[float] = 60.0

    def __init__(self, dialect: dialects.Dialect, environment: base.Environment) -> None:
        """Take the member of the family and where to run it."""
        self._dialect = dialect
        self._environment = environment
        self._layout = environment.layout
        self._store = environment.store
        self._run_dir = environment.store.run_dir()
        self._socket = self._run_dir / "engine.sock"
        self._config_file = self._layout.engine_dir / "my.cnf"
        self._init_file = self._layout.secret_dir / "init.sql"
        self._key_file = self._layout.tls_dir / "server-key.pem"
        self.tls_store = tls.TlsStore(self._layout)
        self._password = environment.store.password("os_admin")
        self.connector = connection.Connector(self._socket, password=self._password)
        self.log_files = logs.MysqlLogFiles(environment, self.connector)
        #: Serialises the copying of the data directory.
        self._copying = threading.Lock()

    # -- the data directory -----

    @property
    def _ready_dir(self) -> pathlib.Path:
        """A complete copy, made ahead of time and not yet in its place."""
        return self._layout.mount_point / "data.ready"

    def is_installed(self) -> bool:
        """Tell whether there is a complete data directory and a configuration for it."""
        return self._config_file.exists() and self._layout.data_dir.is_dir()

    def anticipate(self) -> None:
        """Copy the template before anybody asks for it."""
        if self._layout.data_dir.exists() or self._environment.template_dir is None:
            return
        try:
            filesystem.ensure_passable(self._layout.mount_point)
            self._make_data_directory()
        except (OSError, exception.TroveError) as e:
            # installing does it again and reports what is wrong
            LOG.warning("the data directory could not be made ahead of time: %s", e)

    def _make_data_directory(self) -> None:
        """Have a complete data directory in ``data.ready``, unless one is in place already."""
        with self._copying:
            if self._layout.data_dir.exists() or self._is_ready_copy_sound():
                return
            work = self._layout.mount_point / "data.new"
            filesystem.remove_tree(work)
            filesystem.remove_tree(self._ready_dir)
            self._check_space()
            source = self._environment.template_dir
            try:
                if source is not None and source.is_dir():
                    filesystem.copy_tree(source, work, owner=self._layout.engine_user)
                else:
                    template.build(
                        self._dialect,
                        target=work,
                        user=self._layout.engine_user,
                        basedir=self._environment.basedir,
                    )
            except BaseException:
                with contextlib.suppress(OSError):
                    filesystem.remove_tree(work)
                raise
            work.rename(self._ready_dir)
            self._store.save("ready_copy", {"machine_boot": process.machine_boot_id()})

    def _is_ready_copy_sound(self) -> bool:
        """Tell whether the copy may be used: it is not synced, so only until the machine ends."""
        remembered = self._store.find("ready_copy") or {}
        return (
            self._ready_dir.is_dir() and remembered.get("machine_boot") == process.machine_boot_id()
        )

    # -- installing -----

    def install(self, job: payloads.PrepareJob) -> None:
        """Make data directory, keys and configuration."""
        filesystem.ensure_passable(self._layout.mount_point)
        template.find_server(self._dialect, basedir=self._environment.basedir)
        self._check_reachable()
        self._layout.make_volume()
        if not self._layout.data_dir.exists():
            self._make_data_directory()
            self._ready_dir.rename(self._layout.data_dir)
            filesystem.sync_directory(self._layout.mount_point)
        self._install_certificates(job)
        self.configure(
            base.Settings(
                memory_mib=job.memory_mib,
                vcpus=job.vcpus,
                server_id=job.server_id,
                volume_size_gib=job.volume_size_gib,
                has_tls=job.certificate_pem is not None,
                overrides=dict(job.overrides),
            )
        )

    def _check_space(self) -> None:
        available = filesystem.disk_use(self._layout.mount_point).available_bytes
        if available < _HEADROOM_BYTES:
            raise exception.GuestError(
                reason="the disk is full: the volume has only"
                f" {available // (1024 * 1024)} MiB left, a new database needs at least"
                f" {_HEADROOM_BYTES // (1024 * 1024)} MiB; create the instance with a larger"
                " volume"
            )

    def _check_reachable(self) -> None:
        user = self._layout.engine_user
        for path in (self._layout.data_dir, self._config_file, self._socket):
            closed = filesystem.find_closed_ancestor(path, user)
            if closed is not None:
                raise exception.GuestError(
                    reason=f"the user {user.name} may not enter {closed}: make every directory"
                    " above it passable (chmod o+x), or choose another [guestagent] state_dir"
                )

    def _install_certificates(self, job: payloads.PrepareJob) -> None:
        owner = self._layout.engine_user
        key = certificates.ensure_key(self._key_file, owner=owner)
        if job.certificate_pem is None:
            return
        certificates.check_pair(job.certificate_pem, key)
        files = {"server.pem": job.certificate_pem, "ca.pem": job.ca_pem or job.certificate_pem}
        for name, pem in files.items():
            filesystem.write_file(self._layout.tls_dir / name, pem, mode=0o600, owner=owner)

    def configure(self, settings: base.Settings) -> None:
        """Remember the settings and write the server's configuration from them."""
        self._store.save("settings", dataclasses.asdict(settings))
        self._write_configuration(settings)

    def demand_of_clients(self) -> str:
        """Return what new accounts demand of their clients' TLS, as in CREATE USER."""
        return "X509" if self.tls_store.setting().requires_client_certificate else "NONE"

    def rewrite_configuration(self) -> None:
        """Write the configuration from what is remembered; a running server does not read it."""
        settings = self._store.find("settings")
        if settings is not None:
            self._write_configuration(base.Settings(**settings))

    def resize(
        self,
        *,
        memory_mib: int | None = None,
        vcpus: int | None = None,
        volume_size_gib: int | None = None,
    ) -> None:
        """Remember other sizes and write the configuration for them."""
        remembered = self._store.find("settings")
        if remembered is None:
            raise exception.GuestError(reason="there is no database on this instance yet")
        sizes = {"memory_mib": memory_mib, "vcpus": vcpus, "volume_size_gib": volume_size_gib}
        changed = {name: size for name, size in sizes.items() if size is not None}
        self.configure(base.Settings(**{**remembered, **changed}))

    def find_settings(self) -> base.Settings | None:
        """Return the settings, None before a database was made."""
        return self._find_settings("settings")

    def find_former_settings(self) -> base.Settings | None:
        """Return the settings from before a change that has not ended yet."""
        return self._find_settings("former_settings")

    def _find_settings(self, document: str) -> base.Settings | None:
        found = self._store.find(document)
        return base.Settings(**found) if found else None

    def remember_former_settings(self, settings: base.Settings | None) -> None:
        """Remember the settings from before a change; None once it has ended."""
        document = {} if settings is None else dataclasses.asdict(settings)
        if document or self._store.find("former_settings"):
            self._store.save("former_settings", document)

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
        program = template.find_server(self._dialect, basedir=environment.basedir)
        return configuration.render(
            self._dialect.template,
            settings,
            basedir=template.find_basedir(program, basedir=environment.basedir),
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
            logs=self.log_files.options(),
        )

    def _write_configuration(self, settings: base.Settings) -> None:
        self.tls_store.link(self.tls_store.setting().set_id)
        text = self.render_configuration(settings)
        filesystem.ensure_file(self._config_file, text, mode=0o644)

    def _write_init_file(self) -> None:
        """Write what asserts the agent's account; not replicated, not logged."""
        account = f"`{mysql.AGENT_USER}`@`localhost`"
        # letters and digits only: see crypto.generate_password
        created = f"{account} IDENTIFIED BY '{self._password}'"
        if self._dialect.has_create_or_replace_user:
            statements = [f"CREATE OR REPLACE USER {created}"]
        else:
            statements = [f"CREATE USER IF NOT EXISTS {created}", f"ALTER USER {created}"]
        statements = [
            connection.UNLOGGED,
            "SET SESSION sql_log_bin = 0",
            *statements,
            f"GRANT ALL PRIVILEGES ON *.* TO {account} WITH GRANT OPTION",
        ]
        text = "".join(f"{statement};\n" for statement in statements)
        owner = self._layout.engine_user
        filesystem.ensure_file(self._init_file, text, mode=0o600, owner=owner)

    # -- the process -----

    @property
    def marker(self) -> str:
        """The option that names this instance's configuration file."""
        return f"--defaults-file={self._config_file}"

    def command(self) -> process.Command:
        """Check programs, directories and the port, and return how to start the server."""
        environment, layout = self._environment, self._layout
        program = template.find_server(self._dialect, basedir=environment.basedir)
        if not process.is_port_free(environment.bind_address, environment.port):
            raise exception.GuestError(
                reason=f"port {environment.port} of {environment.bind_address} is taken by"
                " another program: stop it, the database starts by itself then"
            )
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
        """Close the connection that pings use."""
        self.connector.disconnect()

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
        how = "The database ended unexpectedly"
        if return_code is not None and return_code < 0:
            how += f", killed by signal {-return_code}"
            if return_code == -9:
                how += " (by hand, or because memory ran out)"
        elif return_code:
            how += f" with code {return_code}"
        return f"{how}: {errors[-1][:300]}" if errors else f"{how}."

    def certificate_request(self) -> str:
        """Return the request for a server certificate of this instance."""
        key = certificates.ensure_key(self._key_file, owner=self._layout.engine_user)
        return certificates.make_request(key, name=self._environment.instance_id)
