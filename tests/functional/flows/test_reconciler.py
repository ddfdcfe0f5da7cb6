"""The reconciler finds what is not as it should be, and acts by creating operations."""

from typing import Any

import pytest

from tests.fixtures.control_plane import NOTHING, ONE_OF_EACH, ControlPlane
from tests.fixtures.database import add_instance
from trove import states
from trove.common import exception
from trove.db import instances, operations
from trove.drivers.compute.base import ServerSpec
from trove.drivers.compute.fake import FLAVORS
from trove.taskmanager.reconciler import Limits, Reconciler

Task = states.TaskStatus
Status = states.ServerStatus


def make_active(plane: ControlPlane) -> str:
    instance_id, _ = plane.create()
    plane.settle(plane.runner())
    return instance_id


def settle(plane: ControlPlane, *reconcilers: Reconciler, runs: int = 1) -> None:
    """Run reconcilers and what they begin."""
    runner = plane.runner()
    for _ in range(runs):
        for reconciler in reconcilers or (plane.reconciler(),):
            reconciler.run()
        plane.settle(runner)
        plane.manual_clock.advance(plane.conf.taskmanager.reconcile_interval_s)


def kinds(plane: ControlPlane, instance_id: str) -> list[str]:
    with plane.database.reader() as session:
        found = operations.list_operations(session, resource_id=instance_id)
    return sorted(operation.kind for operation in found)


def make_orphan(plane: ControlPlane, instance_id: str) -> None:
    plane.network.create_management_port(instance_id=instance_id)
    plane.dns.set_records(instance_id, ["192.0.2.1"])
    plane.broker.ensure_account(instance_id, 0, "secret")
    plane.network.create_port(
        instance_id=instance_id, project_id="p", nic=None, access=None, engine_port=1
    )
    plane.volume.create_volume(
        instance_id=instance_id, size_gib=1, volume_type=None, project_id="p"
    )
    plane.compute.create_server(
        ServerSpec(
            instance_id=instance_id,
            name="orphan",
            project_id="p",
            flavor=FLAVORS[0],
            image_id="i",
            datastore_manager="mariadb",
            port_id="p",
            address="192.0.2.1",
        )
    )


def test_a_healthy_world_stays_as_it_is(plane: ControlPlane) -> None:
    ids = [make_active(plane) for _ in range(3)]
    before = [plane.instance(each).updated for each in ids]
    settle(plane, plane.reconciler(), runs=20)
    assert [plane.instance(each).updated for each in ids] == before
    assert plane.leftovers().servers == 3


def test_a_server_that_is_off_is_started_again(plane: ControlPlane) -> None:
    instance_id = make_active(plane)
    plane.manual_clock.advance(5)
    plane.compute.set_status(instance_id, Status.SHUTOFF)
    plane.reconciler().run()
    assert plane.instance(instance_id).server_status is Status.SHUTOFF
    plane.settle(plane.runner())
    server = plane.compute.find_server(instance_id)
    assert server is not None
    assert server.status is Status.ACTIVE
    assert plane.instance(instance_id).server_status is Status.ACTIVE
    assert kinds(plane, instance_id) == ["create_instance", "recover_instance"]


def test_after_a_reboot_everything_comes_back_a_few_at_a_time(plane: ControlPlane) -> None:
    ids = [make_active(plane) for _ in range(7)]
    plane.manual_clock.advance(5)
    for instance_id in ids:
        plane.compute.set_status(instance_id, Status.SHUTOFF)
    reconciler = plane.reconciler(limits=Limits(page_size=2, per_run=3))
    reconciler.run()
    assert len(plane.active()) == 3
    settle(plane, reconciler, runs=3)
    assert {server.status for server in plane.compute.list_servers()} == {Status.ACTIVE}
    assert {plane.instance(each).server_status for each in ids} == {Status.ACTIVE}


