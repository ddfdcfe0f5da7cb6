"""Schedules at work on a simulated clock: each run once, whatever happens in between."""

from __future__ import annotations

import concurrent.futures
import datetime
import os
import random
import threading
import zoneinfo
from collections.abc import Callable

import pytest
import sqlalchemy as sa

from tests.fixtures.control_plane import ControlPlane
from tests.fixtures.database import add_version
from tests.fixtures.schedules import Refusing, Scheduling, allow_backups
from trove import states
from trove.common import exception
from trove.db import backup_schedules, backups, base, models, operations
from trove.taskmanager import scheduler

DAY_S = 86400
#: Random schedules that are run for a year; tools that try many more set both.
SCHEDULES = int(os.environ.get("TROVE_TEST_SCHEDULES", "1"))
SEED = os.environ.get("TROVE_TEST_SCHEDULES_SEED", "a few")


@pytest.fixture
def at(sqlite_database: base.Database, monkeypatch: pytest.MonkeyPatch) -> Scheduling:
    return make(sqlite_database, monkeypatch)


@pytest.fixture
def on_both(database: base.Database, monkeypatch: pytest.MonkeyPatch) -> Scheduling:
    return make(database, monkeypatch)


def make(database: base.Database, monkeypatch: pytest.MonkeyPatch) -> Scheduling:
    allow_backups(monkeypatch)
    database.notifies = True
    plane = ControlPlane(database)
    plane.conf.set_override("max_backups_per_tenant", -1, group="quota")
    return Scheduling(plane=plane, made_by=Refusing(plane))


def next_due(at: Scheduling) -> datetime.datetime | None:
    """Return when a scheduler next has anything to do."""
    with at.plane.database.reader() as session:
        found = [
            session.scalar(sa.select(sa.func.min(column)))
            for column in (models.BackupSchedule.next_run, models.BackupRun.next_try)
        ]
    return min((moment for moment in found if moment is not None), default=None)


def run_for(at: Scheduling, span: datetime.timedelta) -> None:
    """Have two schedulers do what is due, moment after moment; backups are completed at once."""
    began = at.plane.clock.now()
    one, other = at.scheduler(), at.scheduler()
    while (moment := next_due(at)) is not None:
        if moment > began + span:
            break
        at.plane.manual_clock.advance((moment - at.plane.clock.now()).total_seconds())
        for each in (one, other):
            each.release()
            each.begin()
        if at.hints:
            at.complete()
            at.hints.clear()


def test_four_hundred_days_in_changing_zones(at: Scheduling) -> None:
    zones = ("Europe/Berlin", "America/Santiago")
    instances = {zone: at.instance() for zone in zones}
    for zone, instance_id in instances.items():
        # times that are skipped, or come twice, on Sundays when clocks change
        hour = 0 if zone == "America/Santiago" else 2
        at.schedule(instance_id, cron=f"15 {hour} * * 0", timezone=zone, window_s=1800)
    run_for(at, datetime.timedelta(days=400))
    for zone, instance_id in instances.items():
        zone_info = zoneinfo.ZoneInfo(zone)
        planned = [
            datetime.datetime.fromisoformat(each.name.rpartition(" ")[2])
            for each in at.backups(instance_id)
        ]
        assert len(set(planned)) == len(planned)
        days = [moment.astimezone(zone_info).date() for moment in planned]
        assert len(set(days)) == len(days) == 57
        assert {day.isoweekday() for day in days} == {7}
        for each, moment in zip(at.backups(instance_id), planned, strict=True):
            assert 0 <= (each.created - moment).total_seconds() <= 1800
    assert not at.events()


