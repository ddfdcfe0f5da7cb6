"""Prove a backup: restore it beside the running database of its instance, have the engine check it.

That is done by the agent of the instance, whose volume needs room for a second copy. The operation
does not hold the lock of the instance. An agent does one job after the other, though, so that an
operation on the instance that begins meanwhile has the proof broken off and begun again behind it.

What the agent finds is the result: passed, or failed with the reason. Where nothing could be found
out (the agent is gone, the store fails) the backup is as proven as it was before.
"""

from __future__ import annotations

import datetime
from typing import Any

from oslo_log import log

from trove import states
from trove.common import exception
from trove.db import backups, events, guest_jobs, notifications, operations
from trove.rpc import payloads
from trove.taskmanager.operations import engine, restore, steps

LOG = log.getLogger(__name__)

PROVEN = "backup.verification.passed"
DISPROVEN = "backup.verification.failed"
UNPROVEN = "backup.verification.incomplete"
#: Who listens to notifications is told of what is disproven.
DISPROVEN_NOTIFICATION = "dbaas.backup_verify.error"

#: Key of the data: what came of it stands with the backup.
RECORDED = "is_recorded"

#: How often one looks whether another operation wants the agent.
_LOOK_S = 5.0


class Verify(engine.Step):
    """Have the agent prove the backup, while nothing else is to be done on the instance."""

    name = "verify"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Send the job until its outcome is known."""
        attempt = ctx.data.setdefault("attempt", 0)
        name = f"{payloads.VerifyBackupJob.KIND}-{attempt}"
        is_busy = self._is_busy(ctx)
        if is_busy and not ctx.data.get("is_sent"):
            return engine.Wait(event="operation-ended", timeout_s=_LOOK_S)
        if not is_busy and not ctx.data.get("is_sent"):
            ctx.data["is_sent"] = True
            ctx.data["began"] = ctx.tools.clock.now().isoformat()
        outcome = steps.run_job(
            ctx, payloads.VerifyBackupJob.KIND, lambda: make_job(ctx), name=name
        )
        if isinstance(outcome, engine.Wait):
            if is_busy and ctx.data.get("cancelled") != attempt:
                ctx.data["cancelled"] = attempt
                steps.cancel_job(ctx.tools, ctx.instance_id, ctx.job_id(name))
            return engine.Wait(event=outcome.event, timeout_s=_LOOK_S)
        if not outcome.succeeded and ctx.data.get("cancelled") == attempt:
            ctx.data.update(attempt=attempt + 1, is_sent=False)
            return engine.Wait(event="operation-ended", timeout_s=_LOOK_S)
        expect_found_out(outcome)
        ctx.data["result"] = result_of(ctx, outcome)
        return None

    def undo(self, ctx: engine.Context) -> engine.Wait | None:
        """Have the agent end it: nobody waits for what it finds."""
        if ctx.data.get("is_sent"):
            name = f"{payloads.VerifyBackupJob.KIND}-{ctx.data['attempt']}"
            steps.cancel_job(ctx.tools, ctx.instance_id, ctx.job_id(name))
        return None

    def _is_busy(self, ctx: engine.Context) -> bool:
        with ctx.tools.database.reader() as session:
            return operations.is_locked(session, operations.instance_lock(ctx.instance_id))


def make_job(ctx: engine.Context) -> payloads.VerifyBackupJob:
    """Return what an agent is told to prove."""
    restoration = restore.payload_of(ctx)
    if restoration is None:
        raise engine.StepFailed("The operation names no backup.")
    return payloads.VerifyBackupJob(restoration=restoration)


class NotFoundOut(engine.StepFailed):
    """The agent could not find out whether a backup is good; elsewhere it may be possible."""

    def __init__(self, reason: str, *, is_of_place: bool) -> None:
        """Take the reason, and whether it is something that lacks in this place."""
        super().__init__(reason)
        self.is_of_place = is_of_place


def expect_found_out(outcome: guest_jobs.GuestJob) -> None:
    """Raise NotFoundOut when the agent could not find out whether a backup is good."""
    codes = (exception.NotProven.code, exception.NotProvable.code)
    if outcome.error_code in codes:
        raise NotFoundOut(
            steps.shorten(outcome.error, default="The guest agent gave no reason."),
            is_of_place=outcome.error_code == exception.NotProvable.code,
        )


def result_of(ctx: engine.Context, job: guest_jobs.GuestJob) -> dict[str, Any]:
    """Return what came of a proof, for :class:`Record`; ``began`` is in the data."""
    took = ctx.tools.clock.now() - datetime.datetime.fromisoformat(ctx.data["began"])
    details: dict[str, Any] = {"seconds": round(took.total_seconds(), 1)}
    if job.succeeded:
        found = dict(job.result or {})
        details |= {key: found[key] for key in ("findings", "facts") if key in found}
    else:
        details["reason"] = steps.shorten(job.error, default="the guest agent gave no reason")
    return {"is_passed": bool(job.succeeded), "details": details}


def disproven(reason: str) -> dict[str, Any]:
    """Return that a backup turned out to be bad before anybody looked into it."""
    return {"is_passed": False, "details": {"seconds": 0.0, "reason": reason}}


class Record(engine.Step):
    """Write what came of it."""

    name = "record"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Write it with the backup, and tell."""
        if ctx.data.get(RECORDED):
            return None
        steps.record(ctx, lambda session, now: _write_result(ctx, session, now))
        ctx.data[RECORDED] = True
        return None


def _write_result(ctx: engine.Context, session: Any, now: datetime.datetime) -> None:
    result = ctx.data["result"]
    is_passed = result["is_passed"]
    _write(
        ctx,
        session,
        now,
        kind=PROVEN if is_passed else DISPROVEN,
        details=result["details"],
        verification=states.Verification.PASSED if is_passed else states.Verification.FAILED,
        verified=now,
    )


def _write(
    ctx: engine.Context,
    session: Any,
    now: datetime.datetime,
    *,
    kind: str,
    details: dict[str, Any],
    **values: Any,
) -> None:
    backup_id = ctx.data["backup_id"]
    backup = backups.find(session, backup_id)
    if backup is None or not backups.record_verification(
        session, backup_id, details=details, **values
    ):
        return
    events.append(
        session,
        backup.project_id,
        type=kind,
        resource_type="backup",
        resource_id=backup_id,
        payload={"instance_id": backup.instance_id, "reason": details.get("reason")},
        now=now,
    )
    if kind == DISPROVEN:
        notifications.append(
            session,
            DISPROVEN_NOTIFICATION,
            {
                **notifications.base_traits(backup.project_id, ctx.operation.request_id),
                "backup_id": backup_id,
                "name": backup.name,
                "instance_id": backup.instance_id,
                "message": details.get("reason"),
            },
            now=now,
            priority=notifications.ERROR,
        )
    LOG.info("backup %s: %s", backup_id, kind)


def on_failed(ctx: engine.Context, session: Any, failure: engine.Failure) -> None:
    """Tell that nothing was found out, unless something was; what was proven before stays so."""
    if ctx.data.get(RECORDED):
        return
    if "result" in ctx.data:
        _write_result(ctx, session, ctx.tools.clock.now())
        return
    restored = ctx.data.get("before") or {}
    before = restored.get("verification")
    _write(
        ctx,
        session,
        ctx.tools.clock.now(),
        kind=UNPROVEN,
        details={"reason": failure.message},
        verification=None if before is None else states.Verification(before),
    )


FLOW = engine.Flow(kind=operations.VERIFY_BACKUP, steps=(Verify(), Record()), on_failed=on_failed)
