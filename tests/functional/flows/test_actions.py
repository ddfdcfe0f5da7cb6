"""What actions do on good days and when something fails: nothing half done, quota exact."""

from collections.abc import Callable, Sequence

import pytest

from tests.fixtures.actions import ADMIN, USER, Actions, make_actions
from tests.fixtures.control_plane import NOTHING, ONE_OF_EACH, ControlPlane
from tests.fixtures.crashes import Crash, crashing
from trove import states
from trove.common import exception
from trove.db import instances, modules, operations, quotas
from trove.taskmanager.operations import access, engine, reboot, rebuild, resize, upgrade

Task = states.TaskStatus
State = states.OperationState
Server = states.ServerStatus

SMALL = {quotas.INSTANCES: 1, quotas.RAM: 256, quotas.VOLUMES: 1, quotas.BACKUPS: 0}
LARGE = SMALL | {quotas.RAM: 512}
GONE = dict.fromkeys(quotas.RESOURCES, 0)
LOST = exception.DriverUnavailable(service="cloud", reason="connection reset")
REFUSED = exception.DriverError(service="cloud", reason="no capacity")

#: before: after the step before was saved; after: between act and save.
POINTS = [pytest.param(True, id="before"), pytest.param(False, id="after")]

Begin = Callable[[Actions, str], object]


@pytest.fixture
def actions(plane: ControlPlane) -> Actions:
    # the manual clock goes by seconds: short timeouts make short tests
    plane.conf.set_override("usage_timeout_s", 90, group="taskmanager")
    plane.conf.set_override("restart_timeout_s", 40, group="taskmanager")
    plane.conf.set_override("upgrade_timeout_s", 400, group="taskmanager")
    return make_actions(plane)


def settle(actions: Actions) -> None:
    actions.plane.settle(actions.plane.runner())


def ran(actions: Actions) -> list[str]:
    """Return the jobs that agents ran since the instance was made."""
    return [kind for _, kind, _ in actions.plane.guests.ran][1:]


def idle(actions: Actions, instance_id: str) -> bool:
    instance = actions.plane.instance(instance_id)
    return (instance.task, instance.server_status) == (Task.NONE, Server.ACTIVE)


def fault(actions: Actions, instance_id: str) -> str:
    return str(actions.plane.instance(instance_id).fault_message)


def server_flavor(actions: Actions, instance_id: str) -> tuple[str | None, Server]:
    server = actions.plane.compute.find_server(instance_id)
    assert server is not None
    return server.flavor_id, server.status


# -- what each action does; the crash matrix begins them too -----


def begin_flavor(actions: Actions, instance_id: str) -> None:
    actions.service.resize_flavor(USER, instance_id, "2")


def begin_volume(actions: Actions, instance_id: str) -> None:
    actions.service.resize_volume(USER, instance_id, 3)


def begin_access(actions: Actions, instance_id: str) -> None:
    actions.service.update_access(
        USER, instance_id, {"is_public": True, "allowed_cidrs": ["10.0.0.0/8", "fd00::/8"]}
    )


def begin_upgrade(actions: Actions, instance_id: str) -> None:
    actions.add_version()
    actions.service.upgrade(USER, instance_id, "10.11-b")


def begin_rebuild(actions: Actions, instance_id: str) -> None:
    image = actions.plane.tools.drivers.image.import_image(
        manager="mariadb", name="other", file=None, image_id=None
    )
    actions.service.rebuild(ADMIN, instance_id, image.id)


def begin_reboot(actions: Actions, instance_id: str) -> None:
    actions.service.reboot(ADMIN, instance_id)


def begin_stop(actions: Actions, instance_id: str) -> None:
    actions.service.stop_database(ADMIN, instance_id)


def begin_migrate(actions: Actions, instance_id: str) -> None:
    actions.service.migrate(ADMIN, instance_id)


def check_flavor(actions: Actions, instance_id: str) -> None:
    instance = actions.plane.instance(instance_id)
    assert (instance.flavor_id, instance.flavor_ram_mib) == ("2", 512)
    assert server_flavor(actions, instance_id) == ("2", Server.ACTIVE)
    assert ran(actions) == ["stop", "resize"]
    assert actions.plane.guests.payloads["resize"].payload == {"memory_mib": 512, "vcpus": 1}
    assert actions.plane.usage() == LARGE


def check_volume(actions: Actions, instance_id: str) -> None:
    assert actions.plane.instance(instance_id).volume_size_gib == 3
    volume = actions.plane.volume.find_volume(instance_id)
    assert volume is not None
    assert volume.size_gib == 3
    assert ran(actions) == ["grow"]
    assert actions.plane.usage() == SMALL | {quotas.VOLUMES: 3}


