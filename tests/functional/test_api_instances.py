"""Instances over REST: create, show, list, restart, delete."""

from __future__ import annotations

import datetime
import json
import uuid
from typing import Any

import pytest
import sqlalchemy as sa

from tests.fixtures import api as api_fixture
from trove import states
from trove.db import base, models, operations, quotas


@pytest.fixture
def api(sqlite_database: base.Database) -> api_fixture.Api:
    made = api_fixture.make_api(sqlite_database)
    made.add_datastore()
    return made


def _body(**values: Any) -> dict[str, Any]:
    instance = {"name": "db", "flavorRef": "1", "volume": {"size": 1}}
    return {"instance": instance | values}


def _usage(api: api_fixture.Api) -> dict[str, int]:
    with api.database.reader() as session:
        return quotas.get_usage(session, api_fixture.PROJECT)


def test_create_stores_instance_operation_and_quota_and_hints_once(api: api_fixture.Api) -> None:
    answer = api.request(
        "POST",
        "/instances",
        _body(
            flavorRef="http://nova/v2/flavors/2",
            volume={"size": "3", "type": None},
            databases=[{"name": "shop", "character_set": "utf8mb4"}],
            users=[{"name": "joe", "password": "s3cret!", "databases": [{"name": "shop"}]}],
            datastore={"type": "mariadb", "version": ""},
            nics=[{"net-id": str(uuid.uuid4())}],
            access={"is_public": False, "allowed_cidrs": ["10.0.0.0/8", "fd00::/8"]},
        ),
        status=200,
    ).json["instance"]
    assert answer["status"] == "BUILD"
    assert answer["operating_status"] == ""
    assert answer["flavor"]["id"] == "2"
    assert answer["volume"] == {"size": 3}
    assert answer["access"] == {"is_public": False, "allowed_cidrs": ["10.0.0.0/8", "fd00::/8"]}
    assert answer["datastore"]["version_number"] == "10.11"
    assert "s3cret" not in json.dumps(answer)
    with api.database.reader() as session:
        (operation,) = operations.list_operations(session, resource_id=answer["id"])
        row = session.get(models.Instance, answer["id"])
    assert api.taskmanager.hints == [operation.id]
    assert operation.kind == operations.CREATE_INSTANCE
    assert operation.data["databases"][0]["name"] == "shop"
    assert "s3cret" not in json.dumps(operation.data)
    secret = api.key_ring.unwrap(operation.secret_wrapped, purpose=f"operation:{operation.id}")
    assert json.loads(secret)["users"][0]["password"] == "s3cret!"
    key = api.key_ring.unwrap(row.key_wrapped, purpose=f"instance-key:{answer['id']}")
    assert len(key) == 32
    assert _usage(api) == {"instances": 1, "ram": 512, "volumes": 3, "backups": 0}


@pytest.mark.parametrize("flavor", ["1", 1, {"id": "1"}, {"id": 1}])
def test_create_takes_the_flavor_as_openstacksdk_sends_it(
    api: api_fixture.Api, flavor: object
) -> None:
    body = _body(flavor=flavor)
    del body["instance"]["flavorRef"]
    answer = api.request("POST", "/instances", body, status=200).json
    assert answer["instance"]["flavor"]["id"] == "1"


