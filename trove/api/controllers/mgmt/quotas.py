"""Handlers of quotas."""

from __future__ import annotations

from trove.api import method, notices
from trove.api.controllers.services import Services
from trove.api.method import Call, Json
from trove.api.routing import Resource
from trove.api.schemas import quotas as schemas
from trove.api.views import quotas as views


def children(services: Services) -> dict[str, Resource]:
    """Return the nodes below ``mgmt``."""
    return {"quotas": Resource(item=ProjectQuotas(services))}


class ProjectQuotas(Resource):
    """The quotas of one project; a project nobody ever heard of has the defaults."""

    parameter = "quota_project_id"

    def __init__(self, services: Services) -> None:
        """Take the use cases."""
        super().__init__()
        self._quotas = services.quotas

    @method.expose(None, response=schemas.SHOW)
    def get(self, call: Call, project_id: str) -> Json:
        """Show the quotas of a project: its own members may see them."""
        call.caller.authorize("mgmt:quota:show", {"project_id": project_id})
        return {"quotas": [views.quota(quota) for quota in self._quotas.list_quotas(project_id)]}

    @method.expose(
        "mgmt:quota:update",
        body=schemas.UPDATE,
        response=schemas.UPDATED,
        notice=notices.QUOTA_UPDATE,
    )
    def put(self, call: Call, project_id: str) -> Json:
        """Set limits of a project; those that are null stay as they are."""
        given = call.body["quotas"]
        limits = {resource: limit for resource, limit in given.items() if limit is not None}
        self._quotas.update(project_id, limits)
        return {"quotas": limits}
