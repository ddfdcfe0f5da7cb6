"""Modules with new instances and again with those that have them, on fakes."""

from __future__ import annotations

import base64
import datetime
import hashlib
from typing import Any

import pytest

from tests.fixtures.control_plane import PROJECT, ControlPlane
from tests.fixtures.crashes import Crash, crashing
from trove import states
from trove.db import guest_jobs, models, modules, operations
from trove.taskmanager.operations import modules as flow

State = states.OperationState

OLD, NEW = b"message=old", b"message=new"


def md5(contents: bytes) -> str:
    return hashlib.md5(contents, usedforsecurity=False).hexdigest()


def add_module(plane: ControlPlane, name: str, **values: Any) -> str:
    module_id = models.new_id()
    with plane.database.writer() as session:
        modules.add(
            session,
            module_id=module_id,
            contents_wrapped=plane.key_ring.wrap(NEW, purpose=f"module:{module_id}"),
            now=plane.clock.now(),
            **{
                "name": name,
                "type": "ping",
                "description": None,
                "project_id": PROJECT,
                "md5": md5(NEW),
                "datastore_id": None,
                "datastore_version_id": None,
                "apply_order": 5,
                **values,
            },
        )
    return module_id


@pytest.fixture
def answers(plane: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Have agents answer jobs with modules as real ones do; by module id another status."""
    statuses: dict[str, Any] = {}
    record = guest_jobs.record_outcome

    def record_outcome(session: Any, job_id: str, **values: Any) -> bool:
        job = next((job for job in plane.guests.payloads.values() if job.job_id == job_id), None)
        if job is not None and values["succeeded"]:
            values["result"] = {
                "modules": [
                    {
                        "id": each["id"],
                        "md5": each["md5"],
                        "status": statuses.get(each["id"], "OK"),
                    }
                    for each in job.payload.get("modules", ())
                ]
            }
        return record(session, job_id, **values)

    monkeypatch.setattr(guest_jobs, "record_outcome", record_outcome)
    return statuses


def applied(plane: ControlPlane, instance_id: str) -> dict[str, str]:
    with plane.database.reader() as session:
        return dict(modules.list_applied(session, instance_id))


def make(plane: ControlPlane, *module_ids: str) -> str:
    instance_id, _ = plane.create(modules=list(module_ids))
    plane.settle(plane.runner())
    return instance_id


def begin(plane: ControlPlane, module_id: str, **data: Any) -> str:
    now = plane.clock.now()
    with plane.database.writer() as session:
        return operations.create(
            session,
            kind=operations.REAPPLY_MODULE,
            resource_id=module_id,
            lock_key=f"module:{module_id}",
            deadline=now + datetime.timedelta(days=1),
            now=now,
            project_id=PROJECT,
            data={
                "md5": None,
                "force": False,
                "batch_size": 50,
                "batch_delay_s": 2.0,
                "project_id": None,
                **data,
            },
        )


def with_old(plane: ControlPlane, module_id: str, count: int) -> list[str]:
    """Make instances that have the module as of other contents."""
    made = [make(plane) for _ in range(count)]
    for instance_id in made:
        with plane.database.writer() as session:
            modules.record_applied(
                session, instance_id, {module_id: md5(OLD)}, now=plane.clock.now()
            )
    return sorted(made)


def ran(plane: ControlPlane) -> list[str]:
    return [instance for instance, kind, _ in plane.guests.ran if kind == "apply_modules"]


def test_a_new_instance_gets_its_modules_with_its_engine(
    plane: ControlPlane, answers: dict[str, Any]
) -> None:
    late, early = add_module(plane, "late", apply_order=9), add_module(plane, "early")
    bad, gone = add_module(plane, "bad"), models.new_id()
    answers[bad] = "ERROR"
    instance_id = make(plane, late, early, bad, gone)
    sent = plane.guests.payloads["prepare"].payload["modules"]
    assert [each["name"] for each in sent] == ["bad", "early", "late"]
    assert base64.b64decode(sent[0]["contents"]) == NEW
    assert applied(plane, instance_id) == {late: md5(NEW), early: md5(NEW)}
    assert plane.instance(instance_id).task is states.TaskStatus.NONE


@pytest.mark.parametrize(
    "result",
    [
        None,
        {},
        {"modules": None},
        {"modules": "x"},
        {"modules": [None, 5, {"id": "../x", "md5": "y", "status": "OK"}]},
    ],
)
def test_what_makes_no_sense_of_a_guests_result_is_passed_over(
    plane: ControlPlane, result: Any
) -> None:

    assert flow.record(None, "i", result) == []  # type: ignore[arg-type]


def test_a_deleted_instance_has_no_modules(plane: ControlPlane, answers: dict[str, Any]) -> None:
    module_id = add_module(plane, "m")
    instance_id = make(plane, module_id)
    plane.delete(instance_id)
    plane.settle(plane.runner())
    assert applied(plane, instance_id) == {}


def test_a_module_is_applied_again_in_batches_to_those_with_other_contents(
    plane: ControlPlane, answers: dict[str, Any]
) -> None:
    module_id = add_module(plane, "m")
    current = make(plane, module_id)
    old = with_old(plane, module_id, 5)
    before = plane.clock.now()
    operation_id = begin(plane, module_id, batch_size=2, batch_delay_s=30)
    plane.settle(plane.runner())
    assert plane.operation(operation_id).state is State.SUCCEEDED
    assert ran(plane) == old
    assert current not in ran(plane)
    for instance_id in old:
        assert applied(plane, instance_id) == {module_id: md5(NEW)}
    # three batches, a pause behind each
    assert plane.clock.now() - before >= datetime.timedelta(seconds=90)


def test_contents_and_force_say_which_instances_are_meant(
    plane: ControlPlane, answers: dict[str, Any]
) -> None:
    module_id = add_module(plane, "m")
    current = make(plane, module_id)
    (old,) = with_old(plane, module_id, 1)
    begin(plane, module_id, md5="0" * 32)
    plane.settle(plane.runner())
    assert ran(plane) == []
    begin(plane, module_id, project_id="another")
    plane.settle(plane.runner())
    assert ran(plane) == []
    begin(plane, module_id, md5=md5(NEW), force=True)
    plane.settle(plane.runner())
    assert ran(plane) == [current]
    assert plane.guests.payloads["apply_modules"].payload["force"] is True
    begin(plane, module_id, force=True)
    plane.settle(plane.runner())
    assert sorted(ran(plane)[1:]) == sorted([current, old])


def test_agents_that_are_silent_or_refuse_do_not_hold_up_the_others(
    plane: ControlPlane, answers: dict[str, Any]
) -> None:
    module_id = add_module(plane, "m")
    old = with_old(plane, module_id, 3)
    deliver = plane.guests.deliver
    plane.guests.deliver = (  # type: ignore[method-assign]
        lambda instance_id, job: None if instance_id == old[0] else deliver(instance_id, job)
    )
    operation_id = begin(plane, module_id, batch_size=2)
    plane.settle(plane.runner())
    operation = plane.operation(operation_id)
    assert operation.state is State.FAILED
    assert "2 instances and not to 1" in str(operation.error)
    assert applied(plane, old[0]) == {module_id: md5(OLD)}
    for instance_id in old[1:]:
        assert applied(plane, instance_id) == {module_id: md5(NEW)}
    answers[module_id] = "ERROR"
    operation_id = begin(plane, module_id, force=True)
    plane.settle(plane.runner())
    assert plane.operation(operation_id).state is State.FAILED


def test_lost_casts_are_sent_again(plane: ControlPlane, answers: dict[str, Any]) -> None:
    module_id = add_module(plane, "m")
    (old,) = with_old(plane, module_id, 1)
    plane.guests.lose_casts = 2
    begin(plane, module_id)
    plane.settle(plane.runner())
    assert applied(plane, old) == {module_id: md5(NEW)}
    assert ran(plane) == [old]


def test_a_module_that_is_deleted_meanwhile_ends_it(
    plane: ControlPlane, answers: dict[str, Any]
) -> None:
    module_id = add_module(plane, "m")
    with_old(plane, module_id, 1)
    operation_id = begin(plane, module_id)
    with plane.database.writer() as session:
        modules.mark_deleted(session, module_id, now=plane.clock.now())
    plane.settle(plane.runner())
    assert plane.operation(operation_id).state is State.SUCCEEDED
    assert ran(plane) == []


@pytest.mark.parametrize(
    "before", [pytest.param(True, id="before"), pytest.param(False, id="after")]
)
def test_applying_again_survives_a_crash(
    plane: ControlPlane, answers: dict[str, Any], before: bool
) -> None:
    module_id = add_module(plane, "m")
    old = with_old(plane, module_id, 3)
    operation_id = begin(plane, module_id, batch_size=2)
    with pytest.raises(Crash):
        plane.settle(plane.runner(crashing(flow.FLOW, "reapply", before=before)))
    plane.manual_clock.advance(plane.conf.taskmanager.lease_s + 1)
    plane.settle(plane.runner())
    assert plane.operation(operation_id).state is State.SUCCEEDED
    assert ran(plane) == old
    for instance_id in old:
        assert applied(plane, instance_id) == {module_id: md5(NEW)}