def test_a_server_that_cannot_be_started_is_told_and_tried_again_later(
    plane: ControlPlane,
) -> None:
    instance_id = make_active(plane)
    plane.manual_clock.advance(5)
    plane.compute.set_status(instance_id, Status.SHUTOFF)
    plane.compute.injector.fail(
        "start_server", exception.DriverError(service="compute", reason="no memory")
    )
    reconciler = plane.reconciler()
    settle(plane, reconciler)
    assert "no memory" in str(plane.instance(instance_id).fault_message)
    settle(plane, reconciler, runs=10)
    assert kinds(plane, instance_id).count("recover_instance") == 1
    settle(plane, reconciler, runs=10)
    assert kinds(plane, instance_id).count("recover_instance") == 2
    instance = plane.instance(instance_id)
    assert (instance.server_status, instance.fault_message) == (Status.ACTIVE, None)


def test_a_server_that_is_gone_is_shown_and_told(plane: ControlPlane) -> None:
    instance_id = make_active(plane)
    plane.compute.delete_server(str(plane.instance(instance_id).server_id))
    settle(plane)
    instance = plane.instance(instance_id)
    assert instance.server_status is Status.MISSING
    assert "gone" in str(instance.fault_message)
    assert kinds(plane, instance_id) == ["create_instance"]


def test_a_difference_that_is_gone_at_the_second_look_is_none(plane: ControlPlane) -> None:
    instance_id = make_active(plane)
    plane.compute.set_status(instance_id, Status.SHUTOFF)

    def recovered(method: str) -> None:
        if method == "find_server":
            plane.compute.set_status(instance_id, Status.ACTIVE)

    plane.compute.injector.watch = recovered
    plane.reconciler().run()
    assert plane.instance(instance_id).server_status is Status.ACTIVE
    assert not plane.active()


@pytest.mark.parametrize("task", [Task.DELETING, Task.REBOOTING, Task.BUILDING])
def test_an_instance_with_an_operation_is_left_alone(plane: ControlPlane, task: Task) -> None:
    if task is Task.BUILDING:
        plane.guests.is_silent = True
        instance_id, operation_id = plane.create()
        plane.settle(plane.runner(), until=lambda: plane.operation(operation_id).wake_on == "hello")
    else:
        instance_id = make_active(plane)
        plane.delete(instance_id) if task is Task.DELETING else plane.restart(instance_id)
    plane.compute.set_status(instance_id, Status.SHUTOFF)
    reconciler = plane.reconciler()
    for _ in range(20):
        reconciler.run()
        plane.manual_clock.advance(5)
    assert len(plane.active()) == 1
    assert plane.leftovers() == ONE_OF_EACH


def clean_up(plane: ControlPlane, instance_id: str) -> None:
    now = plane.clock.now()
    with plane.database.writer() as session:
        operations.create(
            session,
            kind=operations.CLEANUP,
            resource_id=instance_id,
            lock_key=operations.instance_lock(instance_id),
            deadline=now.replace(year=2027),
            now=now,
            project_id="p",
        )
    plane.settle(plane.runner())


def make_deleted(plane: ControlPlane) -> str:
    instance_id = make_active(plane)
    plane.delete(instance_id)
    plane.settle(plane.runner())
    return instance_id


def test_what_no_record_knows_is_told_and_left_alone(
    plane: ControlPlane, caplog: pytest.LogCaptureFixture
) -> None:
    unknown = "00000000-0000-4000-8000-000000000001"
    make_orphan(plane, unknown)
    settle(plane, plane.reconciler(), runs=20)
    assert plane.leftovers() == ONE_OF_EACH
    assert kinds(plane, unknown) == []
    assert [r.message for r in caplog.records if unknown in r.message] == [
        record.message for record in caplog.records if "has no record" in record.message
    ]
    assert len([r for r in caplog.records if "has no record" in r.message]) == 1


def test_a_cleanup_without_a_record_removes_nothing(plane: ControlPlane) -> None:
    unknown = "00000000-0000-4000-8000-000000000001"
    make_orphan(plane, unknown)
    clean_up(plane, unknown)
    assert plane.leftovers() == ONE_OF_EACH


