"""Handlers of instances."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from trove.api import method, pagination
from trove.api.controllers.services import Services
from trove.api.controllers.v1 import parsing
from trove.api.method import Call, Json
from trove.api.routing import Resource
from trove.api.schemas import instances as schemas
from trove.api.views import instances as views
from trove.common import exception
from trove.db.instance_views import InstanceSummary, InstanceView

_View = TypeVar("_View", InstanceSummary, InstanceView)


class _Base(Resource):
    def __init__(self, services: Services, **nodes: Any) -> None:
        super().__init__(**nodes)
        self._services = services
        self._instances = services.instances

    def _viewer(self, call: Call) -> views.Viewer:
        api = self._services.conf.api
        return views.Viewer(
            urls=call.urls,
            is_admin=bool(call.caller.is_admin),
            now=self._services.clock.now(),
            heartbeat_expiry=datetime.timedelta(seconds=api.agent_heartbeat_expiry_s),
        )

    def _page(
        self,
        call: Call,
        kind: type[_View],
        render: Callable[[_View, views.Viewer], dict[str, Any]],
    ) -> Json:
        api = self._services.conf.api
        limit = pagination.parse_limit(
            call.query, default=api.default_page_size, maximum=api.max_page_size
        )
        rows, next_marker = self._instances.list_page(
            call.caller, kind, limit=limit, marker=pagination.parse_marker(call.query)
        )
        viewer = self._viewer(call)
        items = [render(row, viewer) for row in rows]
        return pagination.page(
            "instances", items, urls=call.urls, query=call.query, next_marker=next_marker
        )


class Instances(_Base):
    """All instances of the project."""

    @method.expose("instance:index", response=schemas.LIST)
    def get(self, call: Call) -> Json:
        """List instances."""
        return self._page(call, InstanceSummary, views.base)

    @method.expose("instance:create", body=schemas.CREATE, response=schemas.SHOW)
    def post(self, call: Call) -> Json:
        """Create an instance."""
        new = parsing.new_instance(call.body["instance"])
        parsing.authorize_parts(call.caller, new)
        row = self._instances.create(call.caller, new)
        return {"instance": views.detail(row, self._viewer(call))}


class InstancesDetail(_Base):
    """All instances of the project, in detail."""

    @method.expose("instance:detail", response=schemas.LIST_DETAIL)
    def get(self, call: Call) -> Json:
        """List instances in detail."""
        return self._page(call, InstanceView, views.detail)


class Instance(_Base):
    """One instance."""

    parameter = "instance_id"

    @method.expose("instance:show", response=schemas.SHOW)
    def get(self, call: Call, instance_id: str) -> Json:
        """Show an instance."""
        row = self._instances.get(call.caller, instance_id)
        return {"instance": views.show(row, self._viewer(call))}

    @method.expose("instance:delete", status=202)
    def delete(self, call: Call, instance_id: str) -> Json:
        """Delete an instance."""
        self._instances.delete(call.caller, instance_id)
        return None


class Action(_Base):
    """What can be done to an instance."""

    #: Action -> policy rule; those without a use case yet are refused by name.
    RULES: Mapping[str, str] = {
        "restart": "instance:restart",
        "reset_status": "instance:reset_status",
    }
    NOT_AVAILABLE = frozenset(
        {"resize", "promote_to_replica_source", "eject_replica_source", "reset_status"}
    )

    @method.expose(None, status=202, body=schemas.ACTION)
    def post(self, call: Call, instance_id: str) -> Json:
        """Carry out the one action that the body names."""
        (action,) = call.body
        if action in self.RULES:
            call.caller.authorize(self._rule(action, call.body[action]))
        self._instances.get(call.caller, instance_id)
        if action in self.NOT_AVAILABLE:
            raise exception.NotAvailable(feature=f"action {action}")
        if action != "restart":
            raise exception.BadRequest(reason=f"there is no action {action[:50]!r}")
        if call.body[action] not in (None, {}):
            raise exception.BadRequest(reason="restart takes no arguments")
        self._instances.restart(call.caller, instance_id)
        return None

    def _rule(self, action: str, arguments: Any) -> str:
        if action == "reset_status" and isinstance(arguments, dict) and "force_delete" in arguments:
            return "instance:force_delete"
        return self.RULES[action]
