"""Whom a guest may talk to on the management network, read from its configuration.

That is the broker of ``[guest] transport_url`` and the ``[guestagent] endpoints``: object storage.
A guest asks no name server for them: ``[guestagent] hosts`` gives the addresses of names.
"""

from __future__ import annotations

import configparser
import dataclasses
import ipaddress
import re
from collections.abc import Iterator, Mapping
from urllib import parse

from trove.guestagent.boot import errors

_AMQP_PORT = 5672
_AMQPS_PORT = 5671
_PORTS = {"http": 80, "https": 443}


_HOST_NAME = re.compile(r"^[A-Za-z0-9]([A-Za-z0-9.-]{0,252}[A-Za-z0-9])?$")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A host, by address or by name, and its TCP port."""

    host: str
    port: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GuestConf:
    """What the boot needs of guest.conf."""

    instance_id: str
    first_boot: int
    bind_address: str | None
    port: int | None
    manager: str
    endpoints: tuple[Endpoint, ...]
    hosts: Mapping[str, str]

    def addresses(self) -> list[tuple[Address, int]]:
        """Return address and port of all endpoints; raises BootError for a name without one."""
        found = []
        for endpoint in self.endpoints:
            text = self.hosts.get(endpoint.host.lower(), endpoint.host)
            try:
                found.append((ipaddress.ip_address(text), endpoint.port))
            except ValueError:
                raise errors.BootError(
                    f"the address of {endpoint.host} is not known: name it in [guestagent] hosts,"
                    " or use addresses"
                ) from None
        return sorted(set(found), key=lambda each: (each[0].version, int(each[0]), each[1]))


def parse_conf(text: str) -> GuestConf:
    """Read a guest.conf; raises BootError."""
    parser = configparser.RawConfigParser(strict=False)
    try:
        parser.read_string(text)
        agent = dict(parser["guestagent"])
        url = parser["guest"]["transport_url"].replace("$$", "$")
        conf = GuestConf(
            instance_id=agent["instance_id"],
            first_boot=int(agent.get("first_boot") or 1),
            bind_address=agent.get("bind_address") or None,
            port=int(agent["port"]) if agent.get("port") else None,
            manager=agent.get("datastore_manager", ""),
            endpoints=(*_brokers(url), *_others(agent.get("endpoints", ""))),
            hosts=dict(_hosts(agent.get("hosts", ""))),
        )
    except (configparser.Error, KeyError, ValueError) as e:
        # the text holds a password: no part of it may be shown
        raise errors.BootError(f"guest.conf is not as it should be ({type(e).__name__})") from None
    return conf


def _brokers(url: str) -> Iterator[Endpoint]:
    """Yield the hosts of ``rabbit://user:password@host:port,user:password@host:port/vhost``."""
    scheme, _, rest = url.partition("://")
    hosts, _, tail = rest.partition("/")
    is_tls = scheme.endswith("s") or "ssl=1" in tail or "ssl=true" in tail.lower()
    for one in hosts.split(","):
        host, port = _split(one.rpartition("@")[2])
        yield Endpoint(host=host, port=port or (_AMQPS_PORT if is_tls else _AMQP_PORT))


def _others(text: str) -> Iterator[Endpoint]:
    """Yield the endpoints of a list of ``host:port`` or URLs."""
    for word in text.replace("$$", "$").replace(",", " ").split():
        scheme, found, rest = word.partition("://")
        host, port = _split((rest if found else word).partition("/")[0].rpartition("@")[2])
        port = port or (_PORTS.get(scheme) if found else None)
        if port is None:
            raise ValueError(word)
        yield Endpoint(host=host, port=port)


def _hosts(text: str) -> Iterator[tuple[str, str]]:
    """Yield names and addresses of a list of ``name:address``."""
    for word in text.replace(",", " ").split():
        name, found, address = word.partition(":")
        if not found or not _HOST_NAME.match(name):
            raise ValueError(word)
        yield name.lower(), str(ipaddress.ip_address(address))


def _split(text: str) -> tuple[str, int | None]:
    parts = parse.urlsplit(f"//{text}")
    if not parts.hostname:
        raise ValueError("no host")
    return parts.hostname, parts.port
