"""What is told of operations agrees with what the task manager does."""

import pytest

from trove.db import operation_kinds, operations
from trove.taskmanager.operations import engine, flows


@pytest.mark.parametrize("flow", flows.ALL, ids=lambda flow: flow.kind)
def test_the_steps_that_clients_are_told_are_those_of_the_flow(flow: engine.Flow) -> None:
    assert operation_kinds.KINDS[flow.kind].steps == tuple(step.name for step in flow.steps)


def test_every_kind_that_is_told_of_exists() -> None:
    assert set(operation_kinds.KINDS) <= set(operations.FIRST_STEPS)


def test_a_kind_of_another_version_is_told_of_by_its_name() -> None:
    assert operation_kinds.of("polish_instance") == operation_kinds.Kind(word="polish")
