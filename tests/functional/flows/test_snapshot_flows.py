"""Snapshots of volumes: trusted only if the engine stood still, whoever dies in between."""

from __future__ import annotations

import dataclasses
import datetime
from typing import Any

import pytest

from tests.fixtures.control_plane import NOTHING, PROJECT, ControlPlane
from tests.fixtures.crashes import Crash, crashing
from tests.fixtures.database import new_backup
from trove import states
from trove.common import context, exception
from trove.db import backups, base, quotas, restorations
from trove.rpc import payloads
from trove.services.backups import Backups, NewBackup
from trove.taskmanager import scheduler
from trove.taskmanager.operations import delete_backup, engine, snapshot_backup

Status = states.BackupStatus
State = states.OperationState
POINTS = (True, False)
CALLER = context.RequestContext(project_id=PROJECT, user_id="user", overwrite=False)
LATE = "it went on by itself after 60 s"


class Freezer:
    """The part of an agent that has an engine stand still, by the clock of a test."""

    def __init__(self, plane: ControlPlane) -> None:
        self._clock = plane.manual_clock
        #: What it answered, in order.
        self.said: list[bool | str] = []
        self._id: str | None = None
        self._until = 0.0
        self._outcomes: dict[str, payloads.Thawed] = {}
        plane.guests.calls |= {"freeze": self.freeze, "thaw": self.thaw}

    @property
    def is_frozen(self) -> bool:
        """Tell whether the engine stands still."""
        return self._id is not None and self._clock.monotonic() < self._until

    def freeze(self, request: payloads.Freeze) -> payloads.Payload:
        """Have it stand still."""
        if not (self.is_frozen and self._id == request.freeze_id):
            self._id = request.freeze_id
            self._until = self._clock.monotonic() + request.timeout_s
            self._outcomes.pop(request.freeze_id, None)
        self.said.append("frozen")
        return payloads.Frozen(
            engine_version="10.11.6",
            data_bytes=1 << 20,
            at_s=self._clock.now().timestamp(),
            facts={"gtid": "0-1-7"},
        )

    def thaw(self, request: payloads.Thaw) -> payloads.Payload:
        """Have it go on."""
        if self._id == request.freeze_id:
            outcome = payloads.Thawed(was_frozen=True)
            if not self.is_frozen:
                outcome = payloads.Thawed(was_frozen=False, reason=LATE)
            self._outcomes[request.freeze_id] = outcome
            self._id = None
        answer = self._outcomes.get(request.freeze_id, payloads.Thawed(was_frozen=False))
        self.said.append(answer.was_frozen)
        return answer


@dataclasses.dataclass(kw_only=True)
class Setup:
    """A control plane with an instance, and no object store."""

    plane: ControlPlane
    freezer: Freezer
    service: Backups
    instance_id: str

    def make(self, **asked: Any) -> str:
        new = {"name": "b", "instance_id": self.instance_id, "storage_driver": "cinder", **asked}
        return self.service.create(CALLER, NewBackup(**new)).id

    def made(self) -> str:
        backup_id = self.make()
        self.settle()
        assert self.get(backup_id).status is Status.COMPLETED, self.get(backup_id).fault
        return backup_id

    def settle(self) -> None:
        self.plane.settle(self.plane.runner())

    def find(self, backup_id: str) -> backups.BackupView | None:
        with self.plane.database.reader() as session:
            return backups.find(session, backup_id)

    def get(self, backup_id: str) -> backups.BackupView:
        found = self.find(backup_id)
        assert found is not None
        return found

    def delete(self, backup_id: str) -> None:
        self.service.delete(CALLER, backup_id, is_forced=True)

    def die(
        self, flow: engine.Flow, step: str, *, before: bool, direction: str = "run", s: float = 0
    ) -> None:
        """Have a runner die at a step; another goes on when the lease ran out, or later."""
        with pytest.raises(Crash):
            self.plane.settle(
                self.plane.runner(crashing(flow, step, direction=direction, before=before))
            )
        self.plane.manual_clock.advance(max(s, self.plane.conf.taskmanager.lease_s + 1))
        self.settle()


@pytest.fixture
def setup(sqlite_database: base.Database) -> Setup:
    plane = ControlPlane(sqlite_database)
    # longer than a lease: who takes over comes in time
    plane.conf.set_override("freeze_timeout_s", 60.0, group="backup")
    plane.conf.set_override("lease_s", 20, group="taskmanager")
    plane.conf.set_override("verify", "none", group="backup")
    instance_id, _ = plane.create()
    plane.settle(plane.runner())
    service = plane.backups(volumes=plane.volume)
    return Setup(plane=plane, freezer=Freezer(plane), service=service, instance_id=instance_id)


def steps_of(flow: engine.Flow) -> list[str]:
    return [step.name for step in flow.steps]


