"""Configuration groups: made, changed, attached to instances.

What an instance should run on are the values of its group; what it runs on is known by the digest
that its agent confirmed last. Whoever changes one side begins an operation that brings them
together, and the task manager begins those that could not begin at once.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from oslo_config import cfg
from oslo_log import log

from trove import states
from trove.common import concurrency, context, exception
from trove.datastores import parameters as rules
from trove.datastores.parameters import Value
from trove.datastores.spec import Capability
from trove.db import base, configurations, datastores, instance_views, operations
from trove.services import changes, names, parameters
from trove.services.changes import IDLE, Change, Plan
from trove.services.datastores import Datastores, VersionChoice

LOG = log.getLogger(__name__)

#: Instances whose change is begun while the client waits; the task manager begins the others.
_BEGUN_AT_ONCE = 20


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class NewGroup:
    """What a caller asks for."""

    name: str
    version: VersionChoice
    values: Mapping[str, Value]
    description: str | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GroupChange:
    """New attributes of a group; None leaves one as it is."""

    name: str | None = None
    description: str | None = None
    values: Mapping[str, Value] | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GroupDetail:
    """A group, and to how many instances it is attached."""

    group: configurations.Group
    instance_count: int


def find_in_reach(
    session: Any, caller: context.RequestContext, configuration_id: str
) -> configurations.Group:
    """Return a group the caller may know of; raises ConfigurationNotFound."""
    project_id = None if caller.is_admin else str(caller.project_id)
    group = configurations.find_group(session, configuration_id, project_id=project_id)
    if group is None:
        raise exception.ConfigurationNotFound(configuration_id=configuration_id[:64])
    return group


def configure_change(conf: cfg.ConfigOpts, **parts: Any) -> Change:
    """Return the change that brings an instance to the values of its group."""
    return Change(
        kind=operations.CONFIGURE_INSTANCE,
        task=states.TaskStatus.UPDATING,
        timeout_s=conf.taskmanager.configure_timeout_s,
        **parts,
    )


def remember_task(view: instance_views.InstanceView) -> Plan:
    """Plan nothing but to have the task set back should the change fail."""
    return Plan(data={"task": view.task.value}, given={"task": view.task})


class Configurations:
    """Use cases of configuration groups."""

    def __init__(
        self,
        *,
        conf: cfg.ConfigOpts,
        database: base.Database,
        changes: changes.Changes,
        clock: concurrency.Clock,
    ) -> None:
        """Take the collaborators."""
        self._conf = conf
        self._database = database
        self._datastores = Datastores(database=database)
        self._changes = changes
        self._clock = clock

    # -- groups -----

    def list_page(
        self, caller: context.RequestContext, *, limit: int, marker: str | None
    ) -> tuple[Sequence[configurations.Group], str | None]:
        """Return a page of groups by id, administrators' of all projects, and the next marker."""
        project_id = None if caller.is_admin else str(caller.project_id)
        with self._database.reader() as session:
            groups, more = configurations.list_groups(
                session, project_id=project_id, limit=limit, marker=marker
            )
        return groups, groups[-1].id if more and groups else None

    def get(self, caller: context.RequestContext, configuration_id: str) -> GroupDetail:
        """Return a group; raises ConfigurationNotFound."""
        with self._database.reader() as session:
            group = find_in_reach(session, caller, configuration_id)
            count = configurations.count_attached(session, group.id)
        return GroupDetail(group=group, instance_count=count)

    def list_instances(
        self,
        caller: context.RequestContext,
        configuration_id: str,
        *,
        limit: int,
        marker: str | None,
    ) -> tuple[Sequence[configurations.Attached], str | None]:
        """Return a page of the instances of a group; raises ConfigurationNotFound."""
        with self._database.reader() as session:
            group = find_in_reach(session, caller, configuration_id)
            found, more = configurations.list_attached(
                session, group.id, limit=limit, marker=marker
            )
        return found, found[-1].id if more and found else None

    def create(self, caller: context.RequestContext, new: NewGroup) -> GroupDetail:
        """Make a group.

        Raises DatastoreNotFound, DatastoreVersionUnknown, and UnprocessableEntity for values.
        """
        version = self._datastores.choose_version(new.version, allow_inactive=True)
        if new.values:
            self._check(version, new.values)
        configuration_id = self._add(caller, new, version)
        LOG.info("configuration group %s: made", configuration_id)
        return self.get(caller, configuration_id)

    @base.retry_on_conflict
    def _add(
        self, caller: context.RequestContext, new: NewGroup, version: datastores.Version
    ) -> str:
        with self._database.writer() as session:
            return configurations.add_group(
                session,
                project_id=str(caller.project_id),
                name=new.name,
                description=new.description,
                datastore_version_id=version.id,
                values=new.values,
                digest=rules.digest(new.values),
                now=self._clock.now(),
            )

    def replace(
        self, caller: context.RequestContext, configuration_id: str, change: GroupChange
    ) -> None:
        """Replace attributes of a group, its values as a whole, and apply them.

        Raises ConfigurationNotFound, UnprocessableEntity.
        """
        self._change(caller, configuration_id, change, is_merge=False)

    def merge(
        self,
        caller: context.RequestContext,
        configuration_id: str,
        values: Mapping[str, Value] | None,
    ) -> None:
        """Set some values of a group, keep its others, and apply them.

        Raises ConfigurationNotFound, UnprocessableEntity.
        """
        self._change(caller, configuration_id, GroupChange(values=values), is_merge=True)

    def _change(
        self,
        caller: context.RequestContext,
        configuration_id: str,
        change: GroupChange,
        *,
        is_merge: bool,
    ) -> None:
        with self._database.reader() as session:
            group = find_in_reach(session, caller, configuration_id)
        if change.values is not None:
            self._check(
                self._datastores.get_version_by_id(group.datastore_version_id), change.values
            )
        self._write(caller, configuration_id, change, is_merge=is_merge)
        LOG.info("configuration group %s: changed", configuration_id)
        if change.values is not None:
            self._apply(caller, configuration_id)

    @base.retry_on_conflict
    def _write(
        self,
        caller: context.RequestContext,
        configuration_id: str,
        change: GroupChange,
        *,
        is_merge: bool,
    ) -> None:
        now = self._clock.now()
        new: dict[str, Any] = {
            name: value
            for name in ("name", "description")
            if (value := getattr(change, name)) is not None
        }
        with self._database.writer() as session:
            # before it is read: two who merge at once must not forget each other's values
            configurations.hold(session, configuration_id)
            group = find_in_reach(session, caller, configuration_id)
            configurations.update_group(session, configuration_id, now=now, **new)
            if change.values is not None:
                values = _merged(group.values, change.values) if is_merge else dict(change.values)
                configurations.replace_values(
                    session, configuration_id, values, digest=rules.digest(values), now=now
                )

    def delete(self, caller: context.RequestContext, configuration_id: str) -> None:
        """Delete a group; raises ConfigurationNotFound, and BadRequest while it is attached."""
        self._mark_deleted(caller, configuration_id)
        LOG.info("configuration group %s: deleted", configuration_id)

    @base.retry_on_conflict
    def _mark_deleted(self, caller: context.RequestContext, configuration_id: str) -> None:
        now = self._clock.now()
        with self._database.writer() as session:
            configurations.hold(session, configuration_id)
            group = find_in_reach(session, caller, configuration_id)
            if configurations.count_attached(session, group.id):
                raise exception.BadRequest(
                    reason=f"configuration group {group.id} is attached to instances: detach it"
                    " from them first"
                )
            configurations.mark_deleted(session, group.id, now=now)

    def _check(self, version: datastores.Version, values: Mapping[str, Value]) -> None:
        """Raise UnprocessableEntity unless the version may be configured so."""
        with self._database.reader() as session:
            known = parameters.effective(session, version)
        if not known:
            raise exception.UnprocessableEntity(
                reason="Configuration groups are not supported for this datastore:"
                f" {version.datastore_name} {version.name}"
            )
        parameters.check_values(known, values)

    # -- instances -----

    def get_defaults(
        self, caller: context.RequestContext, instance_id: str
    ) -> Mapping[str, str | int]:
        """Return what an instance is configured with without a group.

        Raises InstanceNotFound, and UnprocessableEntity when its datastore has no configuration.
        """
        with self._database.reader() as session:
            view = changes.find_in_reach(session, caller, instance_id)
        facts = names.get_spec(view.manager)
        names.require(facts, Capability.CONFIGURATION)
        return facts.default_configuration(view.flavor_ram_mib, view.volume_size_gib)

    def attach(
        self, caller: context.RequestContext, instance_id: str, configuration_id: str
    ) -> None:
        """Begin to run an instance on the values of a group.

        Raises InstanceNotFound, ConfigurationNotFound, InstanceNotReady without a server, and
        BadRequest when the instance cannot take the group as it is.
        """

        def plan(view: instance_views.InstanceView) -> Plan:
            with self._database.reader() as session:
                group = find_in_reach(session, caller, configuration_id)
            _require_attachable(view)
            check_fit(group, version_id=view.datastore_version_id, project_id=view.project_id)
            if view.configuration_id is not None:
                raise exception.BadRequest(
                    reason=f"instance {view.id} has configuration group"
                    f" {view.configuration_id} attached already: detach it first"
                )
            return Plan(
                data={"task": view.task.value, "previous": None},
                values={"configuration_id": group.id, "is_configuration_due": True},
                given={"configuration_id": None},
                within=lambda session: hold(session, group.id),
            )

        self._begin(caller, instance_id, plan)

    def detach(self, caller: context.RequestContext, instance_id: str) -> None:
        """Begin to run an instance on its defaults; nothing to do when it has no group.

        Raises InstanceNotFound, InstanceNotReady without a server, and BadRequest while something
        else is being done to the instance.
        """
        with self._database.reader() as session:
            project_id = None if caller.is_admin else str(caller.project_id)
            seen = instance_views.find_view(session, instance_id, project_id=project_id)
        if seen is not None and seen.configuration_id is None:
            return

        def plan(view: instance_views.InstanceView) -> Plan:
            _require_attachable(view)
            return Plan(
                data={"task": view.task.value, "previous": view.configuration_id},
                values={"configuration_id": None, "is_configuration_due": True},
                given={"configuration_id": view.configuration_id},
            )

        self._begin(caller, instance_id, plan)

    def _begin(self, caller: context.RequestContext, instance_id: str, plan: Any) -> None:
        change = configure_change(
            self._conf,
            plan=plan,
            expect=frozenset({states.TaskStatus.NONE}),
            needs_ready=False,
        )
        self._changes.begin(caller, instance_id, change)

    def _apply(self, caller: context.RequestContext, configuration_id: str) -> None:
        """Begin to apply a group's values to its instances that are ready."""
        expiry = datetime.timedelta(seconds=self._conf.api.agent_heartbeat_expiry_s)
        with self._database.reader() as session:
            due = configurations.list_due(
                session,
                heard_since=self._clock.now() - expiry,
                limit=_BEGUN_AT_ONCE,
                configuration_id=configuration_id,
            )
        for each in due:
            if each.confirmed == each.wanted:
                continue
            try:
                self._changes.begin(
                    caller,
                    each.instance_id,
                    configure_change(self._conf, plan=remember_task, expect=IDLE),
                )
            except (exception.InstanceNotReady, exception.InstanceNotFound) as e:
                LOG.info("instance %s: configured later: %s", each.instance_id, e)