@pytest.mark.parametrize(
    ("values", "status", "said"),
    [
        ({"flavorRef": "9"}, 400, "Flavor 9 cannot be found"),
        ({"flavorRef": None}, 400, "flavorRef"),
        ({"volume": None}, 400, "Volume size was not specified"),
        ({"volume": {"size": 0}}, 400, "instance.volume.size must be at least 1"),
        ({"volume": {"size": -1}}, 400, "instance.volume.size"),
        ({"volume": {"size": 1.0}}, 400, "instance.volume.size"),
        ({"volume": {"size": True}}, 400, "instance.volume.size"),
        ({"volume": {"size": "1; DROP"}}, 400, "instance.volume.size"),
        ({"volume": {"size": 11}}, 413, "11 GiB was asked for, the largest accepted is 10"),
        ({"volume": {"size": 10**30}}, 413, "largest accepted is 10"),
        ({"volume": {"size": "9" * 40}}, 413, "largest accepted is 10"),
        ({"datastore": {"type": "oracle"}}, 404, "oracle"),
        ({"datastore": {"type": "mariadb", "version": "9"}}, 400, "'9'"),
        ({"datastore": {"version": "' OR 1=1"}}, 400, "cannot be used"),
        ({"name": "x" * 300}, 400, "instance.name must have at most 255"),
        ({"name": ""}, 400, "instance.name"),
        ({"name": "..//--"}, 400, "instance.name"),
        ({"name": "a\0b"}, 400, "control characters"),
        ({"name": "a\nb"}, 400, "control characters"),
        ({"name": 7}, 400, "instance.name is not of type string"),
        ({"name": ["x"]}, 400, "instance.name is not of type string"),
        ({"nics": [{"port-id": str(uuid.uuid4())}]}, 400, "unknown keys 'port-id'"),
        ({"nics": [{}]}, 400, "network or subnet"),
        ({"nics": [{"net-id": str(uuid.uuid4()), "v4-fixed-ip": "10.0.0.300"}]}, 400, "nics.0"),
        ({"access": {"allowed_cidrs": ["999.1.1.1/8"]}}, 400, "access.allowed_cidrs.0"),
        ({"access": {"is_public": 1}}, 400, "access.is_public"),
        ({"region_name": "Elsewhere"}, 400, "no region Elsewhere"),
        ({"replica_count": 2}, 400, "replica_of"),
        ({"restorePoint": {"backupRef": str(uuid.uuid4())}}, 404, "Backup"),
        ({"restorePoint": {"backupRef": "x"}}, 400, "restorePoint.backupRef must be a UUID"),
        ({"restorePoint": {}}, 400, "backupRef is missing"),
        ({"replica_of": str(uuid.uuid4())}, 404, "Instance"),
        ({"replica_of": 7}, 400, "instance.replica_of"),
        ({"configuration": str(uuid.uuid4())}, 404, "Configuration group"),
        ({"configuration": f"http://x/configurations/{uuid.uuid4()}"}, 404, "group"),
        ({"configuration": "mine"}, 400, "instance.configuration must be the id"),
        ({"configuration": {}}, 400, "instance.configuration"),
        ({"tags": ["a", "a"]}, 400, "instance.tags has the same item twice"),
        ({"tags": ["a,b"]}, 400, "instance.tags.0 must be 1 to 60"),
        ({"tags": ["a/b"]}, 400, "instance.tags.0"),
        ({"tags": ["a\n"]}, 400, "instance.tags.0"),
        ({"tags": [""]}, 400, "instance.tags.0"),
        ({"tags": ["t" * 61]}, 400, "instance.tags.0"),
        ({"tags": [f"t{n}" for n in range(65)]}, 400, "instance.tags must have at most 64"),
        ({"tags": "a"}, 400, "instance.tags is not of type array"),
        ({"deletion_protected": 1}, 400, "instance.deletion_protected"),
        ({"locality": "apart"}, 400, "instance.locality must be one of affinity"),
        ({"databases": [{"name": "mysql"}]}, 400, "reserved"),
        ({"databases": [{"name": "../../etc"}]}, 400, "database"),
        ({"databases": [{"name": "a\0"}]}, 400, "databases.0.name"),
        ({"databases": [{"name": "d" * 65}]}, 400, "database"),
        ({"databases": [{"name": "a"}, {"name": "a"}]}, 400, "named twice"),
        ({"databases": [{"name": "a", "character_set": "klingon"}]}, 400, "character set"),
        ({"databases": {"name": "a"}}, 400, "instance.databases is not of type array"),
        ({"users": [{"name": "root", "password": "x"}]}, 400, "reserved"),
        ({"users": [{"name": "OS_ADMIN", "password": "x"}]}, 400, "reserved"),
        ({"users": [{"name": "u"}]}, 400, "users.0: password is missing"),
        ({"users": [{"name": "u" * 81, "password": "x"}]}, 400, "user"),
        ({"users": [{"name": "u", "password": "x", "host": "a b"}]}, 400, "users.0.host"),
        (
            {"users": [{"name": "u", "password": "x", "databases": [{"name": "other"}]}]},
            400,
            '"other", which is not in databases',
        ),
        (
            {"users": [{"name": "u", "password": "x"}, {"name": "u", "password": "y"}]},
            400,
            "named twice",
        ),
    ],
)
def test_a_bad_create_is_refused_with_the_reason_and_leaves_nothing(
    api: api_fixture.Api, values: dict[str, Any], status: int, said: str
) -> None:
    response = api.request("POST", "/instances", _body(**values), status=status)
    ((_, fault),) = response.json.items()
    assert said in fault["message"]
    assert api.get("/instances") == {"instances": []}
    assert _usage(api)["instances"] == 0
    assert api.taskmanager.hints == []


