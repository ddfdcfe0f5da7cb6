"""Names of instances on a stand-in of Designate."""

import pathlib
import uuid
from typing import Any

import pytest
from oslo_config import cfg

from tests.fixtures import cloud as standin
from tests.fixtures.cloud import designate as standin_designate
from tests.fixtures.cloud import fixtures as cloud_fixtures
from trove.common import exception
from trove.drivers import cloud
from trove.drivers.dns.designate import DesignateDns

standin_servers, standins = cloud_fixtures.standin_servers, cloud_fixtures.standins

ID = "11111111-2222-4333-8444-555555555555"
NAME = f"{ID}.{standin_designate.ZONE}"


@pytest.fixture
def server(standins: standin.StandInCloud) -> standin_designate.Designate:
    return standins.find("dns")


@pytest.fixture
def conf(standins: standin.StandInCloud, tmp_path: pathlib.Path) -> cfg.ConfigOpts:
    more = f"[designate]\nzone = {standin_designate.ZONE}\nttl_s = 60\n"
    return cloud_fixtures.make_conf(standins, tmp_path, more=more)


@pytest.fixture
def dns(conf: cfg.ConfigOpts) -> DesignateDns:
    return DesignateDns(conf)


def writes(server: standin_designate.Designate) -> list[str]:
    return [each.method for each in server.requests if each.method != "GET"]


def test_a_name_leads_to_exactly_the_addresses_of_both_kinds(
    server: standin_designate.Designate, dns: DesignateDns
) -> None:
    dns.set_records(ID, ["192.0.2.9", "2001:db8::1", "192.0.2.1"])
    assert server.names() == {
        (NAME, "A"): ["192.0.2.1", "192.0.2.9"],
        (NAME, "AAAA"): ["2001:db8::1"],
    }
    assert {record["ttl"] for record in server.records.values()} == {60}
    server.requests.clear()
    dns.set_records(ID, ["192.0.2.1", "192.0.2.9", "2001:db8::1"])
    assert writes(server) == []
    dns.set_records(ID, ["203.0.113.7"])
    assert server.names() == {(NAME, "A"): ["203.0.113.7"]}
    assert writes(server) == ["PUT", "DELETE"]
    dns.remove_records(ID)
    assert server.names() == {}


def test_no_name_costs_a_call_unless_the_zone_is_given_by_its_id(
    server: standin_designate.Designate, conf: cfg.ConfigOpts, dns: DesignateDns
) -> None:
    assert dns.hostname_of(ID) == NAME.rstrip(".")
    assert server.requests == []
    conf.set_override("zone", server.zone_id, group="designate")
    by_id = DesignateDns(conf)
    assert [by_id.hostname_of(ID) for _ in range(2)] == [NAME.rstrip(".")] * 2
    assert server.count("GET", "/v2/zones/") == 1
    by_id.set_records(ID, ["192.0.2.1"])
    assert (NAME, "A") in server.names()


def test_names_look_as_the_operator_wants_them(
    server: standin_designate.Designate, conf: cfg.ConfigOpts
) -> None:
    conf.set_override("hostname_template", "db-{instance_id}.prod", group="designate")
    made = DesignateDns(conf)
    made.set_records(ID, ["192.0.2.1"])
    assert list(server.names()) == [(f"db-{ID}.prod.{standin_designate.ZONE}", "A")]
    assert made.list_owners() == {ID}


@pytest.mark.parametrize(
    "template", ["", "db", "{instance_id}_x", "{name}", "{}", "{instance_id", "a..{instance_id}"]
)
def test_a_template_that_makes_no_name_is_refused_at_start(
    conf: cfg.ConfigOpts, template: str
) -> None:
    conf.set_override("hostname_template", template, group="designate")
    with pytest.raises(exception.ConfigurationError, match="hostname_template"):
        DesignateDns(conf)


def test_without_a_zone_the_driver_does_not_start(conf: cfg.ConfigOpts) -> None:
    conf.set_override("zone", None, group="designate")
    with pytest.raises(exception.ConfigurationError, match=r"\[designate\] zone"):
        DesignateDns(conf)


def test_a_zone_of_another_project_is_told_as_such(
    server: standin_designate.Designate, conf: cfg.ConfigOpts
) -> None:
    server.add_zone("other.example.org.", project_id="other")
    conf.set_override("zone", "other.example.org", group="designate")
    with pytest.raises(cloud.CloudNotFound, match=r"no zone other.example.org.*\[designate\] zone"):
        DesignateDns(conf).set_records(ID, ["192.0.2.1"])


def test_a_name_that_is_somebody_elses_is_left_alone(
    server: standin_designate.Designate, dns: DesignateDns
) -> None:
    theirs: dict[str, Any] = {
        "id": "r",
        "zone_id": server.zone_id,
        "name": NAME,
        "type": "A",
        "records": ["192.0.2.200"],
        "ttl": 300,
        "description": None,
        "action": "NONE",
    }
    server.records["r"] = theirs
    with pytest.raises(cloud.CloudConflict, match="the name of something else"):
        dns.set_records(ID, ["192.0.2.1"])
    dns.remove_records(ID)
    assert server.records == {"r": theirs}
    assert dns.list_owners() == set()


def test_all_pages_of_names_are_read(
    server: standin_designate.Designate, dns: DesignateDns
) -> None:
    ids = {str(uuid.uuid4()) for _ in range(5)}
    for each in ids:
        dns.set_records(each, ["192.0.2.1"])
    server.page_size = 2
    assert dns.list_owners() == ids


def test_a_name_that_is_being_removed_is_gone(
    server: standin_designate.Designate, dns: DesignateDns
) -> None:
    dns.set_records(ID, ["192.0.2.1"])
    server.is_slow_to_remove = True
    dns.remove_records(ID)
    server.requests.clear()
    dns.remove_records(ID)
    assert writes(server) == []
    assert dns.list_owners() == set()


@pytest.mark.parametrize("kind", ["lost", "dropped", "refused"])
def test_no_answer_leaves_neither_a_twin_nor_a_gap(
    server: standin_designate.Designate, dns: DesignateDns, kind: str
) -> None:
    if kind == "refused":
        server.refuse("POST", "recordsets", 503)
    else:
        (server.lose_reply if kind == "lost" else server.drop)("POST", "recordsets")
    with pytest.raises(cloud.CloudUnavailable) as caught:
        dns.set_records(ID, ["192.0.2.1"])
    assert caught.value.retryable
    dns.set_records(ID, ["192.0.2.1"])
    assert server.names() == {(NAME, "A"): ["192.0.2.1"]}


def test_a_designate_that_is_down_or_over_quota_is_told_as_such(
    server: standin_designate.Designate, dns: DesignateDns
) -> None:
    with server.down(), pytest.raises(cloud.CloudUnavailable):
        dns.list_owners()
    server.refuse("POST", "recordsets", 413, "Quota exceeded for zone_recordsets.")
    with pytest.raises(cloud.CloudQuotaExceeded, match="Designate failed to name an instance"):
        dns.set_records(ID, ["192.0.2.1"])
