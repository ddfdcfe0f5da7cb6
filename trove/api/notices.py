"""What is told of each mutating route: data, named where the route is declared.

``traits`` are made from the body and the arguments of the path; they must never hold a secret.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

from trove.common import context, exception
from trove.services.accounts import UserName
from trove.services.notices import Notices

#: Key of the WSGI environment.
NOTICES = "trove.notices"

Traits = Mapping[str, Any]


def _no_answer(answer: Any) -> Traits:
    return {}


def _of_instance(body: Any, instance_id: str, *ignored: str) -> Traits:
    return {"instance_id": instance_id}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """What is told of one kind of request.

    ``event`` is the name in ``dbaas.<event>.start``, ``feed`` the type of the event that the feed
    gets once it was done. With ``by_operation`` both come from the operation that the request
    begins. ``answer`` makes more traits of the end from the response.
    """

    event: str | None = None
    feed: str | None = None
    traits: Callable[..., Traits] = _of_instance
    answer: Callable[[Any], Traits] = _no_answer
    resource: str = "instance"
    by_operation: bool = False


#: A notice, or what chooses it by the body.
Choice = Notice | Callable[[Any], Notice | None]


class Telling:
    """Tells of one request: when it starts, and how it ends."""

    def __init__(
        self,
        notices: Notices,
        caller: context.RequestContext,
        notice: Notice,
        traits: Traits,
    ) -> None:
        """Take who asks for what."""
        self._notices = notices
        self._caller = caller
        self._notice = notice
        self._traits = traits
        #: The response of the handler.
        self.answer: Any = None

    def __enter__(self) -> Self:
        """Tell of the start."""
        if self._notice.event is not None and not self._notice.by_operation:
            self._notices.started(self._caller, self._notice.event, self._traits)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: types.TracebackType | None,
    ) -> None:
        """Tell of the end."""
        notice = self._notice
        if error is not None:
            self._tell_error(error)
        elif not notice.by_operation:
            traits = {**self._traits, **notice.answer(self.answer)}
            self._notices.ended(
                self._caller,
                notice.event,
                traits,
                feed=notice.feed,
                resource=(notice.resource, str(traits.get(f"{notice.resource}_id", ""))),
            )

    def _tell_error(self, error: BaseException) -> None:
        is_started = not self._notice.by_operation
        if self._notice.event is None:
            return
        if isinstance(error, exception.Forbidden) and not is_started:
            # who may not ask for it has not begun anything
            return
        told = ("trove.error", "An internal error happened.")
        if isinstance(error, exception.TroveError):
            told = (error.code, error.message)
        self._notices.failed(
            self._caller, self._notice.event, self._traits, error=told, is_started=is_started
        )


def choose(choice: Choice | None, body: Any) -> Notice | None:
    """Return what is told of a request with this body."""
    return choice if choice is None or isinstance(choice, Notice) else choice(body)


# -- instances -----


def _of_create(body: Any) -> Traits:
    new = body["instance"]
    flavor = new.get("flavorRef")
    return {"name": new["name"], "flavor_id": None if flavor is None else str(flavor)}


def _by_operation(event: str) -> Notice:
    return Notice(event=event, by_operation=True)


INSTANCE_CREATE = Notice(event="instance_create", by_operation=True, traits=_of_create)
INSTANCE_DELETE = _by_operation("instance_delete")

_ACTIONS: Mapping[str, Notice] = {
    "restart": _by_operation("instance_restart"),
    "restore": _by_operation("instance_restore"),
    "promote_to_replica_source": _by_operation("instance_promote"),
    "eject_replica_source": _by_operation("instance_eject"),
    "reset_status": Notice(event="instance_reset_status", feed="instance.status.reset"),
    "reset-task-status": Notice(feed="instance.status.reset"),
    "reboot": _by_operation("instance_reboot"),
    "migrate": _by_operation("migrate"),
}
_RESIZE_VOLUME = _by_operation("instance_resize_volume")
_RESIZE_FLAVOR = _by_operation("instance_resize_instance")


def instance_action(body: Any) -> Notice | None:
    """Choose by the action of the body."""
    ((action, arguments),) = body.items()
    if action == "resize" and isinstance(arguments, dict):
        return _RESIZE_VOLUME if "volume" in arguments else _RESIZE_FLAVOR
    return _ACTIONS.get(action)


def _of_attach(body: Any, instance_id: str) -> Traits:
    return {"instance_id": instance_id, "configuration_id": _id_of(body["instance"])}


def _id_of(instance: Mapping[str, Any]) -> str | None:
    reference = instance.get("configuration")
    return reference.rstrip("/").rpartition("/")[2] if isinstance(reference, str) else None


def _of_update(body: Any, instance_id: str) -> Traits:
    return {"instance_id": instance_id, "keys": sorted(body["instance"])}


_ATTACH = Notice(
    event="instance_attach_configuration",
    feed="instance.configuration.attached",
    traits=_of_attach,
)
_DETACH_CONFIGURATION = Notice(
    event="instance_detach_configuration", feed="instance.configuration.detached"
)
_UPDATE = Notice(feed="instance.updated", traits=_of_update)
_DETACH_REPLICA = _by_operation("instance_detach")
_UPGRADE = _by_operation("upgrade")


def instance_update(body: Any) -> Notice | None:
    """Choose by the keys of the body; one without any detaches the configuration group."""
    wanted = body["instance"]
    if "replica_of" in wanted or "slave_of" in wanted:
        return _DETACH_REPLICA
    if "datastore_version" in wanted:
        return _UPGRADE
    if "access" in wanted:
        return None
    if "configuration" in wanted or not wanted:
        return _ATTACH if _id_of(wanted) else _DETACH_CONFIGURATION
    return _UPDATE


# -- accounts -----


def _joined(items: Sequence[Mapping[str, Any]]) -> str:
    return ",".join(str(item["name"]) for item in items)


def _of_databases(body: Any, instance_id: str) -> Traits:
    items = body["databases"] if "databases" in body else [body["database"]]
    return {"instance_id": instance_id, "dbname": _joined(items)}


def _of_database(body: Any, instance_id: str, name: str) -> Traits:
    return {"instance_id": instance_id, "dbname": name}


def _of_users(body: Any, instance_id: str) -> Traits:
    return {"instance_id": instance_id, "username": _joined(body["users"])}


def _of_user(body: Any, instance_id: str, user: str) -> Traits:
    return {"instance_id": instance_id, "username": UserName.parse(user).name}


def _of_grant(body: Any, instance_id: str, user: str) -> Traits:
    return {**_of_user(body, instance_id, user), "database": _joined(body["databases"])}


def _of_revoke(body: Any, instance_id: str, user: str, database: str) -> Traits:
    return {**_of_user(body, instance_id, user), "database": database}


DATABASE_CREATE = Notice(event="database_create", feed="database.created", traits=_of_databases)
DATABASE_DELETE = Notice(event="database_delete", feed="database.deleted", traits=_of_database)
USER_CREATE = Notice(event="user_create", feed="user.created", traits=_of_users)
USER_CREATE_ONE = Notice(event="user_create", feed="user.created", traits=_of_user)
USER_DELETE = Notice(event="user_delete", feed="user.deleted", traits=_of_user)
USER_UPDATE = Notice(event="user_update_attributes", feed="user.updated", traits=_of_user)
USER_CHANGE_PASSWORD = Notice(
    event="user_change_password", feed="user.password.changed", traits=_of_users
)
USER_GRANT = Notice(event="user_grant", feed="user.access.granted", traits=_of_grant)
USER_REVOKE = Notice(event="user_revoke", feed="user.access.revoked", traits=_of_revoke)
ROOT_ENABLE = Notice(feed="root.enabled")
ROOT_DISABLE = Notice(feed="root.disabled")


# -- configuration groups, modules, quotas -----


def _of_new_configuration(body: Any) -> Traits:
    new = body["configuration"]
    datastore = new.get("datastore") or {}
    return {
        "name": new.get("name"),
        "datastore": datastore.get("type"),
        "datastore_version": datastore.get("version"),
    }


def _of_configuration(body: Any, configuration_id: str) -> Traits:
    return {"configuration_id": configuration_id}


def _of_configuration_update(body: Any, configuration_id: str) -> Traits:
    new = body["configuration"]
    return {
        "configuration_id": configuration_id,
        "name": new.get("name"),
        "description": new.get("description"),
    }


def _made_configuration(answer: Any) -> Traits:
    return {"configuration_id": answer["configuration"]["id"]}


CONFIGURATION_CREATE = Notice(
    event="configuration_create",
    feed="configuration.created",
    traits=_of_new_configuration,
    answer=_made_configuration,
    resource="configuration",
)
CONFIGURATION_UPDATE = Notice(
    event="configuration_update",
    feed="configuration.updated",
    traits=_of_configuration_update,
    resource="configuration",
)
CONFIGURATION_EDIT = Notice(
    event="configuration_edit",
    feed="configuration.updated",
    traits=_of_configuration,
    resource="configuration",
)
CONFIGURATION_DELETE = Notice(
    event="configuration_delete",
    feed="configuration.deleted",
    traits=_of_configuration,
    resource="configuration",
)


def _of_new_module(body: Any) -> Traits:
    new = body["module"]
    return {"name": new.get("name"), "type": new.get("module_type") or new.get("type")}


def _of_module(body: Any, module_id: str) -> Traits:
    return {"module_id": module_id}


def _made_module(answer: Any) -> Traits:
    return {"module_id": answer["module"]["id"]}


def _of_applied(body: Any, instance_id: str) -> Traits:
    return {"instance_id": instance_id, "modules": [item["id"] for item in body["modules"]]}


def _of_removed(body: Any, instance_id: str, module_id: str) -> Traits:
    return {"instance_id": instance_id, "modules": [module_id]}


MODULE_APPLY = Notice(feed="instance.modules.applied", traits=_of_applied)
MODULE_REMOVE = Notice(feed="instance.modules.removed", traits=_of_removed)
MODULE_CREATE = Notice(
    feed="module.created", traits=_of_new_module, answer=_made_module, resource="module"
)
MODULE_UPDATE = Notice(feed="module.updated", traits=_of_module, resource="module")
MODULE_DELETE = Notice(feed="module.deleted", traits=_of_module, resource="module")


# -- backups -----


def _of_new_backup(body: Any) -> Traits:
    new = body["backup"]
    found = {
        "name": new["name"],
        "instance_id": new.get("instance"),
        "description": new.get("description"),
        "parent_id": new.get("parent_id"),
    }
    return {trait: value for trait, value in found.items() if value is not None}


def _of_backup(body: Any, backup_id: str) -> Traits:
    return {"backup_id": backup_id}


def _made_backup(answer: Any) -> Traits:
    return {"backup_id": answer["backup"]["id"]}


_BACKUP_CREATE = Notice(event="backup_create", by_operation=True, traits=_of_new_backup)
_BACKUP_REGISTER = Notice(
    event="backup_create",
    feed="backup.registered",
    traits=_of_new_backup,
    answer=_made_backup,
    resource="backup",
)
BACKUP_DELETE = Notice(event="backup_delete", by_operation=True, traits=_of_backup)


def backup_create(body: Any) -> Notice:
    """Choose by whether a backup is made, or is stored already."""
    is_stored = body["backup"].get("restore_from") is not None
    return _BACKUP_REGISTER if is_stored else _BACKUP_CREATE


def _of_quota(body: Any, project_id: str) -> Traits:
    return {"project_id": project_id, "quotas": dict(body["quotas"])}


QUOTA_UPDATE = Notice(feed="quota.updated", traits=_of_quota, resource="project")
