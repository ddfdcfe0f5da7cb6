"""How a change of an instance begins: task, quota, columns and operation in one transaction.

Every use case that works on an existing instance for longer than a request begins by
:meth:`Changes.begin`. It looks at the instance, asks the change what to do (or why not), and then
writes everything at once, each part on condition that the instance is still what was looked at;
the task manager is told afterwards. What clients see next is the state of the change under way.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable, Collection, Mapping
from typing import Any

from oslo_config import cfg
from oslo_log import log

from trove import states
from trove.common import concurrency, context, crypto, exception
from trove.db import base, instance_views, instances, models, operations, quotas
from trove.services.quotas import default_limits

LOG = log.getLogger(__name__)

#: Tasks from which most changes may begin.
IDLE = frozenset({states.TaskStatus.NONE, states.TaskStatus.RESTART_REQUIRED})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a change writes when it begins.

    ``data`` and ``secret`` (wrapped before it is stored) are the operation's, ``charge`` is the
    difference of the project's quota usage by resource, ``values`` are columns of the instance,
    ``given`` are columns that must still have these values. ``within`` is called in the same
    transaction, before anything is written; what it raises ends it. ``held`` is charged as well,
    and given back when the operation ends, unless its flow settled it with what it wrote. ``kind``
    is the operation's where that is not the change's.
    """

    data: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    secret: bytes | None = dataclasses.field(repr=False, default=None)
    charge: Mapping[str, int] = dataclasses.field(default_factory=dict)
    held: Mapping[str, int] = dataclasses.field(default_factory=dict)
    values: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    given: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    within: Callable[[Any], object] = lambda session: None
    kind: str | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A kind of change: its operation, the task it sets, and from which tasks it may begin.

    ``plan`` raises what is wrong with the request. Without ``needs_ready`` the instance need not
    be ready (administrators' repairs), only be in one of ``expect``.
    """

    kind: str
    task: states.TaskStatus
    timeout_s: float
    plan: Callable[[instance_views.InstanceView], Plan] = lambda view: Plan()
    expect: Collection[states.TaskStatus] = IDLE
    needs_ready: bool = True


def find_in_reach(
    session: Any, caller: context.RequestContext, instance_id: str
) -> instance_views.InstanceView:
    """Return an instance the caller may know of; raises InstanceNotFound."""
    project_id = None if caller.is_admin else str(caller.project_id)
    view = instance_views.find_view(session, instance_id, project_id=project_id)
    if view is None:
        raise exception.InstanceNotFound(instance_id=instance_id)
    return view


class Changes:
    """Begins changes of instances."""

    def __init__(
        self,
        *,
        conf: cfg.ConfigOpts,
        database: base.Database,
        run_operation: Callable[[str], object],
        key_ring: crypto.KeyRing,
        clock: concurrency.Clock,
    ) -> None:
        """Take the collaborators; ``run_operation`` tells the task manager, by best effort."""
        self._conf = conf
        self._database = database
        self._run_operation = run_operation
        self._key_ring = key_ring
        self._clock = clock

    def begin(self, caller: context.RequestContext, instance_id: str, change: Change) -> str:
        """Begin a change and return the id of its operation.

        Raises InstanceNotFound, InstanceNotReady, QuotaExceeded, and what ``change.plan`` raises.
        """
        operation_id = self._store(caller, instance_id, change)
        self._run_operation(operation_id)
        LOG.info("instance %s: %s accepted as operation %s", instance_id, change.kind, operation_id)
        return operation_id

    @base.retry_on_conflict
    def _store(self, caller: context.RequestContext, instance_id: str, change: Change) -> str:
        with self._database.reader() as session:
            view = find_in_reach(session, caller, instance_id)
        status = view.status
        if change.needs_ready and not view.is_ready:
            raise exception.InstanceNotReady(instance_id=instance_id, status=status)
        plan = change.plan(view)
        operation_id = models.new_id()
        now = self._clock.now()
        with self._database.writer() as session:
            plan.within(session)
            if plan.charge:
                quotas.reserve(
                    session, view.project_id, plan.charge, defaults=default_limits(self._conf)
                )
            if plan.held:
                quotas.hold(
                    session,
                    view.project_id,
                    plan.held,
                    operation_id=operation_id,
                    defaults=default_limits(self._conf),
                )
            if not instances.change_task(
                session,
                instance_id,
                expect=frozenset(change.expect),
                to=change.task,
                now=now,
                given=plan.given,
                **plan.values,
            ):
                raise exception.InstanceNotReady(instance_id=instance_id, status=status)
            try:
                return operations.create(
                    session,
                    operation_id=operation_id,
                    kind=plan.kind or change.kind,
                    resource_id=instance_id,
                    lock_key=operations.instance_lock(instance_id),
                    deadline=now + datetime.timedelta(seconds=change.timeout_s),
                    now=now,
                    data=plan.data,
                    secret_wrapped=self._wrap(operation_id, plan.secret),
                    request_id=caller.request_id,
                    project_id=view.project_id,
                    user_id=caller.user_id,
                )
            except exception.Conflict:
                raise exception.InstanceNotReady(
                    instance_id=instance_id,
                    status=f"{status}, and another operation has not ended yet",
                ) from None

    def _wrap(self, operation_id: str, secret: bytes | None) -> bytes | None:
        if secret is None:
            return None
        return self._key_ring.wrap(secret, purpose=f"operation:{operation_id}")
