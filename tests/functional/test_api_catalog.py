"""Version documents, health, datastores, flavors, limits, clusters."""

from __future__ import annotations

import pathlib

import pytest
from cryptography import x509

from tests.fixtures import api as api_fixture
from trove.common import exception
from trove.db import base, models


@pytest.fixture
def api(sqlite_database: base.Database) -> api_fixture.Api:
    return api_fixture.make_api(sqlite_database)


def test_the_versions_are_told_without_credentials(api: api_fixture.Api) -> None:
    (version,) = api.raw("GET", "/", status=200).json["versions"]
    assert version["id"] == "v1.0"
    assert version["links"] == [{"rel": "self", "href": "http://localhost:80/v1.0/"}]
    for path in ("/v1.0", "/v1.0/"):
        assert api.raw("GET", path, status=200).json == {"version": version}
    api.raw("GET", "/v2", status=404)
    api.raw("GET", "/v2/project-a/instances", status=401)


def test_links_follow_the_prefix_and_the_public_endpoint(
    api: api_fixture.Api, sqlite_database: base.Database
) -> None:
    api.add_datastore()
    prefixed = api.get("/flavors/1", SCRIPT_NAME="/database", **{"wsgi.url_scheme": "https"})
    assert prefixed["flavor"]["links"] == [
        {"href": "https://localhost:80/database/v1.0/project-a/flavors/1", "rel": "self"},
        {"href": "https://localhost:80/database/flavors/1", "rel": "bookmark"},
    ]
    public = api_fixture.make_api(sqlite_database, public_endpoint="https://db.example.org/x/")
    assert public.get("/flavors/1")["flavor"]["links"][0]["href"] == (
        "https://db.example.org/x/v1.0/project-a/flavors/1"
    )


def test_forwarded_headers_count_only_when_enabled(
    api: api_fixture.Api, sqlite_database: base.Database
) -> None:
    forwarded = {
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Host": "db.example.org",
        "X-Forwarded-Prefix": "/database",
    }
    link = api.get("/flavors/1", headers=forwarded)["flavor"]["links"][0]["href"]
    assert link.startswith("http://localhost:80/v1.0/")
    trusting = api_fixture.make_api(sqlite_database, enable_proxy_headers_parsing=True)
    link = trusting.get("/flavors/1", headers=forwarded)["flavor"]["links"][0]["href"]
    assert link.startswith("https://db.example.org/database/v1.0/")


def test_the_authority_that_clients_trust_is_shown(api: api_fixture.Api) -> None:
    shown = api.get("/certificate-authority", roles="reader")
    certificate = x509.load_pem_x509_certificate(
        shown["certificate_authority"]["certificate"].encode()
    )
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.value.ca


def test_an_authority_that_cannot_be_read_is_a_503_without_paths(
    api: api_fixture.Api,
) -> None:
    api.secrets.injector.fail(
        "get_ca_certificate", exception.DriverError(service="secrets", reason="/etc/x is gone")
    )
    answer = api.request("GET", "/certificate-authority", status=503)
    assert "/etc/x" not in answer.text


def test_health_says_503_while_the_file_exists(
    sqlite_database: base.Database, tmp_path: pathlib.Path
) -> None:
    path = tmp_path / "down"
    api = api_fixture.make_api(sqlite_database, healthcheck_disable_file=str(path))
    assert api.raw("GET", "/healthcheck", status=200).text == "OK"
    path.touch()
    api.raw("GET", "/healthcheck", status=503)


def test_users_see_active_versions_and_administrators_all(api: api_fixture.Api) -> None:
    (good,) = api.add_datastore("mariadb")
    (hidden,) = api.add_datastore("mysql", active=False)
    (datastore,) = api.get("/datastores")["datastores"]
    assert datastore["default_version"] == good
    assert [version["id"] for version in datastore["versions"]] == [good]
    seen = {each["name"]: each for each in api.get("/datastores", roles="admin")["datastores"]}
    assert set(seen) == {"mariadb", "mysql"}
    assert seen["mysql"]["versions"][0]["active"] is False
    assert "default_version" not in api.get("/datastores/mysql")["datastore"]
    shown = api.get("/datastores/mysql", roles="admin")["datastore"]
    assert shown["versions"][0]["id"] == hidden