def test_what_a_create_says_is_shown_at_once_and_what_it_does_not_is_absent(
    api: api_fixture.Api,
) -> None:
    subnet = str(uuid.uuid4())
    body = _body(
        tags=["env=prod", "shop"],
        deletion_protected=True,
        locality="soft-anti-affinity",
        availability_zone="nova",
        region_name="RegionOne",
        replica_count=1,
        replica_of=None,
        configuration=None,
        restorePoint=None,
        modules=[],
        nics=[{"subnet_id": subnet, "v4-fixed-ip": "10.0.0.7"}],
    )
    created = api.request("POST", "/instances", body, status=200).json["instance"]
    shown = api.get(f"/instances/{created['id']}")["instance"]
    for view in (created, shown):
        assert view["tags"] == ["env=prod", "shop"]
        assert view["deletion_protected"] is True
        assert view["locality"] == "soft-anti-affinity"
        assert view["access"] == {}
        absent = {"configuration", "fault", "replica_of", "replicas", "ip", "addresses"}
        absent |= {"hostname", "password", "local_storage", "server_id", "tenant_id"}
        assert not absent & set(view)
    assert "used" not in shown["volume"]
    with api.database.reader() as session:
        (operation,) = operations.list_operations(session, resource_id=created["id"])
    assert operation.data["nic"] == {"subnet_id": subnet, "ip_address": "10.0.0.7"}
    plain = api.get(f"/instances/{api.create_instance()}")["instance"]
    assert (plain["tags"], plain["deletion_protected"]) == ([], False)
    assert "locality" not in plain


def test_what_has_no_volume_shows_what_its_server_uses(api: api_fixture.Api) -> None:
    instance_id = api.create_instance(active=True)
    api.set_instance(instance_id, volume_size_gib=None)
    shown = api.get(f"/instances/{instance_id}")["instance"]
    assert "volume" not in shown
    assert shown["local_storage"] == {"used": 0.5}


def test_a_create_takes_a_group_of_its_version_and_project(api: api_fixture.Api) -> None:
    group = {"configuration": {"name": "mine", "values": {"wait_timeout": 60}}}
    made = api.request("POST", "/configurations", group, status=200).json["configuration"]
    for reference in (made["id"], f"http://trove/v1.0/p/configurations/{made['id']}"):
        created = api.create_instance(instance={"configuration": reference})
        shown = api.get(f"/instances/{created}")["instance"]["configuration"]
        assert (shown["id"], shown["name"]) == (made["id"], "mine")
    body = _body(configuration=made["id"])
    api.request("POST", "/instances", body, status=404, project="project-b")
    api.request("DELETE", f"/configurations/{made['id']}", status=400)
    api.add_datastore("other", versions=("1",))
    body = _body(configuration=made["id"], datastore={"type": "other"})
    assert "not for that" in api.request("POST", "/instances", body, status=400).text


