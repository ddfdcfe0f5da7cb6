"""Snapshots of volumes that are backups, and volumes that must outlive their instances for them.

Where a volume cannot be removed before its snapshots (Cinder), the volume of a deleted instance
stays as long as a backup needs it, and goes with the last of them. So does one that another took
the place of when a snapshot was restored.
"""

from __future__ import annotations

from trove.db import backups, instances, operations
from trove.taskmanager.operations import engine, steps


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
    owner_id = backup.volume_owner or backup.instance_id
    if driver.snapshots_outlive_volumes or owner_id is None:
        return None
    with ctx.tools.database.reader() as session:
        owner = instances.find_instance(session, owner_id)
        # what a restoration goes back to if it fails is its own, and it removes that
        is_needed = operations.is_active(session, owner_id)
    if owner is None or not owner.is_deleted or is_needed:
        return None
    return steps.remove_volume_of(ctx, owner_id)