def begin_offline(actions: Actions, instance_id: str) -> None:
    """Resize a volume that its server has and that cannot grow there."""
    plane = actions.plane
    plane.compute.attaches_volumes = True
    plane.compute.on_volume = lambda volume_id, is_attached: plane.volume.set_status(
        volume_id, "in-use" if is_attached else "available"
    )
    plane.volume.extends_attached = False
    for volume in plane.volume.list_volumes():
        plane.volume.set_status(volume.id, "in-use")
    begin_volume(actions, instance_id)


def check_offline(actions: Actions, instance_id: str) -> None:
    plane = actions.plane
    assert plane.instance(instance_id).volume_size_gib == 3
    volume = plane.volume.find_volume(instance_id)
    assert volume is not None
    assert (volume.size_gib, volume.status) == (3, "in-use")
    assert ran(actions) == ["stop", "unmount", "mount"]
    assert plane.guests.payloads["mount"].payload == {
        "volume_id": volume.id,
        "volume_size_gib": 3,
    }
    assert plane.usage() == SMALL | {quotas.VOLUMES: 3}


def check_access(actions: Actions, instance_id: str) -> None:
    instance = actions.plane.instance(instance_id)
    assert instance.access == {"is_public": True, "allowed_cidrs": ["10.0.0.0/8", "fd00::/8"]}
    assert actions.plane.network.access[instance_id] == instance.access
    assert [each["type"] for each in instance.addresses] == ["public"]
    assert ran(actions) == []


def check_rebuilt(actions: Actions, instance_id: str) -> None:
    operation = actions.last_operation(instance_id)
    assert actions.plane.compute.spec_of(instance_id).image_id == operation.data["image_id"]
    instance = actions.plane.instance(instance_id)
    wanted = operation.data.get("version_id", actions.plane.version_id)
    assert instance.datastore_version_id == wanted
    server = actions.plane.compute.find_server(instance_id)
    assert server is not None
    assert instance.server_id == server.id
    phases = ["upgrade_engine", "stop", "upgrade_engine", "prepare", "upgrade_engine"]
    is_upgrade = operation.kind == operations.UPGRADE_INSTANCE
    assert ran(actions) == (phases if is_upgrade else ["stop", "prepare"])
    assert actions.plane.compute.created[instance_id] == 2


def check_reboot(actions: Actions, instance_id: str) -> None:
    assert actions.plane.instance(instance_id).heartbeat.boot == 2
    assert ran(actions) == ["start"]


def check_stop(actions: Actions, instance_id: str) -> None:
    assert ran(actions) == ["stop"]


def check_migrate(actions: Actions, instance_id: str) -> None:
    server = actions.plane.compute.find_server(instance_id)
    assert server is not None
    assert server.host == "host-2"


#: action -> (flow, how it begins, what it leaves, the word of ``status`` meanwhile)
ALL = {
    "flavor": (resize.FLAVOR_FLOW, begin_flavor, check_flavor, "RESIZE"),
    "volume": (resize.VOLUME_FLOW, begin_volume, check_volume, "RESIZE"),
    "offline": (resize.VOLUME_FLOW, begin_offline, check_offline, "RESIZE"),
    "access": (access.FLOW, begin_access, check_access, "ACTIVE"),
    "upgrade": (upgrade.FLOW, begin_upgrade, check_rebuilt, "UPGRADE"),
    "rebuild": (rebuild.FLOW, begin_rebuild, check_rebuilt, "BUILD"),
    "reboot": (reboot.REBOOT_FLOW, begin_reboot, check_reboot, "REBOOT"),
    "stop": (reboot.STOP_FLOW, begin_stop, check_stop, "ACTIVE"),
    "migrate": (reboot.MIGRATE_FLOW, begin_migrate, check_migrate, "ACTIVE"),
}


#: What does nothing in an action, besides handing on to the next step.
IDLE = {
    "volume": {"unmount", "detach_volume", "attach_volume", "mount"},
    "offline": {"record_size", "tell_guest"},
}
#: An upgrade has the steps of a rebuild, and more.
STEPS = [
    pytest.param(name, step.name, id=f"{name}-{step.name}")
    for name, (flow, *_) in ALL.items()
    if name != "rebuild"
    for step in flow.steps
    if step.name not in IDLE.get(name, ())
]


@pytest.mark.parametrize("name", ALL)
def test_an_action_shows_at_once_and_ends_as_it_should(actions: Actions, name: str) -> None:
    _, begin, check, word = ALL[name]
    instance_id = actions.make_active()
    begin(actions, instance_id)
    instance = actions.plane.instance(instance_id)
    assert states.api_status(instance.task, instance.server_status) == word
    settle(actions)
    assert actions.last_operation(instance_id).state is State.SUCCEEDED
    assert idle(actions, instance_id)
    assert actions.plane.instance(instance_id).fault_message is None
    check(actions, instance_id)
    assert actions.plane.leftovers() == ONE_OF_EACH


