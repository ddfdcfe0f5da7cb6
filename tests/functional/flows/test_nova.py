"""Instances on Nova's stand-in: what its troubles come to, and what their owners are told."""

from __future__ import annotations

import dataclasses

import pytest
from oslo_config import cfg

from tests.fixtures import cloud
from tests.fixtures.cloud.fixtures import cloud_conf, standin_servers, standins
from tests.fixtures.cloud.nova import Nova
from tests.fixtures.control_plane import ControlPlane
from trove import states
from trove.db import base
from trove.drivers.compute.nova import NovaCompute

__all__ = ["cloud_conf", "standin_servers", "standins"]

Task = states.TaskStatus
SERVERS = r"/v2\.1/servers$"


@pytest.fixture
def nova(standins: cloud.StandInCloud) -> Nova:
    made: Nova = standins.find("compute")
    return made


@pytest.fixture
def plane(sqlite_database: base.Database, cloud_conf: cfg.ConfigOpts, nova: Nova) -> ControlPlane:
    made = ControlPlane(sqlite_database)
    drivers = dataclasses.replace(made.tools.drivers, compute=NovaCompute(cloud_conf))
    made.tools = dataclasses.replace(made.tools, drivers=drivers)
    return made


def fail(plane: ControlPlane, nova: Nova) -> str:
    """Have a create fail at its server; return the fault, with nothing left."""
    instance_id, _ = plane.create()
    runner = plane.runner()
    plane.settle(runner, until=lambda: nova.count("POST", SERVERS) > 2)
    if nova.count("POST", SERVERS) > 2:
        # it would be tried again and again, until there is no time left
        plane.manual_clock.advance(900)
        plane.settle(runner)
    instance = plane.instance(instance_id)
    assert instance.task is Task.BUILDING_ERROR_SERVER
    assert nova.servers == {}
    assert (plane.leftovers().volumes, plane.leftovers().ports) == (0, 0)
    assert instance.fault_message is not None
    return str(instance.fault_message)


def test_a_quota_of_the_cloud_reaches_the_instances_fault(plane: ControlPlane, nova: Nova) -> None:
    nova.max_servers = 0
    told = fail(plane, nova)
    assert told.startswith("Nova failed to create a server with flavor db.tiny: Quota exceeded")
    assert "(request req-" in told
    assert "The operator raises this service's quota in Nova" in told


def test_a_server_for_which_there_is_no_host_reaches_the_instances_fault(
    plane: ControlPlane, nova: Nova
) -> None:
    nova.fail_next("No valid host was found. There are not enough hosts available.")
    told = fail(plane, nova)
    assert "Nova failed to create the server: No valid host was found" in told
    assert "(request req-" in told
    assert "Choose a smaller flavor" in told


def test_nova_that_stays_down_reaches_the_instances_fault(plane: ControlPlane, nova: Nova) -> None:
    nova.refuse("POST", SERVERS, 503, "overloaded", times=1000)
    told = fail(plane, nova)
    assert "Nova failed to create a server with flavor db.tiny: overloaded (request req-" in told
    assert "create it again once the cause is mended" in told


@pytest.mark.parametrize("trouble", ["down", "lost"])
def test_a_short_trouble_costs_nothing_but_time(
    plane: ControlPlane, nova: Nova, trouble: str
) -> None:
    match trouble:
        case "down":
            nova.refuse(".*", "", 503, times=4)
        case "lost":
            nova.lose_reply("POST", SERVERS, times=2)
    instance_id, _ = plane.create()
    runner = plane.runner()
    plane.settle(runner, until=lambda: _is_active(nova))
    plane.guests.hello(instance_id)
    plane.settle(runner)
    instance = plane.instance(instance_id)
    assert (instance.task, instance.fault_message) == (Task.NONE, None)
    assert [instance.server_id] == list(nova.servers)
    plane.delete(instance_id)
    plane.settle(runner)
    assert plane.instance(instance_id).is_deleted
    assert nova.servers == {}


def _is_active(nova: Nova) -> bool:
    return [each.status for each in nova.servers.values()] == ["ACTIVE"]
