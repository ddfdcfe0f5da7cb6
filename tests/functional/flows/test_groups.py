"""Servers of one locality have a group, which goes with the last of them or was never needed."""

import sqlalchemy as sa

from tests.fixtures.control_plane import NOTHING, ControlPlane
from trove import states
from trove.db import models
from trove.drivers import cloud

Task = states.TaskStatus


def create(plane: ControlPlane, *, replica_of_id: str | None = None) -> str:
    """Accept a create with a locality, as of a replica if it is one."""
    instance_id, _ = plane.create()
    with plane.database.writer() as session:
        session.execute(
            sa.update(models.Instance)
            .where(models.Instance.id == instance_id)
            .values(locality="soft-anti-affinity", replica_of_id=replica_of_id)
        )
    return instance_id


def test_replicas_are_in_the_group_of_their_source(plane: ControlPlane) -> None:
    source = create(plane)
    plane.settle(plane.runner())
    replica = create(plane, replica_of_id=source)
    plane.settle(plane.runner())
    for each in (source, replica):
        spec = plane.compute.spec_of(each)
        assert (spec.locality, spec.group_id) == ("soft-anti-affinity", source)
    plane.delete(source)
    plane.settle(plane.runner())
    assert plane.compute.groups == {source}
    plane.delete(replica)
    plane.settle(plane.runner())
    assert plane.compute.groups == set()


def test_the_group_of_a_server_that_never_came_is_removed(plane: ControlPlane) -> None:
    refused = cloud.refused("Nova", "create the server", status=400, reason="no")
    plane.compute.injector.fail("create_server", refused, lose_reply=True)
    instance_id = create(plane)
    plane.settle(plane.runner())
    assert plane.instance(instance_id).task is Task.BUILDING_ERROR_SERVER
    assert plane.compute.groups == set()
    assert plane.leftovers() == NOTHING
    # a reply that was lost for longer than anybody waited
    plane.compute.groups.add(instance_id)
    reconciler = plane.reconciler()
    for _ in range(10):
        reconciler.run()
        plane.settle(plane.runner())
        plane.manual_clock.advance(5)
    assert plane.compute.groups == set()