@pytest.mark.parametrize(("name", "step"), STEPS)
def test_an_action_survives_a_crash(actions: Actions, name: str, step: str) -> None:
    flow, begin, check, _ = ALL[name]
    plane = actions.plane
    plane.compute.looks_to_resize = plane.compute.looks_to_delete = 1
    instance_id = actions.make_active()
    begin(actions, instance_id)
    with pytest.raises(Crash):
        plane.settle(plane.runner(crashing(flow, step)))
    plane.manual_clock.advance(plane.conf.taskmanager.lease_s + 1)
    settle(actions)
    assert actions.last_operation(instance_id).state is State.SUCCEEDED
    assert idle(actions, instance_id)
    check(actions, instance_id)
    assert plane.leftovers() == ONE_OF_EACH


@pytest.mark.parametrize(("name", "step"), STEPS)
def test_delete_takes_over_from_an_action_whose_runner_died(
    actions: Actions, name: str, step: str
) -> None:
    flow, begin, _, _ = ALL[name]
    plane = actions.plane
    instance_id = actions.make_active()
    begin(actions, instance_id)
    with pytest.raises(Crash):
        plane.settle(plane.runner(crashing(flow, step)))
    plane.delete(instance_id)
    settle(actions)
    assert plane.instance(instance_id).is_deleted
    assert plane.leftovers() == NOTHING
    # what was held for the action is given back once, whether it was written or not
    assert plane.usage() == GONE


CALLS = [
    ("flavor", "compute", "resize_server"),
    ("flavor", "compute", "confirm_resize"),
    ("volume", "volume", "extend_volume"),
    ("offline", "volume", "extend_volume"),
    ("offline", "compute", "detach_volume"),
    ("offline", "compute", "attach_volume"),
    ("access", "network", "update_access"),
    ("upgrade", "compute", "delete_server"),
    ("upgrade", "compute", "create_server"),
    ("reboot", "compute", "reboot_server"),
    ("migrate", "compute", "migrate_server"),
]


@pytest.mark.parametrize(
    ("name", "driver", "method"), CALLS, ids=["-".join(call) for call in CALLS]
)
def test_a_lost_reply_does_nothing_twice(
    actions: Actions, name: str, driver: str, method: str
) -> None:
    _, begin, check, _ = ALL[name]
    instance_id = actions.make_active()
    getattr(actions.plane, driver).injector.fail(method, LOST, lose_reply=True)
    begin(actions, instance_id)
    settle(actions)
    assert idle(actions, instance_id)
    check(actions, instance_id)


@pytest.mark.parametrize("name", [name for name in ALL if name != "access"])
def test_an_action_begins_again_after_it_has_failed(actions: Actions, name: str) -> None:
    _, begin, _, _ = ALL[name]
    instance_id = actions.make_active()
    for kind in ("stop", "resize", "grow", "prepare", "start", "unmount"):
        actions.plane.guests.failing[kind] = "it did not work"
    if name == "upgrade":
        # what does not even come back on its old image is another story
        del actions.plane.guests.failing["prepare"]
    actions.plane.compute.injector.fail("reboot_server", REFUSED)
    begin(actions, instance_id)
    settle(actions)
    assert actions.last_operation(instance_id).state is State.FAILED
    assert actions.plane.instance(instance_id).task is Task.NONE
    assert fault(actions, instance_id)
    actions.plane.guests.failing.clear()
    actions.plane.manual_clock.advance(1)
    {
        "upgrade": lambda a, i: a.service.upgrade(USER, i, "10.11-b"),
        "volume": begin_bigger,
        "offline": begin_bigger,
    }.get(name, begin)(actions, instance_id)
    settle(actions)
    assert actions.last_operation(instance_id).state is State.SUCCEEDED
    assert idle(actions, instance_id)
    assert actions.plane.instance(instance_id).fault_message is None


def begin_bigger(actions: Actions, instance_id: str) -> None:
    actions.service.resize_volume(USER, instance_id, 4)


# -- flavor -----


def test_a_smaller_flavor_gives_memory_back_when_it_runs(actions: Actions) -> None:
    instance_id = actions.make_active()
    begin_flavor(actions, instance_id)
    settle(actions)
    actions.plane.manual_clock.advance(1)
    actions.service.resize_flavor(USER, instance_id, "1")
    assert actions.plane.usage() == LARGE
    settle(actions)
    assert actions.plane.usage() == SMALL
    assert server_flavor(actions, instance_id) == ("1", Server.ACTIVE)


