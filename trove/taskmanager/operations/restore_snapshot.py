"""Restore a database in place from a snapshot: another volume, with a server made for it.

A volume that is made of the snapshot takes the place of the instance's own. The agent of a new
server adopts what is on it as that of a new instance does; the former volume is not touched by
anybody until the restored database answers and that is recorded. Whatever fails before gives the
instance its volume back, with a server as it had. From the record on nothing is taken back, and the
former volume goes, or stays as long as backups are snapshots of it.

Who has which volume is said by the volume service alone. The one that is not the instance's belongs
to a record that has the operation's own id, is of an instance that is deleted from the beginning,
and stays: so whatever ends the operation, what is left over of it is found and removed.
"""

from __future__ import annotations

from typing import Any

from oslo_log import log

from trove import states
from trove.common import crypto, exception
from trove.db import backups, guest_keys, instances, models, operations
from trove.drivers.volume.base import Volume
from trove.taskmanager.operations import (
    channel,
    create,
    engine,
    rebuild,
    restore,
    steps,
)

LOG = log.getLogger(__name__)

_VOLUMES = "volumes"


def _holder_id(ctx: engine.Context) -> str:
    """Return whose the volume is that is not the instance's."""
    return ctx.operation.id


class CheckImage(rebuild.CheckImage):
    """See that there is something to make servers from, both on the way there and back."""

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Note the image of the instance's version, and look at it."""
        if "image_id" not in ctx.data:
            image_id = create.get_image_id(ctx, steps.get_instance(ctx).version)
            ctx.data.update(image_id=image_id, old_image_id=image_id)
        return super().run(ctx)