@pytest.mark.parametrize("number", range(SCHEDULES))
def test_a_year_of_any_schedule_runs_it_once_on_each_of_its_days(
    at: Scheduling, number: int
) -> None:
    chance = random.Random(f"{SEED}:{number}")
    zones = sorted(zoneinfo.available_timezones() - {"localtime", "Factory", "posixrules"})
    zone = zoneinfo.ZoneInfo(chance.choice(zones))
    weekday = chance.choice([None, *range(7)]) if number else 3
    # mostly where clocks are set
    hour, minute = chance.choice([0, 1, 2, 3, chance.randrange(24)]), chance.randrange(60)
    cron = f"{minute} {hour} * * {'*' if weekday is None else weekday}"
    told = f"{SEED}:{number}: {cron} in {zone}"
    instance_id = at.instance()
    at.schedule(instance_id, cron=cron, timezone=zone.key, window_s=chance.choice([0, 900]))
    run_for(at, datetime.timedelta(days=400))
    made = at.backups(instance_id)
    planned = [datetime.datetime.fromisoformat(each.name.rpartition(" ")[2]) for each in made]
    days = [moment.astimezone(zone).date() for moment in planned]
    between = (days[0] + datetime.timedelta(days=n) for n in range((days[-1] - days[0]).days + 1))
    wanted = [day for day in between if weekday is None or day.isoweekday() % 7 == weekday]
    assert days == wanted, told
    assert (days[-1] - days[0]).days > 390, told
    for each, moment in zip(made, planned, strict=True):
        assert 0 <= (each.created - moment).total_seconds() <= 900, told
        local = moment.astimezone(zone)
        if (local.hour, local.minute) != (hour, minute):
            # the time that the clock skipped: it is the end of the gap
            before = (moment - datetime.timedelta(seconds=1)).astimezone(zone)
            assert before.utcoffset() != local.utcoffset(), f"{told}: {local}"
    assert not at.events(), told


def test_what_was_missed_is_caught_up_once(at: Scheduling) -> None:
    instance_id = at.instance()
    schedule_id = at.schedule(instance_id, cron="0 */6 * * *")
    at.to("2026-01-05T13:07:00")
    at.scheduler().run()
    at.complete()
    at.scheduler().run()
    (made,) = at.backups(instance_id)
    assert made.created == at.plane.clock.now()
    assert at.get(schedule_id).next_run == datetime.datetime(2026, 1, 5, 18, tzinfo=datetime.UTC)
    assert at.get(schedule_id).last_backup_id == made.id
    assert at.get(schedule_id).last_backup_status is states.BackupStatus.COMPLETED
    assert at.hints


def test_of_several_schedulers_each_run_is_begun_by_one(on_both: Scheduling) -> None:
    at = on_both
    instances = [at.instance() for _ in range(12)]
    for instance_id in instances[:6]:
        at.schedule(instance_id)
    at.schedule()
    at.to("2026-01-01T02:00:00")
    together = threading.Barrier(3)

    def work(each: scheduler.Scheduler) -> None:
        together.wait(30)
        each.run()
        together.wait(30)
        each.run()

    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        list(pool.map(work, [at.scheduler() for _ in range(3)]))
    assert [len(at.backups(each)) for each in instances] == [1] * 12
    assert len(at.hints) == 12
    assert not at.events()


def test_what_was_missed_by_many_is_spread_over_the_window(at: Scheduling) -> None:
    for _ in range(20):
        at.schedule(at.instance(), window_s=3600)
    at.to("2026-01-05T13:00:00")
    at.scheduler().run()
    with at.plane.database.reader() as session:
        found = session.scalars(sa.select(models.BackupRun.next_try)).all()
    began = at.plane.clock.now()
    assert all(0 <= (moment - began).total_seconds() <= 3600 for moment in found)
    assert len(set(found)) > 15


def test_the_default_is_for_instances_without_schedules_of_their_own(at: Scheduling) -> None:
    plain, own, off, other = (at.instance() for _ in range(4))
    at.schedule(own, cron="0 5 * * *")
    at.schedule(off, is_enabled=False, next_run=None)
    with at.plane.database.writer() as session:
        session.execute(
            sa.update(models.Instance)
            .where(models.Instance.id == other)
            .values(project_id="another")
        )
    default = at.schedule()
    at.to("2026-01-01T02:00:00")
    at.scheduler().run()
    assert [len(at.backups(each)) for each in (plain, own, off, other)] == [1, 0, 0, 0]
    assert at.backups(plain)[0].schedule_id == default