@pytest.mark.parametrize("looks", [0, 3])
def test_an_engine_that_does_not_start_runs_with_its_old_flavor_again(
    actions: Actions, looks: int
) -> None:
    plane = actions.plane
    plane.compute.looks_to_resize = looks
    instance_id = actions.make_active()
    plane.guests.failing["resize"] = "cannot allocate memory for the buffer pool"
    begin_flavor(actions, instance_id)
    assert plane.usage() == LARGE
    settle(actions)
    instance = plane.instance(instance_id)
    assert (instance.task, instance.flavor_id, instance.flavor_ram_mib) == (Task.NONE, "1", 256)
    assert "cannot allocate memory" in fault(actions, instance_id)
    assert "has its old flavor" in fault(actions, instance_id)
    assert server_flavor(actions, instance_id) == ("1", Server.ACTIVE)
    assert ran(actions) == ["stop", "resize", "stop", "resize"]
    # the last one is that of the way back
    assert plane.guests.payloads["resize"].payload["memory_mib"] == 256
    assert plane.usage() == SMALL


@pytest.mark.parametrize("before", POINTS)
@pytest.mark.parametrize("step", ["start_engine", "resize_server", "stop_engine"])
def test_the_way_back_of_a_flavor_survives_a_crash(
    actions: Actions, step: str, before: bool
) -> None:
    plane = actions.plane
    instance_id = actions.make_active()
    plane.guests.failing["resize"] = "no memory"
    begin_flavor(actions, instance_id)
    runner = plane.runner(crashing(resize.FLAVOR_FLOW, step, direction="undo", before=before))
    with pytest.raises(Crash):
        plane.settle(runner)
    plane.manual_clock.advance(plane.conf.taskmanager.lease_s + 1)
    settle(actions)
    assert plane.instance(instance_id).task is Task.NONE
    assert server_flavor(actions, instance_id) == ("1", Server.ACTIVE)
    assert plane.usage() == SMALL


def test_delete_during_the_way_back_gives_everything_back_once(actions: Actions) -> None:
    plane = actions.plane
    instance_id = actions.make_active()
    plane.guests.failing["resize"] = "no memory"
    begin_flavor(actions, instance_id)
    with pytest.raises(Crash):
        plane.settle(plane.runner(crashing(resize.FLAVOR_FLOW, "resize_server", direction="undo")))
    plane.delete(instance_id)
    settle(actions)
    assert plane.usage() == GONE
    assert plane.leftovers() == NOTHING


def test_a_silent_agent_does_not_keep_an_instance_resizing(actions: Actions) -> None:
    instance_id = actions.make_active()
    actions.plane.guests.is_silent = True
    begin_flavor(actions, instance_id)
    settle(actions)
    instance = actions.plane.instance(instance_id)
    assert (instance.task, instance.flavor_id) == (Task.NONE, "1")
    assert actions.plane.usage() == SMALL


def test_a_server_that_cannot_be_resized_keeps_its_flavor(actions: Actions) -> None:
    plane = actions.plane
    instance_id = actions.make_active()
    plane.compute.injector.fail("resize_server", REFUSED)
    begin_flavor(actions, instance_id)
    settle(actions)
    assert "no capacity" in fault(actions, instance_id)
    assert server_flavor(actions, instance_id) == ("1", Server.ACTIVE)
    assert ran(actions) == ["stop", "resize"]
    assert plane.usage() == SMALL


def test_a_resize_that_was_confirmed_is_taken_back_by_another(actions: Actions) -> None:
    plane = actions.plane
    instance_id = actions.make_active()
    plane.compute.injector.fail("confirm_resize", REFUSED, lose_reply=True)
    begin_flavor(actions, instance_id)
    settle(actions)
    assert server_flavor(actions, instance_id) == ("1", Server.ACTIVE)
    assert plane.instance(instance_id).flavor_id == "1"
    assert plane.usage() == SMALL


def test_a_resize_that_cannot_be_taken_back_says_so(actions: Actions) -> None:
    plane = actions.plane
    instance_id = actions.make_active()
    plane.guests.failing["resize"] = "no memory"
    plane.compute.injector.fail("revert_resize", REFUSED)
    begin_flavor(actions, instance_id)
    settle(actions)
    assert plane.instance(instance_id).task is Task.NONE
    assert "ask the operator" in fault(actions, instance_id)


@pytest.mark.parametrize(
    ("flavor", "error"),
    [("1", exception.BadRequest), ("nine", exception.BadRequest)],
    ids=["the-same", "unknown"],
)
def test_a_flavor_that_makes_no_sense_is_refused(
    actions: Actions, flavor: str, error: type[Exception]
) -> None:
    instance_id = actions.make_active()
    with pytest.raises(error):
        actions.service.resize_flavor(USER, instance_id, flavor)
    assert actions.plane.usage() == SMALL


