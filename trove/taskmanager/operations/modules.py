"""Modules on their way to instances: with the engine of a new one, or again to those that have it.

A module is applied again in batches: jobs to all agents of a batch, their outcomes, a pause, the
next batch. An agent that does not answer does not hold up the others for long.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping, Sequence
from typing import Any

from oslo_log import log

from trove.common import exception
from trove.db import base, guest_jobs, modules, operations
from trove.rpc import payloads
from trove.services import instance_modules
from trove.taskmanager.operations import engine, steps

LOG = log.getLogger(__name__)

#: How often the outcomes of a batch are looked for, and how long they are waited for.
_LOOK_S = 1.0
_PATIENCE_S = 60.0
#: Instances that are named when they failed.
_MOST_NAMED = 10

_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")
_MD5 = re.compile(r"[0-9a-f]{32}\Z")


def payloads_of(ctx: engine.Context, ids: Sequence[str]) -> tuple[payloads.Module, ...]:
    """Return what a guest is sent of modules; of those deleted meanwhile, nothing."""
    if not ids:
        return ()
    with ctx.tools.database.reader() as session:
        found = modules.list_by_ids(session, ids)
        contents = modules.get_contents(session, ids)
    return instance_modules.to_payloads(found, contents, key_ring=ctx.tools.key_ring)


def record(ctx: engine.Context, instance_id: str, result: Mapping[str, Any] | None) -> list[str]:
    """Note which modules a guest says it applied; return those it says it did not."""
    applied: dict[str, str] = {}
    failed: list[str] = []
    entries = (result or {}).get("modules")
    # the guest may be hostile
    for entry in entries if isinstance(entries, list) else ():
        if not isinstance(entry, dict):
            continue
        module_id, md5 = str(entry.get("id")), str(entry.get("md5"))
        if not _ID.match(module_id) or not _MD5.match(md5):
            continue
        if entry.get("status") == "OK":
            applied[module_id] = md5
        else:
            failed.append(module_id)
    if applied:
        steps.record(
            ctx,
            lambda session, now: modules.record_applied(session, instance_id, applied, now=now),
        )
    return failed


class Reapply(engine.Step):
    """Apply a module again, batch by batch."""

    name = "reapply"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Go on with the batch under way, or begin the next; raises StepFailed at the end."""
        with ctx.tools.database.reader() as session:
            module = modules.find(session, ctx.operation.resource_id, project_id=None)
        if module is None:
            LOG.info("module %s: deleted while it was applied again", ctx.operation.resource_id)
            return None
        if not ctx.data.get("batch") and not self._begin_batch(ctx, module):
            return self._end(ctx)
        pending = self._settle(ctx, module)
        now = ctx.tools.clock.now()
        if pending and now - _time(ctx, "began") >= datetime.timedelta(seconds=_PATIENCE_S):
            self._note_failed(ctx, pending)
            pending = []
        ctx.data["batch"] = pending
        if pending:
            return engine.Wait(event="modules", timeout_s=_LOOK_S)
        return engine.Wait(event="next-batch", timeout_s=float(ctx.data["batch_delay_s"]))

    def _begin_batch(self, ctx: engine.Context, module: modules.Module) -> bool:
        with ctx.tools.database.reader() as session:
            batch = modules.list_to_reapply(
                session,
                module,
                project_id=ctx.data["project_id"],
                md5=ctx.data["md5"],
                force=ctx.data["force"],
                after=ctx.data.get("after", ""),
                limit=ctx.data["batch_size"],
            )
        if not batch:
            return False
        now = ctx.tools.clock.now().isoformat()
        ctx.data.update(batch=list(batch), after=batch[-1], began=now, sent=None)
        return True

    def _settle(self, ctx: engine.Context, module: modules.Module) -> list[str]:
        """Take the outcomes that came, send what has none; return the instances without."""
        pending = []
        jobs = self._jobs(ctx)
        for instance_id in ctx.data["batch"]:
            job = jobs[instance_id]
            if job.succeeded is None:
                pending.append(instance_id)
            elif not job.succeeded or record(ctx, instance_id, job.result):
                self._note_failed(ctx, [instance_id])
            else:
                ctx.data["done"] = ctx.data.get("done", 0) + 1
        interval = datetime.timedelta(seconds=ctx.tools.conf.taskmanager.job_retry_interval_s)
        now = ctx.tools.clock.now()
        if pending and (ctx.data["sent"] is None or now - _time(ctx, "sent") >= interval):
            self._send(ctx, module, pending)
            ctx.data["sent"] = now.isoformat()
        return pending

    @base.retry_on_conflict
    def _jobs(self, ctx: engine.Context) -> Mapping[str, guest_jobs.GuestJob]:
        with ctx.tools.database.writer() as session:
            return {
                instance_id: guest_jobs.ensure(
                    session,
                    ctx.job_id(instance_id),
                    instance_id=instance_id,
                    operation_id=ctx.operation.id,
                    kind=payloads.ModulesJob.KIND,
                    now=ctx.tools.clock.now(),
                )
                for instance_id in ctx.data["batch"]
            }

    def _send(
        self, ctx: engine.Context, module: modules.Module, instance_ids: Sequence[str]
    ) -> None:
        wanted = payloads.ModulesJob(
            modules=payloads_of(ctx, [module.id]), force=bool(ctx.data["force"])
        )
        for instance_id in instance_ids:
            job = payloads.Job(
                job_id=ctx.job_id(instance_id),
                kind=payloads.ModulesJob.KIND,
                payload=wanted.to_wire(),
            )
            try:
                ctx.tools.guests.send_job(instance_id, job)
            except (exception.ServiceUnavailable, exception.InstanceNotFound) as e:
                LOG.info("job %s not sent now: %s", job.job_id, e)

    @staticmethod
    def _note_failed(ctx: engine.Context, instance_ids: Sequence[str]) -> None:
        ctx.data["failed"] = ctx.data.get("failed", 0) + len(instance_ids)
        named = [*ctx.data.get("failed_ids", []), *instance_ids]
        ctx.data["failed_ids"] = named[:_MOST_NAMED]

    @staticmethod
    def _end(ctx: engine.Context) -> None:
        done, failed = ctx.data.get("done", 0), ctx.data.get("failed", 0)
        LOG.info("module %s: applied again to %d instances", ctx.operation.resource_id, done)
        if failed:
            raise engine.StepFailed(
                f"The module was applied to {done} instances and not to {failed}; ask for it again"
                " once they run.",
                details=f"among them {', '.join(ctx.data['failed_ids'])}",
            )


def _time(ctx: engine.Context, key: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(ctx.data[key])


FLOW = engine.Flow(kind=operations.REAPPLY_MODULE, steps=(Reapply(),))
