"""An instance is deleted after its last backup, and only if there is one."""

from __future__ import annotations

import pathlib

import pytest
import sqlalchemy as sa

from tests.functional.flows.test_backup_flows import CALLER, Setup, make_setup
from trove import states
from trove.common import exception
from trove.db import base, instance_views, models, operations
from trove.rpc import payloads
from trove.services.final_backups import FinalBackups
from trove.taskmanager.operations import create_backup

Status = states.BackupStatus


@pytest.fixture
def setup(
    sqlite_database: base.Database, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> Setup:
    return make_setup(sqlite_database, tmp_path, monkeypatch)


def service(setup: Setup) -> FinalBackups:
    plane = setup.plane
    return FinalBackups(
        conf=plane.conf, database=plane.database, makes=setup.service, clock=plane.clock
    )


def delete(setup: Setup) -> str:
    """Ask for the end of the instance; return the id of its last backup."""
    service(setup).delete_after_backup(CALLER, setup.instance_id)
    with setup.plane.database.reader() as session:
        (backup_id,) = session.scalars(
            sa.select(models.Backup.id).where(models.Backup.purpose == states.BackupPurpose.FINAL)
        )
    return str(backup_id)


def is_gone(setup: Setup) -> bool:
    with setup.plane.database.reader() as session:
        return instance_views.find_view(session, setup.instance_id, project_id=None) is None


def fault(setup: Setup) -> str:
    with setup.plane.database.reader() as session:
        view = instance_views.find_view(session, setup.instance_id, project_id=None)
    assert view is not None
    return str(view.fault_message)


def deletions(setup: Setup) -> int:
    with setup.plane.database.reader() as session:
        return len(operations.list_operations(session, kind=operations.DELETE_INSTANCE))


def test_the_instance_goes_after_its_last_backup_is_completed(setup: Setup) -> None:
    backup_id = delete(setup)
    assert setup.is_backing_up()
    # again is harmless
    assert delete(setup) == backup_id
    setup.plane.settle(setup.plane.runner())
    made = setup.get(backup_id)
    assert made.status is Status.COMPLETED
    assert made.expires is None
    assert "last" in made.name
    assert is_gone(setup)
    assert deletions(setup) == 1
    assert setup.objects(backup_id)


@pytest.mark.parametrize("step", ["run_backup", "complete"])
@pytest.mark.parametrize("before", [True, False])
def test_whoever_dies_in_between_deletes_once_and_not_without_the_backup(
    setup: Setup, step: str, before: bool
) -> None:
    backup_id = delete(setup)
    setup.crash(create_backup.FLOW, step, before=before)
    assert setup.get(backup_id).status is Status.COMPLETED
    assert is_gone(setup)
    assert deletions(setup) == 1


def test_without_the_backup_the_instance_stays_and_says_why(setup: Setup) -> None:
    setup.plane.guests.failing[payloads.BackupJob.KIND] = "no room"
    backup_id = delete(setup)
    setup.plane.settle(setup.plane.runner())
    assert setup.get(backup_id).status is Status.FAILED
    assert not is_gone(setup)
    assert deletions(setup) == 0
    assert "not deleted" in fault(setup)


def test_what_is_protected_is_not_deleted(setup: Setup) -> None:
    database = setup.plane.database
    protect = sa.update(models.Instance).values(is_protected=True)
    backup_id = delete(setup)
    with database.writer() as session:
        session.execute(protect)
    setup.plane.settle(setup.plane.runner())
    assert setup.get(backup_id).status is Status.COMPLETED
    assert not is_gone(setup)
    assert "protected" in fault(setup)
    with pytest.raises(exception.InstanceProtected):
        service(setup).delete_after_backup(CALLER, setup.instance_id)


def test_the_last_backup_is_kept_as_long_as_the_operator_says(setup: Setup) -> None:
    setup.plane.conf.set_override("final_retention_days", 3, group="backup")
    made = setup.get(delete(setup))
    assert made.expires is not None
    assert (made.expires - made.created).days == 3


def test_an_instance_of_others_or_that_is_busy_is_refused(setup: Setup) -> None:
    with pytest.raises(exception.InstanceNotFound):
        service(setup).delete_after_backup(CALLER, models.new_id())
    setup.make()
    with pytest.raises(exception.InstanceNotReady):
        service(setup).delete_after_backup(CALLER, setup.instance_id)
