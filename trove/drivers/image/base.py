"""The interface of image drivers; see :mod:`trove.drivers.compute.base` for the rules."""

from __future__ import annotations

import abc
import dataclasses
import re
from collections.abc import Collection, Iterable, Sequence


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """What a server of a datastore version boots from.

    ``manager`` and ``version`` are empty when nobody said what is in it. Only an image in status
    "active" is complete.
    """

    id: str
    name: str
    manager: str
    version: str
    tags: tuple[str, ...] = ()
    status: str = "active"
    agent_version: str | None = None
    created: str = ""


class ImageDriver(abc.ABC):
    """Guest images."""

    @abc.abstractmethod
    def import_image(
        self,
        *,
        manager: str,
        name: str,
        file: str | None,
        image_id: str | None,
        version: str | None = None,
    ) -> Image:
        """Register or upload an image; repeatable with the same result.

        ``manager`` is the datastore manager, ``file`` an image file (drivers that need none ignore
        it), ``image_id`` an id to use. ``version`` is that of the engine, for images that do not
        say it themselves. Raises DriverError with what to install or fix.
        """

    @abc.abstractmethod
    def get_image(self, image_id: str) -> Image:
        """Return an image by id; raises ImageNotFound."""

    @abc.abstractmethod
    def list_images(self) -> Sequence[Image]:
        """Return all images."""

    @abc.abstractmethod
    def delete_image(self, image_id: str) -> None:
        """Remove an image; nothing when it is gone. Raises DriverError."""

    def find_tagged(self, tags: Collection[str]) -> Image | None:
        """Return the image of the highest version that has all of ``tags``, or None."""
        return newest(image for image in self.list_images() if set(tags) <= set(image.tags))


def newest(images: Iterable[Image]) -> Image | None:
    """Return the complete image of the highest version, of these the one made last; or None."""
    return max(
        (image for image in images if image.status == "active"), key=_version_key, default=None
    )


def _version_key(image: Image) -> tuple[list[int], str, str]:
    return [int(number) for number in re.findall(r"\d+", image.version)], image.created, image.id
