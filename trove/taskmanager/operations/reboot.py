"""Reboot a server, stop an engine, move a server: what operators do to repair."""

from __future__ import annotations

from typing import Any

from oslo_log import log

from trove import states
from trove.db import operations
from trove.rpc import payloads
from trove.taskmanager.operations import engine, steps

LOG = log.getLogger(__name__)

_LOOK_S = 1.0
#: How often a driver is asked for a migration that it did not begin, or began and gave up.
_MOST_ASKED = 3

_Server = states.ServerStatus
#: Kind of the operation -> its task, and what a failure means.
_TASKS = {
    operations.REBOOT_INSTANCE: states.TaskStatus.REBOOTING,
    operations.STOP_DATABASE: states.TaskStatus.UPDATING,
    operations.MIGRATE_INSTANCE: states.TaskStatus.MIGRATING,
}
_FAULTS = {
    operations.REBOOT_INSTANCE: "The instance was not rebooted, or its reboot was not confirmed.",
    operations.STOP_DATABASE: "The database was not stopped, or its stop was not confirmed.",
    operations.MIGRATE_INSTANCE: "The instance was not moved, or its move was not confirmed.",
}


class NoteStart(engine.Step):
    """Note which start of the agent the last was."""

    name = "note_start"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Note it, before the server is touched."""
        ctx.data["boot"] = steps.get_instance(ctx).heartbeat.boot
        return None


class RebootServer(engine.Step):
    """Stop and start the server; its engine ends cleanly if it can."""

    name = "reboot_server"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Ask for it once, and wait until the agent has started again."""
        if steps.get_instance(ctx).heartbeat.boot > ctx.data["boot"]:
            return None
        server = steps.get_server(ctx)
        if not ctx.data.get("is_asked"):
            ctx.data["is_asked"] = True
            ctx.tools.drivers.compute.reboot_server(server.id)
        else:
            steps.watch_server(ctx)
        return steps.agent_wait(ctx, _LOOK_S)


class StartEngine(engine.Step):
    """Have the engine running."""

    name = "start_engine"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Send the job until its outcome is known."""
        return steps.do_job(
            ctx, payloads.StartJob.KIND, payloads.StartJob, what="Starting the database"
        )


class StopEngine(engine.Step):
    """Stop the engine; it stays stopped until somebody asks for a restart."""

    name = "stop_engine"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Send the job until its outcome is known."""
        return steps.do_job(
            ctx, payloads.StopJob.KIND, payloads.StopJob, what="Stopping the database"
        )


class MigrateServer(engine.Step):
    """Move the server to another host."""

    name = "migrate_server"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Ask for it, and wait until the server runs there."""
        server = steps.keep_server_running(ctx)
        if "from_host" not in ctx.data:
            # saved before anything moves: whoever goes on knows where it came from
            ctx.data["from_host"] = server.host
            return engine.Wait(event="server", timeout_s=0)
        compute, wanted = ctx.tools.drivers.compute, ctx.data.get("host")
        is_there = server.host == wanted if wanted else server.host != ctx.data["from_host"]
        if server.status is _Server.VERIFY_RESIZE:
            compute.confirm_resize(server.id)
        elif server.status is _Server.ACTIVE and is_there:
            steps.record_server(ctx, server)
            return None
        elif server.status is _Server.ACTIVE:
            asked = ctx.data.get("asked", 0)
            if asked >= _MOST_ASKED:
                raise steps.setback(
                    ctx,
                    server,
                    "The server could not be moved",
                    details=f"asked {asked} times, it stays on {server.host}",
                )
            ctx.data["asked"] = asked + 1
            compute.migrate_server(server.id, wanted)
        return steps.server_wait(ctx, "server", _LOOK_S)


class Finish(engine.Step):
    """End the task."""

    name = "finish"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Set the task back, unless somebody else has (a deletion)."""
        kind = ctx.operation.kind
        if kind == operations.REBOOT_INSTANCE:
            # the engine was started again: no restart is due any more
            ctx.data["task"] = states.TaskStatus.NONE.value

        def finish(session: Any, now: Any) -> None:
            if steps.end_task(
                ctx, session, now, _TASKS[kind], server_status=states.ServerStatus.ACTIVE
            ):
                LOG.info("instance %s: %s done", ctx.instance_id, kind)

        steps.record(ctx, finish)
        return None


def on_failed(ctx: engine.Context, session: Any, failure: engine.Failure) -> None:
    """Set the task back and tell what happened."""
    kind = ctx.operation.kind
    steps.fail_task(
        ctx,
        session,
        failure,
        expect=_TASKS[kind],
        to=steps.task_before(ctx),
        outcome=_FAULTS[kind],
    )


REBOOT_FLOW = engine.Flow(
    kind=operations.REBOOT_INSTANCE,
    steps=(NoteStart(), RebootServer(), StartEngine(), Finish()),
    on_failed=on_failed,
)
STOP_FLOW = engine.Flow(
    kind=operations.STOP_DATABASE, steps=(StopEngine(), Finish()), on_failed=on_failed
)
MIGRATE_FLOW = engine.Flow(
    kind=operations.MIGRATE_INSTANCE,
    steps=(MigrateServer(), StartEngine(), Finish()),
    on_failed=on_failed,
)
