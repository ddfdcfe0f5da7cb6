"""Logs over REST."""

from __future__ import annotations

import dataclasses
import pathlib
import uuid
from typing import Any

import pytest

from tests.fixtures import api as api_fixture
from tests.fixtures import guest_logs, s3
from tests.fixtures.swift import Swift, swift
from trove import states
from trove.datastores import mariadb, spec
from trove.db import base
from trove.storage import base as storage
from trove.storage.filesystem import FilesystemStore

__all__ = ["swift"]

_OTHER = {"project": "project-b"}
_ADMIN = {"project": "operators", "roles": "admin"}


@pytest.fixture
def store(tmp_path: pathlib.Path) -> FilesystemStore:
    return FilesystemStore(tmp_path / "objects")


@pytest.fixture
def api(sqlite_database: base.Database, store: FilesystemStore) -> api_fixture.Api:
    made = api_fixture.make_api(sqlite_database, objects=store)
    made.add_datastore()
    return made


@pytest.fixture
def path(api: api_fixture.Api) -> str:
    return f"/instances/{api.create_instance(active=True)}/log"


def _logs(api: api_fixture.Api, path: str) -> guest_logs.FakeLogs:
    return api.guest.engine(path.split("/")[2]).logs


def _names(account: storage.Account) -> list[str]:
    return [each.name for each in account.list("database_logs")]


def _change(
    api: api_fixture.Api, path: str, name: str, status: int = 200, **what: Any
) -> dict[str, Any]:
    options = {key: what.pop(key) for key in ("project", "roles") if key in what}
    answer = api.request("POST", path, {"name": name, **what}, status=status, **options).json
    found: dict[str, Any] = answer["log"] if status == 200 else next(iter(answer.values()))
    return found


def test_projects_see_their_own_logs_and_administrators_all(
    api: api_fixture.Api, path: str
) -> None:
    own = api.get(path)["logs"]
    assert [(each["name"], each["type"]) for each in own] == [
        ("general", "USER"),
        ("slow_query", "USER"),
        ("audit", "USER"),
    ]
    assert own[0] == {
        "name": "general",
        "type": "USER",
        "status": "Disabled",
        "published": 0,
        "pending": 0,
        "dropped": 0,
        # not null: clients put it into a URL, and are told 404 for this
        "container": "None",
        "prefix": "None",
        "metafile": "None",
    }
    names = [each["name"] for each in api.get(path, **_ADMIN)["logs"]]
    assert names == ["general", "slow_query", "audit", "error", "guest"]
    api.request("GET", path, status=404, **_OTHER)


@pytest.mark.parametrize(("yes", "no"), [(1, 0), (True, False)])
def test_log_is_enabled_published_and_shown(
    api: api_fixture.Api, path: str, store: FilesystemStore, yes: Any, no: Any
) -> None:
    instance_id = path.split("/")[2]
    assert _change(api, path, "general", enable=yes, disable=no)["status"] == "Ready"
    _logs(api, path).find("general").pending.append("SELECT 1\n")
    published = _change(api, path, "general", publish=yes)
    prefix = f"{instance_id}/mariadb-general/"
    assert published["container"] == "database_logs"
    assert published["prefix"] == prefix
    assert published["metafile"] == f"{instance_id}/mariadb-general_metafile"
    assert (published["published"], published["pending"]) == (9, 0)
    assert _names(store.account("project-a")) == [f"{prefix}0001.log"]
    # the name alone shows
    assert _change(api, path, "general") == published
    assert _change(api, path, "general", discard=yes)["container"] == "None"
    assert _names(store.account("project-a")) == []


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "body: name is missing"),
        ({"name": ""}, "name"),
        ({"name": 7}, "name is not of type string"),
        ({"name": "x" * 256}, "at most 255"),
        ({"name": "general", "enable": 2}, "enable must be one of"),
        ({"name": "general", "enable": "1"}, "enable must be one of"),
        ({"name": "general", "publish": None}, "publish must be one of"),
        ({"name": "general", "enable": 1, "disable": 1}, "not both"),
        ({"name": "binlog"}, "the log is not defined; there are general, slow_query, audit"),
        ([], "must be a JSON object"),
    ],
)
def test_what_makes_no_sense_is_refused_and_never_reaches_the_guest(
    api: api_fixture.Api, path: str, body: Any, said: str
) -> None:
    answer = api.request("POST", path, body, status=400)
    assert said in answer.json["badRequest"]["message"]
    assert api.guest.calls == []


