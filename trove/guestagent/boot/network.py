"""The network of a guest, from Nova's network_data.json to files of systemd-networkd.

A guest has two sides. *Management* comes first in Nova's list: only the broker and object storage
are reached there, through a routing table of its own that nothing else looks into, so that the
user's network may use the very same addresses. *User* is an ordinary interface with the default
route: only the engine is there. A guest with one interface has both sides on it.
"""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from trove.guestagent.boot import errors

#: Routing table of the management side.
MANAGEMENT_TABLE = 201
_MAIN_TABLE = 254
#: What the engine answers goes where the user is; then come the ways to the management side.
_ENGINE_PRIORITY = 900
_MANAGEMENT_PRIORITY = 1000

Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A way to a network."""

    destination: Network
    gateway: Address


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """An interface, as it shall be."""

    mac: str
    mtu: int | None
    addresses: tuple[Interface, ...] = ()
    routes: tuple[Route, ...] = ()
    has_dhcp4: bool = False
    has_dhcp6: bool = False
    accepts_ra: bool = False

    def has_address(self, address: str | None) -> bool:
        """Tell whether this is surely the interface of an address."""
        return any(str(own.ip) == address for own in self.addresses)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sides:
    """The two sides; the management side is None when the user's is both."""

    management: Link | None
    user: Link


def parse(document: Mapping[str, Any]) -> list[Link]:
    """Return the interfaces in Nova's order; raises BootError."""
    try:
        return [_link(wire, document) for wire in document.get("links") or ()]
    except (KeyError, TypeError, ValueError, AttributeError) as e:
        raise errors.BootError(
            f"network_data.json of the config drive is not understood ({type(e).__name__}: {e})"
        ) from None


def _link(wire: Mapping[str, Any], document: Mapping[str, Any]) -> Link:
    addresses: list[Interface] = []
    routes: list[Route] = []
    flags = {"has_dhcp4": False, "has_dhcp6": False, "accepts_ra": False}
    for network in document.get("networks") or ():
        if network["link"] != wire["id"]:
            continue
        kind = network["type"]
        if kind in ("ipv4_dhcp", "ipv4_dhcp4"):
            flags["has_dhcp4"] = True
        elif kind in ("ipv6_dhcp", "ipv6_dhcpv6-stateful"):
            flags["has_dhcp6"] = flags["accepts_ra"] = True
        elif kind in ("ipv6_slaac", "ipv6_dhcpv6-stateless"):
            flags["accepts_ra"] = True
        elif kind in ("ipv4", "ipv6"):
            addresses.append(_interface(network))
            routes += [_route(each) for each in network.get("routes") or ()]
        else:
            raise ValueError(f"network type {kind}")
    mtu = wire.get("mtu")
    return Link(
        mac=str(wire["ethernet_mac_address"]).lower(),
        mtu=int(mtu) if mtu else None,
        addresses=tuple(addresses),
        routes=tuple(routes),
        **flags,
    )


def _interface(network: Mapping[str, Any]) -> Interface:
    address = str(network["ip_address"])
    return ipaddress.ip_interface(
        address if "/" in address else f"{address}/{_prefix(network['netmask'])}"
    )


def _prefix(netmask: object) -> int:
    """Return the length of a mask: 255.255.255.0, ffff:ffff::, 24."""
    text = str(netmask)
    if ":" in text:
        # the library takes no masks of this form
        return int(ipaddress.IPv6Address(text)).bit_count()
    return ipaddress.IPv4Network(f"0.0.0.0/{text}").prefixlen if "." in text else int(text)


def _route(wire: Mapping[str, Any]) -> Route:
    network = str(wire["network"])
    destination = network if "/" in network else f"{network}/{_prefix(wire['netmask'])}"
    return Route(
        destination=ipaddress.ip_network(destination),
        gateway=ipaddress.ip_address(str(wire["gateway"])),
    )


