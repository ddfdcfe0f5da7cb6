"""A server that the agent runs for itself on data of no instance yet: to recover and to check them.

It listens on a socket that nobody but the agent reaches, does nothing by itself, connects nowhere,
and need not survive a crash: what is left of it is ended before the next one, and its data are
thrown away. It is given its settings as arguments, which no file of the data overrules.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator, Mapping

from oslo_log import log

from trove.common import exception
from trove.datastores import postgresql
from trove.guestagent.datastores import base
from trove.guestagent.datastores.postgresql import connection
from trove.guestagent.system import filesystem, process, users

LOG = log.getLogger(__name__)

_STOP_TIMEOUT_S = 600.0
_KILL_TIMEOUT_S = 30.0
_CONTROL_TIMEOUT_S = 30.0
#: How often it is asked whether it is ready: at first, and at most.
_LOOK_S = (0.02, 0.5)
_LOOK_GROWTH = 1.2
_PORT = 5432
#: Why it ended, not what it tells a client that is too early.
_FATAL = re.compile(r"(?:FATAL|PANIC): +(?! |the database system is )(.+)$", re.MULTILINE)
#: What a server needs as much of as the one whose log it replays (pg_controldata's words).
_CAPACITIES = {
    "max_connections": "max_connections setting",
    "max_worker_processes": "max_worker_processes setting",
    "max_wal_senders": "max_wal_senders setting",
    "max_prepared_transactions": "max_prepared_xacts setting",
    "max_locks_per_transaction": "max_locks_per_xact setting",
}
_SETTINGS: Mapping[str, str] = {
    "listen_addresses": "",
    "port": str(_PORT),
    "unix_socket_permissions": "0700",
    "ssl": "off",
    "logging_collector": "off",
    "log_destination": "stderr",
    "log_min_messages": "log",
    "log_statement": "none",
    "log_min_error_statement": "panic",
    "lc_messages": "C",
    "shared_preload_libraries": "",
    "session_preload_libraries": "",
    "local_preload_libraries": "",
    "archive_mode": "off",
    "shared_buffers": "64MB",
    "wal_level": "replica",
    "min_wal_size": "8MB",
    "autovacuum": "off",
    # no subscription of a tenant's is served
    "max_logical_replication_workers": "0",
    # thrown away after a crash; synced as a whole when it is done
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "recovery_prefetch": "off",
    # nobody is to look in before the end
    "hot_standby": "off",
}


def write_file(path: pathlib.Path, text: str, *, owner: users.SystemUser) -> None:
    """Write a file that need not be on the disk at once: all of its directory is synced later."""
    path.write_text(text, encoding="utf-8")
    path.chmod(0o600)
    if not owner.is_current:
        os.chown(path, owner.uid, owner.gid)


class Ended(exception.GuestError):
    """The server ended by itself; ``words`` is what it said last."""

    def __init__(self, *, words: str) -> None:
        """Keep the words."""
        super().__init__(reason=f"the database says {words[:300]}")
        self.words = words


def control_data(program: pathlib.Path, data: pathlib.Path) -> dict[str, str]:
    """Return what pg_controldata tells of a data directory; raises GuestError."""
    try:
        result = process.run(
            [str(program.with_name("pg_controldata")), str(data)], timeout_s=_CONTROL_TIMEOUT_S
        )
    except (OSError, TimeoutError) as e:
        raise exception.GuestError(reason=f"pg_controldata cannot be run: {e}") from None
    if result.return_code != 0:
        raise exception.GuestError(
            reason="these are no data of a database: their header cannot be read"
        )
    pairs = (line.partition(":") for line in result.output.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _marker(data: pathlib.Path) -> str:
    return f"data_directory={data}"


def end_former(data: pathlib.Path) -> None:
    """End a server that an earlier agent left on a data directory; raises GuestError."""
    identity = process.find_by_argument(_marker(data))
    if identity is None:
        return
    with (
        contextlib.suppress(ProcessLookupError),
        contextlib.closing(process.Process(identity)) as former,
    ):
        former.signal(signal.SIGQUIT)
        if not former.wait(_KILL_TIMEOUT_S):
            raise exception.GuestError(reason="a server of an earlier attempt does not end")


class PrivateServer:
    """A server on ``data``; made by :func:`running`."""

    def __init__(
        self,
        *,
        program: pathlib.Path,
        data: pathlib.Path,
        owner: users.SystemUser,
        directory: pathlib.Path,
        settings: Mapping[str, str],
    ) -> None:
        """Start it; raises GuestError."""
        self._log = directory / "log"
        agent = users.current().name.replace('"', '""')
        files = {
            "postgresql.conf": "",
            "pg_hba.conf": f"local all {postgresql.AGENT_USER} peer map=agent\n",
            "pg_ident.conf": f'agent "{agent}" {postgresql.AGENT_USER}\n',
        }
        for name, text in files.items():
            write_file(directory / name, text, owner=owner)
        control = control_data(program, data)
        given = {
            **_SETTINGS,
            **{name: control[words] for name, words in _CAPACITIES.items() if words in control},
            "config_file": str(directory / "postgresql.conf"),
            "hba_file": str(directory / "pg_hba.conf"),
            "ident_file": str(directory / "pg_ident.conf"),
            "unix_socket_directories": str(directory),
            **settings,
        }
        self.connector = connection.Connector(directory, port=_PORT, data_dir=data)
        marker = _marker(data)
        arguments = [marker, *(f"{name}={value}" for name, value in given.items())]
        try:
            self._process = process.spawn(
                process.Command(
                    argv=(str(program), *(word for each in arguments for word in ("-c", each))),
                    marker=marker,
                    user=owner,
                    log=self._log,
                    directory=data,
                    environment={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "TZ": "UTC"},
                )
            )
        except OSError as e:
            raise exception.GuestError(
                reason=filesystem.explain(e, "starting a server of the agent's own")
            ) from None

    @property
    def directory(self) -> pathlib.Path:
        """Where its socket is."""
        return self._log.parent

    def await_ready(self, must_end: threading.Event | None = None) -> None:
        """Wait until it is what its settings say, however long that takes.

        Raises Ended when it ends, GuestError once ``must_end`` is set.
        """
        pause = threading.Event() if must_end is None else must_end
        look_s = _LOOK_S[0]
        while True:
            if self._process.has_ended():
                raise Ended(words=self._words())
            with contextlib.suppress(base.NotReady, exception.GuestError):
                self.connector.knock()
                with self.connector.session() as session:
                    if not session.execute("SELECT pg_is_in_recovery()")[0][0]:
                        return
            if pause.wait(look_s):
                raise exception.GuestError(reason="recovering the database was given up")
            look_s = min(look_s * _LOOK_GROWTH, _LOOK_S[1])

    def _words(self) -> str:
        text = filesystem.read_tail(self._log)
        found = _FATAL.findall(text)
        # why it ended stands before that it did
        return str(found[0]) if found else (text.strip().splitlines() or ["nothing"])[-1]

    def stop(self) -> None:
        """Have it end cleanly; raises GuestError."""
        self._process.signal(signal.SIGINT)
        if not self._process.wait(_STOP_TIMEOUT_S) or self._process.return_code != 0:
            raise exception.GuestError(reason="a server of the agent's own did not end cleanly")

    def close(self) -> None:
        """End it in any case."""
        if not self._process.has_ended():
            self._process.signal(signal.SIGQUIT)
            if not self._process.wait(_KILL_TIMEOUT_S):
                self._process.signal(signal.SIGKILL)
                self._process.wait(_KILL_TIMEOUT_S)
        self._process.close()


@contextlib.contextmanager
def running(
    *,
    program: pathlib.Path,
    data: pathlib.Path,
    owner: users.SystemUser,
    settings: Mapping[str, str] | None = None,
) -> Iterator[PrivateServer]:
    """Run a server on data; it is ended at the end, cleanly only if it was stopped."""
    end_former(data)
    # a socket must have a short path
    directory = pathlib.Path(tempfile.mkdtemp(prefix="trove-private-"))
    try:
        filesystem.ensure_directory(directory, mode=0o700, owner=owner)
        server = PrivateServer(
            program=program, data=data, owner=owner, directory=directory, settings=settings or {}
        )
        try:
            yield server
        finally:
            server.close()
    finally:
        shutil.rmtree(directory, ignore_errors=True)
