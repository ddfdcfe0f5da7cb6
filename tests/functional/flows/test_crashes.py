"""A runner may die anywhere: the next one ends in the right state, with nothing lost or doubled."""

import pytest

from tests.fixtures.control_plane import NOTHING, ONE_OF_EACH, ControlPlane
from tests.fixtures.crashes import Crash, crashing
from trove import states
from trove.db import quotas
from trove.taskmanager.operations import create, delete, engine, restart

Task = states.TaskStatus
State = states.OperationState

#: before: after the step before was saved; after: between act and save.
POINTS = [pytest.param(True, id="before"), pytest.param(False, id="after")]


def steps_of(flow: engine.Flow) -> list[str]:
    return [step.name for step in flow.steps]


def crash_and_resume(
    plane: ControlPlane, flow: engine.Flow, step: str, *, before: bool, direction: str = "run"
) -> None:
    with pytest.raises(Crash):
        plane.settle(plane.runner(crashing(flow, step, direction=direction, before=before)))
    # nobody may take it before the lease has run out
    assert not [op for op in plane.active() if op.owner is not None and op.id in plane.due()]
    plane.manual_clock.advance(plane.conf.taskmanager.lease_s + 1)
    plane.settle(plane.runner())


def make_active(plane: ControlPlane) -> str:
    instance_id, _ = plane.create()
    plane.settle(plane.runner())
    assert plane.instance(instance_id).task is Task.NONE
    return instance_id


@pytest.mark.parametrize("before", POINTS)
@pytest.mark.parametrize("step", steps_of(create.FLOW))
def test_create_survives_a_crash(plane: ControlPlane, step: str, before: bool) -> None:
    instance_id, operation_id = plane.create()
    crash_and_resume(plane, create.FLOW, step, before=before)
    instance = plane.instance(instance_id)
    assert plane.operation(operation_id).state is State.SUCCEEDED
    assert instance.task is Task.NONE
    assert instance.server_status is states.ServerStatus.ACTIVE
    assert instance.addresses
    assert plane.leftovers() == plane.made(instance_id) == ONE_OF_EACH
    assert [ran[1] for ran in plane.guests.ran] == ["prepare"]


@pytest.mark.parametrize("before", POINTS)
@pytest.mark.parametrize("step", steps_of(delete.FLOW))
def test_delete_survives_a_crash(plane: ControlPlane, step: str, before: bool) -> None:
    instance_id = make_active(plane)
    plane.compute.looks_to_delete = 2
    operation_id = plane.delete(instance_id)
    crash_and_resume(plane, delete.FLOW, step, before=before)
    instance = plane.instance(instance_id)
    assert plane.operation(operation_id).state is State.SUCCEEDED
    assert instance.is_deleted
    assert instance.key_wrapped is None
    assert plane.leftovers() == NOTHING
    assert plane.usage() == dict.fromkeys(quotas.RESOURCES, 0)
    assert [ran[1] for ran in plane.guests.ran].count("stop") <= 1


@pytest.mark.parametrize("before", POINTS)
@pytest.mark.parametrize("step", steps_of(restart.FLOW))
def test_restart_survives_a_crash(plane: ControlPlane, step: str, before: bool) -> None:
    instance_id = make_active(plane)
    operation_id = plane.restart(instance_id)
    crash_and_resume(plane, restart.FLOW, step, before=before)
    assert plane.operation(operation_id).state is State.SUCCEEDED
    assert plane.instance(instance_id).task is Task.NONE
    assert plane.leftovers() == ONE_OF_EACH
    assert [ran[1] for ran in plane.guests.ran] == ["prepare", "restart"]


@pytest.mark.parametrize("before", POINTS)
@pytest.mark.parametrize("step", steps_of(create.FLOW)[:5])
def test_undo_of_create_survives_a_crash(plane: ControlPlane, step: str, before: bool) -> None:
    plane.guests.failing["prepare"] = "no space left"
    plane.compute.looks_to_delete = 2
    instance_id, operation_id = plane.create()
    crash_and_resume(plane, create.FLOW, step, before=before, direction="undo")
    assert plane.operation(operation_id).state is State.FAILED
    instance = plane.instance(instance_id)
    assert instance.task is Task.BUILDING_ERROR_TIMEOUT_GA
    assert "no space left" in str(instance.fault_message)
    assert plane.leftovers() == NOTHING


@pytest.mark.parametrize("before", POINTS)
@pytest.mark.parametrize("step", steps_of(create.FLOW))
def test_delete_takes_over_from_a_create_whose_runner_died(
    plane: ControlPlane, step: str, before: bool
) -> None:
    instance_id, create_id = plane.create()
    with pytest.raises(Crash):
        plane.settle(plane.runner(crashing(create.FLOW, step, before=before)))
    plane.delete(instance_id)
    plane.settle(plane.runner())
    assert plane.instance(instance_id).is_deleted
    assert plane.operation(create_id).state is State.CANCELLED
    assert plane.leftovers() == NOTHING
    assert plane.usage() == dict.fromkeys(quotas.RESOURCES, 0)
