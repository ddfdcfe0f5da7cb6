"""The tree of all resources, and the version documents at its top."""

from __future__ import annotations

from trove.api import method, openapi
from trove.api.controllers.mgmt import clusters as mgmt_clusters
from trove.api.controllers.mgmt import instances as mgmt_instances
from trove.api.controllers.mgmt import parameters as mgmt_parameters
from trove.api.controllers.mgmt import quotas as mgmt_quotas
from trove.api.controllers.mgmt import versions as mgmt_versions
from trove.api.controllers.services import Services
from trove.api.controllers.v1 import (
    accounts,
    backup_schedules,
    backups,
    catalog,
    clusters,
    configurations,
    instance_actions,
    instances,
    logs,
    modules,
    monitoring,
    operations,
    tls,
)
from trove.api.method import Call, Json
from trove.api.routing import Resource
from trove.api.schemas import catalog as schemas
from trove.api.urls import VERSION
from trove.api.views import catalog as views


class Versions(Resource):
    """The top: which versions there are."""

    @method.expose(None, response=schemas.API_VERSIONS)
    def get(self, call: Call) -> Json:
        """List the versions."""
        return {"versions": [views.api_version(call.urls)]}


class Version(Resource):
    """Version 1.0."""

    @method.expose(None, response=schemas.API_VERSION)
    def get(self, call: Call) -> Json:
        """Show the version."""
        return {"version": views.api_version(call.urls)}


class Project(Version):
    """What a project has; by itself it shows the version."""

    parameter = "project_id"
    # it is the caller's own: trove.api.auth sees to that
    is_argument = False


def make_tree(services: Services) -> Resource:
    """Return the root of the tree."""
    instance = instances.Instance(
        services,
        children={
            "action": instance_actions.Action(services),
            **accounts.children(services),
            **backups.instance_children(services),
            **tls.instance_children(services),
            **modules.instance_children(services),
            **logs.instance_children(services),
            **monitoring.instance_children(services),
            **operations.instance_children(services),
            **configurations.instance_children(services),
        },
    )
    project = Project(
        children={
            "instances": instances.Instances(
                services,
                children={"detail": instances.InstancesDetail(services)},
                item=instance,
            ),
            **catalog.children(services),
            **modules.children(services),
            **backups.children(services),
            **backup_schedules.children(services),
            **clusters.children(services),
            **operations.children(services),
            **configurations.children(services),
            "mgmt": Resource(
                children={
                    **mgmt_instances.children(services),
                    **mgmt_clusters.children(services),
                    **mgmt_quotas.children(services),
                    **mgmt_versions.children(services),
                    **mgmt_parameters.children(services),
                }
            ),
        }
    )
    description = openapi.Description()
    version = Version(children={openapi.SEGMENT: description}, item=project)
    tree = Versions(children={VERSION: version})
    description.attach(tree)
    return tree
