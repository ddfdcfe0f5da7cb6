"""Handlers of logs."""

from __future__ import annotations

from trove.api import method
from trove.api.controllers.services import Services
from trove.api.method import Call, Json
from trove.api.routing import Resource
from trove.api.schemas import logs as schemas
from trove.api.views import logs as views
from trove.services.logs import LogChange


def instance_children(services: Services) -> dict[str, Resource]:
    """Return the nodes below an instance."""
    return {"log": Logs(services)}


class Logs(Resource):
    """The logs of an instance."""

    def __init__(self, services: Services) -> None:
        """Take the services."""
        super().__init__()
        self._logs = services.logs

    @method.expose("instance:guest_log_list", response=schemas.LIST)
    def get(self, call: Call, instance_id: str) -> Json:
        """List logs."""
        logs = self._logs.list_logs(call.caller, instance_id)
        return {"logs": [views.show(each) for each in logs]}

    @method.expose(None, body=schemas.CHANGE, response=schemas.SHOW)
    def post(self, call: Call, instance_id: str) -> Json:
        """Show a log, or enable, disable, publish or discard it."""
        change = LogChange(
            enable=bool(call.body.get("enable")),
            disable=bool(call.body.get("disable")),
            publish=bool(call.body.get("publish")),
            discard=bool(call.body.get("discard")),
        )
        # to show one is to read, whatever the method: who may list may also tail
        rule = "instance:guest_log_list" if change.is_show else "instance:guest_log_set"
        call.caller.authorize(rule)
        log = self._logs.change(call.caller, instance_id, call.body["name"], change)
        return {"log": views.show(log)}
