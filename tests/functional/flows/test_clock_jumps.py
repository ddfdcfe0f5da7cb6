"""The clock of a control plane is set wrong for a while, and right again: backups come and stay.

A schedule, its rules and backups that somebody asks for, with all that a task manager does of them,
on a clock that jumps at random. What the time really is, is what the other clock says.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import os
import pathlib
import random

import pytest
import sqlalchemy as sa

from tests.functional.flows.test_backup_flows import PROJECT, Setup, make_setup
from trove import states
from trove.common import exception
from trove.db import backup_schedules, base, models, operations
from trove.services.timetables import Timetable
from trove.taskmanager import scheduler

#: Random times of some days; tools that try many more set both.
TIMES = int(os.environ.get("TROVE_TEST_CLOCKS", "2"))
SEED = os.environ.get("TROVE_TEST_CLOCKS_SEED", "a few")
_HOUR_S = 3600.0
_STEP_S = 3 * _HOUR_S
_CRON = "0 2 * * *"
_DAYS = 5
_KEPT = 2


@dataclasses.dataclass
class Days:
    """What goes on in a few days."""

    setup: Setup
    chance: random.Random
    rules: dict[str, int]
    #: Hours of the right time: when backups were seen first, in order, and when they were gone.
    seen: dict[str, float] = dataclasses.field(default_factory=dict)
    gone: dict[str, float] = dataclasses.field(default_factory=dict)
    #: Days with a jump across more than an hour.
    disturbed: set[int] = dataclasses.field(default_factory=set)
    asked: list[str] = dataclasses.field(default_factory=list)
    #: Made while the clock was behind: they are taken for older than they are.
    too_old: set[str] = dataclasses.field(default_factory=set)
    off_s: float = 0.0

    def begin(self) -> None:
        """Have a schedule, at midnight."""
        plane = self.setup.plane
        past_s = plane.clock.now().timestamp() % (24 * _HOUR_S)
        plane.manual_clock.advance(24 * _HOUR_S - past_s)
        now = plane.clock.now()
        self.apart_s = now.timestamp() - plane.clock.monotonic()
        self.began = plane.clock.monotonic()
        self.scheduler = scheduler.Scheduler(plane.tools, hint=lambda ids: None)
        self.runner = plane.runner()
        new = backup_schedules.NewSchedule(
            project_id=PROJECT,
            user_id="user",
            instance_id=self.setup.instance_id,
            name="nightly",
            cron=_CRON,
            timezone="UTC",
            window_s=self.chance.choice([0, 1800]),
            full_every=self.chance.choice([1, 3]),
            retention=self.rules,
            is_enabled=True,
            next_run=Timetable(_CRON, "UTC").find_next(now),
        )
        with plane.database.writer() as session:
            self.schedule_id = backup_schedules.create(session, new, now=now)

    @property
    def hour(self) -> float:
        """What the right time is."""
        return (self.setup.plane.clock.monotonic() - self.began) / _HOUR_S

    def work(self) -> None:
        """Do what a task manager does."""
        plane = self.setup.plane
        self.scheduler.run()
        self.runner.put_right()
        while found := plane.due():
            for operation_id in found:
                self.runner.drive(operation_id)
        query = sa.select(models.Backup.id).where(models.Backup.deleted.is_(None))
        with plane.database.reader() as session:
            there = set(session.scalars(query))
        for backup_id in there - set(self.seen) - set(self.asked):
            self.seen[backup_id] = self.hour
            if self.off_s < 0:
                self.too_old.add(backup_id)
        for backup_id in set(self.seen) - there - set(self.gone):
            self.gone[backup_id] = self.hour

    def jump(self) -> None:
        """Set the clock, and set it right before an hour is over."""
        clock, chance = self.setup.plane.manual_clock, self.chance
        by_s = chance.choice([-1, 1]) * 10 ** chance.uniform(2, 7.5)
        self.disturbed |= {int(self.hour // 24) + day for day in (-1, 0, 1)}
        if chance.random() < 0.5:
            # one is being made already, now and then
            with contextlib.suppress(exception.TroveError):
                self.asked.append(self.setup.make())
        self.off_s = by_s
        clock.set_forward(by_s)
        for _ in range(chance.randrange(1, 4)):
            self.work()
            clock.advance(chance.uniform(1, 900))
        self.work()
        self.off_s = 0.0
        clock.set_forward(-by_s)
        self.work()

    def run(self) -> None:
        """Let the days pass."""
        self.begin()
        while self.hour < _DAYS * 24:
            if self.chance.random() < 0.25 and self.hour < (_DAYS - 2) * 24:
                self.jump()
            self.setup.plane.manual_clock.advance(_STEP_S - self.hour * _HOUR_S % _STEP_S)
            self.work()

    # -- what has to be so -----

    def expect(self, told: str) -> None:
        """See that none is missing, doubled, gone too early, or without an end."""
        plane = self.setup.plane
        assert abs(plane.clock.now().timestamp() - plane.clock.monotonic() - self.apart_s) < 0.01
        by_day = [sum(hour // 24 == day for hour in self.seen.values()) for day in range(_DAYS)]
        for day, count in enumerate(by_day):
            assert count == 1 or (count > 1 and day in self.disturbed), f"{told}: {by_day}"
        assert not plane.active(), told
        for backup_id in self.asked:
            asked = self.setup.get(backup_id)
            assert asked.status in (states.BackupStatus.COMPLETED, states.BackupStatus.FAILED)
            assert asked.status is states.BackupStatus.COMPLETED or asked.fault, told
        for backup_id, hour in self.gone.items():
            if backup_id in self.too_old:
                continue
            if "days" in self.rules:
                assert hour - self.seen[backup_id] >= 24 * _KEPT - 0.1, told
            else:
                newer = [each for each in self.seen.values() if self.seen[backup_id] < each <= hour]
                assert len(newer) >= _KEPT, told
        with plane.database.reader() as session:
            schedule = backup_schedules.find(session, self.schedule_id)
            assert not session.scalars(sa.select(models.BackupRun.planned)).all()
        assert schedule is not None
        assert schedule.next_run is not None
        assert schedule.next_run <= plane.clock.now() + datetime.timedelta(days=1)


@pytest.mark.parametrize("number", range(TIMES))
def test_a_clock_that_is_set_right_again_costs_no_backup(
    number: int,
    sqlite_database: base.Database,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told, rule = f"{SEED}:{number}", ("days", "count")[number % 2]
    setup = make_setup(sqlite_database, tmp_path, monkeypatch)
    days = Days(setup, random.Random(told), {rule: _KEPT})
    days.run()
    days.expect(told)


def test_an_operation_of_a_dead_process_does_not_wait_for_a_time_that_was_wrong(
    sqlite_database: base.Database, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = make_setup(sqlite_database, tmp_path, monkeypatch)
    plane, year_s = setup.plane, 365 * 24 * _HOUR_S
    backup_id = setup.make()
    (operation_id,) = plane.due()
    plane.manual_clock.set_forward(year_s)
    with plane.database.writer() as session:
        assert operations.claim(
            session, operation_id, owner="who dies", now=plane.clock.now(), lease_s=60
        )
    plane.manual_clock.set_forward(-year_s)
    runner = plane.runner()
    assert not plane.due()
    runner.put_right()
    assert not plane.due()
    # whoever had it had until then to say that he lives
    plane.manual_clock.advance(plane.conf.taskmanager.lease_s + 1)
    plane.settle(runner)
    assert setup.get(backup_id).status is states.BackupStatus.COMPLETED
