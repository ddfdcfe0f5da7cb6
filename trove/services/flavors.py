"""Flavors, as the compute driver knows them, remembered for a few seconds."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

from oslo_config import cfg

from trove.common import concurrency, exception
from trove.drivers.compute import base

_REMEMBERED_S = 5.0


class Flavors:
    """Use cases of flavors."""

    def __init__(
        self,
        *,
        conf: cfg.ConfigOpts,
        compute: base.ComputeDriver | None,
        clock: concurrency.Clock,
    ) -> None:
        """Take the compute driver; without one the flavors are those of ``[local] flavors``."""
        self._conf = conf
        self._compute = compute
        self._clock = clock
        self._lock = threading.Lock()
        self._flavors: Mapping[str, base.Flavor] = {}
        self._expires: float | None = None

    def list_flavors(self) -> Sequence[base.Flavor]:
        """Return all flavors in order of memory; raises DriverError."""
        return list(self._known().values())

    def get_flavor(self, flavor_id: str) -> base.Flavor:
        """Return a flavor by id, not by name; raises FlavorNotFound or DriverError."""
        flavor = self._known().get(flavor_id)
        if flavor is None:
            raise exception.FlavorNotFound(flavor_id=flavor_id)
        return flavor

    def _known(self) -> Mapping[str, base.Flavor]:
        with self._lock:
            now = self._clock.monotonic()
            if self._expires is None or now >= self._expires:
                flavors = self._read()
                self._flavors = {flavor.id: flavor for flavor in flavors}
                self._expires = now + _REMEMBERED_S
            return self._flavors

    def _read(self) -> Sequence[base.Flavor]:
        if self._compute is not None:
            return self._compute.list_flavors()
        flavors = [_parse(text) for text in self._conf.local.flavors]
        return sorted(flavors, key=lambda flavor: (flavor.ram_mib, flavor.id))


def _parse(text: str) -> base.Flavor:
    try:
        flavor_id, name, ram, vcpus = text.split(":")
        return base.Flavor(id=flavor_id, name=name, ram_mib=int(ram), vcpus=int(vcpus))
    except ValueError:
        raise exception.ConfigurationError(
            reason=f"[local] flavors: {text!r} is not id:name:memory-in-MiB:cpus"
        ) from None
