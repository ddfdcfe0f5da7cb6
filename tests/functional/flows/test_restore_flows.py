"""Restoring, proving, archives: what agents are told, and what is left when something fails."""

from __future__ import annotations

import datetime
import pathlib
from typing import Any

import pytest
import sqlalchemy as sa

from tests.fixtures.control_plane import NOTHING, PROJECT, ControlPlane
from tests.fixtures.crashes import Crash, crashing
from tests.fixtures.restoring import CONTAINER, DIGEST, Backed, sent_restoration
from trove import states
from trove.common import crypto, exception
from trove.db import backups, log_archives, models, notifications, operations, restorations
from trove.rpc import payloads
from trove.taskmanager import archive_keeping, proof_watch
from trove.taskmanager.operations import engine, restore, verify_backup

Task = states.TaskStatus
State = states.OperationState
Status = states.ArchiveStatus


@pytest.fixture
def backed(plane: ControlPlane, tmp_path: pathlib.Path) -> Backed:
    # what nobody answers is waited for in steps of a clock's seconds
    for name in ("restart_timeout_s", "usage_timeout_s"):
        plane.conf.set_override(name, 20, group="taskmanager")
    plane.conf.set_override("timeout_s", 60, group="backup")
    plane.conf.set_override("archive_interval_s", 1.0, group="backup")
    return Backed(plane, tmp_path)


def later(backed: Backed, seconds: float) -> datetime.datetime:
    return backed.plane.clock.now() + datetime.timedelta(seconds=seconds)


def phases(backed: Backed) -> list[str]:
    """Return the phases of restorations that agents ran, in order."""
    return [job.payload["phase"] for job in backed.plane.guests.history if job.kind == "restore"]


# -- a new instance from a backup -----


def test_a_new_instance_is_made_from_a_chain_and_the_log_behind_it(backed: Backed) -> None:
    plane = backed.plane
    source = backed.make_active()
    epoch = backed.add_archive(source)
    full = backed.add_backup(source)
    increment = backed.add_backup(
        source,
        parent_id=full,
        kind=states.BackupKind.INCREMENT,
        archive_epoch=epoch,
        archive_sequence=3,
    )
    target = later(backed, 20)
    restoration = restorations.Restoration(
        chain=(full, increment), epoch=epoch, first=3, target_time=target.timestamp()
    )
    instance_id, operation_id = plane.create(restoration=restoration.to_data())
    runner = plane.runner()
    plane.settle(runner, until=lambda: plane.operation(operation_id).wake_on == "archive")
    # the log is not as old as is wanted yet
    backed.tell_archive(epoch, 5, later(backed, 0))
    plane.manual_clock.advance(2)
    for operation in plane.due():
        runner.drive(operation)
    assert plane.operation(operation_id).step == "await_archive"
    backed.tell_archive(epoch, 8, target)
    plane.settle(runner)
    assert plane.instance(instance_id).task is Task.NONE
    sent = sent_restoration(plane, "prepare")
    assert [each.backup_id for each in sent.chain] == [full, increment]
    assert [each.manifest_sha256 for each in sent.chain] == [DIGEST] * 2
    assert crypto.decode_key(sent.chain[0].key) == b"d" * 32
    assert sent.chain[1].storage.prefix == f"{source}/{increment}/"
    assert sent.chain[1].storage.container == CONTAINER
    assert sent.archive is not None
    assert (sent.archive.epoch, sent.archive.first, sent.archive.last) == (epoch, 3, 7)
    assert crypto.decode_key(sent.archive.key) == b"l" * 32
    assert sent.target_time == target.timestamp()
    # no key and no grant was ever in what is stored of the operation
    stored = str(plane.operation(operation_id).data)
    assert crypto.encode_key(b"d" * 32) not in stored
    assert "directory" not in stored


def test_a_time_that_the_log_does_not_reach_is_told_in_the_instance(backed: Backed) -> None:
    plane = backed.plane
    source = backed.make_active()
    epoch = backed.add_archive(source)
    backup_id = backed.add_backup(source, archive_epoch=epoch, archive_sequence=0)
    restoration = restorations.Restoration(
        chain=(backup_id,), epoch=epoch, target_time=later(backed, 5).timestamp()
    )
    instance_id, operation_id = plane.create(restoration=restoration.to_data())
    backed.tell_archive(epoch, 2, plane.clock.now())
    plane.settle(plane.runner())
    assert plane.operation(operation_id).state is State.FAILED
    assert plane.instance(instance_id).task.is_error
    assert "choose a time until then" in str(plane.instance(instance_id).fault_message)


