"""Make a backup that is a snapshot of the data volume, while the engine stands still.

The agent has the engine stand still, the volume service makes the snapshot, the agent has the
engine go on and says whether it stood still all the time. If it did not, since nobody asked the
agent in time and its watchdog let the engine go on, or the agent ended meanwhile, then the snapshot
is removed and the backup fails. So it does not matter who dies in between, and for how long.
"""

from __future__ import annotations

import datetime

from oslo_log import log

from trove import states
from trove.common import exception
from trove.db import operations
from trove.rpc import payloads
from trove.taskmanager.operations import (
    backup_storage,
    create_backup,
    engine,
    final_backup,
    snapshots,
    steps,
)

LOG = log.getLogger(__name__)

_Status = states.BackupStatus
#: Longest that an agent may take: statements in the way are waited for, and caches written.
_FREEZE_WITHIN_S = 30.0
_THAW_WITHIN_S = 15.0
#: How often an agent is asked that does not answer.
_TRIES = 3
#: Between looks at a snapshot that is being made: the engine stands still for as long.
_LOOK_S = 0.5


def _freeze_id(ctx: engine.Context) -> str:
    return ctx.job_id("freeze")


def _ask(
    ctx: engine.Context, method: str, request: payloads.Payload, *, timeout_s: float
) -> payloads.Payload:
    """Ask the agent; raises StepFailed when it refuses, or does not answer several times."""
    try:
        return ctx.tools.guests.call(ctx.instance_id, method, request, timeout_s=timeout_s)
    except exception.ServiceUnavailable as e:
        if ctx.operation.attempts + 1 < _TRIES:
            raise
        raise engine.StepFailed(
            "The agent of the instance does not answer: make the backup again when it does.",
            details=e.message,
        ) from e
    except exception.GuestError as e:
        reason = steps.shorten(str(e.kwargs.get("reason", e)), default="it gave no reason")
        raise engine.StepFailed(f"No snapshot can be made now: {reason}") from e


def _thaw_if_possible(ctx: engine.Context) -> None:
    """Have the engine go on; if that fails, the agent does it by itself before long."""
    try:
        ctx.tools.guests.call(
            ctx.instance_id,
            "thaw",
            payloads.Thaw(freeze_id=_freeze_id(ctx)),
            timeout_s=_THAW_WITHIN_S,
        )
    except exception.TroveError as e:
        LOG.info("instance %s: not told to go on: %s", ctx.instance_id, e.message)


class Freeze(engine.Step):
    """Have the engine stand still."""

    name = "freeze"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Ask the agent, which does so once for each operation; note what it says."""
        backup = create_backup.get_running(ctx)
        if backup.status is _Status.NEW:
            create_backup.change(ctx, {_Status.NEW}, _Status.BUILDING)
        request = payloads.Freeze(
            freeze_id=_freeze_id(ctx),
            backup_id=backup.id,
            timeout_s=ctx.tools.conf.backup.freeze_timeout_s,
        )
        frozen = _ask(ctx, "freeze", request, timeout_s=_FREEZE_WITHIN_S)
        ctx.data["frozen"] = frozen.to_wire()
        return None

    def undo(self, ctx: engine.Context) -> engine.Wait | None:
        """Have it go on."""
        if "is_thawed" not in ctx.data:
            _thaw_if_possible(ctx)
        return None


class MakeSnapshot(engine.Step):
    """Make the snapshot."""

    name = "make_snapshot"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Begin it, and wait until it is there; raises StepFailed when it failed."""
        backup = create_backup.get_running(ctx)
        driver = ctx.tools.drivers.volume
        snapshot = driver.find_snapshot(backup.id)
        if snapshot is None:
            volume = driver.find_volume(ctx.instance_id)
            if volume is None:
                raise engine.StepFailed("The instance has no volume.")
            snapshot = driver.create_snapshot(volume_id=volume.id, owner_id=backup.id)
        if backup.status is _Status.BUILDING:
            create_backup.change(ctx, {_Status.BUILDING}, _Status.SAVING)
        if snapshot.status == "creating":
            return engine.Wait(event="snapshot", timeout_s=_LOOK_S)
        if snapshot.status != "available":
            raise engine.StepFailed(
                "The volume service could not make the snapshot; its operator looks for the reason"
                " in its log.",
                details=f"snapshot {snapshot.id} is in status {snapshot.status}",
            )
        ctx.data["snapshot"] = {"id": snapshot.id, "size_gib": snapshot.size_gib}
        return None

    def undo(self, ctx: engine.Context) -> engine.Wait | None:
        """Have the engine go on first, then remove what there is of the snapshot."""
        if "is_thawed" not in ctx.data:
            _thaw_if_possible(ctx)
            ctx.data["is_thawed"] = True
        return snapshots.remove(ctx, backup_storage.get_backup(ctx))


class Thaw(engine.Step):
    """Have the engine go on."""

    name = "thaw"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Ask the agent; raises StepFailed unless the engine stood still until now."""
        create_backup.get_running(ctx)
        request = payloads.Thaw(freeze_id=_freeze_id(ctx))
        thawed = _ask(ctx, "thaw", request, timeout_s=_THAW_WITHIN_S)
        if not isinstance(thawed, payloads.Thawed) or not thawed.was_frozen:
            reason = getattr(thawed, "reason", None)
            raise engine.StepFailed(
                "The snapshot was not made while the database stood still, and was removed:"
                f" {steps.shorten(reason, default='no reason is known')}"
                " Make another one; if that is too slow, the operator raises [backup]"
                " freeze_timeout_s."
            )
        ctx.data["is_thawed"] = True
        return None


class Complete(engine.Step):
    """Let it count."""

    name = "complete"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Write what it is and set the status, unless somebody had it fail meanwhile."""
        if backup_storage.get_backup(ctx).status is _Status.COMPLETED:
            return None
        frozen = payloads.Frozen.from_wire(ctx.data["frozen"])
        at = datetime.datetime.fromtimestamp(frozen.at_s, datetime.UTC)
        snapshot = ctx.data["snapshot"]
        if not create_backup.change(
            ctx,
            {_Status.SAVING},
            _Status.COMPLETED,
            location=snapshot["id"],
            volume_size_gib=snapshot["size_gib"],
            engine_version=frozen.engine_version,
            data_bytes=frozen.data_bytes,
            facts=frozen.facts,
            began=at,
            completed=at,
        ):
            create_backup.get_running(ctx)
            raise engine.StepFailed("The snapshot was not being made.")
        LOG.info("backup %s: completed, snapshot %s", ctx.data["backup_id"], snapshot["id"])
        create_backup.have_proven(ctx)
        return None


FLOW = engine.Flow(
    kind=operations.SNAPSHOT_BACKUP,
    steps=(Freeze(), MakeSnapshot(), Thaw(), Complete()),
    on_failed=create_backup.on_failed,
    on_succeeded=final_backup.on_succeeded,
)
