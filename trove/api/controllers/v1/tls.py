"""Handlers of TLS."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trove.api import method, query
from trove.api.controllers.services import Services
from trove.api.method import Call, Json
from trove.api.routing import Resource
from trove.api.schemas import queries
from trove.api.schemas import tls as schemas
from trove.api.views import tls as views
from trove.common import exception
from trove.services import tls

_OPERATIONS = (tls.ENABLE, tls.DISABLE, tls.ROLLBACK)


def instance_children(services: Services) -> dict[str, Resource]:
    """Return the nodes below an instance."""
    return {"ssl": Tls(services)}


class Tls(Resource):
    """TLS of an instance."""

    def __init__(self, services: Services) -> None:
        """Take the services."""
        super().__init__()
        self._tls = services.tls

    @method.expose(
        "instance:show",
        response=schemas.SHOW,
        query={"include_certificate": queries.flag("Tell the certificates as well.")},
    )
    def get(self, call: Call, instance_id: str) -> Json:
        """Show how TLS is."""
        include = query.parse_bool(call.query, "include_certificate")
        view = self._tls.show(call.caller, instance_id)
        return {"ssl": views.show(view, include_certificate=include)}

    @method.expose("instance:update", body=schemas.CHANGE, response=schemas.CHANGED)
    def post(self, call: Call, instance_id: str) -> Json:
        """Enable, disable, or go back to what was before."""
        change = parse_change(call.body["ssl"])
        return {"ssl": views.changed(self._tls.change(call.caller, instance_id, change))}


def parse_change(body: Mapping[str, Any]) -> tls.TlsChange:
    """Return what an ``ssl`` object asks for; raises ValidationFailed with all that is wrong."""
    asked = [name for name in _OPERATIONS if body.get(name)]
    wrong = []
    if len(asked) != 1:
        wrong.append(f"ssl: exactly one of {', '.join(_OPERATIONS)} must be true")
    if tls.ENABLE in asked and not body.get("container_ref"):
        wrong.append("ssl: enable needs container_ref")
    if wrong:
        raise exception.ValidationFailed(reason="; ".join(wrong))
    return tls.TlsChange(
        operation=asked[0],
        mode=body.get("mode", "basic"),
        container_ref=body.get("container_ref"),
        password_ref=body.get("password_ref"),
    )
