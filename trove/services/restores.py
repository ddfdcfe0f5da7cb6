"""What a database is restored from: chosen and checked before anything is stored.

A restore point is a backup, as it is or with the log behind it up to a time, a position or a named
point; or an instance at a time, for which the newest backup from before then is taken whose archive
reaches on to it. "now" is the moment of the request. A time that the archive has not reached yet,
while it is written, is waited for by the operation.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Sequence
from typing import Any

from oslo_config import cfg

from trove import states
from trove.common import concurrency, context, exception
from trove.datastores import spec, upgrades
from trove.db import (
    backups,
    base,
    instance_views,
    instances,
    log_archives,
    operations,
    restorations,
)
from trove.services import names
from trove.services.backups import Backups, NewBackup
from trove.services.changes import IDLE, Change, Changes, Plan

#: Key of an operation's data: the backup that is made before.
SAFETY_KEY = "safety_backup_id"

_UTC = datetime.UTC
_ALMOST_A_SECOND = datetime.timedelta(microseconds=999_999)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RestorePoint:
    """What a caller asks for: a backup or an instance, and up to where at most one of the rest."""

    backup_id: str | None = None
    instance_id: str | None = None
    time: datetime.datetime | None = None
    is_now: bool = False
    position: str | None = None
    name: str | None = None

    @property
    def has_target(self) -> bool:
        """Tell whether log is to be replayed behind a backup."""
        return self.is_now or any(
            each is not None for each in (self.time, self.position, self.name)
        )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """What there is to restore from, and what it needs of an instance."""

    restoration: restorations.Restoration
    backup: backups.BackupView

    @property
    def volume_size_gib(self) -> int | None:
        """Smallest volume that takes it."""
        return self.backup.volume_size_gib


def _told(moment: datetime.datetime) -> str:
    return moment.astimezone(_UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def choose(
    session: Any, caller: context.RequestContext, point: RestorePoint, *, now: datetime.datetime
) -> Chosen:
    """Return what a restore point means.

    Raises BackupNotFound, InstanceNotFound, BadRequest, Conflict for a backup that is not
    completed, NotImplementedByEngine.
    """
    project_id = None if caller.is_admin else str(caller.project_id)
    target = now if point.is_now else point.time
    if target is not None and target > now:
        raise exception.BadRequest(reason=f"restorePoint: {_told(target)} has not come yet")
    if point.backup_id is not None:
        found = _check_backup(backups.get(session, point.backup_id, project_id=project_id))
        archive = _archive_of(session, found, target) if point.has_target else None
    elif point.instance_id is not None:
        if target is None:
            raise exception.BadRequest(
                reason="restorePoint: an instance is restored as of a time, or of now"
            )
        found, archive = _newest_before(session, point.instance_id, project_id, target)
    else:
        raise exception.BadRequest(reason="restorePoint names neither a backup nor an instance")
    chain = _chain(session, found)
    restoration = restorations.Restoration(
        chain=tuple(each.id for each in chain),
        epoch=None if archive is None else archive.epoch,
        first=(found.archive_sequence or 0) if archive is not None else 0,
        target_time=None if target is None else target.timestamp(),
        target_position=point.position,
        target_name=point.name,
        snapshot_id=found.location if found.kind is states.BackupKind.SNAPSHOT else None,
    )
    return Chosen(restoration=restoration, backup=found)


def _check_backup(backup: backups.BackupView) -> backups.BackupView:
    """Return a backup that can be restored; raises Conflict."""
    if not backup.is_restorable:
        raise exception.Conflict(
            reason=f"backup {backup.id} is {backup.status.value}: only one that is COMPLETED can be"
            " restored"
        )
    return backup


def _chain(session: Any, backup: backups.BackupView) -> Sequence[backups.BackupView]:
    """Return what a backup is restored from; raises BackupNotFound, Conflict."""
    return [_check_backup(each) for each in backups.chain(session, backup.id)]


def _require_point_in_time(backup: backups.BackupView) -> None:
    names.require_engine(
        names.get_spec(backup.manager),
        spec.Capability.POINT_IN_TIME,
        datastore=backup.datastore_name,
    )


def _archive_of(
    session: Any, backup: backups.BackupView, target: datetime.datetime | None
) -> log_archives.Archive:
    """Return the log behind a backup; raises BadRequest when there is none up to a time."""
    if backup.kind is states.BackupKind.SNAPSHOT:
        raise exception.BadRequest(
            reason=f"restorePoint: backup {backup.id} is a snapshot of a volume, and has no log"
            " behind it: it can be restored as it is only"
        )
    _require_point_in_time(backup)
    archive = None
    if backup.archive_epoch is not None:
        archive = log_archives.find(session, backup.archive_epoch)
    # what a backup says of it was said by a guest
    if archive is None or archive.instance_id != backup.instance_id:
        raise exception.BadRequest(
            reason=f"restorePoint: no log is kept behind backup {backup.id}: it can be restored as"
            " it is only"
        )
    if target is None:
        return archive
    if backup.completed is None or target < backup.completed:
        raise exception.BadRequest(
            reason=f"restorePoint: {_told(target)} is before backup {backup.id} was completed:"
            " choose an earlier backup"
        )
    if not _reaches(archive, target):
        raise exception.BadRequest(
            reason=f"restorePoint: the log behind backup {backup.id} reaches to"
            f" {_told(archive.as_of or archive.created)} only"
        )
    return archive


def _reaches(archive: log_archives.Archive, target: datetime.datetime) -> bool:
    """Tell whether an archive has a time, or will soon."""
    return archive.is_active or (archive.as_of is not None and target <= archive.as_of)


def _newest_before(
    session: Any, instance_id: str, project_id: str | None, target: datetime.datetime
) -> tuple[backups.BackupView, log_archives.Archive]:
    """Return the newest backup from before a time whose log reaches on to it, and the log."""
    view = instance_views.find_view(session, instance_id, project_id=project_id, with_deleted=True)
    found = backups.list_of_instance(session, instance_id, statuses=backups.RESTORABLE)
    if view is None or (view.is_deleted and not found):
        raise exception.InstanceNotFound(instance_id=instance_id)
    names.require_engine(
        names.get_spec(view.manager),
        spec.Capability.POINT_IN_TIME,
        datastore=view.datastore_name,
    )
    archives = {each.epoch: each for each in log_archives.list_epochs(session, instance_id=view.id)}
    usable = [
        each
        for each in found
        if each.completed is not None
        and each.archive_epoch in archives
        and each.kind is not states.BackupKind.SNAPSHOT
    ]
    before = [each for each in usable if each.completed and each.completed <= target]
    for each in sorted(before, key=lambda each: each.completed or each.created, reverse=True):
        archive = archives[str(each.archive_epoch)]
        if _reaches(archive, target):
            return each, archive
    raise exception.BadRequest(
        reason=f"restorePoint: instance {instance_id} cannot be restored as of {_told(target)}:"
        f" {_windows(usable, archives)}"
    )


def _windows(
    usable: Sequence[backups.BackupView], archives: dict[str, log_archives.Archive]
) -> str:
    """Say from when to when there are backups with a log behind them."""
    spans: dict[str, datetime.datetime] = {}
    for each in usable:
        epoch, completed = str(each.archive_epoch), each.completed or each.created
        spans[epoch] = min(spans.get(epoch, completed), completed)
    if not spans:
        return "it has no backup with a log behind it"
    told = []
    for epoch, start in sorted(spans.items(), key=lambda span: span[1]):
        first = (start + _ALMOST_A_SECOND).replace(microsecond=0)
        last = archives[epoch].as_of or start
        # of a backup just made there is no such time yet
        told += [f"{_told(first)} to {_told(last)}"] if first <= last else []
    if not told:
        return "the log behind its backup does not reach on from it yet"
    return f"it can as of {', '.join(told)}"


def check_fit(
    chosen: Chosen,
    *,
    manager: str,
    datastore_name: str,
    version_number: str,
    volume_size_gib: int | None,
) -> None:
    """Raise unless such an instance takes what was chosen.

    Raises BadRequest for another datastore or an engine that does not take the data, Forbidden for
    a volume that is too small.
    """
    backup = chosen.backup
    if (backup.manager, backup.datastore_name) != (manager, datastore_name):
        raise exception.BadRequest(
            reason=f"restorePoint: backup {backup.id} is of datastore {backup.datastore_name}, the"
            f" instance of {datastore_name}"
        )
    engine_version = backup.engine_version or backup.version_number
    # a version that is registered by a name is told by its agent, which checks it as well
    if not upgrades.may_be_same_series(manager, engine_version, version_number):
        raise exception.BadRequest(
            reason=f"restorePoint: backup {backup.id} is of version {engine_version} and cannot be"
            f" restored by version {version_number}: restore it with its own version, and upgrade"
            " that instance"
        )
    needed_gib = chosen.volume_size_gib
    if needed_gib is not None and volume_size_gib is not None and volume_size_gib < needed_gib:
        raise exception.Forbidden(
            reason=f"backup {backup.id} is of a volume of {needed_gib} GiB, which a volume of"
            f" {volume_size_gib} GiB does not take"
        )


def check_volume(chosen: Chosen, *, volume_size_gib: int | None, volume_type: str | None) -> None:
    """Raise BadRequest unless a new instance's volume can be made of what was chosen."""
    if chosen.restoration.snapshot_id is None:
        return
    backup_id = chosen.backup.id
    if volume_size_gib is None:
        raise exception.BadRequest(
            reason=f"restorePoint: backup {backup_id} is a snapshot of a volume: an instance of it"
            " needs a volume"
        )
    if volume_type is not None:
        raise exception.BadRequest(
            reason=f"volume.type: a volume that is made of a snapshot (backup {backup_id}) is of"
            " the type of that: leave the type out"
        )


