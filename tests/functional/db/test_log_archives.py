"""Archives of logs in the database: what agents may tell, what is needed, what is late."""

from __future__ import annotations

import dataclasses
import datetime
from typing import Any

import pytest
import sqlalchemy as sa

from tests.fixtures.database import NOW, add_instance, add_version, new_backup
from trove import states
from trove.db import backups, base, figures, log_archives, models

Status = states.ArchiveStatus


def later(seconds: float) -> datetime.datetime:
    return NOW + datetime.timedelta(seconds=seconds)


@pytest.fixture
def version_id(database: base.Database) -> str:
    return add_version(database)


@pytest.fixture
def instance_id(database: base.Database, version_id: str) -> str:
    return add_instance(database, version_id)


def begin(database: base.Database, instance_id: str, *, now: datetime.datetime = NOW) -> str:
    epoch = models.new_id()
    with database.writer() as session:
        log_archives.begin(
            session,
            log_archives.NewArchive(
                epoch=epoch,
                instance_id=instance_id,
                project_id="project",
                storage_driver="filesystem",
                account_id="project",
                container="database_backups",
                prefix=f"{instance_id}/archive/{epoch}/",
                key_wrapped=b"wrapped",
            ),
            now=now,
        )
    return epoch


def report(instance_id: str, epoch: str, sequence: int = 1, **changes: Any) -> log_archives.Report:
    values: dict[str, Any] = {
        "instance_id": instance_id,
        "epoch": epoch,
        "sequence": sequence,
        "since": NOW,
        "as_of": later(10 * sequence),
        "pending_bytes": 5,
        "stored_bytes": 100 * sequence,
        "problem": None,
        "is_lost": False,
        "reported": later(10 * sequence + 1),
    }
    return log_archives.Report(**values | changes)


def store(database: base.Database, *reports: log_archives.Report) -> None:
    with database.writer() as session:
        log_archives.store(session, reports)


def get(database: base.Database, epoch: str) -> log_archives.Archive:
    with database.reader() as session:
        found = log_archives.find(session, epoch)
    assert found is not None
    return found


def add_backup(
    database: base.Database, version_id: str, instance_id: str, epoch: str | None, **changes: Any
) -> str:
    values: dict[str, Any] = {
        "instance_id": instance_id,
        "archive_epoch": epoch,
        "archive_sequence": 0,
        "completed": NOW,
    }
    new = new_backup(version_id, **values | changes)
    with database.writer() as session:
        assert backups.create(session, new, now=NOW)
    return new.id


def list_events(database: base.Database) -> list[tuple[str, str]]:
    with database.reader() as session:
        rows = session.execute(
            sa.select(models.Event.type, models.Event.resource_id).order_by(models.Event.sequence)
        )
        return [(row.type, row.resource_id) for row in rows]


def test_reports_of_many_archives_are_stored_together(
    database: base.Database, version_id: str
) -> None:
    ids = [add_instance(database, version_id) for _ in range(3)]
    epochs = [begin(database, instance_id) for instance_id in ids]
    store(database, *(report(ids[n], epochs[n], n + 1) for n in range(3)))
    for n, epoch in enumerate(epochs):
        found = get(database, epoch)
        assert (found.next_sequence, found.as_of) == (n + 1, later(10 * (n + 1)))
        assert (found.since, found.pending_bytes, found.stored_bytes) == (NOW, 5, 100 * (n + 1))
        assert found.reported == later(10 * (n + 1) + 1)
        assert found.problem is None


def test_a_report_never_takes_an_archive_back(database: base.Database, instance_id: str) -> None:
    epoch = begin(database, instance_id)
    store(database, report(instance_id, epoch, 5))
    store(database, report(instance_id, epoch, 4, as_of=later(500), problem="older"))
    assert get(database, epoch).next_sequence == 5
    assert get(database, epoch).as_of == later(50)
    store(database, report(instance_id, epoch, 5, as_of=later(20), problem="the storage is full"))
    assert get(database, epoch).as_of == later(50)
    assert get(database, epoch).problem == "the storage is full"
    store(database, report(instance_id, epoch, 6, since=later(1)))
    assert get(database, epoch).since == NOW
    assert get(database, epoch).problem is None


def test_a_report_of_anothers_archive_changes_nothing(
    database: base.Database, version_id: str, instance_id: str
) -> None:
    other = add_instance(database, version_id)
    epoch = begin(database, other)
    before = get(database, epoch)
    store(database, report(instance_id, epoch, 7, is_lost=True))
    store(database, report(instance_id, "no-such-epoch", 7, is_lost=True))
    assert get(database, epoch) == before


def test_a_report_of_an_epoch_that_ended_changes_nothing(
    database: base.Database, instance_id: str
) -> None:
    former = begin(database, instance_id)
    store(database, report(instance_id, former, 3))
    epoch = begin(database, instance_id, now=later(60))
    ended = get(database, former)
    assert ended.state is Status.CLOSED
    store(database, report(instance_id, former, 9, is_lost=True))
    assert get(database, former) == ended
    with database.reader() as session:
        found = log_archives.find_active(session, instance_id)
    assert found is not None
    assert found.epoch == epoch


