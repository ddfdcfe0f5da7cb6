"""What a compatible server must do, point by point and in the order of the contract's checklist.

Each point has one test here, small and by itself; the tests of the resources go deeper. What needs
replication, backups or clusters of a datastore is held as far as this release goes.
"""

from __future__ import annotations

import datetime
import pathlib
import re
from typing import Any

import pytest

from tests.fixtures import api as api_fixture
from tests.fixtures.certificates import TenantAuthority
from trove import states
from trove.api import method, routing
from trove.common import exception
from trove.db import base, models
from trove.drivers.secrets.store import NewSecret
from trove.rpc import payloads
from trove.storage import base as storage
from trove.storage.filesystem import FilesystemStore

_ZONELESS = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\Z")
_ADMIN = {"project": "ops", "roles": "admin"}


@pytest.fixture
def store(tmp_path: pathlib.Path) -> FilesystemStore:
    return FilesystemStore(tmp_path / "objects")


@pytest.fixture
def api(sqlite_database: base.Database, store: FilesystemStore) -> api_fixture.Api:
    made = api_fixture.make_api(sqlite_database, objects=store)
    made.add_datastore()
    return made


def _show(api: api_fixture.Api, instance_id: str, **options: Any) -> dict[str, Any]:
    return dict(api.get(f"/instances/{instance_id}", **options)["instance"])


def _action(api: api_fixture.Api, instance_id: str, body: Any, status: int = 202, **o: Any) -> Any:
    return api.request("POST", f"/instances/{instance_id}/action", body, status=status, **o)


def test_01_the_project_of_the_path_is_the_caller_s_for_everybody(api: api_fixture.Api) -> None:
    for roles in ("member", "admin"):
        headers = {"X-Project-Id": "project-b", "X-Roles": roles}
        for tail in ("", "/instances", "/flavors", "/nothing"):
            api.raw("GET", f"/v1.0/project-a{tail}", headers=headers, status=403)
    # below a prefix everything is as it is at the top
    listed = api.request("GET", "/flavors", status=200, SCRIPT_NAME="/database").json
    assert "/database/v1.0/project-a/flavors/" in listed["flavors"][0]["links"][0]["href"]


def test_02_versions_are_told_without_credentials(api: api_fixture.Api) -> None:
    (version,) = api.raw("GET", "/", status=200).json["versions"]
    assert {"id", "status", "updated", "links"} <= version.keys()
    assert version["updated"].endswith("Z")


def test_03_everything_is_json_with_a_request_id_and_errors_have_one_fault(
    api: api_fixture.Api,
) -> None:
    for http_method, path, body in (
        ("GET", "/instances", None),
        ("GET", "/nothing", None),
        ("PATCH", "/flavors", None),
        ("POST", "/instances", b"{"),
        ("DELETE", f"/instances/{api.create_instance()}", None),
    ):
        answer = api.request(http_method, path, body, headers={"Accept": "text/html"})
        assert answer.headers["Content-Type"] == "application/json"
        assert answer.headers["x-openstack-request-id"].startswith("req-")
        if answer.status_int >= 400:
            ((name, fault),) = answer.json.items()
            assert name in ("itemNotFound", "badMethod", "badRequest")
            assert fault["code"] == answer.status_int
            assert isinstance(fault["message"], str)


#: "METHOD path below the project" -> status, whether there is a body. The rest is 202 without one.
_ANSWERS = {
    "POST /instances": (200, True),
    "POST /clusters": (200, True),
    "POST /configurations": (200, True),
    "POST /modules": (200, True),
    "POST /instances/{instance_id}/root": (200, True),
    "POST /clusters/{cluster_id}/root": (200, True),
    "POST /instances/{instance_id}/log": (200, True),
    "POST /instances/{instance_id}/ssl": (200, True),
    "PUT /modules/{module_id}": (200, True),
    "DELETE /modules/{module_id}": (200, False),
    "POST /instances/{instance_id}/modules": (200, True),
    "DELETE /instances/{instance_id}/modules/{module_id}": (200, False),
    "PATCH /configurations/{configuration_id}": (200, False),
    "POST /mgmt/datastores/versions/{version}/parameters": (200, True),
    "PUT /mgmt/datastores/versions/{version}/parameters/{name}": (200, True),
    "PUT /mgmt/quotas/{quota_project_id}": (200, True),
    "DELETE /instances/{instance_id}/root": (204, False),
    "DELETE /instances/{instance_id}/root/delete": (204, False),
    "DELETE /clusters/{cluster_id}/root": (204, False),
    "DELETE /mgmt/datastores/versions/{version}/parameters/{name}": (204, False),
    "GET /mgmt/instances/{instance_id}/rpc_ping": (204, False),
    "POST /backups": (202, True),
    "POST /backups/{backup_id}/action": (202, True),
    "POST /backup_strategies": (202, True),
    "POST /backup_schedules": (200, True),
    "PATCH /backup_schedules/{schedule_id}": (200, True),
    "DELETE /backup_schedules/{schedule_id}": (204, False),
    "POST /clusters/{cluster_id}": (202, True),
}