def test_what_an_agent_finds_wrong_with_a_backup_is_told(backed: Backed) -> None:
    plane = backed.plane
    source = backed.make_active()
    backup_id = backed.add_backup(source)
    plane.guests.failing["prepare"] = "segment 00000003 of backup b is damaged"
    restoration = restorations.Restoration(chain=(backup_id,))
    instance_id, _ = plane.create(restoration=restoration.to_data())
    plane.settle(plane.runner())
    assert "segment 00000003" in str(plane.instance(instance_id).fault_message)
    plane.delete(source)
    plane.settle(plane.runner())
    assert plane.leftovers() == NOTHING


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"key_wrapped": b"x" * 60}, "key-encryption key"),
        ({"key_wrapped": None}, "not kept any more"),
        ({"storage_driver": "swift"}, "stored by swift"),
        ({"manifest_sha256": None}, "not complete"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_cannot_be_read_is_told(backed: Backed, changes: dict[str, Any], told: str) -> None:
    plane = backed.plane
    backup_id = backed.add_backup(backed.make_active(), **changes)
    instance_id, _ = plane.create(
        restoration=restorations.Restoration(chain=(backup_id,)).to_data()
    )
    plane.settle(plane.runner())
    assert told in str(plane.instance(instance_id).fault_message)


# -- in place -----


def begin_in_place(backed: Backed) -> tuple[str, str, str]:
    """Return an instance, its archive, and an operation that restores it in place."""
    instance_id = backed.make_active()
    epoch = backed.add_archive(instance_id)
    backup_id = backed.add_backup(instance_id, archive_epoch=epoch, archive_sequence=2)
    backed.tell_archive(epoch, 4, later(backed, 0))
    restoration = restorations.Restoration(
        chain=(backup_id,),
        epoch=epoch,
        first=2,
        target_time=backed.plane.clock.now().timestamp(),
    )
    return instance_id, epoch, backed.restore(instance_id, restoration)


def test_a_database_is_restored_in_place_and_its_archive_is_over(backed: Backed) -> None:
    plane = backed.plane
    instance_id, epoch, operation_id = begin_in_place(backed)
    plane.settle(plane.runner())
    assert plane.operation(operation_id).state is State.SUCCEEDED
    assert plane.instance(instance_id).task is Task.NONE
    assert phases(backed) == ["restore", "commit"]
    assert backed.archive(epoch).state is Status.CLOSED
    assert plane.guests.payloads["archive"].payload["archive"] is None


def test_what_cannot_be_restored_leaves_the_former_database(backed: Backed) -> None:
    plane = backed.plane
    plane.guests.refuse = lambda instance_id, job: (
        "the log has a gap: piece 3 is missing"
        if job.kind == "restore" and job.payload["phase"] == "restore"
        else None
    )
    instance_id, epoch, operation_id = begin_in_place(backed)
    plane.settle(plane.runner())
    instance = plane.instance(instance_id)
    assert plane.operation(operation_id).state is State.FAILED
    assert phases(backed) == ["restore", "revert"]
    assert instance.task is Task.NONE
    assert "piece 3 is missing" in str(instance.fault_message)
    assert "The database is the one from before." in str(instance.fault_message)
    assert backed.archive(epoch).state is Status.ACTIVE


def test_a_restored_database_that_does_not_answer_is_replaced_by_the_former(
    backed: Backed, monkeypatch: pytest.MonkeyPatch
) -> None:
    plane = backed.plane
    instance_id, _, operation_id = begin_in_place(backed)
    monkeypatch.setattr(
        plane.guests,
        "_heard",
        lambda session, instance_id, status: session.execute(
            sa.update(models.InstanceHeartbeat).values(
                service_status=states.ServiceStatus.CRASHED, received=plane.clock.now()
            )
        ),
    )
    plane.settle(plane.runner())
    assert plane.operation(operation_id).state is State.FAILED
    assert phases(backed) == ["restore", "revert"]
    assert "did not answer" in str(plane.instance(instance_id).fault_message)


def test_a_silent_agent_does_not_hold_an_instance_for_ever(backed: Backed) -> None:
    plane = backed.plane
    instance_id, _, operation_id = begin_in_place(backed)
    plane.guests.is_silent = True
    plane.settle(plane.runner())
    assert plane.operation(operation_id).state is State.FAILED
    assert plane.instance(instance_id).task is Task.NONE
    assert "not confirmed" in str(plane.instance(instance_id).fault_message)


@pytest.mark.parametrize("phase", ["restore", "commit", "revert"])
def test_an_agent_that_dies_in_a_restoration_is_started_again(
    backed: Backed, monkeypatch: pytest.MonkeyPatch, phase: str
) -> None:
    plane = backed.plane
    compute, deliver, died = plane.tools.drivers.compute, plane.guests.deliver, []

    def die(instance_id: str, job: payloads.Job) -> None:
        server = compute.find_server(instance_id)
        assert server is not None
        if job.kind == "restore" and job.payload["phase"] == phase and not died:
            died.append(job.job_id)
            compute.stop_server(server.id)
        elif server.status is states.ServerStatus.ACTIVE:
            deliver(instance_id, job)

    monkeypatch.setattr(plane.guests, "deliver", die)
    if phase == "revert":
        plane.guests.refuse = lambda instance_id, job: (
            "no" if job.kind == "restore" and job.payload["phase"] == "restore" else None
        )
    instance_id, _, operation_id = begin_in_place(backed)
    plane.settle(plane.runner())
    assert died
    assert phases(backed) == ["restore", "revert" if phase == "revert" else "commit"]
    is_restored = plane.operation(operation_id).state is State.SUCCEEDED
    assert is_restored == (phase != "revert")
    assert "not confirmed" not in str(plane.instance(instance_id).fault_message)


def crash_and_resume(
    plane: ControlPlane, flow: engine.Flow, step: str, *, before: bool, direction: str = "run"
) -> None:
    with pytest.raises(Crash):
        plane.settle(plane.runner(crashing(flow, step, direction=direction, before=before)))
    plane.manual_clock.advance(plane.conf.taskmanager.lease_s + 1)
    plane.settle(plane.runner())


POINTS = [pytest.param(True, id="before"), pytest.param(False, id="after")]


@pytest.mark.parametrize("before", POINTS)
@pytest.mark.parametrize("step", [step.name for step in restore.FLOW.steps])
def test_a_restoration_in_place_survives_a_crash(backed: Backed, step: str, before: bool) -> None:
    instance_id, epoch, operation_id = begin_in_place(backed)
    crash_and_resume(backed.plane, restore.FLOW, step, before=before)
    assert backed.plane.operation(operation_id).state is State.SUCCEEDED
    assert backed.plane.instance(instance_id).task is Task.NONE
    assert phases(backed) == ["restore", "commit"]
    assert backed.archive(epoch).state is Status.CLOSED


@pytest.mark.parametrize("before", POINTS)
@pytest.mark.parametrize("step", ["await_backup", "await_archive", "restore"])
def test_undoing_a_restoration_survives_a_crash(backed: Backed, step: str, before: bool) -> None:
    backed.plane.guests.refuse = lambda instance_id, job: (
        "no" if job.kind == "restore" and job.payload["phase"] == "restore" else None
    )
    instance_id, _, operation_id = begin_in_place(backed)
    crash_and_resume(backed.plane, restore.FLOW, step, before=before, direction="undo")
    assert backed.plane.operation(operation_id).state is State.FAILED
    assert backed.plane.instance(instance_id).task is Task.NONE
    assert phases(backed) == ["restore", "revert"]


def test_the_backup_before_is_waited_for(backed: Backed) -> None:
    plane = backed.plane
    instance_id = backed.make_active()
    restoration = restorations.Restoration(chain=(backed.add_backup(instance_id),))
    before = backed.add_backup(instance_id, status=states.BackupStatus.BUILDING)
    operation_id = backed.restore(instance_id, restoration, safety_backup_id=before)
    runner = plane.runner()
    runner.drive(operation_id)
    assert plane.operation(operation_id).wake_on == "backup-ended"
    with plane.database.writer() as session:
        session.execute(
            sa.update(models.Backup)
            .where(models.Backup.id == before)
            .values(status=states.BackupStatus.COMPLETED)
        )
    plane.settle(runner)
    assert plane.operation(operation_id).state is State.SUCCEEDED


def test_without_the_backup_before_nothing_is_restored(backed: Backed) -> None:
    plane = backed.plane
    instance_id = backed.make_active()
    restoration = restorations.Restoration(chain=(backed.add_backup(instance_id),))
    before = backed.add_backup(instance_id, status=states.BackupStatus.FAILED)
    with plane.database.writer() as session:
        backups.update(session, before, fault="The store is full.", now=plane.clock.now())
    backed.restore(instance_id, restoration, safety_backup_id=before)
    plane.settle(plane.runner())
    assert "restore" not in phases(backed)
    assert "The store is full." in str(plane.instance(instance_id).fault_message)
    assert plane.instance(instance_id).task is Task.NONE


# -- proofs -----


def test_a_proof_is_recorded_with_its_findings(backed: Backed) -> None:
    plane = backed.plane
    backup_id = backed.add_backup(backed.make_active())
    updated = backed.backup(backup_id).updated
    plane.guests.results["verify_backup"] = lambda job: {
        "findings": {"check": "mariadb-check", "objects": 12},
        "facts": {},
    }
    operation_id = backed.verify(backup_id)
    assert backed.backup(backup_id).verification is states.Verification.RUNNING
    plane.settle(plane.runner())
    found = backed.backup(backup_id)
    assert plane.operation(operation_id).state is State.SUCCEEDED
    assert found.verification is states.Verification.PASSED
    assert found.verified is not None
    assert found.verification_details["findings"] == {"check": "mariadb-check", "objects": 12}
    assert found.updated == updated
    assert [each.backup_id for each in sent_restoration(plane, "verify_backup").chain] == [
        backup_id
    ]


def test_a_proof_that_fails_is_recorded_and_told(backed: Backed) -> None:
    plane = backed.plane
    plane.database.notifies = True
    backup_id = backed.add_backup(backed.make_active())
    plane.guests.failing["verify_backup"] = "table a.b is corrupt"
    backed.verify(backup_id)
    plane.settle(plane.runner())
    found = backed.backup(backup_id)
    assert found.verification is states.Verification.FAILED
    assert "table a.b is corrupt" in found.verification_details["reason"]
    with plane.database.reader() as session:
        kinds = session.scalars(
            sa.select(models.Event.type).where(models.Event.resource_id == backup_id)
        ).all()
        (sent,) = session.execute(
            sa.select(models.Notification.priority, models.Notification.payload).where(
                models.Notification.event_type == verify_backup.DISPROVEN_NOTIFICATION
            )
        ).all()
    assert kinds == [verify_backup.DISPROVEN]
    assert sent.priority == notifications.ERROR
    assert (sent.payload["backup_id"], sent.payload["tenant_id"]) == (backup_id, PROJECT)
    assert "table a.b is corrupt" in sent.payload["message"]


def test_a_proof_that_nobody_gives_changes_nothing(backed: Backed) -> None:
    plane = backed.plane
    backup_id = backed.add_backup(backed.make_active())
    backed.verify(backup_id)
    plane.settle(plane.runner())
    assert backed.backup(backup_id).verification is states.Verification.PASSED
    plane.guests.is_silent = True
    operation_id = backed.verify(backup_id)
    plane.settle(plane.runner(), most_s=200_000, tick_s=60)
    assert plane.operation(operation_id).state is State.FAILED
    assert backed.backup(backup_id).verification is states.Verification.PASSED


def test_a_proof_that_finds_nothing_out_changes_nothing(backed: Backed) -> None:
    plane = backed.plane
    backup_id = backed.add_backup(backed.make_active())
    backed.verify(backup_id)
    plane.settle(plane.runner())
    plane.guests.failing["verify_backup"] = "the volume has 1 MiB left"
    plane.guests.codes["verify_backup"] = exception.NotProven.code
    operation_id = backed.verify(backup_id)
    plane.settle(plane.runner())
    assert plane.operation(operation_id).state is State.FAILED
    found = backed.backup(backup_id)
    assert found.verification is states.Verification.PASSED
    assert "1 MiB left" in found.verification_details["reason"]


def test_a_proof_gives_way_to_other_operations_and_begins_again(backed: Backed) -> None:
    plane = backed.plane
    instance_id = backed.make_active()
    backup_id = backed.add_backup(instance_id)
    restart_id = plane.restart(instance_id)
    operation_id = backed.verify(backup_id)
    runner = plane.runner()
    runner.drive(operation_id)
    assert "verify_backup" not in [kind for _, kind, _ in plane.guests.ran]
    plane.settle(runner)
    assert plane.operation(restart_id).state is State.SUCCEEDED
    assert backed.backup(backup_id).verification is states.Verification.PASSED
    # one that is under way is broken off
    cancelled: list[str] = []
    held: list[payloads.Job] = []
    plane.guests.cancel = cancelled.append
    deliver = plane.guests.deliver
    plane.guests.deliver = lambda each, job: (  # type: ignore[method-assign]
        held.append(job) if job.kind == "verify_backup" else deliver(each, job)
    )
    operation_id = backed.verify(backup_id)
    runner.drive(operation_id)
    (first,) = held
    restart_id = plane.restart(instance_id)
    plane.manual_clock.advance(6)
    runner.drive(operation_id)
    assert cancelled == [first.job_id]
    plane.guests.failing["verify_backup"] = "cancelled"
    deliver(instance_id, first)
    del plane.guests.failing["verify_backup"]
    plane.guests.deliver = deliver  # type: ignore[method-assign]
    plane.settle(runner)
    assert plane.operation(restart_id).state is State.SUCCEEDED
    assert plane.operation(operation_id).state is State.SUCCEEDED
    assert backed.backup(backup_id).verification is states.Verification.PASSED
    assert plane.guests.payloads["verify_backup"].job_id != first.job_id


@pytest.mark.parametrize("before", POINTS)
@pytest.mark.parametrize("step", [step.name for step in verify_backup.FLOW.steps])
def test_a_proof_survives_a_crash(backed: Backed, step: str, before: bool) -> None:
    backup_id = backed.add_backup(backed.make_active())
    operation_id = backed.verify(backup_id)
    crash_and_resume(backed.plane, verify_backup.FLOW, step, before=before)
    assert backed.plane.operation(operation_id).state is State.SUCCEEDED
    assert backed.backup(backup_id).verification is states.Verification.PASSED


# -- what is kept of archives -----


def keep(backed: Backed) -> None:
    """Do what is due of archives, and run what follows from it."""
    keeping = archive_keeping.ArchiveKeeping(backed.plane.tools, hint=lambda ids: None)
    keeping.run()
    backed.plane.settle(backed.plane.runner())


def test_pieces_that_no_backup_needs_are_removed(backed: Backed) -> None:
    instance_id = backed.make_active()
    epoch = backed.add_archive(instance_id)
    backed.put_pieces(epoch, 0, 6)
    backed.tell_archive(epoch, 7, later(backed, 0))
    oldest = backed.add_backup(instance_id, archive_epoch=epoch, archive_sequence=1)
    backed.add_backup(instance_id, archive_epoch=epoch, archive_sequence=5)
    keep(backed)
    assert backed.list_pieces(epoch) == [f"{n:012d}" for n in range(1, 7)]
    delete_backup(backed, oldest)
    keep(backed)
    assert backed.list_pieces(epoch) == [f"{n:012d}" for n in (5, 6)]
    assert backed.archive(epoch).first_sequence == 5
    assert backed.archive(epoch).state is Status.ACTIVE


def delete_backup(backed: Backed, backup_id: str) -> None:
    with backed.plane.database.writer() as session:
        assert backups.mark_deleted(session, backup_id, now=backed.plane.clock.now())


def test_only_so_many_objects_go_in_one_run(
    backed: Backed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive_keeping, "MOST_OBJECTS", 3)
    instance_id = backed.make_active()
    epoch = backed.add_archive(instance_id)
    backed.put_pieces(epoch, 0, 6)
    backed.add_backup(instance_id, archive_epoch=epoch, archive_sequence=5)
    keep(backed)
    # the counter follows the objects
    assert backed.list_pieces(epoch) == [f"{n:012d}" for n in range(2, 7)]
    assert backed.archive(epoch).first_sequence == 0
    keep(backed)
    keep(backed)
    assert backed.archive(epoch).first_sequence == 5


def test_with_the_last_backup_the_archive_ends_and_goes(backed: Backed) -> None:
    plane = backed.plane
    instance_id = backed.make_active()
    epoch = backed.add_archive(instance_id)
    backed.put_pieces(epoch, 0, 2)
    backup_id = backed.add_backup(instance_id, archive_epoch=epoch, archive_sequence=0)
    keep(backed)
    assert backed.archive(epoch).state is Status.ACTIVE
    delete_backup(backed, backup_id)
    keep(backed)
    assert plane.guests.payloads["archive"].payload["archive"] is None
    assert backed.archive(epoch).state is Status.CLOSED
    keep(backed)
    with plane.database.reader() as session:
        assert log_archives.find(session, epoch) is None
    assert backed.account.list(CONTAINER) == []


def test_an_archive_waits_for_the_backup_that_is_being_made(backed: Backed) -> None:
    instance_id = backed.make_active()
    epoch = backed.add_archive(instance_id)
    backed.add_backup(instance_id, status=states.BackupStatus.BUILDING)
    keep(backed)
    assert backed.archive(epoch).state is Status.ACTIVE
    assert "archive" not in [kind for _, kind, _ in backed.plane.guests.ran]


def test_what_is_being_restored_from_stays(backed: Backed) -> None:
    instance_id = backed.make_active()
    epoch = backed.add_archive(instance_id)
    backed.put_pieces(epoch, 0, 4)
    backup_id = backed.add_backup(instance_id, archive_epoch=epoch, archive_sequence=1)
    backed.add_backup(instance_id, archive_epoch=epoch, archive_sequence=4)
    backed.tell_archive(epoch, 5, later(backed, 0))
    restoration = restorations.Restoration(chain=(backup_id,), epoch=epoch, first=1)
    backed.plane.create(restoration=restoration.to_data())
    delete_backup(backed, backup_id)
    keeping = archive_keeping.ArchiveKeeping(backed.plane.tools, hint=lambda ids: None)
    keeping.run()
    assert backed.list_pieces(epoch)[0] == f"{1:012d}"
    with backed.plane.database.writer() as session:
        assert restorations.list_readers(session, [backup_id])
        session.execute(sa.update(models.Operation).values(state=State.FAILED, lock_key=None))
        assert not restorations.list_readers(session, [backup_id])
    keeping.run()
    assert backed.list_pieces(epoch) == [f"{4:012d}"]


def test_deleting_an_instance_keeps_what_its_backups_need(backed: Backed) -> None:
    plane = backed.plane
    instance_id = backed.make_active()
    epoch = backed.add_archive(instance_id)
    backed.put_pieces(epoch, 0, 3)
    backup_id = backed.add_backup(instance_id, archive_epoch=epoch, archive_sequence=2)
    plane.delete(instance_id)
    plane.settle(plane.runner())
    assert backed.archive(epoch).state is Status.CLOSED
    keep(backed)
    assert backed.list_pieces(epoch) == [f"{n:012d}" for n in (2, 3)]
    delete_backup(backed, backup_id)
    keep(backed)
    assert backed.account.list(CONTAINER) == []


def test_an_agent_that_does_not_answer_keeps_its_archive_for_now(backed: Backed) -> None:
    plane = backed.plane
    instance_id = backed.make_active()
    epoch = backed.add_archive(instance_id)
    plane.guests.is_silent = True
    keep(backed)
    assert backed.archive(epoch).state is Status.ACTIVE
    with plane.database.reader() as session:
        (operation,) = operations.list_operations(session, kind=operations.STOP_ARCHIVE)
    assert operation.state is State.FAILED


def test_an_archive_that_lags_is_told(backed: Backed) -> None:
    instance_id = backed.make_active()
    epoch = backed.add_archive(instance_id)
    backed.add_backup(instance_id, archive_epoch=epoch, archive_sequence=0)
    backed.tell_archive(epoch, 1, later(backed, 0))
    keep(backed)
    backed.plane.manual_clock.advance(3 * backed.plane.conf.backup.archive_interval_s + 1)
    keep(backed)
    keep(backed)
    assert backed.archive(epoch).is_late
    with backed.plane.database.reader() as session:
        kinds = session.scalars(
            sa.select(models.Event.type).where(models.Event.resource_id == instance_id)
        ).all()
    assert kinds.count(log_archives.LATE) == 1


def test_a_database_whose_backups_are_not_proven_is_told_of_once(backed: Backed) -> None:
    plane = backed.plane
    plane.database.notifies = True
    instance_id = backed.make_active()
    backed.add_backup(instance_id)
    other = backed.make_active()
    proven = backed.add_backup(other)
    plane.manual_clock.advance(8 * 86400)
    backed.verify(proven)
    plane.settle(plane.runner())
    watch = proof_watch.ProofWatch(plane.tools)
    for _ in range(3):
        watch.run()
        plane.manual_clock.advance(3601)
    with plane.database.reader() as session:
        told = session.scalars(
            sa.select(models.Event.resource_id).where(models.Event.type == proof_watch.STALE)
        ).all()
        notified = session.scalars(
            sa.select(models.Notification.payload).where(
                models.Notification.event_type == proof_watch.STALE_NOTIFICATION
            )
        ).all()
    assert told == [instance_id]
    assert [each["instance_id"] for each in notified] == [instance_id]
