"""Addresses of instances out of 127.0.0.0/8: one each, so that engines keep their standard port.

A port is a file ``ports/<address>`` that names its instance, with a second name
``ports/by-instance/<id>``. The second is made first and removed last, and counts only together with
the first: whatever dies in between, no address is lost and none is given twice.
``ports/access/<id>`` says who may connect, once anybody asked; it is written before the firewall is
changed, and what the firewall lost is put back from it. All of it happens under one lock. The id of
a port is the id of its instance.
"""

from __future__ import annotations

import dataclasses
import errno
import ipaddress
import json
import os
import pathlib
import secrets
import socket
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from oslo_config import cfg
from oslo_log import log

from trove.common import exception
from trove.drivers import local_state
from trove.drivers.network import base, firewall

LOG = log.getLogger(__name__)

NETWORK_ID = "local"
_LOOPBACK = ipaddress.IPv4Network("127.0.0.0/8")


def _pool_of(text: str) -> ipaddress.IPv4Network:
    try:
        pool = ipaddress.IPv4Network(text)
    except ValueError as e:
        raise exception.ConfigurationError(reason=f"[local] address_pool: {e}") from e
    if not pool.subnet_of(_LOOPBACK):
        raise exception.ConfigurationError(
            reason=f"[local] address_pool: {pool} is not part of {_LOOPBACK}"
        )
    return pool


def _admits_all(cidrs: Sequence[str]) -> bool:
    """Tell whether every IPv4 address may connect."""
    networks = [ipaddress.ip_network(cidr, strict=False) for cidr in cidrs]
    return any(network.version == 4 and network.prefixlen == 0 for network in networks)


