"""One account for all agents: for brokers without a management API, and for one machine."""

from __future__ import annotations

from collections.abc import Collection

from oslo_config import cfg

from trove.drivers.broker import base


class SharedAccount(base.BrokerDriver):
    """Every agent uses ``[guest] transport_url`` itself.

    What agents say is sealed with keys of their own all the same.
    """

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        """Take the configuration."""
        self._url: str = conf.guest.transport_url

    def ensure_account(self, instance_id: str, generation: int, password: str) -> str:
        """Return the URL that all agents share."""
        return self._url

    def remove_accounts(self, instance_id: str, *, keep: int | None = None) -> None:
        """Do nothing."""

    def list_owners(self) -> Collection[str]:
        """Return none."""
        return ()
