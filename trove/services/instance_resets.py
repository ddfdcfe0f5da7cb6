"""Taking instances out of the state that an operation left them in, or is about to.

A reset sets the task back at once and asks the operation under way to take back what it did: it
does so at its next step and ends. Until then it keeps its lock, so that nothing begins beside it.
Its own last words change nothing, for they are conditional on the task that is gone. A backup that
is being made has failed at once; what is stored of it goes with the operation. A deletion is never
taken back; it is only looked at at once.
"""

from __future__ import annotations

from collections.abc import Callable

from oslo_log import log

from trove import states
from trove.common import concurrency, context, exception
from trove.db import backups, base, heartbeats, instances, operations
from trove.services.changes import find_in_reach

LOG = log.getLogger(__name__)

_RESETTABLE = frozenset(states.TaskStatus) - {states.TaskStatus.DELETING}


class InstanceResets:
    """Use cases that reset instances."""

    def __init__(
        self,
        *,
        database: base.Database,
        run_operation: Callable[[str], object],
        clock: concurrency.Clock,
    ) -> None:
        """Take the collaborators; ``run_operation`` tells the task manager, by best effort."""
        self._database = database
        self._run_operation = run_operation
        self._clock = clock

    def reset_status(
        self, caller: context.RequestContext, instance_id: str, *, in_order_to_delete: bool = False
    ) -> None:
        """Set the task to NONE and the service to UNKNOWN, in whatever state the instance is.

        Raises InstanceNotFound; InstanceProtected when a protected one is to be deleted next.
        """
        self._reset(caller, instance_id, service=True, refuse_protected=in_order_to_delete)

    def reset_task(self, caller: context.RequestContext, instance_id: str) -> None:
        """Set the task to NONE, whatever it is; raises InstanceNotFound."""
        self._reset(caller, instance_id, service=False, refuse_protected=False)

    def _reset(
        self,
        caller: context.RequestContext,
        instance_id: str,
        *,
        service: bool,
        refuse_protected: bool,
    ) -> None:
        asked = self._store(caller, instance_id, service, refuse_protected)
        for operation_id in asked:
            self._run_operation(operation_id)
        LOG.info("instance %s: status reset, %d operations asked to end", instance_id, len(asked))

    @base.retry_on_conflict
    def _store(
        self,
        caller: context.RequestContext,
        instance_id: str,
        service: bool,
        refuse_protected: bool,
    ) -> list[str]:
        now = self._clock.now()
        with self._database.writer() as session:
            view = find_in_reach(session, caller, instance_id)
            if refuse_protected and view.is_protected:
                raise exception.InstanceProtected(instance_id=instance_id)
            is_reset = instances.change_task(
                session, instance_id, expect=_RESETTABLE, to=states.TaskStatus.NONE, now=now
            )
            backups.fail_running(
                session, instance_id, reason="The status of the instance was reset.", now=now
            )
            if is_reset and service:
                heartbeats.set_unknown(session, instance_id)
            return operations.request_cancel(
                session, mode=operations.UNDO, resource_id=instance_id, now=now
            )
