"""Bodies and paths that make no sense, sent to every route that could choke on them."""

from __future__ import annotations

import json

import pytest

from tests.fixtures import api as api_fixture
from trove.api import method, routing
from trove.db import base, models

_HEADERS = {"X-Project-Id": "project-a", "X-Roles": "admin"}


@pytest.fixture
def api(sqlite_database: base.Database) -> api_fixture.Api:
    made = api_fixture.make_api(sqlite_database)
    made.add_datastore()
    return made


class _Names(dict[str, str]):
    """What the parameters of a path are; those that no test made are well-formed and unknown."""

    def __missing__(self, name: str) -> str:
        return models.new_id()


def _routes_with_bodies(api: api_fixture.Api) -> list[tuple[str, str, method.RouteInfo]]:
    """Return every route that takes a body, and those of administrators below the project."""
    instance_id = api.create_instance(active=True)
    names = _Names(project_id="project-a", instance_id=instance_id, user="u", database="d")
    found = []
    for route in routing.list_routes(api.tree):
        info: method.RouteInfo = route.handler.route
        if info.body is not None:
            found.append((route.method, route.path.format_map(names), info))
    assert len(found) >= 30
    return found


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"hello",
        b"[]",
        b"null",
        b'"text"',
        b"7",
        b"true",
        b"{} {}",
        b'{"instance": NaN}',
        b'{"users": Infinity}',
        b'{"instance": {}, "instance": {}}',
        b'{"users": "\xff"}',
        b'{"users": "\\ud800"}',
        b"\x00",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"instance": ' + b"9" * 5000 + b"}",
        json.dumps({"instance": {"name": "x"}}).encode("utf-16"),
    ],
)
def test_what_is_not_a_json_object_is_refused_everywhere(api: api_fixture.Api, body: bytes) -> None:
    for http_method, path, _ in _routes_with_bodies(api):
        headers = {**_HEADERS, "Content-Type": "application/json"}
        response = api.raw(http_method, path, body, headers=headers, status=400)
        assert "badRequest" in response.json


@pytest.mark.parametrize(
    "value",
    [None, True, 7, 1.5, "", "x", [], [[]], [None], [1], {}, {"x": 1}, "' OR 1=1 --", 10**40],
)
def test_the_wrong_kind_of_value_is_never_an_internal_error(
    api: api_fixture.Api, value: object
) -> None:
    for http_method, path, _ in _routes_with_bodies(api):
        for key in ("instance", "users", "user", "databases", "database", "password", "restart"):
            status = api.raw(http_method, path, {key: value}, headers=_HEADERS).status_int
            assert status < 500 or (status, key) == (501, "restart")


def test_a_missing_body_is_refused_where_one_is_needed(api: api_fixture.Api) -> None:
    for http_method, path, info in _routes_with_bodies(api):
        for headers in (_HEADERS, {**_HEADERS, "Content-Type": "application/json"}):
            status = api.raw(http_method, path, headers=headers).status_int
            # what else is wrong is only seen where no body is needed
            assert status in ((400,) if info.body_required else (200, 404, 501))


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/json", 200),
        ("application/json; charset=utf-8", 200),
        ('Application/JSON;charset="UTF-8"', 200),
        (None, 200),
        ("text/plain", 415),
        ("application/xml", 415),
        ("application/x-www-form-urlencoded", 415),
        ("application/json; charset=latin-1", 415),
        ("multipart/form-data; boundary=x", 415),
    ],
)
def test_bodies_are_json_or_of_no_declared_type(
    api: api_fixture.Api, content_type: str | None, status: int
) -> None:
    headers = dict(_HEADERS)
    if content_type is not None:
        headers["Content-Type"] = content_type
    body = b'{"instance": {"name": "x", "flavorRef": 1, "volume": {"size": 1}}}'
    api.raw("POST", "/v1.0/project-a/instances", body, headers=headers, status=status)


def test_bodies_have_a_largest_size(sqlite_database: base.Database) -> None:
    api = api_fixture.make_api(sqlite_database, max_request_body_bytes=1024)
    for http_method in ("POST", "GET", "DELETE"):
        api.request(http_method, "/instances", b"x" * 1025, status=413)
    api.request("POST", "/instances", b"x" * 1024, status=400)
    for announced in ("-1", "x", "1" * 30, "1.0"):
        status = api.request("POST", "/instances", b"{}", CONTENT_LENGTH=announced).status_int
        assert status in (400, 413)


@pytest.mark.parametrize("accept", ["*/*", "", "text/html", "application/xml", "image/*;q=0.1"])
def test_the_answer_is_json_whatever_is_accepted(api: api_fixture.Api, accept: str) -> None:
    api.get("/flavors", headers={"Accept": accept})


@pytest.mark.parametrize("query", ["limit=%ff", "%", "&&&", "a=b=c", "limit=1&limit=2", "limit"])
def test_odd_queries_are_no_internal_errors(api: api_fixture.Api, query: str) -> None:
    assert api.request("GET", f"/instances?{query}").status_int in (200, 400)


@pytest.mark.parametrize("segment", ["%ff", "%c3%28", "%00", "..", "%2e%2e%2f", "a%0ab", "😀"])
def test_odd_paths_are_no_internal_errors(api: api_fixture.Api, segment: str) -> None:
    instance_id = api.create_instance(active=True)
    tails = ("", "/instances", f"/instances/{instance_id}/users", "/flavors", "/datastores")
    for tail in (*tails, f"/instances/{instance_id}/databases", "/datastores/x/versions"):
        path = f"/v1.0/project-a{tail}/{segment}"
        quoted = path.encode().decode("latin-1")
        response = api.raw("GET", "/", headers=_HEADERS, PATH_INFO=quoted, REQUEST_URI=quoted)
        assert response.status_int in (400, 404)


def test_an_internal_error_tells_nothing_but_the_request_id(
    api: api_fixture.Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise RuntimeError("password=hunter2")

    monkeypatch.setattr(api.guest, "call", broken)
    instance_id = api.create_instance(active=True)
    response = api.request("GET", f"/instances/{instance_id}/users", status=500)
    fault = response.json["instanceFault"]
    assert response.headers["x-openstack-request-id"] in fault["message"]
    assert "hunter2" not in response.text
    assert "unexpected error" in caplog.text


def test_a_dead_database_is_a_503(api: api_fixture.Api, tmp_path: object) -> None:
    dead = base.Database("mysql+pymysql://nobody@127.0.0.1:15899/x", max_retries=0)
    broken = api_fixture.make_api(dead)
    broken.request("GET", "/instances", status=503)
