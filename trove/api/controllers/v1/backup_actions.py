"""Handlers of actions on backups: one a request, named by the one key of its body."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trove.api import method
from trove.api.controllers.services import Services
from trove.api.controllers.v1 import parsing
from trove.api.controllers.v1.instances import make_viewer
from trove.api.method import Call, Json
from trove.api.routing import Resource
from trove.api.schemas import backup_actions as schemas
from trove.api.views import backups as backup_views
from trove.api.views import instances as instance_views
from trove.services.final_backups import Former


class Action(Resource):
    """What can be done with a backup."""

    def __init__(self, services: Services) -> None:
        """Take the use cases."""
        super().__init__()
        self._services = services

    @method.expose(None, status=202, body=schemas.ACTION, response=schemas.ANSWER)
    def post(self, call: Call, backup_id: str) -> Json:
        """Carry out the one action that the body names."""
        ((action, arguments),) = call.body.items()
        call.caller.authorize(f"backup:{action}")
        if action == "verify":
            return self._verify(call, backup_id)
        return self._undelete(call, backup_id, arguments)

    def _verify(self, call: Call, backup_id: str) -> Json:
        """Begin to prove a backup."""
        self._services.proofs.verify(call.caller, backup_id)
        row = self._services.backups.get(call.caller, backup_id)
        return {"backup": backup_views.backup(row)}

    def _undelete(self, call: Call, backup_id: str, wanted: Mapping[str, Any]) -> Json:
        """Create an instance like the deleted one, of its backup."""
        former = self._services.final_backups.get_former(call.caller, backup_id)
        call.caller.authorize("instance:create")
        new = parsing.new_instance({**_body(former, backup_id), **wanted})
        parsing.authorize_parts(call.caller, new)
        row = self._services.instances.create(call.caller, new)
        return {"instance": instance_views.detail(row, make_viewer(self._services, call))}


def _body(former: Former, backup_id: str) -> dict[str, Any]:
    """Return the body of the request that creates an instance like a former one."""
    body: dict[str, Any] = {
        "name": former.name,
        "flavorRef": former.flavor_id,
        "datastore": {"version": former.version_id},
        "availability_zone": former.availability_zone,
        "access": former.access,
        "locality": former.locality,
        "configuration": former.configuration_id,
        "restorePoint": {"backupRef": backup_id},
    }
    if former.volume_size_gib is not None:
        body["volume"] = {"size": former.volume_size_gib, "type": former.volume_type}
    return body
