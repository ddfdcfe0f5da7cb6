"""The interface of secrets drivers: the authority that signs the certificates of instances."""

from __future__ import annotations

import abc
from collections.abc import Sequence


class SecretsDriver(abc.ABC):
    """Certificates of instances."""

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
