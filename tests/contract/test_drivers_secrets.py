"""What every secrets driver does; and what those do that keep secrets themselves."""

from __future__ import annotations

import base64
import concurrent.futures
import dataclasses
import pathlib
import uuid
from collections.abc import Callable

import openstack
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.contract.conftest import Cloud
from tests.fixtures.barbican import Barbican, barbican
from tests.fixtures.cloud.fixtures import make_real_conf, real_cloud_name
from trove.common import context, exception, keystone
from trove.drivers.secrets import store as stores
from trove.drivers.secrets.barbican import BarbicanSecrets
from trove.drivers.secrets.base import SecretsDriver

__all__ = ["barbican"]


def store_of(cloud: Cloud) -> stores.SecretStore:
    found = cloud.secrets.store
    if found is None:
        pytest.skip("the key manager of a cloud keeps them")
    return found


def keep(cloud: Cloud, payload: bytes = b"\x00\xffpayload", project: str = "p") -> str:
    return store_of(cloud).create(project, stores.NewSecret(payload=payload, name="n")).id


def caller(project: str = "p") -> context.RequestContext:
    return context.RequestContext(project_id=project, overwrite=False)


def use(instance_id: str) -> stores.Consumer:
    return stores.Consumer(service="database", resource_type="instance", resource_id=instance_id)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Keeper:
    """A secrets driver, and what users do with their secrets."""

    driver: SecretsDriver
    again: Callable[[], SecretsDriver]
    #: payload, project -> id
    keep: Callable[[bytes, str], str]
    #: id, project -> ids of what uses it
    consumers: Callable[[str, str], set[str]]
    caller: Callable[[str], context.RequestContext]


def _keeping(cloud: Cloud) -> Keeper:
    def consumers(secret_id: str, project: str) -> set[str]:
        found = store_of(cloud.again()).get(project, secret_id).consumers
        assert len({each.resource_id for each in found}) == len(found)
        return {each.resource_id for each in found}

    return Keeper(
        driver=cloud.secrets,
        again=lambda: cloud.again().secrets,
        keep=lambda payload, project: keep(cloud, payload, project),
        consumers=consumers,
        caller=caller,
    )


def _on_cloud(request: pytest.FixtureRequest, directory: pathlib.Path) -> Keeper:
    """Use Barbican on the cloud that TROVE_TEST_CLOUD names; "p" is its user's own project."""
    name = str(real_cloud_name())
    conf, _ = make_real_conf(name, directory)
    conf.set_override("certificate_authority_name", f"bs-{uuid.uuid4()}", group="barbican")
    driver = BarbicanSecrets(conf)
    assert driver.create_authority()
    session = keystone.session_of(conf)
    tests = openstack.config.OpenStackConfig().get_one(name).config["trove_tests"]
    other = openstack.connect(cloud=tests["user_cloud"]).session
    made = [str(driver._find_authority())]
    request.addfinalizer(
        lambda: [driver._manager.request("DELETE", f"/secrets/{each}") for each in made]
    )

    def keep_there(payload: bytes, project: str) -> str:
        document = {
            "name": f"bs-{project}",
            "payload": base64.b64encode(payload).decode(),
            "payload_content_type": "application/octet-stream",
            "payload_content_encoding": "base64",
        }
        answer = driver._manager.request("POST", "/secrets", json=document).json()
        made.append(str(answer["secret_ref"]).rpartition("/")[2])
        return made[-1]

    def consumers(secret_id: str, project: str) -> set[str]:
        answer = driver._manager.request(
            "GET",
            f"/secrets/{secret_id}/consumers?limit=100",
            headers={"OpenStack-API-Version": "key-manager 1.1", "Accept": "application/json"},
        )
        return {str(each["resource_id"]) for each in answer.json()["consumers"]}

    def caller_of(project: str) -> context.RequestContext:
        whose = session if project == "p" else other
        return context.RequestContext(
            project_id=whose.get_project_id(), auth_token=whose.get_token(), overwrite=False
        )

    return Keeper(
        driver=driver,
        again=lambda: BarbicanSecrets(conf),
        keep=keep_there,
        consumers=consumers,
        caller=caller_of,
    )


def _find_kinds() -> list[str]:
    """Name all implementations, with a real cloud's where one is named."""
    kinds = ["fake_cloud", "local_cloud", "barbican"]
    return [*kinds, *(["real_cloud"] if real_cloud_name() else [])]