def test_system_logs_are_for_administrators_who_do_not_switch_them(
    api: api_fixture.Api, path: str
) -> None:
    for what in ({}, {"publish": 1}, {"discard": 1}):
        assert "administrators" in _change(api, path, "error", 403, **what)["message"]
    for what in ({"enable": 1}, {"disable": 1}):
        assert "always written" in _change(api, path, "error", 400, **what, **_ADMIN)["message"]
    assert api.guest.calls == []
    assert _change(api, path, "error", publish=1, **_ADMIN)["type"] == "SYS"


def test_system_log_goes_to_the_administrator_and_the_project_s_own_to_the_project(
    api: api_fixture.Api, path: str, store: FilesystemStore
) -> None:
    for name in ("guest", "general"):
        _logs(api, path).find(name).pending.append("x\n")
        _change(api, path, name, publish=1, **_ADMIN)
    (system,), (own,) = (_names(store.account(p)) for p in ("operators", "project-a"))
    assert "mariadb-guest/" in system
    assert "mariadb-general/" in own


def test_exposed_system_log_is_the_project_s(
    api: api_fixture.Api, path: str, store: FilesystemStore
) -> None:
    api.conf.set_override("exposed", ["error"], "logs")
    names = [each["name"] for each in api.get(path)["logs"]]
    assert names == ["general", "slow_query", "audit", "error"]
    _logs(api, path).find("error").pending.append("x\n")
    _change(api, path, "error", publish=1)
    assert "mariadb-error/" in _names(store.account("project-a"))[0]
    _change(api, path, "guest", 403)


def test_readers_look_and_members_change(api: api_fixture.Api, path: str) -> None:
    assert api.get(path, roles="reader")["logs"]
    _change(api, path, "general", roles="reader")
    for what in ("enable", "disable", "publish", "discard"):
        refused = _change(api, path, "general", 403, roles="reader", **{what: 1})
        assert "instance:guest_log_set" in refused["message"]
        _change(api, path, "general", **{what: 1})
        api.request("POST", path, {"name": "general", what: 1}, status=404, **_OTHER)


def test_without_a_store_logs_are_switched_but_not_published(
    sqlite_database: base.Database,
) -> None:
    api = api_fixture.make_api(sqlite_database)
    api.add_datastore()
    path = f"/instances/{api.create_instance(active=True)}/log"
    assert api.get(path)["logs"]
    assert _change(api, path, "general", enable=1)["status"] == "Ready"
    for what in ("publish", "discard"):
        assert "object store" in _change(api, path, "general", 501, **{what: 1})["message"]


