"""Rules of the engine that need no database."""

import pytest

from trove.common import exception
from trove.db import base, operations
from trove.taskmanager.operations import engine, flows


def test_the_pause_between_tries_grows_jitters_and_is_bounded() -> None:
    for attempts in range(100):
        pause = engine.backoff_s(attempts)
        longest = min(0.5 * 2**attempts, 30)
        assert longest / 2 <= pause <= longest
    assert len({engine.backoff_s(3) for _ in range(20)}) > 1


def test_only_errors_that_say_so_are_tried_again() -> None:
    passing = [
        exception.DriverUnavailable(service="s", reason="r"),
        exception.GuestTimeout(instance_id="i"),
        exception.MessagingUnavailable(),
    ]
    final = [
        exception.DriverError(service="s", reason="r"),
        exception.AddressPoolExhausted(pool="p"),
        engine.StepFailed("no"),
        ValueError("x"),
    ]
    assert all(engine._is_passing(error) for error in passing)
    assert not any(engine._is_passing(error) for error in final)


def test_every_kind_has_a_flow_that_begins_with_its_first_step() -> None:
    assert {flow.kind: flow.steps[0].name for flow in flows.ALL} == operations.FIRST_STEPS


@pytest.mark.parametrize("flow", flows.ALL, ids=lambda flow: flow.kind)
def test_names_of_steps_are_unique_in_their_flow_and_fit_the_column(flow: engine.Flow) -> None:
    names = [step.name for step in flow.steps]
    assert len(set(names)) == len(names)
    assert max(len(name) for name in names) <= 64


def test_a_backend_that_is_down_is_told_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    def down() -> None:
        raise base.DatabaseError(ValueError("password=hunter2"))

    engine.tell_troubles("sweeping", down)
    (record,) = caplog.records
    assert record.exc_info is None
    assert "the SQL backend fails" in record.getMessage()
    assert "hunter2" not in record.getMessage()
