"""Handlers of backups and backup strategies."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from trove.api import method, pagination, query
from trove.api.controllers.services import Services
from trove.api.method import Call, Json
from trove.api.routing import Resource
from trove.api.schemas import backups as schemas
from trove.api.schemas import queries
from trove.api.views import backups as views
from trove.common import exception
from trove.services.backups import NewBackup

_TARGET: queries.Parameters = {
    "project_id": queries.PROJECT,
    "instance_id": queries.text("The instance that the strategy is for."),
}
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")


def children(services: Services) -> dict[str, Resource]:
    """Return the nodes below a project."""
    return {
        "backups": Backups(services, item=Backup(services)),
        "backup_strategies": Strategies(services),
    }


def instance_children(services: Services) -> dict[str, Resource]:
    """Return the nodes below an instance."""
    return {"backups": InstanceBackups(services)}


class _Base(Resource):
    def __init__(self, services: Services, **nodes: Any) -> None:
        super().__init__(**nodes)
        self._services = services
        self._backups = services.backups

    def _check_page(self, call: Call) -> None:
        """Raise BadRequest unless the query asks for a page; markers are numbers of backups."""
        api = self._services.conf.api
        pagination.parse_limit(call.query, default=api.default_page_size, maximum=api.max_page_size)
        marker = pagination.parse_marker(call.query)
        if marker is not None and not (marker.isascii() and marker.isdigit()):
            raise exception.BadRequest(reason="marker must be an integer of at least 0")

    def _page(self, call: Call, backups: Sequence[Any]) -> Json:
        return pagination.page(
            "backups", backups, urls=call.urls, query=call.query, next_marker=None
        )


class Backups(_Base):
    """The backups of the project."""

    @method.expose(
        "backup:index",
        response=schemas.LIST,
        errors=(404,),
        query={
            **queries.PAGE,
            "datastore": queries.text("Only those of this datastore."),
            "all_projects": queries.flag("Those of every project, for administrators."),
            "project_id": queries.PROJECT,
        },
    )
    def get(self, call: Call) -> Json:
        """List backups."""
        if query.parse_bool(call.query, "all_projects") or call.query.get("project_id"):
            call.caller.authorize("backup:index:all_projects")
        self._check_page(call)
        return self._page(
            call, self._backups.list_page(datastore=call.query.get("datastore") or None)
        )

    @method.expose("backup:create", status=202, body=schemas.CREATE, response=schemas.SHOW)
    def post(self, call: Call) -> Json:
        """Make a backup."""
        body = call.body["backup"]
        restore_from = body.get("restore_from")
        instance_id = body.get("instance")
        if instance_id is None and restore_from is None:
            raise exception.BadRequest(reason="instance is missing.")
        new = NewBackup(
            name=body["name"],
            instance_id=None if instance_id is None else instance_id.lower(),
            parent_id=body.get("parent_id"),
            restored_version_id=(
                None if restore_from is None else restore_from["local_datastore_version_id"].lower()
            ),
        )
        return {"backup": self._backups.create(call.caller, new)}


class Backup(_Base):
    """One backup."""

    parameter = "backup_id"

    @method.expose("backup:show", response=schemas.SHOW)
    def get(self, call: Call, backup_id: str) -> Json:
        """Show a backup."""
        return {"backup": self._backups.get(backup_id)}

    @method.expose("backup:delete", status=202)
    def delete(self, call: Call, backup_id: str) -> Json:
        """Delete a backup."""
        self._backups.get(backup_id)
        return None


class InstanceBackups(_Base):
    """The backups of an instance."""

    @method.expose("instance:backups", response=schemas.LIST, query=queries.PAGE)
    def get(self, call: Call, instance_id: str) -> Json:
        """List backups of an instance."""
        self._check_page(call)
        return self._page(call, self._backups.list_of_instance(call.caller, instance_id))


class Strategies(_Base):
    """Where the backups of the project are stored."""

    @method.expose("backup_strategy:index", response=schemas.STRATEGIES, query=_TARGET)
    def get(self, call: Call) -> Json:
        """List strategies."""
        project_id, instance_id = self._target(call, "backup_strategy:index")
        found = self._backups.list_strategies(project_id, instance_id)
        return {"backup_strategies": [views.strategy(strategy) for strategy in found]}

    @method.expose(
        "backup_strategy:create",
        status=202,
        body=schemas.SET_STRATEGY,
        response=schemas.STRATEGY,
    )
    def post(self, call: Call) -> Json:
        """Set a strategy."""
        body = call.body["backup_strategy"]
        instance_id = body.get("instance_id")
        strategy = self._backups.set_strategy(
            call.caller,
            None if instance_id is None else instance_id.lower(),
            body["swift_container"],
        )
        return {"backup_strategy": views.strategy(strategy)}

    @method.expose("backup_strategy:delete", status=202, query=_TARGET)
    def delete(self, call: Call) -> Json:
        """Remove a strategy."""
        self._backups.remove_strategy(*self._target(call, "backup_strategy:delete"))
        return None

    def _target(self, call: Call, rule: str) -> tuple[str, str | None]:
        """Return which project and instance the query means; raises PolicyForbidden.

        The dashboard writes both ids together into ``project_id``.
        """
        own = str(call.caller.project_id)
        project_id = call.query.get("project_id") or own
        instance_id = (call.query.get("instance_id") or "").lower() or None
        behind = project_id.removeprefix(own).lower()
        if instance_id is None and project_id.startswith(own) and _UUID.match(behind):
            project_id, instance_id = own, behind
        call.caller.authorize(rule, {"project_id": project_id})
        return project_id, instance_id
