"""Backups: made, shown, registered, deleted; and where they are to be stored.

A backup and the operation that makes it are written in one transaction, with the instance's word
for it (``running_backup_id``) and the project's quota; the task manager is told afterwards. What
will be stored where, and under which key, is decided here: the task manager only carries it out.
A backup of another project does not exist for callers who are not administrators.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime
from collections.abc import Callable, Collection, Sequence
from typing import Any

from oslo_config import cfg
from oslo_log import log

from trove import states
from trove.common import concurrency, context, crypto, exception
from trove.datastores import spec
from trove.db import (
    backup_strategies,
    backups,
    base,
    datastores,
    models,
    operations,
    quotas,
    restorations,
)
from trove.db.instance_views import InstanceView
from trove.drivers.volume.base import VolumeDriver
from trove.services import names
from trove.services.changes import IDLE, find_in_reach
from trove.services.quotas import default_limits
from trove.storage import base as storage
from trove.storage import manifests, stored_backups

LOG = log.getLogger(__name__)

#: The storage driver of backups that are snapshots of volumes, whatever makes the volumes here.
SNAPSHOTS = "cinder"
#: Seconds that a deletion may take until it is given up and told of.
_DELETE_TIMEOUT_S = 6 * 3600.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class NewBackup:
    """What a caller asks for: a backup of an instance.

    An increment without ``parent_id`` is one of the last completed backup of the instance, or a
    full one where there is none that it could be of. ``expires`` is when it is removed.
    """

    name: str
    instance_id: str
    description: str | None = None
    parent_id: str | None = None
    is_incremental: bool = False
    container: str | None = None
    storage_driver: str | None = None
    purpose: states.BackupPurpose = states.BackupPurpose.MANUAL
    schedule_id: str | None = None
    expires: datetime.datetime | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StoredBackup:
    """A backup that is stored already, to be registered as one of a datastore version."""

    name: str
    location: str
    version_id: str
    description: str | None = None


class Backups:
    """Use cases of backups and backup strategies."""

    def __init__(
        self,
        *,
        conf: cfg.ConfigOpts,
        database: base.Database,
        run_operation: Callable[[str], object],
        key_ring: crypto.KeyRing,
        store: storage.Store | None,
        clock: concurrency.Clock,
        volumes: VolumeDriver | None = None,
    ) -> None:
        """Take the collaborators; ``run_operation`` tells the task manager, by best effort.

        Without a store no backups can be made but snapshots, if the volumes have them.
        """
        self._volumes = volumes
        self._conf = conf
        self._database = database
        self._run_operation = run_operation
        self._key_ring = key_ring
        self._store = store
        self._clock = clock

    # -- shown -----

    def list_page(
        self,
        *,
        project_id: str | None,
        datastore: str | None = None,
        instance_id: str | None = None,
        limit: int,
        offset: int,
    ) -> tuple[Sequence[backups.BackupView], bool]:
        """Return backups behind the first ``offset``, newest change first; are there more?

        Those of all projects without ``project_id``. Raises DatastoreNotFound.
        """
        with self._database.reader() as session:
            datastore_id = None
            if datastore is not None:
                datastore_id = datastores.get_datastore(session, datastore).id
            filters = backups.Filters(
                project_id=project_id, instance_id=instance_id, datastore_id=datastore_id
            )
            return backups.list_page(session, filters, limit=limit, offset=offset)

    def list_of_instance(
        self, caller: context.RequestContext, instance_id: str, *, limit: int, offset: int
    ) -> tuple[Sequence[backups.BackupView], bool]:
        """Return backups of an instance, in whatever state it is; raises InstanceNotFound."""
        with self._database.reader() as session:
            find_in_reach(session, caller, instance_id)
            filters = backups.Filters(instance_id=instance_id)
            return backups.list_page(session, filters, limit=limit, offset=offset)

    def get(self, caller: context.RequestContext, backup_id: str) -> backups.BackupView:
        """Return a backup; raises BackupNotFound."""
        with self._database.reader() as session:
            return _find_in_reach(session, caller, backup_id)

    def find_progress(self, backup: backups.BackupView) -> backups.Progress | None:
        """Return how far the making of a backup is, as its agent last said; None if it did not."""
        if not backup.is_running or backup.instance_id is None:
            return None
        with self._database.reader() as session:
            return backups.find_progress(session, backup.id, instance_id=backup.instance_id)

    # -- made -----

    def create(self, caller: context.RequestContext, new: NewBackup) -> backups.BackupView:
        """Begin to make a backup.

        Raises InstanceNotFound, BackupNotFound for the parent, NotImplementedByEngine for a
        datastore without backups (or increments), NotAvailable without a store, BadRequest for
        another store and for a parent that cannot be one, InstanceNotReady, QuotaExceeded.
        """
        with self._database.reader() as session:
            view = find_in_reach(session, caller, new.instance_id)
            if new.parent_id is not None:
                _find_in_reach(session, caller, new.parent_id)
        self.check(view, new)
        if not view.is_ready:
            raise exception.InstanceNotReady(instance_id=view.id, status=view.status)
        backup_id, operation_id = self._create(caller, view, new)
        self._run_operation(operation_id)
        LOG.info(
            "backup %s of instance %s: accepted as operation %s", backup_id, view.id, operation_id
        )
        return self.get(caller, backup_id)

    @base.retry_on_conflict
    def _create(
        self, caller: context.RequestContext, view: InstanceView, new: NewBackup
    ) -> tuple[str, str]:
        with self._database.writer() as session:
            return self.add(
                session, view, new, request_id=caller.request_id, user_id=caller.user_id
            )

    def check(self, view: InstanceView, new: NewBackup) -> None:
        """Raise what :meth:`create` does unless such a backup can be made of an instance at all."""
        facts = names.get_spec(view.manager)
        names.require_engine(facts, spec.Capability.BACKUP, datastore=view.datastore_name)
        if new.storage_driver == SNAPSHOTS:
            self._check_snapshot(view, new)
            return
        if new.parent_id is not None or new.is_incremental:
            names.require_engine(facts, spec.Capability.INCREMENTS, datastore=view.datastore_name)
        store = self._get_store()
        if new.storage_driver not in (None, store.kind):
            raise exception.BadRequest(
                reason=f"storage_driver: backups are not stored by {new.storage_driver} here, but"
                f" by {store.kind}"
            )

    def _check_snapshot(self, view: InstanceView, new: NewBackup) -> None:
        """Raise BadRequest unless the backup can be a snapshot of the instance's volume."""
        wrong = None
        if self._volumes is None or not self._volumes.has_snapshots:
            wrong = "the volumes of this service have no snapshots"
        elif view.volume_size_gib is None:
            wrong = f"instance {view.id} has no volume of its own"
        elif new.parent_id is not None or new.is_incremental:
            wrong = "there are no increments of snapshots, and no snapshot is one"
        elif new.container is not None:
            wrong = "a snapshot is in no container"
        if wrong is not None:
            raise exception.BadRequest(reason=f"storage_driver: {SNAPSHOTS}: {wrong}")

    def add(
        self,
        session: Any,
        view: InstanceView,
        new: NewBackup,
        *,
        request_id: str | None,
        user_id: str | None,
        tasks: Collection[states.TaskStatus] = IDLE,
        is_part: bool = False,
    ) -> tuple[str, str]:
        """Add a backup that was checked, and its operation, to the caller's transaction.

        Returns both ids. Quota is charged first: nothing else may have been written before. One
        that ``is_part`` of another operation leaves the lock of the instance to that. Raises
        QuotaExceeded, BadRequest for a parent that cannot be one, and InstanceNotReady unless the
        instance is in one of ``tasks`` and nothing else is done with it.
        """
        now = self._clock.now()
        quotas.reserve(
            session, view.project_id, {quotas.BACKUPS: 1}, defaults=default_limits(self._conf)
        )
        parent = self._hold_parent(session, view, new)
        row = self._new_row(session, view, new, parent, user_id=user_id)
        if not backups.create(session, row, tasks=tasks, now=now):
            raise exception.InstanceNotReady(
                instance_id=view.id, status=f"{view.status}, or another backup is being made"
            )
        is_snapshot = row.kind is states.BackupKind.SNAPSHOT
        try:
            operation_id = operations.create(
                session,
                kind=operations.SNAPSHOT_BACKUP if is_snapshot else operations.CREATE_BACKUP,
                resource_id=view.id,
                lock_key=None if is_part else operations.instance_lock(view.id),
                deadline=now + datetime.timedelta(seconds=self._conf.backup.timeout_s),
                now=now,
                data={
                    "backup_id": row.id,
                    "name": row.name,
                    "description": row.description,
                    "parent_id": row.parent_id,
                },
                request_id=request_id,
                project_id=view.project_id,
                user_id=user_id,
            )
        except exception.Conflict:
            raise exception.InstanceNotReady(
                instance_id=view.id,
                status=f"{view.status}, and another operation has not ended yet",
            ) from None
        return row.id, operation_id

    def _new_row(
        self,
        session: Any,
        view: InstanceView,
        new: NewBackup,
        parent: backups.BackupView | None,
        *,
        user_id: str | None,
    ) -> backups.NewBackup:
        backup_id = models.new_id()
        row = backups.NewBackup(
            id=backup_id,
            project_id=view.project_id,
            user_id=user_id,
            instance_id=view.id,
            name=new.name,
            description=new.description,
            kind=states.BackupKind.SNAPSHOT,
            schedule_id=new.schedule_id,
            purpose=new.purpose,
            datastore_version_id=view.datastore_version_id,
            manager=view.manager,
            storage_driver=SNAPSHOTS,
            volume_size_gib=view.volume_size_gib,
            expires=new.expires,
        )
        if new.storage_driver == SNAPSHOTS:
            return row
        return dataclasses.replace(
            row,
            kind=states.BackupKind.FULL if parent is None else states.BackupKind.INCREMENT,
            parent_id=None if parent is None else parent.id,
            storage_driver=self._get_store().kind,
            container=new.container or self._choose_container(session, view),
            prefix=stored_backups.make_prefix(view.id, backup_id),
            key_wrapped=self._key_ring.wrap(
                crypto.generate_key(), purpose=stored_backups.key_purpose(backup_id)
            ),
        )

    def _choose_container(self, session: Any, view: InstanceView) -> str:
        """Return the container of the instance's strategy, else its project's, else ours."""
        found = {
            strategy.instance_id: strategy.container
            for strategy in backup_strategies.list_strategies(
                session, view.project_id, instance_id=None
            )
        }
        own = found.get(view.id) or found.get(backup_strategies.WHOLE_PROJECT)
        return own or str(self._conf.backup.container)

    def _hold_parent(
        self, session: Any, view: InstanceView, new: NewBackup
    ) -> backups.BackupView | None:
        """Return what the backup is an increment of, kept from being deleted; None: it is full."""
        if new.parent_id is not None:
            parent = backups.get(session, new.parent_id)
            wrong = self._mismatch(view, parent)
            if wrong is None and not backups.hold(session, parent.id):
                wrong = f"it is {parent.status.value}"
            if wrong is not None:
                raise exception.BadRequest(
                    reason=f"backup {parent.id} cannot be the parent: {wrong}"
                )
            return parent
        if not new.is_incremental:
            return None
        last = backups.find_last_completed(session, view.id)
        if last is None or self._mismatch(view, last) or not backups.hold(session, last.id):
            return None
        return last

    def _mismatch(self, view: InstanceView, parent: backups.BackupView) -> str | None:
        """Say what keeps a backup from being what an increment is made of."""
        if parent.instance_id != view.id:
            return "it is not of this instance"
        if parent.status is not states.BackupStatus.COMPLETED or parent.is_deleting:
            return f"it is {'being deleted' if parent.is_deleting else parent.status.value}"
        if parent.kind is states.BackupKind.SNAPSHOT:
            return "it is a snapshot"
        if parent.storage_driver != self._get_store().kind:
            return f"it is stored by {parent.storage_driver}"
        if (parent.manager, parent.version_number) != (view.manager, view.version_number):
            return f"it is of {parent.datastore_name} {parent.version_number}"
        return None

    def _get_store(self) -> storage.Store:
        if self._store is None:
            raise exception.NotAvailable(feature="backups: there is no object store")
        return self._store

    # -- registered -----

    def register(self, caller: context.RequestContext, stored: StoredBackup) -> backups.BackupView:
        """Register a backup that is stored already; nothing is copied.

        It must be one of the caller's project, by its manifest, and be opened by a key of this
        service. Raises BadRequest for one that cannot be read and for an unknown version,
        NotImplementedByEngine, NotAvailable, QuotaExceeded.
        """
        with self._database.reader() as session:
            version = datastores.get_version(session, stored.version_id)
        facts = names.get_spec(version.manager)
        names.require_engine(facts, spec.Capability.BACKUP, datastore=version.datastore_name)
        store = self._get_store()
        place = stored_backups.parse_location(
            stored.location, account_prefix=self._conf.storage.swift_account_prefix
        )
        if place is None:
            raise exception.BadRequest(
                reason="restore_from.remote_location does not tell a container and an object"
            )
        own = str(caller.project_id)
        account_id = place.account_id or own
        if not caller.is_admin and account_id not in (own, self._service_project()):
            raise _unreadable("there is no backup of this project")
        manifest = self._read(
            store.account(account_id, caller=caller), place.container, place.prefix
        )
        if not caller.is_admin and manifest.about.get("project_id") != own:
            # it may be there, but for this caller it is not
            raise _unreadable("there is no backup of this project")
        return self._register(
            caller,
            manifest,
            backups.NewBackup(
                project_id=str(caller.project_id),
                user_id=caller.user_id,
                instance_id=None,
                name=stored.name,
                description=stored.description,
                datastore_version_id=version.id,
                manager=version.manager,
                storage_driver=store.kind,
                account_id=account_id,
                container=place.container,
                prefix=place.prefix,
            ),
        )

    def _service_project(self) -> str:
        try:
            return self._get_store().service_project()
        except storage.StorageError as e:
            raise _unreadable(e.message) from None

    def _read(self, account: storage.Account, container: str, prefix: str) -> manifests.Manifest:
        """Return the manifest of a whole backup; raises BadRequest."""
        try:
            manifest = stored_backups.read_manifest(account, container, prefix)
            stored_backups.open_key(manifest, self._key_ring)
            stored_backups.check_segments(account, container, prefix, manifest)
        except (storage.StorageError, storage.ObjectNotFound, manifests.ManifestError) as e:
            raise _unreadable(e.message) from None
        return manifest

    def import_stored(
        self, account_id: str, container: str, prefix: str, *, version_id: str | None
    ) -> backups.BackupView:
        """Register what is stored below a prefix, for the project that it is of: for operators.

        The version is, where none is given, the one that the backup was made of, or else one of
        the same engine and version. Raises BadRequest, NotAvailable, QuotaExceeded.
        """
        store = self._get_store()
        manifest = self._read(store.account(account_id), container, prefix)
        about = manifest.about
        with self._database.reader() as session:
            version = _find_version(session, manifest, version_id)
        project_id = _text(about.get("project_id"), 255) or account_id
        caller = context.RequestContext(project_id=project_id, is_admin=True, overwrite=False)
        return self._register(
            caller,
            manifest,
            backups.NewBackup(
                project_id=project_id,
                user_id=_text(about.get("user_id"), 255),
                instance_id=None,
                name=_text(about.get("name"), 255) or manifest.backup_id,
                description=_text(about.get("description"), 1024),
                datastore_version_id=version.id,
                manager=version.manager,
                storage_driver=store.kind,
                account_id=account_id,
                container=container,
                prefix=prefix,
            ),
        )

    @base.retry_on_conflict
    def _register(
        self,
        caller: context.RequestContext,
        manifest: manifests.Manifest,
        place: backups.NewBackup,
    ) -> backups.BackupView:
        if manifest.manager != place.manager:
            raise exception.BadRequest(
                reason=f"the backup is one of {manifest.manager}, not of {place.manager}"
            )
        try:
            facts = stored_backups.facts_of(manifest)
        except manifests.ManifestError as e:
            raise _unreadable(e.message) from None
        volume_size_gib = manifest.about.get("volume_size_gib")
        account_id = str(place.account_id)
        location = self._get_store().locate(
            account_id,
            container=str(place.container),
            name=f"{place.prefix}{manifests.MANIFEST_NAME}",
        )
        row = dataclasses.replace(
            place,
            id=manifest.backup_id,
            status=states.BackupStatus.RESTORED,
            kind=manifest.kind,
            parent_id=manifest.parent_id,
            location=location,
            volume_size_gib=volume_size_gib if _is_size(volume_size_gib) else None,
            key_wrapped=base64.b64decode(manifest.wrapped_key),
            **facts,
        )
        now = self._clock.now()
        with self._database.writer() as session:
            quotas.reserve(
                session, row.project_id, {quotas.BACKUPS: 1}, defaults=default_limits(self._conf)
            )
            if row.parent_id is not None and not backups.hold(session, row.parent_id):
                raise _unreadable(
                    f"it is an increment of backup {row.parent_id}: register that one first"
                )
            if backups.find(session, row.id) is not None:
                raise exception.BadRequest(reason=f"backup {row.id} is registered already")
            backups.forget_deleted(session, row.id)
            backups.create(session, row, now=now)
        LOG.info("backup %s: registered", row.id)
        return self.get(caller, row.id)

    # -- deleted -----

    def delete(
        self, caller: context.RequestContext, backup_id: str, *, is_forced: bool = False
    ) -> None:
        """Begin to delete a backup with all that is built on it; again is harmless.

        A proof of it is broken off. One that is being made is cancelled first if ``is_forced``.
        Raises BackupNotFound, and UnprocessableEntity while one of them is being made or restored
        from.
        """
        asked = self._delete(caller, backup_id, is_forced)
        for operation_id in asked:
            self._run_operation(operation_id)
        if asked:
            LOG.info("backup %s: delete accepted as operation %s", backup_id, asked[-1])

    @base.retry_on_conflict
    def _delete(self, caller: context.RequestContext, backup_id: str, is_forced: bool) -> list[str]:
        now = self._clock.now()
        with self._database.writer() as session:
            view = _find_in_reach(session, caller, backup_id)
            if view.is_deleting:
                return []
            return self.add_delete(
                session,
                view,
                is_forced=is_forced,
                request_id=caller.request_id,
                user_id=caller.user_id,
                now=now,
            )

    @staticmethod
    def add_delete(
        session: Any,
        view: backups.BackupView,
        *,
        is_forced: bool = False,
        request_id: str | None = None,
        user_id: str | None = None,
        now: datetime.datetime,
    ) -> list[str]:
        """Add the deletion of a backup to the caller's transaction.

        Returns the operations that the task manager is to be told of, the deletion last. Raises
        UnprocessableEntity as :meth:`delete`.
        """
        doomed = backups.begin_delete(session, view.id, now=now)
        ids = [each_id for each_id, _ in doomed]
        running = [each_id for each_id, status in doomed if status.is_running]
        if running and not is_forced:
            raise exception.UnprocessableEntity(
                reason=f"backup {view.id} cannot be deleted because"
                f" {'it' if running == [view.id] else f'its increment {running[0]}'} is running;"
                " it can be cancelled and deleted with force"
            )
        readers = restorations.list_readers(session, ids)
        if set(readers.values()) - operations.PROOFS:
            raise exception.UnprocessableEntity(
                reason=f"backup {view.id} cannot be deleted: a database is being restored from it,"
                " or from an increment of it"
            )
        asked: list[str] = []
        making = [backups.find_making(session, each_id) for each_id in running]
        for ended in (*making, *readers):
            if ended is not None:
                asked += operations.request_cancel(
                    session, mode=operations.UNDO, operation_id=ended, now=now
                )
        try:
            operation_id = operations.create(
                session,
                kind=operations.DELETE_BACKUP,
                resource_id=view.id,
                lock_key=operations.backup_lock(view.id),
                deadline=now + datetime.timedelta(seconds=_DELETE_TIMEOUT_S),
                now=now,
                data={"backup_ids": ids},
                request_id=request_id,
                project_id=view.project_id,
                user_id=user_id,
            )
        except exception.Conflict:
            raise exception.UnprocessableEntity(
                reason=f"backup {view.id} is being deleted"
            ) from None
        return [*asked, operation_id]

    # -- strategies -----

    def list_strategies(
        self, project_id: str, instance_id: str | None
    ) -> Sequence[backup_strategies.Strategy]:
        """Return where a project's backups are stored, or those of one of its instances."""
        with self._database.reader() as session:
            return backup_strategies.list_strategies(session, project_id, instance_id=instance_id)

    @base.retry_on_conflict
    def set_strategy(
        self, caller: context.RequestContext, instance_id: str | None, container: str
    ) -> backup_strategies.Strategy:
        """Set where the backups of an instance, or of the whole project, are stored.

        Raises InstanceNotFound. What belongs to an instance belongs to the instance's project.
        """
        with self._database.writer() as session:
            project_id = str(caller.project_id)
            if instance_id is not None:
                project_id = find_in_reach(session, caller, instance_id).project_id
            strategy = backup_strategies.Strategy(
                project_id=project_id,
                instance_id=instance_id or backup_strategies.WHOLE_PROJECT,
                container=container,
            )
            backup_strategies.put(session, strategy, now=self._clock.now())
        return strategy

    @base.retry_on_conflict
    def remove_strategy(self, project_id: str, instance_id: str | None) -> None:
        """Remove a strategy, that of the whole project without ``instance_id``; or do nothing."""
        with self._database.writer() as session:
            backup_strategies.remove(
                session, project_id, instance_id or backup_strategies.WHOLE_PROJECT
            )


