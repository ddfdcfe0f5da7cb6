"""What ``trove-standalone up``, ``down`` and ``status`` do.

Each may be repeated, and brings things right from whatever state a crash left them in.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import errno
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence

from oslo_config import cfg

from trove import conf as trove_conf
from trove.cmd import standalone_broker, standalone_processes, standalone_state
from trove.drivers.compute import local as local_compute

_UP_S = 90.0
_DOWN_S = 120.0
_POWER_OFF_S = 60.0
_LOOK_INTERVAL_S = 0.05


def up(args: argparse.Namespace) -> int:
    """Start what does not run, wait until the API answers, say how to go on."""
    state = _state(args)
    began = time.monotonic()
    supervisor = standalone_processes.find(state, "supervisor")
    if supervisor is None:
        _start(state, args.port)
        how = f"started in {time.monotonic() - began:.1f} s"
    else:
        if args.port not in (None, state.port()):
            raise standalone_state.StandaloneError(
                reason=f"it runs on port {state.port()} already: run 'trove-standalone down' first"
            )
        _wait_up(state, lambda: supervisor.is_alive())
        how = "runs already"
    _say(f"The Database service {how}: {state.endpoint()}")
    _say(f"State, logs and data are in {state.root}")
    _say("")
    _say("Go on with:")
    _say(f"  export OS_CLIENT_CONFIG_FILE={state.clouds_file} OS_CLOUD=trove")
    _say(f"  trove-manage --config-file {state.config_file} image import --datastore mariadb")
    _say("  openstack database instance list")
    return 0


def down(args: argparse.Namespace) -> int:
    """Stop services, databases and broker; with ``--purge`` remove all data."""
    state = _state(args)
    if not state.exists():
        _say(f"There is nothing in {state.root}.")
        return 0
    _stop_services(state)
    compute = _compute(state)
    _power_off(compute)
    standalone_broker.end_processes(state.broker_dir)
    _say("The Database service is down; its databases are stopped.")
    if args.purge:
        _purge(state, compute)
        _say(f"{state.root} is removed, with all data.")
    return 0


def status(args: argparse.Namespace) -> int:
    """Show processes and instances; 3 when the service does not run."""
    state = _state(args)
    running = {role: _pids(state, role) for role in standalone_processes.ROLES}
    servers = _compute(state).list_servers() if state.exists() else ()
    is_up = state.exists() and all(running.values()) and _answers(state)
    if args.json:
        record = {
            "state_dir": str(state.root),
            "endpoint": state.endpoint() if state.exists() else None,
            "up": is_up,
            "processes": running,
            "instances": [
                {"id": server.instance_id, "server_status": server.status.value}
                for server in servers
            ],
        }
        _say(json.dumps(record, indent=2))
        return 0 if is_up else 3
    _say(f"{state.endpoint()} answers" if is_up else f"The service of {state.root} is not up.")
    for role, pids in running.items():
        _say(f"  {role:12} {', '.join(map(str, pids)) or 'not running'}")
    for server in servers:
        _say(f"  instance {server.instance_id}: {server.status.value}")
    return 0 if is_up else 3


# -- up -----


def _start(state: standalone_state.StandaloneState, port: int | None) -> None:
    if state.exists():
        # what lost its supervisor still holds the port
        _stop_services(state)
    known = state.port() if state.exists() else standalone_state.DEFAULT_PORT
    standalone_state.check_port(port or known)
    state.prepare(port=port, now=datetime.datetime.now(datetime.UTC))
    errors = state.log_dir / "supervisor.err"
    errors.touch(mode=0o600)
    with errors.open("wb") as stream:
        supervisor = subprocess.Popen(
            [sys.executable, "-m", "trove.cmd.standalone_supervisor", str(state.root)],
            cwd=state.root,
            # memory that threads gave back is not kept for each of them
            env=os.environ | {"MALLOC_ARENA_MAX": "2"},
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
    _wait_up(state, lambda: supervisor.poll() is None)
    # it goes on without us: nobody waits for it here
    supervisor.returncode = 0


def _wait_up(state: standalone_state.StandaloneState, is_alive: Callable[[], bool]) -> None:
    pause = threading.Event()
    end = time.monotonic() + _UP_S
    while not (state.broker_ready.exists() and _answers(state)):
        if not is_alive():
            raise standalone_state.StandaloneError(
                reason=f"the service ended while it started; see {state.log_dir}\n"
                + _last_lines(state.log_dir / "supervisor.err")
            )
        if time.monotonic() > end:
            raise standalone_state.StandaloneError(
                reason=f"the service is not ready after {_UP_S:.0f} s; see {state.log_dir}, then"
                " run 'trove-standalone down' and try again"
            )
        pause.wait(_LOOK_INTERVAL_S)


def _answers(state: standalone_state.StandaloneState) -> bool:
    """Tell whether the API's health check says that all is well."""
    try:
        with urllib.request.urlopen(  # noqa: S310 our own http:// address
            f"{state.endpoint()}/healthcheck", timeout=5
        ) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _last_lines(path: pathlib.Path) -> str:
    with contextlib.suppress(OSError):
        return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-5:])
    return ""


