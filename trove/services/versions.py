"""Datastores and versions as operators keep them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from oslo_log import log

import trove.datastores.all  # noqa: F401 - fills the registry
from trove.common import concurrency, exception
from trove.datastores import spec
from trove.db import associations, base, datastores
from trove.drivers.image.base import ImageDriver

LOG = log.getLogger(__name__)


class Versions:
    """Use cases of operators."""

    def __init__(
        self, *, database: base.Database, images: ImageDriver | None, clock: concurrency.Clock
    ) -> None:
        """Take the collaborators; without an image driver images are not looked for."""
        self._database = database
        self._images = images
        self._clock = clock

    def list_versions(self) -> Sequence[tuple[datastores.Version, bool]]:
        """Return all versions, each with whether it is its datastore's default."""
        with self._database.reader() as session:
            known = datastores.list_datastores(session)
        return [
            (version, version.id == datastore.default_version_id)
            for datastore in known
            for version in datastore.versions
        ]

    def get(self, version_id: str) -> tuple[datastores.Version, bool]:
        """Return a version and whether it is the default; raises DatastoreVersionUnknown."""
        with self._database.reader() as session:
            version = datastores.get_version(session, version_id)
            datastore = datastores.get_datastore(session, version.datastore_id)
        return version, version.id == datastore.default_version_id

    def create(self, new: datastores.NewVersion, *, make_default: bool) -> str:
        """Register a version and return its id.

        Raises AlreadyExists, and BadRequest for an unknown manager, a name that is reserved or an
        image that is not to be found: the driver is asked once.
        """
        self._check_manager(new.manager)
        self._check_image(new.image_id, new.image_tags)
        with self._database.writer() as session:
            version_id = datastores.create_version(
                session, new, make_default=make_default, now=self._clock.now()
            )
        LOG.info("datastore version %s: registered", version_id)
        return version_id

    def change(
        self, version_id: str, values: Mapping[str, Any], *, is_default: bool | None
    ) -> None:
        """Change a version: columns, and whether it is the default (None: as it is).

        Raises DatastoreVersionUnknown, AlreadyExists, BadRequest.
        """
        version, _ = self.get(version_id)
        if "manager" in values:
            self._check_manager(values["manager"])
        if "image_id" in values or "image_tags" in values:
            self._check_image(
                values.get("image_id", version.image_id),
                values.get("image_tags", version.image_tags),
            )
        with self._database.writer() as session:
            datastores.change_version(
                session, version_id, values, is_default=is_default, now=self._clock.now()
            )
        LOG.info("datastore version %s: changed", version_id)

    def delete(self, version_id: str) -> None:
        """Remove a version; raises DatastoreVersionUnknown, and BadRequest while it is used."""
        with self._database.writer() as session:
            version = datastores.get_version(session, version_id)
            # first: whoever begins to use it meanwhile waits, and then sees that it is gone
            datastores.remove_version(session, version_id, now=self._clock.now())
            uses = datastores.list_uses(session, version_id)
            if uses:
                raise exception.BadRequest(
                    reason=f"datastore version {version.name} is used by {' and '.join(uses)}"
                )
        LOG.info("datastore version %s: removed", version_id)

    def delete_datastore(self, name_or_id: str) -> None:
        """Remove a datastore; raises DatastoreNotFound, and BadRequest while it has versions."""
        with self._database.writer() as session:
            datastore = datastores.get_datastore(session, name_or_id)
            if datastore.versions:
                raise exception.BadRequest(
                    reason=f"datastore {datastore.name} has versions: remove them first"
                )
            datastores.remove_datastore(session, datastore.id, now=self._clock.now())
        LOG.info("datastore %s: removed", datastore.id)

    # -- which flavors and volume types a version may be used with -----

    def list_associations(self, kind: associations.Kind, version_id: str) -> Collection[str]:
        """Return what a version is associated with, in order; nothing: all are allowed."""
        with self._database.reader() as session:
            return sorted(associations.list_names(session, kind, version_id))

    @base.retry_on_conflict
    def associate(self, kind: associations.Kind, version_id: str, names: Collection[str]) -> None:
        """Allow more flavors or volume types for a version."""
        with self._database.writer() as session:
            associations.add(session, kind, version_id, names)

    @base.retry_on_conflict
    def dissociate(self, kind: associations.Kind, version_id: str, names: Collection[str]) -> None:
        """Allow fewer; raises NotFound when there was none of these associations."""
        with self._database.writer() as session:
            if not associations.remove(session, kind, version_id, names):
                raise exception.NotFound(
                    f"Version {version_id} is not associated with {', '.join(sorted(names))}."
                )

    # -- checks -----

    def _check_manager(self, manager: str) -> None:
        if manager not in spec.registry():
            known = ", ".join(sorted(spec.registry()))
            raise exception.BadRequest(
                reason=f"there is no datastore manager {manager!r}; there are: {known}"
            )

    def _check_image(self, image_id: str | None, tags: Collection[str]) -> None:
        if image_id is None and not tags:
            raise exception.BadRequest(reason="neither image nor image_tags is given")
        if self._images is None:
            return
        try:
            if image_id is not None:
                self._images.get_image(image_id)
            elif self._images.find_tagged(tags) is None:
                raise exception.BadRequest(
                    reason=f"there is no image with the tags {', '.join(sorted(tags))}"
                )
        except exception.ImageNotFound as e:
            raise exception.BadRequest(reason=e.message) from None
        except exception.DriverError as e:
            LOG.error("images cannot be looked up: %s", e)
            raise exception.ServiceUnavailable(reason="images cannot be looked up") from None
