"""What a PUT or PATCH of an instance asks for: details at once, and at most one change.

The change is checked and begun first: when it is refused the details are as they were.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from trove.api.controllers.services import Services
from trove.api.controllers.v1 import parsing
from trove.common import context, exception

#: Keys that are changed at once, and what services call them.
_DETAILS: Mapping[str, str] = {
    "name": "name",
    "tags": "tags",
    "deletion_protected": "is_protected",
}


def apply(
    services: Services,
    caller: context.RequestContext,
    instance_id: str,
    wanted: Mapping[str, Any],
) -> None:
    """Carry out an update; raises InstanceNotFound, BadRequest and what the change raises.

    An empty one detaches the configuration group, as clients have it.
    """
    changes = [key for key in wanted if key not in _DETAILS]
    if len(changes) > 1:
        raise exception.BadRequest(
            reason="Only one attribute (except 'name') is allowed to update."
            f" There are {', '.join(sorted(changes))}."
        )
    # whoever may not know of the instance is told so, whatever is wrong besides
    services.instances.get(caller, instance_id)
    if changes or not wanted:
        key = changes[0] if changes else "configuration"
        _CHANGES[key](services, caller, instance_id, wanted.get(key))
    details = {_DETAILS[key]: value for key, value in wanted.items() if key in _DETAILS}
    if details:
        services.instances.update_details(caller, instance_id, **details)


def _configuration(
    services: Services, caller: context.RequestContext, instance_id: str, reference: str | None
) -> None:
    configuration_id = parsing.configuration_id(reference)
    if configuration_id is None:
        services.configurations.detach(caller, instance_id)
    else:
        services.configurations.attach(caller, instance_id, configuration_id)


def _detach_replica(
    services: Services, caller: context.RequestContext, instance_id: str, ignored: object
) -> None:
    services.instances.detach_replica(caller, instance_id)


def _version(
    services: Services, caller: context.RequestContext, instance_id: str, version: str
) -> None:
    services.actions.upgrade(caller, instance_id, version)


def _access(
    services: Services,
    caller: context.RequestContext,
    instance_id: str,
    access: Mapping[str, Any],
) -> None:
    services.actions.update_access(caller, instance_id, access)


_CHANGES: Mapping[str, Callable[[Services, context.RequestContext, str, Any], None]] = {
    "configuration": _configuration,
    "replica_of": _detach_replica,
    "slave_of": _detach_replica,
    "datastore_version": _version,
    "access": _access,
}
