"""Databases, users, grants and the superuser over REST."""

from __future__ import annotations

import urllib.parse
from typing import Any

import pytest

from tests.fixtures import api as api_fixture
from trove import states
from trove.db import base, models
from trove.rpc import payloads


@pytest.fixture
def api(sqlite_database: base.Database) -> api_fixture.Api:
    made = api_fixture.make_api(sqlite_database)
    made.add_datastore()
    return made


@pytest.fixture
def path(api: api_fixture.Api) -> str:
    return f"/instances/{api.create_instance(active=True)}"


def _engine(api: api_fixture.Api, path: str) -> Any:
    return api.guest.engine(path.rpartition("/")[2])


def _user(api: api_fixture.Api, path: str, name: str, host: str = "%", **more: Any) -> None:
    user = {"name": name, "password": "secret", "host": host, **more}
    api.request("POST", f"{path}/users", {"users": [user]}, status=202)


def test_databases_are_made_listed_shown_and_dropped(api: api_fixture.Api, path: str) -> None:
    body = {"databases": [{"name": "b.x"}, {"name": "a", "character_set": "utf8mb4"}]}
    api.request("POST", f"{path}/databases", body, status=202)
    api.request("POST", f"{path}/databases", {"databases": []}, status=202)
    api.request("POST", f"{path}/databases", {"database": {"name": "sdk"}}, status=202)
    names = [item["name"] for item in api.get(f"{path}/databases")["databases"]]
    assert names == ["a", "b.x", "sdk"]
    assert api.get(f"{path}/databases/a")["database"]["character_set"] == "utf8mb4"
    api.request("GET", f"{path}/databases/b", status=404)
    api.request("DELETE", f"{path}/databases/b.x", status=202)
    api.request("DELETE", f"{path}/databases/b.x", status=404)
    assert set(_engine(api, path).databases) == {"a", "sdk"}


@pytest.mark.parametrize(
    ("item", "said"),
    [
        ({"name": "mysql"}, "reserved"),
        ({"name": "Information_Schema"}, "reserved"),
        ({"name": "sys"}, "reserved"),
        ({"name": "a/b"}, "must not contain"),
        ({"name": ".." * 3 + "x/"}, "must not contain"),
        ({"name": "x" * 65}, "64"),
        ({"name": "x" * 300}, "databases.0.name must have at most 255"),
        ({"name": "a\0"}, "control characters"),
        ({"name": " a"}, "blank"),
        ({"name": ""}, "databases.0.name"),
        ({"name": 1}, "databases.0.name is not of type string"),
        ({"name": True}, "databases.0.name is not of type string"),
        ({}, "databases.0: name is missing"),
        ("a", "databases.0 is not of type object"),
        ({"name": "a", "collate": "klingon_ci"}, "collation"),
        ({"name": "a", "character_set": "latin1", "collate": "utf8mb4_bin"}, "collation"),
    ],
)
def test_bad_databases_never_reach_the_guest(
    api: api_fixture.Api, path: str, item: object, said: str
) -> None:
    answer = api.request("POST", f"{path}/databases", {"databases": [item]}, status=400)
    assert said in answer.json["badRequest"]["message"]
    assert api.guest.calls == []


def test_databases_that_exist_or_come_twice_are_refused(api: api_fixture.Api, path: str) -> None:
    one = {"databases": [{"name": "a"}]}
    api.request("POST", f"{path}/databases", one, status=202)
    answer = api.request("POST", f"{path}/databases", one, status=400)
    assert 'with the name "a" already exists' in answer.text.replace("\\", "")
    api.request("POST", f"{path}/databases", {"databases": [{"name": "b"}] * 2}, status=400)
    api.request("DELETE", f"{path}/databases/mysql", status=400)


@pytest.mark.parametrize("collection", ["databases", "users"])
def test_pages_have_safe_markers_and_end(api: api_fixture.Api, path: str, collection: str) -> None:
    names = ["a b", "a&b", "a%b", "ä", "z+z"]
    engine = _engine(api, path)
    for name in names:
        engine.databases[name] = payloads.Database(name=name)
        engine.users[name, "10.0.0.%"] = payloads.User(name=name, host="10.0.0.%")
    url, seen = f"{path}/{collection}?limit=2", []
    while url:
        page = api.get(url)
        seen += [item["name"] for item in page[collection]]
        assert page.get("links") == page.get(f"{collection}_links")
        url = page["links"][0]["href"].partition("project-a")[2] if "links" in page else ""
        marker = urllib.parse.parse_qs(url.partition("?")[2]).get("marker", [""])[0]
        assert urllib.parse.quote(marker, safe="") == marker
    assert seen == sorted(names)
    raw = "a&b" if collection == "databases" else "a&b@10.0.0.%"
    rest = api.get(f"{path}/{collection}?marker={urllib.parse.quote(raw)}")[collection]
    assert [item["name"] for item in rest] == sorted(names)[sorted(names).index("a&b") + 1 :]
    assert api.get(f"{path}/{collection}?limit=0") == {collection: []}
    api.request("GET", f"{path}/{collection}?limit=x", status=400)
    api.request("GET", f"{path}/{collection}?marker={'m' * 3000}", status=400)


