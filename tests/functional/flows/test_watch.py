"""Where looking at servers costs a service something, one list an interval serves everybody."""

import collections
import datetime

import pytest
import sqlalchemy as sa

from tests.fixtures.actions import USER, make_actions
from tests.fixtures.control_plane import NOTHING, ONE_OF_EACH, ControlPlane
from trove import states
from trove.common import exception
from trove.db import leases, models
from trove.taskmanager.operations import engine, steps
from trove.taskmanager.reconciler import Reconciler

Task = states.TaskStatus
Server = states.ServerStatus

DOWN = exception.DriverUnavailable(service="Nova", reason="it answered 503")


@pytest.fixture
def cloud(plane: ControlPlane) -> ControlPlane:
    """A cloud that takes time and wants to be asked rarely."""
    plane.compute.look_interval_s = 5.0
    plane.volume.look_interval_s = 2.0
    plane.network.look_interval_s = 2.0
    plane.compute.looks_to_build = 3
    plane.compute.looks_to_delete = 2
    return plane


def count(plane: ControlPlane) -> collections.Counter[str]:
    calls: collections.Counter[str] = collections.Counter()
    plane.compute.injector.watch = lambda method: calls.update([method])
    return calls


def watch_for(
    plane: ControlPlane, runner: engine.Runner, reconciler: Reconciler, seconds: float
) -> None:
    """Have everything at work for a time."""
    until = plane.clock.now() + datetime.timedelta(seconds=seconds)
    plane.watch(runner, reconciler, until=lambda: plane.clock.now() >= until)


def test_fifty_creates_in_flight_cost_one_list_an_interval_and_hold_no_thread(
    cloud: ControlPlane,
) -> None:
    cloud.compute.looks_to_build = 1000
    cloud.conf.set_override("orphans_interval_s", 60, group="taskmanager")
    reconciler, runner = cloud.reconciler(), cloud.runner()
    for _ in range(50):
        cloud.create()
    # each is told once that its server is there
    watch_for(cloud, runner, reconciler, 10)
    calls = count(cloud)
    watch_for(cloud, runner, reconciler, 60)
    # groups without a server are asked for once a minute
    assert calls.pop("list_empty_groups") <= 2
    assert calls == {"list_servers": 12}
    waiting = cloud.active()
    assert len(waiting) == 50
    # a claim is what a thread holds
    assert {(operation.owner, operation.wake_on) for operation in waiting} == {(None, "server")}


def test_a_create_waits_for_its_server_and_its_agent_without_looking(cloud: ControlPlane) -> None:
    calls = count(cloud)
    instance_id, operation_id = cloud.create()
    cloud.watch(cloud.runner(), cloud.reconciler())
    assert cloud.instance(instance_id).task is Task.NONE
    # before it is made, when told that it is there, and when told that it runs
    assert calls["find_server"] <= 4
    assert ("await_server", "waiting") in cloud.journal(operation_id)


def test_an_agent_that_is_waited_for_costs_no_look_at_its_server(cloud: ControlPlane) -> None:
    cloud.guests.is_silent = True
    _, operation_id = cloud.create()
    reconciler, runner = cloud.reconciler(), cloud.runner()
    cloud.watch(
        runner, reconciler, until=lambda: cloud.operation(operation_id).step == "await_agent"
    )
    watch_for(cloud, runner, reconciler, 10)
    calls = count(cloud)
    watch_for(cloud, runner, reconciler, 100)
    assert calls["find_server"] <= 1
    assert cloud.operation(operation_id).wake_on == "hello"


def test_jobs_that_are_sent_again_cost_no_look_either(cloud: ControlPlane) -> None:
    cloud.guests.lose_casts = 1000
    cloud.create()
    reconciler, runner = cloud.reconciler(), cloud.runner()
    cloud.watch(runner, reconciler, until=lambda: bool(cloud.guests.sent))
    watch_for(cloud, runner, reconciler, 10)
    calls = count(cloud)
    sent = len(cloud.guests.sent)
    watch_for(cloud, runner, reconciler, 60)
    assert len(cloud.guests.sent) >= sent + 5
    assert calls["find_server"] <= 1


