"""Looking at many rows in turn, a page in a pass of a thread that has more to do."""

from __future__ import annotations

from typing import Generic, TypeVar

from trove.common import concurrency

_Mark = TypeVar("_Mark")


class Round(Generic[_Mark]):
    """Where such a look goes on; behind the last row it rests.

    A new process begins at the first row: what was looked at before is only looked at again.
    """

    def __init__(self, clock: concurrency.Clock, *, first: _Mark, rest_s: float) -> None:
        """Take the mark to begin from, and how long to rest after all were looked at."""
        self._clock = clock
        self._first = first
        self._rest_s = rest_s
        self._mark: _Mark | None = first
        self._rest_until = 0.0

    def find_mark(self) -> _Mark | None:
        """Return behind which row to go on, None while it rests."""
        if self._mark is None and self._clock.monotonic() >= self._rest_until:
            self._mark = self._first
        return self._mark

    def go_on(self, mark: _Mark | None) -> None:
        """Go on behind a row next time; None: all were looked at."""
        self._mark = mark
        if mark is None:
            self._rest_until = self._clock.monotonic() + self._rest_s