def test_users_live_their_life(api: api_fixture.Api, path: str) -> None:
    _user(api, path, "joe", databases=[{"name": "d"}])
    assert api.get(f"{path}/users/joe") == {
        "user": {"name": "joe", "host": "%", "databases": [{"name": "d"}]}
    }
    assert api.get(f"{path}/users")["users"] == [api.get(f"{path}/users/joe%40%25")["user"]]
    change = {"user": {"name": "jim", "host": "10.1.2.3", "password": "other"}}
    api.request("PUT", f"{path}/users/joe", change, status=202)
    api.request("GET", f"{path}/users/joe", status=404)
    shown = api.get(f"{path}/users/jim%40{urllib.parse.quote('10.1.2.3')}")["user"]
    assert shown["databases"] == [{"name": "d"}]
    passwords = {"users": [{"name": "jim", "host": "10.1.2.3", "password": "third"}]}
    api.request("PUT", f"{path}/users", passwords, status=202)
    assert _engine(api, path).users["jim", "10.1.2.3"].password == "third"
    passwords["users"].append({"name": "nobody", "password": "x"})
    passwords["users"][0]["password"] = "fourth"
    answer = api.request("PUT", f"{path}/users", passwords, status=404)
    assert "nobody@%" in answer.text
    assert _engine(api, path).users["jim", "10.1.2.3"].password == "third"
    api.request("DELETE", f"{path}/users/jim@10.1.2.3", status=202)
    api.request("DELETE", f"{path}/users/jim@10.1.2.3", status=404)


@pytest.mark.parametrize(
    ("name", "host"),
    [
        ("joe", "%"),
        ("joe.x", "%"),
        ("new", "%"),
        ("x.json", "host-1.example.org"),
        ("a@b", "10.0.0.0/255.0.0.0"),
        ("a/b", "fd00::1"),
        ("50%", "%.example.org"),
        ("%41", "192.168.%"),
        ("jörg", "%"),
    ],
)
def test_any_name_survives_the_path(api: api_fixture.Api, path: str, name: str, host: str) -> None:
    _user(api, path, name, host)
    segment = urllib.parse.quote(f"{name}@{host}", safe="").replace(".", "%2e")
    url = f"/v1.0/project-a{path}/users/{segment}"
    headers = {"X-Project-Id": "project-a", "X-Roles": "member"}
    shown = api.raw("GET", url, headers=headers, status=200, REQUEST_URI=url).json["user"]
    assert (shown["name"], shown["host"]) == (name, host)
    api.raw("DELETE", url, headers=headers, status=202, REQUEST_URI=url)


def test_openstacksdk_creates_users_under_their_name(api: api_fixture.Api, path: str) -> None:
    body = {"users": {"name": "joe", "password": "secret", "databases": [{"name": "d"}]}}
    api.request("POST", f"{path}/users/joe", body, status=202)
    assert api.get(f"{path}/users/joe")["user"]["databases"] == [{"name": "d"}]
    answer = api.request("POST", f"{path}/users/jim", {"users": {"name": "jim"}}, status=400)
    assert "users: password is missing" in answer.text
    api.request("POST", f"{path}/users/jim", {"users": []}, status=400)


@pytest.mark.parametrize(
    ("item", "said"),
    [
        ({"name": "root", "password": "x"}, "reserved"),
        ({"name": "u", "password": ""}, "users.0.password"),
        ({"name": "u", "password": "p\nq"}, "control characters"),
        ({"name": "u", "password": 12345678}, "users.0.password is not of type string"),
        ({"name": "u", "password": "x", "host": ""}, "users.0.host"),
        ({"name": "u", "password": "x", "host": "'; DROP USER root"}, "users.0.host"),
        ({"name": "u", "password": "x", "host": "10.0.0.1/8"}, "host"),
        ({"name": "u", "password": "x", "databases": ["d"]}, "users.0.databases.0"),
        ({"name": "u", "password": "x", "databases": [{"name": "mysql"}]}, "reserved"),
    ],
)
def test_bad_users_never_reach_the_guest_and_no_password_is_repeated(
    api: api_fixture.Api, path: str, item: dict[str, Any], said: str
) -> None:
    answer = api.request("POST", f"{path}/users", {"users": [item]}, status=400)
    assert said in answer.json["badRequest"]["message"]
    assert "12345678" not in answer.text
    assert api.guest.calls == []


@pytest.mark.parametrize(
    "body",
    [{}, {"user": {}}, {"user": {"name": None}}, {"user": {"name": "root"}}, {"user": []}, []],
)
def test_a_change_of_nothing_or_to_something_bad_is_refused(
    api: api_fixture.Api, path: str, body: object
) -> None:
    _user(api, path, "joe")
    api.request("PUT", f"{path}/users/joe", body, status=400)


def test_a_user_cannot_take_anothers_name(api: api_fixture.Api, path: str) -> None:
    _user(api, path, "joe")
    _user(api, path, "jim")
    api.request("POST", f"{path}/users", {"users": [{"name": "joe", "password": "x"}]}, status=400)
    api.request("PUT", f"{path}/users/joe", {"user": {"name": "jim"}}, status=400)
    api.request("GET", f"{path}/users/root", status=400)
    api.request("DELETE", f"{path}/users/os_admin", status=400)