def _find_in_reach(
    session: Any, caller: context.RequestContext, backup_id: str
) -> backups.BackupView:
    """Return a backup the caller may know of; raises BackupNotFound."""
    project_id = None if caller.is_admin else str(caller.project_id)
    return backups.get(session, backup_id, project_id=project_id)


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and 0 < value < 2**31


def _text(value: Any, maximum: int) -> str | None:
    """Return a text of a manifest that fits its column, which a guest may have written."""
    return value[:maximum] if isinstance(value, str) else None


def _unreadable(reason: str) -> exception.BadRequest:
    return exception.BadRequest(reason=f"the stored backup cannot be registered: {reason}")


def _find_version(
    session: Any, manifest: manifests.Manifest, version_id: str | None
) -> datastores.Version:
    """Return the version to register a backup for; raises BadRequest."""
    if version_id is not None:
        return datastores.get_version(session, version_id)
    about = manifest.about
    known = [
        version
        for datastore in datastores.list_datastores(session)
        for version in datastore.versions
        if version.manager == manifest.manager
    ]
    same = [version for version in known if version.id == about.get("version_id")]
    same += [version for version in known if version.version == about.get("version_number")]
    if same:
        return same[0]
    raise exception.BadRequest(
        reason=f"there is no version of {manifest.manager} {about.get('version_number')} here: say"
        " which datastore version the backup is for"
    )
