"""Clocks and stoppable threads: what tests must be able to inject.

Nothing here sleeps without a way to be woken.
"""

from __future__ import annotations

import abc
import datetime
import sys
import threading
import time
from collections.abc import Callable

from oslo_log import log
from oslo_service import backend

LOG = log.getLogger(__name__)

#: By how much at least a clock is set; what is less may be a slow look at it.
_SET_S = 60.0
#: By so much the clocks of two processes differ without either being wrong.
CLOCKS_APART = datetime.timedelta(minutes=1)
#: In which a clock that was set wrong is seen by people, or by what sets it right.
SETTLED_S = 3600.0


def use_native_threads() -> None:
    """Choose native threads for the oslo libraries; must run before oslo.messaging is imported.

    Importing oslo.messaging without a choice selects eventlet. Refusing eventlet's import saves
    time and memory, and shows at once when something reaches for it.
    """
    sys.modules.setdefault("eventlet", None)  # type: ignore[arg-type]
    backend.init_backend(backend.BackendType.THREADING)


class Clock(abc.ABC):
    """Where the time comes from."""

    @abc.abstractmethod
    def now(self) -> datetime.datetime:
        """Return the wall-clock time, UTC-aware."""

    @abc.abstractmethod
    def monotonic(self) -> float:
        """Return seconds from an arbitrary start, never going back."""


class SystemClock(Clock):
    """The machine's own clocks."""

    def now(self) -> datetime.datetime:
        """Return the wall-clock time, UTC-aware."""
        return datetime.datetime.now(datetime.UTC)

    def monotonic(self) -> float:
        """Return seconds from an arbitrary start, never going back."""
        return time.monotonic()


class ManualClock(Clock):
    """A clock that moves only when told to; for tests."""

    def __init__(self, start: datetime.datetime | None = None) -> None:
        """Start at ``start`` (UTC-aware), by default the beginning of 2026."""
        self._now = start or datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
        self._monotonic = 0.0

    def now(self) -> datetime.datetime:
        """Return the wall-clock time, UTC-aware."""
        return self._now

    def monotonic(self) -> float:
        """Return seconds from an arbitrary start, never going back."""
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Move both clocks forward by ``seconds``."""
        self._now += datetime.timedelta(seconds=seconds)
        self._monotonic += seconds

    def set_forward(self, seconds: float) -> None:
        """Set the wall clock alone, back with a negative number."""
        self._now += datetime.timedelta(seconds=seconds)


class ClockWatch:
    """Notices that somebody set the wall clock, by the one that nobody sets.

    A machine that was suspended has its clock set forward, too. For one thread.
    """

    def __init__(self, clock: Clock) -> None:
        """Take the clock; what was done to it before is not known."""
        self._clock = clock
        self._apart_s = self._read()
        self._set_at = clock.monotonic()
        self._is_news = True

    def _read(self) -> float:
        return self._clock.now().timestamp() - self._clock.monotonic()

    def _look(self) -> None:
        apart_s = self._read()
        step_s = apart_s - self._apart_s
        if abs(step_s) >= _SET_S:
            LOG.warning("the clock was set by %.0f s", step_s)
            self._apart_s, self._set_at = apart_s, self._clock.monotonic()
            self._is_news = True

    def was_set(self) -> bool:
        """Tell whether it was set since the last call; it may have been before the first."""
        self._look()
        is_news, self._is_news = self._is_news, False
        return is_news

    def is_settled(self) -> bool:
        """Tell whether it ran for so long as it was that one removes by it what is old."""
        self._look()
        return self._clock.monotonic() - self._set_at >= SETTLED_S


class PeriodicThread:
    """Call a function every ``interval_s`` seconds, and at once when poked, until stopped.

    An exception of the function is logged and does not end the thread. Of a row of failures, which
    may last as long as a backend is away, fewer and fewer are logged.
    """

    def __init__(self, name: str, function: Callable[[], object], *, interval_s: float) -> None:
        """Prepare the thread; ``start`` begins."""
        self._function = function
        self._interval_s = interval_s
        self._wake = threading.Event()
        self._stopped = threading.Event()
        self._failures = 0
        self._thread = threading.Thread(target=self._loop, name=name, daemon=True)

    def start(self) -> None:
        """Begin; the first call happens at once."""
        self._thread.start()

    def poke(self) -> None:
        """Have the function called now instead of at the end of the interval."""
        self._wake.set()

    def stop(self, timeout_s: float = 10.0) -> None:
        """End after the current call; wait for it at most ``timeout_s`` seconds."""
        self._stopped.set()
        self._wake.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout_s)

    def _loop(self) -> None:
        while not self._stopped.is_set():
            self._wake.clear()
            try:
                self._function()
                self._failures = 0
            except Exception as e:
                self._failures += 1
                if self._failures == 1:
                    LOG.exception("periodic %s failed", self._thread.name)
                elif self._failures.bit_count() == 1:
                    LOG.error(
                        "periodic %s failed %d times in a row, now with %s",
                        self._thread.name,
                        self._failures,
                        type(e).__name__,
                    )
            if self._stopped.is_set():
                return
            self._wake.wait(self._interval_s)