def choose_sides(links: Sequence[Link], bind_address: str | None) -> Sides:
    """Tell which interface is which; raises BootError when there is none, or too many."""
    if not links:
        raise errors.BootError("the server has no network interface")
    if len(links) == 1:
        return Sides(management=None, user=links[0])
    if len(links) > 2:
        raise errors.BootError(f"the server has {len(links)} network interfaces instead of 2")
    first, second = links
    if first.has_address(bind_address) and not second.has_address(bind_address):
        first, second = second, first
    return Sides(management=first, user=second)


def render(
    sides: Sides, *, bind_address: str | None, endpoints: Iterable[Address]
) -> dict[str, str]:
    """Return the files of systemd-networkd by name."""
    files = {"20-user.network": _render_user(sides, bind_address)}
    if sides.management is not None:
        files["10-management.network"] = _render_management(sides.management, endpoints)
    return files


_DHCP = """UseDNS=no
UseNTP=no
UseHostname=no
UseDomains=no
SendHostname=no
"""


def _render_user(sides: Sides, bind_address: str | None) -> str:
    link = sides.user
    text = _head(link)
    text += "".join(f"\n[Address]\nAddress={address}\n" for address in link.addresses)
    text += "".join(_render_route(route, table=None) for route in link.routes)
    if bind_address is not None and sides.management is not None:
        text += _rule(_ENGINE_PRIORITY, f"From={bind_address}", table=_MAIN_TABLE)
    return text + _dhcp_sections(link, table=None)


def _render_management(link: Link, endpoints: Iterable[Address]) -> str:
    text = _head(link)
    for address in link.addresses:
        # the route to the subnet belongs into the table of this side, not where all look
        text += f"\n[Address]\nAddress={address}\nAddPrefixRoute=no\n"
        text += (
            f"\n[Route]\nDestination={address.network}\nScope=link\nTable={MANAGEMENT_TABLE}\n"
            f"PreferredSource={address.ip}\n"
        )
    text += "".join(_render_route(route, table=MANAGEMENT_TABLE) for route in link.routes)
    for host in sorted(set(endpoints), key=lambda each: (each.version, int(each))):
        text += _rule(_MANAGEMENT_PRIORITY, f"To={host}", table=MANAGEMENT_TABLE)
    return text + _dhcp_sections(link, table=MANAGEMENT_TABLE)


def _head(link: Link) -> str:
    dhcp = {(True, True): "yes", (True, False): "ipv4", (False, True): "ipv6"}.get(
        (link.has_dhcp4, link.has_dhcp6), "no"
    )
    has_ipv6 = link.accepts_ra or any(each.version == 6 for each in link.addresses)
    mtu = f"\n[Link]\nMTUBytes={link.mtu}\n" if link.mtu else ""
    return (
        f"[Match]\nMACAddress={link.mac}\n{mtu}\n[Network]\nDHCP={dhcp}\n"
        f"LinkLocalAddressing={'ipv6' if has_ipv6 else 'no'}\n"
        f"IPv6AcceptRA={'yes' if link.accepts_ra else 'no'}\n"
        # duplicates are Neutron's to prevent; waiting for them costs a second
        "IPv6DuplicateAddressDetection=0\n"
        # the agent says a last word while the machine goes down
        "KeepConfiguration=dhcp-on-stop\n"
    )


def _dhcp_sections(link: Link, *, table: int | None) -> str:
    route_table = f"RouteTable={table}\n" if table is not None else ""
    text = ""
    if link.has_dhcp4:
        text += f"\n[DHCPv4]\nClientIdentifier=mac\nRapidCommit=yes\n{_DHCP}{route_table}"
    if link.has_dhcp6:
        text += "\n[DHCPv6]\nUseDNS=no\nUseNTP=no\nUseHostname=no\nUseDomains=no\n"
    if link.accepts_ra:
        text += f"\n[IPv6AcceptRA]\nUseDNS=no\nUseDomains=no\n{route_table}"
    return text


def _render_route(route: Route, *, table: int | None) -> str:
    where = f"Table={table}\n" if table is not None else ""
    return f"\n[Route]\nDestination={route.destination}\nGateway={route.gateway}\n{where}"


def _rule(priority: int, selector: str, *, table: int) -> str:
    return f"\n[RoutingPolicyRule]\nPriority={priority}\n{selector}\nTable={table}\n"
