"""Whether the agent of an instance can be asked something now."""

from __future__ import annotations

import datetime

from trove import states
from trove.common import exception
from trove.db.instance_views import InstanceView


def require_running(
    view: InstanceView,
    *,
    now: datetime.datetime,
    expiry: datetime.timedelta,
    may_be_blocked: bool = False,
) -> None:
    """Raise InstanceNotReady unless engine and agent run, with what is the matter."""
    is_silent = now - view.heartbeat_received > expiry
    is_leaving = view.task is states.TaskStatus.DELETING
    runs = view.service_status.is_running
    if may_be_blocked and view.service_status is states.ServiceStatus.BLOCKED:
        runs = True
    if not is_silent and not is_leaving and runs:
        return
    status = view.service_status.value if not is_leaving else view.task.value
    if is_silent and view.service_status.is_running:
        status = f"{status}, but its agent has been silent since {view.heartbeat_received}"
    elif view.fault is not None:
        status = f"{status}: {view.fault.message}"
    raise exception.InstanceNotReady(instance_id=view.id, status=status)
