"""Delete an instance, in whatever state it is; and remove what belongs to no instance."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any

from oslo_log import log

from trove import states
from trove.db import (
    backup_strategies,
    backups,
    guest_jobs,
    instances,
    log_archives,
    modules,
    operations,
    quotas,
)
from trove.rpc import payloads
from trove.taskmanager.operations import certificates, engine, naming, steps

LOG = log.getLogger(__name__)

#: How long it is tried to remove what is stored of a backup that was given up.
_DISCARD_WITHIN_S = 3600.0
#: Tasks of live instances that own nothing: what is found of them is left over.
OWNS_NOTHING = frozenset(
    task for task in states.TaskStatus if task.value.startswith("BUILDING_ERROR_")
)


class Supersede(engine.Step):
    """Have all other operations of the instance end."""

    name = "supersede"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Ask them to, and wait until none is active."""
        others: list[str] = []
        steps.record(
            ctx,
            lambda session, now: others.extend(
                operations.request_cancel(
                    session,
                    mode=operations.SUPERSEDE,
                    resource_id=ctx.instance_id,
                    exclude_id=ctx.operation.id,
                    now=now,
                )
            ),
        )
        ctx.hint(others)
        with ctx.tools.database.reader() as session:
            is_busy = operations.has_active(
                session, resource_id=ctx.instance_id, exclude_id=ctx.operation.id
            )
        return engine.Wait(event="operation-ended", timeout_s=2.0) if is_busy else None


class StopGuest(engine.Step):
    """Let the engine shut down cleanly, if its agent answers; bounded in time."""

    name = "stop_guest"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Send the job and wait for its outcome, whatever that is."""
        now = ctx.tools.clock.now()
        since = datetime.datetime.fromisoformat(ctx.data.setdefault("stop_since", now.isoformat()))
        left_s: float = ctx.tools.conf.taskmanager.guest_stop_timeout_s
        left_s -= (now - since).total_seconds()
        if left_s <= 0 or not self._is_reachable(ctx, now):
            return None
        self._cancel_backup(ctx)
        outcome = steps.run_job(ctx, payloads.StopJob.KIND, payloads.StopJob, retry_s=left_s)
        return outcome if isinstance(outcome, engine.Wait) else None

    def _cancel_backup(self, ctx: engine.Context) -> None:
        """Have the agent end the backup that it is making: it would stop the engine after it."""
        if ctx.data.get("is_cancelled"):
            return
        ctx.data["is_cancelled"] = True
        with ctx.tools.database.reader() as session:
            job_ids = guest_jobs.list_open(session, ctx.instance_id, kind=payloads.BackupJob.KIND)
        for job_id in job_ids:
            steps.cancel_job(ctx.tools, ctx.instance_id, job_id)

    def _is_reachable(self, ctx: engine.Context, now: datetime.datetime) -> bool:
        with ctx.tools.database.reader() as session:
            instance = instances.find_instance(session, ctx.instance_id)
        if instance is None or instance.is_deleted or instance.heartbeat.boot == 0:
            return False
        silent_after = datetime.timedelta(
            seconds=steps.SILENT_AFTER * ctx.tools.conf.guest.heartbeat_interval_s
        )
        if now - instance.heartbeat.received > silent_after:
            return False
        server = ctx.tools.drivers.compute.find_server(ctx.instance_id)
        return server is not None and server.status is states.ServerStatus.ACTIVE


class DeleteServer(engine.Step):
    """Remove the server."""

    name = "delete_server"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Remove it and wait until it is gone."""
        return steps.remove_server(ctx)


class DeleteVolume(engine.Step):
    """Remove the volume with its data."""

    name = "delete_volume"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Remove it and wait until it is gone."""
        return steps.remove_volume(ctx)


class DeletePort(engine.Step):
    """Remove the port."""

    name = "delete_port"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Remove it and wait until it is gone."""
        return steps.remove_port(ctx)


class Finalize(engine.Step):
    """Forget the instance and give its quota back, once and together."""

    name = "finalize"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Mark the row as deleted; only who did that gives the quota back."""

        def finalize(session: Any, now: datetime.datetime) -> None:
            instance = instances.find_instance(session, ctx.instance_id)
            if instance is None:
                return
            charged = {
                quotas.INSTANCES: 1,
                quotas.RAM: instance.flavor_ram_mib,
                quotas.VOLUMES: instance.volume_size_gib or 0,
            }
            project_id = instance.project_id
            if instances.mark_deleted(session, ctx.instance_id, now=now):
                modules.forget(session, ctx.instance_id)
                _give_up_backup(ctx, session, project_id, now)
                quotas.release(session, project_id, charged)
                backup_strategies.remove(session, project_id, ctx.instance_id)
                # what backups need of it is kept as long as they are
                log_archives.close_active(session, ctx.instance_id, now=now)
                backups.end_verifications(session, ctx.instance_id)
                LOG.info("instance %s: deleted", ctx.instance_id)

        steps.record(ctx, finalize)
        return None


def _give_up_backup(
    ctx: engine.Context, session: Any, project_id: str, now: datetime.datetime
) -> None:
    """Have the backup fail that was being made; what is stored of it is removed."""
    backup_id = backups.fail_running(
        session, ctx.instance_id, reason="The instance was deleted meanwhile.", now=now
    )
    if backup_id is None:
        return
    operation_id = operations.create(
        session,
        kind=operations.DISCARD_BACKUP,
        resource_id=backup_id,
        lock_key=None,
        deadline=now + datetime.timedelta(seconds=_DISCARD_WITHIN_S),
        now=now,
        request_id=ctx.operation.request_id,
        project_id=project_id,
    )
    ctx.hint([operation_id])


def on_trouble(ctx: engine.Context, session: Any, failure: engine.Failure) -> None:
    """Tell why the deletion takes long; it goes on."""
    instances.set_fault(
        session,
        ctx.instance_id,
        message=f"Deleting the instance is held up and is tried again: {failure.message}",
        details=f"step {failure.step}: {failure.details or failure.message}",
        now=ctx.tools.clock.now(),
    )


class DeleteOrphan(engine.Step):
    """Remove everything that was made for an instance that is no more."""

    name = "delete_orphan"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Remove all there is of it, unless the instance lives after all."""
        with ctx.tools.database.reader() as session:
            instance = instances.find_instance(session, ctx.instance_id)
        if instance is None:
            # a database that was lost or restored is no licence to remove anybody's data
            raise engine.StepFailed(
                f"There is no record of instance {ctx.instance_id}: nothing of it was removed."
            )
        if not instance.is_deleted and instance.task not in OWNS_NOTHING:
            return None
        LOG.warning("instance %s: removing what is left over of it", ctx.instance_id)
        for remove in _REMOVALS:
            outcome = remove(ctx)
            if outcome is not None:
                return outcome
        return None


#: What removes everything that may be left of an instance, in this order.
_REMOVALS: tuple[Callable[[engine.Context], engine.Wait | None], ...] = (
    steps.remove_server,
    steps.remove_volume,
    steps.remove_port,
    steps.remove_name,
)


FLOW = engine.Flow(
    kind=operations.DELETE_INSTANCE,
    steps=(
        Supersede(),
        StopGuest(),
        DeleteServer(),
        DeleteVolume(),
        naming.DeleteName(),
        DeletePort(),
        certificates.ReleaseSecret(),
        Finalize(),
    ),
    on_trouble=on_trouble,
    never_fails=True,
)

CLEANUP = engine.Flow(kind=operations.CLEANUP, steps=(DeleteOrphan(),))
