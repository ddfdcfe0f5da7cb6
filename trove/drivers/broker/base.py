"""The interface of broker drivers: what an agent may do on the guest bus.

See :mod:`trove.drivers.compute.base` for the rules.
"""

from __future__ import annotations

import abc
from collections.abc import Collection


class BrokerDriver(abc.ABC):
    """An account of the guest bus for each agent.

    An instance may have two accounts for a while: the one that its server was made with, and the
    one that replaces it at first contact. ``generation`` tells them apart, from 0 on.
    """

    @abc.abstractmethod
    def ensure_account(self, instance_id: str, generation: int, password: str) -> str:
        """Have an account exist with this password, limited to what the agent needs.

        Returns the transport URL for the agent, a secret. May be repeated. Raises DriverError.
        """

    @abc.abstractmethod
    def remove_accounts(self, instance_id: str, *, keep: int | None = None) -> None:
        """Remove the accounts of an instance and end their connections.

        That of the generation ``keep`` stays. Nothing when they are gone. Raises DriverError.
        """

    @abc.abstractmethod
    def list_owners(self) -> Collection[str]:
        """Return the ids of instances that have accounts; raises DriverError."""