def test_04_every_route_answers_the_status_of_the_contract(api: api_fixture.Api) -> None:
    """The fixture of all API tests sees to it that answers are as routes are declared."""
    for route in routing.list_routes(api.tree):
        info: method.RouteInfo = route.handler.route
        name = f"{route.method} {route.path.removeprefix('/v1.0/{project_id}')}"
        usual = (200, True) if route.method == "GET" else (202, False)
        assert (info.status, info.response is not None) == _ANSWERS.get(name, usual), name


def test_05_times_have_no_zone(api: api_fixture.Api) -> None:
    instance_id = api.create_instance(active=True)
    moments: list[str] = []

    def collect(value: Any, key: str = "") -> None:
        if isinstance(value, dict):
            for name, item in value.items():
                collect(item, name)
        elif isinstance(value, list):
            for item in value:
                collect(item)
        elif key in ("created", "updated", "service_status_updated", "finished", "time"):
            moments.append(value)

    for path in (f"/instances/{instance_id}", "/instances/detail", "/configurations", "/events"):
        collect(api.get(path))
    collect(api.get(f"/instances/{instance_id}/operations"))
    assert len(moments) >= 8
    assert [moment for moment in moments if moment and not _ZONELESS.match(moment)] == []


def test_06_ids_of_flavors_are_strings_in_instances_and_numbers_in_their_list(
    api: api_fixture.Api,
) -> None:
    instance_id = api.create_instance()
    assert _show(api, instance_id)["flavor"]["id"] == "1"
    for flavor in api.get("/flavors")["flavors"]:
        assert flavor["id"] is None or isinstance(flavor["id"], int)
        assert isinstance(flavor["str_id"], str)
    api.request("GET", "/flavors/none", status=404)


def test_07_what_is_not_there_is_absent_and_access_is_an_object(api: api_fixture.Api) -> None:
    instance_id = api.create_instance()
    listed = api.get("/instances")["instances"] + api.get("/instances/detail")["instances"]
    for view in (*listed, _show(api, instance_id)):
        absent = {"replica_of", "replicas", "configuration", "ip", "addresses", "hostname"}
        assert not (absent | {"fault", "locality"}) & view.keys()
        assert isinstance(view["access"], dict)
        assert view["volume"]["size"] == 1


def test_08_strategies_of_a_project_have_no_instance_and_limits_begin_with_the_absolute(
    api: api_fixture.Api,
) -> None:
    body = {"backup_strategy": {"swift_container": "c"}}
    api.request("POST", "/backup_strategies", body, status=202)
    (strategy,) = api.get("/backup_strategies")["backup_strategies"]
    assert strategy["instance_id"] == ""
    assert api.get("/limits")["limits"][0]["verb"] == "ABSOLUTE"


def test_09_a_parameter_is_a_flat_object(api: api_fixture.Api) -> None:
    version = api.get("/datastores/mariadb")["datastore"]["default_version"]
    shown = api.get(f"/datastores/versions/{version}/parameters/max_connections")
    assert type(shown["max"]) is int
    assert type(shown["min"]) is int
    assert type(shown["restart_required"]) is bool
    assert shown["name"] == "max_connections"


