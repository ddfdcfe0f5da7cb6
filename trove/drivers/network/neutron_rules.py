"""Rules of security groups as values: what is wanted, and what Neutron says there is."""

from __future__ import annotations

import dataclasses
import ipaddress
import socket
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from oslo_config import cfg

from trove.common import exception

INGRESS, EGRESS = "ingress", "egress"
TCP = "tcp"
EVERYBODY = ("0.0.0.0/0", "::/0")


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


def of_engine(cidrs: Iterable[str], *ports: int) -> frozenset[Rule]:
    """Return the rules of a server that only an engine uses, which listens on these ports.

    The allowed networks may connect to it; itself it may connect to other engines of its kind.
    """
    allowed = tuple(cidrs)
    admitted = {Rule.of(INGRESS, TCP, port, cidr) for port in ports for cidr in allowed}
    others = {Rule.of(EGRESS, TCP, port, cidr) for port in ports for cidr in EVERYBODY}
    return frozenset(admitted | others)


# -- what guests may reach over the management network -----


def of_guests(conf: cfg.ConfigOpts) -> frozenset[Rule]:
    """Return the rules of a port to the guest bus: only to the broker and ``endpoints``.

    It is what the guest's own firewall admits. Raises DriverUnavailable when a name cannot be
    resolved here, ConfigurationError for what names no host and port.
    """
    known = {name.lower(): address for name, address in conf.guestagent.hosts.items()}
    rules = set()
    for text in (conf.guest.transport_url, *conf.guestagent.endpoints):
        for host, port in _targets(text or ""):
            for network in _networks_of(known.get(host, host), port):
                rules.add(Rule.of(EGRESS, TCP, port, network))
    return frozenset(rules)


def _targets(text: str) -> Iterator[tuple[str, int]]:
    """Give host and port of ``host:port``, or of a URL; a broker's may name several hosts."""
    scheme, found, rest = text.rpartition("://")
    hosts, _, tail = rest.partition("/")
    is_tls = scheme.endswith("s") or "ssl=1" in tail or "ssl=true" in tail.lower()
    usual = {"http": 80, "https": 443}.get(scheme, 5671 if is_tls else 5672) if found else None
    for each in hosts.split(","):
        # a password may be in front of the host: it is not to be seen anywhere
        parts = urllib.parse.urlsplit(f"//{each.rpartition('@')[2]}")
        try:
            host, port = parts.hostname, parts.port or usual
        except ValueError:
            host, port = parts.hostname, None
        if not host or port is None:
            raise exception.ConfigurationError(
                reason=f"[guest] transport_url or [guestagent] endpoints: {host or 'something'}"
                " has no host or no port"
            )
        yield host, port


def _networks_of(host: str, port: int) -> list[str]:
    try:
        return [_usual(host)]
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as e:
        raise exception.DriverUnavailable(
            service="network",
            reason=f"{host}, which guests need, cannot be resolved ({e}); [guestagent] hosts may"
            " say its address",
        ) from e
    return sorted({str(entry[4][0]) for entry in found})
