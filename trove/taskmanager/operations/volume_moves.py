"""Take the data volume of an instance from its server and give it back, to extend it meanwhile.

For volume services that cannot extend what a server uses: the engine is stopped, the agent lets go
of the volume, the server gives it back, and all that again in reverse order. Where the volume
service can, every step here does nothing. On the way back the instance gets its volume with
whatever size that has.
"""

from __future__ import annotations

from oslo_log import log

from trove import states
from trove.common import exception
from trove.drivers.volume.base import Volume
from trove.rpc import payloads
from trove.taskmanager.operations import engine, steps

LOG = log.getLogger(__name__)

#: How often a volume that is on its way is looked at.
_LOOK_S = 1.0
#: How often a driver is asked for what it did not begin, or began and gave up.
_MOST_ASKED = 3


def is_offline(ctx: engine.Context) -> bool:
    """Tell whether the volume leaves its server while it is extended."""
    return bool(ctx.data.get("is_offline"))


def get_volume(ctx: engine.Context) -> Volume:
    """Return the volume of the instance; raises StepFailed when it is gone or in error."""
    volume = ctx.tools.drivers.volume.find_volume(ctx.instance_id)
    if volume is None or volume.status == "error":
        fault = None if volume is None else volume.fault
        reason = steps.shorten(fault, default="The volume of the instance is gone or in error")
        raise engine.StepFailed(
            reason,
            details="find_volume: none" if volume is None else f"volume {volume.id}: error",
        )
    return volume


def _ask(ctx: engine.Context, what: str, *, key: str) -> None:
    """Count how often a driver was asked for something; raises StepFailed when that is enough."""
    asked = ctx.data.get(key, 0)
    if asked >= _MOST_ASKED:
        raise engine.StepFailed(
            f"The volume of the instance could not be {what} its server.",
            details=f"asked {asked} times",
        )
    ctx.data[key] = asked + 1


def _give(ctx: engine.Context, *, key: str) -> engine.Wait | None:
    """Have the server have the volume; None when it has."""
    volume = get_volume(ctx)
    server = steps.keep_server_running(ctx)
    if volume.status == "available" and server.status is states.ServerStatus.ACTIVE:
        _ask(ctx, "given to", key=key)
        ctx.tools.drivers.compute.attach_volume(server.id, volume.id)
        volume = get_volume(ctx)
    if volume.status == "in-use":
        return None
    return steps.volume_wait(ctx, "volume", _LOOK_S)


def _unmount(ctx: engine.Context) -> engine.Wait | None:
    """Have the agent let go of the volume.

    An agent that started since took it again: it is told again.
    """
    boot = steps.get_instance(ctx).heartbeat.boot
    if ctx.data.get("unmounted_at") == boot:
        return None
    outcome = steps.run_job(
        ctx, payloads.UnmountJob.KIND, payloads.UnmountJob, name=f"unmount-{boot}"
    )
    if isinstance(outcome, engine.Wait):
        steps.watch_server(ctx)
        return outcome
    steps.expect_success(outcome, what="Letting go of the volume")
    ctx.data["unmounted_at"] = boot
    return None


def _mount_job(ctx: engine.Context) -> payloads.MountJob:
    instance = steps.get_instance(ctx)
    return payloads.MountJob(
        volume_id=instance.volume_id or "", volume_size_gib=instance.volume_size_gib or 0
    )


class StopEngine(engine.Step):
    """Stop the engine cleanly."""

    name = "stop_engine"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Decide whether the volume has to leave its server, and send the job then."""
        drivers = ctx.tools.drivers
        # what was begun one way is ended that way, whatever the configuration says later
        ctx.data.setdefault(
            "is_offline", drivers.compute.attaches_volumes and not drivers.volume.extends_attached
        )
        if not is_offline(ctx):
            return None
        return steps.do_job(
            ctx, payloads.StopJob.KIND, payloads.StopJob, what="Stopping the database"
        )

    def undo(self, ctx: engine.Context) -> engine.Wait | None:
        """Have the engine running again, if it can."""
        if not is_offline(ctx) or ctx.data.get("is_stuck"):
            return None
        return steps.try_job(
            ctx,
            payloads.StartJob.KIND,
            payloads.StartJob,
            name="start-back",
            within_s=ctx.tools.conf.taskmanager.restart_timeout_s,
        )


class Unmount(engine.Step):
    """Have the agent let go of the volume."""

    name = "unmount"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Send the job until its outcome is known."""
        return _unmount(ctx) if is_offline(ctx) else None

    def undo(self, ctx: engine.Context) -> engine.Wait | None:
        """Have the agent take the volume again, if it answers."""
        if not is_offline(ctx) or ctx.data.get("is_stuck"):
            return None
        return steps.try_job(
            ctx,
            payloads.MountJob.KIND,
            lambda: _mount_job(ctx),
            name="mount-back",
            within_s=ctx.tools.conf.taskmanager.restart_timeout_s,
        )


class DetachVolume(engine.Step):
    """Take the volume from the server."""

    name = "detach_volume"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Ask for it, and wait until the volume is free."""
        if not is_offline(ctx):
            return None
        volume = get_volume(ctx)
        if volume.status == "in-use":
            server = steps.keep_server_running(ctx)
            if server.status is states.ServerStatus.ACTIVE:
                waits = _unmount(ctx)
                if waits is not None:
                    return waits
                _ask(ctx, "taken from", key="detach_asked")
                ctx.tools.drivers.compute.detach_volume(server.id, volume.id)
                volume = get_volume(ctx)
        if volume.status == "available":
            return None
        return steps.volume_wait(ctx, "volume", _LOOK_S)

    def undo(self, ctx: engine.Context) -> engine.Wait | None:
        """Give it back, as far as that can be done; bounded in time."""
        if not is_offline(ctx):
            return None
        try:
            if steps.time_left_s(ctx, "back", ctx.tools.conf.taskmanager.restart_timeout_s) <= 0:
                raise engine.StepFailed("The server does not get its volume back in time.")
            return _give(ctx, key="back_asked")
        except (engine.StepFailed, exception.DriverError) as e:
            if isinstance(e, exception.DriverError) and e.retryable:
                raise
            LOG.error("instance %s: its volume cannot be given back: %s", ctx.instance_id, e)
            ctx.data["is_stuck"] = True
            return None


class AttachVolume(engine.Step):
    """Give the volume back to the server."""

    name = "attach_volume"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Ask for it, and wait until the server has it."""
        return _give(ctx, key="attach_asked") if is_offline(ctx) else None


class Mount(engine.Step):
    """Have the agent take the volume, use all of it, and run the engine on it."""

    name = "mount"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Send the job until its outcome is known."""
        if not is_offline(ctx):
            return None
        return steps.do_job(
            ctx, payloads.MountJob.KIND, lambda: _mount_job(ctx), what="Using the larger volume"
        )
