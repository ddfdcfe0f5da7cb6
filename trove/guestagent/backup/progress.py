"""How far a backup or a restore is, and the word to end it; shared by all threads of one.

Percent and the estimated end are of the engine's own bytes, of which the total is an estimate: 100
is reached when all is done, not before.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

from oslo_log import log

from trove.common import concurrency, exception

LOG = log.getLogger(__name__)


class Cancelled(exception.GuestError):
    """Somebody ended it."""

    msg_fmt = "It was cancelled{reason}"
    code = "trove.cancelled"


def cancelled() -> Cancelled:
    """Return what a job that was cancelled ends with."""
    return Cancelled("It was cancelled.", reason="it was cancelled")


class Progress:
    """Bytes that are done, of about so many."""

    def __init__(
        self, total_bytes: int | None = None, *, clock: concurrency.Clock | None = None
    ) -> None:
        """Begin now; None: nobody knows how many bytes there are."""
        self._clock = clock or concurrency.SystemClock()
        self._began = self._clock.monotonic()
        self._lock = threading.Lock()
        self._done_bytes = 0
        self._total_bytes = total_bytes
        self._is_finished = False
        self._is_cancelled = threading.Event()
        self._reason = ""
        self._hooks: list[Callable[[], object]] = []
        #: Held while the hooks are called.
        self._ending = threading.RLock()

    @property
    def done_bytes(self) -> int:
        """Bytes that are done."""
        return self._done_bytes

    @property
    def total_bytes(self) -> int | None:
        """About how many bytes there are, never fewer than are done."""
        with self._lock:
            if self._total_bytes is None:
                return None
            return self._done_bytes if self._is_finished else self._largest()

    @property
    def percent(self) -> int | None:
        """How much of it is done; None when nobody knows."""
        with self._lock:
            if self._is_finished:
                return 100
            if not self._total_bytes:
                return None
            return min(99, 100 * self._done_bytes // self._largest())

    @property
    def left_s(self) -> float | None:
        """About how many seconds are left, as fast as it went until now."""
        with self._lock:
            if self._is_finished:
                return 0.0
            if not self._total_bytes or not self._done_bytes:
                return None
            left = self._largest() - self._done_bytes
            return (self._clock.monotonic() - self._began) * left / self._done_bytes

    def _largest(self) -> int:
        return max(self._total_bytes or 0, self._done_bytes)

    def advance(self, done_bytes: int) -> None:
        """Add bytes that are done; raises Cancelled."""
        self.check()
        with self._lock:
            self._done_bytes += done_bytes

    def set_total(self, total_bytes: int) -> None:
        """Know better how many bytes there are."""
        with self._lock:
            self._total_bytes = total_bytes

    def finish(self) -> None:
        """All is done."""
        with self._lock:
            self._is_finished = True

    def cancel(self, reason: str = "") -> None:
        """Have everything that works on it end with Cancelled; from any thread, at any moment."""
        with self._ending:
            with self._lock:
                if self._is_cancelled.is_set():
                    return
                self._reason = reason
                self._is_cancelled.set()
                hooks = list(self._hooks)
            for hook in hooks:
                try:
                    hook()
                except (exception.TroveError, OSError, ValueError) as e:
                    LOG.warning("while ending what was cancelled: %s", e)

    @property
    def is_cancelled(self) -> bool:
        """Tell whether it is to end."""
        return self._is_cancelled.is_set()

    def check(self) -> None:
        """Raise Cancelled when it is to end."""
        if self._is_cancelled.is_set():
            raise Cancelled(reason=f": {self._reason}" if self._reason else ".")

    def wait(self, seconds: float) -> None:
        """Let time pass; raises Cancelled as soon as it is to end."""
        self._is_cancelled.wait(seconds)
        self.check()

    @contextlib.contextmanager
    def on_cancel(self, hook: Callable[[], object]) -> Iterator[None]:
        """Have something called in the thread that cancels, as long as this goes on.

        It is to end what may not come back by itself, such as reading from a program. Who leaves
        this waits until it has been called.
        """
        with self._ending:
            self._hooks.append(hook)
        try:
            self.check()
            yield
        finally:
            with self._ending:
                self._hooks.remove(hook)
