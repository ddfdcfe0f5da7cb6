"""Restart the engine of an instance."""

from __future__ import annotations

from typing import Any

from oslo_log import log

from trove import states
from trove.db import instances, operations
from trove.rpc import payloads
from trove.taskmanager.operations import engine, steps

LOG = log.getLogger(__name__)


class RestartEngine(engine.Step):
    """Have the agent restart the engine."""

    name = "restart_engine"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Send the job until its outcome is known."""
        outcome = steps.run_job(ctx, payloads.RestartJob.KIND, payloads.RestartJob)
        if isinstance(outcome, engine.Wait):
            steps.keep_server_running(ctx)
            return outcome
        steps.expect_success(outcome, what="Restarting the database")
        return None


class Finish(engine.Step):
    """End the task."""

    name = "finish"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Set the task back, unless somebody else has (a deletion)."""

        def finish(session: Any, now: Any) -> None:
            if instances.change_task(
                session,
                ctx.instance_id,
                expect=states.TaskStatus.REBOOTING,
                to=states.TaskStatus.NONE,
                now=now,
                server_status=states.ServerStatus.ACTIVE,
            ):
                instances.clear_fault(session, ctx.instance_id, now=now)
                LOG.info("instance %s: restarted", ctx.instance_id)

        steps.record(ctx, finish)
        return None


def on_failed(ctx: engine.Context, session: Any, failure: engine.Failure) -> None:
    """Set the task back and tell what happened."""
    now = ctx.tools.clock.now()
    if instances.change_task(
        session,
        ctx.instance_id,
        expect=states.TaskStatus.REBOOTING,
        to=states.TaskStatus.NONE,
        now=now,
    ):
        instances.set_fault(
            session,
            ctx.instance_id,
            message=f"{failure.message} The database was not restarted, or its restart was not"
            " confirmed: look at its operating status and restart it again.",
            details=f"step {failure.step}: {failure.details or failure.message}",
            now=now,
        )


FLOW = engine.Flow(
    kind=operations.RESTART_INSTANCE,
    steps=(RestartEngine(), Finish()),
    on_failed=on_failed,
)
