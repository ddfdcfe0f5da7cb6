"""Bring back an instance whose server is off though it should run."""

from __future__ import annotations

from typing import Any

from oslo_log import log

from trove import states
from trove.db import instances, operations
from trove.taskmanager.operations import engine, steps

LOG = log.getLogger(__name__)


class StartServer(engine.Step):
    """Start the server."""

    name = "start_server"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Start it if it is off; raises StepFailed when it is gone or in error."""
        steps.get_instance(ctx)
        steps.keep_server_running(ctx)
        return None


class AwaitAgent(engine.Step):
    """Wait until the agent reports again."""

    name = "await_agent"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Look whether it did since the operation began; meanwhile keep its server running."""
        if steps.get_instance(ctx).heartbeat.received >= ctx.operation.created:
            return None
        steps.watch_server(ctx)
        return steps.agent_wait(ctx)


class Finish(engine.Step):
    """Show the server as it is."""

    name = "finish"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Record that the server runs."""
        server = steps.keep_server_running(ctx)

        def finish(session: Any, now: Any) -> None:
            instances.set_server(
                session,
                ctx.instance_id,
                server_id=server.id,
                status=states.ServerStatus.ACTIVE,
                now=now,
            )
            instances.clear_fault(session, ctx.instance_id, now=now)

        steps.record(ctx, finish)
        LOG.info("instance %s: its server runs again", ctx.instance_id)
        return None


def on_failed(ctx: engine.Context, session: Any, failure: engine.Failure) -> None:
    """Tell why the instance is down; the reconciler begins again later."""
    instances.set_fault(
        session,
        ctx.instance_id,
        message="The server of the instance stopped and could not be started again:"
        f" {failure.message} It is tried again from time to time.",
        details=f"step {failure.step}: {failure.details or failure.message}",
        now=ctx.tools.clock.now(),
    )


FLOW = engine.Flow(
    kind=operations.RECOVER_INSTANCE,
    steps=(StartServer(), AwaitAgent(), Finish()),
    on_failed=on_failed,
)
