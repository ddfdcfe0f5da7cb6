"""Instances on the stand-ins of Nova and Cinder: their volumes, from the first to the last."""

from __future__ import annotations

import dataclasses

import pytest
from oslo_config import cfg

from tests.fixtures import cloud
from tests.fixtures.actions import USER, Actions, make_actions
from tests.fixtures.cloud.cinder import Cinder
from tests.fixtures.cloud.fixtures import cloud_conf, standin_servers, standins
from tests.fixtures.cloud.nova import Nova
from tests.fixtures.control_plane import PROJECT, ControlPlane
from tests.fixtures.database import new_backup
from tests.functional.flows.test_snapshot_flows import Freezer, Setup
from tests.functional.flows.test_snapshot_restores import restore
from trove import states
from trove.db import backups, base
from trove.drivers.cloud import name_of
from trove.drivers.compute.nova import NovaCompute
from trove.drivers.volume.cinder import CinderVolume

__all__ = ["cloud_conf", "standin_servers", "standins"]

Task = states.TaskStatus


@pytest.fixture
def nova(standins: cloud.StandInCloud) -> Nova:
    made: Nova = standins.find("compute")
    return made


@pytest.fixture
def cinder(standins: cloud.StandInCloud) -> Cinder:
    made: Cinder = standins.find("block-storage")
    return made


@pytest.fixture
def plane(sqlite_database: base.Database, cloud_conf: cfg.ConfigOpts) -> ControlPlane:
    return _make_plane(sqlite_database, cloud_conf)


def _make_plane(database: base.Database, conf: cfg.ConfigOpts) -> ControlPlane:
    made = ControlPlane(database)
    drivers = dataclasses.replace(
        made.tools.drivers, compute=NovaCompute(conf), volume=CinderVolume(conf)
    )
    made.tools = dataclasses.replace(made.tools, drivers=drivers)
    return made


def make_active(plane: ControlPlane, nova: Nova) -> str:
    """Have an instance whose server has its volume."""
    instance_id, _ = plane.create()
    runner = plane.runner()
    plane.settle(
        runner, until=lambda: [each.status for each in nova.servers.values()] == ["ACTIVE"]
    )
    plane.guests.hello(instance_id)
    plane.settle(runner)
    assert plane.instance(instance_id).task is Task.NONE
    return instance_id


def the_volume(cinder: Cinder) -> tuple[str, int]:
    (volume,) = cinder.volumes.values()
    return volume["status"], volume["size"]


def grow(plane: ControlPlane, instance_id: str, *, fails: bool = False) -> Actions:
    actions = make_actions(plane)
    actions.service.resize_volume(USER, instance_id, 3)
    plane.settle(plane.runner())
    assert plane.instance(instance_id).task is Task.NONE
    assert (plane.instance(instance_id).fault_message is not None) == fails
    return actions


def test_a_volume_lives_and_dies_with_its_instance(
    plane: ControlPlane, nova: Nova, cinder: Cinder
) -> None:
    cinder.looks = 2
    instance_id = make_active(plane, nova)
    assert the_volume(cinder) == ("in-use", 1)
    assert plane.instance(instance_id).volume_id in cinder.volumes
    grow(plane, instance_id)
    assert the_volume(cinder) == ("in-use", 3)
    assert "unmount" not in [ran[1] for ran in plane.guests.ran]
    plane.delete(instance_id)
    plane.settle(plane.runner())
    assert plane.instance(instance_id).is_deleted
    assert cinder.volumes == {}
    assert nova.servers == {}
    assert cinder.count("DELETE", "/volumes/") == 1


@pytest.mark.parametrize("lost", [None, "extend", "detach", "attach"])
def test_a_backend_that_cannot_grow_used_volumes_gets_them_alone(
    sqlite_database: base.Database,
    cloud_conf: cfg.ConfigOpts,
    nova: Nova,
    cinder: Cinder,
    lost: str | None,
) -> None:
    cloud_conf.set_override("extend_attached", False, group="cinder")
    cinder.extends_attached = False
    plane = _make_plane(sqlite_database, cloud_conf)
    instance_id = make_active(plane, nova)
    match lost:
        case "extend":
            cinder.lose_reply("POST", "/action")
        case "detach":
            nova.lose_reply("DELETE", "/os-volume_attachments")
        case "attach":
            nova.lose_reply("POST", "/os-volume_attachments")
    grow(plane, instance_id)
    assert the_volume(cinder) == ("in-use", 3)
    assert plane.instance(instance_id).volume_size_gib == 3
    assert [ran[1] for ran in plane.guests.ran][-3:] == ["stop", "unmount", "mount"]
    assert cinder.count("POST", "/action") == 1