def check_fit(group: configurations.Group, *, version_id: str, project_id: str) -> None:
    """Raise BadRequest unless a group is for instances of this version and project."""
    if group.datastore_version_id != version_id:
        raise exception.BadRequest(
            reason=f"configuration group {group.id} is for datastore {group.datastore_name}"
            f" {group.version_name} ({group.version_number}), not for that of the instance"
        )
    if group.project_id != project_id:
        raise exception.BadRequest(
            reason=f"configuration group {group.id} belongs to another project than the instance"
        )
    names.require(names.get_spec(group.manager), Capability.CONFIGURATION)


def hold(session: Any, configuration_id: str) -> None:
    """Keep a group from being deleted by others; raises ConfigurationNotFound."""
    if not configurations.hold(session, configuration_id):
        raise exception.ConfigurationNotFound(configuration_id=configuration_id)


def _require_attachable(view: instance_views.InstanceView) -> None:
    """Raise InstanceNotReady without a server, BadRequest while something is being done."""
    status = view.status
    if view.server_id is None or view.task is states.TaskStatus.BUILDING:
        raise exception.InstanceNotReady(instance_id=view.id, status=status)
    is_idle = view.task is states.TaskStatus.NONE
    if not is_idle or view.server_status is not states.ServerStatus.ACTIVE:
        raise exception.BadRequest(
            reason=f"instance {view.id} cannot be configured now. (Status is {status}.)"
        )


def _merged(old: Mapping[str, Value], new: Mapping[str, Value]) -> dict[str, Value]:
    """Return old values with new ones in their places, whatever the spelling of their names."""
    replaced = {rules.canonical(name) for name in new}
    kept = {name: value for name, value in old.items() if rules.canonical(name) not in replaced}
    return {**kept, **new}
