"""Ports, groups and floating addresses on a stand-in of Neutron."""

import pathlib
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from oslo_config import cfg

from tests.fixtures import cloud as standin
from tests.fixtures.cloud import fixtures as cloud_fixtures
from tests.fixtures.cloud import neutron as standin_neutron
from trove.common import context, exception
from trove.drivers import cloud
from trove.drivers.network import neutron, neutron_rules

standin_servers, standins = cloud_fixtures.standin_servers, cloud_fixtures.standins

PORT = 3306
USERS_PROJECT = "a5e20000000000000000000000000001"
EVERYBODY = {"is_public": False, "allowed_cidrs": ["0.0.0.0/0", "::/0"]}
PUBLIC = {"is_public": True, "allowed_cidrs": ["198.51.100.0/24", "2001:db8::/32"]}
ENGINE_RULES = {
    ("IPv4", "tcp", PORT, "198.51.100.0/24"),
    ("IPv6", "tcp", PORT, "2001:db8::/32"),
}


@pytest.fixture
def server(standins: standin.StandInCloud) -> standin_neutron.Neutron:
    return standins.find("network")


@pytest.fixture
def user(standins: standin.StandInCloud) -> standin.Token:
    return standins.identity.add_user("joe", project_id=USERS_PROJECT)


@pytest.fixture
def nets(server: standin_neutron.Neutron) -> standin_neutron.Connected:
    return server.add_connected(USERS_PROJECT)


@pytest.fixture
def management(server: standin_neutron.Neutron) -> str:
    return server.add_network("172.16.0.0/24", project_id=standin.PROJECT_ID)


@pytest.fixture
def conf(standins: standin.StandInCloud, tmp_path: pathlib.Path, management: str) -> cfg.ConfigOpts:
    more = f"timeout = 1\n[neutron]\nmanagement_network = {management}\n"
    made = cloud_fixtures.make_conf(standins, tmp_path, more=more)
    url = "rabbit://u:p@192.0.2.10:5671,u:p@192.0.2.11:5671/guests"
    made.set_override("transport_url", url, group="guest")
    endpoints = ["https://objects.example.org/v1/AUTH_%s", "[2001:db8::8]:8080"]
    made.set_override("endpoints", endpoints, group="guestagent")
    made.set_override("hosts", {"Objects.example.org": "192.0.2.20"}, group="guestagent")
    return made


@pytest.fixture
def driver(conf: cfg.ConfigOpts) -> neutron.NeutronNetwork:
    return neutron.NeutronNetwork(conf)


@pytest.fixture
def instance_id() -> str:
    return str(uuid.uuid4())


@pytest.fixture
def make(
    driver: neutron.NeutronNetwork, nets: standin_neutron.Connected, instance_id: str
) -> Callable[..., Any]:
    def make(access: Any = EVERYBODY, *, of: str = instance_id, **nic: str) -> Any:
        return driver.create_port(
            instance_id=of,
            project_id=USERS_PROJECT,
            nic=nic or {"network_id": nets.network_id},
            access=access,
            engine_port=PORT,
        )

    return make


def left(server: standin_neutron.Neutron) -> tuple[int, int, int]:
    """Count the ports, groups and floating addresses of the service's project."""
    return tuple(  # type: ignore[return-value]
        sum(wire["project_id"] == standin.PROJECT_ID for wire in things.values())
        for things in (server.ports, server.groups, server.floating)
    )


def remove_all(driver: neutron.NeutronNetwork, instance_id: str) -> None:
    """Remove everything, in as many rounds as the driver may need."""
    assert any(driver.remove_all(instance_id) for _ in range(3))


def writes(server: standin_neutron.Neutron) -> list[str]:
    return [
        f"{each.method} {each.path.split('/')[2]}"
        for each in server.requests
        if each.method != "GET"
    ]


# -- who may connect -----


