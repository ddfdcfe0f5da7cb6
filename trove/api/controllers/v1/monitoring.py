"""Handlers of figures and of statistics of statements."""

from __future__ import annotations

from trove.api import method, pagination
from trove.api.controllers.services import Services
from trove.api.method import Call, Json
from trove.api.routing import Resource
from trove.api.schemas import monitoring as schemas
from trove.api.views import monitoring as views

_DEFAULT = 20


def instance_children(services: Services) -> dict[str, Resource]:
    """Return the nodes below an instance."""
    return {"metrics": Metrics(services), "queries": Queries(services)}


class Metrics(Resource):
    """What the database of an instance counts."""

    def __init__(self, services: Services) -> None:
        """Take the services."""
        super().__init__()
        self._monitoring = services.monitoring

    @method.expose("instance:metrics:show", response=schemas.FIGURES)
    def get(self, call: Call, instance_id: str) -> Json:
        """Show the figures of the last report."""
        return {"metrics": views.figures(self._monitoring.get_figures(call.caller, instance_id))}


class Queries(Resource):
    """The statements that cost the database of an instance most."""

    def __init__(self, services: Services) -> None:
        """Take the services."""
        super().__init__()
        self._monitoring = services.monitoring

    @method.expose("instance:queries:index", response=schemas.QUERIES, query=schemas.WANTED)
    def get(self, call: Call, instance_id: str) -> Json:
        """List statements, their literals taken out."""
        answer = self._monitoring.list_top_queries(
            call.caller,
            instance_id,
            limit=pagination.parse_limit(call.query, default=_DEFAULT, maximum=schemas.MOST),
            order_by=call.query.get("order_by") or schemas.ORDERS[0],
        )
        return {
            "queries": [views.query(each) for each in answer.queries],
            "since": views.since(answer.since),
        }
