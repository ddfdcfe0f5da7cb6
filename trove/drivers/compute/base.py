"""The interface of compute drivers.

Drivers never wait for a server to reach a state and never write the database; they raise
:class:`trove.common.exception.DriverError` (``retryable`` tells whether trying again can help) or
its subclasses. Every ``create_`` has a ``find_`` by the instance id, so that an operation that died
after acting finds what it made.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import ClassVar

from trove import states


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Flavor:
    """Size of a server: memory in MiB, disks in GiB."""

    id: str
    name: str
    ram_mib: int
    vcpus: int
    disk_gib: int = 0
    ephemeral_gib: int = 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ServerSpec:
    """What server to make.

    ``files`` are written into the server before its agent starts (path relative to the agent's
    configuration directory -> content); the first is ``guest.conf``. They hold secrets, so they are
    kept out of repr. ``management_port_id`` is the port to the guest bus where that has a network
    of its own. Servers of one ``group_id`` are placed by ``locality``: "affinity" or
    "anti-affinity", or one of them with "soft-" before it.
    """

    instance_id: str
    name: str
    project_id: str
    flavor: Flavor
    image_id: str
    datastore_manager: str
    port_id: str
    address: str
    management_port_id: str | None = None
    volume_id: str | None = None
    availability_zone: str | None = None
    locality: str | None = None
    group_id: str | None = None
    files: Mapping[str, str] = dataclasses.field(repr=False, default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A server as the driver sees it now.

    ``flavor_id`` is the flavor that it runs with, while a resize waits for its confirmation the
    new one. ``host`` is None where servers cannot be moved.
    """

    id: str
    instance_id: str
    status: states.ServerStatus
    fault: str | None = None
    flavor_id: str | None = None
    host: str | None = None
    #: When the service changed anything of it last, in the service's own words; None where unknown.
    changed: str | None = None


class ComputeDriver(abc.ABC):
    """Servers and flavors."""

    #: Whether a volume is given to a running server and taken from it, see ``attach_volume``.
    attaches_volumes: ClassVar[bool] = False

    #: Whether there are other hosts that a server can be moved to.
    can_migrate: ClassVar[bool] = False

    #: Seconds between lists of all servers, by all processes together, where looking costs a
    #: service something: then the list alone tells what changed, and nobody looks at one server
    #: again and again. 0 where everybody may look as often as wanted.
    look_interval_s: float = 0.0

    @abc.abstractmethod
    def list_flavors(self) -> Sequence[Flavor]:
        """Return all flavors, in order of memory."""

    @abc.abstractmethod
    def get_flavor(self, flavor_id: str) -> Flavor:
        """Return a flavor by id; raises FlavorNotFound."""

    @abc.abstractmethod
    def create_server(self, spec: ServerSpec) -> Server:
        """Begin to make a server; raises DriverError.

        Makes no second one for an id: returns what there is, or goes on with what is half made.
        """

    @abc.abstractmethod
    def find_server(self, instance_id: str) -> Server | None:
        """Return the server made for an instance, or None."""

    def check_gone(self, server_id: str) -> None:  # noqa: B027 - most drivers find what there is
        """Look whether a server that is not found is gone; raises DriverError when it is not.

        Parts of a service may be down, and what is there then be left out of its lists.
        """

    @abc.abstractmethod
    def list_servers(self) -> Sequence[Server]:
        """Return all servers made by this service (one call, for the reconciler)."""

    def list_empty_groups(self) -> Collection[str]:
        """Return the ``group_id`` of all groups that have no server; raises DriverError."""
        return ()

    def remove_empty_group(self, group_id: str) -> None:  # noqa: B027 - most drivers have no groups
        """Remove the group of servers of that id unless it has any; raises DriverError."""

    @abc.abstractmethod
    def start_server(self, server_id: str) -> None:
        """Start a server that is SHUTOFF; does nothing when it runs. Raises DriverError."""

    @abc.abstractmethod
    def stop_server(self, server_id: str) -> None:
        """Begin the clean shutdown of a server, engine included; nothing when it is off."""

    @abc.abstractmethod
    def reboot_server(self, server_id: str) -> None:
        """Stop and start a server."""

    @abc.abstractmethod
    def resize_server(self, server_id: str, flavor: Flavor) -> None:
        """Begin to give a server another flavor: it ends in VERIFY_RESIZE with that.

        When it ends ACTIVE with its old flavor, the resize failed. Asked again for the same
        flavor, it does nothing. Raises DriverError.
        """

    def find_setback(self, server_id: str) -> str | None:
        """Return why what was last begun with a server did not happen; None when nobody knows."""
        return None

    @abc.abstractmethod
    def confirm_resize(self, server_id: str) -> None:
        """Make a resize final; nothing when none waits for that. Raises DriverError."""

    @abc.abstractmethod
    def revert_resize(self, server_id: str) -> None:
        """Begin to take a resize back that was not confirmed; nothing when there is none."""

    @abc.abstractmethod
    def migrate_server(self, server_id: str, host: str | None) -> None:
        """Begin to move a server to a host, or to one that is chosen.

        It ends ACTIVE, or in VERIFY_RESIZE with another ``host``. Nothing when it is there
        already. Raises DriverError, always unless ``can_migrate``.
        """

    @abc.abstractmethod
    def delete_server(self, server_id: str) -> None:
        """Begin to remove a server and all its processes; nothing when it is gone."""

    def attach_volume(  # noqa: B027 - see attaches_volumes
        self, server_id: str, volume_id: str
    ) -> None:
        """Begin to give a server its volume; nothing when it has it. Raises DriverError."""

    def detach_volume(  # noqa: B027 - see attaches_volumes
        self, server_id: str, volume_id: str
    ) -> None:
        """Begin to take a volume from a server; nothing when it is gone. Raises DriverError."""
