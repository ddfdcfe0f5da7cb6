"""Files of systemd-networkd from Nova's description of the network."""

from __future__ import annotations

import configparser
import ipaddress
from typing import Any

import pytest

from trove.guestagent.boot import errors, network

BROKER = ipaddress.ip_address("172.31.250.1")


def _document(*networks: dict[str, Any], links: int = 2) -> dict[str, Any]:
    return {
        "links": [
            {"id": f"tap{n}", "ethernet_mac_address": f"fa:16:3e:00:00:0{n}", "mtu": 1400}
            for n in range(links)
        ],
        "networks": list(networks),
    }


def _static(link: str, address: str, **more: object) -> dict[str, object]:
    return {
        "link": link,
        "type": "ipv4",
        "ip_address": address,
        "netmask": "255.255.255.0",
        **more,
    }


def _sections(text: str, name: str) -> list[dict[str, str]]:
    """Return all sections of a name, which an ini parser would take for one."""
    found = []
    for chunk in text.split("\n["):
        head, _, body = chunk.lstrip("[").partition("]\n")
        if head == name:
            parser = configparser.RawConfigParser()
            parser.optionxform = str  # type: ignore[assignment,method-assign]
            parser.read_string(f"[x]\n{body}")
            found.append(dict(parser["x"]))
    return found


def _render(document: dict[str, Any], bind_address: str | None = None) -> dict[str, str]:
    sides = network.choose_sides(network.parse(document), bind_address)
    return network.render(sides, bind_address=bind_address, endpoints=[BROKER])


def test_management_side_has_a_table_of_its_own() -> None:
    gateway = {"network": "0.0.0.0", "netmask": "0.0.0.0", "gateway": "10.1.0.1"}  # noqa: S104
    files = _render(
        _document(
            _static("tap0", "10.1.0.7", routes=[gateway]), {"link": "tap1", "type": "ipv4_dhcp"}
        ),
        "192.168.0.9",
    )
    management = files["10-management.network"]
    assert _sections(management, "Address") == [{"Address": "10.1.0.7/24", "AddPrefixRoute": "no"}]
    assert {each["Table"] for each in _sections(management, "Route")} == {"201"}
    assert [each["Destination"] for each in _sections(management, "Route")] == [
        "10.1.0.0/24",
        "0.0.0.0/0",
    ]
    assert _sections(management, "RoutingPolicyRule") == [
        {"Priority": "1000", "To": str(BROKER), "Table": "201"}
    ]


def test_replies_of_the_engine_go_to_the_user_before_all_else() -> None:
    files = _render(_document(_static("tap0", "10.1.0.7"), _static("tap1", "10.1.0.7")), "10.1.0.7")
    # both sides have the very same subnet and address: then Nova's order counts
    assert "MACAddress=fa:16:3e:00:00:01" in files["20-user.network"]
    rules = _sections(files["20-user.network"], "RoutingPolicyRule")
    assert rules == [{"Priority": "900", "From": "10.1.0.7", "Table": "254"}]


def test_management_by_dhcp_gets_nothing_into_the_main_table() -> None:
    files = _render(
        _document({"link": "tap0", "type": "ipv4_dhcp"}, {"link": "tap1", "type": "ipv4_dhcp"})
    )
    (dhcp,) = _sections(files["10-management.network"], "DHCPv4")
    assert (dhcp["RouteTable"], dhcp["UseDNS"], dhcp["UseHostname"]) == ("201", "no", "no")
    (dhcp,) = _sections(files["20-user.network"], "DHCPv4")
    assert "RouteTable" not in dhcp


def test_ipv6_by_address_and_by_advertisement() -> None:
    document = _document(
        {
            "link": "tap0",
            "type": "ipv6",
            "ip_address": "fd00::7",
            "netmask": "ffff:ffff:ffff:ffff::",
            "routes": [{"network": "::", "netmask": "::", "gateway": "fd00::1"}],
        },
        {"link": "tap1", "type": "ipv6_slaac"},
    )
    files = _render(document)
    (address,) = _sections(files["10-management.network"], "Address")
    assert address["Address"] == "fd00::7/64"
    (head,) = _sections(files["10-management.network"], "Network")
    assert (head["IPv6AcceptRA"], head["LinkLocalAddressing"]) == ("no", "ipv6")
    (head,) = _sections(files["20-user.network"], "Network")
    assert (head["IPv6AcceptRA"], head["DHCP"]) == ("yes", "no")


def test_one_interface_is_both_sides() -> None:
    files = _render(_document({"link": "tap0", "type": "ipv4_dhcp"}, links=1), "10.0.0.4")
    assert list(files) == ["20-user.network"]
    assert _sections(files["20-user.network"], "RoutingPolicyRule") == []


def test_interface_of_the_engine_is_the_users_whatever_the_order() -> None:
    links = network.parse(_document(_static("tap0", "10.0.0.4"), _static("tap1", "10.1.0.7")))
    sides = network.choose_sides(links, "10.0.0.4")
    assert sides.user.mac.endswith("00")
    assert sides.management is not None
    assert sides.management.mac.endswith("01")


@pytest.mark.parametrize("document", [_document(links=0), _document(links=3), {}])
def test_other_numbers_of_interfaces_are_refused(document: dict[str, Any]) -> None:
    with pytest.raises(errors.BootError):
        network.choose_sides(network.parse(document), None)


def test_what_is_not_understood_is_told() -> None:
    with pytest.raises(errors.BootError, match="carrier pigeon"):
        network.parse(_document({"link": "tap0", "type": "carrier pigeon"}))
