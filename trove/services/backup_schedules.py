"""Schedules of backups: of an instance, or a project's default for instances that have none.

What belongs to an instance belongs to the instance's project. A schedule of another project does
not exist for callers who are not administrators.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from trove.common import concurrency, context, exception
from trove.datastores import spec
from trove.db import backup_schedules, base
from trove.db.backup_schedules import WHOLE_PROJECT, Schedule
from trove.services import names
from trove.services.changes import find_in_reach
from trove.services.timetables import Timetable

#: What a request that does not say gets.
DEFAULT_ZONE = "UTC"
DEFAULT_WINDOW_S = 3600
DEFAULT_RETENTION: Mapping[str, int] = {"count": 14}
#: Most schedules of one instance, and most defaults of one project.
MOST_SCHEDULES = 10


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class NewSchedule:
    """What a caller asks for; without an instance it is the default of the project."""

    name: str
    cron: str
    instance_id: str | None = None
    timezone: str = DEFAULT_ZONE
    window_s: int = DEFAULT_WINDOW_S
    full_every: int = 1
    retention: Mapping[str, int] = dataclasses.field(
        default_factory=lambda: dict(DEFAULT_RETENTION)
    )
    is_enabled: bool = True


class BackupSchedules:
    """Use cases of schedules."""

    def __init__(self, *, database: base.Database, clock: concurrency.Clock) -> None:
        """Take the collaborators."""
        self._database = database
        self._clock = clock

    def list_page(
        self, project_id: str, *, instance_id: str | None, limit: int, marker: str | None
    ) -> tuple[Sequence[Schedule], str | None]:
        """Return a page of the schedules of a project, or of an instance in it, and the marker."""
        with self._database.reader() as session:
            rows, has_more = backup_schedules.list_page(
                session, project_id, instance_id=instance_id, after=marker, limit=limit
            )
        return rows, rows[-1].id if has_more and rows else None

    def get(self, caller: context.RequestContext, schedule_id: str) -> Schedule:
        """Return a schedule; raises NotFound."""
        with self._database.reader() as session:
            return self._get(session, caller, schedule_id)

    @base.retry_on_conflict
    def create(self, caller: context.RequestContext, new: NewSchedule) -> Schedule:
        """Make a schedule.

        Raises InstanceNotFound, NotImplementedByEngine, AlreadyExists, and BadRequest for an
        expression or a time zone that is none, or one schedule too many.
        """
        now = self._clock.now()
        timetable = Timetable(new.cron, new.timezone)
        timetable.check(now)
        with self._database.writer() as session:
            project_id, instance_id = str(caller.project_id), WHOLE_PROJECT
            if new.instance_id is not None:
                view = find_in_reach(session, caller, new.instance_id)
                project_id, instance_id = view.project_id, view.id
                names.require_engine(
                    names.get_spec(view.manager),
                    spec.Capability.BACKUP,
                    datastore=view.datastore_name,
                )
            if backup_schedules.count(session, project_id, instance_id) >= MOST_SCHEDULES:
                raise exception.BadRequest(
                    reason=f"there are {MOST_SCHEDULES} schedules already, the most there may be"
                )
            row = backup_schedules.NewSchedule(
                project_id=project_id,
                user_id=caller.user_id,
                instance_id=instance_id,
                name=new.name,
                cron=new.cron,
                timezone=new.timezone,
                window_s=new.window_s,
                full_every=new.full_every,
                retention=dict(new.retention),
                is_enabled=new.is_enabled,
                next_run=timetable.find_next(now) if new.is_enabled else None,
            )
            schedule_id = backup_schedules.create(session, row, now=now)
            return self._get(session, caller, schedule_id)

    @base.retry_on_conflict
    def update(
        self, caller: context.RequestContext, schedule_id: str, changes: Mapping[str, Any]
    ) -> Schedule:
        """Change fields of :class:`NewSchedule` but the instance; runs begin anew from now.

        What was due before is not caught up. Raises NotFound, and what ``create`` raises.
        """
        now = self._clock.now()
        with self._database.writer() as session:
            found = self._get(session, caller, schedule_id)
            changed = dataclasses.replace(found, **changes)
            timetable = Timetable(changed.cron, changed.timezone)
            timetable.check(now)
            values = dict(changes)
            if changed.is_enabled:
                values["next_run"] = timetable.find_next(now)
                if not found.is_default:
                    # one of an instance that is no more keeps what there is, and makes nothing
                    find_in_reach(session, caller, found.instance_id)
            else:
                values["next_run"] = None
                backup_schedules.drop_runs(session, schedule_id)
            backup_schedules.update(session, schedule_id, now=now, problem=None, **values)
            return self._get(session, caller, schedule_id)

    @base.retry_on_conflict
    def delete(self, caller: context.RequestContext, schedule_id: str) -> None:
        """Delete a schedule; its backups stay until somebody deletes them. Raises NotFound."""
        with self._database.writer() as session:
            self._get(session, caller, schedule_id)
            backup_schedules.remove(session, schedule_id)

    def _get(self, session: Any, caller: context.RequestContext, schedule_id: str) -> Schedule:
        project_id = None if caller.is_admin else str(caller.project_id)
        found = backup_schedules.find(session, schedule_id, project_id=project_id)
        if found is None:
            raise exception.NotFound(f"Backup schedule {schedule_id} cannot be found.")
        return found
