"""What operators see and do below /mgmt/instances; others are refused."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest

from tests.fixtures import api as api_fixture
from trove import states
from trove.db import base, operations, roots

IMAGE = str(uuid.uuid4())


@pytest.fixture
def api(sqlite_database: base.Database) -> api_fixture.Api:
    return _make(sqlite_database)


def _make(database: base.Database) -> api_fixture.Api:
    made = api_fixture.make_api(database)
    made.conf.set_override("max_instances_per_tenant", -1, "quota")
    made.conf.set_override("max_volumes_per_tenant", -1, "quota")
    made.add_datastore()
    return made


def _mgmt(
    api: api_fixture.Api, path: str, method: str = "GET", body: Any = None, status: int = 200
) -> Any:
    answer = api.request(
        method, f"/mgmt/instances{path}", body, status=status, project="ops", roles="admin"
    )
    return json.loads(answer.body) if answer.body else None


def _delete(api: api_fixture.Api, instance_id: str) -> None:
    api.set_instance(instance_id, is_deleted=True, deleted=api.clock.now(), updated=api.clock.now())


def test_the_list_has_live_instances_of_all_projects_changed_last_first(
    api: api_fixture.Api,
) -> None:
    ids = {}
    for name, project in (("a", "project-a"), ("b", "project-b"), ("gone", "project-a")):
        ids[name] = api.create_instance(instance={"name": name}, project=project)
        api.clock.advance(1)
    _delete(api, ids["gone"])
    listed = _mgmt(api, "?include_clustered=False")["instances"]
    assert [item["name"] for item in listed] == ["b", "a"]
    assert [item["tenant_id"] for item in listed] == ["project-b", "project-a"]
    for query, names in {
        "deleted=False": ["b", "a"],
        "deleted=true": ["gone"],
        "deleted=": ["b", "a"],
        "project_id=project-a&deleted=False&include_clustered=True": ["a"],
        "project_id=nobody": [],
        "sort_key=created&sort_dir=asc": ["a", "b"],
        "name=b": ["b"],
        "marker=1": ["a"],
        "marker=7": [],
        "limit=0": [],
    }.items():
        assert [item["name"] for item in _mgmt(api, f"?{query}")["instances"]] == names, query
    (gone,) = _mgmt(api, "?deleted=TRUE")["instances"]
    assert (gone["deleted"], gone["deleted_at"]) == (True, "2026-05-01T12:00:03")
    assert (gone["status"], gone["operating_status"]) == ("SHUTDOWN", "")
    for query in ("deleted=perhaps", "sort_key=name", "limit=x", "marker=nothing", "status=x"):
        _mgmt(api, f"?{query}", status=400)


def test_pages_of_the_list_have_everything_once_and_end(database: base.Database) -> None:
    api = _make(database)
    names = ["a", "b", "c"]
    for name in names:
        api.create_instance(instance={"name": name}, project=f"project-{name}")
        api.clock.advance(1)
    for limit in (1, 2, 3, 4):
        path, seen = f"?limit={limit}&include_clustered=False", []
        while path:
            page = _mgmt(api, path)
            seen += [item["name"] for item in page["instances"]]
            assert page.get("links") == page.get("instances_links")
            href = page["links"][0]["href"] if "links" in page else ""
            path = href.partition("/mgmt/instances")[2]
            assert not path or "include_clustered=False" in path
        assert seen == names[::-1]


def test_an_instance_is_shown_with_what_is_behind_it(api: api_fixture.Api) -> None:
    instance_id = api.create_instance()
    shown = _mgmt(api, f"/{instance_id}")["instance"]
    assert shown["server"] is None
    assert shown["task_description"] == "The instance is building."
    assert shown["guest_status"] == {"state_description": "new"}
    assert shown["volume"]["status"] == "available"
    assert "root_enabled" not in shown
    api.make_active(instance_id)
    api.set_instance(instance_id, volume_id="volume-1")
    with api.database.writer() as session:
        roots.record_enabled(session, instance_id, user_id="joe", now=api.clock.now())
    shown = _mgmt(api, f"/{instance_id}")["instance"]
    assert shown["server"] == {
        "id": "server-1",
        "name": "db",
        "status": "ACTIVE",
        "tenant_id": "project-a",
        "host": None,
        "addresses": {"local": [{"addr": "127.64.0.9", "version": 4}]},
    }
    assert shown["volume"] == {
        "id": "volume-1",
        "size": 1,
        "status": "in-use",
        "attachments": [{"server_id": "server-1"}],
        "availability_zone": None,
        "created_at": "2026-05-01T12:00:00",
        "used": 0.5,
        "total": 1.0,
    }
    assert (shown["service_status"], shown["deleted"], shown["deleted_at"]) == (
        "HEALTHY",
        False,
        None,
    )
    assert (shown["root_enabled"], shown["root_enabled_by"]) == ("2026-05-01T12:00:00", "joe")
    assert shown["task_description"] == "No tasks for the instance."
    assert (shown["server_id"], shown["volume_id"]) == ("server-1", "volume-1")


def test_a_deleted_instance_is_shown_only_when_asked_for(api: api_fixture.Api) -> None:
    instance_id = api.create_instance(active=True)
    _delete(api, instance_id)
    for query in ("", "?deleted=false"):
        _mgmt(api, f"/{instance_id}{query}", status=404)
    assert _mgmt(api, f"/{instance_id}?deleted=true")["instance"]["deleted"] is True
    _mgmt(api, f"/{instance_id}?deleted=2", status=400)
    _mgmt(api, "/x", status=404)


def test_the_history_of_the_superuser_is_told(api: api_fixture.Api) -> None:
    instance_id = api.create_instance(active=True)
    path = f"/{instance_id}/root"
    never = {"id": instance_id, "enabled": "Never", "user": "Nobody"}
    assert _mgmt(api, path) == {"root_history": never}
    for user in ("joe", "ann"):
        with api.database.writer() as session:
            roots.record_enabled(session, instance_id, user_id=user, now=api.clock.now())
            roots.record_disabled(session, instance_id, now=api.clock.now())
        api.clock.advance(60)
    assert _mgmt(api, path)["root_history"] == {
        "id": instance_id,
        "enabled": "2026-05-01T12:01:00",
        "user": "ann",
    }
    refused = _mgmt(api, f"/{uuid.uuid4()}/root", status=404)
    assert refused["itemNotFound"]["code"] == 404


def test_the_agent_is_asked_how_it_is(api: api_fixture.Api) -> None:
    instance_id = api.create_instance(active=True)
    assert _mgmt(api, f"/{instance_id}/diagnostics")["diagnostics"] == {
        "version": "1.0",
        "threads": 9,
        "fdSize": 64,
        "vmSize": 4,
        "vmPeak": 5,
        "vmRss": 2,
        "vmHwm": 3,
    }
    assert _mgmt(api, f"/{instance_id}/hwinfo") == {"hwinfo": {"mem_total": 512, "num_cpus": 2}}
    assert _mgmt(api, f"/{instance_id}/rpc_ping", status=204) is None
    asked = [method for _, method in api.guest.calls]
    assert asked == ["diagnostics", "hwinfo", "ping"]
    api.guest.failing[instance_id] = "no /proc"
    for name in ("diagnostics", "hwinfo", "rpc_ping"):
        assert "no /proc" in json.dumps(_mgmt(api, f"/{instance_id}/{name}", status=400))
    api.guest.silent.add(instance_id)
    for name in ("diagnostics", "hwinfo", "rpc_ping"):
        _mgmt(api, f"/{instance_id}/{name}", status=504)
        _mgmt(api, f"/{uuid.uuid4()}/{name}", status=404)


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        ({"stop": {}}, operations.STOP_DATABASE, "ACTIVE"),
        ({"reboot": {}}, operations.REBOOT_INSTANCE, "REBOOT"),
        ({"rebuild": {"image_id": IMAGE}}, operations.REBUILD_INSTANCE, "BUILD"),
    ],
)
def test_repairs_begin_whatever_the_database_does(
    api: api_fixture.Api, body: dict[str, Any], kind: str, status: str
) -> None:
    instance_id = api.create_instance()
    _mgmt(api, f"/{instance_id}/action", "POST", body, status=422)
    api.make_active(instance_id)
    api.set_heartbeat(instance_id, service_status=states.ServiceStatus.CRASHED)
    _mgmt(api, f"/{instance_id}/action", "POST", body, status=202)
    shown = api.get(f"/instances/{instance_id}")["instance"]
    assert (shown["status"], shown["operating_status"]) == (status, "")
    with api.database.reader() as session:
        (found,) = operations.list_operations(session, resource_id=instance_id, active_only=True)
    assert found.kind == kind
    assert found.data.get("image_id") in (None, IMAGE)
    _mgmt(api, f"/{uuid.uuid4()}/action", "POST", body, status=404)


def test_migration_needs_a_driver_that_knows_hosts(api: api_fixture.Api) -> None:
    instance_id = api.create_instance(active=True)
    for arguments in ({}, {"host": "h2"}, {"host": None}):
        body = {"migrate": arguments}
        refused = _mgmt(api, f"/{instance_id}/action", "POST", body, status=501)
        assert "one host only" in refused["notImplemented"]["message"]


def test_the_task_is_reset_and_the_service_left_alone(api: api_fixture.Api) -> None:
    instance_id = api.create_instance(active=True)
    api.set_instance(instance_id, task=states.TaskStatus.UPGRADING_ERROR)
    _mgmt(api, f"/{instance_id}/action", "POST", {"reset-task-status": {}}, status=202)
    shown = api.get(f"/instances/{instance_id}")["instance"]
    assert (shown["status"], shown["operating_status"]) == ("ACTIVE", "HEALTHY")


@pytest.mark.parametrize(
    "body",
    [
        None,
        {},
        {"stop": {}, "reboot": {}},
        {"stop": None},
        {"reboot": {"type": "HARD"}},
        {"rebuild": {}},
        {"rebuild": {"image_id": "x"}},
        {"rebuild": {"image_id": IMAGE, "name": "x"}},
        {"migrate": {"to": "h2"}},
        {"update": {}},
        {"upgrade": {}},
        {"restart": {}},
    ],
)
def test_bad_repairs_are_refused(api: api_fixture.Api, body: Any) -> None:
    instance_id = api.create_instance(active=True)
    _mgmt(api, f"/{instance_id}/action", "POST", body, status=400)
    assert api.get(f"/instances/{instance_id}")["instance"]["status"] == "ACTIVE"


def test_what_never_was_a_route_is_none(api: api_fixture.Api) -> None:
    instance_id = api.create_instance(active=True)
    for method, path in (
        ("POST", ""),
        ("PUT", f"/{instance_id}"),
        ("PATCH", f"/{instance_id}"),
        ("DELETE", f"/{instance_id}"),
    ):
        _mgmt(api, path, method, {"instance": {}}, status=405)
    for path in ("/edit", "/new", "/upgrade"):
        _mgmt(api, f"/{instance_id}{path}", "POST", {"upgrade": {}}, status=404)
