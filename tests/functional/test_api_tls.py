"""TLS over the API: bundles read as the caller, everything told at once, shown from rows."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tests.fixtures import api as api_fixture
from tests.fixtures.certificates import TenantAuthority, make_bundle, pem_of
from trove import states
from trove.common import exception
from trove.db import base, models, tls
from trove.drivers.secrets.store import NewSecret
from trove.services import bundles

URL = "http://keys.example.org/key-manager/v1/secrets/{}"


@pytest.fixture
def api(sqlite_database: base.Database) -> api_fixture.Api:
    made = api_fixture.make_api(sqlite_database)
    made.add_datastore()
    # the certificates of the tests begin today
    made.clock.advance(
        max(
            0.0,
            (TenantAuthority().certificate.not_valid_before_utc - made.clock.now()).total_seconds(),
        )
        + 86400
    )
    return made


@pytest.fixture
def instance_id(api: api_fixture.Api) -> str:
    return api.create_instance(active=True)


@pytest.fixture(scope="module")
def tenant() -> TenantAuthority:
    return TenantAuthority()


def keep(api: api_fixture.Api, payload: bytes, *, project: str = api_fixture.PROJECT) -> str:
    return URL.format(api.secrets.store.create(project, NewSecret(payload=payload)).id)


def post(
    api: api_fixture.Api, instance_id: str, body: Any, *, status: int = 200, **options: Any
) -> Any:
    answer = api.request(
        "POST", f"/instances/{instance_id}/ssl", {"ssl": body}, status=status, **options
    ).json
    return answer["ssl"] if status == 200 else next(iter(answer.values()))["message"]


def operation_of(api: api_fixture.Api, instance_id: str) -> models.Operation:
    with api.database.reader() as session:
        found = session.scalars(
            sa.select(models.Operation).where(
                models.Operation.resource_id == instance_id, models.Operation.kind == "update_ssl"
            )
        ).all()
    return found[-1]


def put(api: api_fixture.Api, instance_id: str, value: tls.Tls) -> None:
    api.set_instance(instance_id, ssl=value.to_document())


def test_without_any_certificate_tls_is_off(api: api_fixture.Api, instance_id: str) -> None:
    assert api.get(f"/instances/{instance_id}/ssl") == {"ssl": {"status": "off", "mode": "builtin"}}


def test_the_certificate_in_force_is_shown_without_asking_anybody(
    api: api_fixture.Api, instance_id: str, tenant: TenantAuthority
) -> None:
    _, own = tenant.issue("own")
    _, other = tenant.issue("db.example.org", address="10.1.2.3")
    put(api, instance_id, tls.Tls(builtin_pem=pem_of(own)))
    shown = api.get(f"/instances/{instance_id}/ssl")["ssl"]
    assert (shown["status"], shown["mode"], shown["certificate"]["cn"]) == ("on", "builtin", "own")
    current = tls.Setting(mode="mtls", set_id="s", certificate_pem=pem_of(other))
    put(api, instance_id, tls.Tls(builtin_pem=pem_of(own), current=current))
    shown = api.get(f"/instances/{instance_id}/ssl")["ssl"]
    assert shown["mode"] == "mtls"
    assert shown["certificate"] == {
        "cn": "db.example.org",
        "expire_at": other.not_valid_after_utc.strftime("%Y-%m-%dT%H:%M:%S"),
        "san": ["db.example.org", "10.1.2.3"],
    }
    for value, included in (("True", True), ("1", True), ("False", False), ("", False)):
        shown = api.get(f"/instances/{instance_id}/ssl?include_certificate={value}")["ssl"]
        assert ("payload" in shown["certificate"]) is included
    api.request("GET", f"/instances/{instance_id}/ssl?include_certificate=maybe", status=400)
    assert api.guest.calls == []


@pytest.mark.parametrize("mode", [None, "basic", "enforced", "mtls"])
def test_enabling_begins_an_operation_with_the_bundles_secrets_wrapped(
    api: api_fixture.Api, instance_id: str, tenant: TenantAuthority, mode: str | None
) -> None:
    ref = keep(api, tenant.bundle("db.example.org", password="pass phrase"))
    password = keep(api, b"pass phrase\n")
    body = {"enable": True, "container_ref": ref, "password_ref": password}
    answer = post(api, instance_id, body if mode is None else body | {"mode": mode})
    assert answer == {"restart_required": False, "status": "on", "mode": mode or "basic"}
    assert api.get(f"/instances/{instance_id}")["instance"]["status"] != "ERROR"
    operation = operation_of(api, instance_id)
    assert api.taskmanager.hints[-1] == operation.id
    setting = operation.data["setting"]
    assert (setting["mode"], setting["container_ref"]) == (mode or "basic", ref)
    assert bundles.describe(setting["certificate_pem"]).common_name == "db.example.org"
    assert "PRIVATE KEY" not in json.dumps(operation.data)
    secret = json.loads(
        api.key_ring.unwrap(operation.secret_wrapped or b"", purpose=f"operation:{operation.id}")
    )
    assert "PRIVATE KEY" in secret["key_pem"]
    assert secret["ca_pem"] == tenant.pem
    # what is in force is shown until the operation has succeeded
    assert api.get(f"/instances/{instance_id}/ssl")["ssl"]["mode"] == "builtin"
    post(api, instance_id, {"disable": True}, status=422)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({}, ["exactly one of enable, disable, rollback"]),
        ({"enable": False}, ["exactly one"]),
        ({"enable": True, "disable": True}, ["exactly one", "container_ref"]),
        ({"disable": True, "rollback": True}, ["exactly one"]),
        ({"enable": True}, ["enable needs container_ref"]),
        ({"enable": True, "container_ref": "x", "mode": "odd"}, ["ssl.container_ref", "ssl.mode"]),
        ({"enable": "yes", "password_ref": 5}, ["ssl.enable", "ssl.password_ref"]),
        ({"enable": True, "container_ref": "ftp://h/secrets/x"}, ["URL of a secret"]),
    ],
)
def test_all_that_is_wrong_with_a_body_is_told_at_once(
    api: api_fixture.Api, instance_id: str, body: Any, told: list[str]
) -> None:
    message = post(api, instance_id, body, status=400)
    for text in told:
        assert text in message
    assert api.taskmanager.hints == [api.taskmanager.hints[0]]


@pytest.mark.parametrize("body", [None, {}, {"ssl": None}, {"ssl": []}, {"enable": True}])
def test_a_body_that_is_none_is_a_bad_request(
    api: api_fixture.Api, instance_id: str, body: Any
) -> None:
    api.request("POST", f"/instances/{instance_id}/ssl", body, status=400)


def test_bundles_that_cannot_be_used_are_refused_in_words(
    api: api_fixture.Api, instance_id: str, tenant: TenantAuthority
) -> None:
    _, certificate = tenant.issue("db")
    other = ec.generate_private_key(ec.SECP256R1())
    small = rsa.generate_private_key(public_exponent=65537, key_size=1024)  # noqa: S505 (to be refused)
    cases = {
        "not a PKCS#12 bundle": b"\xff nonsense",
        "or it needs a password_ref": tenant.bundle(password="secret"),
        "expired": tenant.bundle(days=-400),
        "must hold a private key": make_bundle(None, None, [certificate]),
        "larger than": b"\x30" * 300_000,
        "an authority": tenant.bundle(with_ca=False),
    }
    for told, payload in cases.items():
        body = {"enable": True, "mode": "mtls", "container_ref": keep(api, payload)}
        message = post(api, instance_id, body, status=400)
        assert told in message
        assert message.startswith("Bad request: container_ref")
    with pytest.raises(exception.BadRequest, match="does not belong"):
        bundles._check_key(other, certificate)
    with pytest.raises(exception.BadRequest, match="2048"):
        bundles._check_key(small, certificate)
    body = {
        "enable": True,
        "container_ref": keep(api, tenant.bundle(password="secret")),
        "password_ref": keep(api, b"wrong"),
    }
    assert "not its passphrase" in post(api, instance_id, body, status=400)
    assert api.get(f"/instances/{instance_id}")["instance"]["status"] == "ACTIVE"


def test_a_bundle_stored_as_base64_text_is_read(
    api: api_fixture.Api, instance_id: str, tenant: TenantAuthority
) -> None:
    ref = keep(api, base64.encodebytes(tenant.bundle()))
    post(api, instance_id, {"enable": True, "container_ref": ref})


def test_a_bundle_that_asks_for_hours_of_hashing_is_refused_at_once() -> None:
    salt, rounds = b"\x04\x02ab", b"\x02\x04\x7f\xff\xff\xff"
    nested = b"\x30" + bytes([len(salt + rounds)]) + salt + rounds
    for _ in range(3):
        nested = b"\x04" + bytes([len(nested)]) + nested
        nested = b"\x30" + bytes([len(nested)]) + nested
    with pytest.raises(exception.BadRequest, match="rounds"):
        bundles._load(nested, None)


def test_a_secret_of_another_project_or_none_at_all_is_a_bad_request(
    api: api_fixture.Api, instance_id: str, tenant: TenantAuthority
) -> None:
    foreign = keep(api, tenant.bundle(), project="project-b")
    for ref in (foreign, URL.format("00000000-0000-4000-8000-000000000000"), "http://h/x"):
        body = {"enable": True, "container_ref": ref}
        assert "may not read it" in post(api, instance_id, body, status=400)


def test_a_key_manager_that_is_down_is_told_as_such(
    api: api_fixture.Api, instance_id: str, tenant: TenantAuthority
) -> None:
    ref = keep(api, tenant.bundle())
    down = exception.DriverUnavailable(service="Key manager", reason="down")
    api.secrets.injector.fail("get_secret_payload", down)
    post(api, instance_id, {"enable": True, "container_ref": ref}, status=503)


def test_rollback_goes_to_what_was_before_and_needs_something_to_go_to(
    api: api_fixture.Api, instance_id: str, tenant: TenantAuthority
) -> None:
    assert "nothing to go back to" in post(api, instance_id, {"rollback": True}, status=400)
    _, certificate = tenant.issue("db")
    former = tls.Setting(mode="enforced", set_id="s", certificate_pem=pem_of(certificate))
    put(api, instance_id, tls.Tls(previous=former))
    answer = post(api, instance_id, {"rollback": True})
    assert answer == {"restart_required": False, "status": "on", "mode": "enforced"}
    assert operation_of(api, instance_id).data["setting"] == former.to_document()
    assert operation_of(api, instance_id).secret_wrapped is None


def test_a_replica_has_its_sources_tls_but_may_be_rolled_back(
    api: api_fixture.Api, instance_id: str
) -> None:
    replica = api.create_instance(active=True)
    api.set_instance(replica, replica_of_id=instance_id)
    assert "source" in post(api, replica, {"disable": True}, status=400)
    put(api, replica, tls.Tls(previous=tls.Setting()))
    post(api, replica, {"rollback": True})


def test_an_instance_that_is_not_ready_is_not_changed_and_its_bundle_not_read(
    api: api_fixture.Api, instance_id: str, tenant: TenantAuthority
) -> None:
    ref = keep(api, tenant.bundle())
    api.set_instance(instance_id, task=states.TaskStatus.REBOOTING)
    read: list[str] = []
    api.secrets.injector.watch = read.append
    post(api, instance_id, {"enable": True, "container_ref": ref}, status=422)
    assert read == []


def test_instances_of_others_and_paths_that_are_none_are_not_found(
    api: api_fixture.Api, instance_id: str
) -> None:
    post(api, instance_id, {"disable": True}, status=404, project="project-b")
    api.request("GET", f"/instances/{instance_id}/ssl", status=404, project="project-b")
    api.request("POST", f"/instances/{instance_id}/ssl/rollback", {}, status=404)
