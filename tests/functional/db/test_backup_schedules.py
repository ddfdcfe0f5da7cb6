"""Schedules and their runs: found by an index, and taken by one however many try."""

import concurrent.futures
import datetime
from collections.abc import Sequence
from typing import Any

import pytest
import sqlalchemy as sa

from tests.fixtures.database import NOW, add_instance, add_version
from trove import states
from trove.common import exception
from trove.db import backup_schedules, base, models
from trove.db.backup_schedules import NewSchedule, Run, Schedule

DAY = datetime.timedelta(days=1)


def add(database: base.Database, **values: Any) -> str:
    given: dict[str, Any] = {
        "project_id": "project",
        "user_id": None,
        "instance_id": "",
        "name": models.new_id(),
        "cron": "0 2 * * *",
        "timezone": "UTC",
        "window_s": 0,
        "full_every": 1,
        "retention": {"count": 3},
        "is_enabled": True,
        "next_run": NOW,
        **values,
    }
    with database.writer() as session:
        return backup_schedules.create(session, NewSchedule(**given), now=NOW)


def get(database: base.Database, schedule_id: str) -> Schedule:
    with database.reader() as session:
        found = backup_schedules.find(session, schedule_id)
    assert found is not None
    return found


def run_of(schedule_id: str, number: int = 0, *, at: datetime.datetime = NOW) -> Run:
    return Run(
        schedule_id=schedule_id,
        instance_id=f"i{number}",
        planned=NOW,
        next_try=at,
        deadline=NOW + DAY,
    )


def due_runs(database: base.Database, now: datetime.datetime = NOW) -> Sequence[Run]:
    with database.reader() as session:
        return backup_schedules.list_due_runs(session, now=now, limit=100)


def test_a_schedule_is_what_was_stored(database: base.Database) -> None:
    schedule_id = add(database, name="nightly", retention={"daily": 7}, window_s=60)
    found = get(database, schedule_id)
    assert found.is_default
    assert (found.name, found.retention, found.window_s) == ("nightly", {"daily": 7}, 60)
    assert (found.next_run, found.created, found.last_run) == (NOW, NOW, None)
    with database.writer() as session:
        assert backup_schedules.find(session, schedule_id, project_id="other") is None
        with pytest.raises(exception.AlreadyExists):
            backup_schedules.create(
                session,
                NewSchedule(
                    **{name: getattr(found, name) for name in NewSchedule.__dataclass_fields__}
                ),
                now=NOW,
            )
        # the transaction goes on
        assert backup_schedules.update(session, schedule_id, now=NOW, name="other")
        assert not backup_schedules.update(session, "none", now=NOW, name="other")
        assert backup_schedules.remove(session, schedule_id)
        assert not backup_schedules.remove(session, schedule_id)


def test_of_many_schedulers_one_moves_a_schedule_on_and_one_takes_a_run(
    database: base.Database,
) -> None:
    schedule = get(database, add(database))

    @base.retry_on_conflict
    def release(number: int) -> bool:
        with database.writer() as session:
            if not backup_schedules.advance(session, schedule, next_run=NOW + DAY, now=NOW):
                return False
            backup_schedules.add_runs(session, [run_of(schedule.id)])
            return True

    @base.retry_on_conflict
    def take(number: int) -> bool:
        with database.writer() as session:
            return backup_schedules.take_run(session, run_of(schedule.id))

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(release, range(8))) == 1
        assert get(database, schedule.id).next_run == NOW + DAY
        assert len(due_runs(database)) == 1
        assert sum(pool.map(take, range(8))) == 1
    assert not due_runs(database)


def test_what_was_changed_meanwhile_is_not_moved_on(database: base.Database) -> None:
    schedule = get(database, add(database))
    later = NOW + datetime.timedelta(seconds=1)
    with database.writer() as session:
        backup_schedules.update(session, schedule.id, now=later, cron="0 5 * * *")
        assert not backup_schedules.advance(session, schedule, next_run=NOW + DAY, now=NOW)
    with database.writer() as session:
        backup_schedules.update(session, schedule.id, now=later, is_enabled=False, next_run=None)
        assert not backup_schedules.advance(session, schedule, next_run=NOW + DAY, now=NOW)


