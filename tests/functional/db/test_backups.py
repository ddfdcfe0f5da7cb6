"""Backups in the database: the one that is being made, pages, chains, ends."""

from __future__ import annotations

import datetime
from typing import Any

import pytest
import sqlalchemy as sa

from tests.fixtures.database import NOW, add_instance, add_version, new_backup
from trove import states
from trove.common import exception
from trove.db import backups, base, instances, models, quotas

Status = states.BackupStatus


def later(seconds: float) -> datetime.datetime:
    return NOW + datetime.timedelta(seconds=seconds)


def add(
    database: base.Database,
    version_id: str,
    *,
    now: datetime.datetime = NOW,
    status: Status = Status.COMPLETED,
    **changes: Any,
) -> str:
    new = new_backup(version_id, **{"user_id": "user", "status": status, **changes})
    with database.writer() as session:
        assert backups.create(session, new, now=now)
    return new.id


@pytest.fixture
def version_id(database: base.Database) -> str:
    return add_version(database)


def running_of(database: base.Database, instance_id: str) -> str | None:
    with database.reader() as session:
        return session.scalar(
            sa.select(models.Instance.running_backup_id).where(models.Instance.id == instance_id)
        )


def test_one_backup_of_an_instance_is_made_at_a_time(
    database: base.Database, version_id: str
) -> None:
    instance_id = add_instance(database, version_id)
    first = add(database, version_id, instance_id=instance_id, status=Status.NEW)
    second = new_backup(version_id, instance_id=instance_id, status=Status.NEW)
    with database.writer() as session:
        assert not backups.create(session, second, now=NOW)
        assert backups.find(session, second.id) is None
    assert running_of(database, instance_id) == first
    with database.writer() as session:
        running = backups.find_running(session, instance_id)
        assert running is not None
        assert running.id == first
        assert backups.change_status(
            session, first, expect=Status.NEW, to=Status.BUILDING, now=later(1)
        )
    assert running_of(database, instance_id) == first
    with database.writer() as session:
        assert backups.change_status(
            session, first, expect=backups.RUNNING, to=Status.FAILED, now=later(2), fault="why"
        )
    assert running_of(database, instance_id) is None
    with database.writer() as session:
        assert backups.create(session, second, now=NOW)


def test_an_instance_that_is_gone_gets_no_backup(database: base.Database, version_id: str) -> None:
    instance_id = add_instance(database, version_id)
    with database.writer() as session:
        instances.mark_deleted(session, instance_id, now=NOW)
    new = new_backup(version_id, instance_id=instance_id, status=Status.NEW)
    with database.writer() as session:
        assert not backups.create(session, new, now=NOW)


def test_a_status_changes_only_from_what_is_expected(
    database: base.Database, version_id: str
) -> None:
    instance_id = add_instance(database, version_id)
    backup_id = add(database, version_id, instance_id=instance_id, status=Status.NEW)
    with database.writer() as session:
        assert not backups.change_status(
            session, backup_id, expect=Status.BUILDING, to=Status.SAVING, now=NOW
        )
        with pytest.raises(ValueError, match="does not go from NEW to COMPLETED"):
            backups.change_status(
                session, backup_id, expect=Status.NEW, to=Status.COMPLETED, now=NOW
            )
        # one that is being made is not deleted
        assert not backups.mark_deleted(session, backup_id, now=NOW)
        backups.change_status(session, backup_id, expect=Status.NEW, to=Status.FAILED, now=NOW)
        assert backups.mark_deleted(session, backup_id, now=NOW)
        assert not backups.mark_deleted(session, backup_id, now=NOW)
        assert backups.find(session, backup_id) is None
        with pytest.raises(exception.BackupNotFound):
            backups.get(session, backup_id)
        kept = backups.find(session, backup_id, with_deleted=True)
        assert kept is not None
        assert kept.key_wrapped is None