class MakeVolume(engine.Step):
    """Make a volume of the snapshot, beside the one of the instance."""

    name = "make_volume"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Make it and wait until it is available; note which volume is which."""
        instance = steps.get_instance(ctx)
        former = ctx.tools.drivers.volume.find_volume(instance.id)
        if former is None:
            raise engine.StepFailed("The instance has no volume.")
        self._ensure_holder(ctx, instance)
        volume = create.make_volume(ctx, instance, owner_id=_holder_id(ctx))
        if not isinstance(volume, Volume):
            return volume
        ctx.data[_VOLUMES] = {"former": former.id, "new": volume.id}
        return None

    def _ensure_holder(self, ctx: engine.Context, instance: models.Instance) -> None:
        """Have the record of who has the volume: what has none is left alone for ever."""
        holder_id = _holder_id(ctx)
        new = instances.NewInstance(
            id=holder_id,
            project_id=instance.project_id,
            user_id=None,
            name=f"volume-{instance.id}",
            datastore_version_id=instance.datastore_version_id,
            flavor_id=instance.flavor_id,
            flavor_ram_mib=instance.flavor_ram_mib,
            # nothing is ever sealed with it
            key_wrapped=ctx.tools.key_ring.wrap(
                crypto.generate_key(), purpose=guest_keys.purpose(holder_id)
            ),
            volume_size_gib=instance.volume_size_gib,
            volume_type=instance.volume_type,
            task=states.TaskStatus.NONE,
        )

        def ensure(session: Any, now: Any) -> None:
            if instances.find_instance(session, holder_id) is None:
                instances.create_instance(session, new, now=now)
                instances.mark_deleted(session, holder_id, now=now)

        steps.record(ctx, ensure)

    def undo(self, ctx: engine.Context) -> engine.Wait | None:
        """Remove it; the instance has its own by now."""
        return None if restore.is_recorded(ctx) else _remove_held(ctx)


def _remove_held(ctx: engine.Context) -> engine.Wait | None:
    return steps.remove_volume_of(ctx, _holder_id(ctx))


class StopGuest(rebuild.StopGuest):
    """Let the engine shut down cleanly, if its agent answers; bounded in time."""

    def undo(self, ctx: engine.Context) -> engine.Wait | None:
        """Bring the instance back on its own volume; bounded in time."""
        if restore.is_recorded(ctx):
            return None
        return rebuild.bring_back(ctx, engine_version=steps.get_instance(ctx).version.version)


class RemoveServer(rebuild.RemoveServer):
    """Remove the old server, which has the former volume."""

    def undo(self, ctx: engine.Context) -> engine.Wait | None:
        """Remove what there is of it."""
        return None if restore.is_recorded(ctx) else steps.remove_server(ctx)


class SwapVolumes(engine.Step):
    """Have the volume of the snapshot be the instance's."""

    name = "swap_volumes"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Give each its volume; the former one with the snapshots that there are of it."""
        volumes, holder_id = ctx.data[_VOLUMES], _holder_id(ctx)
        driver = ctx.tools.drivers.volume
        # in this order, so that the instance has two at no time: the one found might be the wrong
        driver.give_volume(volumes["former"], holder_id)
        driver.give_volume(volumes["new"], ctx.instance_id)

        def write(session: Any, now: Any) -> None:
            instances.set_volume(session, ctx.instance_id, volume_id=volumes["new"], now=now)
            backups.give_snapshots(session, ctx.instance_id, owner_id=holder_id)

        steps.record(ctx, write)
        LOG.info("instance %s: has volume %s now", ctx.instance_id, volumes["new"])
        return None

    def undo(self, ctx: engine.Context) -> engine.Wait | None:
        """Give each the volume that it had; no server has one now."""
        if restore.is_recorded(ctx) or _VOLUMES not in ctx.data:
            return None
        volumes, holder_id = ctx.data[_VOLUMES], _holder_id(ctx)
        driver = ctx.tools.drivers.volume
        driver.give_volume(volumes["new"], holder_id)
        driver.give_volume(volumes["former"], ctx.instance_id)

        def write(session: Any, now: Any) -> None:
            instances.set_volume(session, ctx.instance_id, volume_id=volumes["former"], now=now)
            backups.take_snapshots_back(session, ctx.instance_id, owner_id=holder_id)

        steps.record(ctx, write)
        return None


class MakeServer(rebuild.MakeServer):
    """Make a server with the volume of the snapshot."""

    def undo(self, ctx: engine.Context) -> engine.Wait | None:
        """Remove it: its volume goes."""
        return None if restore.is_recorded(ctx) else steps.remove_server(ctx)


class Prepare(create.Prepare):
    """Have the new agent adopt the database that is on the volume."""

    def undo(self, ctx: engine.Context) -> engine.Wait | None:
        """Stop the engine before its server goes, if it answers."""
        return None if restore.is_recorded(ctx) else steps.stop_engine(ctx)


class RemoveFormer(engine.Step):
    """Remove the former volume, unless backups are snapshots of it."""

    name = "remove_former"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Remove it; what cannot be removed in time is later, as what is left over."""
        try:
            wait = _remove_held(ctx)
        except exception.DriverError as e:
            if e.retryable:
                raise
            LOG.warning("instance %s: its former volume stays for now: %s", ctx.instance_id, e)
            return None
        within_s = ctx.tools.conf.taskmanager.restart_timeout_s
        return wait if steps.time_left_s(ctx, self.name, within_s) > 0 else None


class Finish(engine.Step):
    """Hand the instance back to its user."""

    name = "finish"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """End the task, unless somebody else has (a deletion)."""
        active = states.ServerStatus.ACTIVE
        building = states.TaskStatus.BUILDING
        steps.record(
            ctx,
            lambda session, now: steps.end_task(ctx, session, now, building, server_status=active),
        )
        return None


FLOW = engine.Flow(
    kind=operations.RESTORE_SNAPSHOT,
    steps=(
        restore.AwaitBackup(),
        CheckImage(),
        MakeVolume(),
        StopGuest(),
        RemoveServer(),
        SwapVolumes(),
        MakeServer(),
        rebuild.AwaitAgent(),
        channel.SecureChannel(),
        Prepare(),
        restore.AwaitEngine(),
        restore.RecordRestored(),
        channel.RemoveFirstAccount(),
        RemoveFormer(),
        Finish(),
    ),
    on_failed=restore.on_failed,
)
