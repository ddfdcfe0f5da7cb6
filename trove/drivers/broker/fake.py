"""A broker driver for tests: accounts are entries of a dict, faults are injected."""

from __future__ import annotations

import threading
from collections.abc import Collection

from oslo_config import cfg

from trove.drivers import injection
from trove.drivers.broker import base


class FakeBroker(base.BrokerDriver):
    """Accounts that exist only here."""

    def __init__(self, conf: cfg.ConfigOpts | None = None) -> None:
        """Begin without accounts; the configuration is not used."""
        self.injector = injection.Injector()
        #: (instance id, generation) -> password.
        self.accounts: dict[tuple[str, int], str] = {}
        self._lock = threading.Lock()

    def ensure_account(self, instance_id: str, generation: int, password: str) -> str:
        """Remember the account and return a URL with it."""
        with self.injector.around("ensure_account"), self._lock:
            self.accounts[instance_id, generation] = password
            return f"rabbit://trove-guest-{instance_id}-{generation}:{password}@fake$:5672/guests"

    def remove_accounts(self, instance_id: str, *, keep: int | None = None) -> None:
        """Forget the accounts of an instance."""
        with self.injector.around("remove_accounts"), self._lock:
            for owner, generation in list(self.accounts):
                if owner == instance_id and generation != keep:
                    del self.accounts[owner, generation]

    def list_owners(self) -> Collection[str]:
        """Return the ids of instances that have accounts."""
        with self.injector.around("list_owners"), self._lock:
            return {owner for owner, _ in self.accounts}
