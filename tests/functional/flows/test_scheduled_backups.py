"""From a schedule to objects in the store, and from its rules to their removal."""

from __future__ import annotations

import pathlib

import pytest

from tests.functional.flows.test_backup_flows import PROJECT, Setup, make_setup
from trove import states
from trove.db import backup_schedules, base, quotas
from trove.services.timetables import Timetable
from trove.taskmanager import scheduler

DAY_S = 86400


@pytest.fixture
def setup(
    sqlite_database: base.Database, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> Setup:
    return make_setup(sqlite_database, tmp_path, monkeypatch)


def test_backups_come_and_go_by_a_schedule(setup: Setup) -> None:
    plane = setup.plane
    now = plane.clock.now()
    new = backup_schedules.NewSchedule(
        project_id=PROJECT,
        user_id="user",
        instance_id=setup.instance_id,
        name="nightly",
        cron="0 2 * * *",
        timezone="UTC",
        window_s=0,
        full_every=2,
        retention={"count": 2},
        is_enabled=True,
        next_run=Timetable("0 2 * * *", "UTC").find_next(now),
    )
    with plane.database.writer() as session:
        schedule_id = backup_schedules.create(session, new, now=now)
    each = scheduler.Scheduler(plane.tools, hint=lambda ids: None)
    runner = plane.runner()
    for _ in range(5):
        plane.manual_clock.advance(DAY_S)
        each.run()
        plane.settle(runner)
    plane.manual_clock.advance(3600)
    each.run()
    plane.settle(runner)
    listed = setup.service.list_page(project_id=PROJECT, limit=10, offset=0)[0]
    left = sorted(listed, key=lambda backup: backup.created)
    # the newest is full; the one before builds on another, which stays
    full, increment = states.BackupKind.FULL, states.BackupKind.INCREMENT
    assert [backup.kind for backup in left] == [full, increment, full]
    assert all(backup.status is states.BackupStatus.COMPLETED for backup in left)
    assert all(backup.purpose is states.BackupPurpose.SCHEDULED for backup in left)
    assert {name.split("/")[1] for name in setup.objects()} == {backup.id for backup in left}
    with plane.database.reader() as session:
        assert quotas.get_usage(session, PROJECT)[quotas.BACKUPS] == 3
        found = backup_schedules.find(session, schedule_id)
    assert found is not None
    assert (found.last_backup_id, found.problem) == (left[-1].id, None)
