"""Snapshots of volumes that are backups, and volumes that must outlive their instances for them.

Where a volume cannot be removed before its snapshots (Cinder), the volume of a deleted instance
stays as long as a backup needs it, and goes with the last of them.
"""

from __future__ import annotations

from oslo_log import log

from trove.db import backups, instances
from trove.taskmanager.operations import engine, steps

LOG = log.getLogger(__name__)


def remove(ctx: engine.Context, backup: backups.BackupView) -> engine.Wait | None:
    """Remove the snapshot of a backup, and then a volume that was kept for it alone."""
    driver = ctx.tools.drivers.volume
    if not driver.has_snapshots:
        raise engine.StepFailed(
            "The backup is a snapshot of a volume, and the volumes that this service has now have"
            " none: the operator sets [drivers] volume."
        )
    found = driver.find_snapshot(backup.id)
    # one that is being made cannot be removed before it is there
    if found is not None and found.status not in ("creating", "deleting"):
        driver.delete_snapshot(found.id)
        found = driver.find_snapshot(backup.id)
    if found is not None:
        return steps.volume_wait(ctx, "snapshot-gone", steps.REMOVAL_LOOK_S)
    return _remove_kept_volume(ctx, backup)


def _remove_kept_volume(ctx: engine.Context, backup: backups.BackupView) -> engine.Wait | None:
    driver = ctx.tools.drivers.volume
    if driver.snapshots_outlive_volumes or backup.instance_id is None:
        return None
    with ctx.tools.database.reader() as session:
        instance = instances.find_instance(session, backup.instance_id)
    if instance is None or not instance.is_deleted:
        return None
    volume = driver.find_volume(backup.instance_id)
    if volume is None or steps.has_kept_snapshots(ctx, volume):
        return None
    if volume.status != "deleting":
        LOG.info("instance %s: its volume goes with its last snapshot", backup.instance_id)
        driver.delete_volume(volume.id)
    if driver.find_volume(backup.instance_id) is None:
        return None
    return steps.volume_wait(ctx, "volume-gone", steps.REMOVAL_LOOK_S)
