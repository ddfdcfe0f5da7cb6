"""Handlers of datastore versions as operators keep them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trove.api import method
from trove.api.controllers.services import Services
from trove.api.method import Call, Json
from trove.api.routing import Resource
from trove.api.schemas import versions as schemas
from trove.api.views import versions as views
from trove.db.datastores import NewVersion

#: Keys of requests that have another name in the table.
_COLUMNS: Mapping[str, str] = {"datastore_manager": "manager", "image": "image_id"}


def children(services: Services) -> dict[str, Resource]:
    """Return the nodes below ``mgmt``."""
    return {"datastore-versions": Versions(services, item=Version(services))}


class _Base(Resource):
    def __init__(self, services: Services, **nodes: Any) -> None:
        super().__init__(**nodes)
        self._versions = services.versions


class Versions(_Base):
    """The versions of all datastores."""

    @method.expose("mgmt:datastore-version:index", response=schemas.LIST)
    def get(self, call: Call) -> Json:
        """List versions."""
        rows = self._versions.list_versions()
        return {"versions": [views.version(row, is_default=default) for row, default in rows]}

    @method.expose("mgmt:datastore-version:create", status=202, body=schemas.CREATE)
    def post(self, call: Call) -> Json:
        """Register a version."""
        body = call.body["version"]
        image_id = body.get("image")
        new = NewVersion(
            datastore_name=body["datastore_name"],
            name=body["name"],
            version=body.get("version", body["name"]),
            manager=body["datastore_manager"],
            image_id=None if image_id is None else image_id.lower(),
            image_tags=tuple(body.get("image_tags", ())),
            packages=tuple(body.get("packages", ())),
            registry_ext=body.get("registry_ext"),
            repl_strategy=body.get("repl_strategy"),
            active=body["active"],
        )
        self._versions.create(new, make_default=body.get("default", False))
        return None


class Version(_Base):
    """One version."""

    parameter = "version_id"

    @method.expose("mgmt:datastore-version:show", response=schemas.SHOW)
    def get(self, call: Call, version_id: str) -> Json:
        """Show a version."""
        row, is_default = self._versions.get(version_id)
        return {"version": views.version(row, is_default=is_default)}

    @method.expose("mgmt:datastore-version:update", status=202, body=schemas.UPDATE)
    def patch(self, call: Call, version_id: str) -> Json:
        """Change a version; the body has no wrapper."""
        values = {_COLUMNS.get(key, key): value for key, value in call.body.items()}
        is_default = values.pop("default", None)
        if "image_id" in values:
            values["image_id"] = values["image_id"].lower()
        self._versions.change(version_id, values, is_default=is_default)
        return None

    @method.expose("mgmt:datastore-version:delete", status=202)
    def delete(self, call: Call, version_id: str) -> Json:
        """Remove a version that nothing uses."""
        self._versions.delete(version_id)
        return None
