"""Handlers of configuration groups and parameters."""

from __future__ import annotations

from typing import Any

from trove.api import method, notices, pagination
from trove.api.controllers.services import Services
from trove.api.method import Call, Json
from trove.api.routing import Resource
from trove.api.schemas import configurations as schemas
from trove.api.schemas import queries
from trove.api.views import configurations as views
from trove.services.configurations import GroupChange, NewGroup
from trove.services.datastores import VersionChoice


def children(services: Services) -> dict[str, Resource]:
    """Return the nodes below a project."""
    one = Configuration(services, children={"instances": ConfigurationInstances(services)})
    return {"configurations": Configurations(services, item=one)}


def instance_children(services: Services) -> dict[str, Resource]:
    """Return the nodes below an instance."""
    return {"configuration": DefaultConfiguration(services)}


def version_children(services: Services) -> dict[str, Resource]:
    """Return the nodes below a version of a datastore."""
    return {"parameters": Parameters(services, item=Parameter(services))}


def version_by_id_children(services: Services) -> dict[str, Resource]:
    """Return the nodes below a version that is given by its id alone."""
    return {"parameters": ParametersById(services, item=ParameterById(services))}


class _Base(Resource):
    def __init__(self, services: Services, **nodes: Any) -> None:
        super().__init__(**nodes)
        self._services = services
        self._configurations = services.configurations

    def _limit(self, call: Call) -> int:
        api = self._services.conf.api
        return pagination.parse_limit(
            call.query, default=api.default_page_size, maximum=api.max_page_size
        )


class Configurations(_Base):
    """All configuration groups of the project."""

    @method.expose("configuration:index", response=schemas.LIST, query=queries.PAGE)
    def get(self, call: Call) -> Json:
        """List configuration groups."""
        groups, next_marker = self._configurations.list_page(
            call.caller, limit=self._limit(call), marker=pagination.parse_marker(call.query)
        )
        return pagination.page(
            "configurations",
            [views.item(group) for group in groups],
            urls=call.urls,
            query=call.query,
            next_marker=next_marker,
        )

    @method.expose(
        "configuration:create",
        body=schemas.CREATE,
        response=schemas.SHOW,
        notice=notices.CONFIGURATION_CREATE,
    )
    def post(self, call: Call) -> Json:
        """Make a configuration group."""
        body = call.body["configuration"]
        datastore = body.get("datastore") or {}
        new = NewGroup(
            name=body["name"],
            description=body.get("description"),
            values=body["values"],
            version=VersionChoice(
                datastore=datastore.get("type") or None,
                version=datastore.get("version") or None,
                number=datastore.get("version_number") or None,
            ),
        )
        return {"configuration": views.detail(self._configurations.create(call.caller, new))}


class Configuration(_Base):
    """One configuration group."""

    parameter = "configuration_id"

    @method.expose("configuration:show", response=schemas.SHOW)
    def get(self, call: Call, configuration_id: str) -> Json:
        """Show a configuration group."""
        found = self._configurations.get(call.caller, configuration_id)
        return {"configuration": views.detail(found)}

    @method.expose(
        "configuration:update",
        status=202,
        body=schemas.REPLACE,
        notice=notices.CONFIGURATION_UPDATE,
    )
    def put(self, call: Call, configuration_id: str) -> Json:
        """Replace attributes of a configuration group, its values as a whole."""
        body = call.body["configuration"]
        change = GroupChange(
            name=body.get("name"),
            description=body.get("description"),
            values=body.get("values"),
        )
        self._configurations.replace(call.caller, configuration_id, change)
        return None

    @method.expose("configuration:edit", body=schemas.MERGE, notice=notices.CONFIGURATION_EDIT)
    def patch(self, call: Call, configuration_id: str) -> Json:
        """Set some values of a configuration group."""
        values = call.body["configuration"].get("values")
        self._configurations.merge(call.caller, configuration_id, values)
        return None

    @method.expose("configuration:delete", status=202, notice=notices.CONFIGURATION_DELETE)
    def delete(self, call: Call, configuration_id: str) -> Json:
        """Delete a configuration group."""
        self._configurations.delete(call.caller, configuration_id)
        return None


class ConfigurationInstances(_Base):
    """The instances that a configuration group is attached to."""

    @method.expose("configuration:instances", response=schemas.INSTANCES, query=queries.PAGE)
    def get(self, call: Call, configuration_id: str) -> Json:
        """List instances."""
        found, next_marker = self._configurations.list_instances(
            call.caller,
            configuration_id,
            limit=self._limit(call),
            marker=pagination.parse_marker(call.query),
        )
        return pagination.page(
            "instances",
            [{"id": each.id, "name": each.name} for each in found],
            urls=call.urls,
            query=call.query,
            next_marker=next_marker,
        )


class DefaultConfiguration(_Base):
    """What an instance is configured with by default."""

    @method.expose("instance:configuration", response=schemas.DEFAULTS)
    def get(self, call: Call, instance_id: str) -> Json:
        """Show the default configuration."""
        values = self._configurations.get_defaults(call.caller, instance_id)
        return {"instance": {"configuration": dict(values)}}


class Parameters(_Base):
    """The configuration parameters of a version."""

    @method.expose("configuration-parameter:index", response=schemas.PARAMETERS)
    def get(self, call: Call, datastore: str, version: str) -> Json:
        """List parameters."""
        row = self._services.datastores.get_version(datastore, version)
        known = self._services.parameters.of_version(row).parameters.values()
        return {"configuration-parameters": [views.parameter(each, row.id) for each in known]}


class Parameter(_Base):
    """One configuration parameter of a version."""

    parameter = "name"

    @method.expose("configuration-parameter:show", response=schemas.ONE_PARAMETER)
    def get(self, call: Call, datastore: str, version: str, name: str) -> Json:
        """Show a parameter."""
        row = self._services.datastores.get_version(datastore, version)
        return views.parameter(self._services.parameters.of_version(row).get(name), row.id)


class ParametersById(_Base):
    """The configuration parameters of a version that is given by its id alone."""

    @method.expose("configuration-parameter:index_by_version", response=schemas.PARAMETERS)
    def get(self, call: Call, version: str) -> Json:
        """List parameters."""
        row = self._services.datastores.get_version_by_id(version)
        known = self._services.parameters.of_version(row).parameters.values()
        return {"configuration-parameters": [views.parameter(each, row.id) for each in known]}


class ParameterById(_Base):
    """One configuration parameter of a version that is given by its id alone."""

    parameter = "name"

    @method.expose("configuration-parameter:show_by_version", response=schemas.ONE_PARAMETER)
    def get(self, call: Call, version: str, name: str) -> Json:
        """Show a parameter."""
        row = self._services.datastores.get_version_by_id(version)
        return views.parameter(self._services.parameters.of_version(row).get(name), row.id)
