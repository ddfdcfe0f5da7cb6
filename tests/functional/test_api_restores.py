"""Restoring by the API: what can be asked for, what is refused and why, what is shown."""

from __future__ import annotations

import datetime
import pathlib
import uuid
from typing import Any

import pytest
import sqlalchemy as sa

from tests.fixtures import api as api_fixture
from tests.fixtures.database import new_backup
from trove import states
from trove.db import backups, base, log_archives, models, operations, restorations
from trove.storage import filesystem

#: Of nothing; the same in every worker, since it is in the names of tests.
NOBODYS = "0f5c7ad2-9a55-4b0c-8f4e-6c1d2e3f4a5b"

PROJECT = api_fixture.PROJECT
NOW = datetime.datetime(2026, 5, 1, 12, tzinfo=datetime.UTC)


def earlier(seconds: float) -> datetime.datetime:
    return NOW - datetime.timedelta(seconds=seconds)


def told(moment: datetime.datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


@pytest.fixture
def api(sqlite_database: base.Database) -> api_fixture.Api:
    api = api_fixture.make_api(sqlite_database)
    api.add_datastore()
    return api


@pytest.fixture
def source(api: api_fixture.Api) -> str:
    return api.create_instance(active=True)


def version_of(api: api_fixture.Api, instance_id: str) -> str:
    with api.database.reader() as session:
        found = session.scalar(
            sa.select(models.Instance.datastore_version_id).where(models.Instance.id == instance_id)
        )
    assert found is not None
    return found


def add_archive(
    api: api_fixture.Api, instance_id: str, *, as_of: datetime.datetime | None = None
) -> str:
    epoch = models.new_id()
    with api.database.writer() as session:
        log_archives.begin(
            session,
            log_archives.NewArchive(
                epoch=epoch,
                instance_id=instance_id,
                project_id=PROJECT,
                storage_driver="filesystem",
                account_id=PROJECT,
                container="c",
                prefix=f"{instance_id}/archive/{epoch}/",
                key_wrapped=b"wrapped",
            ),
            now=earlier(1000),
        )
        session.execute(
            sa.update(models.LogArchive)
            .where(models.LogArchive.epoch == epoch)
            .values(as_of=as_of, next_sequence=9, pending_bytes=3)
        )
    return epoch


def add_backup(
    api: api_fixture.Api, instance_id: str, epoch: str | None = None, **changes: Any
) -> str:
    values: dict[str, Any] = {
        "project_id": PROJECT,
        "instance_id": instance_id,
        "engine_version": "10.11.6",
        "volume_size_gib": 1,
        "completed": earlier(600),
        "archive_epoch": epoch,
        "archive_sequence": None if epoch is None else 4,
    }
    new = new_backup(version_of(api, instance_id), **values | changes)
    with api.database.writer() as session:
        assert backups.create(session, new, now=NOW)
    return new.id


def create(api: api_fixture.Api, point: Any, status: int = 200, **values: Any) -> Any:
    instance = {
        "name": "restored",
        "flavorRef": "1",
        "volume": {"size": 1},
        "restorePoint": point,
        **values,
    }
    return api.request("POST", "/instances", {"instance": instance}, status=status).json


def restoration_of(api: api_fixture.Api, instance_id: str) -> restorations.Restoration:
    with api.database.reader() as session:
        (operation,) = operations.list_operations(
            session, resource_id=instance_id, active_only=True
        )
    return restorations.Restoration.from_data(operation.data[restorations.KEY])


def message(answer: Any) -> str:
    (fault,) = answer.values()
    return str(fault["message"])


def test_an_instance_is_created_from_a_backup_and_its_chain(
    api: api_fixture.Api, source: str
) -> None:
    full = add_backup(api, source)
    increment = add_backup(api, source, parent_id=full, kind=states.BackupKind.INCREMENT)
    made = create(api, {"backupRef": increment.upper()})["instance"]
    assert made["status"] == "BUILD"
    found = restoration_of(api, made["id"])
    assert found == restorations.Restoration(chain=(full, increment))
    with api.database.reader() as session:
        (operation,) = operations.list_operations(session, resource_id=made["id"], active_only=True)
    assert operation.deadline - NOW > datetime.timedelta(seconds=api.conf.backup.timeout_s)


def test_without_a_datastore_it_is_that_of_the_backup(api: api_fixture.Api, source: str) -> None:
    backup_id = add_backup(api, source)
    # another default meanwhile
    api.add_datastore("redis", versions=("7.0",), manager="redis")
    made = create(api, {"backupRef": backup_id})["instance"]
    assert made["datastore"]["type"] == "mariadb"


@pytest.mark.parametrize(
    ("changes", "status", "expected"),
    [
        ({"status": states.BackupStatus.FAILED}, 409, "FAILED"),
        ({"status": states.BackupStatus.DELETE_FAILED}, 409, "DELETE_FAILED"),
        ({"volume_size_gib": 2}, 403, "volume of 2 GiB"),
        ({"project_id": "project-b"}, 404, "cannot be found"),
        ({"parent_id": NOBODYS}, 404, "cannot be found"),
        ({"engine_version": "11.4.2"}, 400, "version 11.4.2"),
        ({"manager": "redis"}, 400, "datastore"),
    ],
    ids=str,
)
def test_what_cannot_be_restored_is_refused_before_anything_is_made(
    api: api_fixture.Api, source: str, changes: dict[str, Any], status: int, expected: str
) -> None:
    backup_id = add_backup(api, source, **changes)
    assert expected in message(create(api, {"backupRef": backup_id}, status))
    assert len(api.get("/instances")["instances"]) == 1


SNAPSHOT = {"kind": states.BackupKind.SNAPSHOT, "location": "snapshot-1"}


def test_an_instance_is_made_of_a_snapshot(api: api_fixture.Api, source: str) -> None:
    backup_id = add_backup(api, source, **SNAPSHOT)
    made = create(api, {"backupRef": backup_id})["instance"]
    restoration = restoration_of(api, made["id"])
    assert (restoration.chain, restoration.snapshot_id) == ((backup_id,), "snapshot-1")
    assert "is being restored" in message(
        api.request("DELETE", f"/backups/{backup_id}", status=422).json
    )


def test_a_snapshot_is_restored_as_it_is_and_into_a_volume_of_its_type(
    api: api_fixture.Api, source: str
) -> None:
    backup_id = add_backup(api, source, **SNAPSHOT)
    for values, status, expected in (
        ({"volume": {"size": 1, "type": "ssd"}}, 400, "is of the type of that"),
        ({"restorePoint": {"backupRef": backup_id, "time": told(earlier(60))}}, 400, "no log"),
    ):
        asked = {"point": {"backupRef": backup_id}, **values}
        answer = create(api, asked.pop("point"), status, **asked)
        assert expected in message(answer)
    assert len(api.get("/instances")["instances"]) == 1


def test_a_snapshot_is_restored_in_place(api: api_fixture.Api, source: str) -> None:
    backup_id = add_backup(api, source, **SNAPSHOT)
    # its volume would be of a type that the instance's record does not tell
    api.set_instance(source, volume_type="ssd")
    other = api.create_instance(active=True)
    assert "another type" in message(act(api, other, {"backupRef": backup_id}, 400).json)
    act(api, source, {"backupRef": backup_id})
    with api.database.reader() as session:
        (operation,) = operations.list_operations(session, resource_id=source, active_only=True)
    assert operation.kind == operations.RESTORE_SNAPSHOT
    found = restorations.Restoration.from_data(operation.data[restorations.KEY])
    assert (found.chain, found.snapshot_id) == ((backup_id,), "snapshot-1")
    assert operation.data["server_id"] > 0
    assert api.get(f"/instances/{source}")["instance"]["status"] == "BUILD"


def test_a_backup_that_is_registered_from_storage_can_be_restored(
    api: api_fixture.Api, source: str
) -> None:
    backup_id = add_backup(api, source, status=states.BackupStatus.RESTORED)
    create(api, {"backupRef": backup_id})


def test_a_backup_that_is_not_there_is_not_found(api: api_fixture.Api) -> None:
    assert "cannot be found" in message(create(api, {"backupRef": str(uuid.uuid4())}, 404))


def test_a_backup_of_another_datastore_is_refused(api: api_fixture.Api, source: str) -> None:
    backup_id = add_backup(api, source)
    api.add_datastore("valkey", versions=("8.0",), manager="valkey", default=False)
    answer = create(
        api, {"backupRef": backup_id}, 400, datastore={"type": "valkey", "version": "8.0"}
    )
    assert "of datastore mariadb" in message(answer)


@pytest.mark.parametrize(
    ("point", "expected"),
    [
        ({}, "backupRef is missing"),
        ({"backupRef": "x"}, "restorePoint.backupRef must be a UUID"),
        ({"backupRef": NOBODYS, "tmie": "now"}, "unknown keys 'tmie'"),
        ({"backupRef": NOBODYS, "instance": NOBODYS}, "not both"),
        ({"backupRef": NOBODYS, "time": "soon"}, "ISO 8601"),
        ({"backupRef": NOBODYS, "time": "0001-01-01T00:00:00+23:00"}, "ISO 8601"),
        ({"backupRef": NOBODYS, "time": "now", "name": "x"}, "one of time"),
        ({"instance": NOBODYS, "position": "0-1-2"}, "needs the backup"),
        ({"instance": NOBODYS}, "as of a time"),
        ({"instance": NOBODYS, "time": "2026-05-01T12:00:01Z"}, "has not come yet"),
        ({"time": "now"}, "backupRef is missing"),
    ],
    ids=str,
)
def test_a_restore_point_has_to_be_clear(
    api: api_fixture.Api, source: str, point: dict[str, str], expected: str
) -> None:
    assert expected in message(create(api, point, 400))


# -- with the log -----


def test_a_backup_with_a_time_behind_it(api: api_fixture.Api, source: str) -> None:
    epoch = add_archive(api, source, as_of=earlier(100))
    backup_id = add_backup(api, source, epoch)
    made = create(api, {"backupRef": backup_id, "time": "2026-05-01T11:55:00.5+00:00"})
    assert restoration_of(api, made["instance"]["id"]) == restorations.Restoration(
        chain=(backup_id,), epoch=epoch, first=4, target_time=earlier(299.5).timestamp()
    )
    # not written yet, while the archive goes on: the operation waits for it
    create(api, {"backupRef": backup_id, "time": told(earlier(50))})
    for key in ("position", "name"):
        made = create(api, {"backupRef": backup_id, key: "0-1-77"})["instance"]
        found = restoration_of(api, made["id"])
        assert (found.epoch, getattr(found, f"target_{key}")) == (epoch, "0-1-77")


def test_times_that_no_log_has_are_refused_with_those_that_it_has(
    api: api_fixture.Api, source: str
) -> None:
    epoch = add_archive(api, source, as_of=earlier(100))
    backup_id = add_backup(api, source, epoch)
    early = {"backupRef": backup_id, "time": told(earlier(601))}
    assert "choose an earlier backup" in message(create(api, early, 400))
    with api.database.writer() as session:
        log_archives.close_active(session, source, now=NOW)
    late = {"backupRef": backup_id, "time": told(earlier(99))}
    assert "reaches to 2026-05-01T11:58:20Z only" in message(create(api, late, 400))
    for when in (601, 99):
        answer = create(api, {"instance": source, "time": told(earlier(when))}, 400)
        assert "2026-05-01T11:50:00Z to 2026-05-01T11:58:20Z" in message(answer)


def test_a_backup_without_a_log_has_no_times(api: api_fixture.Api, source: str) -> None:
    backup_id = add_backup(api, source)
    answer = create(api, {"backupRef": backup_id, "time": told(earlier(10))}, 400)
    assert "no log is kept" in message(answer)
    answer = create(api, {"instance": source, "time": "now"}, 400)
    assert "no backup with a log behind it" in message(answer)


def test_the_log_of_another_instance_is_never_used(api: api_fixture.Api, source: str) -> None:
    other = api.create_instance(active=True, project="project-b")
    foreign = add_archive(api, other, as_of=earlier(1))
    # as a hostile guest might have it in its manifest
    backup_id = add_backup(api, source, foreign)
    answer = create(api, {"backupRef": backup_id, "time": told(earlier(10))}, 400)
    assert "no log is kept" in message(answer)
    create(api, {"instance": source, "time": told(earlier(10))}, 400)


def test_an_instance_as_of_a_time_is_its_newest_backup_from_before(
    api: api_fixture.Api, source: str
) -> None:
    former = add_archive(api, source, as_of=earlier(500))
    oldest = add_backup(api, source, former, completed=earlier(900))
    add_backup(api, source, former, completed=earlier(700), status=states.BackupStatus.FAILED)
    newer = add_backup(api, source, former, completed=earlier(600))
    epoch = add_archive(api, source, as_of=earlier(10))
    newest = add_backup(api, source, epoch, completed=earlier(300))
    add_backup(api, source, completed=earlier(200))
    for when, backup_id, found_epoch in (
        (800, oldest, former),
        (550, newer, former),
        (300, newest, epoch),
        (20, newest, epoch),
    ):
        made = create(api, {"instance": source, "time": told(earlier(when))})["instance"]
        found = restoration_of(api, made["id"])
        assert (found.backup_id, found.epoch) == (backup_id, found_epoch)
    # between the end of a log and the next backup there is nothing
    create(api, {"instance": source, "time": told(earlier(400))}, 400)
    made = create(api, {"instance": source, "time": "now"})["instance"]
    assert restoration_of(api, made["id"]).target_time == NOW.timestamp()


def test_a_deleted_instance_can_be_had_as_of_a_time(api: api_fixture.Api, source: str) -> None:
    epoch = add_archive(api, source, as_of=earlier(100))
    add_backup(api, source, epoch)
    with api.database.writer() as session:
        log_archives.close_active(session, source, now=NOW)
    api.set_instance(source, is_deleted=True)
    create(api, {"instance": source, "time": told(earlier(200))})
    create(api, {"instance": str(uuid.uuid4()), "time": told(earlier(200))}, 404)


def test_the_instance_of_another_project_does_not_exist(api: api_fixture.Api) -> None:
    other = api.create_instance(active=True, project="project-b")
    create(api, {"instance": other, "time": "now"}, 404)


# -- in place -----


def act(api: api_fixture.Api, instance_id: str, point: Any, status: int = 202) -> Any:
    return api.request(
        "POST", f"/instances/{instance_id}/action", {"restore": point}, status=status
    )


def test_an_instance_is_restored_in_place(api: api_fixture.Api, source: str) -> None:
    epoch = add_archive(api, source, as_of=earlier(100))
    backup_id = add_backup(api, source, epoch)
    act(api, source, {"time": told(earlier(200))})
    found = restoration_of(api, source)
    assert (found.chain, found.epoch) == ((backup_id,), epoch)
    assert found.target_time == earlier(200).timestamp()
    assert api.get(f"/instances/{source}")["instance"]["status"] == "BUILD"
    # nothing else begins meanwhile
    act(api, source, {"backupRef": backup_id}, 422)
    api.request("POST", f"/instances/{source}/action", {"restart": {}}, status=422)


def test_a_backup_can_be_made_before(
    sqlite_database: base.Database, tmp_path: pathlib.Path
) -> None:
    store = filesystem.FilesystemStore(tmp_path / "objects")
    api = api_fixture.make_api(sqlite_database, objects=store)
    api.add_datastore()
    source = api.create_instance(active=True)
    backup_id = add_backup(api, source)
    act(api, source, {"backupRef": backup_id, "safety_backup": True})
    (before,) = [each for each in api.get("/backups")["backups"] if each["purpose"] == "safety"]
    assert before["status"] == "NEW"
    with api.database.reader() as session:
        found = operations.list_operations(session, resource_id=source, active_only=True)
    data = {each.kind: (each.lock_key, each.data) for each in found}
    assert data[operations.RESTORE_INSTANCE][1]["safety_backup_id"] == before["id"]
    assert data[operations.CREATE_BACKUP][0] is None
    assert api.get(f"/instances/{source}")["instance"]["status"] == "BUILD"


def test_another_instances_backup_can_come_in_its_place(api: api_fixture.Api, source: str) -> None:
    other = api.create_instance(active=True)
    backup_id = add_backup(api, other)
    act(api, source, {"backupRef": backup_id})
    assert restoration_of(api, source) == restorations.Restoration(chain=(backup_id,))


def test_what_does_not_fit_does_not_come_in_its_place(api: api_fixture.Api, source: str) -> None:
    assert "volume" in message(
        act(api, source, {"backupRef": add_backup(api, source, volume_size_gib=5)}, 403).json
    )
    running = add_backup(api, source, status=states.BackupStatus.FAILED)
    act(api, source, {"backupRef": running}, 409)
    act(api, source, {"backupRef": str(uuid.uuid4())}, 404)
    act(api, source, {}, 400)
    assert api.get(f"/instances/{source}")["instance"]["status"] == "ACTIVE"


def test_what_is_being_deleted_cannot_be_restored(api: api_fixture.Api, source: str) -> None:
    backup_id = add_backup(api, source)
    with api.database.writer() as session:
        backups.begin_delete(session, backup_id, now=NOW)
    act(api, source, {"backupRef": backup_id}, 409)
    create(api, {"backupRef": backup_id}, 409)


def test_what_is_being_restored_cannot_be_deleted(api: api_fixture.Api, source: str) -> None:
    backup_id = add_backup(api, source)
    create(api, {"backupRef": backup_id})
    api.request("DELETE", f"/backups/{backup_id}", status=422)


# -- what is shown -----


def test_to_which_moments_an_instance_can_be_restored_is_shown(
    api: api_fixture.Api, source: str
) -> None:
    shown = api.get(f"/instances/{source}")["instance"]
    assert shown["earliest_restorable_time"] is None
    assert shown["latest_restorable_time"] is None
    assert "archive" not in shown
    epoch = add_archive(api, source, as_of=earlier(100))
    shown = api.get(f"/instances/{source}")["instance"]
    assert shown["earliest_restorable_time"] is None
    assert shown["archive"] == {
        "status": "active",
        "lag_seconds": 100,
        "pending_bytes": 3,
        "problem": None,
    }
    add_backup(api, source, epoch, completed=earlier(600.5))
    shown = api.get(f"/instances/{source}")["instance"]
    assert shown["earliest_restorable_time"] == "2026-05-01T11:50:00"
    assert shown["latest_restorable_time"] == "2026-05-01T11:58:20"
    # every moment in between is one
    for key in ("earliest_restorable_time", "latest_restorable_time"):
        create(api, {"instance": source, "time": shown[key]})


def test_no_moment_is_shown_before_the_log_reaches_on_from_the_backup(
    api: api_fixture.Api, source: str
) -> None:
    epoch = add_archive(api, source, as_of=earlier(100.3))
    add_backup(api, source, epoch, completed=earlier(100.4))
    shown = api.get(f"/instances/{source}")["instance"]
    assert shown["earliest_restorable_time"] == "2026-05-01T11:58:20"
    assert shown["latest_restorable_time"] is None
    told = create(api, {"instance": source, "time": "2026-05-01T11:58:19"}, 400)
    assert "does not reach on from it yet" in str(told)


# -- proofs -----


def prove(api: api_fixture.Api, backup_id: str, status: int = 202, **options: Any) -> Any:
    body: dict[str, Any] = {"verify": {}}
    return api.request("POST", f"/backups/{backup_id}/action", body, status=status, **options).json


def test_a_backup_is_proven_at_once(api: api_fixture.Api, source: str) -> None:
    full = add_backup(api, source)
    increment = add_backup(api, source, parent_id=full, kind=states.BackupKind.INCREMENT)
    shown = api.get(f"/backups/{increment}")["backup"]["verification"]
    assert shown == {"status": None, "verified_at": None, "details": {}}
    assert prove(api, increment)["backup"]["verification"]["status"] == "running"
    with api.database.reader() as session:
        (operation,) = operations.list_operations(session, kind=operations.VERIFY_BACKUP)
    assert operation.resource_id == source
    assert operation.data[restorations.KEY]["chain"] == [full, increment]
    assert operation.id in api.taskmanager.hints
    # the instance is free for other things meanwhile
    assert api.get(f"/instances/{source}")["instance"]["status"] == "ACTIVE"
    api.request("POST", f"/instances/{source}/action", {"restart": {}}, status=202)
    prove(api, increment, 409)
    with api.database.writer() as session:
        backups.record_verification(
            session,
            increment,
            verification=states.Verification.FAILED,
            verified=NOW,
            details={"reason": "table a.b is corrupt"},
        )
    assert api.get(f"/backups/{increment}")["backup"]["verification"] == {
        "status": "failed",
        "verified_at": "2026-05-01T12:00:00",
        "details": {"reason": "table a.b is corrupt"},
    }


def test_a_snapshot_is_proven_on_a_server_of_its_own(api: api_fixture.Api, source: str) -> None:
    backup_id = add_backup(api, source, **SNAPSHOT)
    api.set_instance(source, is_deleted=True)
    assert prove(api, backup_id)["backup"]["verification"]["status"] == "running"
    with api.database.reader() as session:
        (operation,) = operations.list_operations(session, kind=operations.VERIFY_ON_SERVER)
    assert operation.data[restorations.KEY]["snapshot_id"] == "snapshot-1"


def test_what_cannot_be_proven_is_refused(api: api_fixture.Api, source: str) -> None:
    prove(api, str(uuid.uuid4()), 404)
    prove(api, add_backup(api, source, project_id="project-b"), 404)
    prove(api, add_backup(api, source, status=states.BackupStatus.FAILED), 409)
    backup_id = add_backup(api, source)
    prove(api, backup_id, 403, roles="reader")
    api.set_instance(source, is_deleted=True)
    assert "is gone" in message(prove(api, backup_id, 501))