def test_versions_are_found_by_name_and_id(api: api_fixture.Api) -> None:
    first, second = api.add_datastore("mariadb", versions=("10.11", "11.4"))
    assert api.get("/datastores/mariadb/versions/11.4")["version"]["id"] == second
    assert api.get(f"/datastores/mariadb/versions/{first}")["version"]["name"] == "10.11"
    assert api.get(f"/datastores/versions/{first}")["version"]["name"] == "10.11"
    versions = api.get("/datastores/mariadb/versions")["versions"]
    assert {version["id"] for version in versions} == {first, second}
    api.request("GET", "/datastores/mariadb/versions/9", status=400)
    api.request("GET", f"/datastores/mariadb/versions/{models.new_id()}", status=404)
    api.request("GET", "/datastores/nothing/versions/10.11", status=404)
    api.request("GET", "/datastores/nothing", status=404)
    api.request("GET", f"/datastores/versions/{models.new_id()}", status=400)


def test_flavors_of_a_version_need_the_version(api: api_fixture.Api) -> None:
    api.add_datastore("mariadb")
    flavors = api.get("/datastores/mariadb/versions/10.11/flavors")["flavors"]
    assert flavors == api.get("/flavors")["flavors"]
    api.request("GET", "/datastores/mariadb/versions/9/flavors", status=404)
    api.request("GET", "/datastores/nothing/versions/10.11/flavors", status=404)


def test_flavors_have_numeric_or_null_ids_and_always_str_ids(
    sqlite_database: base.Database,
) -> None:
    api = api_fixture.make_api(sqlite_database)
    api.conf.set_override("flavors", ["07:odd:512:1", "m1.tiny:x:256:1", "3:y:1024:2"], "local")
    flavors = api.get("/flavors")["flavors"]
    assert [(each["id"], each["str_id"]) for each in flavors] == [
        (None, "m1.tiny"),
        (None, "07"),
        (3, "3"),
    ]
    assert api.get("/flavors/3")["flavor"]["ram"] == 1024
    # clients then look through the list for the name
    api.request("GET", "/flavors/y", status=404)


def test_limits_begin_with_the_absolute_ones(sqlite_database: base.Database) -> None:
    api = api_fixture.make_api(sqlite_database, http_get_rate=100, http_post_rate=7)
    absolute, *rates = api.get("/limits")["limits"]
    assert absolute == {
        "verb": "ABSOLUTE",
        "max_instances": 10,
        "max_ram": -1,
        "max_volumes": 40,
        "max_backups": 50,
    }
    assert [(rate["verb"], rate["value"], rate["remaining"]) for rate in rates] == [
        ("GET", 100, 99),
        ("POST", 7, 7),
    ]


def test_a_project_that_asks_too_often_is_told_when_to_come_back(
    sqlite_database: base.Database,
) -> None:
    api = api_fixture.make_api(sqlite_database, http_get_rate=2)
    api.get("/flavors")
    api.get("/flavors")
    refused = api.request("GET", "/flavors", status=413)
    fault = refused.json["overLimit"]
    assert fault["retryAfter"] == refused.headers["Retry-After"]
    assert 1 <= int(fault["retryAfter"]) <= 60
    api.request("GET", "/flavors", status=200, project="project-b")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("DELETE", "/datastores/mariadb/versions/10.11", "GET"),
        ("PUT", "/datastores", "GET"),
        ("PATCH", "/instances", "GET, POST"),
        ("POST", "/limits", "GET"),
        ("HEAD", "/flavors", "GET"),
    ],
)
def test_other_methods_are_refused_with_those_that_work(
    api: api_fixture.Api, method: str, path: str, allow: str
) -> None:
    api.add_datastore()
    response = api.raw(
        method,
        f"/v1.0/project-a{path}",
        headers={"X-Project-Id": "project-a", "X-Roles": "admin"},
        status=405,
    )
    assert response.headers["Allow"] == allow


@pytest.mark.parametrize(
    "path",
    ["/nothing", "/volume-types", "/security-groups", "/instances/x/metadata", "/mgmt/hosts",
     "/instances/x/ssl/rollback", "/datastores/versions", "/flavors/1/x", "/extensions"],
)  # fmt: skip
def test_unknown_paths_are_404(api: api_fixture.Api, path: str) -> None:
    assert api.request("GET", path, status=404).json["itemNotFound"]["code"] == 404


def test_slashes_do_not_count(api: api_fixture.Api) -> None:
    api.add_datastore()
    headers = {"X-Project-Id": "project-a", "X-Roles": "member"}
    for path in ("//v1.0//project-a///datastores", "/v1.0/project-a/datastores/mariadb/"):
        api.raw("GET", path, headers=headers, status=200)
    assert api.raw("GET", "/v1.0/project-a/", headers=headers, status=200).json["version"]
