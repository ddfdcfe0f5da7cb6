"""Actions on instances: resize, access, upgrade, reboot, stop, migrate, rebuild.

Each checks what it can before anything is stored and begins by :class:`~trove.services.changes`:
what clients see next is the action under way. New values are written when the action has succeeded;
until then the quota that they need is held for the operation.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from typing import Any

from oslo_config import cfg

from trove import states
from trove.common import context, exception
from trove.datastores import spec, upgrades
from trove.db import base, configurations, datastores, instance_views, operations, quotas
from trove.drivers.compute.base import ComputeDriver
from trove.services import names, parameters
from trove.services.changes import IDLE, Change, Changes, Plan
from trove.services.datastores import Datastores
from trove.services.flavors import Flavors

_MakePlan = Callable[[instance_views.InstanceView], Plan]

_ACCESS_KEYS = frozenset({"is_public", "allowed_cidrs"})


def check_access(access: Mapping[str, Any]) -> None:
    """Raise BadRequest unless these are settings of access: networks of IPv4 or IPv6."""
    unknown = sorted(set(access) - _ACCESS_KEYS)
    if unknown:
        raise exception.BadRequest(reason=f"access has no {', '.join(unknown)}")
    if not isinstance(access.get("is_public", False), bool):
        raise exception.BadRequest(reason="access.is_public must be true or false")
    cidrs = access.get("allowed_cidrs", ())
    if not isinstance(cidrs, list | tuple):
        raise exception.BadRequest(reason="access.allowed_cidrs must be a list")
    for cidr in cidrs:
        try:
            if not isinstance(cidr, str):
                raise ValueError
            ipaddress.ip_network(cidr, strict=False)
        except ValueError:
            raise exception.BadRequest(
                reason=f"access.allowed_cidrs: {cidr!r} is not a network in CIDR notation"
            ) from None


def merge_access(view: instance_views.InstanceView, access: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of access once ``access`` is applied; keys that it omits stay."""
    is_public = any(address.get("type") == "public" for address in view.addresses)
    merged: dict[str, Any] = {"is_public": is_public, "allowed_cidrs": []}
    merged.update(view.access or {})
    merged.update(access)
    return merged