def _is_bound(address: str, port: int) -> bool:
    """Tell whether some program listens there already."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # connections that linger after their server's end do not count
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as e:
            if e.errno == errno.EADDRINUSE:
                return True
            raise local_state.LocalDriverError(
                f"{address} port {port} cannot be used: {e.strerror}"
            ) from e
    return False


class LocalNetwork(base.NetworkDriver):
    """Ports out of ``[local] address_pool``."""

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        """Take the configuration; raises ConfigurationError for a bad pool."""
        self._state = local_state.LocalState(conf.local.state_dir)
        self._pool = _pool_of(conf.local.address_pool)
        self._firewall = firewall.Firewall(self._state.root, enabled=conf.local.use_firewall)

    def create_port(
        self,
        *,
        instance_id: str,
        project_id: str,
        nic: Mapping[str, Any] | None,
        access: Mapping[str, Any] | None,
        engine_port: int,
        more_ports: tuple[int, ...] = (),
    ) -> base.Port:
        """Give an instance an address, or return the one it has; raises AddressPoolExhausted.

        ``nic`` may ask for an address (``ip_address``) of the pool; there is only one network.
        """
        local_state.checked_id(instance_id)
        with self._state.lock("ports"):
            port = self.find_port(instance_id)
            if port is None:
                wanted = (nic or {}).get("ip_address")
                address = (
                    self._check_wanted(str(wanted), engine_port)
                    if wanted
                    else self._find_free(engine_port)
                )
                if access is not None:
                    # before there is an address: nobody finds one without its rules for long
                    self._write_access(instance_id, access, (engine_port, *more_ports))
                port = self._store(instance_id, address)
                LOG.info("address %s given to instance %s", address, instance_id)
                self._enforce(port)
        return port

    def update_access(
        self,
        port_id: str,
        *,
        access: Mapping[str, Any],
        engine_port: int,
        more_ports: tuple[int, ...] = (),
    ) -> base.Port:
        """Have only the allowed networks reach the engine, where there is a firewall.

        All addresses are of this machine: whether one is public is only told.
        """
        with self._state.lock("ports"):
            port = self.find_port(port_id)
            if port is None:
                raise local_state.LocalDriverError(f"instance {port_id} has no address")
            self._write_access(port_id, access, (engine_port, *more_ports))
            self._enforce(port, is_known=True)
            return dataclasses.replace(port, is_public=bool(access.get("is_public", False)))

    def refresh(self) -> None:
        """Give each address its rules again, after a restart of the machine for one.

        Rules of instances that have no address any more are removed.
        """
        with self._state.lock("ports"):
            wanted = {port.instance_id.replace("-", ""): port for port in self._restricted()}
            found = self._firewall.list_instances()
            for short in sorted(set(wanted) - found):
                self._enforce(wanted[short])
            for short in sorted(found - set(wanted)):
                LOG.info("the access rules of %s belong to no instance and are removed", short)
                self._firewall.forget(short)

    def find_port(self, instance_id: str) -> base.Port | None:
        """Return the port of an instance, or None."""
        index = self._index() / local_state.checked_id(instance_id)
        record = local_state.read_json(index)
        if record is None:
            return None
        port = self._port(str(record.get("address")))
        return port if port is not None and port.instance_id == instance_id else None

    def list_ports(self) -> Sequence[base.Port]:
        """Return all ports."""
        found = (self._port(name) for name in self._addresses())
        return [port for port in found if port is not None]

    def delete_port(self, port_id: str) -> None:
        """Give an address back; nothing when it is gone."""
        local_state.checked_id(port_id)
        with self._state.lock("ports"):
            port = self.find_port(port_id)
            index = self._index() / port_id
            with local_state.told(index):
                record = self._access(port_id)
                if record is not None and not _admits_all(record["allowed_cidrs"]):
                    self._firewall.forget(port_id)
                (self._ports() / "access" / port_id).unlink(missing_ok=True)
                if port is not None:
                    (self._ports() / port.address).unlink(missing_ok=True)
                    LOG.info("address %s of instance %s is free", port.address, port_id)
                index.unlink(missing_ok=True)

    def _ports(self) -> pathlib.Path:
        return self._state.root / "ports"

    def _index(self) -> pathlib.Path:
        return self._ports() / "by-instance"

    def _addresses(self) -> list[str]:
        return [name for name in local_state.names(self._ports()) if name[0].isdigit()]

    def _port(self, address: str) -> base.Port | None:
        record = local_state.read_json(self._ports() / address)
        if record is None:
            return None
        return self._make_port(record["instance_id"], address)

    def _make_port(self, instance_id: str, address: str) -> base.Port:
        access = self._access(instance_id) or {}
        return base.Port(
            id=instance_id,
            instance_id=instance_id,
            address=address,
            network_id=NETWORK_ID,
            is_public=bool(access.get("is_public", False)),
        )

    # -- who may connect -----

    def _access(self, instance_id: str) -> dict[str, Any] | None:
        path = self._ports() / "access" / local_state.checked_id(instance_id)
        return local_state.read_json(path)

    def _restricted(self) -> Iterator[base.Port]:
        """Give the ports that not everybody may reach; forget rules without a port."""
        for instance_id in local_state.names(self._ports() / "access"):
            record, port = self._access(instance_id), self.find_port(instance_id)
            if port is None:
                (self._ports() / "access" / instance_id).unlink(missing_ok=True)
            elif record is not None and not _admits_all(record["allowed_cidrs"]):
                yield port

    def _write_access(
        self, instance_id: str, access: Mapping[str, Any], ports: tuple[int, ...]
    ) -> None:
        record = {
            "is_public": bool(access.get("is_public", False)),
            "allowed_cidrs": list(access["allowed_cidrs"]),
            "engine_ports": list(ports),
        }
        path = self._state.directory("ports/access") / instance_id
        with local_state.told(path):
            local_state.replace(path, json.dumps(record))

    def _enforce(self, port: base.Port, *, is_known: bool = False) -> None:
        """Have the firewall do what is written; what was never closed need not be opened."""
        record = self._access(port.instance_id)
        if record is not None and (is_known or not _admits_all(record["allowed_cidrs"])):
            self._firewall.allow(
                port.instance_id, port.address, record["engine_ports"], record["allowed_cidrs"]
            )

    def _store(self, instance_id: str, address: str) -> base.Port:
        self._state.directory("ports")
        index = self._state.directory("ports/by-instance") / instance_id
        content = json.dumps({"instance_id": instance_id, "address": address})
        with local_state.told(index):
            local_state.replace(index, content)
            os.link(index, self._ports() / address)
        return self._make_port(instance_id, address)

    def _check_wanted(self, wanted: str, engine_port: int) -> str:
        try:
            address = ipaddress.IPv4Address(wanted)
        except ValueError as e:
            raise local_state.LocalDriverError(f"{wanted!r} is not an IPv4 address") from e
        if address not in self._pool:
            raise local_state.LocalDriverError(
                f"{address} is not in [local] address_pool, {self._pool}"
            )
        if self._port(str(address)) is not None or _is_bound(str(address), engine_port):
            raise local_state.LocalDriverError(f"{address} is in use: ask for another address")
        return str(address)

    def _candidates(self) -> Iterator[str]:
        """Give the pool's addresses once each, from a random one on.

        An address just given back is so unlikely to be the next one, where a client that still
        connects to it would meet another database.
        """
        count = self._pool.num_addresses
        first = secrets.randbelow(count)
        for offset in range(count):
            address = self._pool[(first + offset) % count]
            if int(address) & 0xFF not in (0, 255):
                yield str(address)

    def _find_free(self, engine_port: int) -> str:
        taken = set(self._addresses())
        bound = False
        for address in self._candidates():
            if address in taken:
                continue
            if not _is_bound(address, engine_port):
                return address
            if not bound and _is_bound("127.255.255.254", engine_port):
                raise local_state.LocalDriverError(
                    f"port {engine_port} is taken on every address of this machine: have the"
                    f" program that listens on 0.0.0.0:{engine_port} listen on one address"
                )
            bound = True
        raise exception.AddressPoolExhausted(pool=str(self._pool))