def test_a_lost_log_ends_its_epoch_and_is_told_once(
    database: base.Database, instance_id: str
) -> None:
    epoch = begin(database, instance_id)
    lost = report(instance_id, epoch, 3, is_lost=True, problem="the spool was full")
    store(database, lost)
    store(database, dataclasses.replace(lost, reported=later(90)))
    found = get(database, epoch)
    assert (found.state, found.next_sequence) == (Status.LOST, 3)
    assert found.problem == "the spool was full"
    assert list_events(database) == [
        (log_archives.BEGUN, instance_id),
        (log_archives.LOST, instance_id),
    ]


def test_the_window_begins_with_the_oldest_backup_of_the_newest_epoch(
    database: base.Database, version_id: str, instance_id: str
) -> None:
    with database.reader() as session:
        assert log_archives.find_window(session, instance_id) is None
    former = begin(database, instance_id)
    add_backup(database, version_id, instance_id, former, completed=later(-100))
    epoch = begin(database, instance_id, now=later(1))
    with database.reader() as session:
        window = log_archives.find_window(session, instance_id)
    assert window is not None
    assert (window.earliest, window.latest) == (None, None)
    add_backup(database, version_id, instance_id, epoch, completed=later(15))
    add_backup(database, version_id, instance_id, epoch, completed=later(12))
    add_backup(
        database,
        version_id,
        instance_id,
        epoch,
        completed=later(2),
        status=states.BackupStatus.FAILED,
    )
    # a backup may be newer than what was told of the log
    store(database, report(instance_id, epoch, 1))
    with database.reader() as session:
        window = log_archives.find_window(session, instance_id)
    assert window is not None
    assert (window.earliest, window.latest) == (later(12), later(15))
    store(database, report(instance_id, epoch, 4))
    with database.reader() as session:
        window = log_archives.find_window(session, instance_id)
    assert window is not None
    assert (window.earliest, window.latest) == (later(12), later(40))


def test_what_is_needed_begins_with_the_oldest_kept_backup(
    database: base.Database, version_id: str, instance_id: str
) -> None:
    epoch = begin(database, instance_id)
    other = begin(database, add_instance(database, version_id))
    for sequence in (7, 4, 9):
        add_backup(database, version_id, instance_id, epoch, archive_sequence=sequence)
    oldest = add_backup(database, version_id, instance_id, epoch, archive_sequence=1)
    with database.writer() as session:
        assert backups.mark_deleted(session, oldest, now=NOW)
        needs = {each.archive.epoch: each.sequence for each in log_archives.list_needs(session)}
        assert needs == {epoch: 4, other: None}
        assert log_archives.advance_first(session, epoch, 4, now=NOW)
        assert not log_archives.advance_first(session, epoch, 3, now=NOW)
    assert get(database, epoch).first_sequence == 4


def test_an_active_epoch_is_not_removed(database: base.Database, instance_id: str) -> None:
    epoch = begin(database, instance_id)
    with database.writer() as session:
        assert not log_archives.remove(session, epoch)
        assert log_archives.close_active(session, instance_id, now=NOW)
        assert not log_archives.close_active(session, instance_id, now=NOW)
        assert log_archives.remove(session, epoch)
        assert log_archives.find(session, epoch) is None


def test_an_archive_is_told_as_late_once_and_once_as_caught_up(
    database: base.Database, instance_id: str
) -> None:
    epoch = begin(database, instance_id)
    store(database, report(instance_id, epoch, 1))

    def tell(since_s: float) -> int:
        with database.writer() as session:
            return log_archives.tell_lags(
                session, since=later(since_s), now=later(since_s + 90), limit=10
            )

    assert [tell(since) for since in (5, 15, 20)] == [0, 1, 0]
    store(database, report(instance_id, epoch, 3))
    assert [tell(since) for since in (25, 25)] == [1, 0]
    assert list_events(database) == [
        (log_archives.BEGUN, instance_id),
        (log_archives.LATE, instance_id),
        (log_archives.CAUGHT_UP, instance_id),
    ]


def test_what_monitoring_reads_of_archives_and_proofs(
    database: base.Database, version_id: str, instance_id: str
) -> None:
    epoch = begin(database, instance_id)
    store(database, report(instance_id, epoch, 2))
    other = add_instance(database, version_id)
    backup_id = add_backup(database, version_id, instance_id, epoch)
    add_backup(database, version_id, other, None, completed=later(500))
    (page,) = figures.iterate_pages(database)
    assert {row.id: row.archive_as_of for row in page} == {instance_id: later(20), other: None}
    with database.writer() as session:
        assert backups.list_unproven(session, since=later(100)) == [(instance_id, "project")]
        assert backups.count_verifications(session)[None] == 2
        passed = states.Verification.PASSED
        backups.record_verification(
            session, backup_id, verification=passed, verified=later(200), details={"seconds": 1}
        )
        assert backups.list_unproven(session, since=later(100)) == []
        assert backups.count_verifications(session)[passed] == 1
        backups.record_verification(session, backup_id, verification=states.Verification.RUNNING)
        backups.end_verifications(session, instance_id)
        assert backups.get(session, backup_id).verification is None
