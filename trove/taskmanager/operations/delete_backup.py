"""Delete backups: the last increments first, of each its objects or snapshot before its row."""

from __future__ import annotations

import datetime
from typing import Any

from oslo_log import log

from trove import states
from trove.db import backups, operations, quotas, restorations
from trove.taskmanager.operations import backup_storage, engine, snapshots, steps

LOG = log.getLogger(__name__)

_Status = states.BackupStatus
_DELETABLE = frozenset(_Status) - backups.RUNNING
#: How often it is looked whether a backup that was cancelled has ended.
_END_LOOK_S = 2.0


class AwaitEnd(engine.Step):
    """Wait until none of them is being made, or proven."""

    name = "await_end"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Look at their statuses, and at who reads them."""
        with ctx.tools.database.reader() as session:
            statuses = backups.list_statuses(session, ctx.data["backup_ids"])
            readers = restorations.list_readers(session, ctx.data["backup_ids"])
        if readers or any(status.is_running for status in statuses.values()):
            return engine.Wait(event="backup-ended", timeout_s=_END_LOOK_S)
        return None


class Remove(engine.Step):
    """Remove objects and rows."""

    name = "remove"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Remove one after the other: what is stored of a backup, then its row and its quota."""
        for backup_id in ctx.data["backup_ids"]:
            with ctx.tools.database.reader() as session:
                backup = backups.find(session, backup_id)
            if backup is None:
                continue
            ctx.data["current_id"] = backup_id
            if backup.kind is states.BackupKind.SNAPSHOT:
                outcome = snapshots.remove(ctx, backup)
                if outcome is not None:
                    return outcome
            count = backup_storage.remove_objects(ctx, backup)
            self._forget(ctx, backup)
            LOG.info("backup %s: deleted, with %d objects", backup_id, count)
        return None

    def _forget(self, ctx: engine.Context, backup: backups.BackupView) -> None:
        def forget(session: Any, now: datetime.datetime) -> None:
            if backups.mark_deleted(session, backup.id, now=now):
                quotas.release(session, backup.project_id, {quotas.BACKUPS: 1})

        steps.record(ctx, forget)


def on_failed(ctx: engine.Context, session: Any, failure: engine.Failure) -> None:
    """Note why it is still there; what was not touched can be used on."""
    now = ctx.tools.clock.now()
    current = ctx.data.get("current_id")
    for backup_id in ctx.data["backup_ids"]:
        if backup_id in (current, ctx.operation.resource_id):
            backups.change_status(
                session,
                backup_id,
                expect=_DELETABLE,
                to=_Status.DELETE_FAILED,
                deleted=None,
                fault=f"{failure.message} It can be deleted again.",
                now=now,
            )
        else:
            backups.update(session, backup_id, deleted=None, now=now)


class RemoveObjects(engine.Step):
    """Remove what is stored of a backup that was given up with its instance."""

    name = "remove_objects"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Remove its objects, unless it is a backup after all."""
        with ctx.tools.database.reader() as session:
            backup = backups.find(session, ctx.operation.resource_id)
        if backup is not None and backup.status is _Status.FAILED:
            if backup.kind is states.BackupKind.SNAPSHOT:
                return snapshots.remove(ctx, backup)
            backup_storage.remove_objects(ctx, backup)
        return None


FLOW = engine.Flow(
    kind=operations.DELETE_BACKUP,
    steps=(AwaitEnd(), Remove()),
    on_failed=on_failed,
)

DISCARD = engine.Flow(kind=operations.DISCARD_BACKUP, steps=(RemoveObjects(),))
