"""Begin the backups that schedules ask for, and remove those that no rule keeps.

One pass has three parts, each bounded, so that whoever has waited longest comes first and nobody
is held up by others for long:

1. Schedules whose time has come are moved on, with a row for each instance that is to be backed
   up. After an outage there is one, however many times were missed.
2. Those rows are made backups, each at a moment of its own within the schedule's window. What is
   not ready is tried again until the end of the window; then it is told.
3. The backups of some instances are compared with the rules of their schedules.

A clock that was wrong costs no more than a backup too many. What a clock that was ahead put off is
due by the one that was set back; what is old is removed only after the clock ran for a while
without being set, so that there is time to set it right.

Several task managers may do so at the same time, and each may end at any moment: see
:mod:`trove.db.backup_schedules`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from oslo_context import context as oslo_context
from oslo_log import log

import trove.datastores.all  # noqa: F401 - fills the registry
from trove import states
from trove.common import concurrency, exception
from trove.datastores import spec
from trove.db import (
    backup_schedules,
    backups,
    base,
    events,
    instance_views,
    notifications,
    operations,
)
from trove.db.backup_schedules import Run, Schedule
from trove.services import retention
from trove.services.backups import Backups, NewBackup
from trove.services.timetables import Timetable, delay_s
from trove.taskmanager import rounds
from trove.taskmanager.operations import engine

LOG = log.getLogger(__name__)

#: Schedules moved on, backups begun and instances tidied up at once; and how often in one pass.
_SCHEDULES = 200
_RUNS = 100
_INSTANCES = 50
_BATCHES = 5
#: Seconds between two looks at all that is kept.
_RETENTION_REST_S = 600.0
#: Schedules go on as they are when the clock was set back by less: no time comes twice.
_AHEAD = datetime.timedelta(hours=1)
_REFUSED_REST = datetime.timedelta(days=1)
#: What is not ready is tried again for at least this long, and no more often than this.
_LEAST_PATIENCE = datetime.timedelta(minutes=10)
_RETRY = datetime.timedelta(minutes=1)
_LONGEST_RETRY = datetime.timedelta(minutes=10)

_BACKUP, _INCREMENTS = spec.Capability.BACKUP, spec.Capability.INCREMENTS
_GONE = "The instance is deleted: the schedule only keeps the rules of its backups."


class _Taken(Exception):
    """Somebody else has the run: what was written for it is taken back."""


class Scheduler:
    """One pass is ``run``."""

    def __init__(
        self,
        tools: engine.Tools,
        *,
        hint: Callable[[Iterable[str]], None],
        makes: Backups | None = None,
    ) -> None:
        """Take the tools, who is told of new operations, and who makes backups if it is another."""
        self._database = tools.database
        self._clock = tools.clock
        self._watch = concurrency.ClockWatch(tools.clock)
        self._hint = hint
        self._backups = makes or Backups(
            conf=tools.conf,
            database=tools.database,
            run_operation=lambda operation_id: hint([operation_id]),
            key_ring=tools.key_ring,
            store=tools.store,
            clock=tools.clock,
        )
        #: The look at what is kept.
        self._round = rounds.Round(tools.clock, first="", rest_s=_RETENTION_REST_S)

    def run(self) -> None:
        """Do what is due."""
        if self._watch.was_set():
            self._put_right()
        for part in (self.release, self.begin):
            for _ in range(_BATCHES):
                if not part():
                    break
        self.tidy()

    def _find_now(self) -> datetime.datetime | None:
        """Return the time; None while somebody may still set the clock right."""
        return self._clock.now() if self._watch.is_settled() else None

    # -- what is due -----

    def _put_right(self) -> None:
        """Have schedules go on by this clock that one moved on that was ahead of it."""
        now = self._clock.now()
        while True:
            with self._database.reader() as session:
                ahead = backup_schedules.list_ahead(session, now=now + _AHEAD, limit=_SCHEDULES)
            for schedule in ahead:
                self._take_back(schedule, now)
            if len(ahead) < _SCHEDULES:
                return

    @base.retry_on_conflict
    def _take_back(self, schedule: Schedule, now: datetime.datetime) -> None:
        try:
            following = Timetable(schedule.cron, schedule.timezone).find_next(now)
        except exception.BadRequest:
            # it is told of when it is due
            following = now
        longest = datetime.timedelta(seconds=schedule.window_s) + _LONGEST_RETRY
        with self._database.writer() as session:
            if backup_schedules.take_back(session, schedule, next_run=following, now=now):
                # none of this clock's begins so late
                backup_schedules.drop_runs(session, schedule.id, behind=now + longest)
        LOG.info("backup schedule %s: goes on by a clock that was set back", schedule.id)

    def release(self) -> bool:
        """Move schedules on whose time has come; tell whether there may be more of them."""
        with self._database.reader() as session:
            due = backup_schedules.list_due(session, now=self._clock.now(), limit=_SCHEDULES)
        for schedule in due:
            self._release(schedule)
        return len(due) == _SCHEDULES

    @base.retry_on_conflict
    def _release(self, schedule: Schedule) -> None:
        now = self._clock.now()
        planned = schedule.next_run or now
        try:
            following = Timetable(schedule.cron, schedule.timezone).find_next(now)
            problem = None if following is not None else "The schedule never runs again."
        except exception.BadRequest as e:
            # a time zone that was given up, for one: a person has to choose another
            following, problem = None, e.message
        with self._database.writer() as session:
            if not backup_schedules.advance(session, schedule, next_run=following, now=now):
                return
            covered = backup_schedules.list_covered(session, schedule)
            if not covered and not schedule.is_default:
                backup_schedules.end(session, schedule.id, problem=_GONE)
                return
            backup_schedules.record(session, schedule.id, problem=problem)
            runs = [_make_run(schedule, each, planned, following, now) for each in covered]
            backup_schedules.add_runs(session, runs)
        LOG.info("backup schedule %s: %d backups are due", schedule.id, len(covered))

    # -- what is begun -----

    def begin(self) -> bool:
        """Begin backups that are due; tell whether there may be more of them."""
        with self._database.reader() as session:
            due = backup_schedules.list_due_runs(session, now=self._clock.now(), limit=_RUNS)
            schedules = backup_schedules.find_many(session, {run.schedule_id for run in due})
        for run in due:
            schedule = schedules.get(run.schedule_id)
            if schedule is None:
                self._drop(run)
                continue
            with contextlib.ExitStack() as stack:
                # one that fails in a way that nobody foresaw holds up no others
                stack.callback(self._put_off, run)
                self._begin(run, schedule)
                stack.pop_all()
        return len(due) == _RUNS

    def _begin(self, run: Run, schedule: Schedule) -> None:
        try:
            self._make(run, schedule)
        except _Taken:
            return
        except _RETRYABLE as e:
            if self._retry_at(run) < run.deadline:
                LOG.debug("instance %s: backed up later: %s", run.instance_id, e.message)
                self._put_off(run)
            else:
                self._give_up(run, schedule, e)
        except exception.TroveError as e:
            self._give_up(run, schedule, e)

    def _make(self, run: Run, schedule: Schedule) -> None:
        """Have a run made a backup, or drop it when its instance is not backed up any more."""
        with self._database.reader() as session:
            view = instance_views.find_view(session, run.instance_id, project_id=None)
            if view is None or view.task is states.TaskStatus.DELETING or not _can(view, _BACKUP):
                # a default is not for engines that have no backups
                parent_id, view = None, None
            else:
                parent_id = _choose_parent(session, schedule, view)
        if view is None:
            self._drop(run)
            return
        new = NewBackup(
            name=f"{schedule.name[:220]} {run.planned:%Y-%m-%dT%H:%M:%SZ}",
            instance_id=view.id,
            description=f"Made by the schedule {schedule.name}"[:255],
            parent_id=parent_id,
            purpose=states.BackupPurpose.SCHEDULED,
            schedule_id=schedule.id,
        )
        self._backups.check(view, new)
        if not view.is_ready:
            raise exception.InstanceNotReady(instance_id=view.id, status=view.status)
        try:
            self._store(run, schedule, view, new)
        except exception.BadRequest:
            if parent_id is None:
                raise
            # nothing goes on from there
            self._store(run, schedule, view, dataclasses.replace(new, parent_id=None))

    @base.retry_on_conflict
    def _store(
        self, run: Run, schedule: Schedule, view: instance_views.InstanceView, new: NewBackup
    ) -> None:
        """Remove a run and add its backup, both or none; raises _Taken, and what ``add`` raises."""
        with self._database.writer() as session:
            # quota comes first, for the order of locks
            backup_id, operation_id = self._backups.add(
                session,
                view,
                new,
                request_id=oslo_context.generate_request_id(),
                user_id=schedule.user_id,
            )
            if not backup_schedules.take_run(session, run):
                raise _Taken
            backup_schedules.record_backup(session, schedule.id, backup_id)
        LOG.info("instance %s: backup %s of schedule %s", view.id, backup_id, schedule.id)
        self._hint([operation_id])

    @base.retry_on_conflict
    def _drop(self, run: Run) -> None:
        with self._database.writer() as session:
            backup_schedules.take_run(session, run)

    @base.retry_on_conflict
    def _put_off(self, run: Run) -> None:
        with self._database.writer() as session:
            backup_schedules.put_off(session, run, until=self._retry_at(run))

    def _retry_at(self, run: Run) -> datetime.datetime:
        """Return when to try again: the longer it waited, the later."""
        now = self._clock.now()
        waited = max(now - run.planned, datetime.timedelta())
        return now + min(max(waited / 4, _RETRY), _LONGEST_RETRY)

    @base.retry_on_conflict
    def _give_up(self, run: Run, schedule: Schedule, error: exception.TroveError) -> None:
        """Tell that there is no backup, and why: to who looks, and to who listens."""
        now = self._clock.now()
        with self._database.writer() as session:
            if not backup_schedules.take_run(session, run):
                return
            text = f"No backup of instance {run.instance_id} was made: {error.message}"
            backup_schedules.record(session, schedule.id, problem=text)
            payload = {
                "schedule_id": schedule.id,
                "name": schedule.name,
                "planned": run.planned.isoformat(),
                "message": error.message,
            }
            events.append(
                session,
                schedule.project_id,
                type="instance.scheduled_backup.failed",
                resource_id=run.instance_id,
                payload=payload,
                user_id=schedule.user_id,
                now=now,
            )
            request_id = oslo_context.generate_request_id()
            notifications.append(
                session,
                "dbaas.backup_create.error",
                {
                    **notifications.base_traits(schedule.project_id, request_id),
                    **payload,
                    "instance_id": run.instance_id,
                    "exception": error.code,
                },
                now=now,
                priority=notifications.ERROR,
            )
        LOG.warning("backup schedule %s: %s", schedule.id, text)

    # -- what is kept -----

    def tidy(self) -> None:
        """Remove what no rule keeps of some instances, and what has an end; then rest."""
        self._expire()
        mark = self._round.find_mark()
        if mark is None:
            return
        self._put_backups_right()
        with self._database.reader() as session:
            found = backup_schedules.list_instances_with_backups(
                session, after=mark, limit=_INSTANCES
            )
        for instance_id in found:
            with self._database.reader() as session:
                going = self._find_going(session, instance_id)
            if going:
                self._remove(instance_id)
        self._round.go_on(found[-1] if len(found) == _INSTANCES else None)

    @base.retry_on_conflict
    def _put_backups_right(self) -> None:
        now = self._find_now()
        if now is not None:
            with self._database.writer() as session:
                backup_schedules.put_right_backups(session, now=now, ahead=_AHEAD)

    def _find_going(self, session: Any, instance_id: str) -> Sequence[str]:
        """Return what may go of an instance, increments first."""
        rows = backups.list_of_instance(session, instance_id)
        schedules = backup_schedules.find_many(
            session, {row.schedule_id for row in rows if row.schedule_id is not None}
        )
        rules: Mapping[str, retention.Rules] = {
            schedule.id: retention.Rules.from_row(schedule.retention, schedule.timezone)
            for schedule in schedules.values()
        }
        if all(each.keeps_all for each in rules.values()):
            return ()
        ahead = self._clock.now() + _AHEAD
        if any(row.created > ahead for row in rows):
            # the clock is behind, or was ahead: which of them are new is not known yet
            return ()
        there = [_as_kept(row) for row in rows if _may_be_last(row)]
        return retention.to_delete(there, rules, self._find_now())

    @base.retry_on_conflict
    def _remove(self, instance_id: str) -> None:
        """Look again, with the instance's backups held as they are, and begin to remove."""
        begun: list[str] = []
        with self._database.writer() as session:
            backup_schedules.hold(session, instance_id)
            rows = {row.id: row for row in backups.list_of_instance(session, instance_id)}
            going = self._find_going(session, instance_id)
            for backup_id in going:
                # what builds on one goes with it
                if rows[backup_id].parent_id not in going:
                    begun += self._delete(session, rows[backup_id])
        self._hint(begun)

    def _delete(self, session: Any, row: backups.BackupView) -> Sequence[str]:
        """Begin to remove a backup, unless a database is being restored from it.

        What the store refused to remove is tried again after a day.
        """
        now = self._clock.now()
        if row.status is states.BackupStatus.DELETE_FAILED and row.updated > now - _REFUSED_REST:
            return ()
        try:
            with session.begin_nested():
                begun = self._backups.add_delete(session, row, now=now)
        except exception.UnprocessableEntity as e:
            LOG.info("backup %s: removed later: %s", row.id, e.message)
            return ()
        LOG.info("backup %s is kept no longer", row.id)
        return begun

    def _expire(self) -> None:
        """Remove what was to be kept until a time; of a live instance never the last good one."""
        now = self._find_now()
        if now is None:
            return
        with self._database.reader() as session:
            expired = backup_schedules.list_expired(session, now=now, limit=_INSTANCES)
        for backup_id in expired:
            self._remove_expired(backup_id)

    @base.retry_on_conflict
    def _remove_expired(self, backup_id: str) -> None:
        begun: Sequence[str] = ()
        with self._database.writer() as session:
            found = backups.find(session, backup_id)
            if found is None or found.is_running or found.is_deleting:
                return
            if found.instance_id is not None:
                backup_schedules.hold(session, found.instance_id)
                is_live = _is_live(session, found.instance_id)
                if is_live and not _has_other_good(session, found):
                    backups.update(session, backup_id, now=self._clock.now(), expires=None)
                    return
            begun = self._delete(session, found)
        self._hint(begun)