def test_what_belongs_to_nobody_is_removed_after_a_grace(plane: ControlPlane) -> None:
    deleted = make_deleted(plane)
    live = make_active(plane)
    make_orphan(plane, deleted)
    reconciler = plane.reconciler()
    settle(plane, reconciler, runs=5)
    assert plane.leftovers().servers == 2
    settle(plane, reconciler, runs=5)
    assert plane.leftovers() == ONE_OF_EACH
    assert plane.compute.find_server(live) is not None


def test_what_is_left_of_a_deleted_or_failed_instance_is_removed(plane: ControlPlane) -> None:
    deleted = make_active(plane)
    plane.delete(deleted)
    plane.settle(plane.runner())
    plane.guests.failing["prepare"] = "broken"
    failed, _ = plane.create()
    plane.settle(plane.runner())
    assert plane.leftovers() == NOTHING
    # replies that were lost for so long that the undo did not see what came of them
    make_orphan(plane, deleted)
    make_orphan(plane, failed)
    settle(plane, plane.reconciler(), runs=10)
    assert plane.leftovers() == NOTHING
    assert not plane.broker.list_owners()
    assert plane.instance(failed).task is Task.BUILDING_ERROR_TIMEOUT_GA


def test_an_orphan_seen_once_in_a_while_is_not_one(plane: ControlPlane) -> None:
    orphan = make_deleted(plane)
    before = kinds(plane, orphan)
    reconciler = plane.reconciler()
    for _ in range(10):
        make_orphan(plane, orphan)
        reconciler.run()
        for server in plane.compute.list_servers():
            plane.compute.delete_server(server.id)
        for volume in plane.volume.list_volumes():
            plane.volume.delete_volume(volume.id)
        plane.network.remove_all(orphan)
        plane.dns.remove_records(orphan)
        plane.broker.remove_accounts(orphan)
        plane.manual_clock.advance(20)
        reconciler.run()
    assert kinds(plane, orphan) == before


def test_a_cleanup_spares_an_instance_that_lives(plane: ControlPlane) -> None:
    instance_id = make_active(plane)
    clean_up(plane, instance_id)
    assert plane.leftovers() == ONE_OF_EACH


def test_a_deletion_that_nobody_works_on_is_begun_again(plane: ControlPlane) -> None:
    instance_id = make_active(plane)
    with plane.database.writer() as session:
        instances.change_task(
            session, instance_id, expect=Task.NONE, to=Task.DELETING, now=plane.clock.now()
        )
    settle(plane, plane.reconciler(), runs=10)
    assert plane.instance(instance_id).is_deleted
    assert plane.leftovers() == NOTHING


def test_two_reconcilers_begin_an_operation_once(plane: ControlPlane) -> None:
    instance_id = make_active(plane)
    orphan = make_deleted(plane)
    make_orphan(plane, orphan)
    plane.manual_clock.advance(5)
    plane.compute.set_status(instance_id, Status.SHUTOFF)
    settle(plane, plane.reconciler(), plane.reconciler(), runs=10)
    assert kinds(plane, instance_id) == ["create_instance", "recover_instance"]
    assert kinds(plane, orphan) == ["cleanup", "create_instance", "delete_instance"]
    assert plane.leftovers() == ONE_OF_EACH


def test_many_instances_are_read_in_pages(
    plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(25):
        add_instance(plane.database, plane.version_id, task=Task.NONE)
    reconciler = plane.reconciler(limits=Limits(page_size=10))
    pages: list[int] = []
    read = instances.list_snapshots

    def count(*args: Any, **kwargs: Any) -> Any:
        page = read(*args, **kwargs)
        pages.append(len(page))
        return page

    monkeypatch.setattr(instances, "list_snapshots", count)
    reconciler.run()
    assert pages == [10, 10, 5]
