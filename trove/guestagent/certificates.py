"""The engine's private key, which never leaves the guest, and the request for its certificate."""

from __future__ import annotations

import pathlib
import threading

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from trove.common import exception
from trove.guestagent.system import filesystem, users

#: The first hello and a job may want the key at the same time; there must be one.
_MAKING = threading.Lock()


def ensure_key(path: pathlib.Path, *, owner: users.SystemUser) -> ec.EllipticCurvePrivateKey:
    """Return the private key (P-256) in a file; makes it when there is none. Mode 0600."""
    with _MAKING:
        return _ensure_key(path, owner=owner)


def _ensure_key(path: pathlib.Path, *, owner: users.SystemUser) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except FileNotFoundError:
        made = ec.generate_private_key(ec.SECP256R1())
        pem = made.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        filesystem.write_file(path, pem, mode=0o600, owner=owner)
        return made
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise exception.ConfigurationError(reason="the engine's private key is not an EC key")
    return key


def make_request(key: ec.EllipticCurvePrivateKey, *, name: str) -> str:
    """Return a certificate request, PEM; the signer decides on names and addresses itself."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject)
    return (
        request.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode("ascii")
    )


def check_pair(certificate_pem: str, key: ec.EllipticCurvePrivateKey) -> None:
    """Raise GuestError unless a certificate was made for the public half of ``key``."""
    try:
        certificate = x509.load_pem_x509_certificate(certificate_pem.encode())
    except ValueError:
        raise exception.GuestError(reason="the certificate of the instance is damaged") from None
    if certificate.public_key() != key.public_key():
        raise exception.GuestError(
            reason="the certificate of the instance was made for another key: create it again"
        )
