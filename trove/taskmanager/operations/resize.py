"""Give an instance another flavor, or a larger volume.

A flavor is changed while the engine is stopped, so that it never runs with more memory than its
server has. The new flavor is written, and its quota settled, when the engine runs with it; whatever
fails before is taken back, and the engine runs with the old flavor again.
"""

from __future__ import annotations

from typing import Any

from oslo_log import log

from trove import states
from trove.common import exception
from trove.db import instances, operations, quotas
from trove.drivers.compute.base import Server
from trove.rpc import payloads
from trove.taskmanager.operations import engine, steps, volume_moves

LOG = log.getLogger(__name__)

#: How often something that is being resized is looked at.
_LOOK_S = 1.0
#: How often a driver is asked for what it did not begin, or began and gave up.
_MOST_ASKED = 3

_Server = states.ServerStatus


# -- flavor -----


def _is_written(ctx: engine.Context) -> bool:
    """Tell whether the resize succeeded already: then nothing is taken back.

    That the task is gone does not say so: an operator may have reset it.
    """
    flavor_id: str = steps.get_instance(ctx).flavor_id
    return flavor_id == ctx.data["flavor_id"]


def _old_sizes(ctx: engine.Context) -> payloads.ResizeJob:
    try:
        vcpus = ctx.tools.drivers.compute.get_flavor(ctx.data["old_flavor_id"]).vcpus
    except exception.FlavorNotFound:
        vcpus = 1
    return payloads.ResizeJob(memory_mib=ctx.data["old_ram_mib"], vcpus=vcpus)


def _new_sizes(ctx: engine.Context) -> payloads.ResizeJob:
    flavor = ctx.tools.drivers.compute.get_flavor(ctx.data["flavor_id"])
    return payloads.ResizeJob(memory_mib=flavor.ram_mib, vcpus=flavor.vcpus)


class StopEngine(engine.Step):
    """Stop the engine cleanly."""

    name = "stop_engine"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Send the job until its outcome is known."""
        return steps.do_job(
            ctx, payloads.StopJob.KIND, payloads.StopJob, what="Stopping the database"
        )

    def undo(self, ctx: engine.Context) -> engine.Wait | None:
        """Have the engine running as it was before, if it can."""
        if _is_written(ctx):
            return None
        return steps.try_job(
            ctx,
            payloads.ResizeJob.KIND,
            lambda: _old_sizes(ctx),
            name="resize-back",
            within_s=ctx.tools.conf.taskmanager.restart_timeout_s,
        )


class ResizeServer(engine.Step):
    """Give the server the other flavor."""

    name = "resize_server"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Ask for it, and wait until the server has it."""
        compute = ctx.tools.drivers.compute
        server = steps.keep_server_running(ctx)
        if server.status in (_Server.ACTIVE, _Server.VERIFY_RESIZE):
            if server.flavor_id == ctx.data["flavor_id"]:
                return None
            asked = ctx.data.get("resize_asked", 0)
            if asked >= _MOST_ASKED:
                raise steps.setback(
                    ctx,
                    server,
                    "The server could not be given the new flavor",
                    details=f"asked {asked} times, it keeps {server.flavor_id}",
                )
            ctx.data["resize_asked"] = asked + 1
            compute.resize_server(server.id, compute.get_flavor(ctx.data["flavor_id"]))
            if self._has_flavor(ctx):
                return None
        return steps.server_wait(ctx, "server", _LOOK_S)

    def _has_flavor(self, ctx: engine.Context) -> bool:
        server = ctx.tools.drivers.compute.find_server(ctx.instance_id)
        return (
            server is not None
            and server.status in (_Server.ACTIVE, _Server.VERIFY_RESIZE)
            and server.flavor_id == ctx.data["flavor_id"]
        )

    def undo(self, ctx: engine.Context) -> engine.Wait | None:
        """Give the server its old flavor again."""
        if _is_written(ctx):
            return None
        server = ctx.tools.drivers.compute.find_server(ctx.instance_id)
        if server is None or server.status is _Server.ERROR:
            return None
        try:
            is_busy = self._take_back(ctx, server)
        except exception.DriverError as e:
            if e.retryable:
                raise
            LOG.error("instance %s: its server keeps the new flavor: %s", ctx.instance_id, e)
            ctx.data["is_stuck"] = True
            return None
        return steps.server_wait(ctx, "server", _LOOK_S) if is_busy else None

    def _take_back(self, ctx: engine.Context, server: Server) -> bool:
        """Go one step towards the old flavor; tell whether there is more to do."""
        compute = ctx.tools.drivers.compute
        has_old = server.flavor_id == ctx.data["old_flavor_id"]
        match server.status:
            case _Server.ACTIVE if has_old:
                return False
            case _Server.ACTIVE:
                # confirmed already: back by another resize
                compute.resize_server(server.id, compute.get_flavor(ctx.data["old_flavor_id"]))
            case _Server.VERIFY_RESIZE if has_old:
                compute.confirm_resize(server.id)
            case _Server.VERIFY_RESIZE:
                compute.revert_resize(server.id)
            case _Server.SHUTOFF:
                compute.start_server(server.id)
        return True


class StartEngine(engine.Step):
    """Have the engine running with what its server has now."""

    name = "start_engine"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Send the job until its outcome is known."""
        return steps.do_job(
            ctx,
            payloads.ResizeJob.KIND,
            lambda: _new_sizes(ctx),
            what="Starting the database with the new flavor",
        )

    def undo(self, ctx: engine.Context) -> engine.Wait | None:
        """Stop the engine before its server changes, if it answers."""
        return None if _is_written(ctx) else steps.stop_engine(ctx)


class ConfirmResize(engine.Step):
    """Make it final for the compute driver."""

    name = "confirm_resize"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Confirm, and wait until the server is as any other."""
        compute = ctx.tools.drivers.compute
        server = steps.keep_server_running(ctx)
        if server.status is _Server.VERIFY_RESIZE:
            compute.confirm_resize(server.id)
            server = steps.keep_server_running(ctx)
        if server.status is _Server.ACTIVE:
            return None
        return steps.server_wait(ctx, "server", _LOOK_S)


