"""Handlers of clusters: clients ask for them, whether or not a datastore has any."""

from __future__ import annotations

from typing import Any

from trove.api import method, pagination
from trove.api.controllers.services import Services
from trove.api.controllers.v1 import parsing
from trove.api.method import Call, Json
from trove.api.routing import Resource
from trove.api.schemas import clusters as schemas
from trove.api.schemas import queries
from trove.services.clusters import NewMember


def children(services: Services) -> dict[str, Resource]:
    """Return the nodes below a project."""
    member = Resource(item=ClusterMember(services))
    cluster = Cluster(services, children={"instances": member, "root": ClusterRoot(services)})
    return {"clusters": Clusters(services, item=cluster)}


class _Base(Resource):
    def __init__(self, services: Services, **nodes: Any) -> None:
        super().__init__(**nodes)
        self._services = services
        self._clusters = services.clusters


class Clusters(_Base):
    """The clusters of the project."""

    @method.expose("cluster:index", response=schemas.LIST, query=queries.PAGE)
    def get(self, call: Call) -> Json:
        """List clusters."""
        api = self._services.conf.api
        pagination.parse_limit(call.query, default=api.default_page_size, maximum=api.max_page_size)
        pagination.parse_marker(call.query)
        return pagination.page(
            "clusters",
            self._clusters.list_page(),
            urls=call.urls,
            query=call.query,
            next_marker=None,
        )

    @method.expose("cluster:create", body=schemas.CREATE, response=schemas.SHOW)
    def post(self, call: Call) -> Json:
        """Make a cluster."""
        body = call.body["cluster"]
        members = [
            NewMember(
                flavor_id=parsing.flavor_id(member),
                volume_size_gib=int(member["volume"]["size"]) if "volume" in member else None,
            )
            for member in body["instances"]
        ]
        choice = parsing.version_choice(body["datastore"])
        return {"cluster": self._clusters.create(choice, members)}


class Cluster(_Base):
    """One cluster."""

    parameter = "cluster_id"

    @method.expose("cluster:show", response=schemas.SHOW)
    def get(self, call: Call, cluster_id: str) -> Json:
        """Show a cluster."""
        return {"cluster": self._clusters.get(cluster_id)}

    @method.expose(None, status=202, body=schemas.ACTION, response=schemas.SHOW)
    def post(self, call: Call, cluster_id: str) -> Json:
        """Carry out the one action that the body names."""
        ((action, arguments),) = call.body.items()
        rule = "cluster:action"
        if action == "reset-status":
            is_forced = "force_delete" in (arguments or {})
            rule = "cluster:force_delete" if is_forced else "cluster:reset-status"
        call.caller.authorize(rule)
        return {"cluster": self._clusters.get(cluster_id)}

    @method.expose("cluster:delete", status=202)
    def delete(self, call: Call, cluster_id: str) -> Json:
        """Delete a cluster."""
        self._clusters.get(cluster_id)
        return None


class ClusterMember(_Base):
    """One member of a cluster."""

    parameter = "member_id"

    @method.expose("cluster:show_instance", response=schemas.MEMBER)
    def get(self, call: Call, cluster_id: str, member_id: str) -> Json:
        """Show a member."""
        return {"instance": self._clusters.get(cluster_id)}


class ClusterRoot(_Base):
    """The superuser of a cluster."""

    @method.expose("cluster:extension:root:index", response=schemas.ROOT)
    def get(self, call: Call, cluster_id: str) -> Json:
        """Tell whether it is enabled."""
        return {"rootEnabled": self._clusters.get(cluster_id)}

    @method.expose(
        "cluster:extension:root:create",
        body=schemas.ENABLE_ROOT,
        body_required=False,
        response=schemas.ROOT_USER,
    )
    def post(self, call: Call, cluster_id: str) -> Json:
        """Enable it."""
        return {"user": self._clusters.get(cluster_id)}
