"""Handlers of instances for operators: those of all projects, and repairs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from trove.api import method, notices, pagination
from trove.api.controllers.services import Services
from trove.api.controllers.v1 import listing
from trove.api.controllers.v1.instances import make_viewer
from trove.api.method import Call, Json
from trove.api.query import parse_bool
from trove.api.routing import Resource
from trove.api.schemas import instances as instance_schemas
from trove.api.schemas import mgmt_instances as schemas
from trove.api.schemas import queries
from trove.api.views import mgmt_instances as views
from trove.common import context, exception
from trove.db.instance_lists import Filters, Order

_Perform = Callable[[Services, context.RequestContext, str, Mapping[str, Any]], None]

#: What has an index over all projects.
_SORT_KEYS = ("created", "updated")


def children(services: Services) -> dict[str, Resource]:
    """Return the nodes below ``mgmt``."""
    instance = Instance(
        services,
        children={
            "action": Action(services),
            "root": Root(services),
            "diagnostics": Diagnostics(services),
            "hwinfo": Hardware(services),
            "rpc_ping": Ping(services),
        },
    )
    return {"instances": Instances(services, item=instance)}


class _Base(Resource):
    def __init__(self, services: Services, **nodes: Any) -> None:
        super().__init__(**nodes)
        self._services = services
        self._administration = services.administration


_DELETED: queries.Parameters = {"deleted": queries.flag("Those that were deleted.")}


class Instances(_Base):
    """The instances of all projects."""

    @method.expose(
        "mgmt:instance:index",
        response=schemas.LIST,
        query={**queries.INSTANCES, **_DELETED, "project_id": queries.PROJECT},
    )
    def get(self, call: Call) -> Json:
        """List instances, those changed last first; live ones unless the query says."""
        api = self._services.conf.api
        order = listing.order(call.query) or Order(key="updated", is_descending=True)
        if order.key not in _SORT_KEYS:
            raise exception.BadRequest(
                reason=f"sort_key must be one of {', '.join(_SORT_KEYS)} in lists of all projects"
            )
        rows, next_marker = self._administration.list_page(
            Filters(
                project_id=call.query.get("project_id") or None,
                is_deleted=parse_bool(call.query, "deleted"),
                **listing.filters(call.query),
            ),
            order=order,
            limit=pagination.parse_limit(
                call.query, default=api.default_page_size, maximum=api.max_page_size
            ),
            marker=pagination.parse_marker(call.query),
        )
        viewer = make_viewer(self._services, call)
        return pagination.page(
            "instances",
            [views.item(row, viewer) for row in rows],
            urls=call.urls,
            query=call.query,
            next_marker=None if next_marker is None else pagination.wrap_marker(next_marker),
        )


class Instance(_Base):
    """One instance of any project."""

    parameter = "instance_id"

    @method.expose("mgmt:instance:show", response=schemas.SHOW, query=_DELETED)
    def get(self, call: Call, instance_id: str) -> Json:
        """Show an instance; a deleted one when the query asks for it."""
        found = self._administration.get(
            instance_id, with_deleted=parse_bool(call.query, "deleted")
        )
        viewer = make_viewer(self._services, call)
        return {"instance": views.show(found.view, found.root, viewer)}


class Action(_Base):
    """Repairs of an instance."""

    @method.expose(
        "mgmt:instance:action",
        status=202,
        body=instance_schemas.MGMT_ACTION,
        notice=notices.instance_action,
    )
    def post(self, call: Call, instance_id: str) -> Json:
        """Carry out the one action that the body names."""
        ((action, arguments),) = call.body.items()
        call.caller.authorize(f"mgmt:instance:{action.replace('-', '_')}")
        _ACTIONS[action](self._services, call.caller, instance_id, arguments)
        return None


_ACTIONS: Mapping[str, _Perform] = {
    "stop": lambda services, caller, instance_id, arguments: services.actions.stop_database(
        caller, instance_id
    ),
    "reboot": lambda services, caller, instance_id, arguments: services.actions.reboot(
        caller, instance_id
    ),
    "migrate": lambda services, caller, instance_id, arguments: services.actions.migrate(
        caller, instance_id, arguments.get("host")
    ),
    "reset-task-status": lambda services, caller, instance_id, arguments: (
        services.resets.reset_task(caller, instance_id)
    ),
    "rebuild": lambda services, caller, instance_id, arguments: services.actions.rebuild(
        caller, instance_id, arguments["image_id"].lower()
    ),
}


class Root(_Base):
    """The history of the superuser of an instance."""

    @method.expose("mgmt:instance:root", response=schemas.ROOT_HISTORY)
    def get(self, call: Call, instance_id: str) -> Json:
        """Show when the superuser was enabled last, and by whom."""
        root = self._administration.get_root(instance_id)
        return {"root_history": views.root_history(instance_id, root)}


class Diagnostics(_Base):
    """What agent and engine of an instance use."""

    @method.expose("mgmt:instance:diagnostics", response=schemas.DIAGNOSTICS)
    def get(self, call: Call, instance_id: str) -> Json:
        """Ask the agent."""
        found = self._administration.diagnose(call.caller, instance_id)
        return {"diagnostics": views.diagnostics(found)}


class Hardware(_Base):
    """What an instance may use of its machine."""

    @method.expose("mgmt:instance:hwinfo", response=schemas.HARDWARE)
    def get(self, call: Call, instance_id: str) -> Json:
        """Ask the agent."""
        found = self._administration.get_hardware(call.caller, instance_id)
        return {"hwinfo": views.hardware(found)}


class Ping(_Base):
    """Whether the agent of an instance answers."""

    @method.expose("mgmt:instance:rpc_ping", status=204)
    def get(self, call: Call, instance_id: str) -> Json:
        """Ask the agent."""
        self._administration.ping(call.caller, instance_id)
        return None
