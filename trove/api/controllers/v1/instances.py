"""Handlers of instances."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any

from trove.api import method, notices, pagination, query
from trove.api.controllers.services import Services
from trove.api.controllers.v1 import instance_updates, listing, parsing
from trove.api.method import Call, Json
from trove.api.routing import Resource
from trove.api.schemas import instances as schemas
from trove.api.schemas import queries
from trove.api.views import instances as views
from trove.api.views import operations as operation_views
from trove.db.instance_views import InstanceView, PackedSummary, View


def make_viewer(services: Services, call: Call) -> views.Viewer:
    """Return for whom, from where and when a request's instances are shown."""
    return views.Viewer(
        urls=call.urls,
        is_admin=bool(call.caller.is_admin),
        now=services.clock.now(),
        heartbeat_expiry=datetime.timedelta(seconds=services.conf.api.agent_heartbeat_expiry_s),
    )


class _Base(Resource):
    def __init__(self, services: Services, **nodes: Any) -> None:
        super().__init__(**nodes)
        self._services = services
        self._instances = services.instances

    def _viewer(self, call: Call) -> views.Viewer:
        return make_viewer(self._services, call)

    def _page(
        self,
        call: Call,
        kind: type[View],
        render: Callable[[View, views.Viewer], Any],
    ) -> Json:
        api = self._services.conf.api
        limit = pagination.parse_limit(
            call.query, default=api.default_page_size, maximum=api.max_page_size
        )
        marker = pagination.parse_marker(call.query)
        filters, order = listing.filters(call.query), listing.order(call.query)
        if filters or order:
            rows, next_marker = self._instances.list_chosen(
                call.caller, kind, filters, order=order, limit=limit, marker=marker
            )
        else:
            rows, next_marker = self._instances.list_page(
                call.caller, kind, limit=limit, marker=marker
            )
        if order and next_marker:
            next_marker = pagination.wrap_marker(next_marker)
        viewer = self._viewer(call)
        items = [render(row, viewer) for row in rows]
        return pagination.page(
            "instances", items, urls=call.urls, query=call.query, next_marker=next_marker
        )


class Instances(_Base):
    """All instances of the project."""

    @method.expose("instance:index", response=schemas.LIST, query=queries.INSTANCES)
    def get(self, call: Call) -> Json:
        """List instances."""
        return self._page(call, PackedSummary, views.summary)

    @method.expose(
        "instance:create",
        body=schemas.CREATE,
        response=schemas.SHOW,
        notice=notices.INSTANCE_CREATE,
    )
    def post(self, call: Call) -> Json:
        """Create an instance."""
        body = call.body["instance"]
        if body.get("replica_of"):
            row = self._instances.create_replica(call.caller, parsing.replica(body))
        else:
            new = parsing.new_instance(body)
            parsing.authorize_parts(call.caller, new)
            row = self._instances.create(call.caller, new)
        return {"instance": views.detail(row, self._viewer(call))}


class InstancesDetail(_Base):
    """All instances of the project, in detail."""

    @method.expose("instance:detail", response=schemas.LIST_DETAIL, query=queries.INSTANCES)
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
        viewer = self._viewer(call)
        view = views.show(row, viewer)
        window = self._instances.find_window(row.id) if row.has_archive else None
        view |= views.restorable(window, viewer)
        progress = self._services.operations.find_progress(row.id) if row.has_operation else None
        if progress is not None:
            view["progress"] = operation_views.progress(progress)
        return {"instance": view}

    @method.expose(
        "instance:update", status=202, body=schemas.UPDATE, notice=notices.instance_update
    )
    def put(self, call: Call, instance_id: str) -> Json:
        """Change an instance."""
        instance_updates.apply(self._services, call.caller, instance_id, call.body["instance"])
        return None

    @method.expose("instance:edit", status=202, body=schemas.EDIT, notice=notices.instance_update)
    def patch(self, call: Call, instance_id: str) -> Json:
        """Change an instance, as older clients do."""
        instance_updates.apply(self._services, call.caller, instance_id, call.body["instance"])
        return None

    @method.expose(
        "instance:delete",
        status=202,
        notice=notices.INSTANCE_DELETE,
        query={"final_backup": queries.flag("Make a last backup before, and only then delete it.")},
    )
    def delete(self, call: Call, instance_id: str) -> Json:
        """Delete an instance, after a last backup of it if one is wanted."""
        if query.parse_bool(call.query, "final_backup"):
            call.caller.authorize("backup:create")
            self._services.final_backups.delete_after_backup(call.caller, instance_id)
        else:
            self._instances.delete(call.caller, instance_id)
        return None
