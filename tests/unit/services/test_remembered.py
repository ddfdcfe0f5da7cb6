"""Lists of other services that no request waits for."""

from __future__ import annotations

import pytest

from tests.fixtures.waiting import wait_until
from trove.common import concurrency, exception
from trove.drivers import cloud
from trove.services import remembered

DOWN = cloud.refused("Nova", "list flavors", status=503, reason="down")


class Other:
    """A service that lists, and how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0
        self.items = ["a"]
        self.error: exception.DriverError | None = None

    def read(self) -> list[str]:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return list(self.items)


@pytest.fixture
def other() -> Other:
    return Other()


@pytest.fixture
def clock() -> concurrency.ManualClock:
    return concurrency.ManualClock()


def make(
    other: Other, clock: concurrency.Clock, *, is_remote: bool = True
) -> remembered.Remembered[str]:
    return remembered.Remembered("flavors", other.read, is_remote=is_remote, clock=clock)


def test_what_costs_nothing_is_asked_each_time(
    other: Other, clock: concurrency.ManualClock
) -> None:
    made = make(other, clock, is_remote=False)
    assert made.get() == ["a"]
    other.items = ["b"]
    assert made.get() == ["b"]
    other.error = DOWN
    with pytest.raises(exception.ServiceUnavailable):
        made.get()


def test_a_list_that_was_never_known_is_a_503_that_says_so(
    other: Other, clock: concurrency.ManualClock
) -> None:
    other.error = DOWN
    made = make(other, clock)
    try:
        with pytest.raises(exception.ServiceUnavailable, match="flavors are not known yet") as told:
            made.get()
        assert "try again later" in told.value.message
    finally:
        made.stop()


def test_the_last_known_list_stays_while_the_service_is_away(
    other: Other, clock: concurrency.ManualClock
) -> None:
    made = make(other, clock)
    made.refresh()
    try:
        assert made.get() == ["a"]
        other.items, other.error = ["b"], DOWN
        clock.advance(remembered.REFRESH_S)
        made.refresh()
        assert made.get() == ["a"]
        # as soon as it is back
        other.error = None
        made.refresh()
        assert made.get() == ["b"]
    finally:
        made.stop()


def test_no_request_asks_and_a_refresh_asks_only_when_it_is_due(
    other: Other, clock: concurrency.ManualClock
) -> None:
    made = make(other, clock)
    made.refresh()
    try:
        for _ in range(5):
            made.get()
            made.refresh()
        assert other.asked == 1
        clock.advance(remembered.REFRESH_S)
        made.refresh()
        assert other.asked == 2
    finally:
        made.stop()


def test_a_thread_fetches_the_list(other: Other, clock: concurrency.ManualClock) -> None:
    made = make(other, clock)
    made.start()
    made.start()
    try:
        wait_until(lambda: other.asked > 0, timeout_s=10)
        wait_until(lambda: _is_known(made), timeout_s=10)
        assert made.get() == ["a"]
    finally:
        made.stop()


def _is_known(made: remembered.Remembered[str]) -> bool:
    try:
        return bool(made.get())
    except exception.ServiceUnavailable:
        return False
