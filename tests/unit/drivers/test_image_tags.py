"""Which of several images tags choose."""

from __future__ import annotations

from collections.abc import Sequence

from trove.drivers.image import base
from trove.drivers.image.fake import FakeImage


class SomeImages(FakeImage):
    """Images of several versions."""

    def list_images(self) -> Sequence[base.Image]:
        return [
            base.Image(id=version, name="m", manager="mariadb", version=version, tags=tags)
            for version, tags in (
                ("10.11.9", ("mariadb", "good")),
                ("10.11.10", ("mariadb", "good")),
                ("11.4.1", ("mariadb",)),
            )
        ]


def test_the_highest_version_with_all_tags_is_chosen() -> None:
    images = SomeImages()
    chosen = [images.find_tagged(tags) for tags in (["mariadb"], ["good", "mariadb"], ["bad"])]
    assert [image and image.id for image in chosen] == ["11.4.1", "10.11.10", None]
