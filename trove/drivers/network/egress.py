"""Whom the processes of a user of this machine may reach: one nftables table, replaced as a whole.

All that they send goes to the given addresses and ports, or is refused: on the loopback interface
too, where other services of the machine listen. Name servers are among them where a host is given
by its name.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import pathlib
import socket
from collections.abc import Collection, Iterable, Iterator
from urllib import parse

from oslo_log import log

from trove.common import exception
from trove.drivers.network import firewall

LOG = log.getLogger(__name__)

_FAMILIES = {4: ("ip", "ipv4_addr"), 6: ("ip6", "ipv6_addr")}
_PORTS = {"http": 80, "https": 443}
_NAME_SERVER_PORT = 53
_RESOLVER = pathlib.Path("/etc/resolv.conf")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Target = tuple[Address, int]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A host, by name or address, and its TCP port."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """Read ``host:port`` or a URL; raises ConfigurationError."""
        try:
            parts = parse.urlsplit(text if "://" in text else f"//{text}")
            port = parts.port or _PORTS.get(parts.scheme)
        except ValueError:
            port = None
        if port is None or not parts.hostname:
            raise exception.ConfigurationError(
                reason=f"[guestagent] endpoints: {text!r} is neither host:port nor a URL"
            )
        return cls(host=parts.hostname, port=port)


def resolve(endpoints: Iterable[Endpoint]) -> Iterator[Target]:
    """Yield the addresses of endpoints; one whose name is not known now is told of."""
    for each in endpoints:
        try:
            found = socket.getaddrinfo(each.host, each.port, type=socket.SOCK_STREAM)
        except OSError as e:
            LOG.warning("the address of %s is not known: %s", each.host, e)
            continue
        for *_, address in found:
            yield ipaddress.ip_address(str(address[0]).partition("%")[0]), each.port


def find_name_servers(path: pathlib.Path = _RESOLVER) -> Iterator[Address]:
    """Yield the name servers of this machine."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        match line.split():
            case ["nameserver", address, *_]:
                try:
                    yield ipaddress.ip_address(address.partition("%")[0])
                except ValueError:
                    continue


def is_address(host: str) -> bool:
    """Tell whether a host is given by its address."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def render(table: str, uid: int, targets: Collection[Target], servers: Collection[Address]) -> str:
    """Return what replaces the table."""
    lines = [f"table {table} {{ }}", f"delete table {table}", f"table {table} {{"]
    rules = []
    for version, (family, kind) in _FAMILIES.items():
        members = sorted(f"{at} . {port}" for at, port in set(targets) if at.version == version)
        if members:
            lines += [
                f"  set to{version} {{",
                f"    type {kind} . inet_service",
                f"    elements = {{ {', '.join(members)} }}",
                "  }",
            ]
            rules.append(f"    meta skuid {uid} {family} daddr . tcp dport @to{version} accept")
        for at in sorted(str(each) for each in set(servers) if each.version == version):
            rules += [
                f"    meta skuid {uid} {family} daddr {at} {kind} dport {_NAME_SERVER_PORT} accept"
                for kind in ("udp", "tcp")
            ]
    return "\n".join(
        [
            *lines,
            "  chain output {",
            "    type filter hook output priority filter; policy accept;",
            *rules,
            f"    meta skuid {uid} reject",
            "  }",
            "}",
            "",
        ]
    )


class Egress:
    """The table of a user."""

    def __init__(self, uid: int, endpoints: Collection[Endpoint]) -> None:
        """Take the user's number, and whom its processes may reach."""
        self._uid = uid
        self._endpoints = tuple(endpoints)
        self._table = f"inet trove_egress_{uid}"
        self._last: str | None = None

    def enforce(self) -> None:
        """Have the rules as the addresses of the endpoints are now; raises DriverError."""
        has_names = not all(is_address(each.host) for each in self._endpoints)
        text = render(
            self._table,
            self._uid,
            set(resolve(self._endpoints)),
            set(find_name_servers()) if has_names else (),
        )
        if text != self._last:
            firewall.change(text)
            self._last = text