def test_one_that_is_not_ready_is_tried_again_and_then_told_of(at: Scheduling) -> None:
    instance_id, busy = at.instance(), at.instance()
    at.schedule(instance_id, window_s=0)
    schedule_id = at.schedule(busy, window_s=0)
    not_ready = exception.InstanceNotReady(instance_id=busy, status="RESIZE")
    at.made_by.refusals = {instance_id: not_ready, busy: not_ready}
    at.to("2026-01-01T02:00:00")
    at.scheduler().run()
    del at.made_by.refusals[instance_id]
    for _ in range(20):
        at.plane.manual_clock.advance(60)
        at.scheduler().run()
    (made,) = at.backups(instance_id)
    assert made.created == datetime.datetime(2026, 1, 1, 2, 1, tzinfo=datetime.UTC)
    assert not at.backups(busy)
    (told,) = at.events()
    assert "RESIZE" in told["message"]
    assert told["schedule_id"] == schedule_id
    assert "RESIZE" in str(at.get(schedule_id).problem)
    with at.plane.database.reader() as session:
        (notification,) = session.execute(
            sa.select(models.Notification.event_type, models.Notification.payload).where(
                models.Notification.priority == "error"
            )
        )
    assert notification.event_type == "dbaas.backup_create.error"
    assert notification.payload["instance_id"] == busy
    assert notification.payload["exception"] == "trove.instance_not_ready"
    # the next day it is well again
    at.made_by.refusals = {}
    at.to("2026-01-02T02:00:00")
    at.scheduler().run()
    assert at.get(schedule_id).problem is None


def test_a_quota_that_is_used_up_is_told_at_once(at: Scheduling) -> None:
    instance_id = at.instance()
    schedule_id = at.schedule(instance_id, window_s=3600)
    at.made_by.refusals[instance_id] = exception.QuotaExceeded(resources=["backups"])
    at.to("2026-01-01T03:00:00")
    at.scheduler().run()
    at.plane.manual_clock.advance(3600)
    at.scheduler().run()
    assert "Quota exceeded" in at.events()[0]["message"]
    assert len(at.events()) == 1
    assert "Quota exceeded" in str(at.get(schedule_id).problem)


def test_what_fails_unforeseen_holds_up_no_others(at: Scheduling) -> None:
    bad, good = at.instance(), at.instance()
    at.schedule(bad, cron="0 1 * * *")
    at.schedule(good, cron="30 1 * * *")
    at.made_by.refusals[bad] = RuntimeError("a bug")
    at.to("2026-01-01T02:00:00")
    each = at.scheduler()
    with pytest.raises(RuntimeError):
        each.run()
    each.run()
    assert len(at.backups(good)) == 1
    at.made_by.refusals = {}
    at.plane.manual_clock.advance(1200)
    each.run()
    assert len(at.backups(bad)) == 1


def test_every_nth_is_full(at: Scheduling) -> None:
    instance_id = at.instance()
    at.schedule(instance_id, full_every=3)
    for day in range(1, 8):
        at.to(f"2026-01-0{day}T02:00:00")
        at.scheduler().run()
        at.complete()
    made = at.backups(instance_id)
    kinds = [each.kind for each in made]
    full, increment = states.BackupKind.FULL, states.BackupKind.INCREMENT
    assert kinds == [full, increment, increment, full, increment, increment, full]
    assert [each.parent_id for each in made[:3]] == [None, made[0].id, made[1].id]


