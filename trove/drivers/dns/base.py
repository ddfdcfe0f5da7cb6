"""The interface of DNS drivers; see :mod:`trove.drivers.compute.base` for the rules."""

from __future__ import annotations

import abc
from collections.abc import Collection, Sequence


class DnsDriver(abc.ABC):
    """A name for each instance."""

    @abc.abstractmethod
    def hostname_of(self, instance_id: str) -> str | None:
        """Return the name that an instance has or will have; None where there are no names."""

    @abc.abstractmethod
    def set_records(self, instance_id: str, addresses: Sequence[str]) -> None:
        """Have the name of an instance lead to exactly ``addresses``. May be repeated.

        Raises DriverError.
        """

    @abc.abstractmethod
    def remove_records(self, instance_id: str) -> None:
        """Remove the name of an instance; nothing when it is gone. Raises DriverError."""

    @abc.abstractmethod
    def list_owners(self) -> Collection[str]:
        """Return the ids of instances that have a name; raises DriverError."""


class NoDns(DnsDriver):
    """Instances are known by their addresses alone."""

    def hostname_of(self, instance_id: str) -> str | None:
        """Return None."""
        return None

    def set_records(self, instance_id: str, addresses: Sequence[str]) -> None:
        """Do nothing."""

    def remove_records(self, instance_id: str) -> None:
        """Do nothing."""

    def list_owners(self) -> Collection[str]:
        """Return none."""
        return ()