# -- down -----


def _stop_services(state: standalone_state.StandaloneState) -> None:
    supervisor = standalone_processes.find(state, "supervisor")
    if supervisor is not None:
        supervisor.send(signal.SIGTERM)
        standalone_processes.wait_end(supervisor, _DOWN_S)
    # what is left had no supervisor, or did not listen to it
    for role in standalone_processes.ROLES:
        process = standalone_processes.find(state, role)
        if process is not None and not standalone_processes.wait_end(process, 5.0):
            process.send(signal.SIGKILL)
            standalone_processes.wait_end(process, 5.0)
    for path in state.run_dir.glob("*.pid"):
        path.unlink(missing_ok=True)
    state.broker_ready.unlink(missing_ok=True)


def _power_off(compute: local_compute.LocalCompute) -> None:
    """Have every database end cleanly."""
    for server in compute.list_servers():
        compute.stop_server(server.id)
    pause = threading.Event()
    end = time.monotonic() + _POWER_OFF_S
    while left := compute.list_running():
        if time.monotonic() > end:
            raise standalone_state.StandaloneError(
                reason=f"these instances do not stop: {', '.join(left)}; look into agent.log in"
                " their directories below servers/, then run 'trove-standalone down' again"
            )
        pause.wait(_LOOK_INTERVAL_S)


def _purge(state: standalone_state.StandaloneState, compute: local_compute.LocalCompute) -> None:
    for server in compute.list_servers():
        compute.delete_server(server.id)
    # the marker last: what a crash leaves is still ours to purge
    for path in sorted(state.root.iterdir(), key=lambda path: path == state.marker):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    try:
        state.root.rmdir()
    except OSError as e:
        # where a file system is mounted an empty directory stays
        if e.errno != errno.EBUSY:
            raise


# -- shared -----


def _state(args: argparse.Namespace) -> standalone_state.StandaloneState:
    return standalone_state.StandaloneState(root=args.state_dir.absolute())


def _conf(state: standalone_state.StandaloneState) -> cfg.ConfigOpts:
    conf = trove_conf.new()
    conf([], project="trove", default_config_files=[str(state.config_file)])
    return conf


def _compute(state: standalone_state.StandaloneState) -> local_compute.LocalCompute:
    return local_compute.LocalCompute(_conf(state))


def _pids(state: standalone_state.StandaloneState, role: str) -> Sequence[int]:
    """Return the numbers of a role's processes; those of the broker are the broker's own."""
    process = standalone_processes.find(state, role)
    if process is None:
        return []
    if role == "broker":
        return standalone_broker.node_pids(state.broker_dir)
    return [process.pid]


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
