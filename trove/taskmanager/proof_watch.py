"""Tells of databases with backups, none of which has been proven for long."""

from __future__ import annotations

import datetime
from typing import Any

from trove.db import backups, base, events, notifications
from trove.taskmanager.operations import engine

#: The type of the events.
STALE = "instance.backups.unproven"
#: The type of the notifications.
STALE_NOTIFICATION = "dbaas.backup_verify.stale"
#: Seconds between looks, and most instances told of in one.
_REST_S = 3600.0
_MOST_TOLD = 500


class ProofWatch:
    """One pass is ``run``."""

    def __init__(self, tools: engine.Tools) -> None:
        """Take the tools."""
        self._conf = tools.conf.backup
        self._database = tools.database
        self._clock = tools.clock
        self._rest_until = tools.clock.monotonic()

    def run(self) -> None:
        """Look from time to time."""
        if self._conf.verify == "none" or self._clock.monotonic() < self._rest_until:
            return
        self._tell()
        self._rest_until = self._clock.monotonic() + _REST_S

    @base.retry_on_conflict
    def _tell(self) -> None:
        now = self._clock.now()
        since = now - datetime.timedelta(days=self._conf.verify_max_age_days)
        with self._database.writer() as session:
            for instance_id, project_id in backups.list_unproven(
                session, since=since, limit=_MOST_TOLD
            ):
                self._tell_one(session, instance_id, project_id, since=since, now=now)

    def _tell_one(
        self,
        session: Any,
        instance_id: str,
        project_id: str,
        *,
        since: datetime.datetime,
        now: datetime.datetime,
    ) -> None:
        """Tell of an instance once in the time that a proof counts for."""
        if events.is_told(session, instance_id, type=STALE, since=since):
            return
        events.append(
            session,
            project_id,
            type=STALE,
            resource_id=instance_id,
            payload={"since": since.isoformat()},
            now=now,
        )
        notifications.append(
            session,
            STALE_NOTIFICATION,
            {
                **notifications.base_traits(project_id, None),
                "instance_id": instance_id,
                "since": since.isoformat(),
            },
            now=now,
            priority=notifications.ERROR,
        )
