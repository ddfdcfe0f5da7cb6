"""The back-off of the supervisor, by a clock that moves when told to."""

from __future__ import annotations

import pytest

from trove.common import concurrency
from trove.guestagent import supervisor


def test_delays_double_up_to_the_longest() -> None:
    clock = concurrency.ManualClock()
    back_off = supervisor.BackOff(clock, first_s=1.0, longest_s=8.0)
    delays = []
    for _ in range(6):
        back_off.failed()
        delays.append(back_off.remaining_s())
        clock.advance(delays[-1])
        assert back_off.remaining_s() == 0
        back_off.started()
    assert delays == [1.0, 2.0, 4.0, 8.0, 8.0, 8.0]


@pytest.mark.parametrize(("ran_s", "delay_s"), [(59.0, 2.0), (60.0, 1.0)])
def test_engine_that_was_stable_begins_anew(ran_s: float, delay_s: float) -> None:
    clock = concurrency.ManualClock()
    back_off = supervisor.BackOff(clock, first_s=1.0, stable_s=60.0)
    back_off.failed()
    clock.advance(10)
    back_off.started()
    clock.advance(ran_s)
    back_off.failed()
    assert back_off.remaining_s() == delay_s


def test_asking_for_a_start_forgets_the_failures() -> None:
    back_off = supervisor.BackOff(concurrency.ManualClock(), first_s=1.0)
    back_off.failed()
    back_off.failed()
    back_off.reset()
    assert back_off.remaining_s() == 0


def test_very_many_failures_do_not_overflow() -> None:
    back_off = supervisor.BackOff(concurrency.ManualClock(), longest_s=60.0)
    for _ in range(5000):
        back_off.failed()
    assert back_off.remaining_s() == 60.0
