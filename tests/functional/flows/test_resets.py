"""A status that is reset while an operation is under way, at every step of it."""

from __future__ import annotations

import dataclasses

import pytest

from tests.fixtures.control_plane import NOTHING, ONE_OF_EACH, PROJECT, ControlPlane
from tests.fixtures.crashes import Crash, crashing
from tests.functional.flows.test_flows import make_active
from trove import states
from trove.common import context, exception
from trove.db import models
from trove.services.changes import Changes
from trove.services.flavors import Flavors
from trove.services.instance_actions import InstanceActions
from trove.services.instance_resets import InstanceResets
from trove.taskmanager.operations import create, engine, rebuild, resize

Task = states.TaskStatus
State = states.OperationState

ADMIN = context.RequestContext(project_id=PROJECT, roles=["admin"], is_admin=True, overwrite=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Services:
    """What the API would call."""

    actions: InstanceActions
    resets: InstanceResets
    begun: list[str]


@pytest.fixture
def services(plane: ControlPlane) -> Services:
    begun: list[str] = []
    changes = Changes(
        conf=plane.conf,
        database=plane.database,
        run_operation=begun.append,
        key_ring=plane.key_ring,
        clock=plane.clock,
    )
    flavors = Flavors(conf=plane.conf, compute=plane.compute, clock=plane.clock)
    return Services(
        actions=InstanceActions(
            conf=plane.conf,
            database=plane.database,
            changes=changes,
            flavors=flavors,
            compute=plane.compute,
        ),
        resets=InstanceResets(
            database=plane.database, run_operation=begun.append, clock=plane.clock
        ),
        begun=begun,
    )


def _service_status(plane: ControlPlane, instance_id: str) -> states.ServiceStatus:
    with plane.database.reader() as session:
        heartbeat = session.get(models.InstanceHeartbeat, instance_id)
        assert heartbeat is not None
        return heartbeat.service_status


@pytest.mark.parametrize("step", [step.name for step in create.FLOW.steps[:-1]])
def test_a_create_that_is_reset_leaves_nothing_behind_and_can_be_deleted(
    plane: ControlPlane, services: Services, step: str
) -> None:
    instance_id, operation_id = plane.create()
    _die_at(plane, create.FLOW, step, is_done=True)
    services.resets.reset_status(ADMIN, instance_id)
    assert plane.instance(instance_id).task is Task.NONE
    assert _service_status(plane, instance_id) is states.ServiceStatus.UNKNOWN
    assert services.begun == [operation_id]
    runner = plane.runner()
    plane.settle(runner, most_s=60)
    assert plane.operation(operation_id).state is State.CANCELLED
    assert plane.instance(instance_id).task is Task.NONE
    assert plane.instance(instance_id).server_status is states.ServerStatus.NONE
    assert plane.leftovers() == NOTHING
    plane.delete(instance_id)
    plane.settle(runner)
    assert set(plane.usage().values()) == {0}


@pytest.mark.parametrize("is_done", [False, True])
@pytest.mark.parametrize("step", [step.name for step in resize.FLAVOR_FLOW.steps[:-1]])
def test_a_resize_that_is_reset_is_taken_back_with_its_quota(
    plane: ControlPlane, services: Services, step: str, is_done: bool
) -> None:
    instance_id = make_active(plane)
    small = plane.instance(instance_id).flavor_id
    large = max(plane.compute.list_flavors(), key=lambda flavor: flavor.ram_mib)
    before = plane.usage()
    services.actions.resize_flavor(ADMIN, instance_id, large.id)
    operation_id = services.begun[-1]
    assert plane.usage() != before
    _die_at(plane, resize.FLAVOR_FLOW, step, is_done=is_done)
    services.resets.reset_task(ADMIN, instance_id)
    assert plane.instance(instance_id).task is Task.NONE
    with pytest.raises(exception.InstanceNotReady):
        services.actions.resize_volume(ADMIN, instance_id, 2)
    runner = plane.runner()
    plane.settle(runner, most_s=1000)
    assert plane.operation(operation_id).state is State.CANCELLED
    (server,) = plane.compute.list_servers()
    assert (server.flavor_id, server.status) == (small, states.ServerStatus.ACTIVE)
    assert plane.instance(instance_id).flavor_id == small
    assert plane.instance(instance_id).task is Task.NONE
    assert plane.usage() == before
    services.actions.resize_volume(ADMIN, instance_id, 2)
    plane.settle(runner)
    assert plane.instance(instance_id).volume_size_gib == 2


@pytest.mark.parametrize("is_done", [False, True])
@pytest.mark.parametrize("step", [step.name for step in rebuild.FLOW.steps[:-1]])
def test_a_rebuild_that_is_reset_brings_the_instance_back(
    plane: ControlPlane, services: Services, step: str, is_done: bool
) -> None:
    instance_id = make_active(plane)
    image = plane.tools.drivers.image.import_image(
        manager="mariadb", name="newer", file=None, image_id=None
    )
    services.actions.rebuild(ADMIN, instance_id, image.id)
    operation_id = services.begun[-1]
    _die_at(plane, rebuild.FLOW, step, is_done=is_done)
    services.resets.reset_status(ADMIN, instance_id)
    plane.settle(plane.runner())
    assert plane.operation(operation_id).state is State.CANCELLED
    assert plane.leftovers() == ONE_OF_EACH
    (server,) = plane.compute.list_servers()
    assert plane.instance(instance_id).server_id == server.id
    assert server.status is states.ServerStatus.ACTIVE
    expected = states.ServiceStatus.HEALTHY
    if step == rebuild.CheckImage.name:
        # nothing was stopped: the next heartbeat tells
        expected = states.ServiceStatus.UNKNOWN
    assert _service_status(plane, instance_id) is expected


def test_a_deletion_goes_on_whatever_is_reset(plane: ControlPlane, services: Services) -> None:
    instance_id = make_active(plane)
    operation_id = plane.delete(instance_id)
    services.resets.reset_status(ADMIN, instance_id)
    assert plane.instance(instance_id).task is Task.DELETING
    plane.settle(plane.runner())
    assert plane.operation(operation_id).state is State.SUCCEEDED
    assert plane.instance(instance_id).is_deleted
    assert plane.leftovers() == NOTHING


def test_a_task_that_nothing_works_on_is_just_gone(plane: ControlPlane, services: Services) -> None:
    instance_id = make_active(plane)
    for task in set(Task) - {Task.DELETING}:
        with plane.database.writer() as session:
            session.get(models.Instance, instance_id).task = task
        services.resets.reset_task(ADMIN, instance_id)
        assert plane.instance(instance_id).task is Task.NONE
    assert _service_status(plane, instance_id) is states.ServiceStatus.HEALTHY
    assert services.begun == []


def _die_at(plane: ControlPlane, flow: engine.Flow, step: str, *, is_done: bool) -> None:
    """Let a task manager die as it begins a step, or when it has done what the step does."""
    with pytest.raises(Crash):
        plane.settle(plane.runner(crashing(flow, step, before=not is_done)))
