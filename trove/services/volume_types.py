"""Volume types, as the volume driver knows them."""

from __future__ import annotations

from collections.abc import Sequence

from trove.common import concurrency
from trove.drivers.volume.base import VolumeDriver, VolumeType
from trove.services.remembered import Remembered


class VolumeTypes:
    """Use cases of volume types. No request waits for the volume service."""

    def __init__(self, *, volumes: VolumeDriver | None, clock: concurrency.Clock) -> None:
        """Take the volume driver; without one there are no types."""
        self._volumes = volumes
        self.remembered: Remembered[VolumeType] = Remembered(
            "volume types",
            self._read,
            is_remote=volumes is not None and volumes.look_interval_s > 0,
            clock=clock,
        )

    def list_volume_types(self) -> Sequence[VolumeType]:
        """Return all volume types in order of name; raises ServiceUnavailable."""
        return self.remembered.get()

    def _read(self) -> Sequence[VolumeType]:
        if self._volumes is None:
            return ()
        return sorted(self._volumes.list_volume_types(), key=lambda each: each.name)
