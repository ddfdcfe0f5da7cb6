"""When backups are made, and the runs that are due.

A schedule is of one instance, or a project's default: for its instances without schedules of their
own. Two conditional writes see to it that of several schedulers one makes a backup, and that one
that ends at any moment loses none:

* :func:`advance` moves ``next_run`` on, only from the value that was read, and adds a row of
  ``backup_runs`` for each instance in the same transaction; a run that has not begun when the next
  one is due is one with it.
* :func:`take_run` removes that row, in the transaction that makes the backup.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, cast

import sqlalchemy as sa
from oslo_db import exception as oslo_db_exception
from sqlalchemy import orm

from trove import states
from trove.common import exception
from trove.db import models

#: Stands for the instance in the default of a project.
WHOLE_PROJECT = ""

_schedules = cast(sa.Table, models.BackupSchedule.__table__)
_runs = cast(sa.Table, models.BackupRun.__table__)
_instances = cast(sa.Table, models.Instance.__table__)
_backups = cast(sa.Table, models.Backup.__table__)
#: Adds rows unless there are such already.
_INSERT_RUNS = (
    sa.insert(_runs)
    .prefix_with("OR IGNORE", dialect="sqlite")
    .prefix_with("IGNORE", dialect="mysql")
    .prefix_with("IGNORE", dialect="mariadb")
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """A schedule as it was read; the fields are those of the model."""

    id: str
    project_id: str
    user_id: str | None
    instance_id: str
    name: str
    cron: str
    timezone: str
    window_s: int
    full_every: int
    retention: Mapping[str, Any]
    is_enabled: bool
    next_run: datetime.datetime | None
    last_run: datetime.datetime | None
    last_backup_id: str | None
    #: How that one stands; None when it is not there.
    last_backup_status: states.BackupStatus | None
    problem: str | None
    created: datetime.datetime
    updated: datetime.datetime

    @property
    def is_default(self) -> bool:
        """Tell whether it is the default of a project."""
        return self.instance_id == WHOLE_PROJECT


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class NewSchedule:
    """What a schedule is made of."""

    project_id: str
    user_id: str | None
    instance_id: str
    name: str
    cron: str
    timezone: str
    window_s: int
    full_every: int
    retention: Mapping[str, Any]
    is_enabled: bool
    next_run: datetime.datetime | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A backup that a schedule has to make of an instance."""

    schedule_id: str
    instance_id: str
    planned: datetime.datetime
    next_try: datetime.datetime
    deadline: datetime.datetime


_SELECT = sa.select(
    *(
        _backups.c.status.label(field.name)
        if field.name == "last_backup_status"
        else _schedules.c[field.name]
        for field in dataclasses.fields(Schedule)
    )
).outerjoin_from(
    _schedules,
    _backups,
    sa.and_(_backups.c.id == _schedules.c.last_backup_id, _backups.c.is_deleted == sa.false()),
)
_RUN_COLUMNS = tuple(_runs.c[field.name] for field in dataclasses.fields(Run))


def _read(session: orm.Session, query: sa.Select[Any]) -> list[Schedule]:
    return [Schedule(**row._mapping) for row in session.execute(query)]


# -- schedules -----


def create(session: orm.Session, new: NewSchedule, *, now: datetime.datetime) -> str:
    """Add a schedule and return its id; raises AlreadyExists for the name of another one."""
    row = models.BackupSchedule(
        **{field.name: getattr(new, field.name) for field in dataclasses.fields(new)},
        created=now,
        updated=now,
    )
    try:
        with session.begin_nested():
            session.add(row)
    except oslo_db_exception.DBDuplicateEntry:
        raise exception.AlreadyExists(kind="backup schedule", name=new.name) from None
    return row.id


def find(
    session: orm.Session, schedule_id: str, *, project_id: str | None = None
) -> Schedule | None:
    """Return a schedule, or None; of ``project_id`` only, unless that is None."""
    query = _SELECT.where(_schedules.c.id == schedule_id)
    if project_id is not None:
        query = query.where(_schedules.c.project_id == project_id)
    found = _read(session, query)
    return found[0] if found else None


def find_many(session: orm.Session, schedule_ids: Iterable[str]) -> Mapping[str, Schedule]:
    """Return those of some schedules that there are, by id."""
    query = _SELECT.where(_schedules.c.id.in_(list(schedule_ids)))
    return {schedule.id: schedule for schedule in _read(session, query)}