def test_10_an_instance_is_changed_in_every_way_that_clients_know(api: api_fixture.Api) -> None:
    group = {"configuration": {"name": "c", "values": {}}}
    group_id = api.request("POST", "/configurations", group, status=200).json["configuration"]["id"]
    instance_id = api.create_instance(active=True)
    path = f"/instances/{instance_id}"
    for content in ({}, {"configuration": None}, {"name": "other", "configuration": group_id}):
        api.request("PUT", path, {"instance": content}, status=202)
        api.make_active(instance_id)
    assert _show(api, instance_id)["name"] == "other"
    both = {"configuration": None, "replica_of": None}
    api.request("PUT", path, {"instance": both}, status=400)
    source = api.create_instance(active=True)
    for value in (None, "", source):
        replica = api.create_instance(active=True)
        api.set_instance(replica, replica_of_id=source)
        answer = api.request("PUT", f"/instances/{replica}", {"instance": {"replica_of": value}})
        # not a schema violation; the datastore of this release has no replicas
        assert answer.status_int in (202, 400, 501)
        assert "Validation" not in answer.text
        api.set_instance(replica, is_deleted=True)
    answer = api.request("PATCH", path, {"instance": {"datastore_version": "10.11"}})
    assert "Validation" not in answer.text


@pytest.mark.parametrize("nothing", [{}, None])
def test_11_actions_take_nothing_in_both_forms_and_sizes_in_both(
    api: api_fixture.Api, nothing: Any
) -> None:
    instance_id = api.create_instance(active=True)
    for action in (
        {"restart": nothing},
        {"resize": {"volume": 2 if nothing is None else {"size": 2}}},
    ):
        _action(api, instance_id, action)
        api.make_active(instance_id)


def test_12_the_superuser_is_enabled_without_a_body(api: api_fixture.Api) -> None:
    instance_id = api.create_instance(active=True)
    for body in (None, b"", {}):
        answer = api.request("POST", f"/instances/{instance_id}/root", body, status=200)
        assert answer.json["user"].keys() == {"name", "password"}


def test_13_names_of_users_come_with_a_host_and_quoted_or_not(api: api_fixture.Api) -> None:
    instance_id = api.create_instance(active=True)
    engine = api.guest.engine(instance_id)
    engine.users["joe.x", "10.0.0.1"] = payloads.User(name="joe.x", host="10.0.0.1")
    users = f"/instances/{instance_id}/users"
    for segment in ("joe.x%4010.0.0.1", "joe%2ex%4010%2e0.0.1", "joe.x@10.0.0.1"):
        assert api.get(f"{users}/{segment}")["user"]["name"] == "joe.x"


def test_14_pages_have_links_as_long_as_there_is_more(api: api_fixture.Api) -> None:
    ids = sorted(api.create_instance() for _ in range(3))
    path, seen = "/instances?limit=1", []
    while path:
        page = api.get(path, headers={"Host": "db.example:8779"})
        seen += [each["id"] for each in page["instances"]]
        (link,) = page.get("links", [{"href": ""}])
        path = link["href"].removeprefix("http://db.example:8779/v1.0/project-a")
        assert re.fullmatch(r"[\w.~/?=&-]*", path)
    assert sorted(seen) == ids
    assert len(api.get(f"/instances?limit=10&marker={ids[0]}")["instances"]) == 2
    assert "links" not in api.get("/instances?limit=3")
    assert api.get("/backups?limit=1&marker=20") == {"backups": []}


def test_15_the_status_is_changed_before_the_answer(api: api_fixture.Api) -> None:
    instance_id = api.create_instance()
    assert _show(api, instance_id)["status"] == "BUILD"
    api.make_active(instance_id)
    shown = _show(api, instance_id)
    assert (shown["status"], shown["operating_status"]) == ("ACTIVE", "HEALTHY")
    _action(api, instance_id, {"restart": {}})
    shown = _show(api, instance_id)
    assert (shown["status"], shown["operating_status"]) == ("REBOOT", "")
    api.make_active(instance_id)
    api.set_instance(instance_id, server_status=states.ServerStatus.SHUTOFF)
    assert _show(api, instance_id)["operating_status"] == ""
    api.request("DELETE", f"/instances/{instance_id}", status=202)
    assert _show(api, instance_id)["status"] == "SHUTDOWN"
    api.set_instance(instance_id, is_deleted=True)
    api.request("GET", f"/instances/{instance_id}", status=404)


def test_16_administrators_act_on_every_instance_by_their_own_url(api: api_fixture.Api) -> None:
    instance_id = api.create_instance(active=True)
    assert _show(api, instance_id, **_ADMIN)["tenant_id"] == "project-a"
    _action(api, instance_id, {"reset_status": {}}, 403)
    _action(api, instance_id, {"reset_status": {}}, **_ADMIN)
    api.request("GET", "/mgmt/instances", status=403)
    other = api.create_instance(project="project-b")
    gone = api.create_instance()
    api.set_instance(gone, is_deleted=True)

    def ids(query: str) -> set[str]:
        listed = api.get(f"/mgmt/instances?{query}", **_ADMIN)["instances"]
        return {each["id"] for each in listed}

    assert ids("") == ids("include_clustered=true") == {instance_id, other}
    assert ids("project_id=project-b") == {other}
    assert gone in ids("deleted=true")


