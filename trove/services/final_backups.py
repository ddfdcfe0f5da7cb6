"""The last backup of an instance before it is deleted, and instances had again from backups.

The deletion follows the backup in the task manager (:mod:`..taskmanager.operations.final_backup`):
where the backup fails there is no deletion. An instance is had again with the attributes that its
row still has; it is another instance with another id.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping
from typing import Any

from oslo_config import cfg
from oslo_log import log

from trove import states
from trove.common import concurrency, context, exception
from trove.db import backups, base, configurations, instance_views, instances
from trove.services.backups import Backups, NewBackup
from trove.services.changes import find_in_reach

LOG = log.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Former:
    """What an instance was that a backup is of; sizes are GiB."""

    name: str
    flavor_id: str
    version_id: str
    volume_size_gib: int | None
    volume_type: str | None
    availability_zone: str | None
    access: Mapping[str, Any] | None
    locality: str | None
    configuration_id: str | None


class FinalBackups:
    """Use cases of the end of instances."""

    def __init__(
        self,
        *,
        conf: cfg.ConfigOpts,
        database: base.Database,
        makes: Backups,
        clock: concurrency.Clock,
    ) -> None:
        """Take the collaborators."""
        self._conf = conf
        self._database = database
        self._backups = makes
        self._clock = clock

    def delete_after_backup(self, caller: context.RequestContext, instance_id: str) -> None:
        """Begin the last backup of an instance, which its deletion follows; again is harmless.

        Raises InstanceNotFound, InstanceProtected, Forbidden for the source of replicas, and what
        making a backup raises; then the instance is left as it is.
        """
        with self._database.reader() as session:
            view = find_in_reach(session, caller, instance_id)
            running = backups.find_running(session, instance_id)
        if view.task is states.TaskStatus.DELETING:
            return
        if running is not None and running.purpose is states.BackupPurpose.FINAL:
            return
        if view.replica_ids:
            raise exception.Forbidden(reason="Detach replicas before deleting replica source.")
        if view.is_protected:
            raise exception.InstanceProtected(instance_id=instance_id)
        now = self._clock.now()
        days = self._conf.backup.final_retention_days
        made = self._backups.create(
            caller,
            NewBackup(
                name=f"{view.name[:200]} last {now:%Y-%m-%dT%H:%M:%SZ}",
                instance_id=view.id,
                description="Made before the instance was deleted",
                purpose=states.BackupPurpose.FINAL,
                expires=now + datetime.timedelta(days=days) if days else None,
            ),
        )
        LOG.info("instance %s: deleted after backup %s", instance_id, made.id)

    def get_former(self, caller: context.RequestContext, backup_id: str) -> Former:
        """Return what the deleted instance was that a backup is of.

        Raises BackupNotFound; Conflict while the instance is there, and for a backup that cannot be
        restored; BadRequest for one whose instance is not known here.
        """
        found = self._backups.get(caller, backup_id)
        if not found.is_restorable:
            raise exception.Conflict(
                reason=f"backup {backup_id} is {found.status.value}: nothing can be made of it"
            )
        with self._database.reader() as session:
            view = None
            if found.instance_id is not None:
                view = instance_views.find_view(
                    session, found.instance_id, project_id=found.project_id, with_deleted=True
                )
            if view is None:
                raise exception.BadRequest(
                    reason=f"what backup {backup_id} was made of is not known here: create an"
                    " instance with it as its restorePoint"
                )
            if not view.is_deleted:
                raise exception.Conflict(
                    reason=f"instance {view.id} is not deleted: restore the backup into it, or"
                    " create another instance with it as its restorePoint"
                )
            group_id = view.configuration_id
            if group_id is not None and (
                found.datastore_version_id != view.datastore_version_id
                or configurations.find_group(session, group_id, project_id=None) is None
            ):
                group_id = None
            return Former(
                name=view.name,
                flavor_id=view.flavor_id,
                # what the data are of: an upgrade may have come after
                version_id=found.datastore_version_id,
                volume_size_gib=view.volume_size_gib,
                volume_type=instances.find_volume_type(session, view.id),
                availability_zone=view.availability_zone,
                access=view.access,
                locality=view.locality,
                configuration_id=group_id,
            )