def test_only_the_engines_port_is_open_and_only_to_those_who_are_allowed(
    server: standin_neutron.Neutron, make: Callable[..., Any]
) -> None:
    port = server.ports[make({**PUBLIC, "is_public": False}).id]
    (group_id,) = port["security_groups"]
    assert server.rules_of(group_id) == ENGINE_RULES
    # to other engines of its kind, and nowhere else
    assert server.rules_of(group_id, "egress") == {
        ("IPv4", "tcp", PORT, "0.0.0.0/0"),
        ("IPv6", "tcp", PORT, "::/0"),
    }


def test_access_becomes_exactly_what_is_asked_for_and_nobody_is_kept_out_between(
    server: standin_neutron.Neutron, driver: neutron.NeutronNetwork, make: Callable[..., Any]
) -> None:
    port = make()
    (group_id,) = server.ports[port.id]["security_groups"]
    server.requests.clear()
    access = {"is_public": False, "allowed_cidrs": ["10.0.0.9/8", "0.0.0.0/0"]}
    assert driver.update_access(port.id, access=access, engine_port=PORT) == port
    assert server.rules_of(group_id) == {
        ("IPv4", "tcp", PORT, "10.0.0.0/8"),
        ("IPv4", "tcp", PORT, "0.0.0.0/0"),
    }
    assert writes(server) == ["POST security-group-rules", "DELETE security-group-rules"]
    server.requests.clear()
    driver.update_access(port.id, access=access, engine_port=PORT)
    assert writes(server) == []


def test_all_ports_of_an_engine_have_the_same_rules(
    server: standin_neutron.Neutron, driver: neutron.NeutronNetwork, make: Callable[..., Any]
) -> None:
    port = make()
    (group_id,) = server.ports[port.id]["security_groups"]
    access = {"is_public": False, "allowed_cidrs": ["10.0.0.0/8"]}
    driver.update_access(port.id, access=access, engine_port=PORT, more_ports=(PORT + 1,))
    assert server.rules_of(group_id) == {
        ("IPv4", "tcp", PORT, "10.0.0.0/8"),
        ("IPv4", "tcp", PORT + 1, "10.0.0.0/8"),
    }
    driver.update_access(port.id, access=access, engine_port=PORT)
    assert server.rules_of(group_id) == {("IPv4", "tcp", PORT, "10.0.0.0/8")}


def test_rules_that_somebody_added_meanwhile_are_no_failure(
    server: standin_neutron.Neutron, driver: neutron.NeutronNetwork, make: Callable[..., Any]
) -> None:
    port = make()
    (group_id,) = server.ports[port.id]["security_groups"]
    server.lose_reply("POST", "security-group-rules")
    access = {"is_public": False, "allowed_cidrs": ["10.0.0.0/8", "192.168.0.0/16"]}
    with pytest.raises(cloud.CloudUnavailable):
        driver.update_access(port.id, access=access, engine_port=PORT)
    driver.update_access(port.id, access=access, engine_port=PORT)
    server.refuse("POST", "security-group-rules", 409, "it exists")
    more = {**access, "allowed_cidrs": ["10.0.0.0/8", "172.20.0.0/16", "172.21.0.0/16"]}
    driver.update_access(port.id, access=more, engine_port=PORT)
    assert {network for *_, network in server.rules_of(group_id)} == set(more["allowed_cidrs"])


def test_a_port_that_lost_its_group_is_put_back_into_it(
    server: standin_neutron.Neutron, driver: neutron.NeutronNetwork, make: Callable[..., Any]
) -> None:
    port = make()
    before = server.ports[port.id]["security_groups"]
    server.ports[port.id]["security_groups"] = []
    driver.update_access(port.id, access=EVERYBODY, engine_port=PORT)
    assert server.ports[port.id]["security_groups"] == before


# -- public addresses -----


