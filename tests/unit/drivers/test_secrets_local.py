"""The authority of the instances' certificates."""

from __future__ import annotations

import datetime
import ipaddress
import pathlib

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509 import verification
from oslo_config import cfg

from trove.common import exception
from trove.drivers.secrets.local import LocalSecrets, generate_ca


@pytest.fixture
def secrets(conf: cfg.ConfigOpts, tmp_path: pathlib.Path) -> LocalSecrets:
    files = (tmp_path / "ca.pem", tmp_path / "ca-key.pem")
    generate_ca(*files, now=datetime.datetime.now(datetime.UTC))
    conf.set_override("ca_certificate_file", str(files[0]), group="tls")
    conf.set_override("ca_key_file", str(files[1]), group="tls")
    return LocalSecrets(conf)


def _request(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> str:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "evil.example")])
    builder = x509.CertificateSigningRequestBuilder().subject_name(name)
    builder = builder.add_extension(
        x509.SubjectAlternativeName([x509.DNSName("evil.example")]), critical=False
    )
    request = builder.sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()


def _sign(secrets: LocalSecrets, request: str) -> x509.Certificate:
    pem = secrets.sign_server_certificate(
        request, instance_id="i1", addresses=["127.50.0.9"], hostnames=["i1"]
    )
    return x509.load_pem_x509_certificate(pem.encode())


def test_a_certificate_verifies_for_its_address_and_name_and_no_other(
    secrets: LocalSecrets,
) -> None:
    certificate = _sign(secrets, _request(ec.generate_private_key(ec.SECP256R1())))
    authority = x509.load_pem_x509_certificate(secrets.get_ca_certificate().encode())
    builder = verification.PolicyBuilder().store(verification.Store([authority]))
    for subject in (x509.IPAddress(ipaddress.ip_address("127.50.0.9")), x509.DNSName("i1.test")):
        verifier = builder.build_server_verifier(subject)
        if isinstance(subject, x509.IPAddress):
            verifier.verify(certificate, [])
        else:
            with pytest.raises(verification.VerificationError):
                verifier.verify(certificate, [])


def test_names_of_the_request_are_not_taken_over(secrets: LocalSecrets) -> None:
    certificate = _sign(secrets, _request(rsa.generate_private_key(65537, 2048)))
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["i1"]
    assert "evil" not in certificate.subject.rfc4514_string()
    assert certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False


def test_the_key_of_the_authority_is_for_its_owner_alone(
    secrets: LocalSecrets, conf: cfg.ConfigOpts
) -> None:
    assert pathlib.Path(conf.tls.ca_key_file).stat().st_mode & 0o777 == 0o600


def _forged() -> str:
    one, other = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    good, bad = (
        x509.load_pem_x509_csr(_request(key).encode()).public_bytes(serialization.Encoding.DER)
        for key in (one, other)
    )
    point = [
        key.public_key().public_bytes(
            serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
        )
        for key in (one, other)
    ]
    forged = good.replace(point[0], point[1])
    assert forged not in (good, bad)
    request = x509.load_der_x509_csr(forged)
    return request.public_bytes(serialization.Encoding.PEM).decode()


@pytest.mark.parametrize(
    "request_pem",
    [
        "nonsense",
        _forged(),
        _request(rsa.generate_private_key(65537, 1024)),  # noqa: S505 weak on purpose
        "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n",
    ],
    ids=["text", "forged", "short", "garbage"],
)
def test_bad_requests_are_refused(secrets: LocalSecrets, request_pem: str) -> None:
    with pytest.raises(exception.DriverError, match="guest"):
        _sign(secrets, request_pem)


def test_missing_files_are_named(conf: cfg.ConfigOpts, tmp_path: pathlib.Path) -> None:
    conf.set_override("ca_certificate_file", str(tmp_path / "none.pem"), group="tls")
    with pytest.raises(exception.DriverError, match=r"none\.pem.*\[tls\]"):
        LocalSecrets(conf).get_ca_certificate()
