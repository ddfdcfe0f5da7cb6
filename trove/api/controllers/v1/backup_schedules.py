"""Handlers of schedules of backups."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trove.api import method, pagination
from trove.api.controllers.services import Services
from trove.api.method import Call, Json
from trove.api.routing import Resource
from trove.api.schemas import backup_schedules as schemas
from trove.api.schemas import queries
from trove.api.views import backup_schedules as views
from trove.services.backup_schedules import NewSchedule


def children(services: Services) -> dict[str, Resource]:
    """Return the nodes below a project."""
    return {"backup_schedules": Schedules(services, item=Schedule(services))}


class _Base(Resource):
    def __init__(self, services: Services, **nodes: Any) -> None:
        super().__init__(**nodes)
        self._services = services
        self._schedules = services.backup_schedules


class Schedules(_Base):
    """The schedules of the project."""

    @method.expose(
        "backup_schedule:index",
        response=schemas.LIST,
        query={
            **queries.PAGE,
            "instance_id": queries.text("Only those of this instance."),
            "project_id": queries.PROJECT,
        },
    )
    def get(self, call: Call) -> Json:
        """List schedules of backups."""
        project_id = call.query.get("project_id") or str(call.caller.project_id)
        call.caller.authorize("backup_schedule:index", {"project_id": project_id})
        api = self._services.conf.api
        rows, next_marker = self._schedules.list_page(
            project_id,
            instance_id=(call.query.get("instance_id") or "").lower() or None,
            limit=pagination.parse_limit(
                call.query, default=api.default_page_size, maximum=api.max_page_size
            ),
            marker=pagination.parse_marker(call.query),
        )
        return pagination.page(
            "backup_schedules",
            [views.schedule(row) for row in rows],
            urls=call.urls,
            query=call.query,
            next_marker=next_marker,
        )

    @method.expose("backup_schedule:create", body=schemas.CREATE, response=schemas.SHOW)
    def post(self, call: Call) -> Json:
        """Make a schedule of backups, of an instance or of all that have none."""
        body = call.body["backup_schedule"]
        instance_id = body.get("instance_id")
        new = NewSchedule(
            **_fields(body), instance_id=None if instance_id is None else instance_id.lower()
        )
        return {"backup_schedule": views.schedule(self._schedules.create(call.caller, new))}


class Schedule(_Base):
    """One schedule."""

    parameter = "schedule_id"

    @method.expose("backup_schedule:show", response=schemas.SHOW)
    def get(self, call: Call, schedule_id: str) -> Json:
        """Show a schedule of backups."""
        return {"backup_schedule": views.schedule(self._schedules.get(call.caller, schedule_id))}

    @method.expose("backup_schedule:update", body=schemas.UPDATE, response=schemas.SHOW)
    def patch(self, call: Call, schedule_id: str) -> Json:
        """Change a schedule of backups."""
        changed = self._schedules.update(
            call.caller, schedule_id, _fields(call.body["backup_schedule"])
        )
        return {"backup_schedule": views.schedule(changed)}

    @method.expose("backup_schedule:delete", status=204)
    def delete(self, call: Call, schedule_id: str) -> Json:
        """Delete a schedule of backups; what it made stays."""
        self._schedules.delete(call.caller, schedule_id)
        return None


def _fields(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a body says by the names of :class:`NewSchedule`, but the instance."""
    fields = {name: value for name, value in body.items() if name != "instance_id"}
    if "enabled" in fields:
        fields["is_enabled"] = fields.pop("enabled")
    if "cron" in fields:
        fields["cron"] = " ".join(fields["cron"].split())
    return fields
