"""The interface of volume drivers; see :mod:`trove.drivers.compute.base` for the rules."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Sequence

from trove.common import exception


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """A volume made for an instance.

    ``status`` is "creating", "available", "in-use" (a server has it), "busy" (something is being
    done to it), "deleting" or "error"; ``fault`` says why it is in error, and what helps.
    """

    id: str
    instance_id: str
    size_gib: int
    status: str
    fault: str | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class VolumeType:
    """A kind of volume that users may choose."""

    id: str
    name: str
    is_public: bool = True
    description: str | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What a volume held at a moment, made for ``owner_id``.

    ``status`` is "creating", "available", "deleting" or "error".
    """

    id: str
    owner_id: str
    volume_id: str
    size_gib: int
    status: str


class VolumeDriver(abc.ABC):
    """Volumes."""

    #: Whether a volume may grow while a server uses it; else it is taken from the server first.
    extends_attached: bool = True

    #: Whether volumes have snapshots.
    has_snapshots: bool = False

    #: Seconds between looks at a volume that changes, where looking costs a service something;
    #: 0 where one may look as often as wanted.
    look_interval_s: float = 0.0

    @abc.abstractmethod
    def list_volume_types(self) -> Sequence[VolumeType]:
        """Return the types that volumes may have; none when volumes have no types here."""

    #: Whether snapshots stay when their volume is removed; else it cannot be before they are.
    snapshots_outlive_volumes: bool = False

    @abc.abstractmethod
    def create_volume(
        self,
        *,
        instance_id: str,
        size_gib: int,
        volume_type: str | None,
        project_id: str,
        snapshot_id: str | None = None,
    ) -> Volume:
        """Begin to make a volume; raises DriverError. Not a second one for the same id.

        One of a snapshot holds what that does, and is as large at least.
        """

    @abc.abstractmethod
    def find_volume(self, instance_id: str) -> Volume | None:
        """Return the volume made for an instance, or None."""

    @abc.abstractmethod
    def list_volumes(self) -> Sequence[Volume]:
        """Return all volumes made by this service."""

    @abc.abstractmethod
    def give_volume(self, volume_id: str, instance_id: str) -> None:
        """Have a volume be another instance's; nothing when it is. Raises DriverError.

        Its id stays, and who has it attached. The other instance should have no volume then:
        which of two is found is not said.
        """

    @abc.abstractmethod
    def extend_volume(self, volume_id: str, size_gib: int) -> None:
        """Begin to make a volume larger; nothing when it is that large. Raises DriverError.

        Always for a volume that a server has, unless ``extends_attached``.
        """

    @abc.abstractmethod
    def delete_volume(self, volume_id: str) -> None:
        """Begin to remove a volume with its data; nothing when it is gone.

        Raises DriverError, as for a volume that a server has, or one with snapshots.
        """

    def create_snapshot(self, *, volume_id: str, owner_id: str) -> Snapshot:
        """Begin to keep what a volume holds now, also while a server uses it.

        Not a second one for the same owner. Raises DriverError, always unless ``has_snapshots``.
        """
        raise exception.DriverError(
            service=type(self).__name__, reason="its volumes have no snapshots"
        )

    def find_snapshot(self, owner_id: str) -> Snapshot | None:
        """Return the snapshot made for an owner, or None; raises DriverError."""
        return None

    def list_snapshots(self, volume_id: str) -> Sequence[Snapshot]:
        """Return the snapshots of a volume that this service made; raises DriverError."""
        return ()

    def delete_snapshot(  # noqa: B027 - without snapshots there is none to remove
        self, snapshot_id: str
    ) -> None:
        """Begin to remove a snapshot; nothing when it is gone.

        Raises DriverError, also for one that is being made.
        """
