"""Processes of this machine, told apart from others that get the same number later.

A process is known by its number, its start time and the boot it runs in. Everything is read from
/proc, so that it works for processes that are not our children, and after our own restart.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import pathlib
import signal
from collections.abc import Iterator
from typing import Any

_PROC = pathlib.Path("/proc")


@functools.cache
def boot_id() -> str:
    """Return the id of this boot of the machine."""
    return (_PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def _stat(pid: int) -> list[str] | None:
    """Return the fields of /proc/PID/stat behind the program's name, or None."""
    try:
        text = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return text.rpartition(")")[2].split()


# positions behind the name, see proc(5): state, ppid, pgrp, session, tty_nr, ... num_threads, ...
_STATE, _TTY, _THREADS, _START = 0, 4, 17, 19


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A process that was seen running."""

    pid: int
    start_ticks: int
    boot: str

    @classmethod
    def find(cls, pid: int) -> Process | None:
        """Return the process that runs under a number now, or None.

        A zombie does not run, unless threads of it have yet to end: until then its files are open
        and its ports taken.
        """
        fields = _stat(pid)
        if fields is None or fields[_STATE] == "X":
            return None
        if fields[_STATE] == "Z" and int(fields[_THREADS]) <= 1:
            return None
        return cls(pid=pid, start_ticks=int(fields[_START]), boot=boot_id())

    @classmethod
    def from_record(cls, record: dict[str, Any] | None) -> Process | None:
        """Rebuild from :meth:`record`; None for anything else."""
        try:
            return cls(**record) if record is not None else None
        except TypeError:
            return None

    def record(self) -> dict[str, Any]:
        """Return a JSON-ready form."""
        return dataclasses.asdict(self)

    def is_alive(self) -> bool:
        """Tell whether this very process still runs."""
        return self.find(self.pid) == self

    def send(self, number: signal.Signals) -> None:
        """Send a signal to this very process; nothing when it has ended."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        try:
            # the descriptor stands for one process, so a look after opening it is conclusive
            if self.is_alive():
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(descriptor, number)
        finally:
            os.close(descriptor)


def in_cgroup(procs_file: pathlib.Path) -> Iterator[Process]:
    """Give the processes that a cgroup.procs file lists."""
    try:
        numbers = procs_file.read_text(encoding="ascii").split()
    except OSError:
        return
    for number in numbers:
        process = Process.find(int(number))
        if process is not None:
            yield process


def using_path(path: pathlib.Path) -> Iterator[Process]:
    """Give the processes without a terminal whose command line names something below a path.

    Agents and engines are started with their configuration or data directory as an argument and
    have no terminal, so that a person who looks at a log is left alone.
    """
    wanted = os.fsencode(path) + b"/"
    for entry in os.listdir(_PROC):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            command = (_PROC / entry / "cmdline").read_bytes()
        except OSError:
            continue
        if wanted not in command:
            continue
        fields = _stat(int(entry))
        process = Process.find(int(entry))
        if process is not None and fields is not None and fields[_TTY] == "0":
            yield process
