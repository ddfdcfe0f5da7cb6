"""Apply configuration values that could not be applied when they were set.

An instance may have been busy, off or out of reach when its group changed, or the operation may
have died with the agent's answer. Each pass compares what idle instances run on with what they
should run on and begins operations for the difference, like the API does. What the engine refused
is not tried again until the values change; what failed otherwise is, after a pause.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable

from oslo_log import log

from trove import states
from trove.common import context, exception
from trove.db import base, configurations, operations
from trove.services.changes import IDLE, Changes
from trove.services.configurations import configure_change, remember_task
from trove.taskmanager.operations import configure, engine, steps

LOG = log.getLogger(__name__)


class Convergence:
    """One pass is ``run``."""

    def __init__(
        self,
        tools: engine.Tools,
        *,
        hint: Callable[[Iterable[str]], None],
        per_run: int = 100,
        pause_s: float = 60.0,
    ) -> None:
        """Take tools, who is told of new operations, and how much is begun at once."""
        self._tools = tools
        self._per_run = per_run
        self._pause = datetime.timedelta(seconds=pause_s)
        self._changes = Changes(
            conf=tools.conf,
            database=tools.database,
            run_operation=lambda operation_id: hint([operation_id]),
            key_ring=tools.key_ring,
            clock=tools.clock,
        )
        #: Where the next pass goes on, so that those who cannot be helped hold up nobody.
        self._after = ""

    def run(self) -> None:
        """Begin operations for some of the instances that run on other values than they should."""
        now = self._tools.clock.now()
        silence = steps.SILENT_AFTER * self._tools.conf.guest.heartbeat_interval_s
        with self._tools.database.reader() as session:
            due = configurations.list_due(
                session,
                heard_since=now - datetime.timedelta(seconds=silence),
                limit=self._per_run,
                after=self._after,
            )
        for each in due:
            if each.confirmed == each.wanted:
                self._settle(each.instance_id)
            elif not self._is_pointless(each, now):
                self._begin(each.instance_id)
        self._after = due[-1].instance_id if len(due) == self._per_run else ""

    @base.retry_on_conflict
    def _settle(self, instance_id: str) -> None:
        with self._tools.database.writer() as session:
            configurations.settle(session, instance_id)

    def _is_pointless(self, due: configurations.Due, now: datetime.datetime) -> bool:
        with self._tools.database.reader() as session:
            found = operations.list_operations(
                session,
                resource_id=due.instance_id,
                kind=operations.CONFIGURE_INSTANCE,
                limit=1,
            )
        if not found or found[0].state is not states.OperationState.FAILED:
            return False
        last = found[0]
        if configure.REFUSED in last.data and last.data[configure.REFUSED] == due.wanted:
            return True
        return last.updated > now - self._pause

    def _begin(self, instance_id: str) -> None:
        caller = context.RequestContext(is_admin=True, overwrite=False)
        change = configure_change(self._tools.conf, plan=remember_task, expect=IDLE)
        try:
            self._changes.begin(caller, instance_id, change)
        except (exception.InstanceNotReady, exception.InstanceNotFound) as e:
            LOG.debug("instance %s: configured later: %s", instance_id, e)
