"""Programs that the agent reads from or writes to while they run.

What a program says goes to a file, of which the end is kept for people. A program whose reader or
writer is gone ends by itself; :meth:`Program.close` ends it in any case.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
import select
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any, Self

from trove.guestagent.system import filesystem, users

#: What the priority of programs that work beside an engine is lowered by (setpriority(2)).
_NICE = 10
#: Of them, where 1000 is to end at once and an engine has what the agent has, less than 0.
_OOM_SCORE = 500
#: What a pipe holds, so that the two sides wait less: the most that all may ask for (pipe(7)).
_PIPE_BYTES = 1024 * 1024
#: Most that is read at once: memory for more is taken from the system each time, and given back.
_READ_BYTES = 64 * 1024
#: Seconds that a program may take to end once it was told to.
_PATIENCE_S = 5.0


def give_way(pid: int) -> None:
    """Have a process work when others do not, and end first when memory runs out."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, _NICE)
    with contextlib.suppress(OSError):
        pathlib.Path(f"/proc/{pid}/oom_score_adj").write_text(str(_OOM_SCORE), encoding="ascii")


class Program:
    """A program with pipes; a context manager that ends it."""

    def __init__(
        self,
        argv: Sequence[str],
        *,
        user: users.SystemUser,
        messages: pathlib.Path,
        directory: pathlib.Path,
        environment: Mapping[str, str] | None = None,
        is_written_to: bool = False,
        output: int | None = None,
        stall_s: float | None = None,
    ) -> None:
        """Start a program; raises OSError.

        What it says is appended to ``messages``, a file. Its output is for :meth:`read`, unless
        it goes to ``output``, a descriptor; it may write nothing for ``stall_s`` at most. Of the
        environment of this process it gets PATH alone.
        """
        self.name = pathlib.Path(argv[0]).name
        self._messages = messages
        self._stall_s = stall_s
        switch: dict[str, Any] = {}
        if not user.is_current:
            switch = {"user": user.uid, "group": user.gid, "extra_groups": []}
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        said = os.open(messages, flags, 0o600)
        try:
            self._process = subprocess.Popen(
                list(argv),
                stdin=subprocess.PIPE if is_written_to else subprocess.DEVNULL,
                stdout=subprocess.PIPE if output is None else output,
                stderr=said,
                cwd=directory,
                env={
                    "PATH": os.environ.get("PATH", os.defpath),
                    "LC_ALL": "C.UTF-8",
                    "TZ": "UTC",
                    **(environment or {}),
                },
                start_new_session=True,
                umask=0o027,
                bufsize=0,
                **switch,
            )
        finally:
            os.close(said)
        stdout = self._process.stdout
        self._output = stdout.fileno() if stdout is not None else -1
        for descriptor in (self.input, self._output):
            if descriptor >= 0:
                # users have only so many pages for all their pipes
                with contextlib.suppress(OSError):
                    fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        give_way(self._process.pid)

    @property
    def pid(self) -> int:
        """Return the number of the process."""
        return self._process.pid

    @property
    def input(self) -> int:
        """Return the descriptor of what the program reads."""
        return self._process.stdin.fileno() if self._process.stdin is not None else -1

    def read(self, most: int) -> bytes:
        """Return up to ``most`` bytes that the program wrote, none at the end.

        Raises OSError, TimeoutError when it writes nothing for too long.
        """
        if self._stall_s is not None:
            poller = select.poll()
            poller.register(self._output, select.POLLIN)
            if not poller.poll(self._stall_s * 1000):
                raise TimeoutError(f"{self.name} gave nothing for {self._stall_s:.0f} s")
        return os.read(self._output, min(most, _READ_BYTES))

    def write(self, data: bytes) -> None:
        """Have the program read data; raises OSError, BrokenPipeError when it ended."""
        view = memoryview(data)
        while view:
            view = view[os.write(self.input, view) :]

    def end_input(self) -> None:
        """Tell the program that there is nothing more to read."""
        if self._process.stdin is not None:
            self._process.stdin.close()

    def wait(self, timeout_s: float | None = None) -> int:
        """Wait for the end and return the exit code, negative for a signal; raises TimeoutError."""
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"{self.name} did not end within {timeout_s} s") from None

    def has_ended(self) -> bool:
        """Tell whether the program has ended."""
        return self._process.poll() is not None

    def kill(self) -> None:
        """End the program now, also while another thread reads from it or writes to it."""
        self._process.kill()

    def said(self, *, max_bytes: int = 16384) -> str:
        """Return the end of what it said."""
        return filesystem.read_tail(self._messages, max_bytes=max_bytes)

    def close(self) -> None:
        """End the program, unless it has ended; may be called again."""
        # first: a program that waits for its reader does not see a signal
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                # what was not written yet nobody reads
                with contextlib.suppress(OSError):
                    pipe.close()
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_PATIENCE_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def __enter__(self) -> Self:
        """Give the program."""
        return self

    def __exit__(self, *exc: object) -> None:
        """End the program."""
        self.close()