def test_a_public_address_comes_from_the_network_behind_the_users_router(
    server: standin_neutron.Neutron,
    driver: neutron.NeutronNetwork,
    nets: standin_neutron.Connected,
    make: Callable[..., Any],
    instance_id: str,
) -> None:
    port = make(PUBLIC)
    (floating,) = server.floating.values()
    assert port.is_public
    assert port.public_address == floating["floating_ip_address"]
    assert floating["floating_network_id"] == nets.external_id
    assert (floating["port_id"], floating["fixed_ip_address"]) == (port.id, port.address)
    assert driver.find_port(instance_id) == port
    assert list(driver.list_ports()) == [port]
    assert driver.update_access(port.id, access=PUBLIC, engine_port=PORT) == port
    private = driver.update_access(port.id, access=EVERYBODY, engine_port=PORT)
    assert (private.is_public, private.public_address) == (False, None)
    assert server.floating == {}


def test_the_operator_may_name_the_network_of_public_addresses(
    server: standin_neutron.Neutron,
    conf: cfg.ConfigOpts,
    nets: standin_neutron.Connected,
    make: Callable[..., Any],
) -> None:
    other = server.add_network("203.0.113.0/28", project_id="operator", is_external=True)
    server.routers[nets.router_id]["external_gateway_info"] = {"network_id": other}
    conf.set_override("external_network", other, group="neutron")
    server.requests.clear()
    make(PUBLIC)
    (floating,) = server.floating.values()
    assert floating["floating_network_id"] == other
    assert server.count("GET", "routers") == 0


@pytest.mark.parametrize("has_router", [True, False])
def test_without_a_router_to_the_outside_there_is_no_public_address(
    server: standin_neutron.Neutron, make: Callable[..., Any], has_router: bool
) -> None:
    network_id = server.add_network("10.8.0.0/24", project_id=USERS_PROJECT)
    if has_router:
        (subnet_id,) = server.networks[network_id]["subnets"]
        server.add_router(subnet_id, None, project_id=USERS_PROJECT)
    with pytest.raises(cloud.CloudError, match=r"no router leads from network .*Connect") as caught:
        make(PUBLIC, network_id=network_id)
    assert not caught.value.retryable


def test_a_public_address_is_completed_after_a_death_behind_the_port(
    server: standin_neutron.Neutron, make: Callable[..., Any]
) -> None:
    server.refuse("POST", "floatingips", 503)
    with pytest.raises(cloud.CloudUnavailable):
        make(PUBLIC)
    port = make(PUBLIC)
    assert port.public_address is not None
    assert left(server) == (1, 1, 1)


def test_a_public_address_moves_to_the_port_that_took_the_place_of_another(
    server: standin_neutron.Neutron, make: Callable[..., Any]
) -> None:
    first = make(PUBLIC)
    del server.ports[first.id]
    (floating,) = server.floating.values()
    floating.update(port_id=None, fixed_ip_address=None)
    second = make(PUBLIC)
    assert (second.id != first.id, second.public_address) == (True, first.public_address)
    assert floating["port_id"] == second.id


# -- where -----


def test_both_addresses_of_a_network_with_ipv6_are_told_ipv4_first(
    server: standin_neutron.Neutron, make: Callable[..., Any]
) -> None:
    network_id = server.add_network("2001:db8:1::/64", "10.7.0.0/24", project_id=USERS_PROJECT)
    port = make(network_id=network_id)
    assert (port.address, port.more_addresses) == ("10.7.0.2", ("2001:db8:1::2",))


def test_a_port_may_have_an_address_of_ipv6_alone(
    server: standin_neutron.Neutron, make: Callable[..., Any]
) -> None:
    network_id = server.add_network("2001:db8:2::/64", project_id=USERS_PROJECT)
    assert make(network_id=network_id).address == "2001:db8:2::2"


def test_the_port_is_in_the_subnet_and_has_the_address_that_were_named(
    nets: standin_neutron.Connected, make: Callable[..., Any]
) -> None:
    port = make(subnet_id=nets.subnet_id, ip_address="10.9.0.77")
    assert (port.address, port.network_id) == ("10.9.0.77", nets.network_id)


