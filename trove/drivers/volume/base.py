"""The interface of volume drivers; see :mod:`trove.drivers.compute.base` for the rules."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """A volume made for an instance. ``status`` is "available", "in-use", "error" or "creating"."""

    id: str
    instance_id: str
    size_gib: int
    status: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class VolumeType:
    """A kind of volume that users may choose."""

    id: str
    name: str
    is_public: bool = True
    description: str | None = None


class VolumeDriver(abc.ABC):
    """Volumes."""

    #: Whether a volume may grow while a server uses it; else it is taken from the server first.
    extends_attached: bool = True

    @abc.abstractmethod
    def list_volume_types(self) -> Sequence[VolumeType]:
        """Return the types that volumes may have; none when volumes have no types here."""

    @abc.abstractmethod
    def create_volume(
        self, *, instance_id: str, size_gib: int, volume_type: str | None, project_id: str
    ) -> Volume:
        """Begin to make a volume; raises DriverError. Not a second one for the same id."""

    @abc.abstractmethod
    def find_volume(self, instance_id: str) -> Volume | None:
        """Return the volume made for an instance, or None."""

    @abc.abstractmethod
    def list_volumes(self) -> Sequence[Volume]:
        """Return all volumes made by this service."""

    @abc.abstractmethod
    def extend_volume(self, volume_id: str, size_gib: int) -> None:
        """Begin to make a volume larger; nothing when it is that large. Raises DriverError."""

    @abc.abstractmethod
    def delete_volume(self, volume_id: str) -> None:
        """Begin to remove a volume with its data; nothing when it is gone."""
