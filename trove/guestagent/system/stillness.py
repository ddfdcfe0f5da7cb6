"""Have a process and all that it has started stand still, and go on.

A process that is stopped (SIGSTOP) has no write under way any more once all of its threads are
stopped: the kernel ends what one waits for before that one stops. What it wrote can be copied, as
after a crash that kept the system's cache.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import threading
from collections.abc import Iterator

from trove.common import concurrency
from trove.guestagent.system import process

#: Between looks at threads that are about to stop.
_LOOK_S = 0.005
_STOPPED = frozenset("TtZX")


def hold(root: process.Identity, *, timeout_s: float, clock: concurrency.Clock) -> None:
    """Stop a process and its descendants; returns when all of their threads are stopped.

    Raises ProcessLookupError when it is gone, TimeoutError when one of them does not stop in time:
    then some are stopped (:func:`let_go`).
    """
    end = clock.monotonic() + timeout_s
    pause = threading.Event()
    asked: set[int] = set()
    while True:
        if not process.is_alive(root):
            raise ProcessLookupError("the process has ended")
        # the root first: what is stopped starts nothing, so there comes an end to new ones
        found = [root.pid, *_descendants(root.pid)]
        for pid in found:
            if pid not in asked:
                _send(pid, signal.SIGSTOP)
                asked.add(pid)
        if all(_is_stopped(pid) for pid in found) and set(_descendants(root.pid)) <= asked:
            return
        if clock.monotonic() >= end:
            raise TimeoutError(f"process {root.pid} did not stop within {timeout_s:.0f} s")
        pause.wait(_LOOK_S)


def let_go(root: process.Identity) -> None:
    """Have a process and its descendants go on; nothing for those that run, or are gone."""
    if not process.is_alive(root):
        return
    # who asks others finds them ready
    for pid in (*_descendants(root.pid), root.pid):
        _send(pid, signal.SIGCONT)


def is_held(root: process.Identity) -> bool:
    """Tell whether a process is there and stands still."""
    return process.is_alive(root) and _is_stopped(root.pid)


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _fields(path: pathlib.Path) -> list[str] | None:
    """Return what stands behind the name of a process or thread (proc(5)); None when it is gone."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text[text.rindex(")") + 2 :].split()


def _is_stopped(pid: int) -> bool:
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except (FileNotFoundError, ProcessLookupError):
        return True
    for thread in threads:
        fields = _fields(pathlib.Path(f"/proc/{pid}/task/{thread}/stat"))
        if fields is not None and fields[0] not in _STOPPED:
            return False
    return True


def _descendants(pid: int) -> Iterator[int]:
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            fields = _fields(pathlib.Path(f"/proc/{name}/stat"))
            if fields is not None:
                children.setdefault(int(fields[1]), []).append(int(name))
    level = [pid]
    while level:
        level = [child for parent in level for child in children.get(parent, ())]
        yield from level
