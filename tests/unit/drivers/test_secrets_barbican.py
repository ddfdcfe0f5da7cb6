"""What Barbican alone does, shown on a real one: rights, the authority made once, wrapped keys."""

from __future__ import annotations

import concurrent.futures
import datetime
import logging
import pathlib
import uuid

import pytest
from cryptography import x509
from oslo_config import cfg

from tests.fixtures.barbican import PROJECT, Barbican, barbican
from trove.common import concurrency, context, crypto, exception
from trove.drivers import cloud, factory
from trove.drivers.secrets import authority
from trove.drivers.secrets.barbican import BarbicanSecrets
from trove.drivers.secrets.store import Consumer

__all__ = ["barbican"]


@pytest.fixture
def project() -> str:
    return uuid.uuid4().hex


@pytest.fixture
def conf(barbican: Barbican, tmp_path: pathlib.Path, project: str) -> cfg.ConfigOpts:
    """Give a service with a project of its own, which has no authority yet."""
    return barbican.make_conf(tmp_path, project=project)


def test_secret_is_read_with_the_callers_rights_and_no_other(
    barbican: Barbican, conf: cfg.ConfigOpts
) -> None:
    driver = BarbicanSecrets(conf)
    secret_id = barbican.keep(b"bundle", project="shop", readers=[])
    ref = f"{barbican.url}/v1/secrets/{secret_id}"
    assert driver.get_secret_payload(ref, caller=barbican.caller("shop")) == b"bundle"
    with pytest.raises(exception.SecretNotFound):
        driver.get_secret_payload(ref, caller=barbican.caller("other"))
    nobody = context.RequestContext(project_id="shop", overwrite=False)
    with pytest.raises(exception.Unauthorized):
        driver.get_secret_payload(ref, caller=nobody)


def test_use_that_the_service_may_not_note_is_told_and_holds_up_nothing(
    barbican: Barbican, conf: cfg.ConfigOpts, caplog: pytest.LogCaptureFixture
) -> None:
    driver = BarbicanSecrets(conf)
    secret_id = barbican.keep(b"x", project="shop", readers=[])
    consumer = Consumer(service="database", resource_type="instance", resource_id="i1")
    with caplog.at_level(logging.WARNING):
        driver.add_consumer(secret_id, consumer, project_id="shop")
        driver.remove_consumer(secret_id, consumer, project_id="shop")
    assert caplog.text.count("openstack acl user add") == 2
    assert barbican.consumers(secret_id, "shop") == set()


def test_authority_is_made_once_however_many_make_it(conf: cfg.ConfigOpts) -> None:
    with pytest.raises(exception.DriverError, match="certificate-authority create"):
        BarbicanSecrets(conf).get_ca_certificate()
    drivers = [BarbicanSecrets(conf) for _ in range(4)]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda driver: driver.create_authority(), drivers))
    assert made.count(True) == 1
    assert not BarbicanSecrets(conf).create_authority()
    assert len({driver.get_ca_certificate() for driver in drivers}) == 1


def test_authority_may_be_a_container_or_a_secret_that_is_named(
    barbican: Barbican, conf: cfg.ConfigOpts, project: str
) -> None:
    made = authority.generate(now=datetime.datetime.now(datetime.UTC))
    refs = {
        "certificate": barbican.keep(made.certificate_pem.encode(), project=PROJECT),
        "private_key": barbican.keep(made.key_pem.encode(), project=PROJECT),
    }
    document = {
        "name": "ca",
        "type": "certificate",
        "secret_refs": [
            {"name": name, "secret_ref": f"{barbican.url}/v1/secrets/{secret_id}"}
            for name, secret_id in refs.items()
        ],
    }
    container = barbican.request("POST", "/containers", PROJECT, json=document).json()
    acl = {"read": {"users": ["trove"], "project-access": True}}
    container_id = container["container_ref"].rpartition("/")[2]
    barbican.request("PUT", f"/containers/{container_id}/acl", PROJECT, json=acl)
    both = barbican.keep((made.key_pem + made.certificate_pem).encode(), project=PROJECT)
    for ref in (container["container_ref"], both):
        conf.set_override("certificate_authority_ref", ref, group="barbican")
        driver = BarbicanSecrets(conf)
        assert driver.get_ca_certificate() == made.certificate_pem
        assert not driver.create_authority()
    conf.set_override("certificate_authority_ref", refs["certificate"], group="barbican")
    with pytest.raises(exception.DriverError, match="not PEM") as caught:
        BarbicanSecrets(conf).get_ca_certificate()
    assert "PRIVATE" not in str(caught.value)


def test_authority_is_remembered_while_the_key_manager_is_away(
    barbican: Barbican, conf: cfg.ConfigOpts, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = concurrency.ManualClock()
    driver = BarbicanSecrets(conf, clock=clock)
    driver.create_authority()
    certificate = driver.get_ca_certificate()
    x509.load_pem_x509_certificate(certificate.encode())
    away = cloud.refused("Barbican", "x", status=503, reason="away")

    def refuse(*args: object, **kwargs: object) -> None:
        raise away

    monkeypatch.setattr(driver._manager, "request", refuse)
    assert driver.get_ca_certificate() == certificate
    clock.advance(301)
    assert driver.get_ca_certificate() == certificate
    fresh = BarbicanSecrets(conf, clock=clock)
    monkeypatch.setattr(fresh._manager, "request", refuse)
    with pytest.raises(exception.DriverUnavailable):
        fresh.get_ca_certificate()


def test_keys_that_wrap_keys_are_read_at_the_start(
    barbican: Barbican, conf: cfg.ConfigOpts
) -> None:
    raw, written, own = (crypto.generate_key() for _ in range(3))
    refs = [
        barbican.keep(raw, project=PROJECT),
        f"{barbican.url}/v1/secrets/"
        + barbican.keep(crypto.encode_key(written).encode(), project=PROJECT),
    ]
    values = [*(f"barbican:{ref}" for ref in refs), crypto.encode_key(own)]
    conf.set_override("key_encryption_keys", values, group="guest")
    factory.resolve_keys(conf)
    expected = [crypto.encode_key(key) for key in (raw, written, own)]
    assert conf.guest.key_encryption_keys == expected
    factory.resolve_keys(conf)
    assert conf.guest.key_encryption_keys == expected


def test_key_that_is_none_or_not_there_ends_the_start(
    barbican: Barbican, conf: cfg.ConfigOpts
) -> None:
    short = barbican.keep(b"short", project=PROJECT)
    conf.set_override("key_encryption_keys", [f"barbican:{short}"], group="guest")
    with pytest.raises(exception.ConfigurationError) as caught:
        factory.resolve_keys(conf)
    assert "short" not in str(caught.value)
    conf.set_override("key_encryption_keys", [f"barbican:{uuid.uuid4()}"], group="guest")
    with pytest.raises(cloud.CloudNotFound, match="key_encryption_keys"):
        factory.resolve_keys(conf)


def test_key_manager_that_is_down_is_told(
    barbican: Barbican, conf: cfg.ConfigOpts, tmp_path: pathlib.Path
) -> None:
    down = Barbican(url="http://127.0.0.1:1")
    driver = BarbicanSecrets(down.make_conf(tmp_path, project="down"))
    with pytest.raises(exception.DriverUnavailable, match="Barbican failed to read a secret"):
        driver.get_secret_payload(str(uuid.uuid4()), caller=barbican.caller("p"))
