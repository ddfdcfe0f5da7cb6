"""Certificates of the tenant's in MariaDB: demands of accounts, and what is kept of them."""

from __future__ import annotations

import os
import pathlib
import shutil
import ssl
import stat
import uuid
from collections.abc import Iterator

import pymysql
import pytest
from cryptography import x509

from tests.fixtures.certificates import TenantAuthority, key_pem_of, pem_of
from tests.fixtures.engine import (
    Authority,
    Guest,
    mariadb_template,
    needs_mariadb,
    passable_directory,
)
from trove.rpc import payloads

__all__ = ["mariadb_template"]

pytestmark = needs_mariadb

#: MariaDB tells nobody why: the same for plain text and for a missing certificate.
DENIED = 1045


class Instance:
    """A guest with the certificate that the control plane gave it, and a tenant with another."""

    def __init__(self, guest: Guest) -> None:
        self.guest = guest
        self.authority = Authority()
        self.tenant = TenantAuthority()
        guest.start_agent()
        assert guest.datastore is not None
        csr = guest.datastore.service.certificate_request()
        assert csr is not None
        self.builtin = self.authority.sign(csr, address=guest.address)
        guest.prepare(
            certificate_pem=self.builtin,
            ca_pem=self.authority.pem,
            databases=(payloads.Database(name="shop"),),
            users=(payloads.User(name="joe", password="secret"),),
        )

    def enable(self, mode: str, *, keep: tuple[str, ...] = ()) -> tuple[str, str]:
        """Have a new certificate in force; return its set and its PEM."""
        key, certificate = self.tenant.issue("db", address=self.guest.address)
        set_id = str(uuid.uuid4())
        job = payloads.SslJob(
            mode=mode,
            set_id=set_id,
            key_pem=key_pem_of(key),
            certificate_pem=pem_of(certificate),
            ca_pem=self.tenant.pem,
            keep=keep,
        )
        self.apply(job)
        return set_id, pem_of(certificate)

    def apply(self, job: payloads.SslJob) -> None:
        outcome = self.guest.run(job)
        assert outcome.succeeded, outcome.error

    def connect(
        self, *, ca: str | None = None, client: TenantAuthority | None = None, user: str = "joe"
    ) -> pymysql.connections.Connection:
        """Connect as a tenant's program; without ``ca`` in plain text."""
        if ca is None:
            return self.guest.connect(user, "secret", ssl_disabled=True)
        context = ssl.create_default_context(cadata=ca)
        if client is not None:
            key, certificate = client.issue("client")
            directory = self.guest.directory
            (directory / "client.pem").write_text(key_pem_of(key) + pem_of(certificate))
            context.load_cert_chain(directory / "client.pem")
        return self.guest.connect(user, "secret", ssl=context)

    def shown(self) -> str:
        """Return the certificate that the server shows, PEM."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        with self.guest.connect("joe", "secret", ssl=context) as connection:
            der = connection._sock.getpeercert(binary_form=True)  # type: ignore[attr-defined]
        return pem_of(x509.load_der_x509_certificate(der))

    def number(self, **options: object) -> int:
        """Return the server's error when a connection is refused."""
        with pytest.raises(pymysql.err.OperationalError) as caught:
            self.connect(**options)  # type: ignore[arg-type]
        return int(caught.value.args[0])


@pytest.fixture(scope="module")
def instance(mariadb_template: pathlib.Path) -> Iterator[Instance]:
    with passable_directory() as directory:
        guest = Guest(directory=directory, template=mariadb_template)
        try:
            yield Instance(guest)
        finally:
            guest.destroy()


@pytest.fixture(autouse=True)
def builtin(instance: Instance) -> None:
    instance.apply(payloads.SslJob(mode="builtin"))


def files_of(instance: Instance) -> list[pathlib.Path]:
    return sorted((instance.guest.layout.mount_point / "tls").rglob("*.pem"))


def test_a_certificate_is_taken_while_sessions_go_on(instance: Instance) -> None:
    with instance.connect(ca=instance.authority.pem) as old, old.cursor() as cursor:
        _, pem = instance.enable("basic")
        cursor.execute("SELECT 1")
        assert cursor.fetchone() == (1,)
    assert instance.shown() == pem
    instance.connect(ca=instance.tenant.pem).close()
    instance.connect().close()


