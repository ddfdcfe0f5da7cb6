"""The interface of network drivers; see :mod:`trove.drivers.compute.base` for the rules."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from trove.common import context


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """An address of an instance; ``more_addresses`` are further ones of the same network."""

    id: str
    instance_id: str
    address: str
    network_id: str
    more_addresses: tuple[str, ...] = ()
    is_public: bool = False
    public_address: str | None = None


class NetworkDriver(abc.ABC):
    """Ports and addresses."""

    #: Seconds between looks at what is being removed, where looking costs a service something;
    #: 0 where one may look as often as wanted.
    look_interval_s: float = 0.0

    @abc.abstractmethod
    def create_port(
        self,
        *,
        instance_id: str,
        project_id: str,
        nic: Mapping[str, Any] | None,
        access: Mapping[str, Any] | None,
        engine_port: int,
        more_ports: tuple[int, ...] = (),
    ) -> Port:
        """Make the port of an instance; not a second one for the same id.

        Asked again it completes what an earlier call left half-made.
        ``nic`` is as in the API's create body, ``access`` as for :meth:`update_access`; None
        admits everybody. What it says holds for all ports of the engine. Raises
        AddressPoolExhausted or another DriverError.
        """

    @abc.abstractmethod
    def update_access(
        self,
        port_id: str,
        *,
        access: Mapping[str, Any],
        engine_port: int,
        more_ports: tuple[int, ...] = (),
    ) -> Port:
        """Have only ``access["allowed_cidrs"]`` reach the engine, and return the port as it is.

        With ``access["is_public"]`` it has a public address. May be repeated. Raises DriverError.
        """

    def create_management_port(self, *, instance_id: str) -> str | None:
        """Make the port to the guest bus and return its id; not a second one for the same id.

        None where there is no network for the guest bus alone. Raises DriverError.
        """
        return None

    @property
    def requires_nic(self) -> bool:
        """Tell whether users must name a network in ``nics``."""
        return False

    def check_nic(  # noqa: B027 - most drivers need no other service for it
        self, nic: Mapping[str, Any] | None, *, caller: context.RequestContext
    ) -> None:
        """See with the caller's own rights that the caller may use what a nic names.

        ``nic`` is as in the API's create body. Called inside the caller's request only; drivers
        that need no other service for it make no remote call. Raises BadRequest, DriverError.
        """

    def list_owners(self) -> Collection[str]:
        """Return the ids of instances for which anything is left; raises DriverError."""
        return {port.instance_id for port in self.list_ports()}

    def remove_all(self, instance_id: str) -> bool:
        """Begin to remove all that is left for an instance; tell whether nothing is left.

        Ports, addresses, groups and whatever else the driver made. Raises DriverError.
        """
        port = self.find_port(instance_id)
        if port is not None:
            self.delete_port(port.id)
        return self.find_port(instance_id) is None

    def refresh(self) -> None:  # noqa: B027 - most drivers need none
        """Put right what got lost of the rules, for the reconciler; raises DriverError."""

    @abc.abstractmethod
    def find_port(self, instance_id: str) -> Port | None:
        """Return the port made for an instance, or None."""

    @abc.abstractmethod
    def list_ports(self) -> Sequence[Port]:
        """Return all ports made by this service."""

    @abc.abstractmethod
    def delete_port(self, port_id: str) -> None:
        """Remove a port; nothing when it is gone."""