def test_memory_above_the_quota_is_refused_and_nothing_is_charged(actions: Actions) -> None:
    instance_id = actions.make_active()
    actions.plane.conf.set_override("max_ram_per_tenant", 511, group="quota")
    with pytest.raises(exception.QuotaExceeded):
        begin_flavor(actions, instance_id)
    assert actions.plane.usage() == SMALL
    assert idle(actions, instance_id)


# -- volume -----


@pytest.mark.parametrize(
    ("size", "error"),
    [(1, exception.BadRequest), (11, exception.VolumeTooLarge), (10, exception.QuotaExceeded)],
    ids=["not-larger", "too-large", "quota"],
)
def test_a_volume_size_that_cannot_be_is_refused(
    actions: Actions, size: int, error: type[Exception]
) -> None:
    instance_id = actions.make_active()
    actions.plane.conf.set_override("max_volumes_per_tenant", 9, group="quota")
    with pytest.raises(error):
        actions.service.resize_volume(USER, instance_id, size)
    assert actions.plane.usage() == SMALL


def test_a_volume_that_cannot_grow_keeps_its_size_and_quota(actions: Actions) -> None:
    instance_id = actions.make_active()
    actions.plane.volume.injector.fail("extend_volume", REFUSED)
    begin_volume(actions, instance_id)
    settle(actions)
    assert actions.plane.instance(instance_id).volume_size_gib == 1
    assert "The volume has 1 GiB" in fault(actions, instance_id)
    assert actions.plane.usage() == SMALL


def test_a_volume_that_grew_after_all_is_shown_and_charged_so(actions: Actions) -> None:
    instance_id = actions.make_active()
    actions.plane.volume.injector.fail("extend_volume", REFUSED, lose_reply=True)
    begin_volume(actions, instance_id)
    settle(actions)
    assert actions.plane.instance(instance_id).volume_size_gib == 3
    assert "The volume has 3 GiB" in fault(actions, instance_id)
    assert actions.plane.usage() == SMALL | {quotas.VOLUMES: 3}


def attached(actions: Actions, instance_id: str) -> tuple[int, str]:
    volume = actions.plane.volume.find_volume(instance_id)
    assert volume is not None
    return volume.size_gib, volume.status


def test_a_volume_that_cannot_grow_is_given_back_to_its_server(actions: Actions) -> None:
    instance_id = actions.make_active()
    actions.plane.volume.injector.fail("extend_volume", REFUSED)
    begin_offline(actions, instance_id)
    settle(actions)
    assert attached(actions, instance_id) == (1, "in-use")
    assert ran(actions) == ["stop", "unmount", "mount", "start"]
    assert actions.plane.guests.payloads["mount"].payload["volume_size_gib"] == 1
    assert idle(actions, instance_id)
    assert "no capacity" in fault(actions, instance_id)
    assert "The volume has 1 GiB" in fault(actions, instance_id)
    assert actions.plane.usage() == SMALL


@pytest.mark.parametrize("before", POINTS)
@pytest.mark.parametrize("step", ["extend_volume", "detach_volume", "unmount", "stop_engine"])
def test_the_way_back_of_a_volume_survives_a_crash(
    actions: Actions, step: str, before: bool
) -> None:
    plane = actions.plane
    instance_id = actions.make_active()
    plane.volume.injector.fail("extend_volume", REFUSED)
    begin_offline(actions, instance_id)
    with pytest.raises(Crash):
        plane.settle(
            plane.runner(crashing(resize.VOLUME_FLOW, step, direction="undo", before=before))
        )
    plane.manual_clock.advance(plane.conf.taskmanager.lease_s + 1)
    settle(actions)
    assert attached(actions, instance_id) == (1, "in-use")
    assert ran(actions) == ["stop", "unmount", "mount", "start"]
    assert idle(actions, instance_id)
    assert plane.usage() == SMALL


def test_a_volume_that_cannot_be_used_after_it_grew_has_its_new_size(actions: Actions) -> None:
    instance_id = actions.make_active()
    actions.plane.guests.failing["mount"] = "the file system is damaged"
    begin_offline(actions, instance_id)
    settle(actions)
    assert attached(actions, instance_id) == (3, "in-use")
    assert "the file system is damaged" in fault(actions, instance_id)
    assert "The volume has 3 GiB" in fault(actions, instance_id)
    assert actions.plane.usage() == SMALL | {quotas.VOLUMES: 3}


def test_a_volume_that_cannot_be_given_back_is_told_and_taken_up_by_the_next_resize(
    actions: Actions,
) -> None:
    plane = actions.plane
    instance_id = actions.make_active()
    plane.compute.injector.fail("attach_volume", REFUSED, times=2)
    begin_offline(actions, instance_id)
    settle(actions)
    assert attached(actions, instance_id) == (3, "available")
    assert "could not be given the volume back" in fault(actions, instance_id)
    plane.manual_clock.advance(1)
    begin_bigger(actions, instance_id)
    settle(actions)
    assert attached(actions, instance_id) == (4, "in-use")
    assert idle(actions, instance_id)


