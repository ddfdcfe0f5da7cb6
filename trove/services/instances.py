"""Instances: made, shown, restarted, deleted.

A change is one transaction that writes the instance and the operation that carries it out; the
task manager is told afterwards. An instance of another project does not exist for callers who are
not administrators.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any

from oslo_config import cfg
from oslo_log import log

from trove import states
from trove.common import concurrency, context, crypto, exception
from trove.datastores import spec
from trove.db import (
    base,
    datastores,
    instance_lists,
    instance_views,
    instances,
    log_archives,
    models,
    operations,
    quotas,
    restorations,
)
from trove.drivers.compute.base import Flavor
from trove.drivers.network.base import NetworkDriver
from trove.rpc import payloads, taskmanager
from trove.services import configurations, names, restores
from trove.services import instance_lists as pages
from trove.services.changes import Change, Changes, find_in_reach
from trove.services.datastores import Datastores, VersionChoice
from trove.services.flavors import Flavors
from trove.services.instance_modules import InstanceModules
from trove.services.quotas import default_limits
from trove.services.volume_types import VolumeTypes

LOG = log.getLogger(__name__)


def _newest_first(views: Sequence[instance_views.View]) -> Sequence[instance_views.View]:
    return sorted(views, key=lambda view: view.created, reverse=True)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class NewInstance:
    """What a caller asks for; sizes are GiB. Passwords of ``users`` stay out of repr."""

    name: str
    flavor_id: str
    version: VersionChoice
    volume_size_gib: int | None = None
    volume_type: str | None = None
    databases: tuple[payloads.Database, ...] = ()
    users: tuple[payloads.User, ...] = ()
    availability_zone: str | None = None
    region: str | None = None
    nic: Mapping[str, Any] | None = None
    access: Mapping[str, Any] | None = None
    configuration_id: str | None = None
    module_ids: tuple[str, ...] = ()
    locality: str | None = None
    tags: tuple[str, ...] = ()
    is_protected: bool = False
    restore_point: restores.RestorePoint | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class NewReplica:
    """Of which instance a replica is asked for, and what of the request no replica can have."""

    source_id: str
    refusal: str | None = None


class Instances:
    """Use cases of instances."""

    def __init__(
        self,
        *,
        conf: cfg.ConfigOpts,
        database: base.Database,
        taskmanager_api: taskmanager.TaskManagerApi,
        key_ring: crypto.KeyRing,
        changes: Changes,
        flavors: Flavors,
        volume_types: VolumeTypes,
        modules: InstanceModules,
        network: NetworkDriver | None,
        clock: concurrency.Clock,
    ) -> None:
        """Take the collaborators; without a network driver nics are not looked at."""
        self._conf = conf
        self._database = database
        self._datastores = Datastores(database=database)
        self._taskmanager = taskmanager_api
        self._key_ring = key_ring
        self._changes = changes
        self._flavors = flavors
        self._volume_types = volume_types
        self._modules = modules
        self._network = network
        self._clock = clock

    def list_page(
        self,
        caller: context.RequestContext,
        kind: type[instance_views.View],
        *,
        limit: int,
        marker: str | None,
    ) -> tuple[Sequence[instance_views.View], str | None]:
        """Return a page of the project's instances, newest first, and the marker of the next.

        Pages are cut in order of id. A page of no items has no next one.
        """
        with self._database.reader() as session:
            views, more = instance_views.list_views(
                session, kind, project_id=str(caller.project_id), limit=limit, marker=marker
            )
        next_marker = views[-1].id if more and views else None
        return _newest_first(views), next_marker

    def list_chosen(
        self,
        caller: context.RequestContext,
        kind: type[instance_views.View],
        filters: Mapping[str, Any],
        *,
        order: instance_lists.Order | None,
        limit: int,
        marker: str | None,
    ) -> tuple[Sequence[instance_views.View], str | None]:
        """Return a page of those instances of the project that ``filters`` admit.

        ``filters`` are fields of :class:`trove.db.instance_lists.Filters`. Without an order it is
        that of :meth:`list_page`. Raises BadRequest for a marker of another list.
        """
        with self._database.reader() as session:
            views, next_marker = pages.read_page(
                session,
                kind,
                instance_lists.Filters(project_id=str(caller.project_id), **filters),
                order=order or instance_lists.Order(),
                limit=limit,
                marker=marker,
            )
        return views if order is not None else _newest_first(views), next_marker

    def get(self, caller: context.RequestContext, instance_id: str) -> instance_views.InstanceView:
        """Return an instance; raises InstanceNotFound."""
        with self._database.reader() as session:
            return find_in_reach(session, caller, instance_id)

    def create(
        self, caller: context.RequestContext, new: NewInstance
    ) -> instance_views.InstanceView:
        """Begin to make an instance.

        Raises DatastoreNotFound, ModuleNotFound, BadRequest, VolumeTooLarge, QuotaExceeded,
        NotImplementedByEngine; DriverUnavailable when nobody says whose a network is; and, where it
        is restored, BackupNotFound, InstanceNotFound, Conflict, Forbidden.
        """
        version, chosen = self._choose(caller, new)
        flavor = self._check(caller, new, version)
        if chosen is not None:
            restores.check_fit(
                chosen,
                manager=version.manager,
                datastore_name=version.datastore_name,
                version_number=version.version,
                volume_size_gib=new.volume_size_gib,
            )
            restores.check_volume(
                chosen, volume_size_gib=new.volume_size_gib, volume_type=new.volume_type
            )
        is_made_of_snapshot = chosen is not None and chosen.restoration.snapshot_id is not None
        if new.volume_size_gib is not None and not is_made_of_snapshot:
            volume_type = self._datastores.choose_volume_type(
                version.id, new.volume_type, self._volume_types.list_volume_types()
            )
            new = dataclasses.replace(new, volume_type=volume_type)
        instance_id = models.new_id()
        module_ids = self._modules.check_applicable(caller, new.module_ids, version)
        new = dataclasses.replace(new, module_ids=module_ids)
        self._check_nic(caller, new.nic)
        operation_id = self._store(caller, new, version, flavor, instance_id, chosen)
        self._taskmanager.run_operation(operation_id)
        LOG.info("instance %s: create accepted as operation %s", instance_id, operation_id)
        return self.get(caller, instance_id)

    def find_window(self, instance_id: str) -> log_archives.Window | None:
        """Return to which moments an instance can be restored; None without an archive."""
        with self._database.reader() as session:
            return log_archives.find_window(session, instance_id)

    def create_replica(
        self, caller: context.RequestContext, new: NewReplica
    ) -> instance_views.InstanceView:
        """Refuse to make replicas, for the reason that comes first.

        Raises InstanceNotFound for the source, and BadRequest when it is a replica itself or its
        datastore has no replication.
        """
        source = self.get(caller, new.source_id)
        if new.refusal is not None:
            raise exception.BadRequest(reason=new.refusal)
        if source.replica_of_id is not None:
            raise exception.BadRequest(
                reason=f"instance {source.id} is a replica: a replica of it cannot be made"
            )
        raise _replication_refusal(source)

    def detach_replica(self, caller: context.RequestContext, instance_id: str) -> None:
        """Refuse to detach a replica; raises InstanceNotFound, BadRequest for what is none."""
        raise self._replica_refusal(caller, instance_id)

    def promote(self, caller: context.RequestContext, instance_id: str) -> None:
        """Refuse to promote a replica; raises InstanceNotFound, BadRequest for what is none."""
        raise self._replica_refusal(caller, instance_id)

    def eject(self, caller: context.RequestContext, instance_id: str) -> None:
        """Refuse to eject a source; raises InstanceNotFound, BadRequest for what is none."""
        view = self.get(caller, instance_id)
        if not view.replica_ids:
            raise exception.BadRequest(reason=f"Instance {view.id} is not a replica source.")
        raise _replication_refusal(view)

    def _replica_refusal(
        self, caller: context.RequestContext, instance_id: str
    ) -> exception.TroveError:
        view = self.get(caller, instance_id)
        if view.replica_of_id is None:
            return exception.BadRequest(reason=f"Instance {view.id} is not a replica.")
        return _replication_refusal(view)

    def delete(self, caller: context.RequestContext, instance_id: str) -> None:
        """Begin to delete an instance, in whatever state it is; again is harmless.

        Raises InstanceNotFound, InstanceProtected, and Forbidden for the source of replicas.
        """
        operation_id = self._mark_deleting(caller, instance_id)
        if operation_id is not None:
            self._taskmanager.run_operation(operation_id)
            LOG.info("instance %s: delete accepted as operation %s", instance_id, operation_id)

    @base.retry_on_conflict
    def update_details(
        self,
        caller: context.RequestContext,
        instance_id: str,
        *,
        name: str | None = None,
        tags: Sequence[str] | None = None,
        is_protected: bool | None = None,
    ) -> None:
        """Change name, tags or protection, at once and in whatever state the instance is.

        Raises InstanceNotFound, and InstanceNotReady when what is being deleted is to be protected.
        """
        now = self._clock.now()
        with self._database.writer() as session:
            view = find_in_reach(session, caller, instance_id)
            if not instances.update_details(
                session, instance_id, name=name, tags=tags, is_protected=is_protected, now=now
            ):
                # an instance may be gone since it was looked at
                instances.get_instance(session, instance_id)
                raise exception.InstanceNotReady(instance_id=instance_id, status=view.status)

    def restart(self, caller: context.RequestContext, instance_id: str) -> None:
        """Begin to restart the database; raises InstanceNotFound, InstanceNotReady."""
        self._changes.begin(
            caller,
            instance_id,
            Change(
                kind=operations.RESTART_INSTANCE,
                task=states.TaskStatus.REBOOTING,
                timeout_s=self._conf.taskmanager.restart_timeout_s,
            ),
        )

    def _choose(
        self, caller: context.RequestContext, new: NewInstance
    ) -> tuple[datastores.Version, restores.Chosen | None]:
        """Return the version of a new instance, and what it is restored from.

        Without a datastore it is that of the backup.
        """
        if new.restore_point is None:
            return self._datastores.choose_version(new.version), None
        has_choice = new.version != VersionChoice()
        version = self._datastores.choose_version(new.version) if has_choice else None
        if version is not None:
            _require_backups(version)
        with self._database.reader() as session:
            chosen = restores.choose(session, caller, new.restore_point, now=self._clock.now())
        if version is None:
            choice = VersionChoice(version=chosen.backup.datastore_version_id)
            version = self._datastores.choose_version(choice)
            _require_backups(version)
        return version, chosen

    def _check_nic(self, caller: context.RequestContext, nic: Mapping[str, Any] | None) -> None:
        """See with the caller's own rights, which end with the request, that the nic is theirs.

        It is the one thing that a create asks another service for, and only when a network is
        named: with its own rights the service could attach an instance to anybody's network.
        """
        if self._network is None:
            return
        if nic is not None:
            self._network.check_nic(nic, caller=caller)
        elif self._network.requires_nic:
            raise exception.BadRequest(
                reason="nics: a network or subnet needs to be specified, there is no default one"
            )

    def _check_configuration(
        self, caller: context.RequestContext, configuration_id: str, version: datastores.Version
    ) -> None:
        with self._database.reader() as session:
            group = configurations.find_in_reach(session, caller, configuration_id)
        configurations.check_fit(group, version_id=version.id, project_id=str(caller.project_id))

    def _check(
        self, caller: context.RequestContext, new: NewInstance, version: datastores.Version
    ) -> Flavor:
        facts = names.get_spec(version.manager)
        try:
            flavor = self._flavors.get_flavor(new.flavor_id)
        except exception.FlavorNotFound as e:
            raise exception.BadRequest(reason=e.message) from None
        self._datastores.check_flavor(version.id, flavor.id)
        if flavor.ram_mib < facts.minimum_ram_mib:
            raise exception.BadRequest(
                reason=f"flavor {flavor.id} has {flavor.ram_mib} MiB of memory, datastore"
                f" {version.datastore_name} needs at least {facts.minimum_ram_mib}"
            )
        maximum_gib = self._conf.api.max_accepted_volume_size_gib
        if not facts.has_volume and new.volume_size_gib is not None:
            raise exception.NotImplementedByEngine(
                datastore=version.datastore_name, operation="volumes"
            )
        if facts.has_volume and new.volume_size_gib is None:
            raise exception.BadRequest(reason="Volume size was not specified.")
        if new.volume_size_gib is not None and new.volume_size_gib > maximum_gib:
            raise exception.VolumeTooLarge(size_gib=new.volume_size_gib, maximum_gib=maximum_gib)
        if new.region is not None and new.region != self._conf.api.region:
            raise exception.BadRequest(reason=f"there is no region {new.region}")
        if new.configuration_id is not None:
            self._check_configuration(caller, new.configuration_id, version)
        names.check_databases(facts, new.databases)
        names.check_users(facts, new.users)
        known = {database.name for database in new.databases}
        for user in new.users:
            for name in sorted(set(user.databases) - known):
                raise exception.BadRequest(
                    reason=f'user {user.name} is granted "{name}", which is not in databases'
                )
        return flavor

    @base.retry_on_conflict
    def _store(
        self,
        caller: context.RequestContext,
        new: NewInstance,
        version: datastores.Version,
        flavor: Flavor,
        instance_id: str,
        chosen: restores.Chosen | None,
    ) -> str:
        now = self._clock.now()
        operation_id = models.new_id()
        charge = {
            quotas.INSTANCES: 1,
            quotas.RAM: flavor.ram_mib,
            quotas.VOLUMES: new.volume_size_gib or 0,
        }
        key = self._key_ring.wrap(crypto.generate_key(), purpose=f"instance-key:{instance_id}")
        row = instances.NewInstance(
            id=instance_id,
            project_id=str(caller.project_id),
            user_id=caller.user_id,
            name=new.name,
            datastore_version_id=version.id,
            flavor_id=flavor.id,
            flavor_ram_mib=flavor.ram_mib,
            key_wrapped=key,
            volume_size_gib=new.volume_size_gib,
            volume_type=new.volume_type,
            availability_zone=new.availability_zone,
            region=self._conf.api.region,
            access=new.access,
            configuration_id=new.configuration_id,
            locality=new.locality,
            is_protected=new.is_protected,
            tags=new.tags,
        )
        data = {
            "nic": dict(new.nic) if new.nic else None,
            "databases": [database.to_wire() for database in new.databases],
            "server_id": names.server_number(instance_id),
            "modules": list(new.module_ids),
        }
        deadline = self._deadline(now)
        if chosen is not None:
            data[restorations.KEY] = chosen.restoration.to_data()
            deadline += datetime.timedelta(seconds=self._conf.backup.timeout_s)
        with self._database.writer() as session:
            quotas.reserve(
                session, str(caller.project_id), charge, defaults=default_limits(self._conf)
            )
            if new.configuration_id is not None:
                configurations.hold(session, new.configuration_id)
            instances.create_instance(session, row, now=now)
            datastores.require_live(session, version.id)
            if chosen is not None:
                restores.hold(session, chosen)
            return operations.create(
                session,
                operation_id=operation_id,
                kind=operations.CREATE_INSTANCE,
                resource_id=instance_id,
                lock_key=operations.instance_lock(instance_id),
                deadline=deadline,
                now=now,
                data=data,
                secret_wrapped=self._wrap_users(operation_id, new.users),
                request_id=caller.request_id,
                project_id=str(caller.project_id),
                user_id=caller.user_id,
            )

    @base.retry_on_conflict
    def _mark_deleting(self, caller: context.RequestContext, instance_id: str) -> str | None:
        now = self._clock.now()
        with self._database.writer() as session:
            view = find_in_reach(session, caller, instance_id)
            if view.replica_ids:
                raise exception.Forbidden(reason="Detach replicas before deleting replica source.")
            if not instances.change_task(
                session,
                instance_id,
                expect=frozenset(states.TaskStatus),
                to=states.TaskStatus.DELETING,
                now=now,
                given={"is_protected": False},
            ):
                if instances.get_instance(session, instance_id).is_protected:
                    raise exception.InstanceProtected(instance_id=instance_id)
                raise exception.InstanceNotFound(instance_id=instance_id)
            try:
                return operations.create(
                    session,
                    kind=operations.DELETE_INSTANCE,
                    resource_id=instance_id,
                    lock_key=operations.delete_lock(instance_id),
                    deadline=self._deadline(now),
                    now=now,
                    request_id=caller.request_id,
                    project_id=view.project_id,
                    user_id=caller.user_id,
                )
            except exception.Conflict:
                return None

    def _deadline(self, now: datetime.datetime) -> datetime.datetime:
        return now + datetime.timedelta(seconds=self._conf.taskmanager.usage_timeout_s)

    def _wrap_users(self, operation_id: str, users: Sequence[payloads.User]) -> bytes | None:
        if not users:
            return None
        secret = json.dumps({"users": [user.to_wire() for user in users]}).encode()
        return self._key_ring.wrap(secret, purpose=f"operation:{operation_id}")


def _require_backups(version: datastores.Version) -> None:
    """Raise NotImplementedByEngine unless something of a version can be restored."""
    if spec.Capability.BACKUP not in names.get_spec(version.manager).capabilities:
        raise exception.NotImplementedByEngine(
            datastore=version.datastore_name, operation="restoring from a backup (restorePoint)"
        )


def _replication_refusal(view: instance_views.InstanceView) -> exception.TroveError:
    """Return why nothing can be done about replicas: the datastore's lack, or the service's."""
    if spec.Capability.REPLICATION not in names.get_spec(view.manager).capabilities:
        return exception.BadRequest(
            reason=f"replication is not supported for datastore {view.datastore_name}"
        )
    return exception.NotAvailable(feature="replicas")
