"""The processes of a trove-standalone: which run, and how long until one ends."""

from __future__ import annotations

import json
import os
import pathlib
import select
import threading
import time

from trove.cmd import standalone_state
from trove.drivers import local_state
from trove.drivers.compute import processes

#: In the order in which people think of them.
ROLES = ("supervisor", "broker", "api", "conductor", "taskmanager")


def find(state: standalone_state.StandaloneState, role: str) -> processes.Process | None:
    """Return the running process of a role, or None."""
    record = local_state.read_json(state.run_dir / f"{role}.pid")
    process = processes.Process.from_record(record)
    return process if process is not None and process.is_alive() else None


def record(state: standalone_state.StandaloneState, role: str) -> None:
    """Remember this very process as the one of a role."""
    process = processes.Process.find(os.getpid())
    if process is not None:
        local_state.replace(state.run_dir / f"{role}.pid", json.dumps(process.record()))


def wait_end(process: processes.Process | None, timeout_s: float) -> bool:
    """Wait for the end of a process; tell whether it has ended."""
    if process is None or not process.is_alive():
        return True
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return True
    try:
        # the number may have gone to another process just before it was opened
        if not process.is_alive():
            return True
        ready, _, _ = select.select([descriptor], [], [], timeout_s)
        return bool(ready)
    finally:
        os.close(descriptor)


def wait_file(path: pathlib.Path, timeout_s: float) -> bool:
    """Wait until a file is there; tell whether it is."""
    pause = threading.Event()
    end = time.monotonic() + timeout_s
    while not path.exists():
        if time.monotonic() > end:
            return False
        pause.wait(0.05)
    return True