def test_an_agent_that_took_the_volume_again_lets_go_of_it_again(actions: Actions) -> None:
    plane = actions.plane
    instance_id = actions.make_active()
    plane.compute.injector.fail("detach_volume", LOST)
    begin_offline(actions, instance_id)
    plane.settle(plane.runner(), until=lambda: "unmount" in ran(actions))
    plane.guests.hello(instance_id)
    settle(actions)
    assert ran(actions) == ["stop", "unmount", "unmount", "mount"]
    assert attached(actions, instance_id) == (3, "in-use")


def test_an_instance_that_needs_a_restart_still_does_after_its_volume_grew(
    actions: Actions,
) -> None:
    plane = actions.plane
    instance_id = actions.make_active()
    with plane.database.writer() as session:
        instances.change_task(
            session,
            instance_id,
            expect=Task.NONE,
            to=Task.RESTART_REQUIRED,
            now=plane.clock.now(),
        )
    begin_volume(actions, instance_id)
    settle(actions)
    assert plane.instance(instance_id).task is Task.RESTART_REQUIRED


# -- access -----


def test_what_a_change_of_access_omits_stays(actions: Actions) -> None:
    instance_id = actions.make_active()
    begin_access(actions, instance_id)
    settle(actions)
    actions.service.update_access(USER, instance_id, {"is_public": False})
    settle(actions)
    assert actions.plane.instance(instance_id).access == {
        "is_public": False,
        "allowed_cidrs": ["10.0.0.0/8", "fd00::/8"],
    }
    assert [each["type"] for each in actions.plane.instance(instance_id).addresses] == ["private"]
    actions.service.update_access(USER, instance_id, {"allowed_cidrs": ["192.0.2.0/24"]})
    settle(actions)
    assert actions.plane.network.access[instance_id]["is_public"] is False
    assert actions.plane.network.access[instance_id]["allowed_cidrs"] == ["192.0.2.0/24"]


def test_no_networks_are_those_of_the_operator(actions: Actions) -> None:
    actions.plane.conf.set_override("default_allowed_cidrs", ["10.1.0.0/16"], group="taskmanager")
    instance_id = actions.make_active()
    assert actions.plane.network.access[instance_id]["allowed_cidrs"] == ["10.1.0.0/16"]
    begin_access(actions, instance_id)
    settle(actions)
    actions.service.update_access(USER, instance_id, {"allowed_cidrs": []})
    settle(actions)
    assert actions.plane.network.access[instance_id]["allowed_cidrs"] == ["10.1.0.0/16"]
    assert actions.plane.instance(instance_id).access == {"is_public": True, "allowed_cidrs": []}


@pytest.mark.parametrize(
    "wrong",
    [
        {"allowed_cidrs": ["999.1.1.1/8"]},
        {"allowed_cidrs": ["10.0.0.0/33"]},
        {"allowed_cidrs": ["fd00::/129"]},
        {"allowed_cidrs": [7]},
        {"allowed_cidrs": "10.0.0.0/8"},
        {"is_public": "yes"},
        {"ports": [1]},
    ],
    ids=str,
)
def test_access_that_makes_no_sense_is_refused(actions: Actions, wrong: dict[str, object]) -> None:
    instance_id = actions.make_active()
    with pytest.raises(exception.BadRequest):
        actions.service.update_access(USER, instance_id, wrong)


def test_a_failed_change_of_access_is_an_error_that_can_be_tried_again(actions: Actions) -> None:
    instance_id = actions.make_active()
    actions.plane.network.injector.fail("update_access", REFUSED)
    begin_access(actions, instance_id)
    settle(actions)
    instance = actions.plane.instance(instance_id)
    assert instance.task is Task.UPDATING_ERROR_ACCESS
    assert states.api_status(instance.task, instance.server_status) == "ERROR"
    assert instance.access is None
    actions.plane.manual_clock.advance(1)
    begin_access(actions, instance_id)
    settle(actions)
    assert idle(actions, instance_id)
    check_access(actions, instance_id)


# -- upgrade, rebuild -----