def test_replicas_are_refused_for_the_first_reason_there_is(api: api_fixture.Api) -> None:
    source, replica = api.create_instance(active=True), api.create_instance(active=True)
    api.set_instance(replica, replica_of_id=source)
    foreign = api.create_instance(project="project-b")
    address = {"subnet_id": str(uuid.uuid4()), "ip_address": "10.0.0.1"}
    for values, status, said in (
        ({"replica_of": source}, 400, "replication is not supported for datastore mariadb"),
        ({"replica_of": source.upper(), "replica_count": 3}, 400, "replication is not supported"),
        ({"replica_of": source, "replica_count": 4}, 400, "replica_count must be at most 3"),
        ({"replica_of": replica}, 400, "is a replica"),
        ({"replica_of": foreign}, 404, "cannot be found"),
        ({"replica_of": source, "flavorRef": 1}, 400, "Cannot specify flavor when creating"),
        ({"replica_of": source, "volume": {"size": 1}}, 400, "Cannot specify volume"),
        ({"replica_of": source, "datastore": {"type": "x"}}, 400, "Cannot specify datastore"),
        ({"replica_of": source, "locality": "affinity"}, 400, "Cannot specify locality"),
        ({"replica_of": source, "nics": [address]}, 400, "Cannot specify IP address"),
        ({"replica_of": source, "databases": [{"name": "a"}]}, 400, "users or databases"),
    ):
        body = {"instance": {"name": "r", **values}}
        assert said in api.request("POST", "/instances", body, status=status).text


def test_a_flavor_too_small_for_the_datastore_is_refused(api: api_fixture.Api) -> None:
    api.conf.set_override("flavors", ["1:small:128:1"], "local")
    answer = api.request("POST", "/instances", _body(), status=400)
    assert "needs at least 256" in answer.json["badRequest"]["message"]


def test_versions_must_be_active_and_unambiguous(api: api_fixture.Api) -> None:
    first, second = api.add_datastore("mysql", versions=("8.0", "8.4"), default=False)
    api.request("POST", "/instances", _body(), status=400)
    api.request("POST", "/instances", _body(datastore={"type": "mysql"}), status=400)
    with api.database.writer() as session:
        version = session.get(models.DatastoreVersion, second)
        version.name = "8.0"
    answer = api.request(
        "POST", "/instances", _body(datastore={"type": "mysql", "version": "8.0"}), status=400
    )
    assert "Multiple datastore versions found" in answer.text
    with api.database.writer() as session:
        session.get(models.DatastoreVersion, first).active = False
    choice = {"type": "mysql", "version": "8.0", "version_number": "8.0"}
    answer = api.request("POST", "/instances", _body(datastore=choice), status=400)
    assert "not active" in answer.text


def test_quota_is_exact_and_names_what_is_short(api: api_fixture.Api) -> None:
    api.conf.set_override("max_instances_per_tenant", 2, "quota")
    api.conf.set_override("max_volumes_per_tenant", 5, "quota")
    api.create_instance(instance={"volume": {"size": 4}})
    answer = api.request("POST", "/instances", _body(volume={"size": 2}), status=413)
    assert answer.json["overLimit"]["message"] == "Quota exceeded for resources: ['volumes']."
    assert _usage(api) == {"instances": 1, "ram": 256, "volumes": 4, "backups": 0}
    api.create_instance()
    api.request("POST", "/instances", _body(), status=413)
    api.request("POST", "/instances", _body(), status=200, project="project-b")


