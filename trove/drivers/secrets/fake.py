"""A secrets driver for tests: a real certificate authority that lives in memory."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from oslo_config import cfg

from trove.common import concurrency, context, crypto, exception
from trove.drivers import injection
from trove.drivers.secrets import base
from trove.drivers.secrets import store as stores

_DAY = datetime.timedelta(days=1)


class FakeSecrets(base.KeepingDriver):
    """Signs with a key made at the start; certificates are valid for ten days."""

    def __init__(self, conf: cfg.ConfigOpts | None = None) -> None:
        """Make the authority; the configuration is not used."""
        self.injector = injection.Injector()
        self._store = stores.SecretStore(
            stores.MemoryShelf(),
            key_ring=crypto.KeyRing([crypto.generate_key()]),
            clock=concurrency.SystemClock(),
        )
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Fake authority")])
        self._certificate = (
            self._builder(self._name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self._key, hashes.SHA256())
        )

    @property
    def store(self) -> stores.SecretStore:
        """The store, in memory."""
        return self._store

    def get_secret_payload(self, ref: str, *, caller: context.RequestContext) -> bytes:
        """Return the payload of a secret of the caller's project."""
        with self.injector.around("get_secret_payload"):
            return super().get_secret_payload(ref, caller=caller)

    def add_consumer(self, ref: str, consumer: stores.Consumer, *, project_id: str) -> None:
        """Note that something uses a secret."""
        with self.injector.around("add_consumer"):
            super().add_consumer(ref, consumer, project_id=project_id)

    def remove_consumer(self, ref: str, consumer: stores.Consumer, *, project_id: str) -> None:
        """Note that something uses a secret no more."""
        with self.injector.around("remove_consumer"):
            super().remove_consumer(ref, consumer, project_id=project_id)

    def create_authority(self) -> bool:
        """Leave it at the one made at the start."""
        return False

    def get_ca_certificate(self) -> str:
        """Return the authority's certificate, PEM."""
        with self.injector.around("get_ca_certificate"):
            return self._certificate.public_bytes(serialization.Encoding.PEM).decode()

    def sign_server_certificate(
        self, csr_pem: str, *, instance_id: str, addresses: Sequence[str], hostnames: Sequence[str]
    ) -> str:
        """Return a server certificate for the public key of a request."""
        with self.injector.around("sign_server_certificate"):
            try:
                request = x509.load_pem_x509_csr(csr_pem.encode())
            except ValueError:
                raise exception.DriverError(
                    service="secrets", reason="the certificate request cannot be read"
                ) from None
            if not request.is_signature_valid:
                raise exception.DriverError(
                    service="secrets", reason="the certificate request is not signed by its key"
                )
            subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, instance_id)])
            names: list[x509.GeneralName] = [
                x509.IPAddress(ipaddress.ip_address(address)) for address in addresses
            ]
            names += [x509.DNSName(hostname) for hostname in hostnames]
            certificate = (
                self._builder(subject, request.public_key())
                .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
                .add_extension(x509.SubjectAlternativeName(names), critical=False)
                .sign(self._key, hashes.SHA256())
            )
            return certificate.public_bytes(serialization.Encoding.PEM).decode()

    def _builder(self, subject: x509.Name, public_key: object) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(public_key)  # type: ignore[arg-type]
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _DAY)
            .not_valid_after(now + 10 * _DAY)
        )