def test_the_default_network_is_for_those_who_name_none(
    conf: cfg.ConfigOpts,
    driver: neutron.NeutronNetwork,
    nets: standin_neutron.Connected,
    instance_id: str,
) -> None:
    def make() -> Any:
        return driver.create_port(
            instance_id=instance_id,
            project_id=USERS_PROJECT,
            nic=None,
            access=None,
            engine_port=PORT,
        )

    assert driver.requires_nic
    with pytest.raises(cloud.CloudError, match=r"no network was named.*Name a network in nics"):
        make()
    conf.set_override("default_network", nets.network_id, group="neutron")
    assert not driver.requires_nic
    assert make().network_id == nets.network_id


# -- bad days -----


def test_a_full_network_is_told_as_such(
    server: standin_neutron.Neutron, make: Callable[..., Any]
) -> None:
    network_id = server.add_network("10.6.0.0/30", project_id=USERS_PROJECT)
    make(network_id=network_id)
    with pytest.raises(exception.AddressPoolExhausted) as caught:
        make(of=str(uuid.uuid4()), network_id=network_id)
    assert not caught.value.retryable
    assert "No more IP addresses" in caught.value.message
    assert "allocation pools" in caught.value.message
    assert server.request_ids[-1] in caught.value.message


def test_an_address_that_is_taken_is_told_as_such(
    nets: standin_neutron.Connected, make: Callable[..., Any]
) -> None:
    make(subnet_id=nets.subnet_id, ip_address="10.9.0.5")
    with pytest.raises(cloud.CloudConflict, match="Name another address"):
        make(of=str(uuid.uuid4()), subnet_id=nets.subnet_id, ip_address="10.9.0.5")


def test_a_network_that_is_gone_is_told_as_such(make: Callable[..., Any]) -> None:
    with pytest.raises(cloud.CloudNotFound, match=r"could not be found.*Name a network") as caught:
        make(network_id=str(uuid.uuid4()))
    assert not caught.value.retryable


def test_a_network_without_subnets_has_no_addresses(
    server: standin_neutron.Neutron, make: Callable[..., Any]
) -> None:
    network_id = server.add_network(project_id=USERS_PROJECT)
    with pytest.raises(cloud.CloudError, match="has no subnet"):
        make(network_id=network_id)


@pytest.mark.parametrize("name", ["ports", "security_groups", "security_group_rules"])
def test_the_services_quota_is_told_as_such(
    server: standin_neutron.Neutron, make: Callable[..., Any], name: str
) -> None:
    server.quota[name] = 0
    with pytest.raises(cloud.CloudQuotaExceeded, match=r"Neutron .*quota") as caught:
        make()
    assert not caught.value.retryable


@pytest.mark.parametrize(
    "path", ["security-groups", "security-group-rules", "ports", "floatingips"]
)
@pytest.mark.parametrize("kind", ["lost", "dropped", "refused"])
def test_no_answer_leaves_neither_a_twin_nor_a_gap(
    server: standin_neutron.Neutron,
    driver: neutron.NeutronNetwork,
    make: Callable[..., Any],
    instance_id: str,
    kind: str,
    path: str,
) -> None:
    if kind == "refused":
        server.refuse("POST", path, 500)
    else:
        (server.lose_reply if kind == "lost" else server.drop)("POST", f"{path}$")
    with pytest.raises(cloud.CloudUnavailable) as caught:
        make(PUBLIC)
    assert caught.value.retryable
    port = make(PUBLIC)
    assert left(server) == (1, 1, 1)
    (group_id,) = server.ports[port.id]["security_groups"]
    assert server.rules_of(group_id) == ENGINE_RULES
    remove_all(driver, instance_id)
    assert left(server) == (0, 0, 0)


def test_a_neutron_that_is_down_or_slow_can_be_tried_again(
    server: standin_neutron.Neutron, driver: neutron.NeutronNetwork, make: Callable[..., Any]
) -> None:
    with server.down(), pytest.raises(cloud.CloudUnavailable, match="Service Unavailable"):
        driver.list_ports()
    with server.unreachable(), pytest.raises(cloud.CloudUnavailable) as caught:
        make()
    assert caught.value.retryable
    server.delay("GET", "ports", 1.3)
    with pytest.raises(cloud.CloudUnavailable):
        driver.list_ports()
    make()


