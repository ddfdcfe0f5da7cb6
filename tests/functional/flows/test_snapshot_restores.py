"""Snapshots restored in place: one volume for another, and the former back whatever goes wrong."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable

import pytest

from tests.fixtures.control_plane import NOTHING, ONE_OF_EACH, PROJECT
from tests.fixtures.crashes import Crash, crashing
from tests.functional.flows.test_crashes import crash_and_resume
from tests.functional.flows.test_snapshot_flows import Setup, setup, steps_of
from trove import states
from trove.common import exception
from trove.db import instances, operations, restorations
from trove.rpc import payloads
from trove.taskmanager.operations import restore_snapshot

__all__ = ["setup"]

State = states.OperationState
Task = states.TaskStatus
#: Steps that only look, or are tried at each point with other operations.
TRIED = (
    *("await_backup", "check_image", "await_agent", "await_engine"),
    *("secure_channel", "remove_first_account", "stop_guest", "finish"),
)
#: One more volume than instances have: it stays for its snapshots.
ONE_KEPT = dataclasses.replace(ONE_OF_EACH, volumes=2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Restored:
    """An instance with a snapshot, which is being restored in place."""

    setup: Setup
    backup_id: str
    operation_id: str
    former_id: str

    @property
    def volume_id(self) -> str:
        """The volume that the volume service says is the instance's; the row says the same."""
        plane, instance_id = self.setup.plane, self.setup.instance_id
        volume = plane.volume.find_volume(instance_id)
        assert volume is not None
        assert plane.instance(instance_id).volume_id == volume.id
        return volume.id

    def expect_done(self) -> None:
        """See that the restored database is the instance's, and all else as it should be."""
        plane, instance_id = self.setup.plane, self.setup.instance_id
        assert plane.operation(self.operation_id).state is State.SUCCEEDED
        instance = plane.instance(instance_id)
        assert (instance.task, instance.server_status) == (Task.NONE, states.ServerStatus.ACTIVE)
        assert instance.fault_message is None
        assert self.volume_id != self.former_id
        assert plane.volume.made_of[self.operation_id] == self.setup.get(self.backup_id).location
        assert plane.made(self.operation_id).volumes == 1
        # the former one cannot go before the snapshot
        assert plane.leftovers() == ONE_KEPT

    def expect_former(self, reason: str) -> None:
        """See that the instance is as it was, and why."""
        plane, instance_id = self.setup.plane, self.setup.instance_id
        assert plane.operation(self.operation_id).state is State.FAILED
        instance = plane.instance(instance_id)
        assert instance.task is Task.NONE
        assert reason in str(instance.fault_message)
        assert "The database is the one from before." in str(instance.fault_message)
        assert self.volume_id == self.former_id
        assert plane.leftovers() == ONE_OF_EACH
        assert not plane.active()
        assert self.setup.get(self.backup_id).volume_owner is None


def restore(setup: Setup, backup_id: str | None = None) -> Restored:
    """Accept that a snapshot of an instance is restored in its place."""
    plane = setup.plane
    backup_id = backup_id or setup.made()
    volume = plane.tools.drivers.volume.find_volume(setup.instance_id)
    assert volume is not None
    image_id = plane.instance(setup.instance_id).version.image_id
    plane.tools.drivers.image.import_image(
        manager="mariadb", name="its", file=None, image_id=image_id, version="10.11.6"
    )
    restoration = restorations.Restoration(
        chain=(backup_id,), snapshot_id=setup.get(backup_id).location
    )
    now = plane.clock.now()
    with plane.database.writer() as session:
        assert instances.change_task(
            session, setup.instance_id, expect=Task.NONE, to=Task.BUILDING, now=now
        )
        operation_id = operations.create(
            session,
            kind=operations.RESTORE_SNAPSHOT,
            resource_id=setup.instance_id,
            lock_key=operations.instance_lock(setup.instance_id),
            deadline=now + datetime.timedelta(seconds=3600),
            now=now,
            project_id=PROJECT,
            data={restorations.KEY: restoration.to_data(), "task": "NONE", "server_id": 9},
        )
    return Restored(
        setup=setup, backup_id=backup_id, operation_id=operation_id, former_id=volume.id
    )