def test_a_snapshot_is_made_while_the_engine_stands_still(setup: Setup) -> None:
    plane = setup.plane
    frozen: list[bool] = []
    original = plane.volume.create_snapshot

    def create_snapshot(**values: Any) -> Any:
        frozen.append(setup.freezer.is_frozen)
        return original(**values)

    plane.volume.create_snapshot = create_snapshot  # type: ignore[method-assign]
    backup_id = setup.make(description="mine")
    assert plane.instance(setup.instance_id).running_backup_id == backup_id
    setup.settle()
    backup = setup.get(backup_id)
    assert frozen == [True]
    assert setup.freezer.said == ["frozen", True]
    assert backup.status is Status.COMPLETED
    (snapshot,) = plane.volume.snapshots
    assert backup.location == snapshot.id
    assert (backup.kind, backup.storage_driver) == (states.BackupKind.SNAPSHOT, "cinder")
    assert (backup.engine_version, backup.data_bytes) == ("10.11.6", 1 << 20)
    assert (backup.volume_size_gib, backup.stored_bytes) == (1, None)
    assert backup.facts == {"gtid": "0-1-7"}
    assert backup.completed is not None
    assert backup.completed <= plane.clock.now()
    assert (backup.key_wrapped, backup.container, backup.verification) == (None, None, None)
    assert plane.instance(setup.instance_id).running_backup_id is None
    assert plane.usage()[quotas.BACKUPS] == 1


@pytest.mark.parametrize("before", POINTS)
@pytest.mark.parametrize("step", steps_of(snapshot_backup.FLOW))
def test_a_runner_that_dies_costs_nothing_if_another_comes_in_time(
    setup: Setup, step: str, before: bool
) -> None:
    backup_id = setup.make()
    setup.die(snapshot_backup.FLOW, step, before=before)
    assert setup.get(backup_id).status is Status.COMPLETED, setup.get(backup_id).fault
    assert len(setup.plane.volume.snapshots) == 1
    assert not setup.freezer.is_frozen


@pytest.mark.parametrize(
    ("step", "before"), [("make_snapshot", True), ("make_snapshot", False), ("thaw", True)]
)
def test_nothing_is_trusted_that_was_made_after_the_watchdog(
    setup: Setup, step: str, before: bool
) -> None:
    backup_id = setup.make()
    setup.die(snapshot_backup.FLOW, step, before=before, s=100)
    backup = setup.get(backup_id)
    assert backup.status is Status.FAILED
    assert f"while the database stood still, and was removed: {LATE}" in str(backup.fault)
    assert setup.plane.volume.snapshots == []
    assert setup.plane.instance(setup.instance_id).running_backup_id is None


def test_what_is_given_up_is_taken_back_whoever_dies(setup: Setup) -> None:
    plane = setup.plane
    plane.guests.calls["thaw"] = lambda request: payloads.Thawed(was_frozen=False, reason="no")
    backup_id = setup.make()
    setup.die(snapshot_backup.FLOW, "make_snapshot", before=False, direction="undo")
    assert setup.get(backup_id).status is Status.FAILED
    assert plane.volume.snapshots == []


def test_a_snapshot_that_takes_too_long_is_removed(setup: Setup) -> None:
    plane = setup.plane
    plane.volume.status = "creating"
    backup_id = setup.make()
    with pytest.raises(AssertionError, match="not settled"):
        plane.settle(plane.runner(), most_s=70, tick_s=10)
    (snapshot,) = plane.volume.snapshots
    assert snapshot.status == "creating"
    plane.volume.set_snapshot_status(snapshot.id, "available")
    setup.settle()
    assert LATE in str(setup.get(backup_id).fault)
    assert plane.volume.snapshots == []


@pytest.mark.parametrize("fault", ["refused", "error", "silent", "no volume"])
def test_a_snapshot_that_cannot_be_made_leaves_nothing_but_the_reason(
    setup: Setup, fault: str
) -> None:
    plane = setup.plane
    expected = {
        "refused": "No snapshot can be made now: the database does not run.",
        "error": "could not make the snapshot",
        "silent": "does not answer",
        "no volume": "has no volume",
    }[fault]
    if fault == "refused":

        def refuse(request: payloads.Freeze) -> payloads.Payload:
            raise exception.GuestError(reason="the database does not run")

        plane.guests.calls["freeze"] = refuse
    elif fault == "error":
        plane.volume.status = "error"
    elif fault == "silent":
        plane.guests.is_silent = True
    else:
        volume = plane.volume.find_volume(setup.instance_id)
        assert volume is not None
        plane.volume.delete_volume(volume.id)
    backup_id = setup.make()
    setup.settle()
    backup = setup.get(backup_id)
    assert backup.status is Status.FAILED
    assert expected in str(backup.fault)
    assert plane.volume.snapshots == []
    assert not setup.freezer.is_frozen
    assert plane.instance(setup.instance_id).running_backup_id is None


def test_a_deleted_one_is_gone_whoever_dies(setup: Setup) -> None:
    backup_id = setup.made()
    setup.delete(backup_id)
    setup.die(delete_backup.FLOW, "remove", before=False)
    assert setup.find(backup_id) is None
    assert setup.plane.volume.snapshots == []
    assert setup.plane.usage()[quotas.BACKUPS] == 0
    assert setup.plane.volume.find_volume(setup.instance_id) is not None


