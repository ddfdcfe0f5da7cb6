"""An authority of our own, kept in two files, that signs the certificates of instances.

Only the public key of a request is used: names, addresses, purpose and time are ours. Secrets of
users are kept, wrapped, below the local state directory.
"""

from __future__ import annotations

import datetime
import functools
import ipaddress
import os
import pathlib
from collections.abc import Sequence

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from oslo_config import cfg

from trove.common import concurrency, crypto, exception
from trove.drivers import local_state
from trove.drivers.secrets import base
from trove.drivers.secrets import store as stores

_CA_DAYS = 3650
_MINIMUM_RSA_BITS = 2048
#: Clocks of clients may be a little behind ours.
_BACKDATED = datetime.timedelta(hours=1)


class SecretsError(exception.DriverError):
    """A certificate could not be made."""

    def __init__(self, reason: str) -> None:
        """Say what is wrong and what helps."""
        super().__init__(service="Local authority", reason=reason)


def generate_ca(
    certificate_file: pathlib.Path, key_file: pathlib.Path, *, now: datetime.datetime
) -> None:
    """Make an authority (EC P-256, ten years) in two files, the key's for its owner alone."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Trove instance authority")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + datetime.timedelta(days=_CA_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(is_authority=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    key_pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    certificate_pem = certificate.public_bytes(serialization.Encoding.PEM)
    local_state.replace(key_file, key_pem.decode("ascii"), mode=0o600)
    local_state.replace(certificate_file, certificate_pem.decode("ascii"), mode=0o644)


def _key_usage(*, is_authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_authority,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


class LocalSecrets(base.KeepingDriver):
    """The authority of ``[tls] ca_certificate_file`` and ``ca_key_file``."""

    def __init__(self, conf: cfg.ConfigOpts, *, clock: concurrency.Clock | None = None) -> None:
        """Take the configuration; the files are read when they are needed."""
        self._conf = conf
        self._clock = clock or concurrency.SystemClock()

    @functools.cached_property
    def store(self) -> stores.SecretStore:
        """The store of ``[local] state_dir``; raises ConfigurationError without a key."""
        return stores.SecretStore(
            stores.FileShelf(local_state.LocalState(self._conf.local.state_dir)),
            key_ring=crypto.KeyRing.from_config(self._conf.guest.key_encryption_keys),
            clock=self._clock,
        )

    def get_ca_certificate(self) -> str:
        """Return the authority's certificate, PEM; raises DriverError."""
        return self._read(self._conf.tls.ca_certificate_file)

    def sign_server_certificate(
        self, csr_pem: str, *, instance_id: str, addresses: Sequence[str], hostnames: Sequence[str]
    ) -> str:
        """Return a server certificate, PEM, for the key of a request; raises DriverError."""
        public_key = _checked_key(csr_pem)
        authority, key = self._authority()
        names: list[x509.GeneralName] = [
            x509.IPAddress(ipaddress.ip_address(address)) for address in addresses
        ]
        names += [x509.DNSName(hostname) for hostname in hostnames]
        if not names:
            raise SecretsError(f"instance {instance_id} has neither address nor name")
        now = self._clock.now()
        end = now + datetime.timedelta(days=self._conf.tls.certificate_days)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, instance_id)]))
            .issuer_name(authority.subject)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _BACKDATED)
            .not_valid_after(min(end, authority.not_valid_after_utc))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(is_authority=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()),
                critical=False,
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .sign(key, hashes.SHA256())
        )
        return certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")

    def _read(self, path: str) -> str:
        try:
            return pathlib.Path(path).read_text(encoding="ascii")
        except (OSError, UnicodeDecodeError) as e:
            raise SecretsError(
                f"{path} cannot be read ({e}): set [tls] ca_certificate_file and ca_key_file to the"
                " authority's files"
            ) from e

    def _authority(
        self,
    ) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey]:
        key_file = self._conf.tls.ca_key_file
        try:
            certificate = x509.load_pem_x509_certificate(self.get_ca_certificate().encode())
            key = serialization.load_pem_private_key(self._read(key_file).encode(), password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as e:
            raise SecretsError(
                f"{self._conf.tls.ca_certificate_file} or {os.path.basename(key_file)} is not a PEM"
                " file of a certificate or of a key without password"
            ) from e
        if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
            raise SecretsError(f"{key_file} holds neither an EC nor an RSA key")
        if key.public_key() != certificate.public_key():
            raise SecretsError(f"{key_file} is not the key of the authority's certificate")
        if certificate.not_valid_after_utc <= self._clock.now():
            raise SecretsError("the authority's certificate has run out: make a new authority")
        return certificate, key


def _checked_key(csr_pem: str) -> ec.EllipticCurvePublicKey | rsa.RSAPublicKey:
    """Return the public key of a request that proves to have the private one."""
    try:
        request = x509.load_pem_x509_csr(csr_pem.encode())
        is_valid = request.is_signature_valid
        key = request.public_key()
    except (ValueError, InvalidSignature, UnsupportedAlgorithm) as e:
        raise SecretsError("the guest's certificate request cannot be read") from e
    if not is_valid:
        raise SecretsError("the guest's certificate request is not signed by its own key")
    if isinstance(key, ec.EllipticCurvePublicKey):
        return key
    if isinstance(key, rsa.RSAPublicKey) and key.key_size >= _MINIMUM_RSA_BITS:
        return key
    raise SecretsError(
        f"the guest's key is neither EC nor RSA of at least {_MINIMUM_RSA_BITS} bits"
    )