def test_pages_begin_with_the_newest_change_and_neither_overlap_nor_gape(
    database: base.Database, version_id: str
) -> None:
    ids = [add(database, version_id, now=later(i)) for i in range(5)]
    other_version = add_version(database, manager="mysql", version="5.6")
    other = add(database, other_version, now=later(9), project_id="other", manager="mysql")
    with database.writer() as session:
        backups.update(session, ids[0], now=later(8), name="new name")
    mine = backups.Filters(project_id="project")
    with database.reader() as session:
        first, more = backups.list_page(session, mine, limit=3)
        rest, no_more = backups.list_page(session, mine, limit=3, offset=3)
        everything, _ = backups.list_page(session, backups.Filters(), limit=10)
        of_datastore, _ = backups.list_page(
            session,
            backups.Filters(datastore_id=_datastore_of(session, other_version)),
            limit=10,
        )
        assert backups.list_page(session, mine, limit=3, offset=50) == ([], False)
    found = [view.id for view in [*first, *rest]]
    assert found == [ids[0], ids[4], ids[3], ids[2], ids[1]]
    assert (more, no_more) == (True, False)
    assert [view.id for view in everything] == [other, *found]
    assert [view.id for view in of_datastore] == [other]
    assert first[0].version_name == "10.11"


def _datastore_of(session: Any, version_id: str) -> str:
    return str(
        session.scalar(
            sa.select(models.DatastoreVersion.datastore_id).where(
                models.DatastoreVersion.id == version_id
            )
        )
    )


def test_a_chain_goes_from_the_full_backup_to_the_asked_for_one(
    database: base.Database, version_id: str
) -> None:
    full = add(database, version_id)
    first = add(
        database, version_id, now=later(1), parent_id=full, kind=states.BackupKind.INCREMENT
    )
    second = add(
        database, version_id, now=later(2), parent_id=first, kind=states.BackupKind.INCREMENT
    )
    branch = add(
        database, version_id, now=later(3), parent_id=full, kind=states.BackupKind.INCREMENT
    )
    with database.reader() as session:
        assert [view.id for view in backups.chain(session, second)] == [full, first, second]
        assert [view.id for view in backups.chain(session, full)] == [full]
        assert [view.id for view in backups.list_children(session, full)] == [first, branch]
        descendants = [view.id for view in backups.list_descendants(session, full)]
        assert descendants[0] == second
        assert sorted(descendants[1:]) == sorted([first, branch])
        with pytest.raises(exception.BackupNotFound):
            backups.chain(session, models.new_id())
    with database.writer() as session:
        backups.mark_deleted(session, first, now=NOW)
    with database.reader() as session, pytest.raises(exception.BackupNotFound, match=first):
        backups.chain(session, second)


def test_an_increment_builds_on_the_newest_completed_backup(
    database: base.Database, version_id: str
) -> None:
    instance_id = add_instance(database, version_id)
    own = {"instance_id": instance_id}
    with database.reader() as session:
        assert backups.find_last_completed(session, instance_id) is None
    add(database, version_id, now=later(1), **own)
    newest = add(database, version_id, now=later(2), **own)
    add(database, version_id, now=later(3), kind=states.BackupKind.SNAPSHOT, **own)
    add(database, version_id, now=later(4), status=Status.FAILED, **own)
    add(database, version_id, now=later(5))
    with database.reader() as session:
        found = backups.find_last_completed(session, instance_id)
        assert found is not None
        assert found.id == newest
        everything = backups.list_of_instance(session, instance_id)
        failed = backups.list_of_instance(session, instance_id, statuses=[Status.FAILED])
    assert [len(everything), len(failed)] == [4, 1]


def test_usage_counts_what_is_there(database: base.Database, version_id: str) -> None:
    add(database, version_id, stored_bytes=3 << 40)
    gone = add(database, version_id, stored_bytes=5)
    add(database, version_id, stored_bytes=7, project_id="other")
    with database.writer() as session:
        backups.mark_deleted(session, gone, now=NOW)
    with database.reader() as session:
        assert backups.get_usage(session, "project") == backups.Usage(count=1, stored_bytes=3 << 40)
        assert backups.get_usage(session).stored_bytes == (3 << 40) + 7