#: What may be otherwise in a while.
_RETRYABLE = (
    exception.InstanceNotReady,
    exception.Conflict,
    exception.ServiceUnavailable,
    exception.DriverUnavailable,
)


def _make_run(
    schedule: Schedule,
    instance_id: str,
    planned: datetime.datetime,
    following: datetime.datetime | None,
    now: datetime.datetime,
) -> Run:
    """Return when an instance is backed up: within the window, and before the time after."""
    window = datetime.timedelta(seconds=schedule.window_s)
    # what was missed is caught up over a window from now on
    begins = planned if planned + window > now else now
    if following is not None:
        window = min(window, max(following - begins, datetime.timedelta()))
    delay = delay_s(f"{schedule.id}/{instance_id}", planned, window.total_seconds())
    return Run(
        schedule_id=schedule.id,
        instance_id=instance_id,
        planned=planned,
        next_try=begins + datetime.timedelta(seconds=delay),
        deadline=begins + max(window, _LEAST_PATIENCE),
    )


def _is_live(session: Any, instance_id: str) -> bool:
    return instance_views.find_view(session, instance_id, project_id=None) is not None


def _can(view: instance_views.InstanceView, capability: spec.Capability) -> bool:
    facts = spec.registry().get(view.manager)
    return facts is not None and capability in facts.capabilities


