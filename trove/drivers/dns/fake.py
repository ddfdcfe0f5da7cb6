"""A DNS driver for tests: names are entries of a dict, faults are injected."""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence

from oslo_config import cfg

from trove.drivers import injection
from trove.drivers.dns import base

ZONE = "db.example.org"


class FakeDns(base.DnsDriver):
    """Names that exist only here."""

    def __init__(self, conf: cfg.ConfigOpts | None = None) -> None:
        """Begin without names; the configuration is not used."""
        self.injector = injection.Injector()
        #: Instance id -> the addresses that its name leads to.
        self.records: dict[str, tuple[str, ...]] = {}
        #: How often a name was made for each instance.
        self.created: dict[str, int] = {}
        self._lock = threading.Lock()

    def hostname_of(self, instance_id: str) -> str | None:
        """Return a name in the one zone."""
        return f"{instance_id}.{ZONE}"

    def set_records(self, instance_id: str, addresses: Sequence[str]) -> None:
        """Note the addresses of a name."""
        with self.injector.around("set_records"), self._lock:
            if instance_id not in self.records:
                self.created[instance_id] = self.created.get(instance_id, 0) + 1
            self.records[instance_id] = tuple(sorted(addresses))

    def remove_records(self, instance_id: str) -> None:
        """Forget a name."""
        with self.injector.around("remove_records"), self._lock:
            self.records.pop(instance_id, None)

    def list_owners(self) -> Collection[str]:
        """Return the ids of instances that have a name."""
        with self.injector.around("list_owners"), self._lock:
            return set(self.records)