def test_the_list_has_own_live_instances_in_pages_that_end(api: api_fixture.Api) -> None:
    ids = set()
    for number in range(5):
        api.clock.advance(1)
        ids.add(api.create_instance(instance={"name": f"db{number}"}))
    other = api.create_instance(project="project-b")
    path, pages = "/instances?limit=2&include_clustered=False&no_parameter=1", []
    while path:
        page = api.get(path)
        pages.append([item["id"] for item in page["instances"]])
        created = [item["name"] for item in page["instances"]]
        assert created == sorted(created, reverse=True)
        assert page.get("links") == page.get("instances_links")
        path = page["links"][0]["href"].partition("project-a")[2] if "links" in page else ""
        assert not path or ("include_clustered=False" in path and "no_parameter=1" in path)
    assert [len(page) for page in pages] == [2, 2, 1]
    assert {each for page in pages for each in page} == ids
    assert other not in {item["id"] for item in api.get("/instances", roles="admin")["instances"]}
    last = max(ids)
    assert api.get(f"/instances?limit=2&marker={last}") == {"instances": []}
    assert api.get("/instances?limit=0") == {"instances": []}
    assert len(api.get("/instances/detail?marker=not-an-id&limit=100")["instances"]) <= 5


@pytest.mark.parametrize("limit", ["abc", "-1", "1.5", "1e3", "٣", "0x10"])
def test_a_limit_that_is_no_number_is_refused(api: api_fixture.Api, limit: str) -> None:
    api.request("GET", f"/instances?limit={limit}".encode().decode("latin-1"), status=400)


def test_an_active_instance_is_shown_with_addresses_and_disk(api: api_fixture.Api) -> None:
    instance_id = api.create_instance(active=True)
    shown = api.get(f"/instances/{instance_id}")["instance"]
    assert shown["status"] == "ACTIVE"
    assert shown["operating_status"] == "HEALTHY"
    assert shown["ip"] == ["127.64.0.9"]
    assert shown["addresses"] == [{"address": "127.64.0.9", "type": "private", "network": "local"}]
    assert shown["access"] == {"is_public": False}
    assert shown["volume"] == {"size": 1, "used": 0.5, "used_percent": 50.0}
    assert not {"server_id", "tenant_id", "fault", "replicas", "replica_of"} & set(shown)
    api.clock.advance(100)
    assert api.get(f"/instances/{instance_id}")["instance"]["operating_status"] == "ERROR"


def test_administrators_see_foreign_instances_and_the_inside_of_faults(
    api: api_fixture.Api,
) -> None:
    instance_id = api.create_instance()
    api.set_instance(
        instance_id,
        task=states.TaskStatus.BUILDING_ERROR_PORT,
        fault_message="No free address is left.",
        fault_details="pool 127.64.0.0/30",
        fault_created=api.clock.now(),
    )
    seen = api.get(f"/instances/{instance_id}", project="ops", roles="admin")["instance"]
    assert seen["status"] == "ERROR"
    assert seen["tenant_id"] == "project-a"
    assert seen["fault"]["details"] == "pool 127.64.0.0/30"
    own = api.get(f"/instances/{instance_id}")["instance"]
    assert own["fault"] == {
        "message": "No free address is left.",
        "created": "2026-05-01T12:00:00",
        "details": None,
    }


def test_what_the_agent_says_of_an_engine_that_is_down_is_its_fault(api: api_fixture.Api) -> None:
    instance_id = api.create_instance(active=True)
    said = "port 3306 is taken by another program: stop it"
    api.set_heartbeat(instance_id, message=said)
    assert "fault" not in api.get(f"/instances/{instance_id}")["instance"]
    api.set_heartbeat(instance_id, service_status=states.ServiceStatus.CRASHED)
    assert api.get(f"/instances/{instance_id}")["instance"]["fault"]["message"] == said
    refused = api.request("GET", f"/instances/{instance_id}/users", status=422)
    assert said in refused.text
    recorded = {"fault_message": "worse", "fault_created": api.clock.now()}
    api.set_instance(instance_id, **recorded)
    assert api.get(f"/instances/{instance_id}")["instance"]["fault"]["message"] == "worse"