@pytest.mark.parametrize(
    "trouble", ["refuted", "failed", "restored", "upgraded", "deleted", "no increments"]
)
def test_a_chain_that_cannot_go_on_begins_anew(
    at: Scheduling, trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance_id = at.instance()
    at.schedule(instance_id, full_every=100)
    for day in (1, 2):
        at.to(f"2026-01-0{day}T02:00:00")
        at.scheduler().run()
        at.complete()
    first, second = at.backups(instance_id)
    assert second.parent_id == first.id
    now = at.plane.clock.now()
    with at.plane.database.writer() as session:
        match trouble:
            case "refuted":
                backups.update(session, first.id, now=now, verification=states.Verification.FAILED)
            case "failed":
                session.execute(
                    sa.update(models.Backup)
                    .where(models.Backup.id == second.id)
                    .values(status=states.BackupStatus.FAILED)
                )
            case "restored":
                operations.create(
                    session,
                    kind="restore_instance",
                    step="x",
                    resource_id=instance_id,
                    lock_key=None,
                    deadline=now,
                    now=now,
                    project_id="project",
                )
            case "deleted":
                backups.mark_deleted(session, first.id, now=now)
            case "no increments":
                allow_backups(monkeypatch, increments=False)
    if trouble == "upgraded":
        version_id = add_version(at.plane.database, version="10.12")
        with at.plane.database.writer() as session:
            session.execute(sa.update(models.Instance).values(datastore_version_id=version_id))
    at.to("2026-01-03T02:00:00")
    at.scheduler().run()
    assert at.backups(instance_id)[-1].kind is states.BackupKind.FULL


def test_an_instance_that_is_deleted_is_backed_up_no_more(at: Scheduling) -> None:
    going, gone, waiting = at.instance(), at.instance(), at.instance()
    schedules = [at.schedule(each) for each in (going, gone)]
    default = at.schedule(window_s=3600)
    with at.plane.database.writer() as session:
        session.execute(
            sa.update(models.Instance)
            .where(models.Instance.id == going)
            .values(task=states.TaskStatus.DELETING)
        )
        session.execute(
            sa.update(models.Instance)
            .where(models.Instance.id == gone)
            .values(is_deleted=True, deleted=at.plane.clock.now())
        )
    at.to("2026-01-01T02:00:00")
    at.scheduler().run()
    with at.plane.database.writer() as session:
        session.execute(sa.update(models.Instance).values(task=states.TaskStatus.DELETING))
    at.plane.manual_clock.advance(3600)
    at.scheduler().run()
    assert not any(at.backups(each) for each in (going, gone, waiting))
    for each in schedules:
        assert not at.get(each).is_enabled
        assert "deleted" in str(at.get(each).problem)
    assert at.get(default).is_enabled
    assert not at.events()


def test_a_zone_that_was_given_up_is_a_problem_of_its_schedule_alone(at: Scheduling) -> None:
    instance_id, other = at.instance(), at.instance()
    now = at.plane.clock.now()
    lost = at.schedule(instance_id, timezone="Gone/Away", next_run=now)
    at.schedule(other, next_run=now)
    at.scheduler().run()
    assert "Gone/Away" in str(at.get(lost).problem)
    # what was due is made all the same
    assert len(at.backups(instance_id)) == len(at.backups(other)) == 1


def test_retention_removes_what_no_rule_keeps(on_both: Scheduling) -> None:
    at = on_both
    instance_id = at.instance()
    at.schedule(instance_id, full_every=2, retention={"count": 2})
    each = at.scheduler()
    for day in range(1, 8):
        at.to(f"2026-01-0{day}T02:00:00")
        each.release()
        each.begin()
        at.complete()
    # of seven: a full one and an increment, three times, and a full one
    each.run()
    going = [backup.created.day for backup in at.backups(instance_id) if backup.is_deleting]
    at.complete()
    # each chain by one deletion
    assert (len(at.hints), going) == (7 + 2, [1, 2, 3, 4])
    assert [backup.created.day for backup in at.backups(instance_id)] == [5, 6, 7]


def test_what_the_store_does_not_remove_is_tried_again_after_a_day(at: Scheduling) -> None:
    instance_id = at.instance()
    at.schedule(instance_id, retention={"count": 1})
    each = at.scheduler()
    for day in (1, 2):
        at.to(f"2026-01-0{day}T02:00:00")
        each.release()
        each.begin()
        at.complete()
    at.to("2026-01-20T01:00:00")
    older = at.backups(instance_id)[0]
    with at.plane.database.writer() as session:
        session.execute(sa.update(models.BackupSchedule).values(is_enabled=False))
        backups.change_status(
            session,
            older.id,
            expect=states.BackupStatus.COMPLETED,
            to=states.BackupStatus.DELETE_FAILED,
            now=at.plane.clock.now(),
        )
    at.hints.clear()
    at.scheduler().run()
    assert not at.hints
    at.plane.manual_clock.advance(DAY_S + 1)
    at.scheduler().run()
    assert len(at.hints) == 1


def test_retention_looks_at_all_instances_in_turn(
    at: Scheduling, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trove.taskmanager.scheduler._INSTANCES", 2)
    instances = [at.instance() for _ in range(5)]
    at.schedule(retention={"count": 1})
    each = at.scheduler()
    for day in (1, 2):
        at.to(f"2026-01-0{day}T02:00:00")
        each.release()
        each.begin()
        at.complete()
    for _ in range(4):
        each.run()
    at.complete()
    assert [len(at.backups(instance_id)) for instance_id in instances] == [1] * 5


def test_one_that_is_being_removed_counts_as_gone(at: Scheduling) -> None:
    instance_id = at.instance()
    at.schedule(instance_id, retention={"count": 1})
    for day in (1, 2):
        at.to(f"2026-01-0{day}T02:00:00")
        at.scheduler().release()
        at.scheduler().begin()
        at.complete()
    older, newer = at.backups(instance_id)
    with at.plane.database.writer() as session:
        backups.begin_delete(session, newer.id, now=at.plane.clock.now())
    at.scheduler().run()
    at.complete()
    assert [backup.id for backup in at.backups(instance_id)] == [older.id]


def test_what_has_an_end_is_removed_then_but_for_the_last_of_a_live_instance(
    at: Scheduling,
) -> None:
    live, gone = at.instance(), at.instance()
    for instance_id in (live, gone):
        at.schedule(instance_id)
    at.to("2026-01-01T02:00:00")
    at.scheduler().run()
    at.complete(expires=at.plane.clock.now() + datetime.timedelta(days=3))
    with at.plane.database.writer() as session:
        session.execute(
            sa.update(models.Instance).where(models.Instance.id == gone).values(is_deleted=True)
        )
        session.execute(sa.update(models.BackupSchedule).values(is_enabled=False))
    at.to("2026-01-04T01:00:00")
    at.scheduler().run()
    assert len(at.backups(gone)) == 1
    at.to("2026-01-04T02:00:00")
    at.scheduler().run()
    at.complete()
    assert not at.backups(gone)
    assert len(at.backups(live)) == 1


def die(name: str, *, after: bool) -> Callable[..., None]:
    """Return what ends the process before or after a write."""
    real = getattr(backup_schedules, name)

    def end(*args: object, **kwargs: object) -> None:
        if after:
            real(*args, **kwargs)
        raise KeyboardInterrupt

    return end


def test_a_process_that_ends_anywhere_loses_and_doubles_nothing(
    at: Scheduling, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each write of the tables in turn is the last thing that a scheduler did."""
    names = ("advance", "add_runs", "take_run", "put_off", "record_backup")
    instances = [at.instance() for _ in range(2)]
    for instance_id in instances:
        at.schedule(instance_id)
    day = 0
    for name in names:
        for when in ("before", "after"):
            day += 1
            at.to(f"2026-01-{day:02}T02:00:00")
            with monkeypatch.context() as patch:
                patch.setattr(backup_schedules, name, die(name, after=when == "after"))
                if name == "put_off":
                    not_ready = exception.InstanceNotReady(instance_id="x", status="REBOOT")
                    at.made_by.refusals = dict.fromkeys(instances, not_ready)
                with pytest.raises(KeyboardInterrupt):
                    at.scheduler().run()
            at.made_by.refusals = {}
            for _ in range(3):
                at.scheduler().run()
                at.plane.manual_clock.advance(70)
            at.complete()
            assert [len(at.backups(each)) for each in instances] == [day, day]
    assert not at.events()
