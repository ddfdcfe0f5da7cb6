"""Addresses of instances in Neutron: ports, a security group each, floating addresses.

An instance has a port on the user's network, which only its engine uses, and one on the management
network, which only its agent uses. Ports, groups and floating addresses belong to this service's
project, so users cannot change them; each carries ``trove-<instance id>`` as its name or, where
there are no names, as its description. They are made in an order that leaves no port open: group,
port, floating address; and removed in the opposite one.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from oslo_config import cfg
from oslo_log import log

from trove.common import context
from trove.drivers import cloud
from trove.drivers.network import (
    base,
    neutron_api,
    neutron_groups,
    neutron_nics,
    neutron_rules,
)

LOG = log.getLogger(__name__)

#: Descriptions tell an instance's ports apart, and can be asked for.
_USER = "Database service: the engine's port"
_GUEST_BUS = "Database service: the guest agent's port"
_PORTS = (_USER, _GUEST_BUS)
_ROUTER_PORTS = (
    "network:router_interface",
    "network:router_interface_distributed",
    "network:ha_router_replicated_interface",
)


class NeutronNetwork(base.NetworkDriver):
    """Ports on networks of users."""

    look_interval_s = 2.0

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        """Take the configuration; raises ConfigurationError when it is wrong."""
        self._conf = conf
        self._api = neutron_api.NeutronApi(conf)
        self._groups = neutron_groups.Groups(self._api)
        self._nics = neutron_nics.Nics(conf, self._api)
        self._lock = threading.Lock()
        #: The group of ports to the guest bus, once this process has seen to its rules.
        self._guests_group_id: str | None = None

    @property
    def requires_nic(self) -> bool:
        """Tell whether users must name a network."""
        return self._conf.neutron.default_network is None

    def check_nic(self, nic: Mapping[str, Any] | None, *, caller: context.RequestContext) -> None:
        """See with the caller's own rights that the network is the caller's or shared with them."""
        if nic is not None:
            self._nics.check(nic, caller)

    # -- the user's network -----

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
        """Make group, port and floating address, as far as they are not made yet."""
        raw = self._find(instance_id, _USER)
        if raw is not None and access is None:
            return self._finished(raw)
        cidrs = neutron_rules.EVERYBODY if access is None else access["allowed_cidrs"]
        group_id = self._ensure_group(instance_id, cidrs, (engine_port, *more_ports))
        if raw is None:
            attributes = {**self._place(nic), "security_group_ids": [group_id]}
            raw = self._make(instance_id, _USER, attributes)
        return self._arrange(raw, group_id, is_public=bool((access or {}).get("is_public")))

    def update_access(
        self,
        port_id: str,
        *,
        access: Mapping[str, Any],
        engine_port: int,
        more_ports: tuple[int, ...] = (),
    ) -> base.Port:
        """Make rules and floating address exactly what ``access`` says."""
        raw = self._get_own(port_id, _USER)
        if raw is None:
            raise cloud.CloudNotFound(
                service=neutron_api.SERVICE,
                action="change the access of a port",
                reason=f"there is no port {port_id} of this service",
                status=404,
            )
        instance_id = str(cloud.instance_of(raw.name))
        group_id = self._ensure_group(
            instance_id, access["allowed_cidrs"], (engine_port, *more_ports)
        )
        return self._arrange(raw, group_id, is_public=bool(access.get("is_public")))

    def find_port(self, instance_id: str) -> base.Port | None:
        """Return the port of the engine, or None."""
        raw = self._find(instance_id, _USER)
        return None if raw is None else self._finished(raw)

    def list_ports(self) -> Sequence[base.Port]:
        """Return the ports of all engines, by one call for ports and one for floating addresses."""
        raws = [raw for raw in self._list(description=_USER) if cloud.instance_of(raw.name)]
        floating = {each.port_id: each for each in self._list_floating()} if raws else {}
        return [_port_of(raw, floating.get(raw.id)) for raw in raws]

    def delete_port(self, port_id: str) -> None:
        """Remove floating address, port and group of an engine; nothing when they are gone."""
        raw = self._get_own(port_id, _USER)
        if raw is None:
            return
        instance_id = str(cloud.instance_of(raw.name))
        for each in self._list_floating(instance_id):
            self._delete_floating(each.id)
        self._delete(port_id)
        self._groups.remove(instance_id)

    # -- the management network -----

    def create_management_port(self, *, instance_id: str) -> str | None:
        """Make the port to the guest bus; None where no management network is configured."""
        network_id = self._conf.neutron.management_network
        if network_id is None:
            return None
        raw = self._find(instance_id, _GUEST_BUS)
        if raw is None:
            group_id = self._guests_group()
            try:
                raw = self._make(
                    instance_id,
                    _GUEST_BUS,
                    {"network_id": network_id, "security_group_ids": [group_id]},
                )
            except cloud.CloudNotFound:
                # perhaps it is the group that is gone: the next try makes it anew
                self._guests_group_id = None
                raise
        return str(raw.id)

    def _guests_group(self) -> str:
        configured: str | None = self._conf.neutron.management_security_group
        if configured is not None:
            return configured
        with self._lock:
            if self._guests_group_id is None:
                self._guests_group_id = self._groups.ensure(
                    neutron_groups.GUESTS_NAME,
                    neutron_groups.GUESTS,
                    neutron_rules.of_guests(self._conf),
                )
            return self._guests_group_id

    # -- everything of an instance -----

    def list_owners(self) -> Collection[str]:
        """Return the ids of instances that have a port, a group or a floating address."""
        ports = (cloud.instance_of(raw.name) for raw in self._list(description=list(_PORTS)))
        floating = (cloud.instance_of(each.description) for each in self._list_floating())
        found = {*ports, *floating, *self._groups.list_owners()}
        return {instance_id for instance_id in found if instance_id is not None}

    def remove_all(self, instance_id: str) -> bool:
        """Remove floating addresses, ports and groups; tell whether there was nothing any more."""
        floating = self._list_floating(instance_id)
        for each in floating:
            self._delete_floating(each.id)
        ports = self._list(name=cloud.name_of(instance_id))
        for raw in ports:
            self._delete(raw.id)
        had_group = self._groups.remove(instance_id)
        return not (floating or ports or had_group)

    # -- ports -----

    def _list(self, **query: Any) -> list[Any]:
        found = self._api.find_own("list ports", "ports", **query)
        # a port that a server has is never the twin that goes
        return sorted(found, key=lambda raw: not raw.device_id)

    def _find(self, instance_id: str, description: str) -> Any | None:
        found = self._list(name=cloud.name_of(instance_id), description=description)
        return neutron_api.keep_one(found, self._delete, what="port")

    def _get_own(self, port_id: str, description: str) -> Any | None:
        for raw in self._api.find_own("show a port", "ports", id=port_id):
            if raw.description == description and cloud.instance_of(raw.name):
                return raw
        return None

    def _make(self, instance_id: str, description: str, attributes: Mapping[str, Any]) -> Any:
        with self._api.asked("make a port") as api:
            made = api.create_port(
                name=cloud.name_of(instance_id), description=description, **attributes
            )
        LOG.info("port %s made for instance %s", made.id, instance_id)
        # whoever else made one meanwhile finds the same one
        return self._find(instance_id, description) or made

    def _delete(self, port_id: str) -> None:
        with self._api.asked("remove a port") as api:
            api.delete_port(port_id)

    def _place(self, nic: Mapping[str, Any] | None) -> dict[str, Any]:
        """Return where a port is to be; raises CloudError when nobody named a network."""
        nic = nic or {}
        network_id, subnet_id = nic.get("network_id"), nic.get("subnet_id")
        if network_id is None and subnet_id is not None:
            with self._api.asked("show a subnet") as api:
                network_id = api.get_subnet(subnet_id).network_id
        network_id = network_id or self._conf.neutron.default_network
        if network_id is None:
            raise cloud.CloudError(
                service=neutron_api.SERVICE,
                action="make a port",
                reason="no network was named and there is no default one",
                remedy="Name a network in nics",
            )
        if subnet_id is None:
            return {"network_id": network_id}
        fixed = {"subnet_id": subnet_id}
        if nic.get("ip_address"):
            fixed["ip_address"] = nic["ip_address"]
        return {"network_id": network_id, "fixed_ips": [fixed]}

    def _ensure_group(self, instance_id: str, cidrs: Sequence[str], ports: tuple[int, ...]) -> str:
        return self._groups.ensure(
            cloud.name_of(instance_id),
            neutron_groups.INSTANCE,
            neutron_rules.of_engine(cidrs, *ports),
        )

    def _arrange(self, raw: Any, group_id: str, *, is_public: bool) -> base.Port:
        """Have a port be in its group alone, and have a floating address or none."""
        if raw.security_group_ids != [group_id]:
            with self._api.asked("put a port into its security group") as api:
                raw = api.update_port(raw.id, security_group_ids=[group_id])
        port = _port_of(raw, None)
        found = self._list_floating(port.instance_id)
        if is_public:
            return _port_of(raw, self._ensure_floating(raw, port, found))
        for each in found:
            self._delete_floating(each.id)
        return port

    def _finished(self, raw: Any) -> base.Port:
        (floating, *_) = (*self._list_floating(str(cloud.instance_of(raw.name))), None)
        return _port_of(raw, floating)

    # -- floating addresses -----

    def _list_floating(self, instance_id: str | None = None) -> list[Any]:
        query = {} if instance_id is None else {"description": cloud.name_of(instance_id)}
        found = self._api.find_own("list floating addresses", "ips", **query)
        return [each for each in found if cloud.instance_of(each.description)]

    def _delete_floating(self, floating_id: str) -> None:
        with self._api.asked("remove a floating address") as api:
            api.delete_ip(floating_id)

    def _ensure_floating(self, raw: Any, port: base.Port, found: Sequence[Any]) -> Any:
        mine = neutron_api.keep_one(found, self._delete_floating, what="floating address")
        if mine is not None and mine.port_id == raw.id:
            return mine
        place = {"port_id": raw.id, "fixed_ip_address": port.address}
        if mine is not None:
            with self._api.asked("move a floating address") as api:
                return api.update_ip(mine.id, **place)
        network_id = self._external_network(raw, port)
        with self._api.asked("make a floating address") as api:
            made = api.create_ip(
                floating_network_id=network_id,
                description=cloud.name_of(port.instance_id),
                **place,
            )
        LOG.info("instance %s: public address %s", port.instance_id, made.floating_ip_address)
        return made

    def _external_network(self, raw: Any, port: base.Port) -> str:
        """Return the network of public addresses: the configured one, or what a router leads to."""
        configured: str | None = self._conf.neutron.external_network
        if configured is not None:
            return configured
        subnet_ids = {
            fixed["subnet_id"] for fixed in raw.fixed_ips if fixed["ip_address"] == port.address
        }
        with self._api.asked("look for a router to a public network") as api:
            interfaces = list(
                api.ports(network_id=raw.network_id, device_owner=list(_ROUTER_PORTS))
            )
            for each in interfaces:
                if not subnet_ids & {fixed["subnet_id"] for fixed in each.fixed_ips}:
                    continue
                gateway = api.get_router(each.device_id).external_gateway_info
                if gateway:
                    return str(gateway["network_id"])
        raise cloud.CloudError(
            service=neutron_api.SERVICE,
            action="give a public address",
            reason=f"no router leads from network {raw.network_id} to an external one",
            remedy="Connect the subnet to an external network with a router, or do without a"
            " public address",
        )


def _port_of(raw: Any, floating: Any | None) -> base.Port:
    """Return a port as drivers tell it; its first address is of IPv4 if it has one."""
    addresses = sorted(
        (str(fixed["ip_address"]) for fixed in raw.fixed_ips or ()), key=lambda text: ":" in text
    )
    if not addresses:
        raise cloud.CloudError(
            service=neutron_api.SERVICE,
            action="give an address",
            reason=f"network {raw.network_id} has no subnet to take it from",
            remedy="Name a network that has one",
        )
    return base.Port(
        id=raw.id,
        instance_id=str(cloud.instance_of(raw.name)),
        address=addresses[0],
        more_addresses=tuple(addresses[1:]),
        network_id=raw.network_id,
        is_public=floating is not None,
        public_address=None if floating is None else floating.floating_ip_address,
    )