def test_a_server_that_stops_while_its_agent_works_is_started_again(cloud: ControlPlane) -> None:
    instance_id, _ = cloud.create()
    reconciler, runner = cloud.reconciler(), cloud.runner()
    cloud.watch(runner, reconciler)
    cloud.guests.lose_casts = 1000
    cloud.restart(instance_id)
    # its agent was heard of a moment ago
    with cloud.database.writer() as session:
        session.execute(sa.update(models.InstanceHeartbeat).values(received=cloud.clock.now()))
    watch_for(cloud, runner, reconciler, 3)
    cloud.compute.set_status(instance_id, Server.SHUTOFF)
    watch_for(cloud, runner, reconciler, 30)
    server = cloud.compute.find_server(instance_id)
    assert server is not None
    assert server.status is Server.ACTIVE


def test_a_server_that_fails_or_vanishes_is_told_within_an_interval(cloud: ControlPlane) -> None:
    cloud.compute.looks_to_build = 1000
    failed, _ = cloud.create()
    gone, _ = cloud.create()
    reconciler, runner = cloud.reconciler(), cloud.runner()
    cloud.watch(
        runner, reconciler, until=lambda: {op.step for op in cloud.active()} == {"await_server"}
    )
    cloud.watch(runner, reconciler, until=lambda: not cloud.due())
    cloud.compute.set_status(failed, Server.ERROR, fault="No valid host was found")
    cloud.compute.looks_to_delete = 0
    cloud.compute.delete_server(str(cloud.instance(gone).server_id))
    began = cloud.clock.now()
    cloud.watch(runner, reconciler)
    assert (cloud.clock.now() - began).total_seconds() <= 20
    assert cloud.instance(failed).task is Task.BUILDING_ERROR_SERVER
    assert "No valid host was found" in str(cloud.instance(failed).fault_message)
    assert "gone" in str(cloud.instance(gone).fault_message)
    assert cloud.leftovers() == NOTHING


def test_every_action_comes_to_its_end_by_the_list_alone(cloud: ControlPlane) -> None:
    instance_id, _ = cloud.create()
    reconciler, runner = cloud.reconciler(), cloud.runner()
    cloud.watch(runner, reconciler)
    actions = make_actions(cloud)
    cloud.compute.looks_to_resize = 2
    actions.service.resize_flavor(USER, instance_id, "2")
    calls, began = count(cloud), cloud.clock.now()
    cloud.watch(runner, reconciler)
    assert server_flavor(cloud, instance_id) == "2"
    assert (cloud.clock.now() - began).total_seconds() < 60
    assert calls["find_server"] <= 12
    cloud.delete(instance_id)
    calls, began = count(cloud), cloud.clock.now()
    cloud.watch(runner, reconciler)
    assert cloud.instance(instance_id).is_deleted
    assert (cloud.clock.now() - began).total_seconds() < 60
    assert calls["find_server"] <= 8
    assert cloud.leftovers() == NOTHING


def server_flavor(plane: ControlPlane, instance_id: str) -> str | None:
    server = plane.compute.find_server(instance_id)
    return None if server is None else server.flavor_id


def test_a_change_back_within_an_interval_is_a_change(cloud: ControlPlane) -> None:
    cloud.compute.looks_to_build = 0
    cloud.guests.is_silent = True
    instance_id, operation_id = cloud.create()
    reconciler, runner = cloud.reconciler(), cloud.runner()
    cloud.watch(
        runner, reconciler, until=lambda: cloud.operation(operation_id).step == "await_agent"
    )
    cloud.watch(runner, reconciler, until=lambda: not cloud.due())
    signals = cloud.operation(operation_id).signals
    cloud.compute.touch(instance_id)
    reconciler.run()
    assert cloud.operation(operation_id).signals == signals + 1


def test_each_stage_of_what_takes_its_time_wakes_nobody(cloud: ControlPlane) -> None:
    cloud.compute.looks_to_build = 1000
    instance_id, operation_id = cloud.create()
    reconciler, runner = cloud.reconciler(), cloud.runner()
    watch_for(cloud, runner, reconciler, 10)
    signals = cloud.operation(operation_id).signals
    for _ in range(4):
        cloud.compute.touch(instance_id)
        reconciler.run()
    assert cloud.operation(operation_id).signals == signals


def test_of_several_task_managers_one_lists_and_another_takes_over(cloud: ControlPlane) -> None:
    instance_id, _ = cloud.create()
    first, second = cloud.reconciler(), cloud.reconciler()
    cloud.watch(cloud.runner(), first, second)
    assert cloud.instance(instance_id).task is Task.NONE
    calls = count(cloud)
    for _ in range(10):
        first.run()
        second.run()
        cloud.manual_clock.advance(5)
    assert calls["list_servers"] == 10
    # killed: the lease runs out
    for _ in range(10):
        second.run()
        cloud.manual_clock.advance(5)
    assert 16 <= calls["list_servers"] <= 18
    # ended in order: the place is free at once
    second.close()
    first.run()
    second.run()
    with cloud.database.writer() as session:
        assert not leases.take(
            session, "reconciler", owner="other", now=cloud.clock.now(), lease_s=1
        )


