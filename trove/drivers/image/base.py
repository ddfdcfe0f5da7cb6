"""The interface of image drivers; see :mod:`trove.drivers.compute.base` for the rules."""

from __future__ import annotations

import abc
import dataclasses
import re
from collections.abc import Collection, Sequence


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """What a server of a datastore version boots from."""

    id: str
    name: str
    manager: str
    version: str
    tags: tuple[str, ...] = ()


class ImageDriver(abc.ABC):
    """Guest images."""

    @abc.abstractmethod
    def import_image(
        self, *, manager: str, name: str, file: str | None, image_id: str | None
    ) -> Image:
        """Register or upload an image; repeatable with the same result.

        ``manager`` is the datastore manager, ``file`` an image file (drivers that need none ignore
        it), ``image_id`` an id to use. Raises DriverError with what to install or fix.
        """

    @abc.abstractmethod
    def get_image(self, image_id: str) -> Image:
        """Return an image by id; raises ImageNotFound."""

    @abc.abstractmethod
    def list_images(self) -> Sequence[Image]:
        """Return all images."""

    def find_tagged(self, tags: Collection[str]) -> Image | None:
        """Return the image of the highest version that has all of ``tags``, or None."""
        found = [image for image in self.list_images() if set(tags) <= set(image.tags)]
        return max(found, key=_version_key, default=None)


def _version_key(image: Image) -> tuple[list[int], str]:
    return [int(number) for number in re.findall(r"\d+", image.version)], image.id