def _check_replaced(session: Any, chosen: Chosen, view: instance_views.InstanceView) -> None:
    """Raise BadRequest unless a volume made of what was chosen can be an instance's.

    It is of the type of the volume that the snapshot is of.
    """
    if chosen.restoration.snapshot_id is None:
        return
    backup = chosen.backup
    if view.volume_size_gib is None:
        raise exception.BadRequest(
            reason=f"restorePoint: backup {backup.id} is a snapshot of a volume, and the instance"
            " has none"
        )
    source = instances.find_instance(session, str(backup.instance_id))
    own = instances.get_instance(session, view.id)
    if source is not None and source.volume_type != own.volume_type:
        raise exception.BadRequest(
            reason=f"restorePoint: backup {backup.id} is a snapshot of a volume of another type"
            " than the instance has: create an instance of it"
        )


def hold(session: Any, chosen: Chosen) -> None:
    """Keep what was chosen until the transaction ends, whose operation then keeps it.

    Raises Conflict when some of it is being deleted.
    """
    for backup_id in chosen.restoration.chain:
        if not backups.hold(session, backup_id):
            raise exception.Conflict(reason=f"backup {backup_id} is being deleted")


class Restores:
    """Use cases of restoring in place of the database that there is."""

    def __init__(
        self,
        *,
        conf: cfg.ConfigOpts,
        database: base.Database,
        changes: Changes,
        makes: Backups,
        clock: concurrency.Clock,
    ) -> None:
        """Take the collaborators."""
        self._conf = conf
        self._database = database
        self._changes = changes
        self._backups = makes
        self._clock = clock

    def restore(
        self,
        caller: context.RequestContext,
        instance_id: str,
        point: RestorePoint,
        *,
        with_backup: bool = False,
    ) -> None:
        """Begin to restore an instance in place, ``with_backup`` after a backup of what there is.

        A point that names nothing is of the instance itself. Raises InstanceNotFound,
        InstanceNotReady, and what :func:`choose` and :func:`check_fit` raise; QuotaExceeded for the
        backup.
        """
        if point.backup_id is None and point.instance_id is None:
            point = dataclasses.replace(point, instance_id=instance_id)

        def plan(view: instance_views.InstanceView) -> Plan:
            names.require_engine(
                names.get_spec(view.manager),
                spec.Capability.BACKUP,
                datastore=view.datastore_name,
            )
            with self._database.reader() as session:
                chosen = choose(session, caller, point, now=self._clock.now())
                _check_replaced(session, chosen, view)
            check_fit(
                chosen,
                manager=view.manager,
                datastore_name=view.datastore_name,
                version_number=view.version_number,
                volume_size_gib=view.volume_size_gib,
            )
            data = {
                restorations.KEY: chosen.restoration.to_data(),
                "task": view.task.value,
                # for the agent of another server, if there will be one
                "server_id": names.server_number(view.id),
            }
            is_snapshot = chosen.restoration.snapshot_id is not None

            def within(session: Any) -> None:
                if with_backup:
                    # quota first: see there
                    data[SAFETY_KEY] = self._add_backup(session, caller, view)
                hold(session, chosen)

            return Plan(
                data=data,
                given={"task": view.task, "datastore_version_id": view.datastore_version_id},
                within=within,
                kind=operations.RESTORE_SNAPSHOT if is_snapshot else None,
            )

        times = 2 if with_backup else 1
        self._changes.begin(
            caller,
            instance_id,
            Change(
                kind=operations.RESTORE_INSTANCE,
                task=states.TaskStatus.BUILDING,
                timeout_s=times * self._conf.backup.timeout_s,
                plan=plan,
                expect=IDLE,
            ),
        )

    def _add_backup(
        self, session: Any, caller: context.RequestContext, view: instance_views.InstanceView
    ) -> str:
        """Add the backup that is made before; return its id."""
        new = NewBackup(
            name=f"{view.name[:200]} before {self._clock.now():%Y-%m-%dT%H:%M:%SZ}",
            instance_id=view.id,
            description="Made before another database was restored in its place",
            purpose=states.BackupPurpose.SAFETY,
        )
        self._backups.check(view, new)
        backup_id, _ = self._backups.add(
            session,
            view,
            new,
            request_id=caller.request_id,
            user_id=caller.user_id,
            is_part=True,
        )
        return backup_id
