"""Restart the engine of an instance."""

from __future__ import annotations

from typing import Any

from oslo_log import log

from trove import states
from trove.db import operations
from trove.rpc import payloads
from trove.taskmanager.operations import engine, steps

LOG = log.getLogger(__name__)


class RestartEngine(engine.Step):
    """Have the agent restart the engine."""

    name = "restart_engine"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Send the job until its outcome is known."""
        return steps.do_job(
            ctx, payloads.RestartJob.KIND, payloads.RestartJob, what="Restarting the database"
        )


class Finish(engine.Step):
    """End the task."""

    name = "finish"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Set the task back, unless somebody else has (a deletion)."""

        def finish(session: Any, now: Any) -> None:
            if steps.end_task(
                ctx,
                session,
                now,
                states.TaskStatus.REBOOTING,
                server_status=states.ServerStatus.ACTIVE,
            ):
                LOG.info("instance %s: restarted", ctx.instance_id)

        steps.record(ctx, finish)
        return None


def on_failed(ctx: engine.Context, session: Any, failure: engine.Failure) -> None:
    """Set the task back and tell what happened."""
    steps.fail_task(
        ctx,
        session,
        failure,
        expect=states.TaskStatus.REBOOTING,
        to=states.TaskStatus.NONE,
        outcome="The database was not restarted, or its restart was not confirmed: look at its"
        " operating status and restart it again.",
    )


FLOW = engine.Flow(
    kind=operations.RESTART_INSTANCE,
    steps=(RestartEngine(), Finish()),
    on_failed=on_failed,
)
