"""Rules of security groups as values: what is wanted, and what Neutron says there is."""

from __future__ import annotations

import dataclasses
import ipaddress
import socket
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from trove.common import exception

INGRESS, EGRESS = "ingress", "egress"
TCP, UDP = "tcp", "udp"
EVERYBODY = ("0.0.0.0/0", "::/0")

_DNS_PORT = 53
_AMQP_PORT = 5672


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What is admitted: a direction, a protocol with one port, and a network in its usual form."""

    direction: str
    protocol: str | None
    port: int | None
    network: str

    @classmethod
    def of(cls, direction: str, protocol: str, port: int, network: str) -> Rule:
        """Return a rule for a network in any form."""
        return cls(direction=direction, protocol=protocol, port=port, network=_usual(network))

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> Rule | None:
        """Return a rule of Neutron, None for one of a kind that this service never makes."""
        others = ("remote_group_id", "remote_address_group_id")
        if any(wire.get(key) for key in others):
            return None
        if wire.get("port_range_min") != wire.get("port_range_max"):
            return None
        all_of = EVERYBODY[wire["ethertype"] == "IPv6"]
        return cls(
            direction=wire["direction"],
            protocol=wire.get("protocol"),
            port=wire.get("port_range_min"),
            network=_usual(wire.get("remote_ip_prefix") or all_of),
        )

    def to_wire(self, group_id: str) -> dict[str, Any]:
        """Return the rule of a group as Neutron takes it."""
        version = ipaddress.ip_network(self.network).version
        return {
            "security_group_id": group_id,
            "direction": self.direction,
            "ether_type": f"IPv{version}",
            "protocol": self.protocol,
            "port_range_min": self.port,
            "port_range_max": self.port,
            "remote_ip_prefix": self.network,
        }


def _usual(network: str) -> str:
    return str(ipaddress.ip_network(network, strict=False))


def of_engine(cidrs: Iterable[str], port: int) -> frozenset[Rule]:
    """Return the rules of a port that only an engine uses.

    The allowed networks may connect to it; itself it may connect to other engines of its kind.
    """
    admitted = {Rule.of(INGRESS, TCP, port, cidr) for cidr in cidrs}
    return frozenset(admitted | {Rule.of(EGRESS, TCP, port, cidr) for cidr in EVERYBODY})


# -- what guests may reach over the management network -----


def of_guests(targets: Sequence[tuple[str, int]], resolvers: Sequence[str]) -> frozenset[Rule]:
    """Return the rules of a port to the guest bus: only to (host or network, port).

    Where a host has a name, ``resolvers`` (networks) may be asked for it too. Raises
    DriverUnavailable when such a name cannot be resolved here.
    """
    rules = set()
    has_names = False
    for host, port in targets:
        networks = _networks_of(host)
        if networks is None:
            has_names = True
            networks = _resolve(host, port)
        rules |= {Rule.of(EGRESS, TCP, port, network) for network in networks}
    if has_names:
        rules |= {
            Rule.of(EGRESS, protocol, _DNS_PORT, network)
            for protocol in (TCP, UDP)
            for network in resolvers
        }
    return frozenset(rules)


def _networks_of(host: str) -> list[str] | None:
    try:
        return [_usual(host)]
    except ValueError:
        return None


def _resolve(host: str, port: int) -> list[str]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as e:
        raise exception.DriverUnavailable(
            service="network", reason=f"{host}, which guests need, cannot be resolved: {e}"
        ) from e
    return sorted({str(entry[4][0]) for entry in found})


def parse_targets(entries: Iterable[str]) -> list[tuple[str, int]]:
    """Return ``[neutron] management_egress`` as (network, port); raises ConfigurationError."""
    targets = []
    for entry in entries:
        port, _, network = entry.partition("@")
        try:
            targets.append((_usual(network), int(port)))
        except ValueError:
            raise exception.ConfigurationError(
                reason=f"[neutron] management_egress: {entry!r} is not PORT@NETWORK"
            ) from None
    return targets


def hosts_of_urls(urls: Iterable[str | None]) -> Iterator[tuple[str, int]]:
    """Give (host, port) of each host of URLs; a broker's names several with commas between."""
    for url in urls:
        if not url:
            continue
        parts = urllib.parse.urlsplit(url)
        usual = {"https": 443, "http": 80}.get(parts.scheme, _AMQP_PORT)
        for each in parts.netloc.split(","):
            host = urllib.parse.urlsplit(f"//{each.rpartition('@')[2]}")
            if host.hostname:
                yield host.hostname, host.port or usual
