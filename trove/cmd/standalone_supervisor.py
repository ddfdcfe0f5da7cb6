"""The one process behind a trove-standalone: runs broker and services, and starts them again.

The supervisor holds the lock of its state directory; its children inherit it, so that the lock is
free only once all of them have ended. Children end by themselves when the supervisor dies; what
does not is ended by the next supervisor, which knows every child by number and start time.
Modules are loaded before the services fork, so that they share memory.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import importlib
import multiprocessing
import os
import pathlib
import signal
import sys
from typing import Any

import cotyledon
from oslo_config import cfg
from oslo_log import log

from trove import conf as trove_conf
from trove.api import service as api_service
from trove.cmd import standalone_broker, standalone_processes, standalone_state
from trove.common import concurrency, exception
from trove.conductor import exporter
from trove.conductor import service as conductor_service
from trove.db import base
from trove.rpc import transport
from trove.taskmanager import service as taskmanager_service

LOG = log.getLogger(__name__)

_BROKER_CHECK_INTERVAL_S = 0.5
_BROKER_WAIT_S = 20.0
_SERVICES_END_S = 20.0


class BrokerService(cotyledon.Service):
    """Keeps the private broker running, and ends it after the services."""

    name = "broker"
    graceful_shutdown_timeout = 60

    def __init__(self, worker_id: int, state: standalone_state.StandaloneState) -> None:
        """Prepare; ``run`` starts the broker."""
        super().__init__(worker_id)
        self._state = state
        self._broker = standalone_broker.PrivateBroker(state.broker_dir)
        self._thread = concurrency.PeriodicThread(
            "broker", self._check, interval_s=_BROKER_CHECK_INTERVAL_S
        )

    def run(self) -> None:
        """Begin."""
        self._thread.start()

    def terminate(self) -> None:
        """End the broker once the services have: they say goodbye to it."""
        self._thread.stop(timeout_s=100)
        for role in ("api", "conductor", "taskmanager"):
            standalone_processes.wait_end(
                standalone_processes.find(self._state, role), _SERVICES_END_S
            )
        self._broker.stop()
        self._state.broker_ready.unlink(missing_ok=True)

    def _check(self) -> None:
        if not self._broker.is_running():
            self._state.broker_ready.unlink(missing_ok=True)
            self._broker.start()
            self._state.broker_ready.touch()


def take_lock(state: standalone_state.StandaloneState) -> None:
    """Take the lock for the life of this process; what an earlier supervisor left is ended.

    Raises StandaloneError when another supervisor runs.
    """
    descriptor = os.open(state.run_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return
    if standalone_processes.find(state, "supervisor") is not None:
        raise standalone_state.StandaloneError(reason=f"a supervisor of {state.root} runs already")
    for path in state.run_dir.glob("*.pid"):
        child = standalone_processes.find(state, path.stem)
        if not standalone_processes.wait_end(child, 5.0) and child is not None:
            child.send(signal.SIGKILL)
            standalone_processes.wait_end(child, 5.0)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def supervise(root: pathlib.Path) -> None:
    """Run everything of a state directory until SIGTERM."""
    state = standalone_state.StandaloneState(root=root)
    # database and logs are nobody else's
    os.umask(0o077)
    take_lock(state)
    standalone_processes.record(state, "supervisor")
    conf = trove_conf.load(
        ["--config-file", str(state.config_file)], prog="trove-standalone", default_config_files=[]
    )
    transport.prepare(conf)
    _log_to_file(conf, state, "supervisor")
    _upgrade_schema(conf)
    manager = cotyledon.ServiceManager(graceful_shutdown_timeout=90)
    # bound here, the port stays ours while the API is started again
    listener = api_service.listen(conf)
    services: list[tuple[str, type[cotyledon.Service], tuple[Any, ...]]] = [
        ("broker", BrokerService, (state,)),
        ("api", api_service.ApiService, (conf, listener)),
        ("conductor", conductor_service.ConductorService, (conf,)),
        ("taskmanager", taskmanager_service.TaskManagerService, (conf,)),
    ]
    if exporter.is_enabled(conf):
        exporter.check(conf)
        services.append(("figures", exporter.ExporterService, (conf,)))
    for role, service, arguments in services:
        manager.add(functools.partial(_make_service, state, conf, role, service, arguments))
    manager.run()


def _upgrade_schema(conf: cfg.ConfigOpts) -> None:
    """Bring the database to the newest schema; raises StandaloneError when that fails."""
    # in a process of its own, which takes alembic with it when it ends
    child = multiprocessing.get_context("fork").Process(target=_upgrade, args=(conf,))
    child.start()
    child.join()
    if child.exitcode:
        raise standalone_state.StandaloneError(
            reason="the database could not be brought to the newest schema; see above"
        )


def _upgrade(conf: cfg.ConfigOpts) -> None:
    migrations = importlib.import_module("trove.db.migrations")
    database = base.Database.from_config(conf)
    migrations.upgrade(database)
    database.dispose()


def _make_service(
    state: standalone_state.StandaloneState,
    conf: cfg.ConfigOpts,
    role: str,
    service: type[cotyledon.Service],
    arguments: tuple[Any, ...],
    worker_id: int,
) -> cotyledon.Service:
    """Make a service in its own process, with its own log."""
    standalone_processes.record(state, role)
    _log_to_file(conf, state, role)
    if role in ("conductor", "taskmanager"):
        # they would come without it, yet later: the libraries try again every two seconds
        standalone_processes.wait_file(state.broker_ready, _BROKER_WAIT_S)
    return service(worker_id, *arguments)


def _log_to_file(conf: cfg.ConfigOpts, state: standalone_state.StandaloneState, role: str) -> None:
    conf.set_override("log_file", str(state.log_dir / f"{role}.log"))
    log.setup(conf, "trove")


def main() -> int:
    """Supervise the state directory on the command line; 1 with the reason on stderr."""
    try:
        supervise(pathlib.Path(sys.argv[1]))
    except exception.TroveError as e:
        sys.stderr.write(f"{e.message}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
