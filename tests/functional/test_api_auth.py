"""The three strategies of authentication through the whole application."""

from __future__ import annotations

import base64
import os
import pathlib

import bcrypt
import pytest
from keystonemiddleware.auth_token import _opts

from tests.fixtures import api as api_fixture
from trove.api import auth
from trove.common import exception
from trove.db import base

_ROUNDS = 4


def _line(name: str, password: str, project: str, roles: str) -> str:
    digest = bcrypt.hashpw(password.encode(), bcrypt.gensalt(_ROUNDS)).decode()
    return f"{name}:{digest}:{project}:{roles}\n"


def _header(name: str, password: str) -> dict[str, str]:
    encoded = base64.b64encode(f"{name}:{password}".encode()).decode()
    return {"Authorization": f"Basic {encoded}"}


@pytest.fixture
def users(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "htpasswd"
    path.write_text(
        "# the users\n\n"
        + _line("joe", "sécret:with:colons", "project-a", "member")
        + _line("eve", "other", "project-b", "reader")
        # what htpasswd -B writes
        + _line("ops", "admin", "ops", "admin").replace("$2b$", "$2y$")
    )
    return path


@pytest.fixture
def api(sqlite_database: base.Database, users: pathlib.Path) -> api_fixture.Api:
    made = api_fixture.make_api(
        sqlite_database, auth_strategy="http_basic", http_basic_auth_user_file=str(users)
    )
    made.add_datastore()
    return made


_JOE = _header("joe", "sécret:with:colons")
_OWN = "/v1.0/project-a"


def test_basic_lets_the_right_password_in_with_the_roles_of_the_file(
    api: api_fixture.Api,
) -> None:
    body = {"instance": {"name": "x", "flavorRef": 1, "volume": {"size": 1}}}
    made = api.raw("POST", f"{_OWN}/instances", body, headers=_JOE, status=200).json["instance"]
    eve = _header("eve", "other")
    api.raw("GET", "/v1.0/project-b/instances", headers=eve, status=200)
    api.raw("POST", "/v1.0/project-b/instances", body, headers=eve, status=403)
    api.raw("GET", f"{_OWN}/instances", headers=eve, status=403)
    ops = _header("ops", "admin")
    api.raw("GET", f"/v1.0/ops/instances/{made['id']}", headers=ops, status=200)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        _header("joe", "wrong"),
        _header("joe", ""),
        _header("nobody", "secret"),
        _header("", ""),
        _header("joe", "x" * 100),
        _header("joe", "sécret:with:colons\0"),
        {"Authorization": "Basic"},
        {"Authorization": "Basic !!!"},
        {"Authorization": "Basic am9l"},
        {"Authorization": "Basic /////w=="},
        {"Authorization": _JOE["Authorization"].replace("Basic", "Bearer")},
        {"X-Project-Id": "project-a", "X-Roles": "admin", "X-Identity-Status": "Confirmed"},
    ],
)
def test_basic_refuses_everything_else_with_a_challenge(
    api: api_fixture.Api, headers: dict[str, str]
) -> None:
    response = api.raw("GET", f"{_OWN}/instances", headers=headers, status=401)
    assert response.headers["WWW-Authenticate"].startswith("Basic realm=")
    assert "unauthorized" in response.json


def test_a_right_password_costs_bcrypt_once_and_a_wrong_one_each_time(
    api: api_fixture.Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[bytes] = []
    real = bcrypt.checkpw

    def counting(password: bytes, digest: bytes) -> bool:
        checked.append(password)
        return real(password, digest)

    monkeypatch.setattr(bcrypt, "checkpw", counting)
    for _ in range(5):
        api.raw("GET", f"{_OWN}/flavors", headers=_JOE, status=200)
    assert len(checked) == 1
    for _ in range(2):
        api.raw("GET", f"{_OWN}/flavors", headers=_header("joe", "no"), status=401)
        api.raw("GET", f"{_OWN}/flavors", headers=_header("nobody", "no"), status=401)
    assert len(checked) == 5


def test_a_changed_file_counts_at_once_and_a_broken_one_does_not(
    api: api_fixture.Api, users: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    api.raw("GET", f"{_OWN}/flavors", headers=_JOE, status=200)
    users.write_text(_line("jim", "new", "project-a", "member"))
    api.raw("GET", f"{_OWN}/flavors", headers=_JOE, status=401)
    jim = _header("jim", "new")
    api.raw("GET", f"{_OWN}/flavors", headers=jim, status=200)
    users.write_text("broken\n")
    api.raw("GET", f"{_OWN}/flavors", headers=jim, status=200)
    os.unlink(users)
    api.raw("GET", f"{_OWN}/flavors", headers=jim, status=200)
    assert "line 1" in caplog.text


@pytest.mark.parametrize("text", ["joe:plain:project-a:member", "joe", "joe:$2b$x::member"])
def test_the_api_does_not_start_with_a_broken_file(tmp_path: pathlib.Path, text: str) -> None:
    path = tmp_path / "htpasswd"
    path.write_text(text)
    options = {"auth_strategy": "http_basic", "http_basic_auth_user_file": str(path)}
    with pytest.raises(exception.ConfigurationError, match="line 1"):
        auth.make_strategy(api_fixture.make_conf(**options))
    path.unlink()
    with pytest.raises(exception.ConfigurationError, match="cannot be read"):
        auth.make_strategy(api_fixture.make_conf(**options))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "db.example.org"])  # noqa: S104
def test_noauth_does_not_start_on_an_address_others_can_reach(host: str) -> None:
    with pytest.raises(exception.ConfigurationError, match="loopback"):
        auth.make_strategy(api_fixture.make_conf(bind_host=host))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_noauth_serves_loopback(host: str) -> None:
    assert isinstance(auth.make_strategy(api_fixture.make_conf(bind_host=host)), auth.NoAuth)


def test_keystone_refuses_forged_identity_headers_and_tells_where_to_get_tokens(
    sqlite_database: base.Database,
) -> None:
    conf = api_fixture.make_conf(auth_strategy="keystone")
    conf.register_opts(_opts._OPTS, group="keystone_authtoken")
    conf.set_override("www_authenticate_uri", "http://127.0.0.1:15898", "keystone_authtoken")
    conf.set_override("service_type", "database", "keystone_authtoken")
    api = api_fixture.make_api(sqlite_database, conf=conf)
    forged = {
        "X-Identity-Status": "Confirmed",
        "X-Project-Id": "project-a",
        "X-User-Id": "me",
        "X-Roles": "admin",
    }
    response = api.raw("GET", f"{_OWN}/instances", headers=forged, status=401)
    assert response.headers["WWW-Authenticate"] == 'Keystone uri="http://127.0.0.1:15898"'
    api.raw("GET", "/", status=200)