@pytest.mark.parametrize("has_server", [True, False])
def test_of_twins_the_one_that_a_server_has_stays_else_the_older(
    server: standin_neutron.Neutron,
    driver: neutron.NeutronNetwork,
    make: Callable[..., Any],
    instance_id: str,
    has_server: bool,
) -> None:
    first = make()
    for things, given in ((server.ports, server.ports[first.id]), (server.groups, None)):
        twin = dict(given or next(iter(server.groups.values())))
        twin.update(id=str(uuid.uuid4()), created_at="2099-01-01T00:00:00Z")
        things[twin["id"]] = twin
        if given is not None and has_server:
            twin["device_id"] = "server"
    port = driver.find_port(instance_id)
    assert port is not None
    assert (port.id == first.id) is not has_server
    driver.update_access(port.id, access=EVERYBODY, engine_port=PORT)
    assert left(server) == (1, 1, 0)


def test_what_other_projects_name_like_ours_is_not_ours(
    server: standin_neutron.Neutron,
    driver: neutron.NeutronNetwork,
    make: Callable[..., Any],
    instance_id: str,
) -> None:
    port = make(PUBLIC)
    for things in (server.ports, server.groups, server.floating):
        (mine,) = [each for each in things.values() if each["project_id"] == standin.PROJECT_ID]
        theirs = {**mine, "id": str(uuid.uuid4()), "project_id": USERS_PROJECT, "port_id": None}
        if "security_groups" in theirs:
            theirs["security_groups"] = []
        things[theirs["id"]] = {**theirs, "created_at": "1999-01-01T00:00:00Z"}
    assert driver.find_port(instance_id) == port
    assert list(driver.list_ports()) == [port]
    assert driver.update_access(port.id, access=PUBLIC, engine_port=PORT) == port
    remove_all(driver, instance_id)
    assert left(server) == (0, 0, 0)
    assert driver.list_owners() == set()
    assert sum(each["project_id"] == USERS_PROJECT for each in server.groups.values()) == 1
    assert len(server.floating) == 1
    foreign = next(each for each in server.ports.values() if each["name"])
    with pytest.raises(cloud.CloudNotFound):
        driver.update_access(foreign["id"], access=EVERYBODY, engine_port=PORT)
    driver.delete_port(foreign["id"])
    assert foreign["id"] in server.ports


# -- the management network -----


def test_a_guest_reaches_broker_and_object_store_over_the_management_network(
    server: standin_neutron.Neutron,
    driver: neutron.NeutronNetwork,
    management: str,
    instance_id: str,
) -> None:
    port_id = driver.create_management_port(instance_id=instance_id)
    assert port_id is not None
    assert driver.create_management_port(instance_id=instance_id) == port_id
    port = server.ports[port_id]
    assert port["network_id"] == management
    (group_id,) = port["security_groups"]
    assert server.rules_of(group_id) == set()
    assert server.rules_of(group_id, "egress") == {
        ("IPv4", "tcp", 5671, "192.0.2.10/32"),
        ("IPv4", "tcp", 5671, "192.0.2.11/32"),
        ("IPv4", "tcp", 443, "192.0.2.20/32"),
        ("IPv6", "tcp", 8080, "2001:db8::8/128"),
    }
    # it is not taken for the port of the engine, nor the group for one of an instance
    assert driver.find_port(instance_id) is None
    assert list(driver.list_ports()) == []
    assert driver.list_owners() == {instance_id}
    other = driver.create_management_port(instance_id=str(uuid.uuid4()))
    assert server.ports[str(other)]["security_groups"] == [group_id]


@pytest.mark.parametrize(
    ("url", "port"),
    [
        ("rabbit://u:p@localhost/guests", 5672),
        ("rabbit://u:p@localhost/guests?ssl=1", 5671),
        ("rabbit://u:p@localhost:5680/guests", 5680),
    ],
)
def test_a_broker_with_a_name_is_resolved(conf: cfg.ConfigOpts, url: str, port: int) -> None:
    conf.set_override("transport_url", url, group="guest")
    conf.set_override("endpoints", [], group="guestagent")
    rules = {(rule.direction, rule.port, rule.network) for rule in neutron_rules.of_guests(conf)}
    assert ("egress", port, "127.0.0.1/32") in rules


