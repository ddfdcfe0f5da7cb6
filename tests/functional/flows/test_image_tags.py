"""A version that names tags instead of an image runs from the newest image that has them."""

from __future__ import annotations

import sqlalchemy as sa

from tests.fixtures.control_plane import ControlPlane
from trove import states
from trove.db import models


def _tag(plane: ControlPlane, *tags: str) -> None:
    with plane.database.writer() as session:
        session.execute(
            sa.update(models.DatastoreVersion)
            .where(models.DatastoreVersion.id == plane.version_id)
            .values(image_id=None, image_tags=list(tags))
        )


def test_the_image_is_found_by_its_tags(plane: ControlPlane) -> None:
    image = plane.tools.drivers.image.import_image(
        manager="mariadb", name="m", file=None, image_id=None
    )
    _tag(plane, "mariadb")
    instance_id, _ = plane.create()
    plane.settle(plane.runner())
    assert plane.instance(instance_id).task is states.TaskStatus.NONE
    assert plane.compute.spec_of(instance_id).image_id == image.id


def test_without_such_an_image_the_operator_is_named(plane: ControlPlane) -> None:
    _tag(plane, "nothing")
    instance_id, _ = plane.create()
    plane.settle(plane.runner())
    instance = plane.instance(instance_id)
    assert instance.task is states.TaskStatus.BUILDING_ERROR_SERVER
    assert "has no image: the operator" in (instance.fault_message or "")