def test_a_quota_of_the_cloud_leaves_the_database_as_it_was(
    sqlite_database: base.Database, cloud_conf: cfg.ConfigOpts, nova: Nova, cinder: Cinder
) -> None:
    cloud_conf.set_override("extend_attached", False, group="cinder")
    cinder.quota_gib = 2
    plane = _make_plane(sqlite_database, cloud_conf)
    instance_id = make_active(plane, nova)
    grow(plane, instance_id, fails=True)
    assert the_volume(cinder) == ("in-use", 1)
    told = str(plane.instance(instance_id).fault_message)
    assert "exceeds allowed gigabytes quota" in told
    assert "The volume has 1 GiB" in told
    assert [ran[1] for ran in plane.guests.ran][-2:] == ["mount", "start"]


def test_a_backend_that_turns_out_not_to_grow_volumes_is_told_of(
    plane: ControlPlane, nova: Nova, cinder: Cinder
) -> None:
    cinder.extends_attached = False
    instance_id = make_active(plane, nova)
    grow(plane, instance_id, fails=True)
    told = str(plane.instance(instance_id).fault_message)
    assert "error_extending" in told
    assert "(request req-" in told
    assert "[cinder] extend_attached = false" in told


def test_why_a_volume_could_not_be_made_reaches_the_instances_fault(
    plane: ControlPlane, cinder: Cinder
) -> None:
    cinder.broken.add(1)
    instance_id, _ = plane.create()
    plane.settle(plane.runner())
    instance = plane.instance(instance_id)
    assert instance.task is Task.BUILDING_ERROR_VOLUME
    assert "Could not find any available weighted backend" in str(instance.fault_message)
    assert "(request req-" in str(instance.fault_message)
    assert cinder.volumes == {}


def test_a_volume_that_cannot_be_deleted_holds_the_deletion_up_until_it_is_mended(
    plane: ControlPlane, nova: Nova, cinder: Cinder
) -> None:
    instance_id = make_active(plane, nova)
    (volume_id,) = cinder.volumes
    cinder.undeletable.add(volume_id)
    plane.delete(instance_id)
    runner = plane.runner()
    plane.settle(runner, until=lambda: plane.instance(instance_id).fault_message is not None)
    told = str(plane.instance(instance_id).fault_message)
    assert "openstack volume set --state error" in told
    cinder.undeletable.clear()
    cinder.volumes[volume_id]["status"] = "error"
    plane.settle(runner)
    assert plane.instance(instance_id).is_deleted
    assert cinder.volumes == {}


def test_a_volume_of_a_snapshot_takes_the_place_of_the_former_by_name(
    plane: ControlPlane, nova: Nova, cinder: Cinder
) -> None:
    instance_id = make_active(plane, nova)
    (former,) = cinder.volumes.values()
    backed = Setup(
        plane=plane, freezer=Freezer(plane), instance_id=instance_id, service=plane.backups()
    )
    new = new_backup(
        plane.version_id,
        project_id=PROJECT,
        instance_id=instance_id,
        kind=states.BackupKind.SNAPSHOT,
    )
    driver = plane.tools.drivers.volume
    made = driver.create_snapshot(volume_id=former["id"], owner_id=new.id)
    assert driver.find_snapshot(new.id).status == "available"  # type: ignore[union-attr]
    with plane.database.writer() as session:
        new = dataclasses.replace(new, location=made.id)
        assert backups.create(session, new, now=plane.clock.now())
    operation_id = restore(backed, new.id).operation_id
    runner = plane.runner()
    plane.settle(runner, until=lambda: plane.operation(operation_id).step == "await_agent")
    plane.guests.hello(instance_id)
    plane.settle(runner)
    assert plane.operation(operation_id).state is states.OperationState.SUCCEEDED
    names = {each["name"]: each for each in cinder.volumes.values()}
    own = names[name_of(instance_id)]
    assert (own["snapshot_id"], own["status"]) == (made.id, "in-use")
    assert own["metadata"]["trove_instance_id"] == instance_id
    # it stays for the snapshot alone
    assert names[name_of(operation_id)] is former
    assert (former["status"], len(cinder.volumes)) == ("available", 2)
