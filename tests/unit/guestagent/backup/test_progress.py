"""Progress: bytes, per cent, time that is left; the pace of a backup."""

from __future__ import annotations

import threading

import pytest

from trove.common import concurrency, exception
from trove.guestagent.backup import writer
from trove.guestagent.backup.progress import Cancelled, Progress


def test_percent_and_the_time_that_is_left() -> None:
    clock = concurrency.ManualClock()
    progress = Progress(1000, clock=clock)
    assert (progress.percent, progress.left_s) == (0, None)
    clock.advance(10)
    progress.advance(250)
    assert (progress.done_bytes, progress.total_bytes) == (250, 1000)
    assert (progress.percent, progress.left_s) == (25, 30.0)
    progress.set_total(500)
    assert (progress.percent, progress.left_s) == (50, 10.0)
    # the total was an estimate
    progress.advance(750)
    assert (progress.done_bytes, progress.total_bytes) == (1000, 1000)
    assert (progress.percent, progress.left_s) == (99, 0.0)
    progress.finish()
    assert (progress.percent, progress.left_s) == (100, 0.0)


def test_nobody_may_know_how_much_there_is() -> None:
    progress = Progress()
    progress.advance(10)
    assert (progress.percent, progress.left_s, progress.total_bytes) == (None, None, None)
    progress.finish()
    assert progress.percent == 100


def test_cancel_is_said_once_and_heard_everywhere() -> None:
    progress = Progress()
    called: list[str] = []

    def fail() -> None:
        called.append("failing")
        raise exception.GuestError(reason="it cannot be ended")

    with progress.on_cancel(fail), progress.on_cancel(lambda: called.append("b")):
        progress.cancel("by its owner")
        progress.cancel("again")
    assert called == ["failing", "b"]
    for call in (progress.check, lambda: progress.wait(60), lambda: progress.advance(1)):
        with pytest.raises(Cancelled, match="by its owner"):
            call()
    with pytest.raises(Cancelled), progress.on_cancel(lambda: called.append("late")):
        raise AssertionError
    assert called == ["failing", "b"]
    assert progress.done_bytes == 0


def test_who_leaves_waits_until_it_has_been_ended() -> None:
    progress, is_ending, may_end = Progress(), threading.Event(), threading.Event()
    order: list[str] = []

    def end() -> None:
        is_ending.set()
        assert may_end.wait(20)
        order.append("ended")

    canceller = threading.Thread(target=progress.cancel)
    with progress.on_cancel(end):
        canceller.start()
        assert is_ending.wait(20)
        threading.Timer(0.05, may_end.set).start()
    order.append("left")
    canceller.join(20)
    assert order == ["ended", "left"]


class _Waiting(Progress):
    """Waits by moving the clock."""

    def __init__(self, clock: concurrency.ManualClock) -> None:
        super().__init__()
        self._manual = clock

    def wait(self, seconds: float) -> None:
        self._manual.advance(seconds)


def test_pace_is_kept_and_not_made_up_for() -> None:
    clock = concurrency.ManualClock()
    pace = writer.Pace(1000, _Waiting(clock), clock)
    assert pace.most(1 << 20) == 100
    for _ in range(100):
        pace.keep(100)
    assert clock.monotonic() == pytest.approx(10, abs=0.2)
    # the engine gave nothing for a minute
    clock.advance(60)
    for _ in range(100):
        pace.keep(100)
    assert 78 <= clock.monotonic() <= 80.2


def test_no_pace_waits_for_nothing() -> None:
    clock = concurrency.ManualClock()
    pace = writer.Pace(0, _Waiting(clock), clock)
    assert pace.most(5) == 5
    pace.keep(1 << 40)
    assert clock.monotonic() == 0
