"""Threads of our own."""

from __future__ import annotations

import threading

import pytest

from trove.common import concurrency


def test_a_long_row_of_failures_is_told_in_few_words(caplog: pytest.LogCaptureFixture) -> None:
    calls = 0
    done = threading.Event()

    def fail() -> None:
        nonlocal calls
        calls += 1
        if calls == 40:
            done.set()
        raise ConnectionError("away")

    thread = concurrency.PeriodicThread("test", fail, interval_s=0.001)
    thread.start()
    assert done.wait(10)
    thread.stop()
    told = [record for record in caplog.records if "periodic test failed" in record.getMessage()]
    # the 1st, 2nd, 4th ... 32nd, and perhaps the 64th
    assert 6 <= len(told) <= 7
    assert told[0].exc_info
    assert not any(record.exc_info for record in told[1:])
    assert "ConnectionError" in told[-1].getMessage()


def test_a_failure_after_a_success_is_told_in_full(caplog: pytest.LogCaptureFixture) -> None:
    fails = [True, False, True]
    done = threading.Event()

    def fail_or_not() -> None:
        if not fails:
            done.set()
        elif fails.pop():
            raise ConnectionError("away")

    thread = concurrency.PeriodicThread("test", fail_or_not, interval_s=0.001)
    thread.start()
    assert done.wait(10)
    thread.stop()
    told = [record for record in caplog.records if record.name == concurrency.__name__]
    assert [bool(record.exc_info) for record in told] == [True, True]


def test_a_clock_that_is_set_is_noticed_and_settles() -> None:
    clock = concurrency.ManualClock()
    watch = concurrency.ClockWatch(clock)
    # what was before nobody knows
    assert watch.was_set()
    assert not watch.was_set()
    assert not watch.is_settled()
    clock.advance(concurrency.SETTLED_S)
    assert watch.is_settled()
    # a slow look, or what a time server does
    clock.set_forward(59)
    assert watch.is_settled()
    for step_s in (-7200, 7200):
        clock.set_forward(step_s)
        assert not watch.is_settled()
        assert watch.was_set()
        assert not watch.was_set()
        clock.advance(concurrency.SETTLED_S - 1)
        assert not watch.is_settled()
        clock.advance(1)
        assert watch.is_settled()
