"""Handlers of datastores, flavors, limits and the certificate authority."""

from __future__ import annotations

from typing import Any

from trove.api import method
from trove.api.controllers.services import Services
from trove.api.controllers.v1 import configurations
from trove.api.method import Call, Json
from trove.api.routing import Resource
from trove.api.schemas import catalog as schemas
from trove.api.schemas import versions as version_schemas
from trove.api.views import catalog as views
from trove.api.views import versions as version_views


def children(services: Services) -> dict[str, Resource]:
    """Return the nodes below a project."""
    version = DatastoreVersion(
        services,
        children={
            "flavors": VersionFlavors(services),
            "volume-types": VersionVolumeTypes(services),
            **configurations.version_children(services),
        },
    )
    datastore = Datastore(
        services, children={"versions": DatastoreVersions(services, item=version)}
    )
    return {
        "datastores": Datastores(
            services,
            children={
                "versions": Resource(
                    item=VersionById(
                        services, children=configurations.version_by_id_children(services)
                    )
                )
            },
            item=datastore,
        ),
        "flavors": Flavors(services, item=Flavor(services)),
        "limits": Limits(services),
        "certificate-authority": CertificateAuthority(services),
    }


class _Base(Resource):
    def __init__(self, services: Services, **nodes: Any) -> None:
        super().__init__(**nodes)
        self._services = services
        self._datastores = services.datastores


class Datastores(_Base):
    """All datastores."""

    @method.expose("datastore:index", response=schemas.DATASTORES)
    def get(self, call: Call) -> Json:
        """List datastores."""
        rows = self._datastores.list_datastores(call.caller)
        is_admin = bool(call.caller.is_admin)
        return {"datastores": [views.datastore(r, call.urls, is_admin=is_admin) for r in rows]}


class Datastore(_Base):
    """One datastore."""

    parameter = "datastore"

    @method.expose("datastore:show", response=schemas.DATASTORE)
    def get(self, call: Call, datastore: str) -> Json:
        """Show a datastore."""
        row = self._datastores.get_datastore(call.caller, datastore)
        return {"datastore": views.datastore(row, call.urls, is_admin=bool(call.caller.is_admin))}

    @method.expose("datastore:delete", status=202)
    def delete(self, call: Call, datastore: str) -> Json:
        """Remove a datastore that has no versions."""
        self._services.versions.delete_datastore(datastore)
        return None


class DatastoreVersions(_Base):
    """The versions of a datastore."""

    @method.expose("datastore:version_index", response=schemas.VERSIONS)
    def get(self, call: Call, datastore: str) -> Json:
        """List versions."""
        rows = self._datastores.get_datastore(call.caller, datastore).versions
        is_admin = bool(call.caller.is_admin)
        return {"versions": [views.version(r, call.urls, is_admin=is_admin) for r in rows]}


class DatastoreVersion(_Base):
    """One version of a datastore."""

    parameter = "version"

    @method.expose("datastore:version_show", response=schemas.VERSION)
    def get(self, call: Call, datastore: str, version: str) -> Json:
        """Show a version."""
        row = self._datastores.get_version(datastore, version)
        return {"version": views.version(row, call.urls, is_admin=bool(call.caller.is_admin))}


class VersionById(_Base):
    """A version, by its id alone."""

    parameter = "version"

    @method.expose("datastore:version_show_by_uuid", response=schemas.VERSION)
    def get(self, call: Call, version: str) -> Json:
        """Show a version."""
        row = self._datastores.get_version_by_id(version)
        return {"version": views.version(row, call.urls, is_admin=bool(call.caller.is_admin))}


class VersionFlavors(_Base):
    """The flavors that a version may be used with."""

    @method.expose("datastore:list_associated_flavors", response=schemas.FLAVORS)
    def get(self, call: Call, datastore: str, version: str) -> Json:
        """List flavors."""
        allowed = self._datastores.find_flavor_ids(
            self._datastores.require_version(datastore, version).id
        )
        rows = self._services.flavors.list_flavors()
        return {
            "flavors": [
                views.flavor(row, call.urls) for row in rows if allowed is None or row.id in allowed
            ]
        }


class VersionVolumeTypes(_Base):
    """The volume types that a version may be used with."""

    @method.expose("datastore:list_associated_volume_types", response=version_schemas.VOLUME_TYPES)
    def get(self, call: Call, datastore: str, version: str) -> Json:
        """List volume types."""
        allowed = self._datastores.find_volume_types(
            self._datastores.require_version(datastore, version).id
        )
        rows = self._services.volume_types.list_volume_types()
        return {
            "volume_types": [
                version_views.volume_type(row)
                for row in rows
                if allowed is None or allowed & {row.id, row.name}
            ]
        }


class Flavors(_Base):
    """All flavors."""

    @method.expose("flavor:index", response=schemas.FLAVORS)
    def get(self, call: Call) -> Json:
        """List flavors."""
        rows = self._services.flavors.list_flavors()
        return {"flavors": [views.flavor(row, call.urls) for row in rows]}


class Flavor(_Base):
    """One flavor."""

    parameter = "flavor_id"

    @method.expose("flavor:show", response=schemas.FLAVOR)
    def get(self, call: Call, flavor_id: str) -> Json:
        """Show a flavor."""
        return {"flavor": views.flavor(self._services.flavors.get_flavor(flavor_id), call.urls)}


class Limits(_Base):
    """The limits of the project."""

    @method.expose("limits:index", response=schemas.LIMITS)
    def get(self, call: Call) -> Json:
        """Show limits."""
        quotas = self._services.quotas.get_limits(call.caller)
        windows = self._services.limiter.describe(str(call.caller.project_id))
        return {"limits": views.limits(quotas, windows)}


class CertificateAuthority(_Base):
    """The authority that signs the certificates of instances."""

    @method.expose("certificate_authority:show", response=schemas.CERTIFICATE_AUTHORITY)
    def get(self, call: Call) -> Json:
        """Show its certificate, for clients of databases to trust."""
        certificate = self._services.certificates.get_authority()
        return {"certificate_authority": {"certificate": certificate}}