@pytest.mark.parametrize("name", ["upgrade", "rebuild"])
def test_an_image_that_does_not_come_up_is_left_for_the_old_one(
    actions: Actions, name: str
) -> None:
    plane = actions.plane
    instance_id = actions.make_active()
    volume, port = plane.volume.find_volume(instance_id), plane.network.find_port(instance_id)
    old_image = plane.compute.spec_of(instance_id).image_id

    def start(started: str) -> None:
        # the agent of the new image never says a word
        if plane.compute.spec_of(started).image_id == old_image:
            plane.guests.hello(started)

    plane.compute.on_start = start
    ALL[name][1](actions, instance_id)
    settle(actions)
    instance = plane.instance(instance_id)
    assert idle(actions, instance_id)
    assert instance.datastore_version_id == plane.version_id
    assert plane.compute.spec_of(instance_id).image_id == old_image
    assert "runs on its old image" in fault(actions, instance_id)
    assert plane.leftovers() == ONE_OF_EACH
    assert (plane.volume.find_volume(instance_id), plane.network.find_port(instance_id)) == (
        volume,
        port,
    )
    assert ran(actions)[-1] == "prepare"


@pytest.mark.parametrize("before", POINTS)
@pytest.mark.parametrize("step", ["prepare", "make_server", "remove_server", "stop_guest"])
def test_the_way_back_of_an_upgrade_survives_a_crash(
    actions: Actions, step: str, before: bool
) -> None:
    plane = actions.plane
    instance_id = actions.make_active()
    old_image = plane.compute.spec_of(instance_id).image_id
    plane.guests.refuse = lambda instance_id, job: (
        "the tables are of another version"
        if job.kind == "prepare" and plane.compute.spec_of(instance_id).image_id != old_image
        else None
    )
    begin_upgrade(actions, instance_id)
    runner = plane.runner(crashing(upgrade.FLOW, step, direction="undo", before=before))
    with pytest.raises(Crash):
        plane.settle(runner)
    plane.manual_clock.advance(plane.conf.taskmanager.lease_s + 1)
    settle(actions)
    assert idle(actions, instance_id)
    assert plane.compute.spec_of(instance_id).image_id == old_image
    assert plane.leftovers() == ONE_OF_EACH


def test_an_upgrade_that_cannot_be_taken_back_is_an_error_that_a_rebuild_mends(
    actions: Actions,
) -> None:
    plane = actions.plane
    instance_id = actions.make_active()
    plane.compute.injector.fail("create_server", REFUSED, times=2)
    begin_upgrade(actions, instance_id)
    settle(actions)
    instance = plane.instance(instance_id)
    assert instance.task is Task.UPGRADING_ERROR
    assert "have the operator rebuild it" in fault(actions, instance_id)
    assert instance.server_id is None
    plane.manual_clock.advance(1)
    begin_rebuild(actions, instance_id)
    settle(actions)
    assert idle(actions, instance_id)
    assert plane.leftovers() == ONE_OF_EACH


def test_a_missing_image_stops_nothing(actions: Actions) -> None:
    instance_id = actions.make_active()
    actions.service.rebuild(ADMIN, instance_id, "5d3b3c60-0000-4000-8000-000000000000")
    settle(actions)
    assert idle(actions, instance_id)
    assert ran(actions) == []
    assert "cannot be found" in fault(actions, instance_id)


def test_a_rebuilt_instance_gets_its_modules_again(actions: Actions) -> None:
    plane = actions.plane
    instance_id = actions.make_active()
    module_id = "5d3b3c60-0000-4000-8000-000000000001"
    contents = plane.key_ring.wrap(b"echo hello", purpose=f"module:{module_id}")
    now = plane.clock.now()
    with plane.database.writer() as session:
        modules.add(
            session,
            module_id=module_id,
            project_id=None,
            name="greeter",
            datastore_id=None,
            datastore_version_id=None,
            type="ping",
            contents_wrapped=contents,
            md5="0" * 32,
            now=now,
        )
        modules.record_applied(session, instance_id, {module_id: "0" * 32}, now=now)
    begin_rebuild(actions, instance_id)
    settle(actions)
    (sent,) = plane.guests.payloads["prepare"].payload["modules"]
    assert sent["id"] == module_id


def test_an_agent_in_a_new_server_counts_on_from_the_old_ones_starts(actions: Actions) -> None:
    instance_id = actions.make_active()
    first = actions.plane.compute.spec_of(instance_id).files["guest.conf"]
    begin_rebuild(actions, instance_id)
    settle(actions)
    second = actions.plane.compute.spec_of(instance_id).files["guest.conf"]
    assert "first_boot = 1\n" in first
    assert "first_boot = 1001\n" in second


def test_versions_that_cannot_take_over_are_refused(actions: Actions) -> None:
    instance_id = actions.make_active()
    actions.add_version(name="off", active=False)
    actions.add_version(name="10.6", number="10.6")
    actions.add_version(name="other", manager="mysql")
    actions.add_version(name="two", number="10.11")
    actions.add_version(name="two", number="10.11.1")
    for wanted, error in (
        ("10.11", exception.BadRequest),
        (actions.plane.version_id, exception.BadRequest),
        ("off", exception.DatastoreVersionUnknown),
        ("none", exception.DatastoreVersionUnknown),
        ("two", exception.DatastoreVersionUnknown),
        ("other", exception.BadRequest),
        ("10.6", exception.BadRequest),
    ):
        with pytest.raises(error):
            actions.service.upgrade(USER, instance_id, wanted)
    assert idle(actions, instance_id)


