"""The control plane and the agent take a process for ended only when all its threads have."""

import signal
import socket
import subprocess
import sys

from tests.fixtures.waiting import wait_until
from trove.drivers.compute import processes
from trove.guestagent.system import process as guest_process

# its first thread ends by itself (SYS_exit), another one keeps the port
_HALF_ENDED = """
import ctypes, platform, socket, sys, threading
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
threading.Thread(target=sys.stdin.read).start()
ctypes.CDLL(None).syscall({"x86_64": 60, "aarch64": 93}[platform.machine()], 0)
"""


def test_a_process_runs_until_its_last_thread_has_ended() -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", _HALF_ENDED], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert child.stdout is not None
        port = int(child.stdout.readline())
        wait_until(lambda: _state(child.pid) == "Z", timeout_s=20, what="the first thread's end")
        socket.create_connection(("127.0.0.1", port)).close()
        process = processes.Process.find(child.pid)
        assert process is not None
        identity = guest_process.identify(child.pid)
        assert identity is not None
        process.send(signal.SIGKILL)
        wait_until(lambda: not process.is_alive(), timeout_s=20, what="the end of the process")
        assert not guest_process.is_alive(identity)
        socket.create_server(("127.0.0.1", port)).close()
    finally:
        child.kill()
        child.communicate()


def test_a_zombie_does_not_run() -> None:
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    try:
        wait_until(lambda: _state(child.pid) == "Z", timeout_s=20, what="a zombie")
        assert processes.Process.find(child.pid) is None
        assert guest_process.identify(child.pid) is None
    finally:
        child.wait()


def _state(pid: int) -> str:
    with open(f"/proc/{pid}/stat", encoding="ascii") as stream:
        return stream.read().rpartition(")")[2].split()[0]
