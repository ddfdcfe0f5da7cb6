"""Handlers of configuration parameters as operators change them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trove.api import method
from trove.api.controllers.services import Services
from trove.api.method import Call, Json
from trove.api.routing import Resource
from trove.api.schemas import configurations as schemas
from trove.api.views import configurations as views
from trove.common import exception
from trove.datastores.parameters import Parameter as Rule
from trove.datastores.parameters import ParameterType, canonical


def children(services: Services) -> dict[str, Resource]:
    """Return the nodes for operators."""
    version = Version(children={"parameters": Parameters(services, item=Parameter(services))})
    return {"datastores": Resource(children={"versions": Resource(item=version)})}


class Version(Resource):
    """A version, by its id."""

    parameter = "version"


class _Base(Resource):
    def __init__(self, services: Services, **nodes: Any) -> None:
        super().__init__(**nodes)
        self._parameters = services.parameters
        self._version = services.datastores.get_version_by_id


class Parameters(_Base):
    """The configuration parameters of a version."""

    @method.expose("mgmt:configuration-parameter:index", response=schemas.MGMT_PARAMETERS)
    def get(self, call: Call, version: str) -> Json:
        """List parameters."""
        row = self._version(version)
        known = self._parameters.of_version(row).parameters.values()
        return {"configuration-parameters": [views.mgmt_parameter(each, row.id) for each in known]}

    @method.expose(
        "mgmt:configuration-parameter:create",
        body=schemas.PARAMETER,
        response=schemas.ONE_MGMT_PARAMETER,
    )
    def post(self, call: Call, version: str) -> Json:
        """Add a parameter."""
        row, rule = self._version(version), _rule(call.body["configuration-parameter"])
        self._parameters.create(row, rule)
        return views.mgmt_parameter(rule, row.id)


class Parameter(_Base):
    """One configuration parameter of a version."""

    parameter = "name"

    @method.expose("mgmt:configuration-parameter:show", response=schemas.ONE_MGMT_PARAMETER)
    def get(self, call: Call, version: str, name: str) -> Json:
        """Show a parameter, a deleted one too."""
        row = self._version(version)
        return views.mgmt_parameter(self._parameters.find_any(row, name), row.id)

    @method.expose(
        "mgmt:configuration-parameter:update",
        body=schemas.PARAMETER,
        response=schemas.ONE_MGMT_PARAMETER,
    )
    def put(self, call: Call, version: str, name: str) -> Json:
        """Change a parameter."""
        row, rule = self._version(version), _rule(call.body["configuration-parameter"])
        if rule.name != canonical(name):
            raise exception.BadRequest(reason="a configuration parameter cannot be renamed")
        self._parameters.replace(row, rule)
        return views.mgmt_parameter(rule, row.id)

    @method.expose("mgmt:configuration-parameter:delete", status=204)
    def delete(self, call: Call, version: str, name: str) -> Json:
        """Take a parameter from the version."""
        self._parameters.delete(self._version(version), name)
        return None


def _rule(body: Mapping[str, Any]) -> Rule:
    kind = ParameterType(body["data_type"])
    return Rule(
        name=canonical(body["name"]),
        type=kind,
        restart_required=bool(body["restart_required"]),
        minimum=_number(body, "min_size", kind),
        maximum=_number(body, "max_size", kind),
    )


def _number(body: Mapping[str, Any], key: str, kind: ParameterType) -> int | float | None:
    """Return a limit, as a number of the parameter's type; raises BadRequest."""
    value = body.get(key)
    if value is None:
        return None
    try:
        if kind is ParameterType.FLOAT:
            return float(value)
        # a string says 1.5 no more than an integer may
        return int(str(value))
    except ValueError:
        raise exception.BadRequest(reason=f"{key} must be of type {kind.value}") from None
