"""Make the server of an instance anew, from another image of its datastore version.

Data volume, port and address stay; the agent of the new server finds the data and makes
configuration and certificate for it. When the new server does not come up, the instance is brought
back on its old image. :mod:`trove.taskmanager.operations.upgrade` has the same steps, and more.
"""

from __future__ import annotations

from typing import Any

from oslo_log import log

from trove import states
from trove.common import exception
from trove.db import guest_jobs, modules, operations
from trove.rpc import payloads
from trove.taskmanager.operations import channel, create, delete, engine, steps

LOG = log.getLogger(__name__)

_BUILDING = states.TaskStatus.BUILDING


def _is_over(ctx: engine.Context) -> bool:
    """Tell whether the last step has ended the task already: then nothing is taken back.

    A task that is gone while another step was at work was reset by an operator.
    """
    if ctx.failure is not None and ctx.failure.step != Finish.name:
        return False
    return steps.get_instance(ctx).task is not _BUILDING


class CheckImage(engine.Step):
    """See that there is something to make the server from, before anything is stopped."""

    name = "check_image"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Look for the image, and for what the new agent is to get besides the engine.

        Raises StepFailed for an image of another datastore, and for one that is not complete.
        """
        image = ctx.tools.drivers.image.get_image(ctx.data["image_id"])
        manager = steps.get_instance(ctx).version.manager
        if image.status != "active":
            raise engine.StepFailed(f"Image {image.id} is in status {image.status}.")
        # an image that is found by tags alone may say nothing of itself
        if image.manager and image.manager != manager:
            raise engine.StepFailed(
                f"Image {image.id} is made for {image.manager}, the instance runs {manager}."
            )
        with ctx.tools.database.reader() as session:
            ctx.data["modules"] = sorted(modules.list_applied(session, ctx.instance_id))
        return None


class StopGuest(delete.StopGuest):
    """Let the engine shut down cleanly, if its agent answers; bounded in time."""

    def undo(self, ctx: engine.Context) -> engine.Wait | None:
        """Bring the instance back on its old image; bounded in time."""
        if _is_over(ctx):
            return None
        return bring_back(ctx, engine_version=steps.get_instance(ctx).version.version)


def bring_back(ctx: engine.Context, *, engine_version: str | None) -> engine.Wait | None:
    """Bring the instance back on its old image and version; bounded in time.

    When that cannot be done, ``is_down`` of the operation's data says so.
    """
    within_s = ctx.tools.conf.taskmanager.usage_timeout_s
    if steps.time_left_s(ctx, "back", within_s) <= 0:
        ctx.data["is_down"] = True
        return None
    try:
        return _bring_back(ctx, within_s, engine_version)
    except (engine.StepFailed, exception.DriverError) as e:
        if isinstance(e, exception.DriverError) and e.retryable:
            raise
        LOG.error("instance %s: cannot be brought back: %s", ctx.instance_id, e)
        ctx.data["is_down"] = True
        return None


def _bring_back(
    ctx: engine.Context, within_s: float, engine_version: str | None
) -> engine.Wait | None:
    instance = steps.get_instance(ctx)
    compute = ctx.tools.drivers.compute
    if compute.find_server(instance.id) is None:
        if "boot_before_back" not in ctx.data:
            # saved before the server is made: whoever goes on knows which agent is the new one
            ctx.data["boot_before_back"] = instance.heartbeat.boot
            return engine.Wait(event="server", timeout_s=0)
        server = compute.create_server(
            create.server_spec(ctx, instance, image_id=ctx.data.get("old_image_id"))
        )
        steps.record_server(ctx, server)
    if instance.heartbeat.boot <= ctx.data.get("boot_before_back", -1):
        steps.watch_server(ctx)
        return steps.agent_wait(ctx)
    steps.record_server(ctx, steps.keep_server_running(ctx))
    outcome = channel.secure(ctx, name="rekey-back") or steps.try_job(
        ctx,
        payloads.PrepareJob.KIND,
        lambda: create.prepare_job(ctx, steps.get_instance(ctx), engine_version=engine_version),
        name="prepare-back",
        within_s=within_s,
    )
    if outcome is None:
        channel.remove_first_account(ctx)
        with ctx.tools.database.reader() as session:
            job = guest_jobs.find(session, ctx.job_id("prepare-back"))
        ctx.data["is_down"] = job is None or not job.succeeded
    return outcome


class RemoveServer(engine.Step):
    """Remove the old server."""

    name = "remove_server"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Remove it, wait until it is gone, and note which agent was the last."""
        outcome = steps.remove_server(ctx)
        if outcome is None:
            ctx.data["boot"] = steps.get_instance(ctx).heartbeat.boot
        return outcome

    def undo(self, ctx: engine.Context) -> engine.Wait | None:
        """Remove what there is: the old server half-way, or the new one."""
        return None if _is_over(ctx) else steps.remove_server(ctx)


class MakeServer(engine.Step):
    """Make the server from the image."""

    name = "make_server"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Find or make it."""
        instance = steps.get_instance(ctx)
        # also where there is one: a driver that died half-way goes on with what it made
        server = ctx.tools.drivers.compute.create_server(
            create.server_spec(ctx, instance, image_id=ctx.data["image_id"])
        )
        steps.record_server(ctx, server)
        return None


class AwaitAgent(engine.Step):
    """Wait until the new agent said hello."""

    name = "await_agent"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Look whether it did; meanwhile keep its server running."""
        if steps.get_instance(ctx).heartbeat.boot > ctx.data["boot"]:
            return None
        steps.watch_server(ctx)
        return steps.agent_wait(ctx)


class Prepare(create.Prepare):
    """Have the new agent run the engine on the data that is there."""

    def job(self, ctx: engine.Context) -> payloads.PrepareJob:
        """Describe the engine, with the version that it should have."""
        instance = steps.get_instance(ctx)
        return create.prepare_job(ctx, instance, engine_version=instance.version.version)

    def undo(self, ctx: engine.Context) -> engine.Wait | None:
        """Stop the engine cleanly before its server goes, if it answers."""
        return None if _is_over(ctx) else steps.stop_engine(ctx)


class Finish(engine.Step):
    """Hand the instance back to its user."""

    name = "finish"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """End the task."""

        def finish(session: Any, now: Any) -> None:
            active = states.ServerStatus.ACTIVE
            if steps.end_task(ctx, session, now, _BUILDING, server_status=active):
                LOG.info(
                    "instance %s: rebuilt from image %s", ctx.instance_id, ctx.data["image_id"]
                )

        steps.record(ctx, finish)
        return None


def on_failed(ctx: engine.Context, session: Any, failure: engine.Failure) -> None:
    """Tell what happened, and whether the instance is back on its old image."""
    steps.fail_task(
        ctx,
        session,
        failure,
        expect=_BUILDING,
        to=states.TaskStatus.NONE,
        outcome="It could not be brought back on its old image either; its data is on its volume:"
        " have the operator rebuild it."
        if ctx.data.get("is_down", False)
        else "The instance runs on its old image.",
    )


FLOW = engine.Flow(
    kind=operations.REBUILD_INSTANCE,
    steps=(
        CheckImage(),
        StopGuest(),
        RemoveServer(),
        MakeServer(),
        AwaitAgent(),
        channel.SecureChannel(),
        Prepare(),
        channel.RemoveFirstAccount(),
        Finish(),
    ),
    on_failed=on_failed,
)