def list_page(
    session: orm.Session,
    project_id: str | None,
    *,
    instance_id: str | None,
    after: str | None,
    limit: int,
) -> tuple[Sequence[Schedule], bool]:
    """Return up to ``limit`` schedules by id behind ``after``, and whether there are more.

    Those of an instance, or, with an empty one, the defaults; of all projects with None.
    """
    query = _SELECT.order_by(_schedules.c.id).limit(limit + 1)
    if project_id is not None:
        query = query.where(_schedules.c.project_id == project_id)
    if instance_id is not None:
        query = query.where(_schedules.c.instance_id == instance_id)
    if after is not None:
        query = query.where(_schedules.c.id > after)
    found = _read(session, query)
    return found[:limit], len(found) > limit


def count(session: orm.Session, project_id: str, instance_id: str) -> int:
    """Return how many schedules an instance has, or how many defaults a project."""
    query = (
        sa.select(sa.func.count())
        .select_from(_schedules)
        .where(_schedules.c.project_id == project_id, _schedules.c.instance_id == instance_id)
    )
    return int(session.scalar(query) or 0)


def update(
    session: orm.Session, schedule_id: str, *, now: datetime.datetime, **values: Any
) -> bool:
    """Change columns; tell whether there is the schedule. Raises AlreadyExists for a name."""
    try:
        with session.begin_nested():
            changed = session.execute(
                sa.update(_schedules)
                .where(_schedules.c.id == schedule_id)
                .values(**values, updated=now)
            )
    except oslo_db_exception.DBDuplicateEntry:
        raise exception.AlreadyExists(kind="backup schedule", name=values.get("name", "")) from None
    return bool(changed.rowcount)  # type: ignore[attr-defined]


def drop_runs(
    session: orm.Session, schedule_id: str, *, behind: datetime.datetime | None = None
) -> None:
    """Remove the runs of a schedule that have not begun; ``behind``: those that begin later."""
    query = sa.delete(_runs).where(_runs.c.schedule_id == schedule_id)
    if behind is not None:
        query = query.where(_runs.c.next_try > behind)
    session.execute(query)


def remove(session: orm.Session, schedule_id: str) -> bool:
    """Remove a schedule with its runs that have not begun; tell whether there was one."""
    drop_runs(session, schedule_id)
    removed = session.execute(sa.delete(_schedules).where(_schedules.c.id == schedule_id))
    return bool(removed.rowcount)  # type: ignore[attr-defined]


# -- what is due -----


def list_due(session: orm.Session, *, now: datetime.datetime, limit: int) -> Sequence[Schedule]:
    """Return schedules whose time has come, longest due first."""
    query = (
        _SELECT.where(_schedules.c.is_enabled == sa.true(), _schedules.c.next_run <= now)
        .order_by(_schedules.c.next_run)
        .limit(limit)
    )
    return _read(session, query)


def list_ahead(session: orm.Session, *, now: datetime.datetime, limit: int) -> Sequence[Schedule]:
    """Return schedules that a clock moved on, or made, that was ahead of ``now``."""
    query = _SELECT.where(
        _schedules.c.is_enabled == sa.true(),
        sa.or_(_schedules.c.last_run > now, _schedules.c.updated > now),
    ).limit(limit)
    return _read(session, query)


def advance(
    session: orm.Session,
    schedule: Schedule,
    *,
    next_run: datetime.datetime | None,
    now: datetime.datetime,
) -> bool:
    """Move a schedule on; False when somebody else did, or it was changed meanwhile."""
    return _move(session, schedule, next_run=next_run, last_run=now)


def take_back(
    session: orm.Session,
    schedule: Schedule,
    *,
    next_run: datetime.datetime | None,
    now: datetime.datetime,
) -> bool:
    """Have a schedule go on by a clock that was set back; False as with :func:`advance`."""
    last_run = min(schedule.last_run, now) if schedule.last_run else None
    updated = min(schedule.updated, now)
    return _move(session, schedule, next_run=next_run, last_run=last_run, updated=updated)


def _move(session: orm.Session, schedule: Schedule, **values: Any) -> bool:
    moved = session.execute(
        sa.update(_schedules)
        .where(
            _schedules.c.id == schedule.id,
            _schedules.c.next_run.is_not_distinct_from(schedule.next_run),
            _schedules.c.updated == schedule.updated,
            _schedules.c.is_enabled == sa.true(),
        )
        .values(**values)
    )
    return bool(moved.rowcount)  # type: ignore[attr-defined]


def list_covered(session: orm.Session, schedule: Schedule) -> Sequence[str]:
    """Return the ids of the instances that a schedule is for, but those being deleted.

    A default is for those of its project that have no schedule of their own, enabled or not.
    """
    query = sa.select(_instances.c.id).where(
        _instances.c.is_deleted == sa.false(),
        _instances.c.task != states.TaskStatus.DELETING,
        _instances.c.project_id == schedule.project_id,
    )
    if not schedule.is_default:
        return list(session.scalars(query.where(_instances.c.id == schedule.instance_id)))
    own = sa.exists().where(_schedules.c.instance_id == _instances.c.id)
    return list(session.scalars(query.where(~own).order_by(_instances.c.id)))


