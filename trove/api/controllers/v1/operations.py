"""Handlers of operations and of the events feed."""

from __future__ import annotations

import datetime
from typing import Any

from trove.api import method, pagination
from trove.api.controllers.services import Services
from trove.api.method import Call, Json
from trove.api.routing import Resource
from trove.api.schemas import operations as schemas
from trove.api.schemas import queries
from trove.api.views import operations as views
from trove.common import exception
from trove.db.events import Page
from trove.services.events import Wanted

_WANTED: queries.Parameters = {
    **queries.PAGE,
    "type": queries.text("Only those whose type begins with this."),
    "resource_id": queries.text("Only those of this resource."),
    "instance_id": queries.text("The same, as clients of instances write it."),
    "since": queries.text("Only those from this time on."),
}


def children(services: Services) -> dict[str, Resource]:
    """Return the nodes below a project."""
    return {"events": Events(services)}


def instance_children(services: Services) -> dict[str, Resource]:
    """Return the nodes below an instance."""
    return {
        "operations": Operations(services, item=Operation(services)),
        "events": InstanceEvents(services),
    }


class _Base(Resource):
    def __init__(self, services: Services, **nodes: Any) -> None:
        super().__init__(**nodes)
        self._services = services

    def _limit(self, call: Call) -> int:
        api = self._services.conf.api
        return pagination.parse_limit(
            call.query, default=api.default_page_size, maximum=api.max_page_size
        )


class Operations(_Base):
    """What was done to an instance."""

    @method.expose("operation:index", response=schemas.LIST, query=queries.PAGE)
    def get(self, call: Call, instance_id: str) -> Json:
        """List operations, newest first."""
        rows, next_marker = self._services.operations.list_page(
            call.caller,
            instance_id,
            limit=self._limit(call),
            marker=pagination.parse_marker(call.query),
        )
        is_admin = bool(call.caller.is_admin)
        return pagination.page(
            "operations",
            [views.operation(row, is_admin=is_admin) for row in rows],
            urls=call.urls,
            query=call.query,
            next_marker=next_marker,
        )


class Operation(_Base):
    """One operation."""

    parameter = "operation_id"

    @method.expose("operation:show", response=schemas.SHOW)
    def get(self, call: Call, instance_id: str, operation_id: str) -> Json:
        """Show an operation with its journal."""
        found = self._services.operations.get(call.caller, instance_id, operation_id)
        return {"operation": views.operation_detail(found, is_admin=bool(call.caller.is_admin))}


class _Feed(_Base):
    def _wanted(self, call: Call) -> Wanted:
        query = call.query
        return Wanted(
            limit=self._limit(call),
            cursor=pagination.parse_marker(query),
            resource_id=query.get("resource_id") or query.get("instance_id") or None,
            type_prefix=query.get("type") or None,
            since=_parse_time(query.get("since")),
        )

    def _render(self, call: Call, page: Page, *, limit: int) -> Json:
        is_admin = bool(call.caller.is_admin)
        cursor = views.cursor(page)
        body = pagination.page(
            "events",
            [views.event(row, is_admin=is_admin) for row in page.events],
            urls=call.urls,
            query=call.query,
            next_marker=cursor if page.has_more and limit > 0 else None,
        )
        body["cursor"] = cursor
        if page.has_gap:
            body["gap"] = True
        return body


class Events(_Feed):
    """What happened in the project."""

    @method.expose("event:index", response=schemas.EVENTS, query=_WANTED)
    def get(self, call: Call) -> Json:
        """List events, oldest first."""
        wanted = self._wanted(call)
        return self._render(
            call, self._services.events.list_page(call.caller, wanted), limit=wanted.limit
        )


class InstanceEvents(_Feed):
    """What happened to an instance."""

    @method.expose("event:instance", response=schemas.EVENTS, query=_WANTED)
    def get(self, call: Call, instance_id: str) -> Json:
        """List events, oldest first."""
        wanted = self._wanted(call)
        page = self._services.events.list_of_instance(call.caller, instance_id, wanted)
        return self._render(call, page, limit=wanted.limit)


def _parse_time(text: str | None) -> datetime.datetime | None:
    """Return a time as this API writes it, or with a zone; raises BadRequest."""
    if not text:
        return None
    try:
        moment = datetime.datetime.fromisoformat(text)
        # without a zone it is UTC; one at the edge of the calendar may have no UTC
        return (
            moment.replace(tzinfo=datetime.UTC)
            if moment.tzinfo is None
            else moment.astimezone(datetime.UTC)
        )
    except (ValueError, OverflowError):
        raise exception.BadRequest(reason="since must be a time like 2026-01-31T12:00:00") from None