# -- reboot, stop, migrate -----


def test_a_reboot_clears_that_a_restart_is_required(actions: Actions) -> None:
    plane = actions.plane
    instance_id = actions.make_active()
    with plane.database.writer() as session:
        instances.change_task(
            session,
            instance_id,
            expect=Task.NONE,
            to=Task.RESTART_REQUIRED,
            now=plane.clock.now(),
        )
    begin_reboot(actions, instance_id)
    settle(actions)
    assert idle(actions, instance_id)


@pytest.mark.parametrize("host", ["host-2", "host-1", "host-9"])
def test_a_server_moves_to_the_host_that_is_named(actions: Actions, host: str) -> None:
    instance_id = actions.make_active()
    actions.service.migrate(ADMIN, instance_id, host)
    settle(actions)
    server = actions.plane.compute.find_server(instance_id)
    assert server is not None
    assert idle(actions, instance_id)
    if host == "host-9":
        assert "no host host-9" in fault(actions, instance_id)
        host = "host-1"
    assert server.host == host


def test_where_there_is_one_host_migration_is_not_offered(
    actions: Actions, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance_id = actions.make_active()
    monkeypatch.setattr(type(actions.plane.compute), "can_migrate", False)
    with pytest.raises(exception.NotAvailable):
        begin_migrate(actions, instance_id)


# -- when actions may begin -----


@pytest.mark.parametrize("name", ALL)
def test_an_action_waits_for_the_end_of_another(actions: Actions, name: str) -> None:
    instance_id = actions.make_active()
    actions.plane.restart(instance_id)
    with pytest.raises(exception.InstanceNotReady):
        ALL[name][1](actions, instance_id)
    assert actions.plane.usage() == SMALL


@pytest.mark.parametrize("name", ALL)
def test_an_instance_that_is_being_made_is_not_ready(actions: Actions, name: str) -> None:
    instance_id, _ = actions.plane.create()
    with pytest.raises(exception.InstanceNotReady):
        ALL[name][1](actions, instance_id)


@pytest.mark.parametrize("name", ["flavor", "volume", "access"])
def test_anothers_instance_is_not_found(actions: Actions, name: str) -> None:
    instance_id = actions.make_active()
    stranger = type(USER)(project_id="stranger", user_id="eve", roles=["member"], overwrite=False)
    begin: dict[str, Callable[[], object]] = {
        "flavor": lambda: actions.service.resize_flavor(stranger, instance_id, "2"),
        "volume": lambda: actions.service.resize_volume(stranger, instance_id, 2),
        "access": lambda: actions.service.update_access(stranger, instance_id, {}),
    }
    with pytest.raises(exception.InstanceNotFound):
        begin[name]()


@pytest.mark.parametrize("name", ALL)
def test_what_an_operator_cancels_leaves_the_instance_as_it_was(
    actions: Actions, name: str
) -> None:
    plane = actions.plane
    flow, begin, _, _ = ALL[name]
    instance_id = actions.make_active()
    begin(actions, instance_id)
    with pytest.raises(Crash):
        plane.settle(plane.runner(crashing(flow, flow.steps[0].name)))
    with plane.database.writer() as session:
        operations.request_cancel(
            session, mode=operations.UNDO, resource_id=instance_id, now=plane.clock.now()
        )
    plane.manual_clock.advance(plane.conf.taskmanager.lease_s + 1)
    settle(actions)
    assert actions.last_operation(instance_id).state is State.CANCELLED
    instance = plane.instance(instance_id)
    expected = Task.UPDATING_ERROR_ACCESS if name == "access" else Task.NONE
    assert instance.task is expected
    assert instance.flavor_id == "1"
    assert plane.usage()[quotas.RAM] == 256
    assert plane.usage()[quotas.VOLUMES] == instance.volume_size_gib


def test_every_kind_of_action_is_on_the_matrix() -> None:
    kinds = {entry[0].kind for entry in ALL.values()}
    modules: Sequence[engine.Flow] = (
        resize.FLAVOR_FLOW,
        resize.VOLUME_FLOW,
        access.FLOW,
        upgrade.FLOW,
        rebuild.FLOW,
        reboot.REBOOT_FLOW,
        reboot.STOP_FLOW,
        reboot.MIGRATE_FLOW,
    )
    assert kinds == {flow.kind for flow in modules}
