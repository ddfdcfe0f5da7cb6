"""Instances on stand-ins of Neutron and Designate: where they are reached, and what is told."""

from __future__ import annotations

import dataclasses
import uuid
from typing import Any

import pytest
import sqlalchemy as sa
from oslo_config import cfg

from tests.fixtures import cloud
from tests.fixtures.cloud.designate import ZONE, Designate
from tests.fixtures.cloud.fixtures import cloud_conf, standin_servers, standins
from tests.fixtures.cloud.neutron import Connected, Neutron
from tests.fixtures.control_plane import ControlPlane
from trove import states
from trove.db import base, models
from trove.drivers.dns.designate import DesignateDns
from trove.drivers.network.neutron import NeutronNetwork

__all__ = ["cloud_conf", "standin_servers", "standins"]

Task = states.TaskStatus


@pytest.fixture
def neutron(standins: cloud.StandInCloud) -> Neutron:
    made: Neutron = standins.find("network")
    return made


@pytest.fixture
def designate(standins: cloud.StandInCloud) -> Designate:
    made: Designate = standins.find("dns")
    return made


@pytest.fixture
def nets(neutron: Neutron) -> Connected:
    return neutron.add_connected("project")


@pytest.fixture
def plane(
    sqlite_database: base.Database, cloud_conf: cfg.ConfigOpts, neutron: Neutron
) -> ControlPlane:
    management_id = neutron.add_network("172.16.0.0/24", project_id=cloud.PROJECT_ID)
    cloud_conf.set_override("management_network", management_id, group="neutron")
    cloud_conf.set_override("transport_url", "rabbit://u:p@172.16.0.2/guests", group="guest")
    cloud_conf.set_override("zone", ZONE, group="designate")
    made = ControlPlane(sqlite_database)
    drivers = dataclasses.replace(
        made.tools.drivers, network=NeutronNetwork(cloud_conf), dns=DesignateDns(cloud_conf)
    )
    made.tools = dataclasses.replace(made.tools, drivers=drivers)
    return made


def create(plane: ControlPlane, nic: dict[str, str], *, is_public: bool = False) -> models.Instance:
    instance_id, _ = plane.create(nic=nic)
    access = {"is_public": is_public, "allowed_cidrs": ["198.51.100.0/24"]}
    with plane.database.writer() as session:
        where = models.Instance.id == instance_id
        session.execute(sa.update(models.Instance).where(where).values(access=access))
    plane.settle(plane.runner())
    return plane.instance(instance_id)


def left(neutron: Neutron, designate: Designate) -> dict[str, int]:
    """Count what is left of instances."""
    found: dict[str, Any] = {
        "ports": neutron.ports.values(),
        "groups": [each for each in neutron.groups.values() if each["name"] != "database-guests"],
        "floating": neutron.floating.values(),
    }
    counts = {
        name: sum(each["project_id"] == cloud.PROJECT_ID for each in things)
        for name, things in found.items()
    }
    return {**counts, "names": len(designate.records)}


NOTHING = {"ports": 0, "groups": 0, "floating": 0, "names": 0}


def test_a_public_instance_is_shown_where_it_is_reached_and_leaves_nothing(
    plane: ControlPlane, neutron: Neutron, designate: Designate, nets: Connected
) -> None:
    instance = create(plane, {"network_id": nets.network_id}, is_public=True)
    assert (instance.task, instance.fault_message) == (Task.NONE, None)
    private, public = instance.addresses
    assert (private["type"], private["network"]) == ("private", nets.network_id)
    (floating,) = neutron.floating.values()
    assert (public["type"], public["address"]) == ("public", floating["floating_ip_address"])
    assert instance.hostname == f"{instance.id}.{ZONE}".rstrip(".")
    assert designate.names() == {(f"{instance.hostname}.", "A"): [public["address"]]}
    spec = plane.compute.spec_of(instance.id)
    assert spec.address == private["address"]
    assert spec.port_id == instance.port_id
    ports = {each["id"]: each for each in neutron.ports.values()}
    assert ports[str(spec.management_port_id)]["network_id"] != nets.network_id
    plane.delete(instance.id)
    plane.settle(plane.runner())
    assert plane.instance(instance.id).is_deleted
    assert left(neutron, designate) == NOTHING


