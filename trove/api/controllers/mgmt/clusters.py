"""Handlers of the clusters of all projects."""

from __future__ import annotations

from typing import Any

from trove.api import method, query
from trove.api.controllers.services import Services
from trove.api.method import Call, Json
from trove.api.routing import Resource
from trove.api.schemas import clusters as schemas
from trove.api.schemas import queries


def children(services: Services) -> dict[str, Resource]:
    """Return the nodes below ``mgmt``."""
    cluster = Cluster(services, children={"action": Action(services)})
    return {"clusters": Clusters(services, item=cluster)}


class _Base(Resource):
    def __init__(self, services: Services, **nodes: Any) -> None:
        super().__init__(**nodes)
        self._clusters = services.clusters


class Clusters(_Base):
    """The clusters of all projects."""

    @method.expose(
        "mgmt:cluster:index",
        response=schemas.LIST,
        query={"deleted": queries.flag("Those that were deleted.")},
    )
    def get(self, call: Call) -> Json:
        """List clusters."""
        query.parse_bool(call.query, "deleted")
        return {"clusters": self._clusters.list_page()}


class Cluster(_Base):
    """One cluster of any project."""

    parameter = "cluster_id"

    @method.expose("mgmt:cluster:show", response=schemas.SHOW)
    def get(self, call: Call, cluster_id: str) -> Json:
        """Show a cluster."""
        return {"cluster": self._clusters.get(cluster_id)}


class Action(_Base):
    """What operators can do to a cluster."""

    @method.expose("mgmt:cluster:action", status=202, body=schemas.MGMT_ACTION)
    def post(self, call: Call, cluster_id: str) -> Json:
        """Reset the task of a cluster."""
        self._clusters.get(cluster_id)
        return None
