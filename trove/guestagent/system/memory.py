"""Whether the kernel ended a process because memory ran out.

There are two witnesses: the kernel's own messages, which name the process, and the counter of its
control group. Where neither can be read nothing is claimed.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re

from trove.guestagent.system import process

_MESSAGES = "/dev/kmsg"
_LARGEST_MESSAGE_BYTES = 8192
_GROUPS = pathlib.Path("/sys/fs/cgroup")
_COUNT = re.compile(r"^oom_kill (\d+)$", re.MULTILINE)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """What the counter of a process's control group said, and where it is."""

    counter: pathlib.Path
    kills: int


def _count(counter: pathlib.Path) -> int | None:
    try:
        found = _COUNT.search(counter.read_text(encoding="ascii"))
    except OSError:
        return None
    return int(found[1]) if found else None


def _counters(pid: int) -> list[pathlib.Path]:
    """Return where a counter of the process's control group may be (cgroups(7), both versions)."""
    try:
        lines = pathlib.Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            roots = (_GROUPS, _GROUPS / "unified")
            found += [root / path.lstrip("/") / "memory.events" for root in roots]
        elif "memory" in controllers.split(","):
            found.append(_GROUPS / controllers / path.lstrip("/") / "memory.oom_control")
    return found


def mark(pid: int) -> Mark | None:
    """Return how many processes were killed in a running process's group; None without one."""
    for counter in _counters(pid):
        kills = _count(counter)
        if kills is not None:
            return Mark(counter=counter, kills=kills)
    return None


def was_killed(identity: process.Identity, before: Mark | None) -> bool:
    """Tell whether a process that has ended by SIGKILL was the kernel's doing for memory's sake."""
    if before is not None and (_count(before.counter) or 0) > before.kills:
        return True
    return _is_in_messages(identity)


def _is_in_messages(identity: process.Identity) -> bool:
    """Look through the kernel's messages for the process (oom_kill_process in mm/oom_kill.c)."""
    words = f"Killed process {identity.pid} ".encode()
    started_us = identity.start_ticks * 1_000_000 // os.sysconf("SC_CLK_TCK")
    try:
        descriptor = os.open(_MESSAGES, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        while True:
            try:
                record = os.read(descriptor, _LARGEST_MESSAGE_BYTES)
            except BrokenPipeError:
                # messages were overwritten, the next read goes on with the oldest
                continue
            if not record:
                return False
            prefix, _, text = record.partition(b";")
            if words in text and int(prefix.split(b",")[2]) >= started_us:
                return True
    except OSError:
        # EAGAIN: that was the last one
        return False
    finally:
        os.close(descriptor)