def test_datastore_without_logs_has_none_at_all(
    api: api_fixture.Api, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    capabilities = mariadb.SPEC.capabilities - {spec.Capability.LOGS}
    monkeypatch.setattr(type(mariadb.SPEC), "capabilities", capabilities, raising=False)
    answer = api.request("GET", path, status=501)
    assert "mariadb" in answer.json["notImplemented"]["message"]
    _change(api, path, "general", 501)


def test_agent_must_be_there_and_the_database_need_not(api: api_fixture.Api, path: str) -> None:
    instance_id = path.split("/")[2]
    api.set_heartbeat(instance_id, service_status=states.ServiceStatus.CRASHED)
    assert api.get(path)["logs"]
    _change(api, path, "guest", publish=1, **_ADMIN)
    before = list(api.guest.calls)
    api.clock.advance(100)
    answer = api.request("GET", path, status=422)
    assert "silent since" in answer.json["unprocessableEntity"]["message"]
    _change(api, path, "general", 422)
    api.set_heartbeat(instance_id, received=api.clock.now())
    api.set_instance(instance_id, task=states.TaskStatus.DELETING)
    _change(api, path, "general", 422)
    building = api.create_instance()
    api.request("GET", f"/instances/{building}/log", status=422)
    assert api.guest.calls == before


def test_what_the_guest_refuses_is_told(api: api_fixture.Api, path: str) -> None:
    api.guest.failing[path.split("/")[2]] = "the disk is full"
    assert "the disk is full" in _change(api, path, "general", 400, publish=1)["message"]
    api.request("GET", path, status=400)


def test_guest_is_granted_the_one_account_and_half_of_the_time(
    api: api_fixture.Api, path: str, store: FilesystemStore
) -> None:
    _change(api, path, "general", publish=1)
    (request,) = _logs(api, path).requests
    assert request.budget_s == 4.0
    assert request.storage is not None
    assert request.storage.grant == store.grant("project-a", container="c", prefix="p")
    assert str(request.storage.grant["directory"]) not in repr(request)


def test_instance_that_goes_leaves_what_it_published(
    api: api_fixture.Api, path: str, store: FilesystemStore
) -> None:
    _logs(api, path).find("general").pending.append("x\n")
    _change(api, path, "general", publish=1)
    api.request("DELETE", path.removesuffix("/log"), status=202)
    assert len(_names(store.account("project-a"))) == 1


def test_swift_is_published_to_by_signed_urls_and_emptied_from_here(
    sqlite_database: base.Database, swift: Swift, tmp_path: pathlib.Path
) -> None:
    prefix = f"AUTH_{uuid.uuid4().hex}"
    store = swift.make_store(tmp_path, prefix=prefix)
    api = api_fixture.make_api(sqlite_database, objects=store)
    api.add_datastore()
    path = f"/instances/{api.create_instance(active=True)}/log"
    account = store.account("project-a")
    for line in ("one\n", "two\n"):
        _logs(api, path).find("general").pending.append(line)
        shown = _change(api, path, "general", publish=1)
    assert len(_names(account)) == 2
    assert all(name.startswith(str(shown["prefix"])) for name in _names(account))
    (_, request) = _logs(api, path).requests
    assert request.storage is not None
    assert request.storage.grant["prefix"] == str(shown["prefix"]).rstrip("/")
    account.put("database_logs", "mine", [b"of the user"])
    _change(api, path, "general", discard=1)
    assert _names(account) == ["mine"]


def test_s3_is_published_to_by_urls_that_are_signed_when_their_names_are_known(
    sqlite_database: base.Database, swift: Swift, tmp_path: pathlib.Path
) -> None:
    store = s3.make_store(swift.s3, tmp_path)
    api = api_fixture.make_api(sqlite_database, objects=store)
    api.add_datastore()
    path = f"/instances/{api.create_instance(active=True)}/log"
    account = store.account("project-a")
    for line in ("one\n", "two\n"):
        _logs(api, path).find("general").pending.append(line)
        shown = _change(api, path, "general", publish=1)
    prefix = str(shown["prefix"])
    assert _names(account) == [f"{prefix}0001.log", f"{prefix}0002.log"]
    asked = [set(r.storage.grant["signatures"]) for r in _logs(api, path).requests if r.storage]
    first, second = ({"_metafile", f"/{number:04d}.log"} for number in (1, 2))
    assert asked == [{"_metafile"}, first, {"_metafile"}, second]
    account.put("database_logs", "mine", [b"of the user"])
    _change(api, path, "general", discard=1)
    assert _names(account) == ["mine"]


def test_agent_is_granted_names_of_its_own_log_only(
    sqlite_database: base.Database, swift: Swift, tmp_path: pathlib.Path
) -> None:
    api = api_fixture.make_api(sqlite_database, objects=s3.make_store(swift.s3, tmp_path))
    api.add_datastore()
    path = f"/instances/{api.create_instance(active=True)}/log"
    log = _logs(api, path).find("general")
    log.wanted = ("elsewhere/manifest.json",)
    _change(api, path, "general", publish=1)
    for request in _logs(api, path).requests:
        assert request.storage is not None
        assert set(request.storage.grant["signatures"]) == {"_metafile"}


def test_swift_that_is_down_is_told(
    sqlite_database: base.Database, swift: Swift, tmp_path: pathlib.Path
) -> None:
    down = dataclasses.replace(swift, url="http://127.0.0.1:1").make_store(tmp_path)
    api = api_fixture.make_api(sqlite_database, objects=down)
    api.add_datastore()
    path = f"/instances/{api.create_instance(active=True)}/log"
    for what in ("publish", "discard"):
        message = _change(api, path, "general", 503, **{what: 1})["message"]
        assert "object store failed: it cannot be reached" in message
    # what needs no store goes on
    assert _change(api, path, "general", enable=1)["name"] == "general"
