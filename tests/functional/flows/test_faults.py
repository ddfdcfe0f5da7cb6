"""Whatever call of whatever driver fails: flows come to an end that is told, and leave nothing."""

import collections
from collections.abc import Callable
from typing import Any

import pytest

from tests.fixtures.control_plane import NOTHING, ONE_OF_EACH, ControlPlane
from tests.fixtures.crashes import Crash
from trove import states
from trove.db import operation_views, operations, quotas
from trove.drivers import cloud
from trove.services.operations import progress_of

Task = states.TaskStatus
State = states.OperationState

KINDS = ("compute", "volume", "network", "broker", "dns")
UNAVAILABLE = cloud.refused(
    "Nova", "create the server", status=503, reason="overloaded", request_id="req-7"
)
OVER_QUOTA = cloud.refused(
    "Cinder", "create the volume", status=413, reason="Quota exceeded", request_id="req-8"
)
REFUSED = cloud.refused("Neutron", "create the port", status=400, reason="no", request_id="req-9")

Call = tuple[str, str, int]


def record(plane: ControlPlane) -> list[Call]:
    """Have calls of drivers recorded: driver, method, which time it is."""
    calls: list[Call] = []
    times: collections.Counter[tuple[str, str]] = collections.Counter()

    def watch(kind: str) -> Callable[[str], None]:
        def called(method: str) -> None:
            calls.append((kind, method, times[kind, method]))
            times[kind, method] += 1

        return called

    for kind in KINDS:
        getattr(plane, kind).injector.watch = watch(kind)
    return calls


def fail_at(plane: ControlPlane, call: Call, error: BaseException, *, lose_reply: bool) -> None:
    """Have one call fail: the chosen one of its method."""
    kind, method, number = call
    injector = getattr(plane, kind).injector
    seen = 0

    def watch(called: str) -> None:
        nonlocal seen
        if called == method:
            if seen == number:
                injector.fail(method, error, lose_reply=lose_reply)
            seen += 1

    injector.watch = watch


#: What changes something, in a create and in a delete; and what only looks.
CREATE: list[Call] = [
    ("network", "create_management_port", 0),
    ("network", "create_port", 0),
    ("dns", "set_records", 0),
    ("volume", "create_volume", 0),
    ("broker", "ensure_account", 0),
    ("compute", "create_server", 0),
    ("broker", "ensure_account", 1),
    ("broker", "remove_accounts", 0),
]
CREATE_LOOKS: list[Call] = [
    ("compute", "find_server", 0),
    ("compute", "get_flavor", 0),
    ("compute", "find_server", 1),
    ("compute", "find_server", 2),
    ("compute", "get_flavor", 1),
]
DELETE: list[Call] = [
    ("compute", "delete_server", 0),
    ("broker", "remove_accounts", 0),
    ("volume", "delete_volume", 0),
    ("dns", "remove_records", 0),
    ("network", "remove_all", 0),
    ("network", "delete_port", 0),
]
DELETE_LOOKS: list[Call] = [
    ("compute", "find_server", 0),
    ("compute", "find_server", 1),
    ("compute", "find_server", 2),
    ("volume", "find_volume", 0),
    ("volume", "find_volume", 1),
    ("volume", "list_snapshots", 0),
    ("network", "find_port", 0),
    ("network", "find_port", 1),
]


def acting(calls: list[Call]) -> set[tuple[str, str]]:
    """Return the calls that change something."""
    looks = ("find", "get", "list")
    return {(kind, method) for kind, method, _ in calls if not method.startswith(looks)}


def name(call: Call) -> str:
    return f"{call[0]}.{call[1]}.{call[2]}"


def slow(plane: ControlPlane) -> ControlPlane:
    """Have servers that take one look longer than no time at all."""
    plane.compute.looks_to_build = 2
    return plane


def test_all_calls_are_tried(plane: ControlPlane) -> None:
    calls = record(slow(plane))
    instance_id, _ = plane.create()
    plane.settle(plane.runner())
    assert {*CREATE, *CREATE_LOOKS} <= set(calls)
    assert acting(calls) == acting(CREATE)
    calls.clear()
    calls = record(plane)
    plane.delete(instance_id)
    plane.settle(plane.runner())
    assert {*DELETE, *DELETE_LOOKS} <= set(calls)
    assert acting(calls) == acting(DELETE)


def cases(acts: list[Call], looks: list[Call]) -> list[Any]:
    """Return (call, whether it acts and its reply is lost): a look that is lost is a failed one."""
    return [
        *(pytest.param(call, False, id=name(call)) for call in [*acts, *looks]),
        *(pytest.param(call, True, id=f"{name(call)}-reply-lost") for call in acts),
    ]


@pytest.mark.parametrize(("call", "lose_reply"), cases(CREATE, CREATE_LOOKS))
def test_a_create_outlives_a_service_that_is_down_for_a_while(
    plane: ControlPlane, call: Call, lose_reply: bool
) -> None:
    fail_at(slow(plane), call, UNAVAILABLE, lose_reply=lose_reply)
    instance_id, _ = plane.create()
    plane.settle(plane.runner())
    assert plane.instance(instance_id).task is Task.NONE
    assert plane.leftovers() == plane.made(instance_id) == ONE_OF_EACH


