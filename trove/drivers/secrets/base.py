"""The interface of secrets drivers: the authority of instances, and secrets of users.

Secrets are named by references, as the key manager hands them out. They are read as the caller who
names them; who uses them is noted as the service itself, since a deletion may be an operator's.
"""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Sequence

from trove.common import context, exception
from trove.drivers.secrets import store as stores


class SecretsDriver(abc.ABC):
    """Certificates of instances, and secrets of users."""

    @property
    def store(self) -> stores.SecretStore | None:
        """The store that the driver keeps itself; None when a key manager does."""
        return None

    @abc.abstractmethod
    def get_secret_payload(self, ref: str, *, caller: context.RequestContext) -> bytes:
        """Return the payload of a secret that the caller may read.

        Raises SecretNotFound, DriverUnavailable, DriverError.
        """

    @abc.abstractmethod
    def add_consumer(self, ref: str, consumer: stores.Consumer, *, project_id: str) -> None:
        """Note on a project's secret that something uses it; again is harmless.

        Raises SecretNotFound, DriverUnavailable, DriverError.
        """

    @abc.abstractmethod
    def remove_consumer(self, ref: str, consumer: stores.Consumer, *, project_id: str) -> None:
        """Note on a project's secret that something uses it no more; again is harmless.

        A secret that is gone is no error. Raises DriverUnavailable, DriverError.
        """

    @abc.abstractmethod
    def create_authority(self) -> bool:
        """Make the authority unless there is one; returns whether this call made it.

        Of several callers at once one makes it. Raises DriverUnavailable, DriverError.
        """

    @abc.abstractmethod
    def get_ca_certificate(self) -> str:
        """Return the authority's certificate, PEM; raises DriverError."""

    @abc.abstractmethod
    def sign_server_certificate(
        self, csr_pem: str, *, instance_id: str, addresses: Sequence[str], hostnames: Sequence[str]
    ) -> str:
        """Return a server certificate, PEM, for the public key of a certificate request.

        Only the request's public key is used (its signature is checked): names and addresses are
        the caller's, since the request comes from a guest. Raises DriverError.
        """


class KeepingDriver(SecretsDriver):
    """A driver that keeps secrets in a store of its own."""

    @property
    @abc.abstractmethod
    def store(self) -> stores.SecretStore:
        """The store."""

    def get_secret_payload(self, ref: str, *, caller: context.RequestContext) -> bytes:
        """Return the payload of a secret of the caller's project."""
        return self.store.get_payload(str(caller.project_id), ref)

    def add_consumer(self, ref: str, consumer: stores.Consumer, *, project_id: str) -> None:
        """Note that something uses a secret."""
        self.store.add_consumer(project_id, ref, consumer)

    def remove_consumer(self, ref: str, consumer: stores.Consumer, *, project_id: str) -> None:
        """Note that something uses a secret no more."""
        with contextlib.suppress(exception.SecretNotFound):
            self.store.remove_consumer(project_id, ref, consumer)
