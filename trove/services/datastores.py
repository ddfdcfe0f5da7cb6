"""Datastores and versions: what callers may see and use."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from trove.common import context, exception
from trove.db import associations, base, datastores
from trove.drivers.volume.base import VolumeType

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class VersionChoice:
    """Which version a request asks for; each by name or id, None leaves it to the defaults."""

    datastore: str | None = None
    version: str | None = None
    number: str | None = None


def _visible(
    datastore: datastores.Datastore, caller: context.RequestContext
) -> datastores.Datastore:
    if caller.is_admin:
        return datastore
    active = tuple(version for version in datastore.versions if version.active)
    return dataclasses.replace(datastore, versions=active)


class Datastores:
    """Use cases of datastores."""

    def __init__(self, *, database: base.Database) -> None:
        """Take the database."""
        self._database = database

    def list_datastores(self, caller: context.RequestContext) -> Sequence[datastores.Datastore]:
        """Return what the caller can use; for administrators also what is empty or inactive."""
        with self._database.reader() as session:
            found = [_visible(each, caller) for each in datastores.list_datastores(session)]
        return [each for each in found if each.versions or caller.is_admin]

    def get_datastore(
        self, caller: context.RequestContext, name_or_id: str
    ) -> datastores.Datastore:
        """Return a datastore with the versions the caller may see; raises DatastoreNotFound."""
        with self._database.reader() as session:
            return _visible(datastores.get_datastore(session, name_or_id), caller)

    def get_version(self, datastore: str, version: str) -> datastores.Version:
        """Return a version, active or not.

        Raises DatastoreNotFound; NotFound for an unknown id, DatastoreVersionUnknown for a name
        that is unknown or ambiguous.
        """
        with self._database.reader() as session:
            found = datastores.get_datastore(session, datastore)
        if _UUID.match(version) and all(each.id != version for each in found.versions):
            raise exception.NotFound(name=version)
        return _pick(found.versions, VersionChoice(datastore=datastore, version=version))

    def require_version(self, datastore: str, version: str) -> datastores.Version:
        """Return a version by name or id; raises NotFound, also for an ambiguous name."""
        try:
            return self.get_version(datastore, version)
        except exception.DatastoreVersionUnknown as e:
            raise exception.NotFound(e.message) from None

    def find_flavor_ids(self, version_id: str) -> frozenset[str] | None:
        """Return the flavors that a version may be used with; None: all."""
        return self._associated(associations.FLAVORS, version_id)

    def find_volume_types(self, version_id: str) -> frozenset[str] | None:
        """Return the volume types, by name or id, that a version may be used with; None: all."""
        return self._associated(associations.VOLUME_TYPES, version_id)

    def _associated(self, kind: associations.Kind, version_id: str) -> frozenset[str] | None:
        with self._database.reader() as session:
            return associations.list_names(session, kind, version_id) or None

    def check_flavor(self, version_id: str, flavor_id: str) -> None:
        """Raise BadRequest unless a version may be used with a flavor."""
        allowed = self.find_flavor_ids(version_id)
        if allowed is not None and flavor_id not in allowed:
            raise exception.BadRequest(
                reason=f"flavor {flavor_id} cannot be used with this datastore version"
            )

    def choose_volume_type(
        self, version_id: str, chosen: str | None, known: Sequence[VolumeType]
    ) -> str | None:
        """Return the type of a new volume, None for the backend's own; raises BadRequest.

        Without known types any name will do. A version that goes with only one type has that one.
        """
        matching = [each for each in known if chosen in (each.id, each.name)]
        if chosen is not None and known and not matching:
            raise exception.BadRequest(reason=f"there is no volume type {chosen!r}")
        allowed = self.find_volume_types(version_id)
        if allowed is None:
            return chosen
        if chosen is None and len(allowed) == 1:
            return min(allowed)
        same = {chosen, *(name for each in matching for name in (each.id, each.name))}
        if not allowed & same:
            raise exception.BadRequest(
                reason="the volume type must be one that this datastore version goes with:"
                f" {', '.join(sorted(allowed))}"
            )
        return chosen

    def get_version_by_id(self, version_id: str) -> datastores.Version:
        """Return a version by its id alone; raises DatastoreVersionUnknown."""
        with self._database.reader() as session:
            found = datastores.find_version(session, version_id)
        if found is None:
            raise exception.DatastoreVersionUnknown(version=version_id, reason="there is none")
        return found

    def choose_version(
        self, choice: VersionChoice, *, allow_inactive: bool = False
    ) -> datastores.Version:
        """Return the version that something new is for; for a new instance it must be active.

        Raises DatastoreNotFound, and DatastoreVersionUnknown (unknown, inactive or ambiguous).
        """
        with self._database.reader() as session:
            known = datastores.list_datastores(session)
        found = _choose_datastore(known, choice)
        if choice.version is None and choice.number is None:
            version = _default_version(found)
        else:
            version = _pick(found.versions, choice)
        if not version.active and not allow_inactive:
            raise exception.DatastoreVersionUnknown(
                version=version.name, reason="it is not active; choose another version"
            )
        return version


def _choose_datastore(
    known: Sequence[datastores.Datastore], choice: VersionChoice
) -> datastores.Datastore:
    if choice.datastore is not None:
        for datastore in known:
            if choice.datastore in (datastore.id, datastore.name):
                return datastore
        raise exception.DatastoreNotFound(datastore=choice.datastore)
    for datastore in known:
        if any(version.id == choice.version for version in datastore.versions):
            return datastore
    usable = [each for each in known if any(version.active for version in each.versions)]
    if len(usable) != 1:
        raise exception.BadRequest(
            reason="name the datastore: there is no default"
            if usable
            else "no datastore is available; ask the operator to import an image"
        )
    return usable[0]


def _default_version(datastore: datastores.Datastore) -> datastores.Version:
    for version in datastore.versions:
        if version.id == datastore.default_version_id:
            return version
    active = [version for version in datastore.versions if version.active]
    if len(active) != 1:
        raise exception.BadRequest(
            reason=f"name the version: datastore {datastore.name} has no default version"
        )
    return active[0]


def _pick(versions: Sequence[datastores.Version], choice: VersionChoice) -> datastores.Version:
    wanted = choice.version
    found = [
        version
        for version in versions
        if (wanted is None or wanted in (version.id, version.name))
        and (choice.number is None or choice.number == version.version)
    ]
    name = " ".join(part for part in (wanted, choice.number) if part)
    if not found:
        raise exception.DatastoreVersionUnknown(version=name, reason="there is none")
    if len(found) > 1:
        raise exception.DatastoreVersionUnknown(
            version=name,
            reason="Multiple datastore versions found; name one by its id or version_number",
        )
    return found[0]
