"""Programs whose output is read while they run.

The program ends with its reader: who reads no more closes the pipe. What it says besides is kept in
a file without a name, and its end is told.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
import select
import subprocess
import tempfile
from collections.abc import Mapping, Sequence

from trove.guestagent.system import process, users

#: As much as a pipe of an unprivileged user may hold (/proc/sys/fs/pipe-max-size).
_PIPE_BYTES = 1024 * 1024
_SAID_BYTES = 16384
_END_TIMEOUT_S = 60.0


class Output:
    """What a program writes, as it comes; a context manager that ends the program."""

    def __init__(
        self,
        argv: Sequence[str],
        *,
        stall_s: float,
        user: users.SystemUser | None = None,
        directory: pathlib.Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start the program; raises OSError. ``stall_s``: the longest it may write nothing."""
        self._name = pathlib.Path(argv[0]).name
        self._stall_s = stall_s
        switch = (
            {}
            if user is None or user.is_current
            else {"user": user.uid, "group": user.gid, "extra_groups": []}
        )
        # closed with the program
        self._said = tempfile.TemporaryFile()  # noqa: SIM115
        try:
            self._child = subprocess.Popen(  # type: ignore[call-overload]
                list(argv),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=self._said,
                cwd=directory or "/",
                env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8"}
                | dict(environment or {}),
                start_new_session=True,
                bufsize=0,
                **switch,
            )
        except BaseException:
            self._said.close()
            raise
        self._descriptor: int = self._child.stdout.fileno()
        with contextlib.suppress(OSError):
            fcntl.fcntl(self._descriptor, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self._poller = select.poll()
        self._poller.register(self._descriptor, select.POLLIN)

    @property
    def pid(self) -> int:
        """Number of the process."""
        return int(self._child.pid)

    def read(self, most: int) -> bytes:
        """Return up to ``most`` bytes, none at the end; raises TimeoutError, OSError."""
        if not self._poller.poll(self._stall_s * 1000):
            raise TimeoutError(f"{self._name} gave nothing for {self._stall_s:.0f} s")
        return os.read(self._descriptor, most)

    def finish(self) -> process.Result:
        """Wait for the program, whose output was read to its end; raises TimeoutError."""
        try:
            code = self._child.wait(_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"{self._name} did not end after its output") from None
        return process.Result(return_code=int(code), output=self.said())

    def said(self) -> str:
        """Return the end of what the program said besides its output."""
        size = os.fstat(self._said.fileno()).st_size
        data = os.pread(self._said.fileno(), _SAID_BYTES, max(0, size - _SAID_BYTES))
        return data.decode("utf-8", "replace")

    def close(self) -> None:
        """End the program; may be called again."""
        if self._said.closed:
            return
        if self._child.poll() is None:
            self._child.kill()
        self._child.stdout.close()
        self._child.wait()
        self._said.close()

    def __enter__(self) -> Output:
        """Give the output."""
        return self

    def __exit__(self, *exc: object) -> None:
        """End the program."""
        self.close()
