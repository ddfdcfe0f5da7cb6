"""Volume types, as the volume driver knows them, remembered for a few seconds."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from oslo_log import log

from trove.common import concurrency, exception
from trove.drivers.volume.base import VolumeDriver, VolumeType

LOG = log.getLogger(__name__)

_REMEMBERED_S = 5.0


class VolumeTypes:
    """Use cases of volume types."""

    def __init__(self, *, volumes: VolumeDriver | None, clock: concurrency.Clock) -> None:
        """Take the volume driver; without one there are no types."""
        self._volumes = volumes
        self._clock = clock
        self._lock = threading.Lock()
        self._types: Sequence[VolumeType] = ()
        self._expires: float | None = None

    def list_volume_types(self) -> Sequence[VolumeType]:
        """Return all volume types in order of name; raises ServiceUnavailable."""
        with self._lock:
            now = self._clock.monotonic()
            if self._expires is None or now >= self._expires:
                self._types = sorted(self._read(), key=lambda each: each.name)
                self._expires = now + _REMEMBERED_S
            return self._types

    def _read(self) -> Sequence[VolumeType]:
        if self._volumes is None:
            return ()
        try:
            return self._volumes.list_volume_types()
        except exception.DriverError as e:
            LOG.error("volume types cannot be listed: %s", e)
            raise exception.ServiceUnavailable(reason="volume types cannot be listed") from None