def test_one_that_is_being_made_is_cancelled_and_deleted(setup: Setup) -> None:
    setup.plane.volume.status = "creating"
    backup_id = setup.make()
    setup.plane.settle(setup.plane.runner(), until=lambda: bool(setup.plane.volume.snapshots))
    setup.delete(backup_id)
    # it cannot be removed before it is there; the engine need not wait for that
    with pytest.raises(AssertionError, match="not settled"):
        setup.plane.settle(setup.plane.runner(), most_s=30, tick_s=10)
    assert not setup.freezer.is_frozen
    (snapshot,) = setup.plane.volume.snapshots
    setup.plane.volume.set_snapshot_status(snapshot.id, "available")
    setup.settle()
    assert setup.find(backup_id) is None
    assert setup.plane.volume.snapshots == []


def test_a_volume_stays_as_long_as_a_snapshot_of_it_is_kept(setup: Setup) -> None:
    plane = setup.plane
    first, second = setup.made(), setup.made()
    plane.delete(setup.instance_id)
    setup.settle()
    assert plane.instance(setup.instance_id).is_deleted
    assert plane.leftovers() == dataclasses.replace(NOTHING, volumes=1)
    # nobody takes it for left over
    for _ in range(3):
        plane.reconciler().run()
        plane.manual_clock.advance(3600)
    assert plane.active() == []
    setup.delete(first)
    setup.settle()
    assert plane.leftovers() == dataclasses.replace(NOTHING, volumes=1)
    setup.delete(second)
    setup.settle()
    assert plane.leftovers() == NOTHING


@pytest.mark.parametrize("step", ["make_snapshot", "complete"])
def test_a_deletion_takes_over_from_a_backup_whose_runner_died(setup: Setup, step: str) -> None:
    plane = setup.plane
    backup_id = setup.make()
    with pytest.raises(Crash):
        plane.settle(plane.runner(crashing(snapshot_backup.FLOW, step, before=False)))
    plane.delete(setup.instance_id)
    setup.settle()
    assert plane.instance(setup.instance_id).is_deleted
    if setup.get(backup_id).status is Status.COMPLETED:
        setup.delete(backup_id)
        setup.settle()
    assert plane.volume.snapshots == []
    assert plane.leftovers() == NOTHING


def test_an_instance_is_made_of_a_snapshot(setup: Setup) -> None:
    plane = setup.plane
    backup_id = setup.made()
    snapshot_id = setup.get(backup_id).location
    restoration = restorations.Restoration(chain=(backup_id,), snapshot_id=snapshot_id)
    made_id, operation_id = plane.create(**{restorations.KEY: restoration.to_data()})
    with plane.database.reader() as session:
        assert restorations.list_readers(session, [backup_id])
    with pytest.raises(exception.UnprocessableEntity, match="being restored"):
        setup.delete(backup_id)
    setup.settle()
    assert plane.operation(operation_id).state is State.SUCCEEDED
    assert plane.volume.made_of[made_id] == snapshot_id
    job = payloads.PrepareJob.from_wire(plane.guests.payloads["prepare"].payload)
    assert job.restoration == payloads.Restoration(chain=(), snapshot=backup_id)


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ({"is_incremental": True}, "no increments"),
        ({"container": "mine"}, "in no container"),
    ],
)
def test_a_snapshot_is_no_increment_and_in_no_container(
    setup: Setup, asked: dict[str, Any], text: str
) -> None:
    with pytest.raises(exception.BadRequest, match=text):
        setup.make(**asked)


def test_volumes_without_snapshots_have_none(setup: Setup) -> None:
    setup.plane.volume.has_snapshots = False
    with pytest.raises(exception.BadRequest, match="have no snapshots"):
        setup.make()
    assert setup.plane.usage()[quotas.BACKUPS] == 0


def test_a_row_is_not_removed_by_a_service_that_does_not_see_the_snapshot(setup: Setup) -> None:
    backup_id = setup.made()
    setup.plane.volume.has_snapshots = False
    setup.delete(backup_id)
    setup.settle()
    assert setup.get(backup_id).status is Status.DELETE_FAILED
    setup.plane.volume.has_snapshots = True
    setup.delete(backup_id)
    setup.settle()
    assert setup.find(backup_id) is None
    assert setup.plane.volume.snapshots == []


def test_the_last_stored_backup_is_kept_whatever_snapshots_there_are(setup: Setup) -> None:
    plane = setup.plane
    now = plane.clock.now()
    stored = new_backup(
        plane.version_id,
        project_id=PROJECT,
        instance_id=setup.instance_id,
        expires=now + datetime.timedelta(days=1),
    )
    with plane.database.writer() as session:
        assert backups.create(session, stored, now=now)
    setup.made()
    each = scheduler.Scheduler(plane.tools, hint=lambda ids: None)
    plane.manual_clock.advance(2 * 86400)
    each.run()
    found = setup.get(stored.id)
    assert (found.status, found.is_deleting) == (Status.COMPLETED, False)
