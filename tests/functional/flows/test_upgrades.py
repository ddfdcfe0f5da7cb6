"""Upgrades to another version: the record is true, and every failure ends on the old version."""

from collections.abc import Callable

import pytest

from tests.fixtures.actions import USER, Actions, make_actions
from tests.fixtures.control_plane import ONE_OF_EACH, PROJECT, ControlPlane
from trove import states
from trove.common import exception
from trove.datastores import mariadb, spec
from trove.datastores import parameters as rules
from trove.db import associations, configurations, models
from trove.rpc import payloads

Task = states.TaskStatus


@pytest.fixture
def actions(plane: ControlPlane) -> Actions:
    # the manual clock goes by seconds: short timeouts make short tests
    plane.conf.set_override("usage_timeout_s", 60, group="taskmanager")
    plane.conf.set_override("restart_timeout_s", 30, group="taskmanager")
    plane.conf.set_override("upgrade_timeout_s", 400, group="taskmanager")
    return make_actions(plane)


def begin(actions: Actions, instance_id: str, number: str = "11.4") -> str:
    version_id = actions.add_version(name=number, number=number)
    actions.service.upgrade(USER, instance_id, number)
    return version_id


def settle(actions: Actions) -> None:
    actions.plane.settle(actions.plane.runner())


def refuse(actions: Actions, instance_id: str, kind: str, phase: str | None = None) -> None:
    """Have the agents of other images than the one at hand fail a job, or all of them a phase."""
    plane = actions.plane
    old_image = plane.compute.spec_of(instance_id).image_id

    def look(instance_id: str, job: payloads.Job) -> str | None:
        is_new = plane.compute.spec_of(instance_id).image_id != old_image
        if job.kind == kind and job.payload.get("phase") == phase and (is_new or phase == "check"):
            return "the engine says no"
        return None

    plane.guests.refuse = look


def test_the_new_version_is_written_once_its_engine_has_proved_itself(actions: Actions) -> None:
    plane = actions.plane
    instance_id = actions.make_active()
    seen: list[tuple[str, str | None, str]] = []

    def look(instance_id: str, job: payloads.Job) -> None:
        version = plane.instance(instance_id).datastore_version_id
        seen.append((job.kind, job.payload.get("phase"), version))

    plane.guests.refuse = look
    new = begin(actions, instance_id)
    settle(actions)
    old = plane.version_id
    assert seen == [
        ("upgrade_engine", "check", old),
        ("stop", None, old),
        ("upgrade_engine", "begin", old),
        ("prepare", None, old),
        ("upgrade_engine", "commit", new),
    ]
    assert plane.guests.payloads["upgrade_engine"].payload["version"] == "11.4.0"
    assert plane.guests.payloads["prepare"].payload["engine_version"] == "11.4.0"


def _no_agent(actions: Actions, instance_id: str) -> None:
    plane = actions.plane
    old_image = plane.compute.spec_of(instance_id).image_id

    def start(started: str) -> None:
        if plane.compute.spec_of(started).image_id == old_image:
            plane.guests.hello(started)

    plane.compute.on_start = start


def _no_server(actions: Actions, instance_id: str) -> None:
    refused = exception.DriverError(service="cloud", reason="the engine says no")
    actions.plane.compute.injector.fail("create_server", refused)


def _no_stop(actions: Actions, instance_id: str) -> None:
    actions.plane.guests.failing["stop"] = "the engine says no"


