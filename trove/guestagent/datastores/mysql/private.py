"""A server on restored data that nobody but the agent reaches: no network, a socket of its own.

It runs no events, writes no binary log unless there is one to recover from, and has the agent's
account asserted as at every start.
"""

from __future__ import annotations

import os
import pathlib
import signal
import time
from collections.abc import Callable, Sequence
from typing import Self

from trove.common import exception
from trove.datastores import mysql, mysql_configuration
from trove.guestagent.datastores import base
from trove.guestagent.datastores.mysql import binlog, binlog_index, connection, template
from trove.guestagent.datastores.mysql import dialect as dialects
from trove.guestagent.system import filesystem, pipes, process

_NAME = "private"
#: Recovery of the storage engine may take long.
_START_TIMEOUT_S = 3600.0
_STOP_TIMEOUT_S = 3600.0
_LOOK_S = 0.05
#: Memory of what works on a copy, beside a running engine perhaps: a part of the flavor's.
_MEMORY_SHARE = 16
_LEAST_MEMORY_MIB = 16
_MOST_MEMORY_MIB = 512
_MEMORY_OF_NEW_MIB = 64
#: Of a server whose sizes are not known yet.
_REDO_LOG_MIB = 16


def memory_mib(settings: base.Settings | None) -> int:
    """Return how much memory work on a copy may take."""
    if settings is None:
        # nothing runs here yet
        return _MEMORY_OF_NEW_MIB
    share = settings.memory_mib // _MEMORY_SHARE
    return max(_LEAST_MEMORY_MIB, min(share, _MOST_MEMORY_MIB))


