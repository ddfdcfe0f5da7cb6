"""A network driver for tests: ports are entries of a dict, faults are injected."""

from __future__ import annotations

import dataclasses
import itertools
import threading
import uuid
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from oslo_config import cfg

from trove.common import context, exception
from trove.drivers import injection
from trove.drivers.network import base


class FakeNetwork(base.NetworkDriver):
    """Ports that exist only here, with addresses of 192.0.2.0/24 and on."""

    def __init__(self, conf: cfg.ConfigOpts | None = None) -> None:
        """Begin without ports; the configuration is not used."""
        self.injector = injection.Injector()
        self.is_nic_required = False
        #: How often a port was made for each instance.
        self.created: dict[str, int] = {}
        #: Instance id -> its port to the guest bus, and how often one was made.
        self.management_ports: dict[str, str] = {}
        self.created_management: dict[str, int] = {}
        #: The access that each instance was given last.
        self.access: dict[str, Mapping[str, Any]] = {}
        self._ports: dict[str, base.Port] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

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
        """Make a port, unless the instance has one."""
        with self.injector.around("create_port"), self._lock:
            port = self._find(instance_id)
            if port is None:
                number = next(self._numbers)
                port = base.Port(
                    id=str(uuid.uuid4()),
                    instance_id=instance_id,
                    address=f"192.0.{2 + number // 250}.{1 + number % 250}",
                    network_id=str((nic or {}).get("net-id") or "fake-network"),
                    is_public=bool((access or {}).get("is_public", False)),
                )
                self._ports[port.id] = port
                self.created[instance_id] = self.created.get(instance_id, 0) + 1
            if access is not None:
                self.access[instance_id] = dict(access)
            return port

    def update_access(
        self,
        port_id: str,
        *,
        access: Mapping[str, Any],
        engine_port: int,
        more_ports: tuple[int, ...] = (),
    ) -> base.Port:
        """Note the access, and show the port as public or not."""
        with self.injector.around("update_access"), self._lock:
            port = self._ports.get(port_id)
            if port is None:
                raise exception.DriverError(service="network", reason=f"no port {port_id}")
            port = dataclasses.replace(port, is_public=bool(access["is_public"]))
            self._ports[port_id] = port
            self.access[port.instance_id] = dict(access)
            return port

    def create_management_port(self, *, instance_id: str) -> str | None:
        """Make a port to the guest bus, unless the instance has one."""
        with self.injector.around("create_management_port"), self._lock:
            if instance_id not in self.management_ports:
                self.management_ports[instance_id] = str(uuid.uuid4())
                made = self.created_management.get(instance_id, 0)
                self.created_management[instance_id] = made + 1
            return self.management_ports[instance_id]

    @property
    def requires_nic(self) -> bool:
        """Tell whether users must name a network."""
        return self.is_nic_required

    def check_nic(self, nic: Mapping[str, Any] | None, *, caller: context.RequestContext) -> None:
        """Admit everything."""
        with self.injector.around("check_nic"):
            pass

    def list_owners(self) -> Collection[str]:
        """Return the ids of instances that have a port of either kind."""
        return {*super().list_owners(), *self.management_ports}

    def remove_all(self, instance_id: str) -> bool:
        """Remove both ports."""
        with self.injector.around("remove_all"), self._lock:
            self.management_ports.pop(instance_id, None)
        return super().remove_all(instance_id)

    def find_port(self, instance_id: str) -> base.Port | None:
        """Return the port made for an instance, or None."""
        with self.injector.around("find_port"), self._lock:
            return self._find(instance_id)

    def list_ports(self) -> Sequence[base.Port]:
        """Return all ports."""
        with self.injector.around("list_ports"), self._lock:
            return list(self._ports.values())

    def delete_port(self, port_id: str) -> None:
        """Remove a port; nothing when it is gone."""
        with self.injector.around("delete_port"), self._lock:
            port = self._ports.pop(port_id, None)
            if port is not None:
                self.access.pop(port.instance_id, None)

    def _find(self, instance_id: str) -> base.Port | None:
        for port in self._ports.values():
            if port.instance_id == instance_id:
                return port
        return None
