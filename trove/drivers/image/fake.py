"""An image driver for tests: images are entries of a dict, faults are injected."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Sequence

from oslo_config import cfg

from trove.common import exception
from trove.drivers import injection
from trove.drivers.image import base


class FakeImage(base.ImageDriver):
    """Images that exist only here."""

    def __init__(self, conf: cfg.ConfigOpts | None = None) -> None:
        """Begin without images; the configuration is not used."""
        self.injector = injection.Injector()
        self._images: dict[str, base.Image] = {}
        self._lock = threading.Lock()

    def import_image(
        self,
        *,
        manager: str,
        name: str,
        file: str | None,
        image_id: str | None,
        version: str | None = None,
    ) -> base.Image:
        """Register an image; the same name and manager give the same image."""
        with self.injector.around("import_image"), self._lock:
            for image in self._images.values():
                if (image.manager, image.name) == (manager, name):
                    return image
            image = base.Image(
                id=image_id or str(uuid.uuid4()),
                name=name,
                manager=manager,
                version=version or "10.11.0",
                tags=(manager, version or "10.11.0"),
            )
            self._images[image.id] = image
            return image

    def get_image(self, image_id: str) -> base.Image:
        """Return an image by id; raises ImageNotFound."""
        with self.injector.around("get_image"), self._lock:
            image = self._images.get(image_id)
            if image is None:
                raise exception.ImageNotFound(image_id=image_id)
            return image

    def list_images(self) -> Sequence[base.Image]:
        """Return all images."""
        with self.injector.around("list_images"), self._lock:
            return list(self._images.values())

    def delete_image(self, image_id: str) -> None:
        """Remove an image; nothing when it is gone."""
        with self.injector.around("delete_image"), self._lock:
            self._images.pop(image_id, None)