def _choose_parent(
    session: Any, schedule: Schedule, view: instance_views.InstanceView
) -> str | None:
    """Return what the next backup of a schedule builds on; None: it is a full one.

    It is the schedule's own last one, unless that is the last of as many as belong together, or
    the data are no longer those that went on from it.
    """
    if schedule.full_every <= 1 or not _can(view, _INCREMENTS):
        return None
    own = [
        backup
        for backup in backups.list_of_instance(session, view.id)
        if backup.schedule_id == schedule.id
    ]
    if not own or not own[0].is_restorable:
        # none yet; or the last one failed, and what it was to build on may be why
        return None
    last = own[0]
    try:
        chain = backups.chain(session, last.id)
    except exception.NotFound:
        return None
    if len(chain) >= schedule.full_every or any(
        backup.verification is states.Verification.FAILED for backup in chain
    ):
        return None
    if last.datastore_version_id != view.datastore_version_id:
        return None
    return None if _was_replaced(session, view.id, last.created) else last.id


def _was_replaced(session: Any, instance_id: str, since: datetime.datetime) -> bool:
    """Tell whether the database was restored in place since a time."""
    found = [
        each
        for kind in operations.RESTORATIONS
        for each in operations.list_operations(session, resource_id=instance_id, kind=kind, limit=1)
    ]
    return any(each.updated >= since for each in found)


def _may_be_last(row: backups.BackupView) -> bool:
    """Tell whether a backup can be the last good one of a database; a snapshot is no safe place."""
    return not row.is_deleting and row.kind is not states.BackupKind.SNAPSHOT


def _as_kept(row: backups.BackupView) -> retention.Backup:
    return retention.Backup(
        id=row.id,
        status=row.status,
        purpose=row.purpose,
        schedule_id=row.schedule_id,
        parent_id=row.parent_id,
        verification=row.verification,
        # not when its agent says that it was completed: guests' clocks decide nothing
        moment=row.created,
    )


def _has_other_good(session: Any, found: backups.BackupView) -> bool:
    """Tell whether an instance has a good backup that neither is this one nor builds on it."""
    rows = backups.list_of_instance(session, str(found.instance_id))
    going = {found.id, *(row.id for row in backups.list_descendants(session, found.id))}
    return any(_as_kept(row).is_good for row in rows if row.id not in going and _may_be_last(row))