@pytest.fixture(params=_find_kinds())
def keeper(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Keeper:
    """Give every implementation in turn."""
    if request.param == "real_cloud":
        return _on_cloud(request, tmp_path)
    if request.param != "barbican":
        return _keeping(request.getfixturevalue(request.param))
    real: Barbican = request.getfixturevalue("barbican")
    conf = real.make_conf(tmp_path)
    driver = BarbicanSecrets(conf)
    driver.create_authority()
    return Keeper(
        driver=driver,
        again=lambda: BarbicanSecrets(conf),
        keep=lambda payload, project: real.keep(payload, project=project),
        consumers=real.consumers,
        caller=real.caller,
    )


@pytest.mark.parametrize(
    "form", ["{}", "http://k/key-manager/v1/secrets/{}", "https://k/v1/secrets/{}/payload"]
)
def test_a_payload_is_read_by_every_form_of_its_reference(keeper: Keeper, form: str) -> None:
    ref = form.format(keeper.keep(b"\x00\xffpayload", "p"))
    assert keeper.again().get_secret_payload(ref, caller=keeper.caller("p")) == b"\x00\xffpayload"


@pytest.mark.parametrize(
    "ref", ["", "nonsense", "http://k/v1/secrets/", "../../etc/passwd", f"x{uuid.uuid4()}"]
)
def test_what_is_no_reference_names_no_secret(keeper: Keeper, ref: str) -> None:
    with pytest.raises(exception.SecretNotFound):
        keeper.driver.get_secret_payload(ref, caller=keeper.caller("p"))
    with pytest.raises(exception.SecretNotFound):
        keeper.driver.get_secret_payload(str(uuid.uuid4()), caller=keeper.caller("p"))


def test_a_secret_of_another_project_does_not_exist(keeper: Keeper) -> None:
    secret_id = keeper.keep(b"x", "p")
    with pytest.raises(exception.SecretNotFound):
        keeper.driver.get_secret_payload(secret_id, caller=keeper.caller("q"))


def test_a_kept_secret_of_another_project_has_no_consumer(cloud: Cloud) -> None:
    secret_id = keep(cloud)
    with pytest.raises(exception.SecretNotFound):
        cloud.secrets.add_consumer(secret_id, use("i"), project_id="q")
    assert store_of(cloud).list_page("q", limit=10) == ([], 0)


def test_a_consumer_counts_once_and_its_removal_may_be_repeated(keeper: Keeper) -> None:
    driver = keeper.driver
    secret_id = keeper.keep(b"x", "p")
    for instance_id in ("a", "b", "a"):
        driver.add_consumer(secret_id, use(instance_id), project_id="p")
    assert keeper.consumers(secret_id, "p") == {"a", "b"}
    for _ in range(2):
        driver.remove_consumer(secret_id, use("a"), project_id="p")
    assert keeper.consumers(secret_id, "p") == {"b"}
    unknown = str(uuid.uuid4())
    driver.remove_consumer(unknown, use("b"), project_id="p")
    with pytest.raises(exception.SecretNotFound):
        driver.add_consumer(unknown, use("b"), project_id="p")


def test_a_kept_secret_in_use_is_deleted_on_demand_only(cloud: Cloud) -> None:
    secret_id = keep(cloud)
    cloud.secrets.add_consumer(secret_id, use("a"), project_id="p")
    with pytest.raises(exception.SecretInUse):
        store_of(cloud).delete("p", secret_id, force=False)
    store_of(cloud).delete("p", secret_id)
    with pytest.raises(exception.SecretNotFound):
        cloud.secrets.add_consumer(secret_id, use("b"), project_id="p")


def test_consumers_that_come_at_once_are_all_noted(keeper: Keeper) -> None:
    secret_id = keeper.keep(b"x", "p")
    names = [str(number) for number in range(12)]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(
            pool.map(
                lambda name: keeper.driver.add_consumer(secret_id, use(name), project_id="p"), names
            )
        )
    assert keeper.consumers(secret_id, "p") == {*names}


def test_there_is_one_authority(keeper: Keeper) -> None:
    certificate = keeper.driver.get_ca_certificate()
    assert not keeper.again().create_authority()
    assert keeper.again().get_ca_certificate() == certificate


def make_request(key: ec.EllipticCurvePrivateKey) -> str:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "evil.example")])
    builder = x509.CertificateSigningRequestBuilder().subject_name(name)
    request = builder.sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()


def test_a_certificate_has_the_requests_key_and_the_callers_names(keeper: Keeper) -> None:
    instance_id = str(uuid.uuid4())
    key = ec.generate_private_key(ec.SECP256R1())
    pem = keeper.driver.sign_server_certificate(
        make_request(key),
        instance_id=instance_id,
        addresses=["127.50.0.9"],
        hostnames=[instance_id],
    )
    certificate = x509.load_pem_x509_certificate(pem.encode())
    assert certificate.public_key() == key.public_key()
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(each) for each in names.get_values_for_type(x509.IPAddress)] == ["127.50.0.9"]
    assert instance_id in names.get_values_for_type(x509.DNSName)
    assert "evil.example" not in pem + certificate.subject.rfc4514_string()
    authority = x509.load_pem_x509_certificate(keeper.driver.get_ca_certificate().encode())
    certificate.verify_directly_issued_by(authority)


@pytest.mark.parametrize("request_pem", ["", "nonsense"])
def test_a_request_that_is_none_is_refused(keeper: Keeper, request_pem: str) -> None:
    with pytest.raises(exception.DriverError):
        keeper.driver.sign_server_certificate(
            request_pem, instance_id="i", addresses=[], hostnames=["i"]
        )


def test_secrets_are_listed_oldest_first_in_pages(cloud: Cloud) -> None:
    ids = [keep(cloud, payload=bytes([number + 1])) for number in range(3)]
    page, total = store_of(cloud).list_page("p", limit=2)
    rest, _ = store_of(cloud).list_page("p", limit=2, offset=2)
    assert [each.id for each in (*page, *rest)] == ids
    assert total == 3
    assert store_of(cloud).list_page("p", limit=9, name="other") == ([], 0)


def test_a_project_may_have_any_name(cloud: Cloud) -> None:
    project = "../" * 40 + "é/\x01" + "x" * 100
    secret_id = keep(cloud, project=project)
    assert store_of(cloud).get_payload(project, secret_id) == b"\x00\xffpayload"
    assert store_of(cloud).list_page(project + "x", limit=9) == ([], 0)
