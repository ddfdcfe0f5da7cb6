"""A certificate authority in this process, wherever its key is kept.

Only the public key of a request is used: names, addresses, purpose and time are ours.
"""

from __future__ import annotations

import dataclasses
import datetime
import ipaddress
from collections.abc import Sequence

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from trove.common import exception

_CA_DAYS = 3650
_MINIMUM_RSA_BITS = 2048
#: Clocks of clients may be a little behind ours.
_BACKDATED = datetime.timedelta(hours=1)


class SecretsError(exception.DriverError):
    """A certificate could not be made."""

    def __init__(self, reason: str) -> None:
        """Say what is wrong and what helps."""
        super().__init__(service="Certificate authority", reason=reason)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class NewAuthority:
    """An authority that was just made, as PEM."""

    certificate_pem: str
    key_pem: str = dataclasses.field(repr=False)


def generate(*, now: datetime.datetime) -> NewAuthority:
    """Make an authority: EC P-256, ten years."""
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
    return NewAuthority(certificate_pem=to_pem(certificate), key_pem=key_pem.decode("ascii"))


def to_pem(certificate: x509.Certificate) -> str:
    """Return a certificate as PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")


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


class Authority:
    """An authority that signs."""

    def __init__(
        self, certificate_pem: str, key_pem: str, *, source: str, now: datetime.datetime
    ) -> None:
        """Read certificate and key; ``source`` says in errors where they are from.

        Raises SecretsError when they are none, do not belong together or have run out.
        """
        try:
            certificate = x509.load_pem_x509_certificate(certificate_pem.encode())
            key = serialization.load_pem_private_key(key_pem.encode(), password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as e:
            raise SecretsError(
                f"{source}: not PEM of a certificate or of a key without password"
            ) from e
        if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
            raise SecretsError(f"{source}: the key is neither an EC nor an RSA key")
        if key.public_key() != certificate.public_key():
            raise SecretsError(f"{source}: that is not the key of the authority's certificate")
        if certificate.not_valid_after_utc <= now:
            raise SecretsError("the authority's certificate has run out: make a new authority")
        self.certificate = certificate
        self._key = key

    def sign(
        self,
        csr_pem: str,
        *,
        instance_id: str,
        addresses: Sequence[str],
        hostnames: Sequence[str],
        days: int,
        now: datetime.datetime,
    ) -> str:
        """Return a server certificate, PEM, for the key of a request; raises SecretsError."""
        public_key = _checked_key(csr_pem)
        names: list[x509.GeneralName] = [
            x509.IPAddress(ipaddress.ip_address(address)) for address in addresses
        ]
        names += [x509.DNSName(hostname) for hostname in hostnames]
        if not names:
            raise SecretsError(f"instance {instance_id} has neither address nor name")
        end = min(now + datetime.timedelta(days=days), self.certificate.not_valid_after_utc)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, instance_id)]))
            .issuer_name(self.certificate.subject)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _BACKDATED)
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(is_authority=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return to_pem(certificate)


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
