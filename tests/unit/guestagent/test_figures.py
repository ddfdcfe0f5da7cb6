"""Figures for heartbeats: read at once or not at all, one reading at a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from tests.fixtures.waiting import wait_until
from trove.common import concurrency, exception
from trove.guestagent import figures
from trove.guestagent.datastores import base


class Metrics(base.Metrics):
    """An engine that answers, fails or hangs."""

    def __init__(self) -> None:
        self.goes_on = threading.Event()
        self.goes_on.set()
        self.error: Exception | None = None
        self.readings = 0

    def read(self) -> dict[str, float]:
        self.readings += 1
        self.goes_on.wait(10)
        if self.error is not None:
            raise self.error
        return {"connections": float(self.readings), "data_bytes": float("nan")}


@pytest.fixture
def engine() -> Metrics:
    return Metrics()


@pytest.fixture
def clock() -> concurrency.ManualClock:
    return concurrency.ManualClock()


@pytest.fixture
def subject(engine: Metrics, clock: concurrency.ManualClock) -> Iterator[figures.Figures]:
    made = figures.Figures(engine, clock=clock)
    yield made
    engine.goes_on.set()
    made.close()


def test_each_heartbeat_has_the_figures_of_its_time(
    subject: figures.Figures, engine: Metrics, clock: concurrency.ManualClock
) -> None:
    assert subject.read() == {"connections": 1.0}
    # two reports at once are no reason to ask twice
    assert subject.read() == {"connections": 1.0}
    clock.advance(1)
    assert subject.read() == {"connections": 2.0}


def test_an_engine_that_hangs_is_waited_for_once_and_briefly(
    subject: figures.Figures, engine: Metrics, clock: concurrency.ManualClock
) -> None:
    engine.goes_on.clear()
    began = time.monotonic()
    assert [subject.read() for _ in range(50)] == [{}] * 50
    assert time.monotonic() - began < 2
    assert engine.readings == 1
    engine.goes_on.set()
    wait_until(subject.read, timeout_s=10)
    clock.advance(1)
    assert subject.read() == {"connections": 2.0}


@pytest.mark.parametrize(
    "error",
    [
        base.NotReady(reason="starts"),
        exception.GuestError(reason="refuses"),
        ZeroDivisionError("a bug"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_engine_that_fails_has_no_figures_until_it_has(
    subject: figures.Figures, engine: Metrics, clock: concurrency.ManualClock, error: Exception
) -> None:
    engine.error = error
    assert subject.read() == {}
    engine.error = None
    clock.advance(1)
    assert subject.read() == {"connections": 2.0}


def test_an_engine_without_metrics_is_not_asked() -> None:
    none = figures.Figures(base.Unsupported("fake", "metrics"), clock=concurrency.SystemClock())
    assert none.read() == {}


def test_after_the_end_nothing_is_read(subject: figures.Figures, engine: Metrics) -> None:
    subject.close()
    assert subject.read() == {}
    assert engine.readings == 0