class InstanceActions:
    """Use cases that change how an instance runs."""

    def __init__(
        self,
        *,
        conf: cfg.ConfigOpts,
        database: base.Database,
        changes: Changes,
        flavors: Flavors,
        compute: ComputeDriver | None,
    ) -> None:
        """Take the collaborators; ``compute`` is only asked what it can do."""
        self._conf = conf
        self._database = database
        self._changes = changes
        self._datastores = Datastores(database=database)
        self._flavors = flavors
        self._compute = compute

    # -- for users -----

    def resize_flavor(
        self, caller: context.RequestContext, instance_id: str, flavor_id: str
    ) -> None:
        """Begin to give an instance another flavor.

        Raises InstanceNotFound, InstanceNotReady; BadRequest for its own flavor, an unknown one and
        one that is too small; QuotaExceeded.
        """

        def plan(view: instance_views.InstanceView) -> Plan:
            try:
                flavor = self._flavors.get_flavor(flavor_id)
            except exception.FlavorNotFound as e:
                raise exception.BadRequest(reason=e.message) from None
            if flavor.id == view.flavor_id:
                raise exception.BadRequest(
                    reason=f"the instance has flavor {flavor.id} already: choose another"
                )
            self._datastores.check_flavor(view.datastore_version_id, flavor.id)
            minimum_mib = names.get_spec(view.manager).minimum_ram_mib
            if flavor.ram_mib < minimum_mib:
                raise exception.BadRequest(
                    reason=f"flavor {flavor.id} has {flavor.ram_mib} MiB of memory, datastore"
                    f" {view.datastore_name} needs at least {minimum_mib}"
                )
            return Plan(
                data={
                    "flavor_id": flavor.id,
                    "ram_mib": flavor.ram_mib,
                    "old_flavor_id": view.flavor_id,
                    "old_ram_mib": view.flavor_ram_mib,
                },
                held={quotas.RAM: flavor.ram_mib - view.flavor_ram_mib},
                given={"flavor_id": view.flavor_id, "flavor_ram_mib": view.flavor_ram_mib},
            )

        self._begin(
            caller,
            instance_id,
            kind=operations.RESIZE_FLAVOR,
            task=states.TaskStatus.RESIZING,
            plan=plan,
        )

    def resize_volume(
        self, caller: context.RequestContext, instance_id: str, size_gib: int
    ) -> None:
        """Begin to make the volume of an instance larger.

        Raises InstanceNotFound, InstanceNotReady; BadRequest unless there is a volume and it is
        smaller than that; VolumeTooLarge, QuotaExceeded.
        """

        def plan(view: instance_views.InstanceView) -> Plan:
            current_gib = view.volume_size_gib
            if not names.get_spec(view.manager).has_volume or current_gib is None:
                raise exception.BadRequest(reason="the instance has no volume")
            if size_gib <= current_gib:
                raise exception.BadRequest(
                    reason=f"the volume has {current_gib} GiB: its new size must be larger"
                )
            maximum_gib = self._conf.api.max_accepted_volume_size_gib
            if size_gib > maximum_gib:
                raise exception.VolumeTooLarge(size_gib=size_gib, maximum_gib=maximum_gib)
            return Plan(
                data={"size_gib": size_gib, "old_size_gib": current_gib, "task": view.task.value},
                held={quotas.VOLUMES: size_gib - current_gib},
                given={"volume_size_gib": current_gib, "task": view.task},
            )

        self._begin(
            caller,
            instance_id,
            kind=operations.RESIZE_VOLUME,
            task=states.TaskStatus.RESIZING,
            plan=plan,
        )

    def update_access(
        self, caller: context.RequestContext, instance_id: str, access: Mapping[str, Any]
    ) -> None:
        """Begin to change who may connect to an instance; keys that are omitted stay.

        An empty list of networks is the operator's default. A change that failed can be tried
        again. Raises BadRequest, InstanceNotFound, InstanceNotReady.
        """
        check_access(access)
        failed = states.TaskStatus.UPDATING_ERROR_ACCESS

        def plan(view: instance_views.InstanceView) -> Plan:
            # apart from an earlier failure of the same, an instance must be ready
            task = states.TaskStatus.NONE if view.task is failed else view.task
            if not view._replace(task=task).is_ready:
                raise _not_ready(view)
            return Plan(
                data={"access": merge_access(view, access), "task": task.value},
                given={"task": view.task},
            )

        self._changes.begin(
            caller,
            instance_id,
            Change(
                kind=operations.UPDATE_ACCESS,
                task=states.TaskStatus.UPDATING,
                timeout_s=self._conf.taskmanager.restart_timeout_s,
                plan=plan,
                expect=IDLE | {failed},
                needs_ready=False,
            ),
        )

    def upgrade(self, caller: context.RequestContext, instance_id: str, version: str) -> None:
        """Begin to run an instance from another version of its datastore, by name or id.

        Another image of the same engine version always can be run; another engine version needs
        the capability and a way there. The values of an attached configuration group and the flavor
        must be known to it. Raises InstanceNotFound, InstanceNotReady,
        DatastoreVersionUnknown, BadRequest, NotImplementedByEngine.
        """

        def plan(view: instance_views.InstanceView) -> Plan:
            current, target = self._choose_version(view, version)
            _check_upgrade(view, current, target)
            self._datastores.check_flavor(target.id, view.flavor_id)
            self._check_group(view, target)
            return Plan(
                data={
                    "version_id": target.id,
                    "image_id": target.image_id,
                    "engine_version": target.version,
                    "old_version_id": current.id,
                    "old_image_id": current.image_id,
                    "old_engine_version": current.version,
                    "server_id": names.server_number(instance_id),
                },
                given={
                    "datastore_version_id": current.id,
                    "configuration_id": view.configuration_id,
                },
            )

        self._changes.begin(
            caller,
            instance_id,
            Change(
                kind=operations.UPGRADE_INSTANCE,
                task=states.TaskStatus.UPGRADING,
                timeout_s=self._conf.taskmanager.upgrade_timeout_s,
                plan=plan,
            ),
        )

    def _check_group(self, view: instance_views.InstanceView, target: datastores.Version) -> None:
        """Raise BadRequest unless the new version knows all values that the instance runs on."""
        if view.configuration_id is None:
            return
        with self._database.reader() as session:
            group = configurations.find_group(session, view.configuration_id, project_id=None)
            known = parameters.effective(session, target)
        try:
            parameters.check_values(known, {} if group is None else group.values)
        except exception.UnprocessableEntity as e:
            raise exception.BadRequest(
                reason=f"configuration group {view.configuration_id} does not fit version"
                f" {target.name}: {e.message.rstrip('.')}; change the group or detach it first"
            ) from None

    def _choose_version(
        self, view: instance_views.InstanceView, wanted: str
    ) -> tuple[datastores.Version, datastores.Version]:
        """Return the version of an instance, and the other that is meant."""
        with self._database.reader() as session:
            known = datastores.get_datastore(session, view.datastore_name).versions
        current = next(each for each in known if each.id == view.datastore_version_id)
        found = [each for each in known if wanted in (each.id, each.name)]
        # of several of one name those count that may be used
        usable = [each for each in found if each.active and each.id != current.id]
        if len(usable) > 1:
            raise exception.DatastoreVersionUnknown(
                version=wanted, reason="Multiple datastore versions found; name one by its id"
            )
        if usable:
            return current, usable[0]
        if current in found:
            raise exception.BadRequest(reason=f"the instance runs version {wanted} already")
        raise exception.DatastoreVersionUnknown(
            version=wanted,
            reason="it is not active; choose another version"
            if found
            else f"datastore {view.datastore_name} has none of that name or id",
        )

    # -- for administrators -----

    def reboot(self, caller: context.RequestContext, instance_id: str) -> None:
        """Begin to stop and start the server of an instance, whatever its engine does.

        Raises InstanceNotFound, InstanceNotReady while another task runs or without a server.
        """
        self._begin_repair(
            caller,
            instance_id,
            kind=operations.REBOOT_INSTANCE,
            task=states.TaskStatus.REBOOTING,
        )

    def stop_database(self, caller: context.RequestContext, instance_id: str) -> None:
        """Begin to stop the engine of an instance; it stays stopped until a restart.

        Raises InstanceNotFound, InstanceNotReady while another task runs or without a server.
        """
        self._begin_repair(
            caller,
            instance_id,
            kind=operations.STOP_DATABASE,
            task=states.TaskStatus.UPDATING,
        )

    def migrate(
        self, caller: context.RequestContext, instance_id: str, host: str | None = None
    ) -> None:
        """Begin to move the server of an instance to ``host``, or to one that is chosen.

        Raises InstanceNotFound, InstanceNotReady, NotAvailable where there are no other hosts.
        """

        def plan(view: instance_views.InstanceView) -> Plan:
            if self._compute is None or not self._compute.can_migrate:
                raise exception.NotAvailable(
                    feature="migration; the compute driver of this deployment knows one host only"
                )
            return Plan(data={"host": host, "task": view.task.value}, given={"task": view.task})

        self._begin(
            caller,
            instance_id,
            kind=operations.MIGRATE_INSTANCE,
            task=states.TaskStatus.MIGRATING,
            plan=plan,
        )

    def rebuild(self, caller: context.RequestContext, instance_id: str, image_id: str) -> None:
        """Begin to make the server of an instance anew from an image; data and address stay.

        It also mends what a failed upgrade or rebuild left. Raises InstanceNotFound,
        InstanceNotReady while another task runs or when there is nothing to rebuild.
        """

        def plan(view: instance_views.InstanceView) -> Plan:
            if view.server_id is None and view.volume_id is None:
                raise _not_ready(view)
            with self._database.reader() as session:
                version = datastores.find_version(session, view.datastore_version_id)
            return Plan(
                data={
                    "image_id": image_id,
                    "old_image_id": None if version is None else version.image_id,
                    "server_id": names.server_number(instance_id),
                },
                given={"datastore_version_id": view.datastore_version_id},
            )

        self._changes.begin(
            caller,
            instance_id,
            Change(
                kind=operations.REBUILD_INSTANCE,
                task=states.TaskStatus.BUILDING,
                timeout_s=self._conf.taskmanager.usage_timeout_s,
                plan=plan,
                expect=IDLE | {states.TaskStatus.UPGRADING_ERROR},
                needs_ready=False,
            ),
        )

    # -- how actions begin -----

    def _begin(
        self,
        caller: context.RequestContext,
        instance_id: str,
        *,
        kind: str,
        task: states.TaskStatus,
        plan: _MakePlan,
    ) -> None:
        self._changes.begin(
            caller,
            instance_id,
            Change(
                kind=kind, task=task, timeout_s=self._conf.taskmanager.usage_timeout_s, plan=plan
            ),
        )

    def _begin_repair(
        self,
        caller: context.RequestContext,
        instance_id: str,
        *,
        kind: str,
        task: states.TaskStatus,
    ) -> None:
        """Begin what an engine that does not run may need: only a server must be there."""

        def with_server(view: instance_views.InstanceView) -> Plan:
            if view.server_id is None or view.task not in IDLE:
                raise _not_ready(view)
            return Plan(data={"task": view.task.value}, given={"task": view.task})

        self._changes.begin(
            caller,
            instance_id,
            Change(
                kind=kind,
                task=task,
                timeout_s=self._conf.taskmanager.restart_timeout_s,
                plan=with_server,
                needs_ready=False,
            ),
        )


def _not_ready(view: instance_views.InstanceView) -> exception.InstanceNotReady:
    return exception.InstanceNotReady(instance_id=view.id, status=view.status)


def _check_upgrade(
    view: instance_views.InstanceView, current: datastores.Version, target: datastores.Version
) -> None:
    """Raise unless an instance of one version can be run from another."""
    if target.image_id is None or target.manager != current.manager:
        raise exception.BadRequest(
            reason=f"version {target.name} cannot take over data of version {current.name}"
        )
    if view.volume_size_gib is None:
        raise exception.BadRequest(
            reason="the instance has no volume, so nothing would be left of its data"
        )
    if target.version == current.version:
        return
    if spec.Capability.UPGRADE not in names.get_spec(view.manager).capabilities:
        raise exception.NotImplementedByEngine(
            datastore=view.datastore_name,
            operation=f"upgrade from {current.version} to {target.version}",
        )
    wrong = upgrades.check(view.manager, current.version, target.version)
    if wrong is not None:
        raise exception.BadRequest(reason=wrong)