class FinishFlavor(engine.Step):
    """Write the new flavor."""

    name = "finish"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Write it and settle its quota, together with the end of the task."""

        def finish(session: Any, now: Any) -> None:
            instance = instances.get_instance(session, ctx.instance_id)
            new_mib, old_mib = ctx.data["ram_mib"], ctx.data["old_ram_mib"]
            if steps.end_task(
                ctx,
                session,
                now,
                states.TaskStatus.RESIZING,
                flavor_id=ctx.data["flavor_id"],
                flavor_ram_mib=new_mib,
                server_status=_Server.ACTIVE,
            ):
                quotas.settle(session, ctx.operation.id)
                if new_mib < old_mib:
                    quotas.release(session, instance.project_id, {quotas.RAM: old_mib - new_mib})
                LOG.info("instance %s: has flavor %s", ctx.instance_id, ctx.data["flavor_id"])

        steps.record(ctx, finish)
        return None


def on_flavor_failed(ctx: engine.Context, session: Any, failure: engine.Failure) -> None:
    """Set the task back and tell what happened."""
    steps.fail_task(
        ctx,
        session,
        failure,
        expect=states.TaskStatus.RESIZING,
        to=states.TaskStatus.NONE,
        outcome="Its server could not be given the old flavor again: ask the operator."
        if ctx.data.get("is_stuck")
        else "The instance has its old flavor.",
    )


# -- volume -----


def _write_size(ctx: engine.Context) -> None:
    """Record the new size, and settle its quota with it."""

    def write(session: Any, now: Any) -> None:
        size_gib = ctx.data["size_gib"]
        if instances.set_volume_size(session, ctx.instance_id, size_gib=size_gib, now=now):
            quotas.settle(session, ctx.operation.id)

    steps.record(ctx, write)


class ExtendVolume(engine.Step):
    """Make the volume larger."""

    name = "extend_volume"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Ask for it, and wait until it is."""
        driver, wanted_gib = ctx.tools.drivers.volume, ctx.data["size_gib"]
        volume = volume_moves.get_volume(ctx)
        if volume.size_gib < wanted_gib and volume.status in ("available", "in-use"):
            asked = ctx.data.get("extend_asked", 0)
            if asked >= _MOST_ASKED:
                raise engine.StepFailed(
                    f"The volume could not be made {wanted_gib} GiB large.",
                    details=f"asked {asked} times, it keeps {volume.size_gib} GiB",
                )
            ctx.data["extend_asked"] = asked + 1
            driver.extend_volume(volume.id, wanted_gib)
            volume = volume_moves.get_volume(ctx)
        if volume.size_gib >= wanted_gib and volume.status in ("available", "in-use"):
            return None
        return steps.volume_wait(ctx, "volume", _LOOK_S)

    def undo(self, ctx: engine.Context) -> engine.Wait | None:
        """A volume never gets smaller: one that was extended after all is shown and charged so."""
        volume = ctx.tools.drivers.volume.find_volume(ctx.instance_id)
        if volume is not None and volume.size_gib >= ctx.data["size_gib"]:
            _write_size(ctx)
        return None


class RecordSize(engine.Step):
    """Show the new size, for it cannot be taken back."""

    name = "record_size"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Write it."""
        _write_size(ctx)
        return None


class TellGuest(engine.Step):
    """Have the agent take note."""

    name = "tell_guest"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Send the job until its outcome is known; nothing when it was told with the volume."""
        if volume_moves.is_offline(ctx):
            return None
        return steps.do_job(
            ctx,
            payloads.GrowJob.KIND,
            lambda: payloads.GrowJob(volume_size_gib=ctx.data["size_gib"]),
            what="Using the larger volume",
        )


class FinishVolume(engine.Step):
    """End the task."""

    name = "finish"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Set the task back, unless somebody else has."""

        def finish(session: Any, now: Any) -> None:
            if steps.end_task(ctx, session, now, states.TaskStatus.RESIZING):
                LOG.info("instance %s: volume resized", ctx.instance_id)

        steps.record(ctx, finish)
        return None


def on_volume_failed(ctx: engine.Context, session: Any, failure: engine.Failure) -> None:
    """Set the task back and tell what happened."""
    size_gib = instances.get_instance(session, ctx.instance_id).volume_size_gib
    steps.fail_task(
        ctx,
        session,
        failure,
        expect=states.TaskStatus.RESIZING,
        to=steps.task_before(ctx),
        outcome=f"The volume has {size_gib} GiB."
        if not ctx.data.get("is_stuck")
        else "Its server could not be given the volume back, so the database does not run. Its data"
        " is on the volume: ask the operator, and resize it again when that is mended.",
    )


FLAVOR_FLOW = engine.Flow(
    kind=operations.RESIZE_FLAVOR,
    steps=(StopEngine(), ResizeServer(), StartEngine(), ConfirmResize(), FinishFlavor()),
    on_failed=on_flavor_failed,
)
VOLUME_FLOW = engine.Flow(
    kind=operations.RESIZE_VOLUME,
    steps=(
        volume_moves.StopEngine(),
        volume_moves.Unmount(),
        volume_moves.DetachVolume(),
        ExtendVolume(),
        RecordSize(),
        volume_moves.AttachVolume(),
        volume_moves.Mount(),
        TellGuest(),
        FinishVolume(),
    ),
    on_failed=on_volume_failed,
)
