"""Snapshots are proven on servers whose volumes are made of them, wherever others are proven."""

from __future__ import annotations

import dataclasses

import pytest

from tests.fixtures.control_plane import NOTHING, ONE_OF_EACH, PROJECT
from tests.functional.flows.test_crashes import crash_and_resume
from tests.functional.flows.test_snapshot_flows import CALLER, Setup, setup
from trove import states
from trove.common import exception
from trove.db import operations
from trove.rpc import payloads
from trove.services import proofs
from trove.taskmanager.operations import verify_on_server

__all__ = ["setup"]

State = states.OperationState
Verification = states.Verification


def prove(setup: Setup, backup_id: str) -> str:
    """Have a backup proven; return the operation's id."""
    plane, begun = setup.plane, list[str]()
    service = proofs.Proofs(
        conf=plane.conf, database=plane.database, run_operation=begun.append, clock=plane.clock
    )
    service.verify(CALLER, backup_id)
    return begun[0]


def test_a_snapshot_is_proven_when_it_is_completed(setup: Setup) -> None:
    plane = setup.plane
    plane.conf.set_override("verify", "all", group="backup")
    backup_id = setup.make()
    runner = plane.runner()
    plane.compute.looks_to_delete = 2
    plane.settle(runner, until=lambda: any(each.step == "delete_server" for each in plane.active()))
    (operation,) = plane.active()
    assert operation.kind == operations.VERIFY_ON_SERVER
    made = plane.instance(operation.id)
    assert (made.project_id == PROJECT, made.is_protected) == (False, True)
    assert plane.volume.made_of[operation.id] == setup.get(backup_id).location
    job = payloads.VerifyBackupJob.from_wire(plane.guests.payloads["verify_backup"].payload)
    assert job.restoration == payloads.Restoration(chain=(), snapshot=backup_id)
    plane.settle(runner)
    found = setup.get(backup_id)
    assert (found.verification, found.verified is not None) == (Verification.PASSED, True)
    # nobody asked the instance, and nothing is left
    ran = [(instance_id, kind) for instance_id, kind, _ in plane.guests.ran]
    assert ran == [(setup.instance_id, "prepare"), (operation.id, "verify_backup")]
    assert plane.leftovers() == ONE_OF_EACH


def test_damage_is_told_and_leaves_nothing(setup: Setup) -> None:
    plane = setup.plane
    backup_id = setup.made()
    plane.guests.failing["verify_backup"] = "table a.b is corrupt"
    prove(setup, backup_id)
    with pytest.raises(exception.Conflict):
        prove(setup, backup_id)
    setup.settle()
    found = setup.get(backup_id)
    assert found.verification is Verification.FAILED
    assert "table a.b" in found.verification_details["reason"]
    assert plane.leftovers() == ONE_OF_EACH


def test_a_snapshot_that_is_gone_is_disproven(setup: Setup) -> None:
    plane = setup.plane
    backup_id = setup.made()
    (snapshot,) = plane.volume.snapshots
    plane.volume.delete_snapshot(snapshot.id)
    operation_id = prove(setup, backup_id)
    setup.settle()
    assert plane.operation(operation_id).state is State.FAILED
    found = setup.get(backup_id)
    assert found.verification is Verification.FAILED
    assert "does not have the snapshot any more" in found.verification_details["reason"]
    assert plane.compute.created.get(operation_id) is None


@pytest.mark.parametrize("trouble", ["volume", "driver", "agent"])
def test_where_nothing_is_found_out_it_stays_as_proven_as_it_was(
    setup: Setup, trouble: str
) -> None:
    plane = setup.plane
    backup_id = setup.made()
    match trouble:
        case "volume":
            plane.volume.status = "error"
        case "driver":
            plane.volume.has_snapshots = False
        case _:
            plane.guests.failing["verify_backup"] = "a program is missing"
            plane.guests.codes["verify_backup"] = exception.NotProvable.code
    operation_id = prove(setup, backup_id)
    setup.settle()
    assert plane.operation(operation_id).state is State.FAILED
    found = setup.get(backup_id)
    assert (found.verification, found.verified) == (None, None)
    assert found.verification_details["reason"]
    assert plane.leftovers() == ONE_OF_EACH


@pytest.mark.parametrize("direction", ["run", "undo"])
def test_whoever_dies_nothing_is_doubled_or_left(setup: Setup, direction: str) -> None:
    plane = setup.plane
    backup_id = setup.made()
    if direction == "undo":
        plane.guests.failing["verify_backup"] = "the server is full"
        plane.guests.codes["verify_backup"] = exception.NotProven.code
    for step in ("add_server", "create_volume"):
        operation_id = prove(setup, backup_id)
        crash_and_resume(plane, verify_on_server.FLOW, step, before=False, direction=direction)
        assert plane.made(operation_id).volumes == 1
        assert plane.leftovers() == ONE_OF_EACH
    passed = Verification.PASSED if direction == "run" else None
    assert setup.get(backup_id).verification is passed


def test_snapshots_of_an_instance_that_is_gone_are_proven(setup: Setup) -> None:
    plane = setup.plane
    backup_id = setup.made()
    plane.delete(setup.instance_id)
    setup.settle()
    prove(setup, backup_id)
    setup.settle()
    assert setup.get(backup_id).verification is Verification.PASSED
    # the volume stays for the snapshot alone
    assert plane.leftovers() == dataclasses.replace(NOTHING, volumes=1)
