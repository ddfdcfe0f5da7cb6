"""TLS on every real engine: on by default, the tenant's certificates, enforced, taken back."""

from __future__ import annotations

import pytest

from tests.fixtures.certificates import TenantAuthority, key_pem_of, pem_of
from tests.fixtures.rows import Subject, subject
from trove.datastores.spec import Capability
from trove.rpc import payloads

__all__ = ["subject"]


@pytest.fixture
def builtin(subject: Subject) -> Subject:
    """Give the instance with a user, on the certificate that the control plane gave it."""
    subject.need(Capability.TLS)
    if not subject.users():
        subject.tenant_user()
    subject.apply_tls(payloads.SslJob(mode="builtin"))
    return subject


def is_let_in(
    subject: Subject,
    *,
    ca: str | None = None,
    client: str | None = None,
) -> bool:
    database = "shop" if subject.can(Capability.DATABASES) else None
    return subject.is_let_in("joe", "secret", database=database, ca=ca, client=client)


def test_the_default_certificate_is_verified_by_the_engines_own_protocol(builtin: Subject) -> None:
    assert is_let_in(builtin, ca=builtin.authority.pem)
    assert not is_let_in(builtin, ca=TenantAuthority("another").pem)
    assert is_let_in(builtin)


def test_another_certificate_is_taken_while_sessions_go_on(builtin: Subject) -> None:
    database = "shop" if builtin.can(Capability.DATABASES) else None
    ca = builtin.authority.pem
    with builtin.login("joe", "secret", database=database, ca=ca) as session:
        session.write("before")
        builtin.apply_tls(builtin.tls("basic"))
        if builtin.probe.keeps_sessions:
            assert session.read() == "before"
    assert is_let_in(builtin, ca=builtin.tenant.pem)
    assert not is_let_in(builtin, ca=ca)
    assert is_let_in(builtin)
    # renewed: the same authority, another certificate
    builtin.apply_tls(builtin.tls("basic"))
    assert is_let_in(builtin, ca=builtin.tenant.pem)
    builtin.apply_tls(payloads.SslJob(mode="builtin"))
    assert is_let_in(builtin, ca=ca)


def test_enforced_refuses_plain_text_until_it_is_basic_again(builtin: Subject) -> None:
    job = builtin.tls("enforced")
    builtin.apply_tls(job)
    assert not is_let_in(builtin)
    assert is_let_in(builtin, ca=builtin.tenant.pem)
    builtin.apply_tls(payloads.SslJob(mode="basic", set_id=job.set_id))
    assert is_let_in(builtin)


def test_mtls_wants_a_certificate_of_every_client(builtin: Subject) -> None:
    builtin.apply_tls(builtin.tls("mtls"))
    ca = builtin.tenant.pem
    assert not is_let_in(builtin)
    assert not is_let_in(builtin, ca=ca)
    assert not is_let_in(builtin, ca=ca, client=builtin.client_of(TenantAuthority("another")))
    assert is_let_in(builtin, ca=ca, client=builtin.client_of(builtin.tenant))
    builtin.apply_tls(payloads.SslJob(mode="builtin"))
    assert is_let_in(builtin)


def test_a_bundle_that_does_not_work_leaves_everything_as_it_was(builtin: Subject) -> None:
    builtin.apply_tls(builtin.tls("enforced"))
    key, _ = builtin.tenant.issue("other")
    _, certificate = builtin.tenant.issue("db")
    bad = builtin.tls("mtls", key_pem=key_pem_of(key), certificate_pem=pem_of(certificate))
    outcome = builtin.guest.run(bad)
    assert not outcome.succeeded
    assert outcome.error
    assert "PRIVATE KEY" not in outcome.error
    assert is_let_in(builtin, ca=builtin.tenant.pem)
    assert not is_let_in(builtin)


def test_what_is_in_force_survives_restarts_of_engine_and_agent(builtin: Subject) -> None:
    builtin.apply_tls(builtin.tls("enforced"))
    builtin.guest.stop_agent()
    builtin.guest.start_agent()
    builtin.restart()
    assert is_let_in(builtin, ca=builtin.tenant.pem)
    assert not is_let_in(builtin)
