"""Configuration groups reach their instances: on good days, on bad ones, and in the end always."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from tests.fixtures.configurations import make_configurations
from tests.fixtures.control_plane import PROJECT, ControlPlane
from tests.fixtures.crashes import Crash, crashing
from trove import states
from trove.common import context, exception
from trove.datastores import parameters
from trove.db import models, operations
from trove.rpc import payloads
from trove.services.configurations import GroupChange, NewGroup
from trove.services.datastores import VersionChoice
from trove.taskmanager.convergence import Convergence
from trove.taskmanager.operations import configure

Task = states.TaskStatus
State = states.OperationState
KIND = payloads.ConfigureJob.KIND

OLD = {"wait_timeout": 100}
NEW = {"wait_timeout": 200, "Max-Connections": 50}
CALLER = context.RequestContext(project_id=PROJECT, user_id="u", overwrite=False)

#: before: after the step before was saved; after: between act and save.
POINTS = [pytest.param(True, id="before"), pytest.param(False, id="after")]


class Groups:
    """The service, and what tests look at, on a control plane."""

    def __init__(self, plane: ControlPlane) -> None:
        plane.conf.set_override("configure_timeout_s", 40, group="taskmanager")
        self.plane = plane
        self.service = make_configurations(plane)

    def make(self, values: dict[str, Any]) -> str:
        version = VersionChoice(version=self.plane.version_id)
        new = NewGroup(name="group", version=version, values=values)
        return self.service.create(CALLER, new).group.id

    def active(self) -> str:
        instance_id, _ = self.plane.create()
        self.settle()
        return instance_id

    def attached(self, values: dict[str, Any]) -> tuple[str, str]:
        """Return an instance and the group it runs on."""
        instance_id, group_id = self.active(), self.make(values)
        self.service.attach(CALLER, instance_id, group_id)
        self.settle()
        assert self.runs_on(instance_id) == values
        return instance_id, group_id

    def replace(self, group_id: str, values: dict[str, Any]) -> None:
        # operations are told apart by when they were made
        self.plane.manual_clock.advance(1)
        self.service.replace(CALLER, group_id, GroupChange(values=values))

    def settle(self) -> None:
        self.plane.settle(self.plane.runner())

    def hear(self, instance_id: str, **values: Any) -> None:
        """Have the agent of an instance heard now."""
        with self.plane.database.writer() as session:
            session.execute(
                sa.update(models.InstanceHeartbeat)
                .where(models.InstanceHeartbeat.instance_id == instance_id)
                .values(received=self.plane.clock.now(), **values)
            )

    def converge(self, *instance_ids: str, passes: int = 1) -> None:
        """Have new task managers look, and settle what they begin."""
        for _ in range(passes):
            for instance_id in instance_ids:
                self.hear(instance_id)
            Convergence(self.plane.tools, hint=lambda ids: None).run()
            self.settle()

    def set_task(self, instance_id: str, task: Task) -> None:
        with self.plane.database.writer() as session:
            session.execute(
                sa.update(models.Instance)
                .where(models.Instance.id == instance_id)
                .values(task=task)
            )

    def runs_on(self, instance_id: str) -> dict[str, Any] | None:
        """Return the values of the last job, as long as the row says that they were confirmed."""
        job = self.plane.guests.payloads.get(KIND)
        sent = {} if job is None else job.payload["overrides"]
        confirmed = self.plane.instance(instance_id).configuration_digest
        return sent if parameters.digest(sent) == confirmed else None

    def begun(self) -> list[operations.Operation]:
        with self.plane.database.reader() as session:
            found = operations.list_operations(session, kind=operations.CONFIGURE_INSTANCE)
        return list(reversed(found))


@pytest.fixture
def groups(plane: ControlPlane) -> Groups:
    return Groups(plane)


# -- good days -----


def test_attaching_sends_values_and_sizes_and_ends_idle(groups: Groups) -> None:
    instance_id, group_id = groups.active(), groups.make(NEW)
    groups.service.attach(CALLER, instance_id, group_id)
    assert groups.plane.instance(instance_id).task is Task.UPDATING
    groups.settle()
    instance = groups.plane.instance(instance_id)
    assert (instance.task, instance.configuration_id) == (Task.NONE, group_id)
    job = payloads.ConfigureJob.from_wire(groups.plane.guests.payloads[KIND].payload)
    assert job.overrides == {"max_connections": 50, "wait_timeout": 200}
    assert (job.memory_mib, job.volume_size_gib) == (256, 1)
    assert job.overrides_digest == instance.configuration_digest == parameters.digest(NEW)
    assert job.is_live


def test_a_value_that_waits_for_a_restart_is_shown_until_the_restart(groups: Groups) -> None:
    plane = groups.plane
    plane.guests.results[KIND] = lambda job: {
        "overrides_digest": job.payload["overrides_digest"],
        "restart_required": True,
    }
    instance_id, _ = groups.attached(OLD)
    assert plane.instance(instance_id).task is Task.RESTART_REQUIRED
    with plane.database.writer() as session:
        operations.create(
            session,
            kind=operations.RESTART_INSTANCE,
            resource_id=instance_id,
            lock_key=operations.instance_lock(instance_id),
            deadline=plane.clock.now().replace(year=2100),
            now=plane.clock.now(),
            project_id=PROJECT,
        )
    groups.set_task(instance_id, Task.REBOOTING)
    groups.settle()
    assert plane.instance(instance_id).task is Task.NONE


def test_a_later_change_that_needs_no_restart_clears_the_wish_for_one(groups: Groups) -> None:
    instance_id, group_id = groups.attached(OLD)
    groups.set_task(instance_id, Task.RESTART_REQUIRED)
    groups.replace(group_id, NEW)
    groups.settle()
    assert groups.plane.instance(instance_id).task is Task.NONE


def test_detaching_sends_no_values(groups: Groups) -> None:
    instance_id, group_id = groups.attached(OLD)
    groups.service.detach(CALLER, instance_id)
    groups.settle()
    instance = groups.plane.instance(instance_id)
    assert instance.configuration_id is None
    assert instance.configuration_digest is None
    assert groups.plane.guests.payloads[KIND].payload["overrides"] == {}
    groups.service.delete(CALLER, group_id)


def test_an_instance_that_is_made_with_a_group_runs_on_it(groups: Groups) -> None:
    plane, group_id = groups.plane, groups.make(OLD)
    instance_id, _ = plane.create()
    with plane.database.writer() as session:
        session.execute(sa.update(models.Instance).values(configuration_id=group_id))
    groups.settle()
    job = payloads.PrepareJob.from_wire(plane.guests.payloads["prepare"].payload)
    assert job.overrides == OLD
    assert plane.instance(instance_id).configuration_digest == parameters.digest(OLD)
    groups.converge(instance_id)
    assert groups.begun() == []


def test_what_is_done_is_not_looked_at_again(groups: Groups) -> None:
    plane = groups.plane
    instance_id, group_id = groups.attached(OLD)
    assert plane.instance(instance_id).is_configuration_due
    groups.converge(instance_id)
    assert not plane.instance(instance_id).is_configuration_due
    groups.replace(group_id, NEW)
    assert plane.instance(instance_id).is_configuration_due
    groups.settle()
    groups.converge(instance_id)
    assert not plane.instance(instance_id).is_configuration_due
    groups.service.detach(CALLER, instance_id)
    assert plane.instance(instance_id).is_configuration_due
    groups.settle()
    groups.converge(instance_id)
    assert not plane.instance(instance_id).is_configuration_due
    assert len(groups.begun()) == 3


def test_everything_on_every_backend(plane_on_both: ControlPlane) -> None:
    groups = Groups(plane_on_both)
    instance_id, group_id = groups.attached(OLD)
    groups.replace(group_id, NEW)
    groups.settle()
    assert groups.plane.instance(instance_id).configuration_digest == parameters.digest(NEW)
    with pytest.raises(exception.BadRequest):
        groups.service.delete(CALLER, group_id)
    groups.set_task(instance_id, Task.RESIZING)
    groups.replace(group_id, OLD)
    groups.set_task(instance_id, Task.NONE)
    groups.converge(instance_id)
    assert groups.runs_on(instance_id) == OLD
    groups.service.detach(CALLER, instance_id)
    groups.settle()
    groups.service.delete(CALLER, group_id)
    groups.converge(instance_id)
    assert len(groups.begun()) == 4


# -- bad days -----


@pytest.mark.parametrize("before", POINTS)
@pytest.mark.parametrize("step", [step.name for step in configure.FLOW.steps])
def test_a_configuration_survives_a_crash(groups: Groups, step: str, before: bool) -> None:
    plane = groups.plane
    instance_id, group_id = groups.attached(OLD)
    groups.replace(group_id, NEW)
    with pytest.raises(Crash):
        plane.settle(plane.runner(crashing(configure.FLOW, step, before=before)))
    plane.manual_clock.advance(plane.conf.taskmanager.lease_s + 1)
    groups.settle()
    instance = plane.instance(instance_id)
    assert (instance.task, instance.configuration_digest) == (Task.NONE, parameters.digest(NEW))
    assert [ran[1] for ran in plane.guests.ran] == ["prepare", KIND, KIND]
    assert [operation.state for operation in groups.begun()] == [State.SUCCEEDED] * 2


def test_lost_and_doubled_jobs_change_nothing(groups: Groups) -> None:
    groups.plane.guests.lose_casts = 2
    groups.plane.guests.deliveries = 2
    groups.attached(OLD)
    assert [ran[1] for ran in groups.plane.guests.ran] == ["prepare", KIND]


def test_the_job_is_the_same_however_often_it_is_sent(groups: Groups) -> None:
    plane = groups.plane
    instance_id, group_id = groups.active(), groups.make(OLD)
    plane.guests.lose_casts = 1
    groups.service.attach(CALLER, instance_id, group_id)
    runner = plane.runner()
    for operation_id in plane.due():
        runner.drive(operation_id)
    # the values of a busy instance's group change: it gets the first ones, and then the others
    groups.replace(group_id, NEW)
    groups.settle()
    assert groups.runs_on(instance_id) == OLD
    groups.converge(instance_id)
    assert groups.runs_on(instance_id) == parameters.overrides(NEW)


def refuse(groups: Groups) -> None:
    groups.plane.guests.failing[KIND] = "wait_timeout: the database says no"
    groups.plane.guests.codes[KIND] = exception.ConfigurationRefused.code


def test_a_refused_group_is_not_attached_and_the_engines_words_are_told(groups: Groups) -> None:
    instance_id, group_id = groups.active(), groups.make(OLD)
    refuse(groups)
    groups.service.attach(CALLER, instance_id, group_id)
    groups.settle()
    instance = groups.plane.instance(instance_id)
    assert (instance.task, instance.configuration_id) == (Task.NONE, None)
    assert "the database says no" in str(instance.fault_message)
    assert "not attached" in str(instance.fault_message)
    groups.converge(instance_id)
    assert len(groups.begun()) == 1


def test_refused_values_are_tried_again_only_when_they_change(groups: Groups) -> None:
    plane = groups.plane
    instance_id, group_id = groups.attached(OLD)
    groups.set_task(instance_id, Task.RESTART_REQUIRED)
    refuse(groups)
    groups.replace(group_id, NEW)
    groups.settle()
    instance = plane.instance(instance_id)
    assert instance.task is Task.RESTART_REQUIRED
    assert instance.configuration_digest == parameters.digest(OLD)
    assert "runs on its former values" in str(instance.fault_message)
    plane.manual_clock.advance(3600)
    groups.converge(instance_id, passes=3)
    assert len(groups.begun()) == 2
    plane.guests.failing.clear()
    better = {"wait_timeout": 300}
    groups.hear(instance_id)
    groups.replace(group_id, better)
    groups.settle()
    assert groups.runs_on(instance_id) == better
    assert plane.instance(instance_id).fault_message is None


def test_values_that_are_changed_back_after_a_refusal_need_no_job(groups: Groups) -> None:
    instance_id, group_id = groups.attached(OLD)
    refuse(groups)
    groups.replace(group_id, NEW)
    groups.settle()
    groups.replace(group_id, OLD)
    groups.converge(instance_id)
    assert len(groups.begun()) == 2


def test_a_failed_detach_leaves_the_group_attached(groups: Groups) -> None:
    instance_id, group_id = groups.attached(OLD)
    refuse(groups)
    groups.service.detach(CALLER, instance_id)
    groups.settle()
    instance = groups.plane.instance(instance_id)
    assert instance.configuration_id == group_id
    assert "not detached" in str(instance.fault_message)


def test_a_group_that_was_deleted_while_it_was_detached_stays_gone(groups: Groups) -> None:
    instance_id, group_id = groups.attached(OLD)
    refuse(groups)
    groups.service.detach(CALLER, instance_id)
    groups.service.delete(CALLER, group_id)
    groups.settle()
    assert groups.plane.instance(instance_id).configuration_id is None
    groups.plane.guests.failing.clear()
    # the values that the engine kept belong to no group any more
    groups.plane.manual_clock.advance(100)
    groups.converge(instance_id)
    assert groups.plane.instance(instance_id).configuration_digest in (
        None,
        parameters.digest(OLD),
    )


def test_an_agent_that_answers_too_late_is_asked_again_until_it_is_known(groups: Groups) -> None:
    plane = groups.plane
    instance_id, group_id = groups.active(), groups.make(OLD)
    plane.guests.is_silent = True
    groups.service.attach(CALLER, instance_id, group_id)
    groups.settle()
    instance = plane.instance(instance_id)
    assert (instance.task, instance.configuration_id) == (Task.NONE, None)
    assert instance.configuration_digest == configure.UNKNOWN
    assert "within 40 s" in str(instance.fault_message)
    # nobody begins again while the agent is silent, nor at once
    Convergence(plane.tools, hint=lambda ids: None).run()
    groups.hear(instance_id)
    Convergence(plane.tools, hint=lambda ids: None).run()
    assert len(groups.begun()) == 1
    plane.guests.is_silent = False
    plane.manual_clock.advance(100)
    groups.converge(instance_id)
    assert plane.instance(instance_id).configuration_digest is None
    assert groups.runs_on(instance_id) == {}


def test_a_failure_that_is_no_refusal_is_tried_again_after_a_pause(groups: Groups) -> None:
    plane = groups.plane
    instance_id, group_id = groups.attached(OLD)
    plane.guests.failing[KIND] = "the disk is full"
    groups.replace(group_id, NEW)
    groups.settle()
    assert "tried again" in str(plane.instance(instance_id).fault_message)
    groups.converge(instance_id)
    assert len(groups.begun()) == 2
    plane.guests.failing.clear()
    plane.manual_clock.advance(100)
    groups.converge(instance_id)
    assert groups.runs_on(instance_id) == parameters.overrides(NEW)
    assert plane.instance(instance_id).fault_message is None


@pytest.mark.parametrize("task", [Task.RESIZING, Task.REBOOTING, Task.UPGRADING])
def test_a_busy_instance_gets_its_values_afterwards(groups: Groups, task: Task) -> None:
    instance_id, group_id = groups.attached(OLD)
    groups.set_task(instance_id, task)
    groups.replace(group_id, NEW)
    groups.converge(instance_id)
    assert groups.runs_on(instance_id) == OLD
    groups.set_task(instance_id, Task.NONE)
    groups.converge(instance_id)
    assert groups.runs_on(instance_id) == parameters.overrides(NEW)


def test_a_deletion_takes_over_from_a_configuration(groups: Groups) -> None:
    plane = groups.plane
    instance_id, group_id = groups.attached(OLD)
    plane.guests.lose_casts = 1
    groups.replace(group_id, NEW)
    plane.delete(instance_id)
    groups.settle()
    assert plane.instance(instance_id).is_deleted
    assert [operation.state for operation in groups.begun()][-1] is State.CANCELLED
    groups.service.delete(CALLER, group_id)


def test_those_who_cannot_be_helped_hold_up_nobody(groups: Groups) -> None:
    plane = groups.plane
    ids = sorted(groups.active() for _ in range(4))
    group_id = groups.make(OLD)
    with plane.database.writer() as session:
        due = {"configuration_id": group_id, "is_configuration_due": True}
        session.execute(sa.update(models.Instance).values(due))
    # the first two are refused, and fill the page of every pass
    refuse(groups)
    convergence = Convergence(plane.tools, hint=lambda ids: None, per_run=2)
    convergence.run()
    groups.settle()
    plane.guests.failing.clear()
    for _ in range(3):
        for each in ids:
            groups.hear(each)
        convergence.run()
        groups.settle()
    digests = [plane.instance(each).configuration_digest for each in ids]
    assert digests == [None, None] + [parameters.digest(OLD)] * 2


def test_many_instances_are_begun_a_few_at_once_and_all_in_the_end(
    groups: Groups, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trove.services.configurations._BEGUN_AT_ONCE", 2)
    ids = [groups.active() for _ in range(3)]
    group_id = groups.make({})
    with groups.plane.database.writer() as session:
        session.execute(sa.update(models.Instance).values(configuration_id=group_id))
    for each in ids:
        groups.hear(each)
    groups.replace(group_id, NEW)
    assert len(groups.begun()) == 2
    groups.settle()
    groups.converge(*ids)
    assert len(groups.begun()) == 3
    assert {groups.plane.instance(each).configuration_digest for each in ids} == {
        parameters.digest(NEW)
    }