def test_17_without_clusters_there_is_a_list_of_none(api: api_fixture.Api) -> None:
    assert api.get("/clusters") == {"clusters": []}
    api.request("GET", "/clusters/x", status=404)


def test_18_replicas_and_their_source_name_each_other_and_no_longer_than_they_are(
    api: api_fixture.Api,
) -> None:
    source, replica = api.create_instance(active=True), api.create_instance(active=True)
    api.set_instance(replica, replica_of_id=source)
    assert _show(api, replica)["replica_of"]["id"] == source
    assert [each["id"] for each in _show(api, source)["replicas"]] == [replica]
    api.set_instance(replica, replica_of_id=None)
    assert "replica_of" not in _show(api, replica)
    assert "replicas" not in _show(api, source)


def test_19_published_logs_say_where_they_are_and_how_many_lines_they_have(
    api: api_fixture.Api, store: FilesystemStore
) -> None:
    instance_id = api.create_instance(active=True)
    api.guest.engine(instance_id).logs.find("general").pending.append("SELECT 1\n")
    path = f"/instances/{instance_id}/log"
    api.request("POST", path, {"name": "general", "enable": 1}, status=200)
    log = api.request("POST", path, {"name": "general", "publish": 1}, status=200).json["log"]
    assert log["container"] == "database_logs"
    assert log["prefix"].startswith(f"{instance_id}/")
    assert log["metafile"].endswith("general_metafile")
    account: storage.Account = store.account("project-a")
    (part,) = account.list("database_logs")
    # the object store makes x-object-meta-lines of it
    assert part.metadata["lines"] == "1"


def test_20_tls_says_its_mode_and_whether_a_restart_is_needed(api: api_fixture.Api) -> None:
    tenant = TenantAuthority()
    begins = tenant.certificate.not_valid_before_utc + datetime.timedelta(days=1)
    api.clock.advance(max(0.0, (begins - api.clock.now()).total_seconds()))
    instance_id = api.create_instance(active=True)
    path = f"/instances/{instance_id}/ssl"
    assert {"status", "mode"} <= api.get(path)["ssl"].keys()
    kept = api.secrets.store.create("project-a", NewSecret(payload=tenant.bundle()))
    reference = f"http://keys/key-manager/v1/secrets/{kept.id}"
    body = {"ssl": {"enable": True, "container_ref": reference}}
    answer = api.request("POST", path, body, status=200).json["ssl"]
    assert answer.keys() == {"restart_required", "status", "mode"}


def test_21_quotas_have_the_four_resources_and_excess_is_a_413(api: api_fixture.Api) -> None:
    quotas = api.get("/mgmt/quotas/project-a")["quotas"]
    assert {each["resource"] for each in quotas} == {"instances", "ram", "volumes", "backups"}
    body = {"quotas": {"instances": 1}}
    answer = api.request("PUT", "/mgmt/quotas/project-a", body, status=200, roles="admin")
    assert answer.json["quotas"]["instances"] == 1
    api.create_instance()
    wanted = {"instance": {"name": "db", "flavorRef": "1", "volume": {"size": 1}}}
    fault = api.request("POST", "/instances", wanted, status=413).json["overLimit"]
    assert fault["error_code"] == exception.QuotaExceeded.code


def test_22_versions_are_taken_by_name_and_by_id(api: api_fixture.Api) -> None:
    ids = api.add_datastore("other", versions=("10.6", "10.11"))
    datastore = api.get("/datastores/other")["datastore"]
    assert datastore["default_version"] == ids[-1]
    assert {version["id"] for version in datastore["versions"]} == set(ids)
    for named in (ids[-1], "10.11"):
        for tail in ("", "/flavors", "/volume-types", "/parameters"):
            api.get(f"/datastores/other/versions/{named}{tail}")
        api.create_instance(instance={"datastore": {"type": "other", "version": named}})
    with api.database.writer() as session:
        session.get_one(models.DatastoreVersion, ids[-1]).active = False
    datastore = api.get("/datastores/other")["datastore"]
    assert [version["id"] for version in datastore["versions"]] == ids[:1]
    assert "default_version" not in datastore
