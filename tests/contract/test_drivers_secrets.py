"""What every driver that keeps secrets itself does with them."""

from __future__ import annotations

import concurrent.futures
import uuid

import pytest

from tests.contract.conftest import Cloud
from trove.common import context, exception
from trove.drivers.secrets import store as stores


def store_of(cloud: Cloud) -> stores.SecretStore:
    found = cloud.secrets.store
    assert found is not None
    return found


def keep(cloud: Cloud, payload: bytes = b"\x00\xffpayload", project: str = "p") -> str:
    return store_of(cloud).create(project, stores.NewSecret(payload=payload, name="n")).id


def caller(project: str = "p") -> context.RequestContext:
    return context.RequestContext(project_id=project, overwrite=False)


def use(instance_id: str) -> stores.Consumer:
    return stores.Consumer(service="database", resource_type="instance", resource_id=instance_id)


@pytest.mark.parametrize(
    "form", ["{}", "http://k/key-manager/v1/secrets/{}", "https://k/v1/secrets/{}/payload"]
)
def test_a_payload_is_read_by_every_form_of_its_reference(cloud: Cloud, form: str) -> None:
    ref = form.format(keep(cloud))
    assert cloud.again().secrets.get_secret_payload(ref, caller=caller()) == b"\x00\xffpayload"


@pytest.mark.parametrize(
    "ref", ["", "nonsense", "http://k/v1/secrets/", "../../etc/passwd", f"x{uuid.uuid4()}"]
)
def test_what_is_no_reference_names_no_secret(cloud: Cloud, ref: str) -> None:
    with pytest.raises(exception.SecretNotFound):
        cloud.secrets.get_secret_payload(ref, caller=caller())


def test_a_secret_of_another_project_does_not_exist(cloud: Cloud) -> None:
    secret_id = keep(cloud)
    with pytest.raises(exception.SecretNotFound):
        cloud.secrets.get_secret_payload(secret_id, caller=caller("q"))
    with pytest.raises(exception.SecretNotFound):
        cloud.secrets.add_consumer(secret_id, use("i"), project_id="q")
    assert store_of(cloud).list_page("q", limit=10) == ([], 0)


def test_a_consumer_counts_once_and_its_removal_may_be_repeated(cloud: Cloud) -> None:
    secret_id = keep(cloud)
    for instance_id in ("a", "b", "a"):
        cloud.secrets.add_consumer(secret_id, use(instance_id), project_id="p")
    assert set(store_of(cloud.again()).get("p", secret_id).consumers) == {use("a"), use("b")}
    with pytest.raises(exception.SecretInUse):
        store_of(cloud).delete("p", secret_id, force=False)
    for _ in range(2):
        cloud.secrets.remove_consumer(secret_id, use("a"), project_id="p")
    assert store_of(cloud).get("p", secret_id).consumers == (use("b"),)
    store_of(cloud).delete("p", secret_id)
    cloud.secrets.remove_consumer(secret_id, use("b"), project_id="p")
    with pytest.raises(exception.SecretNotFound):
        cloud.secrets.add_consumer(secret_id, use("b"), project_id="p")


def test_consumers_that_come_at_once_are_all_noted(cloud: Cloud) -> None:
    secret_id = keep(cloud)
    names = [str(number) for number in range(20)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(
            pool.map(
                lambda name: cloud.secrets.add_consumer(secret_id, use(name), project_id="p"), names
            )
        )
    assert {each.resource_id for each in store_of(cloud).get("p", secret_id).consumers} == {*names}


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