@pytest.mark.parametrize(("call", "lose_reply"), cases(CREATE, []))
def test_a_create_that_is_refused_anywhere_leaves_nothing(
    plane: ControlPlane, call: Call, lose_reply: bool
) -> None:
    fail_at(slow(plane), call, REFUSED, lose_reply=lose_reply)
    instance_id, operation_id = plane.create()
    plane.settle(plane.runner())
    assert plane.operation(operation_id).state is State.FAILED
    instance = plane.instance(instance_id)
    assert instance.task.is_error
    assert "req-9" in str(instance.fault_message)
    assert plane.leftovers() == NOTHING
    assert not plane.broker.list_owners()
    assert not plane.dns.list_owners()
    plane.delete(instance_id)
    plane.settle(plane.runner())
    assert plane.usage() == dict.fromkeys(quotas.RESOURCES, 0)


@pytest.mark.parametrize(("call", "lose_reply"), cases(CREATE, []))
def test_a_process_that_dies_in_any_call_of_a_create_makes_nothing_twice(
    plane: ControlPlane, call: Call, lose_reply: bool
) -> None:
    fail_at(slow(plane), call, Crash(), lose_reply=lose_reply)
    instance_id, _ = plane.create()
    with pytest.raises(Crash):
        plane.settle(plane.runner())
    plane.manual_clock.advance(plane.conf.taskmanager.lease_s + 1)
    plane.settle(plane.runner())
    assert plane.instance(instance_id).task is Task.NONE
    assert plane.leftovers() == plane.made(instance_id) == ONE_OF_EACH


@pytest.mark.parametrize(("call", "lose_reply"), cases(DELETE, DELETE_LOOKS))
def test_a_delete_outlives_everything(plane: ControlPlane, call: Call, lose_reply: bool) -> None:
    instance_id, _ = plane.create()
    plane.settle(plane.runner())
    # not even what is refused for good ends a delete
    fail_at(plane, call, UNAVAILABLE if lose_reply else REFUSED, lose_reply=lose_reply)
    plane.delete(instance_id)
    plane.settle(plane.runner())
    assert plane.instance(instance_id).is_deleted
    assert plane.leftovers() == NOTHING
    assert plane.usage() == dict.fromkeys(quotas.RESOURCES, 0)


def test_a_service_that_is_down_is_told_while_it_lasts_and_when_it_is_back(
    plane: ControlPlane,
) -> None:
    plane.compute.injector.fail("create_server", UNAVAILABLE, times=1000)
    instance_id, operation_id = plane.create()
    runner = plane.runner()
    # far longer than a handful of tries, well within the deadline
    up_again = plane.clock.now().timestamp() + 400
    plane.settle(runner, until=lambda: plane.clock.now().timestamp() > up_again, tick_s=10)
    told = progress(plane, instance_id)
    assert "Nova failed to create the server: overloaded (request req-7)" in str(told)
    plane.compute.injector.clear()
    plane.guests.is_silent = True
    plane.settle(runner, until=lambda: plane.operation(operation_id).step == "await_agent")
    assert progress(plane, instance_id) is None
    assert plane.operation(operation_id).error is None


def progress(plane: ControlPlane, instance_id: str) -> str | None:
    with plane.database.reader() as session:
        active = operation_views.find_active(session, [operations.instance_lock(instance_id)])
    assert active is not None
    return progress_of(active, usual_s=None, now=plane.clock.now()).message


def test_a_service_that_stays_down_fails_the_create_at_its_deadline(plane: ControlPlane) -> None:
    plane.compute.injector.fail("create_server", UNAVAILABLE, times=100_000)
    instance_id, _ = plane.create()
    began = plane.clock.now()
    plane.settle(plane.runner(), tick_s=15)
    instance = plane.instance(instance_id)
    assert instance.task is Task.BUILDING_ERROR_SERVER
    for text in ("900 s", "Nova failed to create the server", "req-7"):
        assert text in str(instance.fault_message)
    assert (plane.clock.now() - began).total_seconds() <= 920
    assert plane.leftovers() == NOTHING


def test_a_quota_of_the_cloud_is_told_with_its_remedy(plane: ControlPlane) -> None:
    plane.volume.injector.fail("create_volume", OVER_QUOTA)
    instance_id, _ = plane.create()
    plane.settle(plane.runner())
    instance = plane.instance(instance_id)
    assert instance.task is Task.BUILDING_ERROR_VOLUME
    message = str(instance.fault_message)
    for text in ("Cinder", "Quota exceeded", "req-8", "raises this service's quota"):
        assert text in message
    assert "trove.cloud_quota_exceeded" in str(instance.fault_details)
    assert plane.leftovers() == NOTHING


def test_a_volume_in_error_fails_the_create_and_is_removed(plane: ControlPlane) -> None:
    plane.volume.status = "error"
    instance_id, _ = plane.create()
    plane.settle(plane.runner())
    instance = plane.instance(instance_id)
    assert instance.task is Task.BUILDING_ERROR_VOLUME
    assert "error" in str(instance.fault_message)
    assert plane.leftovers() == NOTHING