def test_mtls_wants_a_certificate_of_every_client_and_of_users_made_later(
    instance: Instance,
) -> None:
    instance.guest.call("enable_root", payloads.EnableRoot(password="secret"))
    instance.enable("mtls")
    joe = payloads.User(name="late", password="secret")
    instance.guest.call("create_users", payloads.Users(users=(joe,)))
    for user in ("joe", "late", "root"):
        assert instance.number(ca=instance.tenant.pem, user=user) == DENIED
        instance.connect(ca=instance.tenant.pem, client=instance.tenant, user=user).close()
    with pytest.raises(pymysql.err.OperationalError):
        instance.connect(ca=instance.tenant.pem, client=TenantAuthority("another"))
    instance.guest.call("enable_root", payloads.EnableRoot(password="secret"))
    assert instance.number(ca=instance.tenant.pem, user="root") == DENIED
    instance.apply(payloads.SslJob(mode="builtin"))
    for user in ("joe", "late", "root"):
        instance.connect(user=user).close()
    instance.guest.call("delete_user", payloads.UserRef(name="late"))
    instance.guest.call("disable_root", payloads.Empty())


def test_demands_that_the_tenant_made_outlive_mtls(instance: Instance) -> None:
    users = tuple(payloads.User(name=name, password="secret") for name in ("tls", "cert"))
    instance.guest.call("create_users", payloads.Users(users=users))
    instance.guest.call("enable_root", payloads.EnableRoot(password="secret"))
    with instance.connect(user="root") as root, root.cursor() as cursor:
        cursor.execute("ALTER USER tls@'%' REQUIRE SSL")
        cursor.execute("ALTER USER cert@'%' REQUIRE X509")
    instance.enable("mtls")
    assert instance.number(ca=instance.tenant.pem, user="tls") == DENIED
    instance.enable("mtls")
    instance.apply(payloads.SslJob(mode="builtin"))
    assert instance.number(user="tls") == DENIED
    instance.connect(ca=instance.authority.pem, user="tls").close()
    assert instance.number(ca=instance.authority.pem, user="cert") == DENIED
    for user in users:
        instance.guest.call("delete_user", payloads.UserRef(name=user.name))
    instance.guest.call("disable_root", payloads.Empty())


def test_a_lost_state_directory_is_made_good_from_the_volume(instance: Instance) -> None:
    _, pem = instance.enable("basic")
    (instance.guest.layout.tls_dir / "current").unlink()
    assert instance.guest.run(payloads.RestartJob()).succeeded
    assert instance.shown() == pem


def test_what_is_in_force_survives_a_new_server_on_the_same_volume(instance: Instance) -> None:
    set_id, pem = instance.enable("mtls")
    guest = instance.guest
    assert guest.agent is not None
    guest.agent.supervisor.power_off(30)
    guest.stop_agent()
    shutil.rmtree(guest.layout.state_dir)
    guest.start_agent()
    assert guest.datastore is not None
    csr = guest.datastore.service.certificate_request()
    instance.builtin = instance.authority.sign(str(csr), address=guest.address)
    guest.prepare(certificate_pem=instance.builtin, ca_pem=instance.authority.pem)
    assert instance.number(ca=instance.tenant.pem) == DENIED
    instance.connect(ca=instance.tenant.pem, client=instance.tenant).close()
    instance.apply(payloads.SslJob(mode="basic", set_id=set_id))
    assert instance.shown() == pem


def test_the_former_set_is_kept_as_long_as_asked_and_nobody_else_can_read_it(
    instance: Instance,
) -> None:
    first, pem = instance.enable("basic")
    second, _ = instance.enable("enforced", keep=(first,))
    assert {path.parent.name for path in files_of(instance)} == {first, second}
    for path in files_of(instance):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o711
        assert path.parent.stat().st_uid == os.geteuid()
    instance.apply(payloads.SslJob(mode="basic", set_id=first, keep=(second,)))
    assert instance.shown() == pem
    instance.connect().close()
    instance.apply(payloads.SslJob(mode="builtin"))
    assert instance.shown() == instance.builtin
    assert files_of(instance) == []
    outcome = instance.guest.run(payloads.SslJob(mode="basic", set_id=first))
    assert not outcome.succeeded
    assert "bundle" in str(outcome.error)


@pytest.mark.parametrize(
    ("mode", "set_id"), [("builtin", "x"), ("basic", None), ("basic", "../x"), ("odd", "x")]
)
def test_a_description_that_makes_no_sense_is_refused(
    instance: Instance, mode: str, set_id: str | None
) -> None:
    job = payloads.SslJob(mode=mode, set_id=set_id, key_pem="x", certificate_pem="y")
    assert not instance.guest.run(job).succeeded
    assert instance.shown() == instance.builtin
