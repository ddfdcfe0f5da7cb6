"""The embedded identity service: real clients sign in, and nobody else does."""

import base64
import datetime
import pathlib
from collections.abc import Iterator

import bcrypt
import pytest
from keystoneauth1 import exceptions, session
from keystoneauth1.identity import v3
from openstack import connection

from tests.fixtures import api as api_fixture
from tests.fixtures import served
from trove.db import base

_PASSWORD = "s3cret:with:colons"
_TOKENS = "/identity/v3/auth/tokens"


def _line(name: str, password: str, project: str, roles: str) -> str:
    digest = bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()
    return f"{name}:{digest}:{project}:{roles}\n"


@pytest.fixture
def users(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "htpasswd"
    path.write_text(
        _line("joe", _PASSWORD, "project-a", "member") + _line("eve", "x", "b", "admin")
    )
    return path


@pytest.fixture
def api(sqlite_database: base.Database, users: pathlib.Path) -> api_fixture.Api:
    made = api_fixture.make_api(
        sqlite_database,
        auth_strategy="http_basic",
        http_basic_auth_user_file=str(users),
        embedded_services=True,
        # real clients compare with their own clock
        start=datetime.datetime.now(datetime.UTC),
    )
    made.add_datastore()
    return made


@pytest.fixture
def url(api: api_fixture.Api) -> Iterator[str]:
    with served.serve(api.wsgi) as url:
        yield url


def _request(
    name: str = "joe", password: str = _PASSWORD, project: str | None = "project-a"
) -> dict[str, object]:
    user = {"name": name, "password": password, "domain": {"id": "default"}}
    request: dict[str, object] = {"identity": {"methods": ["password"], "password": {"user": user}}}
    if project is not None:
        request["scope"] = {"project": {"name": project, "domain": {"id": "default"}}}
    return {"auth": request}


def _token(api: api_fixture.Api, **wanted: str) -> str:
    answer = api.raw("POST", _TOKENS, _request(**wanted), status=201)
    token: str = answer.headers["X-Subject-Token"]
    return token


def _sign_in(url: str, password: str = _PASSWORD, project: str = "project-a") -> session.Session:
    plugin = v3.Password(
        auth_url=f"{url}/identity/v3",
        username="joe",
        password=password,
        project_name=project,
        user_domain_name="Default",
        project_domain_name="Default",
    )
    return session.Session(auth=plugin)


def test_keystoneauth_signs_in_and_finds_every_service_in_the_catalog(url: str) -> None:
    signed_in = _sign_in(url)
    found = {
        kind: signed_in.get_endpoint(service_type=kind)
        for kind in ("database", "identity", "object-store", "key-manager")
    }
    assert found == {
        "database": f"{url}/v1.0/project-a",
        "identity": f"{url}/identity",
        "object-store": f"{url}/object-store/v1/AUTH_project-a",
        "key-manager": f"{url}/key-manager",
    }
    assert signed_in.get_project_id() == "project-a"
    listed = signed_in.get("/datastores", endpoint_filter={"service_type": "database"}).json()
    assert [each["name"] for each in listed["datastores"]] == ["mariadb"]


# the client warns of its own settings
@pytest.mark.filterwarnings("ignore::openstack.warnings.RemovedInSDK60Warning")
@pytest.mark.filterwarnings("ignore::openstack.warnings.RemovedInSDK50Warning")
def test_auth_url_without_version_is_discovered(url: str) -> None:
    plugin = v3.Password(
        auth_url=f"{url}/identity/v3/",
        username="joe",
        password=_PASSWORD,
        project_id="project-a",
        user_domain_id="default",
    )
    assert plugin.get_access(session.Session()).role_names == ["member", "reader"]
    cloud = connection.Connection(
        auth_url=f"{url}/identity",
        username="joe",
        password=_PASSWORD,
        project_name="project-a",
        user_domain_id="default",
        project_domain_id="default",
        region_name="RegionOne",
    )
    assert [flavor.id for flavor in cloud.database.flavors()]
    assert cloud.identity.find_project("project-a").id == "project-a"
    assert cloud.identity.find_project("other", ignore_missing=True) is None
    cloud.close()


def test_wrong_password_or_project_is_refused(url: str) -> None:
    for wrong in ({"password": "wrong"}, {"project": "b"}):
        with pytest.raises(exceptions.Unauthorized):
            _sign_in(url, **wrong).get_token()


def test_token_reaches_its_own_project_only(api: api_fixture.Api) -> None:
    headers = {"X-Auth-Token": _token(api)}
    api.raw("GET", "/v1.0/project-a/instances", headers=headers, status=200)
    api.raw("GET", "/v1.0/b/instances", headers=headers, status=403)


def test_token_of_a_token_is_for_the_same_user(api: api_fixture.Api) -> None:
    request = {"auth": {"identity": {"methods": ["token"], "token": {"id": _token(api)}}}}
    answer = api.raw("POST", _TOKENS, request, status=201)
    assert answer.json["token"]["user"]["id"] == "joe"
    request["auth"]["identity"]["token"]["id"] = "forged"
    api.raw("POST", _TOKENS, request, status=401)


def test_holder_sees_the_own_token_and_catalog_and_nobody_else_s(api: api_fixture.Api) -> None:
    own, other = _token(api), _token(api, name="eve", password="x", project="b")
    headers = {"X-Auth-Token": own, "X-Subject-Token": own}
    shown = api.raw("GET", _TOKENS, headers=headers, status=200)
    assert shown.json["token"]["project"]["id"] == "project-a"
    assert shown.headers["X-Subject-Token"] == own
    api.raw("GET", _TOKENS, headers={**headers, "X-Subject-Token": other}, status=404)
    api.raw("DELETE", _TOKENS, headers=headers, status=403)
    catalog = api.raw("GET", "/identity/v3/auth/catalog", headers=headers, status=200).json
    assert {each["type"] for each in catalog["catalog"]} >= {"database", "object-store"}
    api.raw("GET", "/identity/v3/projects/b", headers=headers, status=404)
    api.raw("GET", "/identity/v3/projects", headers={}, status=401)


def test_administrator_finds_every_project_by_name(api: api_fixture.Api) -> None:
    headers = {"X-Auth-Token": _token(api, name="eve", password="x", project="b")}
    listed = api.raw("GET", "/identity/v3/projects", headers=headers, status=200).json
    assert [each["id"] for each in listed["projects"]] == ["b", "project-a"]
    found = api.raw("GET", "/identity/v3/projects?name=project-a", headers=headers, status=200)
    assert [each["name"] for each in found.json["projects"]] == ["project-a"]
    shown = api.raw("GET", "/identity/v3/projects/project-a", headers=headers, status=200).json
    assert shown["project"]["id"] == "project-a"
    api.raw("GET", "/identity/v3/projects/c", headers=headers, status=404)


def test_token_ends_with_its_time_and_with_a_new_password(
    api: api_fixture.Api, users: pathlib.Path
) -> None:
    headers = {"X-Auth-Token": _token(api)}
    api.raw("GET", "/v1.0/project-a/instances", headers=headers, status=200)
    api.clock.advance(8 * 3600 + 1)
    refused = api.raw("GET", "/v1.0/project-a/instances", headers=headers, status=401)
    assert "WWW-Authenticate" in refused.headers
    headers = {"X-Auth-Token": _token(api)}
    users.write_text(_line("joe", "another password", "project-a", "member"))
    api.raw("GET", "/v1.0/project-a/instances", headers=headers, status=401)


@pytest.mark.parametrize(
    "token", ["", "x", "é", base64.urlsafe_b64encode(b"0" * 60).decode(), "=" * 5000]
)
def test_forged_tokens_are_refused(api: api_fixture.Api, token: str) -> None:
    environ = {"HTTP_X_AUTH_TOKEN": token}
    api.raw("GET", "/v1.0/project-a/instances", status=401, **environ)
    api.raw("GET", "/identity/v3/auth/catalog", status=401, **environ)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b"[" * 100000,
        {"auth": None},
        {"auth": {"identity": {"methods": ["totp"]}}},
        {"auth": {"identity": {"methods": ["password"], "password": {"user": {"name": "joe"}}}}},
        {"auth": {"identity": {"methods": ["password"], "password": {"user": []}}}},
        {"auth": {"identity": {"methods": 7}}},
        {**_request(), "auth": {**_request()["auth"], "scope": {"project": "a"}}},  # type: ignore[dict-item]
    ],
)
def test_what_is_no_request_for_a_token_is_told_so(api: api_fixture.Api, body: object) -> None:
    answer = api.raw("POST", _TOKENS, body, status=400)
    assert answer.json["error"]["code"] == 400
    assert answer.json["error"]["message"]


def test_password_is_never_shown(api: api_fixture.Api) -> None:
    wrong = api.raw("POST", _TOKENS, _request(password="hunter2-hunter2"), status=401)
    assert "hunter2" not in wrong.text
    assert _PASSWORD not in api.raw("POST", _TOKENS, _request(), status=201).text


def test_without_the_switch_there_is_no_identity_service(
    sqlite_database: base.Database, users: pathlib.Path
) -> None:
    api = api_fixture.make_api(
        sqlite_database, auth_strategy="http_basic", http_basic_auth_user_file=str(users)
    )
    api.raw("POST", _TOKENS, _request(), status=401)