def test_a_broker_whose_name_nobody_knows_can_be_tried_again(conf: cfg.ConfigOpts) -> None:
    conf.set_override("transport_url", "rabbit://u:p@nobody.invalid/guests", group="guest")
    with pytest.raises(exception.DriverUnavailable, match=r"nobody\.invalid"):
        neutron_rules.of_guests(conf)


@pytest.mark.parametrize("endpoint", ["objects", "https://", "10.0.0.1:port"])
def test_an_endpoint_that_is_none_is_refused(conf: cfg.ConfigOpts, endpoint: str) -> None:
    conf.set_override("endpoints", [endpoint], group="guestagent")
    with pytest.raises(exception.ConfigurationError, match=r"\[guestagent\] endpoints"):
        neutron_rules.of_guests(conf)


def test_a_group_for_guests_of_the_operators_is_used_as_it_is(
    server: standin_neutron.Neutron, conf: cfg.ConfigOpts, instance_id: str
) -> None:
    group = {"id": "5ec", "name": "ops", "project_id": standin.PROJECT_ID, "description": ""}
    server.groups["5ec"] = group
    conf.set_override("management_security_group", "5ec", group="neutron")
    port_id = neutron.NeutronNetwork(conf).create_management_port(instance_id=instance_id)
    assert server.ports[str(port_id)]["security_groups"] == ["5ec"]
    assert list(server.groups) == ["5ec"]


def test_without_a_management_network_there_is_no_port_to_it(
    conf: cfg.ConfigOpts, driver: neutron.NeutronNetwork, instance_id: str
) -> None:
    conf.set_override("management_network", None, group="neutron")
    assert driver.create_management_port(instance_id=instance_id) is None


def test_a_group_for_guests_that_is_gone_is_made_anew(
    server: standin_neutron.Neutron, driver: neutron.NeutronNetwork, instance_id: str
) -> None:
    driver.create_management_port(instance_id=str(uuid.uuid4()))
    server.groups.clear()
    server.rules.clear()
    with pytest.raises(cloud.CloudNotFound):
        driver.create_management_port(instance_id=instance_id)
    assert driver.create_management_port(instance_id=instance_id) is not None


# -- removal and lists -----


def test_everything_of_an_instance_goes_in_an_order_that_works(
    server: standin_neutron.Neutron,
    driver: neutron.NeutronNetwork,
    make: Callable[..., Any],
    instance_id: str,
) -> None:
    make(PUBLIC)
    driver.create_management_port(instance_id=instance_id)
    server.requests.clear()
    remove_all(driver, instance_id)
    assert writes(server) == [
        "DELETE floatingips",
        "DELETE ports",
        "DELETE ports",
        "DELETE security-groups",
    ]
    # the group of all guests stays
    assert left(server) == (0, 1, 0)
    assert driver.remove_all(instance_id)


def test_a_deleted_port_takes_address_and_group_along(
    server: standin_neutron.Neutron, driver: neutron.NeutronNetwork, make: Callable[..., Any]
) -> None:
    port = make(PUBLIC)
    for _ in range(2):
        driver.delete_port(port.id)
        assert left(server) == (0, 0, 0)


@pytest.mark.parametrize("what", ["ports", "groups", "floating"])
def test_whatever_is_left_has_an_owner_and_can_be_removed(
    server: standin_neutron.Neutron,
    driver: neutron.NeutronNetwork,
    make: Callable[..., Any],
    instance_id: str,
    what: str,
) -> None:
    make(PUBLIC)
    for name in {"ports", "groups", "floating"} - {what}:
        things = getattr(server, name)
        for key in [
            key for key, wire in things.items() if wire["project_id"] == standin.PROJECT_ID
        ]:
            del things[key]
    assert driver.list_owners() == {instance_id}
    remove_all(driver, instance_id)
    assert driver.list_owners() == set()