def add_runs(session: orm.Session, runs: Sequence[Run]) -> None:
    """Add runs; one of an instance that has not begun yet stays as it is."""
    if runs:
        session.execute(_INSERT_RUNS, [dataclasses.asdict(run) for run in runs])


def list_due_runs(session: orm.Session, *, now: datetime.datetime, limit: int) -> Sequence[Run]:
    """Return runs to begin now, longest due first."""
    query = (
        sa.select(*_RUN_COLUMNS).where(_runs.c.next_try <= now).order_by(_runs.c.next_try)
    ).limit(limit)
    return [Run(**row._mapping) for row in session.execute(query)]


def take_run(session: orm.Session, run: Run) -> bool:
    """Remove a run, to begin it or to give it up; False when somebody else did or put it off."""
    taken = session.execute(sa.delete(_runs).where(*_is(run)))
    return bool(taken.rowcount)  # type: ignore[attr-defined]


def put_off(session: orm.Session, run: Run, *, until: datetime.datetime) -> bool:
    """Have a run tried again later; False when somebody else had it."""
    moved = session.execute(sa.update(_runs).where(*_is(run)).values(next_try=until))
    return bool(moved.rowcount)  # type: ignore[attr-defined]


def _is(run: Run) -> Collection[sa.ColumnElement[bool]]:
    return (
        _runs.c.schedule_id == run.schedule_id,
        _runs.c.instance_id == run.instance_id,
        _runs.c.next_try == run.next_try,
    )


def record(session: orm.Session, schedule_id: str, *, problem: str | None) -> None:
    """Note why a run made no backup; None: nothing is wrong as far as is known."""
    session.execute(
        sa.update(_schedules).where(_schedules.c.id == schedule_id).values(problem=problem)
    )


def record_backup(session: orm.Session, schedule_id: str, backup_id: str) -> None:
    """Note which backup a schedule made last."""
    session.execute(
        sa.update(_schedules).where(_schedules.c.id == schedule_id).values(last_backup_id=backup_id)
    )


def end(session: orm.Session, schedule_id: str, *, problem: str) -> None:
    """Have a schedule make no more backups; its rules go on for those there are."""
    session.execute(
        sa.update(_schedules)
        .where(_schedules.c.id == schedule_id)
        .values(is_enabled=False, next_run=None, problem=problem)
    )


# -- what was made -----


def put_right_backups(
    session: orm.Session, *, now: datetime.datetime, ahead: datetime.timedelta
) -> None:
    """Have backups be of ``now``, in their order, that were made by a clock ahead of it.

    They would be the newest for as long as the clock was ahead, and their rules keep no others.
    """
    query = (
        sa.select(_backups.c.id)
        .where(_backups.c.created > now + ahead, _backups.c.is_deleted == sa.false())
        .order_by(_backups.c.created.desc(), _backups.c.id)
    )
    for number, backup_id in enumerate(session.scalars(query).all()):
        created = now - datetime.timedelta(milliseconds=number)
        session.execute(
            sa.update(_backups).where(_backups.c.id == backup_id).values(created=created)
        )


def list_instances_with_backups(session: orm.Session, *, after: str, limit: int) -> Sequence[str]:
    """Return ids of instances that have backups, in order, behind ``after``."""
    query = (
        sa.select(_backups.c.instance_id)
        .where(_backups.c.instance_id > after, _backups.c.is_deleted == sa.false())
        .distinct()
        .order_by(_backups.c.instance_id)
        .limit(limit)
    )
    return [str(instance_id) for instance_id in session.scalars(query)]


def hold(session: orm.Session, instance_id: str) -> None:
    """Let no other transaction begin a backup of an instance until this one ends."""
    session.execute(
        sa.update(_instances)
        .where(_instances.c.id == instance_id)
        .values(running_backup_id=_instances.c.running_backup_id)
    )


def list_expired(session: orm.Session, *, now: datetime.datetime, limit: int) -> Sequence[str]:
    """Return ids of backups whose time is over, that are not being removed."""
    query = (
        sa.select(_backups.c.id)
        .where(
            _backups.c.is_deleted == sa.false(),
            _backups.c.expires <= now,
            _backups.c.deleted.is_(None),
        )
        .order_by(_backups.c.expires)
        .limit(limit)
    )
    return list(session.scalars(query))
