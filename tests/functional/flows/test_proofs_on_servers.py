"""A backup is proven on a server that is made for it, and gone whatever comes of it."""

from __future__ import annotations

import pathlib

import pytest
import sqlalchemy as sa

from tests.fixtures.control_plane import NOTHING, PROJECT, ControlPlane, Leftovers
from tests.fixtures.restoring import Backed, sent_restoration
from tests.functional.flows.test_crashes import POINTS, crash_and_resume
from trove import states
from trove.common import context, exception
from trove.db import instance_views, instances, models, operations
from trove.rpc import payloads
from trove.taskmanager import proof_keeping
from trove.taskmanager.operations import verify_on_server

State = states.OperationState
PASSED = states.Verification.PASSED


@pytest.fixture
def backed(plane: ControlPlane, tmp_path: pathlib.Path) -> Backed:
    for name in ("restart_timeout_s", "usage_timeout_s"):
        plane.conf.set_override(name, 30, group="taskmanager")
    plane.conf.set_override("timeout_s", 600, group="backup")
    plane.conf.set_override("verify_place", "server", group="backup")
    return Backed(plane, tmp_path)


def row(plane: ControlPlane, operation_id: str) -> models.Instance:
    """Return the row of the server of a proof."""
    return plane.instance(operation_id)


def is_gone(plane: ControlPlane, operation_id: str, left: Leftovers) -> None:
    assert plane.leftovers() == left
    assert row(plane, operation_id).is_deleted
    assert not plane.active()


def test_a_backup_is_proven_on_a_server_of_its_own(backed: Backed) -> None:
    plane = backed.plane
    source = backed.make_active()
    backup_id = backed.add_backup(source, volume_size_gib=3)
    left, usage = plane.leftovers(), plane.usage()
    plane.compute.looks_to_delete = 2
    operation_id = backed.verify(backup_id)
    assert backed.backup(backup_id).verification is states.Verification.RUNNING
    runner = plane.runner()
    plane.settle(runner, until=lambda: plane.operation(operation_id).step == "delete_server")
    server = plane.compute.find_server(operation_id)
    assert server is not None
    (spec,) = [each.spec for each in plane.compute._entries.values() if each.server == server]
    assert spec.flavor.id == plane.instance(source).flavor_id
    assert spec.image_id == plane.instance(source).version.image_id
    assert plane.volume.find_volume(operation_id).size_gib == 3  # type: ignore[union-attr]
    assert plane.network.access[operation_id]["allowed_cidrs"] == []
    made = row(plane, operation_id)
    assert (made.project_id, made.is_protected) == (backed.store.service_project(), True)
    # users do not see it, and pay nothing
    with plane.database.reader() as session:
        assert instance_views.find_view(session, operation_id, project_id=PROJECT) is None
    assert plane.usage() == usage
    plane.settle(runner)
    assert plane.operation(operation_id).state is State.SUCCEEDED
    found = backed.backup(backup_id)
    assert (found.verification, found.verified is not None) == (PASSED, True)
    assert [each.backup_id for each in sent_restoration(plane, "verify_backup").chain] == [
        backup_id
    ]
    # its engine was never begun, and the instance was not asked
    assert [kind for instance_id, kind, _ in plane.guests.ran if instance_id == operation_id] == [
        "verify_backup"
    ]
    assert "verify_backup" not in [kind for each, kind, _ in plane.guests.ran if each == source]
    is_gone(plane, operation_id, left)
    assert plane.usage() == usage


def test_what_is_disproven_leaves_nothing_either(backed: Backed) -> None:
    plane = backed.plane
    backup_id = backed.add_backup(backed.make_active())
    left = plane.leftovers()
    plane.guests.failing["verify_backup"] = "table a.b is corrupt"
    operation_id = backed.verify(backup_id)
    plane.settle(plane.runner())
    found = backed.backup(backup_id)
    assert found.verification is states.Verification.FAILED
    assert "table a.b" in found.verification_details["reason"]
    is_gone(plane, operation_id, left)


@pytest.mark.parametrize("trouble", ["space", "silence", "compute", "image"])
def test_where_nothing_is_found_out_nothing_is_left(backed: Backed, trouble: str) -> None:
    plane = backed.plane
    backup_id = backed.add_backup(backed.make_active())
    left = plane.leftovers()
    match trouble:
        case "space":
            plane.guests.failing["verify_backup"] = "the volume has 1 MiB left"
            plane.guests.codes["verify_backup"] = exception.NotProven.code
        case "silence":
            plane.guests.is_silent = True
            plane.conf.set_override("timeout_s", 60, group="backup")
        case "compute":
            plane.compute.injector.fail(
                "create_server", exception.DriverError(service="nova", reason="no valid host")
            )
        case _:
            with plane.database.writer() as session:
                session.execute(sa.update(models.DatastoreVersion).values(image_id=None))
    operation_id = backed.verify(backup_id)
    plane.settle(plane.runner(), tick_s=5)
    assert plane.operation(operation_id).state is State.FAILED
    found = backed.backup(backup_id)
    assert (found.verification, found.verified) == (None, None)
    assert found.verification_details["reason"]
    is_gone(plane, operation_id, left)