def test_a_run_that_has_not_begun_is_one_with_the_next(database: base.Database) -> None:
    schedule_id = add(database)
    later = run_of(schedule_id, at=NOW + datetime.timedelta(hours=1))
    with database.writer() as session:
        backup_schedules.add_runs(session, [])
        backup_schedules.add_runs(session, [run_of(schedule_id)])
        backup_schedules.add_runs(session, [later, run_of(schedule_id, 1)])
    assert [run.instance_id for run in due_runs(database)] == ["i0", "i1"]
    with database.writer() as session:
        # one who read another time has no business with it
        assert not backup_schedules.take_run(session, later)
        until = NOW + datetime.timedelta(minutes=5)
        assert backup_schedules.put_off(session, run_of(schedule_id), until=until)
        assert not backup_schedules.put_off(session, run_of(schedule_id), until=until)
    assert [run.instance_id for run in due_runs(database)] == ["i1"]
    assert len(due_runs(database, NOW + DAY)) == 2
    with database.writer() as session:
        backup_schedules.remove(session, schedule_id)
    assert not due_runs(database, NOW + DAY)


def test_the_longest_due_come_first_and_no_more_than_are_asked_for(
    database: base.Database,
) -> None:
    ids = [add(database, next_run=NOW - n * DAY) for n in (2, 0, 3, 1)]
    add(database, next_run=NOW + DAY)
    add(database, next_run=None)
    add(database, is_enabled=False)
    with database.reader() as session:
        found = backup_schedules.list_due(session, now=NOW, limit=3)
    assert [schedule.id for schedule in found] == [ids[2], ids[0], ids[3]]


def test_a_default_covers_live_instances_without_schedules(database: base.Database) -> None:
    version_id = add_version(database)
    own, plain, going = (
        add_instance(database, version_id, task=states.TaskStatus.NONE) for _ in range(3)
    )
    default, of_own = add(database), add(database, instance_id=own)
    with database.writer() as session:
        session.execute(
            sa.update(models.Instance)
            .where(models.Instance.id == going)
            .values(task=states.TaskStatus.DELETING)
        )
    with database.reader() as session:
        for schedule_id, expected in ((default, [plain]), (of_own, [own])):
            schedule = get(database, schedule_id)
            assert backup_schedules.list_covered(session, schedule) == expected
        assert backup_schedules.count(session, "project", own) == 1


def test_what_is_due_of_very_many_is_found_by_an_index(database: base.Database) -> None:
    given = get(database, add(database))
    columns = {name: getattr(given, name) for name in NewSchedule.__dataclass_fields__}
    with database.writer() as session:
        session.execute(
            sa.insert(models.BackupSchedule),
            [
                {
                    **columns,
                    "id": models.new_id(),
                    "name": f"s{number}",
                    "next_run": NOW + datetime.timedelta(seconds=number),
                    "created": NOW,
                    "updated": NOW,
                }
                for number in range(20_000 if database.is_sqlite else 4000)
            ],
        )
        explain = "EXPLAIN QUERY PLAN" if database.is_sqlite else "EXPLAIN"
        for statement, index in (
            (
                "SELECT id FROM backup_schedules WHERE is_enabled = 1 AND next_run <= :now"
                " ORDER BY next_run LIMIT 200",
                "ix_backup_schedules_due",
            ),
            (
                "SELECT schedule_id FROM backup_runs WHERE next_try <= :now"
                " ORDER BY next_try LIMIT 100",
                "ix_backup_runs_due",
            ),
        ):
            plan = session.execute(sa.text(f"{explain} {statement}"), {"now": NOW}).all()
            assert index in str(plan)
    with database.reader() as session:
        found = backup_schedules.list_due(session, now=NOW + DAY, limit=200)
        assert len(found) == 200
        assert found[0].next_run == NOW
