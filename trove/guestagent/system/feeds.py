"""Programs that read what the agent, or another program, writes.

What a program says goes to a file without a name, and its end is told. :meth:`Fed.close` ends it in
any case.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from typing import Self

from trove.guestagent.system import users

_SAID_BYTES = 16384
#: Seconds that a program may take to end once it was told to.
_PATIENCE_S = 5.0


class Fed:
    """A program with a pipe to read from; a context manager that ends it."""

    def __init__(
        self,
        argv: Sequence[str],
        *,
        user: users.SystemUser,
        directory: pathlib.Path,
        environment: Mapping[str, str] | None = None,
        output: int | None = None,
    ) -> None:
        """Start a program; raises OSError.

        What it writes goes to the descriptor ``output``, or with what it says. With an output it
        reads nothing: it is there to feed another one.
        """
        self.name = pathlib.Path(argv[0]).name
        switch = (
            {} if user.is_current else {"user": user.uid, "group": user.gid, "extra_groups": []}
        )
        # closed with the program
        self._said = tempfile.TemporaryFile()  # noqa: SIM115
        try:
            self._process = subprocess.Popen(  # type: ignore[call-overload]
                list(argv),
                stdin=subprocess.PIPE if output is None else subprocess.DEVNULL,
                stdout=self._said if output is None else output,
                stderr=self._said,
                cwd=directory,
                env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8"}
                | dict(environment or {}),
                start_new_session=True,
                umask=0o027,
                bufsize=0,
                **switch,
            )
        except BaseException:
            self._said.close()
            raise

    @property
    def input(self) -> int:
        """Return the descriptor that the program reads from the other end of."""
        return int(self._process.stdin.fileno())

    def write(self, data: bytes) -> None:
        """Have the program read data; raises OSError, BrokenPipeError when it reads no more."""
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
            return int(self._process.wait(timeout_s))
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"{self.name} did not end within {timeout_s} s") from None

    def has_ended(self) -> bool:
        """Tell whether the program has ended."""
        return self._process.poll() is not None

    def said(self) -> str:
        """Return the end of what it said."""
        size = os.fstat(self._said.fileno()).st_size
        data = os.pread(self._said.fileno(), _SAID_BYTES, max(0, size - _SAID_BYTES))
        return data.decode("utf-8", "replace")

    def close(self) -> None:
        """End the program, unless it has ended; may be called again."""
        if self._said.closed:
            return
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_PATIENCE_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        # what was not written yet nobody reads
        with contextlib.suppress(OSError):
            self.end_input()
        self._said.close()

    def __enter__(self) -> Self:
        """Give the program."""
        return self

    def __exit__(self, *exc: object) -> None:
        """End the program."""
        self.close()