def test_lists_cost_the_same_calls_however_much_there_is(
    server: standin_neutron.Neutron, driver: neutron.NeutronNetwork, make: Callable[..., Any]
) -> None:
    counts = []
    for _ in range(2):
        make(PUBLIC)
        server.requests.clear()
        driver.list_ports()
        driver.list_owners()
        counts.append(len(server.requests))
        make(of=str(uuid.uuid4()))
    assert counts[0] == counts[1] == 5


# -- what users may use -----


@pytest.fixture
def caller(user: standin.Token) -> context.RequestContext:
    return context.RequestContext(auth_token=user.id, project_id=USERS_PROJECT, user_id="joe")


def test_users_may_use_their_own_networks_and_what_is_shared_with_them(
    server: standin_neutron.Neutron,
    driver: neutron.NeutronNetwork,
    nets: standin_neutron.Connected,
    caller: context.RequestContext,
    user: standin.Token,
) -> None:
    for_all = server.add_network("10.3.0.0/24", project_id="other", is_shared=True)
    # guests keep the same addresses on both sides apart
    beside = server.add_network("172.16.0.0/16", project_id=USERS_PROJECT)
    for_me = server.add_network("10.4.0.0/24", project_id="other", shared_with=(USERS_PROJECT,))
    server.requests.clear()
    for nic in (
        {"network_id": nets.network_id},
        {"subnet_id": nets.subnet_id},
        {"network_id": nets.network_id, "subnet_id": nets.subnet_id, "ip_address": "10.9.0.9"},
        {"network_id": for_all},
        {"network_id": for_me},
        {"network_id": beside},
    ):
        driver.check_nic(nic, caller=caller)
    tokens = {
        each.headers.get("x-auth-token")
        for each in server.requests
        if "/networks/" in each.path or "/subnets/" in each.path
    }
    assert tokens == {user.id}
    assert writes(server) == []


def test_users_may_not_use_what_is_not_theirs(
    server: standin_neutron.Neutron,
    driver: neutron.NeutronNetwork,
    nets: standin_neutron.Connected,
    caller: context.RequestContext,
) -> None:
    foreign = server.add_network("10.5.0.0/24", project_id="other")
    (foreign_subnet,) = server.networks[foreign]["subnets"]
    mine = server.add_network("10.2.0.0/24", project_id=USERS_PROJECT)
    for nic, words in (
        ({"network_id": foreign}, "cannot be found"),
        ({"subnet_id": foreign_subnet}, "cannot be found"),
        ({"network_id": str(uuid.uuid4())}, "cannot be found"),
        ({"network_id": nets.external_id}, "neither the project's own nor shared"),
        (
            {"network_id": mine, "subnet_id": nets.subnet_id},
            f"Subnet {nets.subnet_id} not found in the network {mine}",
        ),
        ({"subnet_id": nets.subnet_id, "ip_address": "10.10.0.9"}, "is not in the subnet"),
        ({"subnet_id": nets.subnet_id, "ip_address": "nonsense"}, "is not an IP address"),
    ):
        with pytest.raises(exception.BadRequest, match=words):
            driver.check_nic(nic, caller=caller)


def test_the_management_network_is_not_for_instances_even_if_it_is_shared(
    server: standin_neutron.Neutron,
    driver: neutron.NeutronNetwork,
    caller: context.RequestContext,
    management: str,
) -> None:
    server.networks[management]["shared"] = True
    with pytest.raises(exception.BadRequest, match="not for instances"):
        driver.check_nic({"network_id": management}, caller=caller)


def test_nobody_may_use_anything_while_neutron_is_down_or_without_a_token(
    server: standin_neutron.Neutron,
    driver: neutron.NeutronNetwork,
    nets: standin_neutron.Connected,
    caller: context.RequestContext,
) -> None:
    nic = {"network_id": nets.network_id}
    with server.down(), pytest.raises(exception.DriverUnavailable):
        driver.check_nic(nic, caller=caller)
    with pytest.raises(exception.Unauthorized):
        driver.check_nic(nic, caller=context.RequestContext(project_id=USERS_PROJECT))
