"""Processes: start one in a session of its own, recognise it again, wait for it, end it.

A process is never known by its number alone: :class:`Identity` holds its start time too, and an
argument of its command line that no other process has. A zombie counts as ended, unless threads of
it have yet to end: until then its files are open, its locks held and its ports taken.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import errno
import json
import os
import pathlib
import select
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence

from trove.guestagent.system import filesystem, users

#: Option of mallopt(3): how many heaps threads may have.
_M_ARENA_MAX = -8
#: Niceness of what need not be done soon.
_LOW_PRIORITY = 15
_BOOT_ID = pathlib.Path("/proc/sys/kernel/random/boot_id")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A program to run: arguments, environment (nothing is inherited), user.

    ``marker`` is the argument that tells this process from all others on the machine.
    """

    argv: tuple[str, ...]
    marker: str
    user: users.SystemUser
    log: pathlib.Path
    directory: pathlib.Path
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Which process: number, start time in clock ticks since the machine's boot, and that boot."""

    pid: int
    start_ticks: int
    boot_id: str


def machine_boot_id() -> str:
    """Return what identifies the time since the machine was booted."""
    return _BOOT_ID.read_text(encoding="ascii").strip()


def _read_stat(pid: int) -> tuple[bool, int] | None:
    """Return (whether it runs, start ticks) of a process; None when there is none."""
    try:
        text = pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # the command's name, in parentheses, may hold anything: count from its end (proc(5))
    fields = text[text.rindex(")") + 2 :].split()
    is_over = fields[0] == "X" or (fields[0] == "Z" and int(fields[17]) <= 1)
    return not is_over, int(fields[19])


def has_argument(pid: int, argument: str) -> bool:
    """Tell whether ``argument`` stands on the command line of a process."""
    try:
        line = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return False
    return argument.encode() in line.split(b"\0")


def identify(pid: int) -> Identity | None:
    """Return the identity of a running process, None when it has ended."""
    found = _read_stat(pid)
    if found is None or not found[0]:
        return None
    return Identity(pid=pid, start_ticks=found[1], boot_id=machine_boot_id())


def is_alive(identity: Identity) -> bool:
    """Tell whether exactly this process still runs."""
    return identify(identity.pid) == identity


def find_by_argument(argument: str) -> Identity | None:
    """Look through all processes for one with ``argument`` on its command line."""
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        if has_argument(int(name), argument):
            identity = identify(int(name))
            if identity is not None:
                return identity
    return None


def write_pid_file(path: pathlib.Path, identity: Identity) -> None:
    """Remember a process."""
    filesystem.write_file(path, json.dumps(dataclasses.asdict(identity)), mode=0o600)


def read_pid_file(path: pathlib.Path) -> Identity | None:
    """Return the process a file remembers; None when there is no such file or no sense in it."""
    try:
        wire = json.loads(path.read_text(encoding="utf-8"))
        return Identity(
            pid=int(wire["pid"]),
            start_ticks=int(wire["start_ticks"]),
            boot_id=str(wire["boot_id"]),
        )
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def end_by_argument(argument: str, *, timeout_s: float) -> bool:
    """End what an earlier agent left, known by an argument; returns whether it has ended."""
    identity = find_by_argument(argument)
    if identity is None:
        return True
    try:
        left = Process(identity)
    except ProcessLookupError:
        return True
    with contextlib.closing(left):
        left.signal(signal.SIGKILL)
        return left.wait(timeout_s)


def end_on(directory: pathlib.Path, *, timeout_s: float) -> int:
    """End all other processes that work on a directory, or one whose name begins so.

    Known by their working directory and their arguments. Returns how many there were.
    """
    count = 0
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid() or not _is_on(int(name), directory):
            continue
        identity = identify(int(name))
        if identity is None:
            continue
        with contextlib.suppress(ProcessLookupError), contextlib.closing(Process(identity)) as left:
            left.signal(signal.SIGKILL)
            left.wait(timeout_s)
            count += 1
    return count


def _is_on(pid: int, directory: pathlib.Path) -> bool:
    path = os.fspath(directory)
    try:
        if os.readlink(f"/proc/{pid}/cwd").startswith(path):
            return True
        line = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return False
    arguments = line.decode("utf-8", "replace").split("\0")
    return any(each.rpartition("=")[2].startswith(path) for each in arguments)


