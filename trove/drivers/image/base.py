"""The interface of image drivers; see :mod:`trove.drivers.compute.base` for the rules."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """What a server of a datastore version boots from."""

    id: str
    name: str
    manager: str
    version: str


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
