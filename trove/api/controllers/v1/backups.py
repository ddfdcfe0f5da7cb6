"""Handlers of backups and backup strategies."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from trove.api import method, notices, pagination, query
from trove.api.controllers.services import Services
from trove.api.controllers.v1 import backup_actions
from trove.api.method import Call, Json
from trove.api.routing import Resource
from trove.api.schemas import backups as schemas
from trove.api.schemas import queries
from trove.api.views import backups as views
from trove.common import exception
from trove.db.backups import BackupView
from trove.services.backups import NewBackup, StoredBackup

_TARGET: queries.Parameters = {
    "project_id": queries.PROJECT,
    "instance_id": queries.text("The instance that the strategy is for."),
}
#: Of the number of a backup in a list.
_MOST_DIGITS = 9
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")


def children(services: Services) -> dict[str, Resource]:
    """Return the nodes below a project."""
    return {
        "backups": Backups(
            services, item=Backup(services, children={"action": backup_actions.Action(services)})
        ),
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

    def _place(self, call: Call) -> tuple[int, int]:
        """Return how many backups are asked for, and behind how many: markers are numbers."""
        api = self._services.conf.api
        limit = pagination.parse_limit(
            call.query, default=api.default_page_size, maximum=api.max_page_size
        )
        marker = pagination.parse_marker(call.query) or "0"
        if not (marker.isascii() and marker.isdigit()) or len(marker) > _MOST_DIGITS:
            raise exception.BadRequest(reason="marker must be an integer of at least 0")
        return limit, int(marker)

    def _page(self, call: Call, found: tuple[Sequence[BackupView], bool], offset: int) -> Json:
        rows, more = found
        next_marker = str(offset + len(rows)) if rows and more else None
        return pagination.page(
            "backups",
            [views.backup(row) for row in rows],
            urls=call.urls,
            query=call.query,
            next_marker=next_marker,
        )


class Backups(_Base):
    """The backups of the project."""

    @method.expose(
        "backup:index",
        response=schemas.LIST,
        errors=(404,),
        query={
            **queries.PAGE,
            "datastore": queries.text("Only those of this datastore, by name or id."),
            "instance_id": queries.text("Only those of this instance."),
            "all_projects": queries.flag("Those of every project, for administrators."),
            "project_id": queries.PROJECT,
        },
    )
    def get(self, call: Call) -> Json:
        """List backups, newest change first."""
        is_of_all = query.parse_bool(call.query, "all_projects")
        project_id: str | None = call.query.get("project_id") or None
        if is_of_all or project_id is not None:
            call.caller.authorize("backup:index:all_projects")
        if project_id is None and not is_of_all:
            project_id = str(call.caller.project_id)
        limit, offset = self._place(call)
        found = self._backups.list_page(
            project_id=project_id,
            datastore=call.query.get("datastore") or None,
            instance_id=(call.query.get("instance_id") or "").lower() or None,
            limit=limit,
            offset=offset,
        )
        return self._page(call, found, offset)

    @method.expose(
        "backup:create",
        status=202,
        body=schemas.CREATE,
        response=schemas.SHOW,
        notice=notices.backup_create,
    )
    def post(self, call: Call) -> Json:
        """Make a backup, or register one that is stored already."""
        body = call.body["backup"]
        restore_from = body.get("restore_from")
        if restore_from is not None:
            row = self._backups.register(
                call.caller,
                StoredBackup(
                    name=body["name"],
                    description=body.get("description"),
                    location=restore_from["remote_location"],
                    version_id=restore_from["local_datastore_version_id"].lower(),
                ),
            )
            return {"backup": views.backup(row)}
        instance_id, parent_id = body.get("instance"), body.get("parent_id")
        if instance_id is None:
            raise exception.BadRequest(reason="instance is missing.")
        row = self._backups.create(
            call.caller,
            NewBackup(
                name=body["name"],
                instance_id=instance_id.lower(),
                description=body.get("description"),
                parent_id=None if parent_id is None else parent_id.lower(),
                is_incremental=bool(body.get("incremental")),
                container=body.get("swift_container"),
                storage_driver=body.get("storage_driver"),
            ),
        )
        return {"backup": views.backup(row)}


class Backup(_Base):
    """One backup."""

    parameter = "backup_id"

    @method.expose("backup:show", response=schemas.SHOW)
    def get(self, call: Call, backup_id: str) -> Json:
        """Show a backup, with how far it is while it is being made."""
        row = self._backups.get(call.caller, backup_id)
        progress = self._backups.find_progress(row)
        return {"backup": views.backup(row, progress)}

    @method.expose(
        "backup:delete",
        status=202,
        notice=notices.BACKUP_DELETE,
        query={"force": queries.flag("Cancel it first, if it is being made.")},
    )
    def delete(self, call: Call, backup_id: str) -> Json:
        """Delete a backup and all increments of it."""
        self._backups.delete(
            call.caller, backup_id, is_forced=query.parse_bool(call.query, "force")
        )
        return None


class InstanceBackups(_Base):
    """The backups of an instance."""

    @method.expose("instance:backups", response=schemas.LIST, query=queries.PAGE)
    def get(self, call: Call, instance_id: str) -> Json:
        """List backups of an instance, newest change first."""
        limit, offset = self._place(call)
        found = self._backups.list_of_instance(call.caller, instance_id, limit=limit, offset=offset)
        return self._page(call, found, offset)


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