class Process:
    """A process of ours: one that we started, or one that an earlier agent started."""

    def __init__(self, identity: Identity, *, is_child: bool = False) -> None:
        """Watch a running process; raises ProcessLookupError when it has ended."""
        self.identity = identity
        self._return_code: int | None = None
        self._descriptor = os.pidfd_open(identity.pid)
        # the number may have been taken over before the descriptor was opened
        if not is_child and not is_alive(identity):
            os.close(self._descriptor)
            raise ProcessLookupError(errno.ESRCH, "process has ended")

    def fileno(self) -> int:
        """Return a descriptor that becomes readable when the process ends (pidfd_open(2))."""
        return self._descriptor

    def has_ended(self) -> bool:
        """Tell whether the process has ended; collects it when it is our child.

        One that was found may be our child too, of before this program was replaced by another: as
        a zombie it would be in the way of engines that ask for the number of their last process.
        """
        if self._return_code is None:
            try:
                end = os.waitid(os.P_PIDFD, self._descriptor, os.WEXITED | os.WNOHANG)
            except ChildProcessError:
                return not is_alive(self.identity)
            if end is None:
                return False
            is_exit = end.si_code == os.CLD_EXITED
            self._return_code = end.si_status if is_exit else -end.si_status
        return True

    @property
    def return_code(self) -> int | None:
        """Return how it ended (negative: the signal); None when running or not our child."""
        return self._return_code

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; nothing when the process has ended."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._descriptor, number)

    def wait(self, timeout_s: float) -> bool:
        """Wait for the end; returns whether it came within ``timeout_s``."""
        poller = select.poll()
        poller.register(self._descriptor, select.POLLIN)
        poller.poll(max(0.0, timeout_s) * 1000)
        return self.has_ended()

    def close(self) -> None:
        """Stop watching."""
        os.close(self._descriptor)


def spawn(command: Command) -> Process:
    """Start a program in its own session, its output appended to the log; raises OSError."""
    log = os.open(command.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
    user = command.user
    switch = {} if user.is_current else {"user": user.uid, "group": user.gid, "extra_groups": []}
    try:
        child = subprocess.Popen(  # type: ignore[call-overload]
            command.argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=command.directory,
            env=dict(command.environment),
            start_new_session=True,
            umask=0o027,
            close_fds=True,
            **switch,
        )
    finally:
        os.close(log)
    found = _read_stat(child.pid)
    # nobody has collected it yet: even a process that failed at once still has its entry
    ticks = found[1] if found is not None else 0
    identity = Identity(pid=child.pid, start_ticks=ticks, boot_id=machine_boot_id())
    # Popen was only the launcher: it must not collect the child, nor mind that it outlives us
    child.returncode = 0
    return Process(identity, is_child=True)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How a program ended and what it said."""

    return_code: int
    output: str


def run(
    argv: Sequence[str],
    *,
    timeout_s: float,
    user: users.SystemUser | None = None,
    stdin: bytes = b"",
    directory: pathlib.Path | None = None,
) -> Result:
    """Run a program to its end; raises OSError, and TimeoutError after ``timeout_s``."""
    switch = (
        {}
        if user is None or user.is_current
        else {"user": user.uid, "group": user.gid, "extra_groups": []}
    )
    try:
        done = subprocess.run(  # type: ignore[call-overload]
            list(argv),
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout_s,
            check=False,
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8"},
            cwd=directory or "/",
            **switch,
        )
    except subprocess.TimeoutExpired:
        raise TimeoutError(f"{argv[0]} did not end within {timeout_s} s") from None
    return Result(return_code=done.returncode, output=done.stdout.decode("utf-8", "replace"))


def find_program(name: str, *, basedir: str | None) -> pathlib.Path | None:
    """Return where a program is: below ``basedir``, or in the system's usual places."""
    roots = (
        [pathlib.Path(basedir)] if basedir else [pathlib.Path("/usr"), pathlib.Path("/usr/local")]
    )
    for root in roots:
        for folder in ("sbin", "bin", "libexec", "scripts"):
            path = root / folder / name
            if os.access(path, os.X_OK):
                return path
    return None


def save_memory() -> None:
    """Have this process share one heap among its threads; to be called before there are many."""
    ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def yield_to_others() -> None:
    """Have this thread, and all processes that it starts, run behind the others of the machine."""
    # to the kernel a priority is a thread's (setpriority(2), notes)
    os.setpriority(os.PRIO_PROCESS, 0, _LOW_PRIORITY)


def is_port_free(address: str, port: int) -> bool:
    """Tell whether a server could listen on ``address`` and ``port`` now."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as e:
            if e.errno == errno.EADDRINUSE:
                return False
            raise
    return True