#: What fails: (how it is made to, words of the fault, whether the old server was removed).
FAILURES: dict[str, tuple[Callable[[Actions, str], None], str, bool]] = {
    "check": (lambda a, i: refuse(a, i, "upgrade_engine", "check"), "says no", False),
    "stop": (_no_stop, "says no", False),
    "server": (_no_server, "says no", True),
    "agent": (_no_agent, "did not answer within 60 s", True),
    "begin": (lambda a, i: refuse(a, i, "upgrade_engine", "begin"), "says no", True),
    "prepare": (lambda a, i: refuse(a, i, "prepare"), "says no", True),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_at_each_step_ends_on_the_old_version(actions: Actions, name: str) -> None:
    plane = actions.plane
    instance_id = actions.make_active()
    old_image = plane.compute.spec_of(instance_id).image_id
    fail, words, is_removed = FAILURES[name]
    fail(actions, instance_id)
    begin(actions, instance_id)
    settle(actions)
    instance = plane.instance(instance_id)
    assert actions.last_operation(instance_id).state is states.OperationState.FAILED
    assert (instance.task, instance.server_status) == (Task.NONE, states.ServerStatus.ACTIVE)
    assert instance.datastore_version_id == plane.version_id
    assert plane.compute.spec_of(instance_id).image_id == old_image
    assert words in str(instance.fault_message)
    assert "The instance runs on its old image." in str(instance.fault_message)
    assert plane.leftovers() == ONE_OF_EACH
    ran = [kind for _, kind, _ in plane.guests.ran][1:]
    if name == "check":
        assert ran == ["upgrade_engine"]
    else:
        # the old agent puts the data back to the version that the record still has
        assert ran[-1] == "prepare"
        assert plane.guests.payloads["prepare"].payload["engine_version"] == "10.11"
    assert (plane.compute.created[instance_id] > 1) == is_removed


def test_what_was_kept_and_cannot_be_removed_leaves_the_new_version(actions: Actions) -> None:
    instance_id = actions.make_active()
    refuse(actions, instance_id, "upgrade_engine", "commit")
    new = begin(actions, instance_id)
    settle(actions)
    instance = actions.plane.instance(instance_id)
    assert instance.task is Task.NONE
    assert instance.datastore_version_id == new
    assert "runs the new version all the same" in str(instance.fault_message)
    assert actions.plane.compute.created[instance_id] == 2


def test_data_that_do_not_come_back_are_an_error(actions: Actions) -> None:
    instance_id = actions.make_active()
    actions.plane.guests.failing["prepare"] = "the copy is damaged"
    begin(actions, instance_id)
    settle(actions)
    instance = actions.plane.instance(instance_id)
    assert instance.task is Task.UPGRADING_ERROR
    assert instance.datastore_version_id == actions.plane.version_id
    assert "have the operator rebuild it" in str(instance.fault_message)


def test_an_image_of_another_version_than_it_says_stops_nothing(actions: Actions) -> None:
    instance_id = actions.make_active()
    image = actions.plane.tools.drivers.image.import_image(
        manager="mariadb", name="wrong", file=None, image_id=None, version="10.11.3"
    )
    actions.add_version(name="11.4", number="11.4", image_id=image.id)
    actions.service.upgrade(USER, instance_id, "11.4")
    settle(actions)
    assert "has version 10.11.3 of the engine" in str(
        actions.plane.instance(instance_id).fault_message
    )
    assert len(actions.plane.guests.ran) == 1


def test_agents_that_know_no_upgrades_are_not_asked(
    actions: Actions, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance_id = actions.make_active()
    capabilities = mariadb.SPEC.capabilities - {spec.Capability.UPGRADE}
    monkeypatch.setattr(type(mariadb.SPEC), "capabilities", capabilities, raising=False)
    with pytest.raises(exception.NotImplementedByEngine):
        begin(actions, instance_id)
    # another image of the same version always can be run
    new = actions.add_version()
    actions.service.upgrade(USER, instance_id, "10.11-b")
    settle(actions)
    assert actions.plane.instance(instance_id).datastore_version_id == new
    assert [kind for _, kind, _ in actions.plane.guests.ran][1:] == ["stop", "prepare"]


def test_values_that_the_new_version_does_not_know_are_named(actions: Actions) -> None:
    plane = actions.plane
    instance_id = actions.make_active()
    new = actions.add_version(name="11.4", number="11.4")
    values: dict[str, rules.Value] = {"innodb_lock_wait_timeout": 7, "max_connections": 50}
    with plane.database.writer() as session:
        group_id = configurations.add_group(
            session,
            project_id=PROJECT,
            name="group",
            description=None,
            datastore_version_id=plane.version_id,
            values=values,
            digest=rules.digest(values),
            now=plane.clock.now(),
        )
        session.get_one(models.Instance, instance_id).configuration_id = group_id
        gone = configurations.Overlay(
            name="innodb_lock_wait_timeout",
            data_type="integer",
            restart_required=False,
            minimum=None,
            maximum=None,
            is_deleted=True,
        )
        configurations.save_overlay(session, new, gone, now=plane.clock.now())
    with pytest.raises(exception.BadRequest) as refused:
        actions.service.upgrade(USER, instance_id, "11.4")
    assert "innodb_lock_wait_timeout is not a configuration parameter" in refused.value.message
    assert "max_connections" not in refused.value.message
    assert group_id in refused.value.message
    assert plane.instance(instance_id).task is Task.NONE


def test_a_flavor_that_the_new_version_is_not_for_is_refused(actions: Actions) -> None:
    instance_id = actions.make_active()
    new = actions.add_version(name="11.4", number="11.4")
    with actions.plane.database.writer() as session:
        associations.add(session, associations.FLAVORS, new, ["2"])
    with pytest.raises(exception.BadRequest, match="flavor 1 cannot be used"):
        actions.service.upgrade(USER, instance_id, "11.4")