def test_grants_are_added_and_revoked_one_by_one(api: api_fixture.Api, path: str) -> None:
    api.request(
        "POST", f"{path}/databases", {"databases": [{"name": "a.b"}, {"name": "c"}]}, status=202
    )
    _user(api, path, "joe")
    grants = f"{path}/users/joe/databases"
    api.request("PUT", grants, {"databases": [{"name": "a.b"}]}, status=202)
    api.request("PUT", grants, {"databases": [{"name": "c"}, {"name": "c"}]}, status=202)
    assert api.get(grants) == {"databases": [{"name": "a.b"}, {"name": "c"}]}
    api.request("DELETE", f"{grants}/a", status=404)
    api.request("DELETE", f"{grants}/a.b", status=202)
    api.request("DELETE", f"{grants}/a.b", status=404)
    assert api.get(grants) == {"databases": [{"name": "c"}]}
    answer = api.request("PUT", grants, {"databases": [{"name": "zz"}]}, status=400)
    assert "zz" in answer.text
    for body in ({}, {"databases": ["c"]}, {"databases": {"name": "c"}}):
        api.request("PUT", grants, body, status=400)
    api.request("PUT", f"{path}/users/jim/databases", {"databases": [{"name": "c"}]}, status=404)
    api.request("POST", grants, {"databases": []}, status=405)
    api.request("GET", f"{grants}/c", status=405)


def test_root_is_enabled_shown_and_disabled(api: api_fixture.Api, path: str) -> None:
    root = f"{path}/root"
    assert api.get(root) == {"rootEnabled": False}
    api.request("DELETE", root, status=404)
    first = api.request("POST", root, status=200).json["user"]
    assert first["name"] == "root"
    assert len(first["password"]) >= 16
    assert _engine(api, path).root_password == first["password"]
    assert api.request("POST", root, {}, status=200).json["user"]["password"] != first["password"]
    chosen = api.request("POST", root, {"password": "my own"}, status=200).json
    assert chosen == {"user": {"name": "root", "password": "my own"}}
    assert api.get(root) == {"rootEnabled": True}
    assert api.get(root, project="ops", roles="admin") == {"rootEnabled": True}
    api.request("DELETE", root, status=204)
    assert api.get(root) == {"rootEnabled": False}
    api.request("DELETE", f"{root}/delete", status=404)
    api.request("POST", root, {"password": 7}, status=400)
    api.request("POST", root, b"[]", status=400)
    with api.database.reader() as session:
        (record,) = session.query(models.RootHistory).all()
    assert record.user_id == "user of project-a"
    assert record.disabled is not None


def test_a_silent_guest_may_have_enabled_root(api: api_fixture.Api, path: str) -> None:
    api.guest.silent.add(path.rpartition("/")[2])
    api.request("POST", f"{path}/root", status=504)
    assert api.get(f"{path}/root") == {"rootEnabled": True}


@pytest.mark.parametrize("tail", ["databases", "users", "users/joe", "users/joe/databases"])
def test_what_the_guest_cannot_do_is_told(api: api_fixture.Api, path: str, tail: str) -> None:
    instance_id = path.rpartition("/")[2]
    api.guest.failing[instance_id] = "disk full"
    assert "disk full" in api.request("GET", f"{path}/{tail}", status=400).text
    api.guest.silent.add(instance_id)
    assert instance_id in api.request("GET", f"{path}/{tail}", status=504).text


@pytest.mark.parametrize("status", states.ServiceStatus)
def test_only_a_running_database_is_asked(
    api: api_fixture.Api, path: str, status: states.ServiceStatus
) -> None:
    api.set_heartbeat(path.rpartition("/")[2], service_status=status)
    expected = 200 if status.is_running else 422
    answer = api.request("GET", f"{path}/databases", status=expected)
    assert expected == 200 or status.value in answer.text
    assert bool(api.guest.calls) == (expected == 200)


def test_a_database_can_be_deleted_to_make_room_on_a_full_disk(
    api: api_fixture.Api, path: str
) -> None:
    api.request("POST", f"{path}/databases", {"databases": [{"name": "old"}]}, status=202)
    api.set_heartbeat(path.rpartition("/")[2], service_status=states.ServiceStatus.BLOCKED)
    api.request("POST", f"{path}/databases", {"databases": [{"name": "new"}]}, status=422)
    api.request("DELETE", f"{path}/databases/old", status=202)
    assert _engine(api, path).databases == {}


def test_an_instance_whose_agent_is_silent_or_that_goes_is_not_asked(
    api: api_fixture.Api, path: str
) -> None:
    instance_id = path.rpartition("/")[2]
    api.request("DELETE", path, status=202)
    api.request("GET", f"{path}/users", status=422)
    api.make_active(instance_id)
    api.clock.advance(91)
    answer = api.request("GET", f"{path}/users", status=422)
    assert "silent since" in answer.text
    assert api.guest.calls == []
