"""Handlers of actions: one a request, named by the one key of its body."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from trove.api import method, notices
from trove.api.controllers.services import Services
from trove.api.controllers.v1 import parsing
from trove.api.method import Call, Json
from trove.api.routing import Resource
from trove.api.schemas import instances as schemas
from trove.common import context

_Perform = Callable[[Services, context.RequestContext, str, Any], None]


class Action(Resource):
    """What can be done to an instance."""

    def __init__(self, services: Services) -> None:
        """Take the use cases."""
        super().__init__()
        self._services = services

    @method.expose(None, status=202, body=schemas.ACTION, notice=notices.instance_action)
    def post(self, call: Call, instance_id: str) -> Json:
        """Carry out the one action that the body names."""
        ((action, arguments),) = call.body.items()
        call.caller.authorize(_rule(action, arguments))
        _ACTIONS[action](self._services, call.caller, instance_id, arguments)
        return None


def _rule(action: str, arguments: Any) -> str:
    if action == "resize":
        return "instance:resize_volume" if "volume" in arguments else "instance:resize_flavor"
    if action == "reset_status" and "force_delete" in arguments:
        return "instance:force_delete"
    return f"instance:{action}"


def _restart(
    services: Services, caller: context.RequestContext, instance_id: str, ignored: object
) -> None:
    services.instances.restart(caller, instance_id)


def _resize(
    services: Services,
    caller: context.RequestContext,
    instance_id: str,
    wanted: Mapping[str, Any],
) -> None:
    if "volume" in wanted:
        size_gib = parsing.volume_size_gib(wanted["volume"])
        services.actions.resize_volume(caller, instance_id, size_gib)
    else:
        flavor_id = parsing.flavor_reference(wanted["flavorRef"])
        services.actions.resize_flavor(caller, instance_id, flavor_id)


def _promote(
    services: Services, caller: context.RequestContext, instance_id: str, ignored: object
) -> None:
    services.instances.promote(caller, instance_id)


def _eject(
    services: Services, caller: context.RequestContext, instance_id: str, ignored: object
) -> None:
    services.instances.eject(caller, instance_id)


def _reset_status(
    services: Services,
    caller: context.RequestContext,
    instance_id: str,
    arguments: Mapping[str, Any],
) -> None:
    services.resets.reset_status(
        caller, instance_id, in_order_to_delete="force_delete" in arguments
    )


def _restore(
    services: Services,
    caller: context.RequestContext,
    instance_id: str,
    point: Mapping[str, Any],
) -> None:
    with_backup = point.get("safety_backup", False)
    if with_backup:
        caller.authorize("backup:create")
    services.restores.restore(
        caller, instance_id, parsing.restore_point(point), with_backup=with_backup
    )


_ACTIONS: Mapping[str, _Perform] = {
    "restart": _restart,
    "resize": _resize,
    "promote_to_replica_source": _promote,
    "eject_replica_source": _eject,
    "reset_status": _reset_status,
    "restore": _restore,
}
