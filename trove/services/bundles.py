"""PKCS#12 bundles: a key, its certificate and the chain, read and checked as users hand them in.

What is wrong is told by BadRequest in words that repeat nothing of the bundle. A bundle says itself
how often its passphrase is hashed; one that asks for hours of work is refused before any is done.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import datetime
from collections.abc import Iterator, Sequence

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import pkcs12
from cryptography.x509.oid import NameOID

from trove.common import exception

_MOST_BYTES = 256 * 1024
_MOST_CERTIFICATES = 20
_MINIMUM_RSA_BITS = 2048
_MOST_ITERATIONS = 5_000_000
_DEEPEST = 24

#: Tags of DER.
_INTEGER = 0x02
_OCTET_STRING = 0x04
_SEQUENCE = 0x30
_CONSTRUCTED = 0x20


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """What a server needs, as PEM: its certificate with the chain, its key, the authorities."""

    certificate_pem: str
    key_pem: str = dataclasses.field(repr=False)
    ca_pem: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What people want to know of a certificate."""

    common_name: str
    expires: datetime.datetime
    names: tuple[str, ...]


def _refuse(reason: str) -> exception.BadRequest:
    return exception.BadRequest(reason=f"container_ref: {reason}")


def read(
    payload: bytes, passphrase: bytes | None, *, now: datetime.datetime, needs_ca: bool
) -> Bundle:
    """Return the parts of a bundle; raises BadRequest.

    With ``needs_ca`` it must hold an authority, by which the certificates of clients are judged.
    """
    parts = _load(_as_der(payload), passphrase)
    if parts.key is None or parts.cert is None:
        raise _refuse("the bundle must hold a private key and the certificate that belongs to it")
    certificate = parts.cert.certificate
    _check_key(parts.key, certificate)
    _check_time(certificate, now)
    others = [each.certificate for each in parts.additional_certs]
    if len(others) > _MOST_CERTIFICATES:
        raise _refuse(f"the bundle holds more than {_MOST_CERTIFICATES} certificates")
    if needs_ca and not any(_is_authority(each) for each in others):
        raise _refuse(
            "mode mtls needs the certificate of an authority in the bundle: the certificates of"
            " clients are checked against it"
        )
    chain = [each for each in others if each.subject != each.issuer]
    key_pem = parts.key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return Bundle(
        certificate_pem=_pem([certificate, *chain]),
        key_pem=key_pem.decode("ascii"),
        ca_pem=_pem(others or [certificate]),
    )


def describe(certificate_pem: str) -> Facts:
    """Return the facts of the first certificate of a PEM text; raises ValueError."""
    certificate = x509.load_pem_x509_certificate(certificate_pem.encode("ascii"))
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        names = tuple(str(name.value) for name in extension.value)
    except x509.ExtensionNotFound:
        names = ()
    common = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    name = str(common[0].value) if common else (names[0] if names else "")
    return Facts(common_name=name, expires=certificate.not_valid_after_utc, names=names)


def _as_der(payload: bytes) -> bytes:
    """Return the bundle itself, which may have been stored as base64 text."""
    if len(payload) > _MOST_BYTES:
        raise _refuse(f"the secret is larger than {_MOST_BYTES // 1024} KiB")
    if payload[:1] == bytes([_SEQUENCE]):
        return payload
    try:
        return base64.b64decode(b"".join(payload.split()), validate=True)
    except (binascii.Error, ValueError):
        raise _refuse("the secret is not a PKCS#12 bundle") from None


def _load(der: bytes, passphrase: bytes | None) -> pkcs12.PKCS12KeyAndCertificates:
    _check_cost(der)
    try:
        return pkcs12.load_pkcs12(der, passphrase)
    except UnsupportedAlgorithm:
        raise _refuse("the bundle is encrypted in a way that is not supported") from None
    except (ValueError, TypeError):
        reason = "the secret is not a PKCS#12 bundle, or password_ref is not its passphrase"
        if passphrase is None:
            reason = "the secret is not a PKCS#12 bundle, or it needs a password_ref"
        raise _refuse(reason) from None


def _check_key(key: object, certificate: x509.Certificate) -> None:
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise _refuse("the key must be an RSA or an EC key")
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size < _MINIMUM_RSA_BITS:
        raise _refuse(f"an RSA key must have at least {_MINIMUM_RSA_BITS} bits")
    if certificate.public_key() != key.public_key():
        raise _refuse("the certificate does not belong to the private key")


def _check_time(certificate: x509.Certificate, now: datetime.datetime) -> None:
    if certificate.not_valid_after_utc <= now:
        raise _refuse(
            f"the certificate expired at {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
        )
    if certificate.not_valid_before_utc > now:
        raise _refuse(
            f"the certificate is not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M}"
            " UTC"
        )


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return bool(certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca)
    except (x509.ExtensionNotFound, ValueError):
        return False


def _pem(certificates: Sequence[x509.Certificate]) -> str:
    pem = b"".join(each.public_bytes(serialization.Encoding.PEM) for each in certificates)
    return pem.decode("ascii")


# -- the cost of opening -----


def _check_cost(der: bytes) -> None:
    """Raise BadRequest when a bundle asks for too many rounds of hashing.

    In all forms of PKCS#12 the number of rounds is the INTEGER behind the OCTET STRING of a salt.
    """
    for rounds in _rounds(der, 0):
        if rounds > _MOST_ITERATIONS:
            raise _refuse(
                f"opening the bundle takes {rounds} rounds of hashing, at most"
                f" {_MOST_ITERATIONS} are accepted"
            )


def _rounds(der: bytes, depth: int) -> Iterator[int]:
    previous = None
    for tag, content in _elements(der):
        if tag == _INTEGER and previous == _OCTET_STRING:
            yield int.from_bytes(content, "big", signed=True)
        previous = tag
        is_nested = tag == _OCTET_STRING and content[:1] == bytes([_SEQUENCE])
        if (tag & _CONSTRUCTED or is_nested) and depth < _DEEPEST:
            yield from _rounds(content, depth + 1)


def _elements(der: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield tag and content of the elements in a row; ends where it is no DER."""
    place = 0
    while place + 2 <= len(der):
        tag, length = der[place], der[place + 1]
        place += 2
        if length & 0x80:
            size = length & 0x7F
            if not 0 < size <= 4:
                return
            length = int.from_bytes(der[place : place + size], "big")
            place += size
        if place + length > len(der):
            return
        yield tag, der[place : place + length]
        place += length