def prepared(setup: Setup) -> list[payloads.PrepareJob]:
    """Return what agents of the instance were told to prepare, in order."""
    return [
        payloads.PrepareJob.from_wire(job.payload)
        for job in setup.plane.guests.history
        if job.kind == payloads.PrepareJob.KIND
    ]


def test_a_volume_of_the_snapshot_takes_the_place_of_the_former(setup: Setup) -> None:
    plane = setup.plane
    usage = plane.usage()
    plane.compute.looks_to_delete = 2
    restored = restore(setup)
    with pytest.raises(exception.UnprocessableEntity, match="being restored"):
        setup.delete(restored.backup_id)
    runner = plane.runner()
    plane.settle(
        runner, until=lambda: plane.operation(restored.operation_id).step == "remove_server"
    )
    # what was made so far is the operation's, and nobody takes it for left over
    for _ in range(3):
        plane.reconciler().run()
        plane.manual_clock.advance(60)
    assert [op.id for op in plane.active()] == [restored.operation_id]
    plane.settle(runner)
    restored.expect_done()
    first, second = prepared(setup)
    assert first.restoration is None
    assert second.restoration == payloads.Restoration(chain=(), snapshot=restored.backup_id)
    assert second.server_id == 9
    # the engine of the former was ended cleanly
    assert [kind for _, kind, _ in plane.guests.ran] == ["prepare", "stop", "prepare"]
    usage["backups"] += 1
    assert plane.usage() == usage


def test_without_snapshots_in_the_way_the_former_volume_is_removed(setup: Setup) -> None:
    plane = setup.plane
    plane.volume.snapshots_outlive_volumes = True
    plane.volume.deletes_with_snapshots = True
    restored = restore(setup)
    setup.settle()
    assert plane.operation(restored.operation_id).state is State.SUCCEEDED
    assert plane.leftovers() == ONE_OF_EACH
    assert restored.volume_id != restored.former_id


def test_a_restoration_survives_a_crash_at_every_step(setup: Setup) -> None:
    plane = setup.plane
    plane.volume.snapshots_outlive_volumes = True
    plane.volume.deletes_with_snapshots = True
    plane.compute.looks_to_delete = 1
    backup_id = setup.made()
    flow = restore_snapshot.FLOW
    for step in steps_of(flow):
        if step in TRIED:
            continue
        restored = restore(setup, backup_id)
        crash_and_resume(plane, flow, step, before=False)
        assert plane.operation(restored.operation_id).state is State.SUCCEEDED, step
        assert plane.made(restored.operation_id).volumes == 1
        assert restored.volume_id != restored.former_id
        assert plane.leftovers() == ONE_OF_EACH, step
        assert prepared(setup)[-1].restoration is not None


@pytest.mark.parametrize("trouble", ["prepare", "volume", "snapshot", "engine"])
def test_whatever_goes_wrong_the_former_database_is_back(setup: Setup, trouble: str) -> None:
    plane = setup.plane
    backup_id = setup.made()
    reason = "no space left"
    match trouble:
        case "prepare":
            plane.guests.refuse = refusing(setup)
        case "volume":
            plane.volume.status = "error"
            reason = "could not be made"
        case "snapshot":
            plane.volume.delete_snapshot(str(setup.get(backup_id).location))
            reason = "no snapshot"
        case _:
            plane.compute.injector.fail(
                "create_server", exception.DriverError(service="nova", reason=reason)
            )
    restored = restore(setup, backup_id)
    setup.settle()
    restored.expect_former(reason)
    last = prepared(setup)[-1]
    assert last.restoration is None


def refusing(setup: Setup) -> Callable[[str, payloads.Job], str | None]:
    """Have agents that cannot make a database of a snapshot."""

    def refuse(instance_id: str, job: payloads.Job) -> str | None:
        return "no space left" if job.payload.get("restoration") else None

    return refuse


def test_going_back_survives_a_crash_at_every_step(setup: Setup) -> None:
    plane = setup.plane
    plane.compute.looks_to_delete = 1
    plane.guests.refuse = refusing(setup)
    backup_id = setup.made()
    for step in ("make_server", "swap_volumes"):
        restored = restore(setup, backup_id)
        crash_and_resume(plane, restore_snapshot.FLOW, step, before=False, direction="undo")
        restored.expect_former("no space left")


