"""Start an agent apart from whoever asks: own session, own cgroup, parent init.

Run as a script by its path, with isolated Python and nothing but the standard library, so that it
costs some ten milliseconds. It ends as soon as the agent's program runs, or says on stderr
why it does not. Arguments: one JSON object with ``argv``, ``pid_file``, ``log_file``, ``cgroups``
(directories), ``boot``, ``env``, ``directory`` and optionally ``after`` (pid, start ticks and
grace in seconds of a process whose end is awaited first, killed when the grace is over) and
``user`` (numbers of user and group to become, with nothing else).
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import select
import signal
import sys
from typing import Any

_LOG_BYTES = 1024 * 1024
_PR_SET_NO_NEW_PRIVS = 38


def _start_ticks(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return int(file.read().rpartition(")")[2].split()[19])
    except OSError:
        return -1


def _await_end(pid: int, start_ticks: int, grace_s: float) -> None:
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    if _start_ticks(pid) != start_ticks:
        return
    ready, _, _ = select.select([descriptor], [], [], grace_s)
    if not ready:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        select.select([descriptor], [], [], 10)
    os.close(descriptor)


def _redirect(log_file: str) -> None:
    """Send output to the log, which is put aside once it is large."""
    with contextlib.suppress(OSError):
        if os.path.getsize(log_file) > _LOG_BYTES:
            os.replace(log_file, log_file + ".1")
    log = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
    null = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)


def _write_pid(request: dict[str, Any], name: str) -> None:
    record = {
        "pid": os.getpid(),
        "start_ticks": _start_ticks(os.getpid()),
        "boot": request["boot"],
    }
    temporary = f"{name}.new"
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(record, file)
    os.replace(temporary, name)


def _become_user(uid: int, gid: int) -> None:
    """Be another user for good, whose programs give nobody more rights and leave no core."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "no_new_privs cannot be set", "prctl")


def _become_agent(request: dict[str, Any]) -> None:
    for group in request["cgroups"]:
        with open(os.path.join(group, "cgroup.procs"), "w", encoding="ascii") as file:
            file.write("0")
    if request.get("after"):
        _write_pid(request, request["pid_file"] + ".next")
        _await_end(*request["after"])
    os.chdir(request["directory"])
    os.umask(0o027)
    _write_pid(request, request["pid_file"])
    with contextlib.suppress(FileNotFoundError):
        os.unlink(request["pid_file"] + ".next")
    _redirect(request["log_file"])
    if request.get("user"):
        _become_user(*request["user"])
    for number in (signal.SIGPIPE, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    os.execve(request["argv"][0], request["argv"], request["env"])  # noqa: S606 argv, no shell


def main() -> int:
    """Start the agent of the request on the command line; 0 once its program runs."""
    request = json.loads(sys.argv[1])
    reader, writer = os.pipe2(os.O_CLOEXEC)
    if os.fork():
        # end of file: the child's program runs; with an awaited process, that the wait began
        os.close(writer)
        problem = os.read(reader, 4096)
        sys.stderr.write(problem.decode())
        return 1 if problem else 0
    os.close(reader)
    os.setsid()
    try:
        if request.get("after"):
            os.close(writer)
            writer = -1
        _become_agent(request)
    except OSError as e:
        if writer >= 0:
            os.write(writer, f"{e.filename or request['argv'][0]}: {e.strerror}".encode())
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
