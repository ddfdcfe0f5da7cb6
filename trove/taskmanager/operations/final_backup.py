"""What follows the last backup of an instance: the instance's deletion, if there is the backup.

The deletion begins in the transaction that ends the making of the backup, so that no process that
ends in between leaves the one without the other. Of a backup that failed nothing follows but the
word: the instance lives on.
"""

from __future__ import annotations

import datetime
from typing import Any

from oslo_log import log

from trove import states
from trove.common import exception
from trove.db import backups, instances, operations
from trove.taskmanager.operations import engine

LOG = log.getLogger(__name__)


def _is_final(ctx: engine.Context, session: Any) -> bool:
    backup = backups.find(session, str(ctx.data["backup_id"]))
    return backup is not None and backup.purpose is states.BackupPurpose.FINAL


def on_succeeded(ctx: engine.Context, session: Any) -> None:
    """Begin the deletion of the instance whose last backup this was."""
    if not _is_final(ctx, session):
        return
    now = ctx.tools.clock.now()
    operation = ctx.operation
    if not instances.change_task(
        session,
        ctx.instance_id,
        expect=frozenset(states.TaskStatus),
        to=states.TaskStatus.DELETING,
        now=now,
        given={"is_protected": False},
    ):
        # protected meanwhile, or gone
        _tell(ctx, session, "The instance was not deleted: it was protected meanwhile.")
        return
    timeout_s = ctx.tools.conf.taskmanager.usage_timeout_s
    try:
        operation_id = operations.create(
            session,
            kind=operations.DELETE_INSTANCE,
            resource_id=ctx.instance_id,
            lock_key=operations.delete_lock(ctx.instance_id),
            deadline=now + datetime.timedelta(seconds=timeout_s),
            now=now,
            request_id=operation.request_id,
            project_id=operation.project_id,
            user_id=operation.user_id,
        )
    except exception.Conflict:
        # it is being deleted already
        return
    LOG.info("instance %s: deleted after its last backup", ctx.instance_id)
    ctx.hint([operation_id])


def on_failed(ctx: engine.Context, session: Any, failure: engine.Failure) -> None:
    """Tell why the instance is still there."""
    if _is_final(ctx, session):
        _tell(
            ctx,
            session,
            f"The instance was not deleted, since its last backup failed: {failure.message}",
        )


def _tell(ctx: engine.Context, session: Any, message: str) -> None:
    instance = instances.find_instance(session, ctx.instance_id)
    if instance is not None and not instance.is_deleted:
        instances.set_fault(
            session, ctx.instance_id, message=message, details=None, now=ctx.tools.clock.now()
        )
        LOG.warning("instance %s: %s", ctx.instance_id, message)