def test_a_new_watcher_wakes_everybody_once(cloud: ControlPlane) -> None:
    cloud.compute.looks_to_build = 1000
    _, operation_id = cloud.create()
    first, runner = cloud.reconciler(), cloud.runner()
    cloud.watch(runner, first, until=lambda: cloud.operation(operation_id).wake_on == "server")
    cloud.watch(runner, first, until=lambda: not cloud.due())
    # what this one would have seen next it cannot tell any more
    first.close()
    signals = cloud.operation(operation_id).signals
    second = cloud.reconciler()
    second.run()
    second.run()
    assert cloud.operation(operation_id).signals == signals + 1


def test_a_service_that_is_down_keeps_the_others_from_nothing(cloud: ControlPlane) -> None:
    deleted, _ = cloud.create()
    runner, reconciler = cloud.runner(), cloud.reconciler()
    cloud.watch(runner, reconciler)
    cloud.delete(deleted)
    cloud.watch(runner, reconciler)
    cloud.volume.create_volume(instance_id=deleted, size_gib=1, volume_type=None, project_id="p")
    cloud.network.injector.fail("list_ports", DOWN, times=1000)
    cloud.compute.injector.fail("list_servers", DOWN, times=1000)
    for _ in range(20):
        reconciler.run()
        cloud.settle(runner)
        cloud.manual_clock.advance(5)
    assert cloud.volume.list_volumes() == []


def test_what_is_not_a_server_is_listed_at_longer_intervals(cloud: ControlPlane) -> None:
    cloud.conf.set_override("orphans_interval_s", 60, group="taskmanager")
    orphan, _ = cloud.create()
    runner, reconciler = cloud.runner(), cloud.reconciler()
    cloud.watch(runner, reconciler)
    cloud.delete(orphan)
    cloud.watch(runner, reconciler)
    calls: collections.Counter[str] = collections.Counter()
    cloud.volume.injector.watch = lambda method: calls.update([method])
    cloud.volume.create_volume(instance_id=orphan, size_gib=1, volume_type=None, project_id="p")
    for _ in range(48):
        reconciler.run()
        cloud.settle(runner)
        cloud.manual_clock.advance(5)
    assert calls["list_volumes"] in (4, 5)
    assert cloud.volume.list_volumes() == []


def test_a_server_that_cannot_be_started_is_not_asked_for_in_every_run(
    cloud: ControlPlane,
) -> None:
    instance_id, _ = cloud.create()
    runner, reconciler = cloud.runner(), cloud.reconciler()
    cloud.watch(runner, reconciler)
    cloud.compute.set_status(instance_id, Server.SHUTOFF)
    cloud.compute.injector.fail(
        "start_server", exception.DriverError(service="Nova", reason="no memory"), times=1000
    )
    calls = count(cloud)
    for _ in range(24):
        reconciler.run()
        cloud.settle(runner)
        cloud.manual_clock.advance(5)
    assert calls["list_servers"] == 24
    assert calls["find_server"] <= 12


def test_the_flows_still_work_where_looks_are_free(plane: ControlPlane) -> None:
    plane.compute.looks_to_build = 2
    instance_id, _ = plane.create()
    began = plane.clock.now()
    plane.settle(plane.runner())
    assert plane.instance(instance_id).task is Task.NONE
    assert plane.leftovers() == ONE_OF_EACH
    assert (plane.clock.now() - began).total_seconds() <= 5


def test_waits_for_volumes_become_longer(cloud: ControlPlane) -> None:
    waits: list[float] = []

    class Asking(engine.Step):
        name = "asking"

        def run(self, ctx: engine.Context) -> engine.Wait | None:
            waits.append(steps.volume_wait(ctx, "volume", 0.2).timeout_s)
            return engine.Wait(event="x", timeout_s=1) if len(waits) < 12 else None

    _, operation_id = cloud.create()
    flow = engine.Flow(kind="create_instance", steps=(Asking(),))
    with cloud.database.writer() as session:
        session.execute(sa.update(models.Operation).values(step="asking"))
    cloud.settle(cloud.runner([flow]))
    assert cloud.operation(operation_id).state is states.OperationState.SUCCEEDED
    assert waits[:3] == [2.0, 3.0, 4.5]
    assert waits == sorted(waits)
    assert waits[-1] == 30.0