def test_what_is_being_deleted_is_built_on_no_more(
    database: base.Database, version_id: str
) -> None:
    instance_id = add_instance(database, version_id)
    full = add(database, version_id, instance_id=instance_id)
    child = add(database, version_id, parent_id=full, now=later(1))
    grandchild = add(database, version_id, parent_id=child, now=later(2), status=Status.FAILED)
    with database.writer() as session:
        assert backups.hold(session, full)
        assert not backups.hold(session, grandchild)
        found = backups.begin_delete(session, full, now=later(3))
        assert found == [
            (grandchild, Status.FAILED),
            (child, Status.COMPLETED),
            (full, Status.COMPLETED),
        ]
        assert not backups.hold(session, full)
        assert backups.find_last_completed(session, instance_id) is None
        view = backups.get(session, full)
        assert view.is_deleting
        assert not view.is_restorable


def test_backups_count_in_a_quota_that_is_corrected(
    database: base.Database, version_id: str
) -> None:
    add(database, version_id)
    gone = add(database, version_id)
    with database.writer() as session:
        backups.mark_deleted(session, gone, now=NOW)
    with database.writer() as session:
        assert quotas.list_projects(session) == ["project"]
        (drift,) = quotas.recount(session, "project", dry_run=False)
    assert (drift.resource, drift.recorded, drift.counted) == ("backups", 0, 1)


def test_pages_and_running_backups_are_found_by_indexes(
    database: base.Database, version_id: str
) -> None:
    row = {
        "name": "b",
        "status": Status.COMPLETED,
        "kind": states.BackupKind.FULL,
        "purpose": states.BackupPurpose.MANUAL,
        "datastore_version_id": version_id,
        "manager": "mariadb",
        "storage_driver": "swift",
        "facts": {},
        "verification_details": {},
        "is_deleted": False,
    }
    rows = [
        {
            **row,
            "id": models.new_id(),
            "project_id": f"project-{i % 20}",
            "instance_id": f"instance-{i % 200}",
            "created": later(i),
            "updated": later(i),
        }
        for i in range(1000)
    ]
    with database.writer() as session:
        session.execute(sa.insert(models.Backup), rows)
        for letter in "abcdefghijklmnopqrs":
            _copy(session, f"x{letter}", among=[row["id"] for row in rows])
        if not database.is_sqlite:
            session.execute(sa.text("ANALYZE TABLE backups"))
    statements: list[tuple[str, Any]] = []

    def note(connection: Any, cursor: Any, statement: str, parameters: Any, *rest: Any) -> None:
        statements.append((statement, parameters))

    with database.reader() as session:
        engine = session.get_bind()
        sa.event.listen(engine, "before_cursor_execute", note)
        mine = backups.Filters(project_id="project-7")
        page, more = backups.list_page(session, mine, limit=20, offset=900)
        assert [len(page), more] == [20, True]
        found, _ = backups.list_page(session, backups.Filters(), limit=5)
        assert [view.updated for view in found] == [later(999)] * 5
        of_instance, _ = backups.list_page(
            session, backups.Filters(project_id="project-7", instance_id="instance-7"), limit=200
        )
        assert len(of_instance) == 100
        assert backups.find_last_completed(session, "instance-7") is not None
        sa.event.remove(engine, "before_cursor_execute", note)
        for statement, parameters in statements:
            if statement.startswith("SELECT"):
                assert not _scans(session, statement, parameters), statement


def _copy(session: Any, beginning: str, *, among: list[str]) -> None:
    """Have these backups once more, with ids of another beginning."""
    table = models.Backup.__table__
    copied = [
        sa.literal(beginning) + sa.func.substr(column, 3, type_=sa.String)
        if column.name == "id"
        else column
        for column in table.columns
    ]
    session.execute(
        sa.insert(models.Backup).from_select(
            [column.name for column in table.columns],
            sa.select(*copied).where(table.c.id.in_(among)),
            include_defaults=False,
        )
    )


def _scans(session: Any, statement: str, parameters: Any) -> bool:
    """Tell whether a statement reads backups other than by an index."""
    cursor = session.connection().connection.cursor()
    if session.get_bind().dialect.name == "sqlite":
        cursor.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)
        return any("SCAN backups" in row[3] and "INDEX" not in row[3] for row in cursor.fetchall())
    cursor.execute(f"EXPLAIN {statement}", parameters)
    key, table = 5, 2
    return any(row[table] == "backups" and row[key] is None for row in cursor.fetchall())