def test_a_deletion_takes_over_from_a_restoration_whose_runner_died(setup: Setup) -> None:
    plane = setup.plane
    restored = restore(setup)
    with pytest.raises(Crash):
        plane.settle(plane.runner(crashing(restore_snapshot.FLOW, "make_volume")))
    plane.delete(setup.instance_id)
    setup.settle()
    assert plane.operation(restored.operation_id).state is State.CANCELLED
    setup.delete(restored.backup_id)
    tidy(setup)
    assert plane.leftovers() == NOTHING


def test_a_deletion_between_the_two_halves_of_the_swap_leaves_nothing(setup: Setup) -> None:
    plane = setup.plane
    restored = restore(setup)
    give, given = plane.volume.give_volume, []

    def give_once(volume_id: str, instance_id: str) -> None:
        if given:
            raise Crash
        given.append(volume_id)
        give(volume_id, instance_id)

    plane.volume.give_volume = give_once  # type: ignore[method-assign]
    with pytest.raises(Crash):
        setup.settle()
    assert plane.volume.find_volume(setup.instance_id) is None
    plane.delete(setup.instance_id)
    setup.settle()
    setup.delete(restored.backup_id)
    tidy(setup)
    assert plane.leftovers() == NOTHING


def tidy(setup: Setup) -> None:
    """Have left over things removed."""
    reconciler = setup.plane.reconciler()
    for _ in range(5):
        setup.settle()
        reconciler.run()
        setup.plane.manual_clock.advance(60)
    setup.settle()


def test_the_former_volume_goes_with_its_last_snapshot(setup: Setup) -> None:
    plane = setup.plane
    first, second = setup.made(), setup.made()
    former = restore(setup, first)
    setup.settle()
    former.expect_done()
    # a snapshot of the new volume keeps that one, not the former
    third = setup.made()
    latter = restore(setup, second)
    setup.settle()
    assert plane.operation(latter.operation_id).state is State.SUCCEEDED
    kept = dataclasses.replace(ONE_OF_EACH, volumes=3)
    assert plane.leftovers() == kept
    # nobody takes them for left over, nor is it tried again and again
    reconciler = plane.reconciler()
    for _ in range(3):
        reconciler.run()
        plane.manual_clock.advance(3600)
    assert plane.active() == []
    setup.delete(first)
    setup.settle()
    assert plane.leftovers() == kept
    setup.delete(second)
    setup.settle()
    assert plane.leftovers() == ONE_KEPT
    plane.delete(setup.instance_id)
    setup.settle()
    assert plane.leftovers() == dataclasses.replace(NOTHING, volumes=1)
    setup.delete(third)
    setup.settle()
    assert plane.leftovers() == NOTHING


def test_what_a_restoration_may_go_back_to_stays_though_its_last_snapshot_goes(
    setup: Setup,
) -> None:
    plane = setup.plane
    first = setup.made()
    restore(setup, first)
    setup.settle()
    second = setup.made()
    # the first is of the former volume: the safe one has the second only
    restored = restore(setup, first)
    plane.guests.endless.add(payloads.PrepareJob.KIND)
    runner = plane.runner()
    plane.settle(runner, until=lambda: plane.operation(restored.operation_id).step == "prepare")
    setup.delete(second)
    plane.settle(runner, until=lambda: setup.find(second) is None)
    assert len(plane.volume.list_volumes()) == 3
    plane.guests.endless.clear()
    plane.settle(runner)
    tidy(setup)
    assert plane.operation(restored.operation_id).state is State.SUCCEEDED
    assert plane.leftovers() == ONE_KEPT


def test_a_former_volume_that_cannot_be_removed_now_is_removed_later(setup: Setup) -> None:
    plane = setup.plane
    restored = restore(setup)
    plane.volume.snapshots_outlive_volumes = True
    setup.settle()
    restored.expect_done()
    plane.volume.deletes_with_snapshots = True
    tidy(setup)
    assert plane.leftovers() == ONE_OF_EACH
