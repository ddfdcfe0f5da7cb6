"""The embedded key manager, asked by python-barbicanclient as people have it."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import Any

import bcrypt
import pytest
from barbicanclient import client as barbican
from barbicanclient import exceptions
from keystoneauth1 import session
from keystoneauth1.identity import generic

from tests.fixtures import api as api_fixture
from tests.fixtures import served
from tests.fixtures.certificates import TenantAuthority
from trove.db import base

_USERS = {"ann": ("project-a", "member"), "rea": ("project-a", "reader"), "bob": ("b", "admin")}
_UNKNOWN = "00000000-0000-4000-8000-000000000000"


@pytest.fixture
def api(sqlite_database: base.Database, tmp_path: pathlib.Path) -> api_fixture.Api:
    hashed = {name: bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode() for name in _USERS}
    (tmp_path / "htpasswd").write_text(
        "".join(f"{n}:{hashed[n]}:{project}:{role}\n" for n, (project, role) in _USERS.items())
    )
    return api_fixture.make_api(
        sqlite_database,
        auth_strategy="http_basic",
        http_basic_auth_user_file=str(tmp_path / "htpasswd"),
        embedded_services=True,
    )


@pytest.fixture
def url(api: api_fixture.Api) -> Iterator[str]:
    with served.serve(api.wsgi) as url:
        yield url


def connect(url: str, user: str = "ann") -> Any:
    project, _ = _USERS[user]
    auth = generic.Password(
        auth_url=f"{url}/identity/v3",
        username=user,
        password="secret",
        user_domain_id="default",
        project_name=project,
        project_domain_id="default",
    )
    return barbican.Client(session=session.Session(auth=auth))


def raw(api: api_fixture.Api, method: str, path: str, body: Any = None, **options: Any) -> Any:
    options.setdefault("headers", {"Authorization": "Basic YW5uOnNlY3JldA=="})
    return api.raw(method, f"/key-manager{path}", body, **options)


def test_a_bundle_is_stored_listed_read_and_deleted(url: str) -> None:
    client = connect(url)
    bundle = TenantAuthority().bundle()
    ref = client.secrets.create(name="bundle", payload=bundle).store()
    assert ref.startswith(f"{url}/key-manager/v1/secrets/")
    read = client.secrets.get(ref)
    assert (read.payload, read.name, read.status) == (bundle, "bundle", "ACTIVE")
    text = client.secrets.create(name="passphrase", payload="pass wörd").store()
    assert client.secrets.get(text).payload == "pass wörd"
    assert [each.name for each in client.secrets.list()] == ["bundle", "passphrase"]
    assert [each.name for each in client.secrets.list(name="bundle")] == ["bundle"]
    assert client.secrets.total() == 2
    client.secrets.delete(ref)
    with pytest.raises(exceptions.HTTPClientError, match="cannot be found"):
        client.secrets.get(ref).payload  # noqa: B018


def test_consumers_are_registered_and_keep_a_secret_from_being_deleted(url: str) -> None:
    client = connect(url)
    ref = client.secrets.create(payload="x").store()
    names = {"service": "database", "resource_type": "instance"}
    for number in range(3):
        client.secrets.register_consumer(ref, **names, resource_id=f"i{number}")
    found = client.secrets.list_consumers(ref, limit=2, offset=1)
    assert [each.resource_id for each in found] == ["i1", "i2"]
    with pytest.raises(exceptions.SecretHasConsumers):
        client.secrets.delete(ref)
    for number in range(3):
        client.secrets.remove_consumer(ref, **names, resource_id=f"i{number}")
    with pytest.raises(exceptions.HTTPClientError):
        client.secrets.remove_consumer(ref, **names, resource_id="i0")
    client.secrets.delete(ref)
    used = client.secrets.create(payload="x").store()
    client.secrets.register_consumer(used, **names, resource_id="i")
    client.secrets.delete(used, force=True)


def test_secrets_of_other_projects_do_not_exist_and_readers_see_none(url: str) -> None:
    ref = connect(url).secrets.create(payload="x").store()
    bob = connect(url, "bob")
    assert bob.secrets.list() == []
    for ask in (lambda: bob.secrets.get(ref).payload, lambda: bob.secrets.delete(ref, force=True)):
        with pytest.raises(exceptions.HTTPClientError, match="cannot be found"):
            ask()
    rea = connect(url, "rea")
    with pytest.raises(exceptions.HTTPClientError, match="Forbidden"):
        rea.secrets.list()
    with pytest.raises(exceptions.HTTPClientError, match="Forbidden"):
        rea.secrets.create(payload="x").store()


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"payload": "x"},
        {"payload": "", "payload_content_type": "text/plain"},
        {"payload": "x", "payload_content_type": "image/png"},
        {"payload": "x", "payload_content_type": "application/octet-stream"},
        {"payload": "*", "payload_content_type": "application/octet-stream"}
        | {"payload_content_encoding": "base64"},
        {"payload": "x", "payload_content_type": "text/plain"}
        | {"payload_content_encoding": "base64"},
        {"payload": "x" * 300_000, "payload_content_type": "text/plain"},
        {"payload": "x", "payload_content_type": "text/plain", "expiration": "2030-01-01"},
        {"payload": "x", "payload_content_type": "text/plain", "bit_length": 0},
    ],
)
def test_a_secret_that_cannot_be_kept_is_refused_in_barbicans_words(
    api: api_fixture.Api, body: dict[str, Any]
) -> None:
    answer = api.client.post_json(
        "/key-manager/v1/secrets",
        body,
        headers={"Authorization": "Basic YW5uOnNlY3JldA=="},
        expect_errors=True,
    )
    assert answer.status_int == 400
    assert answer.json["title"] == "Bad Request"
    assert answer.json["description"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2", 404),
        ("GET", "/v1/containers", 404),
        ("GET", f"/v1/secrets/{_UNKNOWN}/acl", 404),
        ("GET", f"/v1/secrets/{_UNKNOWN}/payload/x", 404),
        ("GET", f"/v1/secrets/{_UNKNOWN}", 404),
        ("GET", "/v1/secrets/..%2F..%2Fetc", 404),
        ("PUT", f"/v1/secrets/{_UNKNOWN}", 405),
        ("DELETE", "/v1/secrets", 405),
        ("POST", "", 405),
        ("GET", "/v1/secrets?limit=x", 400),
        ("GET", "/v1/secrets?offset=-1", 400),
        ("GET", "", 300),
        ("GET", "/v1", 200),
        ("GET", "/v1/secrets?limit=0", 200),
    ],
)
def test_every_path_has_an_answer(
    api: api_fixture.Api, method: str, path: str, status: int
) -> None:
    answer = api.client.request(
        f"/key-manager{path}",
        method=method,
        headers={"Authorization": "Basic YW5uOnNlY3JldA=="},
        expect_errors=True,
    )
    assert answer.status_int == status
    if status >= 400:
        assert answer.json["code"] == status


def test_nobody_gets_in_without_credentials(api: api_fixture.Api) -> None:
    for path in ("", "/v1/secrets", f"/v1/secrets/{_UNKNOWN}/payload"):
        api.client.get(f"/key-manager{path}", status=401)