class PrivateServer:
    """Such a server; a context manager that ends it, cleanly by :meth:`stop`."""

    def __init__(
        self,
        dialect: dialects.Dialect,
        environment: base.Environment,
        *,
        data_dir: pathlib.Path,
        redo_log_mib: int,
        memory_mib: int,
        explain: Callable[[int | None, str], str],
    ) -> None:
        """Take the data to serve; ``explain`` says why a server ended.

        ``memory_mib`` is for pages; some 50 MiB are needed beside them.
        """
        self._dialect = dialect
        self._environment = environment
        self._layout = environment.layout
        self._data_dir = data_dir
        self._redo_log_mib = redo_log_mib
        self._memory_mib = memory_mib
        self._explain = explain
        self._run_dir = environment.store.run_dir()
        self.socket = self._run_dir / f"{_NAME}.sock"
        self._configuration = self._layout.engine_dir / f"{_NAME}.cnf"
        self._statements = self._layout.secret_dir / f"{_NAME}.sql"
        #: Options of clients: whom to log in as, and where.
        self.client_options = self._layout.secret_dir / f"{_NAME}-client.cnf"
        self._log = self._layout.state_dir / f"{_NAME}.log"
        self._password = environment.store.password(mysql.AGENT_USER)
        self.connector = connection.Connector(self.socket, password=self._password)
        self._process: process.Process | None = None

    @classmethod
    def of_instance(
        cls,
        dialect: dialects.Dialect,
        environment: base.Environment,
        *,
        data_dir: pathlib.Path,
        settings: base.Settings | None,
        explain: Callable[[int | None, str], str],
        has_small_redo_log: bool = False,
    ) -> Self:
        """Return one with the sizes of an instance, whose settings may not be known yet."""
        redo_log_mib = _REDO_LOG_MIB
        if settings is not None and not has_small_redo_log:
            redo_log_mib = mysql_configuration.sizes(
                settings.memory_mib, settings.volume_size_gib
            ).redo_log_mib
        return cls(
            dialect,
            environment,
            data_dir=data_dir,
            redo_log_mib=redo_log_mib,
            memory_mib=memory_mib(settings),
            explain=explain,
        )

    @property
    def _marker(self) -> str:
        return f"--defaults-file={self._configuration}"

    def start(self) -> None:
        """Start it and wait until it answers; raises GuestError."""
        self.end_former()
        layout = self._layout
        program = template.find_server(self._dialect, basedir=self._environment.basedir)
        self._write_files(program)
        self._log.unlink(missing_ok=True)
        self._process = process.spawn(
            process.Command(
                argv=(str(program), self._marker),
                marker=self._marker,
                user=layout.engine_user,
                log=self._log,
                directory=self._data_dir,
                environment={"PATH": os.defpath, "LC_ALL": "C.UTF-8", "TZ": "UTC"},
            )
        )
        pipes.give_way(self._process.identity.pid)
        deadline = time.monotonic() + _START_TIMEOUT_S
        while True:
            try:
                self.connector.ping()
            except base.NotReady:
                if self._process.wait(_LOOK_S):
                    raise exception.GuestError(
                        reason=f"the restored database does not start: {self.explain_end()}"
                    ) from None
                if time.monotonic() > deadline:
                    raise exception.GuestError(
                        reason="the restored database does not start in time"
                    ) from None
            else:
                self.connector.disconnect()
                return

    def has_ended(self, *, within_s: float = 0.0) -> bool:
        """Tell whether it has ended by itself, or does so soon."""
        return self._process is None or self._process.wait(within_s)

    def explain_end(self) -> str:
        """Return why it ended."""
        code = self._process.return_code if self._process is not None else None
        return self._explain(code, filesystem.read_tail(self._log))

    def stop(self) -> None:
        """Stop it cleanly; raises GuestError when it ended otherwise."""
        self.connector.disconnect()
        if self._process is None:
            return
        # MySQL 5.6 waits two seconds for a session that is about to end
        if not self._process.wait(_LOOK_S):
            self._process.signal(signal.SIGTERM)
            self._process.wait(_STOP_TIMEOUT_S)
        if not self._process.has_ended() or self._process.return_code != 0:
            raise exception.GuestError(
                reason=f"the restored database does not stop cleanly: {self.explain_end()}"
            )

    def close(self) -> None:
        """End it in any case, and remove its files; may be called again."""
        self.connector.disconnect()
        if self._process is not None:
            self._end(self._process)
            self._process = None
        for path in (self._configuration, self._statements, self.client_options, self._log):
            path.unlink(missing_ok=True)
        self.socket.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        """Start it."""
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        """End it."""
        self.close()

    def end_former(self) -> None:
        """End one that an agent left which was killed."""
        identity = process.find_by_argument(self._marker)
        if identity is not None:
            try:
                self._end(process.Process(identity))
            except ProcessLookupError:
                return

    @staticmethod
    def _end(running: process.Process) -> None:
        try:
            if not running.has_ended():
                running.signal(signal.SIGKILL)
                running.wait(_STOP_TIMEOUT_S)
        finally:
            running.close()

    def _log_options(self) -> Sequence[str]:
        """Have no binary log; one of a server that crashed says what of its data counts."""
        index = binlog_index.path_in(self._data_dir)
        if not index.exists():
            return ("skip-log-bin",)
        return (
            "server-id = 1",
            f"log-bin = {self._data_dir / binlog.BASE_NAME}",
            f"log-bin-index = {index}",
            "log-slave-updates = ON",
            "loose-gtid-mode = ON",
            "loose-enforce-gtid-consistency = ON",
        )

    def _write_files(self, program: pathlib.Path) -> None:
        environment, layout = self._environment, self._layout
        lines = (
            "[mysqld]",
            f"basedir = {template.find_basedir(program, basedir=environment.basedir)}",
            f"datadir = {self._data_dir}",
            f"tmpdir = {layout.temporary_dir}",
            f"socket = {self.socket}",
            f"pid-file = {self._run_dir / _NAME}.pid",
            f"init-file = {self._statements}",
            f"secure-file-priv = {layout.exchange_dir}",
            "skip-networking",
            *self._log_options(),
            "loose-skip-slave-start",
            "skip-name-resolve",
            "local-infile = OFF",
            "loose-symbolic-links = OFF",
            "event-scheduler = OFF",
            "performance-schema = OFF",
            "character-set-server = utf8mb4",
            "max-connections = 8",
            "max-allowed-packet = 1G",
            f"innodb-buffer-pool-size = {self._memory_mib}M",
            f"loose-innodb-buffer-pool-size-max = {self._memory_mib}M",
            f"{self._dialect.redo_log_option} = {self._redo_log_mib}M",
            # all of it is on the disk once the server has stopped; until then nobody counts on it
            "innodb-flush-log-at-trx-commit = 0",
            "innodb-buffer-pool-load-at-startup = OFF",
            "innodb-buffer-pool-dump-at-shutdown = OFF",
            "innodb-log-buffer-size = 4M",
            "innodb-read-io-threads = 2",
            "innodb-write-io-threads = 2",
            "key-buffer-size = 2M",
            "loose-aria-pagecache-buffer-size = 2M",
            "table-open-cache = 200",
            *self._dialect.private_options,
        )
        owner = layout.engine_user
        filesystem.write_file(self._configuration, "\n".join(lines) + "\n", mode=0o644)
        statements = [
            "SET SESSION sql_log_bin = 0",
            # letters and digits only: see crypto.generate_password
            *(each.format(password=self._password) for each in self._dialect.syntax.assert_agent),
        ]
        text = "".join(f"{statement};\n" for statement in statements)
        filesystem.write_file(self._statements, text, mode=0o600, owner=owner)
        client = (
            "[client]",
            f"user={mysql.AGENT_USER}",
            f"password={self._password}",
            f"socket={self.socket}",
            "[mariadb-client]",
            "max-allowed-packet=1G",
        )
        filesystem.write_file(
            self.client_options, "\n".join(client) + "\n", mode=0o600, owner=owner
        )
