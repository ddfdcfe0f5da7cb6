"""Flavors, as the compute driver knows them."""

from __future__ import annotations

from collections.abc import Sequence

from oslo_config import cfg

from trove.common import concurrency, exception
from trove.drivers.compute import base
from trove.services.remembered import Remembered


class Flavors:
    """Use cases of flavors. No request waits for the compute service."""

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
        self.remembered: Remembered[base.Flavor] = Remembered(
            "flavors",
            self._read,
            is_remote=compute is not None and compute.look_interval_s > 0,
            clock=clock,
        )

    def list_flavors(self) -> Sequence[base.Flavor]:
        """Return all flavors in order of memory; raises ServiceUnavailable."""
        return self.remembered.get()

    def get_flavor(self, flavor_id: str) -> base.Flavor:
        """Return a flavor by id, not by name; raises FlavorNotFound or ServiceUnavailable."""
        for flavor in self.remembered.get():
            if flavor.id == flavor_id:
                return flavor
        raise exception.FlavorNotFound(flavor_id=flavor_id)

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
