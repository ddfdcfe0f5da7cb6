"""Images of Glance, in the project of this service.

An import can die at any point and be run again: the image carries the hash of its file from the
start, so that the next run finds what there is, and goes on with it or removes it. Only an image
whose hash was compared gets its tags. What other projects tag is never used, unless the cloud made
it public: with the rights of an administrator, everybody's images are listed.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Collection, Sequence
from typing import Any

import tqdm
from openstack import exceptions as sdk_exceptions
from openstack.image.v2 import image as sdk_image
from oslo_config import cfg
from oslo_log import log

from trove.common import exception
from trove.drivers import cloud
from trove.drivers.image import base, files

LOG = log.getLogger(__name__)

_SERVICE = "Glance"
#: Longest that Glance may take to store what it was sent, more than for any other request.
_STORING_S = 600

#: Properties of guest images.
MANAGER = "trove_datastore"
VERSION = "trove_version"
AGENT_VERSION = "trove_agent_version"
SHA256 = "trove_sha256"


class GlanceImage(base.ImageDriver):
    """Images in the project of ``[service_credentials]``."""

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        """Take the configuration; connects on first use."""
        self._cloud = cloud.Cloud(conf)
        self._options = conf.glance

    @property
    def _glance(self) -> Any:
        return self._cloud.connection.image

    # -- the interface -----

    def import_image(
        self,
        *,
        manager: str,
        name: str,
        file: str | None,
        image_id: str | None,
        version: str | None = None,
    ) -> base.Image:
        """Upload a file, or use an image that there is; the same again gives the same image.

        Progress is shown on a terminal. Raises ImageNotFound, DriverError.
        """
        if (file is None) == (image_id is None):
            raise _wrong("name either the file of an image or the id of one that there is")
        if image_id is not None:
            return self._adopt(image_id, manager=manager, version=version)
        found = files.inspect(str(file), manager=manager)
        known = found.version or version
        if not known:
            raise _wrong(
                f"nothing says which version of {manager} is in {found.path}: name the version"
            )
        image = self._find_upload(found) or self._create(found, manager, known, name)
        properties = _properties(image)
        if properties.get(MANAGER) != manager:
            raise _wrong(f"{found.path} is image {image.id} already, for {properties.get(MANAGER)}")
        with contextlib.ExitStack() as stack:
            if image.status == "queued":
                stack.callback(self._remove_half, image.id)
                self._upload(image, found)
            image = self._get(image.id)
            self._verify(image, found)
            stack.pop_all()
        return _image(self._finish(image, manager))

    def get_image(self, image_id: str) -> base.Image:
        """Return an image by id, whoever's it is; raises ImageNotFound."""
        return _image(self._get(image_id))

    def list_images(self) -> Sequence[base.Image]:
        """Return the guest images of this service, half ones too."""
        return [_image(each) for each in self._list_own() if MANAGER in _properties(each)]

    def find_tagged(self, tags: Collection[str]) -> base.Image | None:
        """Return the image of the highest version that has all of ``tags``, or None.

        It is one of this service's own, or a public one.
        """
        with cloud.told(_SERVICE, f"list images tagged {', '.join(sorted(tags))}"):
            project_id = self._cloud.session.get_project_id()
            found = list(self._glance.images(tag=sorted(tags)))
        return base.newest(
            _image(each)
            for each in found
            if (each.owner == project_id or each.visibility == "public")
            and set(tags) <= set(each.tags)
        )

    def delete_image(self, image_id: str) -> None:
        """Remove an image; nothing when it is gone. A protected one is refused."""
        try:
            image = self._get(image_id)
        except exception.ImageNotFound:
            return
        if image.is_protected:
            raise _wrong(
                f"image {image_id} is protected: run 'openstack image set --unprotect {image_id}'"
                " first"
            )
        with cloud.told(_SERVICE, f"delete image {image_id}"):
            self._glance.delete_image(image_id, ignore_missing=True)
        LOG.info("image %s deleted", image_id)

    # -- parts of an import -----

    def _find_upload(self, found: files.GuestFile) -> Any:
        """Return the image of a file, complete or still to be uploaded; None when there is none.

        What was left half-way and cannot be gone on with is removed.
        """
        for image in sorted(self._list_own(), key=lambda each: (each.created_at, each.id)):
            if _properties(image).get(SHA256) != found.sha256:
                continue
            if image.status in ("active", "queued"):
                return image
            if image.status == "deactivated":
                raise _wrong(
                    f"{found.path} is image {image.id}, which was deactivated: run 'openstack image"
                    f" set --activate {image.id}', or delete it"
                )
            LOG.warning("image %s was left in status %s: removed", image.id, image.status)
            self.delete_image(image.id)
        return None

    def _create(self, found: files.GuestFile, manager: str, version: str, name: str) -> Any:
        properties = {
            **self._options.properties,
            "os_type": "linux",
            MANAGER: manager,
            VERSION: version,
            SHA256: found.sha256,
        }
        if found.agent_version is not None:
            properties[AGENT_VERSION] = found.agent_version
        image = sdk_image.Image.new(
            connection=self._cloud.connection,
            name=f"trove-{name}-{version}",
            disk_format=found.disk_format,
            container_format="bare",
            min_disk=found.disk_gib,
            visibility=self._options.visibility,
            **properties,
        )
        with cloud.told(_SERVICE, f"create an image for {found.path}"):
            made = image.create(self._glance)
        LOG.info("image %s made for %s", made.id, found.path)
        return made

    def _upload(self, image: Any, found: files.GuestFile) -> None:
        try:
            with (
                found.path.open("rb") as file,
                tqdm.tqdm.wrapattr(
                    file,
                    "read",
                    total=found.size_bytes,
                    desc=found.path.name,
                    unit="B",
                    unit_scale=True,
                    file=sys.stderr,
                    # None: no bar unless stderr is a terminal
                    disable=None,
                ) as stream,
                cloud.told(_SERVICE, f"take the contents of image {image.id}"),
            ):
                sdk_exceptions.raise_from_response(
                    self._glance.put(
                        f"/images/{image.id}/file",
                        data=stream,
                        headers={"Content-Type": "application/octet-stream", "Accept": ""},
                        timeout=_STORING_S,
                    )
                )
        except OSError as e:
            raise files.wrong(f"{found.path}: {e.strerror or e}") from e
        except cloud.CloudUnavailable:
            # the answer alone may be what got lost
            if self._get(image.id).status != "active":
                raise

    def _verify(self, image: Any, found: files.GuestFile) -> None:
        """See that Glance has what is in the file; raises DriverError."""
        if image.status != "active":
            raise _wrong(f"image {image.id} is in status {image.status} after its upload")
        algorithm, expected = image.hash_algo, image.hash_value
        if not algorithm or not expected:
            algorithm, expected = "md5", image.checksum
        if image.size != found.size_bytes or found.digest(algorithm) != expected:
            raise _wrong(
                f"what Glance has as image {image.id} is not what is in {found.path}: it was"
                " damaged on its way, or the file changed meanwhile. Run the same command again"
            )

    def _finish(self, image: Any, manager: str) -> Any:
        """Have a complete image found by its tags, and protected if it is to be."""
        missing = sorted({*self._options.tags, manager} - set(image.tags))
        protects = self._options.protected and not image.is_protected
        with cloud.told(_SERVICE, f"set the tags of image {image.id}"):
            for tag in missing:
                self._glance.add_tag(image, tag)
            if protects:
                self._glance.update_image(image.id, is_protected=True)
        return self._get(image.id) if missing or protects else image

    def _remove_half(self, image_id: str) -> None:
        try:
            self.delete_image(image_id)
        except exception.DriverError as e:
            LOG.warning("image %s stays half-way; the next import takes it up: %s", image_id, e)

    def _adopt(self, image_id: str, *, manager: str, version: str | None) -> base.Image:
        """Use an image that there is; it says what it is, or is told now."""
        image = self._get(image_id)
        properties = _properties(image)
        if image.status != "active":
            raise _wrong(f"image {image_id} is in status {image.status}, it must be active")
        if properties.get(MANAGER, manager) != manager:
            raise _wrong(f"image {image_id} is for {properties[MANAGER]}, not for {manager}")
        known = properties.get(VERSION) or version
        if not known:
            raise _wrong(
                f"nothing says which version of {manager} is in image {image_id}: name the version"
            )
        missing = {MANAGER: manager, VERSION: known}
        if missing.items() <= properties.items():
            return _image(image)
        try:
            with cloud.told(_SERVICE, f"set the properties of image {image_id}"):
                return _image(self._glance.update_image(image, **missing))
        except cloud.CloudError as e:
            if e.status != 403:
                raise
            raise _wrong(
                f"image {image_id} belongs to another project: have its owner run 'openstack image"
                f" set --property {MANAGER}={manager} --property {VERSION}={known} {image_id}'"
            ) from e

    def _get(self, image_id: str) -> Any:
        try:
            with cloud.told(_SERVICE, f"find image {image_id}"):
                return self._glance.get_image(image_id)
        except cloud.CloudNotFound:
            raise exception.ImageNotFound(image_id=image_id) from None

    def _list_own(self) -> list[Any]:
        with cloud.told(_SERVICE, "list images"):
            project_id = self._cloud.session.get_project_id()
            found = list(self._glance.images(owner=project_id))
        return [each for each in found if each.owner == project_id]


def _wrong(reason: str) -> exception.DriverError:
    return exception.DriverError(service="Glance driver", reason=reason)


def _properties(image: Any) -> dict[str, str]:
    return dict(image.properties or {})


def _image(image: Any) -> base.Image:
    properties = _properties(image)
    return base.Image(
        id=image.id,
        name=image.name or "",
        manager=properties.get(MANAGER, ""),
        version=properties.get(VERSION, ""),
        tags=tuple(sorted(image.tags or ())),
        status=image.status,
        agent_version=properties.get(AGENT_VERSION),
        created=image.created_at or "",
    )