def test_replicas_and_their_source_name_each_other(api: api_fixture.Api) -> None:
    source, replica = api.create_instance(), api.create_instance()
    api.set_instance(replica, replica_of_id=source)
    views = {item["id"]: item for item in api.get("/instances")["instances"]}
    assert [each["id"] for each in views[source]["replicas"]] == [replica]
    assert views[replica]["replica_of"]["id"] == source
    api.request("DELETE", f"/instances/{source}", status=403)


def test_delete_is_accepted_in_every_state_and_again(api: api_fixture.Api) -> None:
    api.conf.set_override("max_instances_per_tenant", -1, "quota")
    api.conf.set_override("max_volumes_per_tenant", -1, "quota")
    cases = [(task, states.ServerStatus.ACTIVE) for task in states.TaskStatus]
    cases += [(states.TaskStatus.NONE, server) for server in states.ServerStatus]
    deleted = []
    for task, server in cases:
        instance_id = api.create_instance()
        api.set_instance(instance_id, task=task, server_status=server)
        api.request("DELETE", f"/instances/{instance_id}", status=202)
        api.request("DELETE", f"/instances/{instance_id}", status=202)
        assert api.get(f"/instances/{instance_id}")["instance"]["status"] == "SHUTDOWN"
        deleted.append(instance_id)
    with api.database.reader() as session:
        deletions = operations.list_operations(session, kind=operations.DELETE_INSTANCE)
    assert sorted(deletion.resource_id for deletion in deletions) == sorted(deleted)
    assert {deletion.id for deletion in deletions} <= set(api.taskmanager.hints)


def test_a_deleted_instance_is_gone(api: api_fixture.Api) -> None:
    instance_id = api.create_instance()
    api.set_instance(instance_id, is_deleted=True)
    for method in ("GET", "DELETE"):
        api.request(method, f"/instances/{instance_id}", status=404)
    assert api.get("/instances") == {"instances": []}


@pytest.mark.parametrize("instance_id", ["x", "../etc", "' OR 1=1 --", "%00", "é"])
def test_ids_that_are_none_are_not_found(api: api_fixture.Api, instance_id: str) -> None:
    headers = {"X-Project-Id": "project-a", "X-Roles": "member"}
    path = f"/v1.0/project-a/instances/{instance_id}".encode().decode("latin-1")
    response = api.raw("GET", "/", headers=headers, PATH_INFO=path)
    assert response.status_int == 404


@pytest.mark.parametrize("arguments", [{}, None])
def test_restart_shows_at_once_and_needs_a_ready_instance(
    api: api_fixture.Api, arguments: object
) -> None:
    instance_id = api.create_instance()
    path = f"/instances/{instance_id}/action"
    refused = api.request("POST", path, {"restart": arguments}, status=422)
    assert "BUILD" in refused.json["unprocessableEntity"]["message"]
    api.make_active(instance_id)
    api.request("POST", path, {"restart": arguments}, status=202)
    shown = api.get(f"/instances/{instance_id}")["instance"]
    assert (shown["status"], shown["operating_status"]) == ("REBOOT", "")
    api.request("POST", path, {"restart": arguments}, status=422)
    with api.database.reader() as session:
        (operation,) = operations.list_operations(session, kind=operations.RESTART_INSTANCE)
    assert operation.deadline - operation.created == datetime.timedelta(seconds=300)
    assert operation.request_id


def test_reads_cost_at_most_four_statements_and_ask_no_guest(api: api_fixture.Api) -> None:
    ids = [api.create_instance(active=True) for _ in range(4)]
    api.set_instance(ids[1], replica_of_id=ids[0])
    statements: list[str] = []
    with api.database.reader() as session:
        engine = session.get_bind()
    sa.event.listen(engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    for path in ("/instances", "/instances/detail", f"/instances/{ids[0]}"):
        statements.clear()
        api.get(path)
        assert 1 <= len(statements) <= 4
    assert api.guest.calls == []