@pytest.mark.parametrize("before", POINTS)
def test_a_proof_on_a_server_survives_a_crash_at_every_step(backed: Backed, before: bool) -> None:
    plane = backed.plane
    backup_id = backed.add_backup(backed.make_active())
    left = plane.leftovers()
    plane.compute.looks_to_delete = 1
    flow_steps = verify_on_server.FLOW.steps
    # where nothing was done yet, only what makes something differs from the end of the one before
    for step in flow_steps[1:4] if before else flow_steps:
        operation_id = backed.verify(backup_id)
        crash_and_resume(plane, verify_on_server.FLOW, step.name, before=before)
        assert plane.operation(operation_id).state is State.SUCCEEDED, step.name
        assert backed.backup(backup_id).verification is PASSED
        made = plane.made(operation_id)
        assert (made.servers, made.volumes, made.ports) == (1, 1, 1)
        is_gone(plane, operation_id, left)


def test_taking_it_back_survives_a_crash_at_every_step(backed: Backed) -> None:
    plane = backed.plane
    backup_id = backed.add_backup(backed.make_active())
    left = plane.leftovers()
    plane.compute.looks_to_delete = 1
    plane.guests.failing["verify_backup"] = "the store fails"
    plane.guests.codes["verify_backup"] = exception.NotProven.code
    for step in verify_on_server.FLOW.steps[1:5]:
        operation_id = backed.verify(backup_id)
        crash_and_resume(plane, verify_on_server.FLOW, step.name, before=False, direction="undo")
        assert plane.operation(operation_id).state is State.FAILED
        assert backed.backup(backup_id).verification is None
        is_gone(plane, operation_id, left)


def test_what_comes_too_late_is_removed_as_an_orphan(backed: Backed) -> None:
    plane = backed.plane
    backup_id = backed.add_backup(backed.make_active())
    left = plane.leftovers()
    plane.guests.endless.add(payloads.VerifyBackupJob.KIND)
    operation_id = backed.verify(backup_id)
    runner = plane.runner()
    plane.settle(runner, until=lambda: plane.operation(operation_id).step == "verify")
    # whoever has the database be repaired by hand may lose the operation
    with plane.database.writer() as session:
        session.execute(
            sa.update(models.Operation)
            .where(models.Operation.id == operation_id)
            .values(state=State.FAILED, lock_key=None)
        )
        assert instances.mark_deleted(session, operation_id, now=plane.clock.now())
    assert plane.leftovers() != left
    reconciler = plane.reconciler()
    for _ in range(4):
        reconciler.run()
        plane.settle(runner)
        plane.manual_clock.advance(60)
    assert plane.leftovers() == left


def test_the_backups_of_an_instance_that_is_gone_are_proven(backed: Backed) -> None:
    plane = backed.plane
    source = backed.make_active()
    backup_id = backed.add_backup(source)
    plane.delete(source)
    plane.settle(plane.runner())
    service = plane.proofs()
    caller = context.RequestContext(project_id=PROJECT, user_id="user", overwrite=False)
    service.verify(caller, backup_id)
    with pytest.raises(exception.Conflict):
        service.verify(caller, backup_id)
    plane.settle(plane.runner())
    assert backed.backup(backup_id).verification is PASSED
    assert plane.leftovers() == NOTHING
    # and again when that is old
    plane.manual_clock.advance(31 * 86400)
    begun: list[str] = []
    proof_keeping.ProofKeeping(plane.tools, hint=begun.extend).run()
    assert [plane.operation(each).kind for each in begun] == [operations.VERIFY_ON_SERVER]
    plane.settle(plane.runner())
    assert plane.leftovers() == NOTHING


def test_a_backup_that_is_deleted_ends_its_proof(backed: Backed) -> None:
    plane = backed.plane
    backup_id = backed.add_backup(backed.make_active())
    left = plane.leftovers()
    plane.guests.endless.add(payloads.VerifyBackupJob.KIND)
    operation_id = backed.verify(backup_id)
    runner = plane.runner()
    plane.settle(runner, until=lambda: plane.operation(operation_id).step == "verify")
    with plane.database.writer() as session:
        operations.request_cancel(
            session, mode=operations.UNDO, operation_id=operation_id, now=plane.clock.now()
        )
    plane.settle(runner)
    assert plane.operation(operation_id).state is not State.SUCCEEDED
    is_gone(plane, operation_id, left)
