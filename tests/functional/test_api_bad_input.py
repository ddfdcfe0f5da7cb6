"""Bodies and paths that make no sense, sent to every route that could choke on them."""

from __future__ import annotations

import json
import re
import urllib.parse

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
        b'{"instance": {"name": "a", "name": "b"}}',
        b'{"x": [{"a": 1, "a": 1}]}',
        b"\xef\xbb\xbf{}",
        b'{"instance": -Infinity}',
        b'{"instance": 1e999999, "instance": 1}',
        b"{'instance': {}}",
        b'{"instance": {},}',
        b'{"users": "\\udc00\\ud800"}',
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


@pytest.mark.parametrize("depth", [50, 300, 900, 2000])
@pytest.mark.parametrize("key", ["instance", "configuration", "module", "users", "unknown"])
def test_deep_bodies_are_no_internal_errors(api: api_fixture.Api, depth: int, key: str) -> None:
    for nested in ("[" * depth + '"\\u0041"' + "]" * depth, '{"a":' * depth + "1" + "}" * depth):
        for http_method, path, _ in _routes_with_bodies(api):
            sent = f'{{"{key}": {{"name": "n", "values": {nested}, "x": {nested}}}}}'.encode()
            status = api.raw(http_method, path, sent, headers=_HEADERS).status_int
            # who needs no key at all ignores those that are not known
            assert status in (200, 400, 404, 422)


@pytest.mark.parametrize("odd", ["a\x00b", "a\nb", "\x7f1", "x" * 256, "", "   "])
def test_names_with_control_characters_or_too_long_are_refused(
    api: api_fixture.Api, odd: str
) -> None:
    instance_id = api.create_instance(active=True)
    one = f"/instances/{instance_id}"
    instance = {"name": "n", "flavorRef": 1, "volume": {"size": 1}}
    user = {"name": "u", "password": "p"}
    for path, body, place in (
        ("/instances", {"instance": {**instance, "name": odd}}, "instance.name"),
        (
            "/instances",
            {"instance": {**instance, "users": [{**user, "name": odd}]}},
            "instance.users.0.name",
        ),
        (f"{one}/databases", {"databases": [{"name": odd}]}, "databases.0.name"),
        (f"{one}/users", {"users": [{**user, "name": odd}]}, "users.0.name"),
    ):
        fault = api.request("POST", path, body, status=400).json["badRequest"]
        assert fault["error_code"] == "trove.validation_failed"
        assert fault["path"] == place
    assert len(api.get("/instances")["instances"]) == 1


def test_the_longest_names_are_taken_and_one_more_is_not(api: api_fixture.Api) -> None:
    instance = {"flavorRef": 1, "volume": {"size": 1}}
    for length, status in ((255, 200), (256, 400)):
        body = {"instance": {**instance, "name": "n" * length}}
        api.request("POST", "/instances", body, status=status)
        body = {"instance": {**instance, "name": "😀" * (length - 1) + "n"}}
        api.request("POST", "/instances", body, status=status)


@pytest.mark.parametrize(
    "value",
    ["x" * 10_000, "%00", "%0a", "m~", "m~%21", "m~AA", "m~" + "A" * 1900, "-1", "1e3", "٣", "😀"],
)
def test_markers_and_limits_at_their_ends_are_no_internal_errors(
    api: api_fixture.Api, value: str
) -> None:
    instance_id = api.create_instance(active=True)
    names = _Names(project_id="project-a", instance_id=instance_id, user="u", database="d")
    quoted = urllib.parse.quote(value, safe="%")
    asked = 0
    for route in routing.list_routes(api.tree):
        for parameter in route.handler.route.query:
            path = route.path.format_map(names)
            response = api.raw(route.method, f"{path}?{parameter}={quoted}", headers=_HEADERS)
            assert response.status_int < 500 or response.status_int == 501
            asked += 1
    assert asked > 60


@pytest.mark.parametrize("segment", ["x" * 10_000, "X" * 36, "0" * 300, "-", "' OR 1=1 --", "~"])
def test_ids_at_their_ends_are_not_found_or_refused(api: api_fixture.Api, segment: str) -> None:
    quoted = urllib.parse.quote(segment)
    for route in routing.list_routes(api.tree):
        if route.path.count("{") > 1:
            path = route.path.replace("{project_id}", "project-a")
            path = re.sub(r"\{\w+\}", quoted, path)
            # a body that fits nothing is refused before what it is for is looked for
            assert api.raw(route.method, path, headers=_HEADERS).status_int in (
                *(200, 202, 204, 400, 404),
                501,
            )


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