@pytest.mark.parametrize("trouble", ["down", "lost", "dropped"])
def test_a_short_trouble_costs_nothing_but_time(
    plane: ControlPlane, neutron: Neutron, designate: Designate, nets: Connected, trouble: str
) -> None:
    match trouble:
        case "down":
            neutron.refuse(".*", "", 503, times=4)
            designate.refuse(".*", "", 503, times=2)
        case "lost":
            neutron.lose_reply("POST", "", times=4)
            designate.lose_reply("POST", "")
        case "dropped":
            neutron.drop("POST|GET", "", times=4)
            designate.drop("POST|GET", "")
    instance = create(plane, {"network_id": nets.network_id}, is_public=True)
    assert (instance.task, instance.fault_message) == (Task.NONE, None)
    assert left(neutron, designate) == {"ports": 2, "groups": 1, "floating": 1, "names": 1}
    neutron.lose_reply("DELETE", "", times=3)
    designate.lose_reply("DELETE", "")
    plane.delete(instance.id)
    plane.settle(plane.runner())
    assert plane.instance(instance.id).is_deleted
    assert left(neutron, designate) == NOTHING


def test_what_is_wrong_with_a_network_reaches_the_instances_fault(
    plane: ControlPlane, neutron: Neutron, designate: Designate
) -> None:
    full = neutron.add_network("10.5.0.0/30", project_id="project")
    create(plane, {"network_id": full})
    islanded = neutron.add_network("10.6.0.0/24", project_id="project")
    for nic, is_public, words in (
        ({"network_id": full}, False, ("No more IP addresses", "(request req-", "pools")),
        ({"network_id": str(uuid.uuid4())}, False, ("could not be found", "(request req-")),
        ({"network_id": islanded}, True, ("no router leads from network", "with a router")),
    ):
        instance = create(plane, nic, is_public=is_public)
        assert instance.task is Task.BUILDING_ERROR_PORT
        message = str(instance.fault_message)
        assert message.startswith("Neutron failed to ")
        for each in (*words, "delete it, and create it again"):
            assert each in message
        assert left(neutron, designate) == {"ports": 2, "groups": 1, "floating": 0, "names": 1}


def test_a_name_that_cannot_be_made_reaches_the_instances_fault(
    plane: ControlPlane, neutron: Neutron, designate: Designate, nets: Connected
) -> None:
    designate.refuse("POST", "recordsets", 413, "Quota exceeded for zone_recordsets.")
    instance = create(plane, {"network_id": nets.network_id})
    assert instance.task is Task.BUILDING_ERROR_DNS
    assert "Designate failed to name an instance: Quota exceeded" in str(instance.fault_message)
    assert left(neutron, designate) == NOTHING
    assert instance.hostname is None


def test_what_nobody_owns_any_more_is_found_and_removed(
    plane: ControlPlane, neutron: Neutron, designate: Designate, nets: Connected
) -> None:
    instance = create(plane, {"network_id": nets.network_id}, is_public=True)
    stores: tuple[dict[str, dict[str, Any]], ...] = (
        neutron.groups,
        neutron.floating,
        designate.records,
    )
    kept = [{key: dict(wire) for key, wire in things.items()} for things in stores]
    plane.delete(instance.id)
    plane.settle(plane.runner())
    # as if the deletions had never reached the services
    for things, old in zip(stores, kept, strict=True):
        things.update(old)
    for each in neutron.floating.values():
        each["port_id"] = None
    reconciler = plane.reconciler()
    for _ in range(3):
        reconciler.run()
        plane.manual_clock.advance(40)
    plane.settle(plane.runner())
    assert left(neutron, designate) == NOTHING
