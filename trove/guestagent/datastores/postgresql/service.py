"""PostgreSQL as a process.

The agent's account is let in by the local socket for the agent's own user of the operating system,
and by nothing else; the file that says so is written before each start. It is the superuser that
the data directory was made with, which nobody else can change or drop. Configuration and access
rules lie outside the data directory.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import os
import pathlib
import re
import signal
from collections.abc import Mapping
from typing import ClassVar

from oslo_log import log

from trove.common import exception
from trove.datastores import postgresql, postgresql_configuration
from trove.guestagent import tls
from trove.guestagent.datastores import base, server
from trove.guestagent.datastores.postgresql import connection, logs, slots, template
from trove.guestagent.system import filesystem, process, users

LOG = log.getLogger(__name__)

#: Longest the server program may take to read its configuration.
_TRIAL_TIMEOUT_S = 30.0
#: Name of the map from users of the operating system to roles.
_MAP = "agent"
_MOST_OWN = 4096
#: The first version that can say which blocks changed.
_FIRST_WITH_SUMMARIES = 17
#: What the server itself says; what it says to a client names user and database before.
_PROBLEM = re.compile(r"(?:\[\d+\] (?:FATAL|ERROR): +|PANIC: +|^postgres: )(.+)$", re.MULTILINE)
_PORT_TAKEN = re.compile(r"could not bind .*: Address already in use")
_COMPLAINT = re.compile(r"(?:(?:LOG|FATAL|ERROR): +|^postgres: )(.+)$", re.MULTILINE)
_NOISE = ("skipping missing configuration file", "contains errors")
_READ_ONLY = "default_transaction_read_only = on\n"


@functools.cache
def is_built_with_tls(program: pathlib.Path) -> bool:
    """Tell whether a server program was built with TLS."""
    try:
        result = process.run(
            [str(program), "-C", "ssl", "-c", "ssl=on", "-D", "/nonexistent"],
            timeout_s=_TRIAL_TIMEOUT_S,
            user=users.SystemUser(name="nobody", uid=65534, gid=65534)
            if os.geteuid() == 0
            else None,
        )
    except (OSError, TimeoutError):
        return True
    return "not supported by this build" not in result.output


class PostgresqlService(server.Server):
    """A PostgreSQL server."""

    configuration_name: ClassVar[str] = "postgresql.conf"
    #: Fast: sessions are ended, what is on its way is taken back.
    stop_signal: ClassVar[signal.Signals] = signal.SIGINT
    stop_timeout_s: ClassVar[float] = 60.0

    def __init__(self, environment: base.Environment) -> None:
        """Take where to run it."""
        super().__init__(environment)
        engine_dir = self._layout.engine_dir
        self._hba_file = engine_dir / "pg_hba.conf"
        self._ident_file = engine_dir / "pg_ident.conf"
        self._guard_file = engine_dir / "guard.conf"
        #: What is being tried in place of what is remembered.
        self._tried_tls: tls.Setting | None = None
        self.connector = connection.Connector(
            self._run_dir, port=environment.port, data_dir=self._layout.data_dir
        )
        #: Numbers of transactions that changed nothing of a tenant's; guarded by the kept session.
        self.own_transactions: collections.deque[int] = collections.deque(maxlen=_MOST_OWN)
        self.log_files = logs.LogFiles(environment, self.connector, apply=self._apply)

    # -- installing -----

    @property
    def program(self) -> pathlib.Path:
        """The server program; raises GuestError."""
        return template.find_server(basedir=self._environment.basedir)

    def check_programs(self) -> None:
        """Raise GuestError unless the server program is installed."""
        template.find_server(basedir=self._environment.basedir)

    def make_data(self, work: pathlib.Path) -> None:
        """Make a new data directory."""
        template.build(self.program, target=work, user=self._layout.engine_user)

    # -- the configuration -----

    @property
    def address(self) -> tuple[str, int]:
        """Where the server listens."""
        return self._environment.bind_address, self._environment.port

    def has_tls(self) -> bool:
        """Tell whether the server does TLS at all."""
        settings = self.find_settings()
        return settings is not None and self._does_tls(settings)

    def _does_tls(self, settings: base.Settings) -> bool:
        if not settings.has_tls:
            return False
        if not is_built_with_tls(self.program):
            LOG.warning("%s was built without TLS: clients get none", self.program)
            return False
        return True

    def use_tls(self, setting: tls.Setting | None) -> None:
        """Write all files as a setting says; None: as what is remembered says."""
        self._tried_tls = setting
        self.rewrite_configuration()
        if setting is not None:
            self.tls_store.link(setting.set_id)

    @property
    def _tls_setting(self) -> tls.Setting:
        return self._tried_tls or self.tls_store.setting()

    def render_configuration(self, settings: base.Settings) -> str:
        """Return the text of the configuration file."""
        return self._render(settings, data_dir=self._layout.data_dir)

    def _render(self, settings: base.Settings, *, data_dir: pathlib.Path) -> str:
        environment, layout = self._environment, self._layout
        setting = self._tls_setting
        return postgresql_configuration.render(
            memory_mib=settings.memory_mib,
            vcpus=settings.vcpus,
            volume_size_gib=settings.volume_size_gib,
            overrides=settings.overrides,
            data_dir=data_dir,
            hba_file=self._hba_file,
            ident_file=self._ident_file,
            guard_file=self._guard_file,
            run_dir=self._run_dir,
            bind_address=environment.bind_address,
            port=environment.port,
            libraries=template.STATISTICS if template.has_statistics(self.program) else "",
            summarizes_wal=self._has_summaries(data_dir),
            has_tls=self._does_tls(settings),
            tls_dir=self.tls_store.directory,
            requires_client_certificate=setting.requires_client_certificate,
            logs_dir=layout.engine_logs_dir,
            general_log=self.log_files.is_enabled(postgresql.GENERAL_LOG),
            slow_query_log=self.log_files.is_enabled(postgresql.SLOW_QUERY_LOG),
        )

    @staticmethod
    def _has_summaries(data_dir: pathlib.Path) -> bool:
        """Tell whether the version of the data has increments of its own."""
        with contextlib.suppress(OSError, ValueError):
            major = int((data_dir / "PG_VERSION").read_text(encoding="ascii"))
            return major >= _FIRST_WITH_SUMMARIES
        return False

    def _write_configuration(self, settings: base.Settings) -> None:
        super()._write_configuration(settings)
        self._write_access()

    def _write_access(self) -> None:
        """Write who may connect how; the first line that matches counts."""
        setting = self._tls_setting
        kind = "hostssl" if setting.requires_tls else "host"
        option = " clientcert=verify-ca" if setting.requires_client_certificate else ""
        lines = (
            "# Written by the guest agent; changes are lost",
            f"local all {postgresql.AGENT_USER} peer map={_MAP}",
            # "all" means databases: nobody else may copy the server or read its log
            f"local replication {postgresql.AGENT_USER} peer map={_MAP}",
            "local replication all reject",
            "host replication all all reject",
            f"host all {postgresql.AGENT_USER} all reject",
            f"{kind} all all all scram-sha-256{option}",
        )
        filesystem.ensure_file(self._hba_file, "\n".join(lines) + "\n", mode=0o644)
        agent = users.current().name.replace('"', '""')
        line = f'{_MAP} "{agent}" {postgresql.AGENT_USER}\n'
        filesystem.ensure_file(self._ident_file, line, mode=0o644)

    def _apply(self) -> None:
        """Write the configuration and have the running server read it; raises GuestError."""
        self.rewrite_configuration()
        self.connector.reload()

    def try_configuration(self, settings: base.Settings) -> None:
        """Raise ConfigurationRefused unless the server could start with settings.

        Asked for the memory that it is going to share, the program reads its configuration and
        checks it as it would at a start, on a directory that holds the header of the data alone.
        """
        layout = self._layout
        trial = layout.engine_dir / "trial"
        filesystem.remove_tree(trial)
        owner = layout.engine_user
        try:
            filesystem.ensure_directory(trial, mode=0o700, owner=owner)
            filesystem.ensure_directory(trial / "global", mode=0o700, owner=owner)
            for name in ("PG_VERSION", "global/pg_control"):
                content = (layout.data_dir / name).read_bytes()
                filesystem.write_file(trial / name, content, mode=0o600, owner=owner)
            filesystem.write_file(trial / "postgresql.auto.conf", "", mode=0o600, owner=owner)
            text = self._render(settings, data_dir=trial)
            filesystem.write_file(trial / self.configuration_name, text, mode=0o600, owner=owner)
            result = process.run(
                [
                    *(str(self.program), "-C", "shared_memory_size"),
                    *("-c", f"config_file={trial / self.configuration_name}"),
                ],
                timeout_s=_TRIAL_TIMEOUT_S,
                user=owner,
            )
        finally:
            filesystem.remove_tree(trial)
        lines = result.output.strip().splitlines()
        if result.return_code != 0:
            found = [
                words
                for words in _COMPLAINT.findall(result.output)
                if not any(noise in words for noise in _NOISE)
            ]
            words = (found or lines or ["no reason was given"])[0]
            words = words.replace(str(trial / self.configuration_name), self.configuration_name)
            raise exception.ConfigurationRefused(reason=f"the database says {words[:300]}")
        shared_mib = int(lines[-1]) if lines and lines[-1].isdigit() else 0
        if shared_mib > settings.memory_mib * 3 // 4:
            raise exception.ConfigurationRefused(
                reason=f"the database would share {shared_mib} MiB of memory, more than three"
                f" quarters of the {settings.memory_mib} MiB that there are"
            )

    def started_with(self) -> Mapping[str, str | int] | None:
        """Return the values that the running server read at its start, when they are known."""
        return (self._store.find("started_with") or {}).get("options")

    def _note_start(self) -> None:
        text = self._config_file.read_text(encoding="utf-8")
        try:
            self._store.save("started_with", {"options": postgresql_configuration.options(text)})
        except OSError:
            # on a full disk a server that runs is better than knowing what it runs with
            LOG.warning("what the server starts with was not remembered", exc_info=True)

    # -- the process -----

    @property
    def marker(self) -> str:
        """The argument that names this instance's configuration file."""
        return f"config_file={self._config_file}"

    def command(self) -> process.Command:
        """Check programs, directories and the port, and return how to start the server."""
        layout = self._layout
        program = self.program
        self.check_port()
        self._guard_file.unlink(missing_ok=True)
        # a new release of the agent may write another configuration
        self.rewrite_configuration()
        self._note_start()
        self.log_files.ensure_directories()
        return process.Command(
            argv=(str(program), "-c", self.marker),
            marker=self.marker,
            user=layout.engine_user,
            log=layout.log,
            directory=layout.data_dir,
            environment={"PATH": os.defpath, "LC_ALL": "C.UTF-8", "TZ": "UTC"},
        )

    def ping(self) -> str:
        """Return the version of the server when it answers, to new clients too."""
        self.connector.knock()
        with self.connector.kept() as session:
            ((version,),) = session.repeat("SELECT current_setting('server_version')")
        return str(version).split()[0]

    def prove_write(self) -> None:
        """Change a row of a table of the agent's own; a replica writes nothing."""
        with self.connector.kept() as session:
            if not session.execute("SELECT pg_is_in_recovery()")[0][0]:
                rows = session.execute(
                    "UPDATE {schema}.ping SET at = now() WHERE id = 1"
                    " RETURNING pg_current_xact_id()::text",
                    schema=connection.name(template.SCHEMA),
                )
                self.own_transactions.extend(int(number) for (number,) in rows)

    def disconnect(self) -> None:
        """Close the connection that pings use."""
        self.connector.disconnect()

    def set_read_only(self, is_read_only: bool) -> None:
        """Have the transactions of tenants be read-only unless they say otherwise, or not.

        The server has no switch that the owner of a session cannot undo for it. So who wants to
        delete says ``BEGIN READ WRITE``; programs that know nothing of it are told SQLSTATE 25006.
        What is writing now is ended.
        """
        if is_read_only:
            filesystem.ensure_file(self._guard_file, _READ_ONLY, mode=0o644)
        else:
            self._guard_file.unlink(missing_ok=True)
        self.connector.reload()
        if is_read_only:
            with self.connector.session() as session:
                session.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE backend_type = 'client backend' AND backend_xid IS NOT NULL"
                    " AND usename <> %s",
                    postgresql.AGENT_USER,
                )
                # the log that increments are made of takes space; a full backup needs none of it
                slots.drop(session, slots.CHAIN)

    def explain_exit(self, return_code: int | None, log: str) -> str:
        """Return why the server ended, from the errors it wrote."""
        text = log + self.log_files.collect_errors()
        problems = _PROBLEM.findall(text)
        lowered = "\n".join(problems).lower()
        if "no space left on device" in lowered:
            return "The disk is full: resize the volume or delete files on it."
        if _PORT_TAKEN.search(text):
            return (
                f"Port {self._environment.port} is taken by another program: stop it, the"
                " database starts by itself then."
            )
        if "cannot allocate memory" in lowered or "out of memory" in lowered:
            return "The server has too little memory: resize the instance to a larger flavor."
        return server.explain_end(return_code, problems)
