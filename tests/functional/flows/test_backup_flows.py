"""Backups are made, checked, cancelled and deleted; whoever dies in between loses nothing."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from tests.fixtures import backups as agent
from tests.fixtures.control_plane import PROJECT, ControlPlane
from tests.fixtures.crashes import Crash, crashing
from trove import states
from trove.common import context, exception
from trove.datastores import spec
from trove.db import backups, base, instances, models, operations, quotas, restorations
from trove.rpc import payloads
from trove.services.backups import Backups, NewBackup
from trove.storage import base as storage
from trove.storage import filesystem, manifests, stored_backups
from trove.taskmanager.operations import create_backup, delete_backup, engine

Status = states.BackupStatus
State = states.OperationState
CONTAINER = "database_backups"
#: Before a step acts, and after it did but nobody knows.
POINTS = (True, False)
CALLER = context.RequestContext(project_id=PROJECT, user_id="user", overwrite=False)


class FlakyStore(filesystem.FilesystemStore):
    """Fails as often as a test says."""

    failures = 0

    def account(self, project_id: str, **options: Any) -> storage.Account:
        """Return an account, or fail."""
        if self.failures > 0:
            self.failures -= 1
            raise storage.StorageError(reason="it answered 503")
        return super().account(project_id, **options)


@dataclasses.dataclass(kw_only=True)
class Setup:
    """A control plane with an instance and an object store."""

    plane: ControlPlane
    store: FlakyStore
    service: Backups
    instance_id: str
    cancelled: list[str]

    def make(self, **asked: Any) -> str:
        """Accept a backup; return its id."""
        # the newest is told by the time
        self.plane.manual_clock.advance(1)
        new = NewBackup(**{"name": "b", "instance_id": self.instance_id, **asked})
        return self.service.create(CALLER, new).id

    def made(self, **asked: Any) -> str:
        """Have a backup made; return its id."""
        backup_id = self.make(**asked)
        self.plane.settle(self.plane.runner())
        assert self.get(backup_id).status is Status.COMPLETED, self.get(backup_id).fault
        return backup_id

    def find(self, backup_id: str) -> backups.BackupView | None:
        """Return a backup that is not deleted."""
        with self.plane.database.reader() as session:
            return backups.find(session, backup_id)

    def get(self, backup_id: str) -> backups.BackupView:
        """Return a backup that is there."""
        found = self.find(backup_id)
        assert found is not None
        return found

    def objects(self, backup_id: str | None = None, account: str = PROJECT) -> list[str]:
        """Return the names of the objects of a backup, or of all."""
        prefix = stored_backups.make_prefix(self.instance_id, backup_id) if backup_id else ""
        listed = filesystem.FilesystemStore.account(self.store, account).list(
            CONTAINER, prefix=prefix
        )
        return [each.name for each in listed]

    def crash(self, flow: engine.Flow, step: str, *, before: bool, direction: str = "run") -> None:
        """Have a runner die at a step; another goes on when the lease ran out."""
        with pytest.raises(Crash):
            self.plane.settle(
                self.plane.runner(crashing(flow, step, direction=direction, before=before))
            )
        self.plane.manual_clock.advance(self.plane.conf.taskmanager.lease_s + 1)
        self.plane.settle(self.plane.runner())

    def ran(self) -> int:
        """Return how many backup jobs agents ran."""
        return sum(kind == payloads.BackupJob.KIND for _, kind, _ in self.plane.guests.ran)

    def is_backing_up(self) -> bool:
        """Tell whether the instance says so."""
        return self.plane.instance(self.instance_id).running_backup_id is not None


@pytest.fixture
def setup(
    sqlite_database: base.Database, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> Setup:
    return make_setup(sqlite_database, tmp_path, monkeypatch)


def make_setup(
    database: base.Database, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> Setup:
    registry = spec.registry()
    able = registry["mariadb"].capabilities | {spec.Capability.BACKUP, spec.Capability.INCREMENTS}
    monkeypatch.setitem(
        registry,  # type: ignore[arg-type]
        "mariadb",
        dataclasses.replace(registry["mariadb"], capabilities=able),
    )
    store = FlakyStore(tmp_path / "objects")
    plane = ControlPlane(database, store=store)
    plane.conf.set_override("point_in_time", False, group="backup")
    plane.conf.set_override("verify", "none", group="backup")
    plane.guests.results[payloads.BackupJob.KIND] = agent.run
    cancelled: list[str] = []

    def cancel(job_id: str) -> None:
        if not plane.guests.is_silent:
            cancelled.append(job_id)
            agent.end_cancelled(database, job_id, now=plane.clock.now())

    plane.guests.cancel = cancel
    instance_id, _ = plane.create()
    plane.settle(plane.runner())
    service = plane.backups()
    return Setup(
        plane=plane,
        store=store,
        service=service,
        instance_id=instance_id,
        cancelled=cancelled,
    )


def steps_of(flow: engine.Flow) -> list[str]:
    return [step.name for step in flow.steps]


# -- made -----


def test_a_backup_counts_once_what_is_stored_was_looked_at(
    database: base.Database, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = make_setup(database, tmp_path, monkeypatch)
    backup_id = setup.make(name="first", description="mine")
    assert setup.is_backing_up()
    assert setup.get(backup_id).status is Status.NEW
    setup.plane.settle(setup.plane.runner())
    backup = setup.get(backup_id)
    assert backup.status is Status.COMPLETED
    assert not setup.is_backing_up()
    assert backup.stored_bytes == sum(map(len, agent.SEGMENTS))
    assert backup.data_bytes == 1 << 30
    assert backup.engine_version == "10.11.6"
    assert backup.facts == {"gtid": "0-1-7"}
    assert backup.began == agent.BEGAN
    assert backup.account_id == PROJECT
    assert backup.location == (
        f"filesystem://{PROJECT}/{CONTAINER}/{setup.instance_id}/{backup_id}/manifest.json"
    )
    assert len(setup.objects(backup_id)) == 3
    assert setup.plane.usage()[quotas.BACKUPS] == 1
    # the manifest tells it all, to whoever has the operator's key
    account = setup.store.account(PROJECT)
    manifest = stored_backups.read_manifest(account, CONTAINER, str(backup.prefix))
    stored_backups.open_key(manifest, setup.plane.key_ring)
    assert manifest.sha256 == backup.manifest_sha256
    assert manifest.about["name"] == "first"
    assert manifest.about["project_id"] == PROJECT


def test_a_backup_goes_to_the_services_account_where_configured(setup: Setup) -> None:
    setup.plane.conf.set_override("account", "service", group="backup")
    backup_id = setup.made()
    project = setup.store.service_project()
    assert setup.get(backup_id).account_id == project
    assert setup.objects(account=PROJECT) == []
    assert len(setup.objects(account=project)) == 3


def test_an_increment_is_made_of_its_parent(setup: Setup) -> None:
    full = setup.made()
    increment = setup.made(parent_id=full)
    implicit = setup.made(is_incremental=True)
    assert setup.get(increment).kind is states.BackupKind.INCREMENT
    assert setup.get(implicit).parent_id == increment
    job = payloads.BackupJob.from_wire(setup.plane.guests.payloads["backup"].payload)
    assert job.parent is not None
    assert job.parent.backup_id == increment
    assert job.parent.manifest_sha256 == setup.get(increment).manifest_sha256
    assert job.key != job.parent.key


def test_the_status_follows_the_agent(setup: Setup) -> None:
    setup.plane.guests.endless.add("backup")
    backup_id = setup.make()
    runner = setup.plane.runner()
    setup.plane.settle(runner, until=lambda: setup.get(backup_id).status is Status.BUILDING)
    (operation,) = setup.plane.active()
    with setup.plane.database.writer() as session:
        session.execute(
            sa.update(models.InstanceHeartbeat).values(
                job_id=setup.plane.guests.ran[-1][2],
                job_progress_percent=5,
                job_done_bytes=50,
                job_total_bytes=1000,
            )
        )
    setup.plane.settle(runner, until=lambda: setup.get(backup_id).status is Status.SAVING)
    progress = setup.service.find_progress(setup.get(backup_id))
    assert progress is not None
    assert (progress.percent, progress.done_bytes, progress.total_bytes) == (5, 50, 1000)
    assert operation.step == "run_backup"


# -- failed -----


def _damage(wanted: Callable[[storage.Account, str], None]) -> Callable[[payloads.Job], Any]:
    def run(job: payloads.Job) -> dict[str, Any]:
        result = agent.run(job)
        asked = payloads.BackupJob.from_wire(job.payload).storage
        account = filesystem.FilesystemStore.open_grant(asked.grant)
        wanted(account, asked.prefix)
        return result

    return run


def _segments(account: storage.Account, prefix: str) -> list[str]:
    names = [each.name for each in account.list(CONTAINER, prefix=prefix)]
    return [name for name in names if not name.endswith(manifests.MANIFEST_NAME)]


def _lose_segment(account: storage.Account, prefix: str) -> None:
    account.delete(CONTAINER, _segments(account, prefix)[-1])


def _cut_segment(account: storage.Account, prefix: str) -> None:
    account.put(CONTAINER, _segments(account, prefix)[0], [b"cut"])


def _lose_manifest(account: storage.Account, prefix: str) -> None:
    account.delete(CONTAINER, prefix + manifests.MANIFEST_NAME)


def _other_manifest(account: storage.Account, prefix: str) -> None:
    _, file = account.open(CONTAINER, prefix + manifests.MANIFEST_NAME)
    with file:
        content = file.read().replace(b"10.11.6", b"10.11.7")
    account.put(CONTAINER, prefix + manifests.MANIFEST_NAME, [content])


def test_what_is_not_stored_as_told_is_no_backup(setup: Setup) -> None:
    runs: list[tuple[Callable[[payloads.Job], Any], str]] = [
        (_damage(_lose_segment), "is missing"),
        (_damage(_cut_segment), "bytes instead of"),
        (_damage(_lose_manifest), "cannot be found"),
        (_damage(_other_manifest), "manifest of the backup is refused"),
        (lambda job: agent.run(job, manager="mysql"), "that of another backup"),
        (lambda job: {**agent.run(job), "manifest_sha256": "0" * 64}, "not the one that"),
    ]
    for run, reason in runs:
        setup.plane.guests.results["backup"] = run
        backup_id = setup.make()
        setup.plane.settle(setup.plane.runner())
        backup = setup.get(backup_id)
        assert backup.status is Status.FAILED
        assert reason in str(backup.fault)
        assert setup.objects() == []
        assert not setup.is_backing_up()


def test_a_backup_that_its_agent_cannot_make_has_failed_with_the_reason(setup: Setup) -> None:
    setup.plane.guests.failing["backup"] = "mariabackup ended with 1"
    backup_id = setup.make()
    setup.plane.settle(setup.plane.runner())
    assert setup.get(backup_id).status is Status.FAILED
    assert "mariabackup ended with 1" in str(setup.get(backup_id).fault)
    # it counts until it is deleted
    assert setup.plane.usage()[quotas.BACKUPS] == 1
    setup.service.delete(CALLER, backup_id)
    setup.plane.settle(setup.plane.runner())
    assert setup.plane.usage()[quotas.BACKUPS] == 0


def test_objects_of_other_attempts_are_removed(setup: Setup) -> None:
    def run_twice(job: payloads.Job) -> dict[str, Any]:
        agent.run(job)
        return agent.run(job)

    setup.plane.guests.results["backup"] = run_twice
    backup_id = setup.made()
    assert len(setup.objects(backup_id)) == 3


def test_a_storage_that_fails_for_a_while_is_waited_for(setup: Setup) -> None:
    setup.store.failures = 3
    setup.made()


# -- cancelled -----


def test_a_running_backup_is_deleted_only_with_force(setup: Setup) -> None:
    setup.plane.guests.endless.add("backup")
    backup_id = setup.make()
    runner = setup.plane.runner()
    setup.plane.settle(runner, until=lambda: setup.ran() == 1)
    with pytest.raises(Exception, match="because it is running"):
        setup.service.delete(CALLER, backup_id)
    assert not setup.get(backup_id).is_deleting
    setup.service.delete(CALLER, backup_id, is_forced=True)
    setup.service.delete(CALLER, backup_id)
    setup.plane.settle(setup.plane.runner())
    assert setup.find(backup_id) is None
    assert setup.cancelled == [setup.plane.guests.ran[-1][2]]
    assert setup.objects() == []
    assert not setup.is_backing_up()
    assert setup.plane.usage()[quotas.BACKUPS] == 0


def test_an_agent_that_says_nothing_does_not_hold_up_a_cancellation(setup: Setup) -> None:
    setup.plane.guests.is_silent = True
    backup_id = setup.make()
    runner = setup.plane.runner()
    setup.plane.settle(runner, until=lambda: bool(setup.plane.guests.sent), most_s=60)
    setup.service.delete(CALLER, backup_id, is_forced=True)
    setup.plane.settle(runner, most_s=120)
    assert setup.find(backup_id) is None


def test_the_deletion_of_the_instance_ends_its_backup(setup: Setup) -> None:
    kept = setup.made()
    setup.plane.guests.endless.add("backup")
    backup_id = setup.make()
    setup.plane.settle(setup.plane.runner(), until=lambda: setup.ran() == 2)
    job = setup.plane.guests.payloads["backup"]
    _segment_of(setup, job)
    setup.plane.delete(setup.instance_id)
    setup.plane.settle(setup.plane.runner())
    assert setup.plane.instance(setup.instance_id).is_deleted
    assert setup.get(backup_id).status is Status.FAILED
    assert "deleted" in str(setup.get(backup_id).fault)
    assert setup.objects(backup_id) == []
    # the others outlive it
    assert setup.get(kept).status is Status.COMPLETED
    assert len(setup.objects(kept)) == 3


def _segment_of(setup: Setup, job: payloads.Job) -> None:
    """Store a segment of a backup that goes on."""
    asked = payloads.BackupJob.from_wire(job.payload).storage
    account = filesystem.FilesystemStore.open_grant(asked.grant)
    account.put(CONTAINER, f"{asked.prefix}{'a' * 16}/00000000", [b"x"])
    assert setup.objects()


def test_a_reset_fails_the_running_backup_and_removes_what_is_stored(setup: Setup) -> None:
    setup.plane.guests.endless.add("backup")
    backup_id = setup.make()
    runner = setup.plane.runner()
    setup.plane.settle(runner, until=lambda: setup.ran() == 1)
    _segment_of(setup, setup.plane.guests.payloads["backup"])
    with setup.plane.database.writer() as session:
        now = setup.plane.clock.now()
        backups.fail_running(session, setup.instance_id, reason="reset", now=now)
        operations.request_cancel(
            session, mode=operations.UNDO, resource_id=setup.instance_id, now=now
        )
    assert not setup.is_backing_up()
    setup.plane.settle(runner)
    assert setup.get(backup_id).status is Status.FAILED
    assert setup.objects() == []


# -- deleted -----


def test_increments_go_before_what_they_are_of(setup: Setup) -> None:
    full = setup.made()
    first = setup.made(parent_id=full)
    second = setup.made(parent_id=first)
    other = setup.made()
    setup.service.delete(CALLER, full)
    setup.plane.settle(setup.plane.runner())
    for backup_id in (full, first, second):
        assert setup.find(backup_id) is None
        assert setup.objects(backup_id) == []
    assert setup.get(other).status is Status.COMPLETED
    assert setup.plane.usage()[quotas.BACKUPS] == 1


def test_a_deletion_that_the_storage_refuses_is_told_and_can_be_tried_again(setup: Setup) -> None:
    full = setup.made()
    increment = setup.made(parent_id=full)
    setup.store.failures = 10**6
    setup.service.delete(CALLER, full)
    setup.plane.settle(setup.plane.runner())
    for backup_id in (full, increment):
        assert setup.get(backup_id).status is Status.DELETE_FAILED
        assert "it answered 503" in str(setup.get(backup_id).fault)
    assert setup.plane.usage()[quotas.BACKUPS] == 2
    setup.store.failures = 0
    setup.service.delete(CALLER, full)
    setup.plane.settle(setup.plane.runner())
    assert setup.find(full) is setup.find(increment) is None
    assert setup.objects() == []


def test_a_deletion_breaks_a_proof_off(setup: Setup) -> None:
    setup.plane.conf.set_override("verify", "all", group="backup")
    setup.plane.guests.endless.add(payloads.VerifyBackupJob.KIND)
    backup_id = setup.make()
    runner = setup.plane.runner()
    kinds = {payloads.VerifyBackupJob.KIND}
    setup.plane.settle(
        runner, until=lambda: any(kind in kinds for _, kind, _ in setup.plane.guests.ran)
    )
    setup.service.delete(CALLER, backup_id)
    setup.plane.settle(runner)
    assert setup.find(backup_id) is None
    assert setup.cancelled == [setup.plane.guests.ran[-1][2]]
    assert setup.objects() == []


def test_what_is_being_restored_from_is_not_deleted(setup: Setup) -> None:
    backup_id = setup.made()
    now = setup.plane.clock.now()
    with setup.plane.database.writer() as session:
        restoring = operations.create(
            session,
            kind=operations.CREATE_INSTANCE,
            resource_id=models.new_id(),
            lock_key=None,
            deadline=now,
            now=now,
            project_id=PROJECT,
            data={restorations.KEY: restorations.Restoration(chain=(backup_id,)).to_data()},
        )
    for is_forced in (False, True):
        with pytest.raises(exception.UnprocessableEntity, match="restored from it"):
            setup.service.delete(CALLER, backup_id, is_forced=is_forced)
    assert not setup.get(backup_id).is_deleting
    with setup.plane.database.writer() as session:
        session.execute(
            sa.update(models.Operation)
            .where(models.Operation.id == restoring)
            .values(state=State.SUCCEEDED)
        )
    setup.service.delete(CALLER, backup_id)


def test_what_is_done_with_backups_is_told(setup: Setup) -> None:
    setup.plane.database.notifies = True
    backup_id = setup.made(name="n", description="d")
    setup.plane.guests.failing["backup"] = "no"
    setup.make(name="m")
    setup.plane.settle(setup.plane.runner())
    setup.service.delete(CALLER, backup_id)
    setup.plane.settle(setup.plane.runner())
    with setup.plane.database.reader() as session:
        told = session.scalars(
            sa.select(models.Notification).order_by(models.Notification.id)
        ).all()
    by_type = {each.event_type: each.payload for each in told if "backup" in each.event_type}
    assert set(by_type) == {
        "dbaas.backup_create.start",
        "dbaas.backup_create.end",
        "dbaas.backup_create.error",
        "dbaas.backup_delete.start",
        "dbaas.backup_delete.end",
    }
    assert by_type["dbaas.backup_create.start"].items() >= {
        ("name", "m"),
        ("instance_id", setup.instance_id),
        ("parent_id", None),
    }
    assert by_type["dbaas.backup_create.end"]["backup_id"] == backup_id
    assert "no" in by_type["dbaas.backup_create.error"]["message"]
    assert by_type["dbaas.backup_delete.start"]["backup_id"] == backup_id
    usage = [each.payload["usage"]["backups"] for each in told if each.event_type == "dbaas.quota"]
    assert usage[0] == 1
    assert usage[-1] == 1


# -- whoever dies -----


@pytest.mark.parametrize("step", steps_of(create_backup.FLOW))
def test_making_a_backup_survives_a_crash(setup: Setup, step: str) -> None:
    for number, is_before in enumerate(POINTS, 1):
        backup_id = setup.make()
        setup.crash(create_backup.FLOW, step, before=is_before)
        assert setup.get(backup_id).status is Status.COMPLETED
        assert len(setup.objects(backup_id)) == 3
        assert setup.ran() == number
        assert not setup.is_backing_up()


@pytest.mark.parametrize("step", ["run_backup", "choose_place"])
def test_giving_a_backup_up_survives_a_crash(setup: Setup, step: str) -> None:
    setup.plane.guests.failing["backup"] = "no"
    for is_before in POINTS:
        backup_id = setup.make()
        setup.crash(create_backup.FLOW, step, before=is_before, direction="undo")
        assert setup.get(backup_id).status is Status.FAILED
        assert setup.objects() == []


@pytest.mark.parametrize("step", steps_of(delete_backup.FLOW))
def test_deleting_a_backup_survives_a_crash(setup: Setup, step: str) -> None:
    for is_before in POINTS:
        full = setup.made()
        setup.made(parent_id=full)
        setup.service.delete(CALLER, full)
        setup.crash(delete_backup.FLOW, step, before=is_before)
        assert setup.find(full) is None
        assert setup.objects() == []
        assert setup.plane.usage()[quotas.BACKUPS] == 0


def test_two_task_managers_make_one_backup(setup: Setup) -> None:
    backup_id = setup.make()
    first, second = setup.plane.runner(), setup.plane.runner()
    (operation,) = setup.plane.active()
    while setup.plane.active():
        for runner in (first, second):
            runner.drive(operation.id)
        setup.plane.manual_clock.advance(1)
    assert setup.get(backup_id).status is Status.COMPLETED
    assert setup.ran() == 1
    with setup.plane.database.reader() as session:
        assert instances.get_instance(session, setup.instance_id).running_backup_id is None
