"""Configuration groups over HTTP: made, read, changed, attached, and their parameters."""

from __future__ import annotations

import json
from typing import Any

import pytest
import sqlalchemy as sa

from tests.fixtures import api as api_fixture
from trove import states
from trove.datastores import parameters
from trove.db import base, models, operations

Task = states.TaskStatus


@pytest.fixture
def api(sqlite_database: base.Database) -> api_fixture.Api:
    made = api_fixture.make_api(sqlite_database)
    made.add_datastore()
    return made


def make_group(
    api: api_fixture.Api, values: dict[str, Any] | None = None, **options: Any
) -> dict[str, Any]:
    content = {"name": "group", "values": values or {}, **options.pop("content", {})}
    body = {"configuration": content}
    answer = api.request("POST", "/configurations", body, **{"status": 200, **options}).json
    found: dict[str, Any] = answer.get("configuration", answer)
    return found


def attach(
    api: api_fixture.Api, instance_id: str, group: Any, *, status: int = 202, **options: Any
) -> Any:
    body = {"instance": {"configuration": group}}
    return api.request("PUT", f"/instances/{instance_id}", body, status=status, **options)


def configured(api: api_fixture.Api, instance_id: str, group_id: str | None, values: Any) -> None:
    """Let an instance run on a group, as after an operation that succeeded."""
    api.make_active(instance_id)
    api.set_instance(
        instance_id, configuration_id=group_id, configuration_digest=parameters.digest(values)
    )


def row(api: api_fixture.Api, instance_id: str) -> models.Instance:
    with api.database.reader() as session:
        found = session.get(models.Instance, instance_id)
    assert found is not None
    return found


def begun(api: api_fixture.Api, instance_id: str) -> list[operations.Operation]:
    with api.database.reader() as session:
        found = operations.list_operations(
            session, resource_id=instance_id, kind=operations.CONFIGURE_INSTANCE
        )
    return list(found)


# -- groups -----


def test_a_group_is_made_shown_and_listed(api: api_fixture.Api) -> None:
    values = {"max_connections": 200, "long_query_time": 1.5, "event_scheduler": "ON"}
    made = make_group(api, values, content={"description": "for tests"})
    assert made["values"] == values
    assert made["instance_count"] == 0
    assert made["description"] == "for tests"
    assert made["datastore_name"] == "mariadb"
    assert made["datastore_version_number"] == "10.11"
    assert api.get(f"/configurations/{made['id']}")["configuration"] == made
    (item,) = api.get("/configurations")["configurations"]
    assert item == {k: v for k, v in made.items() if k not in ("values", "instance_count")}


def test_a_group_can_begin_empty_and_name_its_version_in_many_ways(api: api_fixture.Api) -> None:
    (other,) = api.add_datastore("other", versions=("1",), active=False, default=False)
    for datastore in (
        {"type": "other", "version": "1"},
        {"type": "other", "version": other},
        {"version": other},
        {"type": "other", "version": "1", "version_number": "1"},
    ):
        made = make_group(api, content={"datastore": datastore})
        assert made["datastore_version_id"] == other
    assert make_group(api, content={"datastore": {"type": "", "version": ""}})["values"] == {}
    make_group(api, content={"datastore": {"type": "none"}}, status=404)
    make_group(api, content={"datastore": {"type": "mariadb", "version": "9"}}, status=400)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"nonsense": 1}, "nonsense is not a configuration parameter"),
        ({"max_connections": True}, "max_connections must be an integer"),
        ({"max_connections": "10"}, "max_connections must be an integer"),
        ({"max_connections": 1.5}, "max_connections must be an integer"),
        ({"max_connections": 9}, "max_connections must be at least 10"),
        ({"max_connections": 100001}, "max_connections must be at most 100000"),
        ({"max_connections": 10**30}, "max_connections must be at most 100000"),
        ({"max_connections": None}, "max_connections must be an integer"),
        ({"max_connections": [1]}, "max_connections must be an integer"),
        ({"long_query_time": 1}, "long_query_time must be a float"),
        ({"low_priority_updates": 1}, "low_priority_updates must be a boolean"),
        ({"event_scheduler": "maybe"}, "event_scheduler must be one of"),
        ({"sql_mode": "ANSI_QUOTES,NONSENSE"}, "sql_mode must be a list"),
        ({"character_set_server": 'latin1"\nport=1'}, "character_set_server must be made of"),
        ({"wait_timeout": 60, "Wait-Timeout": 61}, "is the same parameter as"),
        ({"datadir": "/"}, "datadir is not a configuration parameter"),
        ({"port": 1}, "port is not a configuration parameter"),
    ],
)
def test_values_are_refused_by_the_name_of_their_parameter(
    api: api_fixture.Api, values: dict[str, Any], words: str
) -> None:
    fault = make_group(api, values, status=422)["unprocessableEntity"]
    assert words in fault["message"]
    group = make_group(api, {"wait_timeout": 100})
    body = {"configuration": {"values": values}}
    for method in ("PUT", "PATCH"):
        answer = api.request(method, f"/configurations/{group['id']}", body, status=422)
        assert words in answer.json["unprocessableEntity"]["message"]
    assert api.get(f"/configurations/{group['id']}")["configuration"]["values"] == {
        "wait_timeout": 100
    }


def test_names_of_parameters_have_no_case_and_are_kept_as_given(api: api_fixture.Api) -> None:
    group = make_group(api, {"Max_Connections": 50})
    assert group["values"] == {"Max_Connections": 50}
    body = {"configuration": {"values": {"MAX_CONNECTIONS": 60}}}
    api.request("PATCH", f"/configurations/{group['id']}", body, status=200)
    shown = api.get(f"/configurations/{group['id']}")["configuration"]
    assert shown["values"] == {"MAX_CONNECTIONS": 60}


def test_put_replaces_values_and_keeps_what_is_not_named(api: api_fixture.Api) -> None:
    group = make_group(api, {"wait_timeout": 100}, content={"description": "old"})
    path = f"/configurations/{group['id']}"

    def put(content: dict[str, Any]) -> dict[str, Any]:
        answer = api.request("PUT", path, {"configuration": content}, status=202)
        assert answer.body == b""
        shown: dict[str, Any] = api.get(path)["configuration"]
        return shown

    shown = put({"values": {"max_connections": 20}})
    assert shown["values"] == {"max_connections": 20}
    assert (shown["name"], shown["description"]) == ("group", "old")
    shown = put({"name": "new", "description": "new"})
    assert (shown["name"], shown["description"]) == ("new", "new")
    assert shown["values"] == {"max_connections": 20}
    assert put({"values": {}})["values"] == {}


def test_patch_merges_values_and_answers_200_without_a_body(api: api_fixture.Api) -> None:
    group = make_group(api, {"wait_timeout": 100})
    path = f"/configurations/{group['id']}"
    body = {"configuration": {"values": {"max_connections": 20}, "name": "ignored"}}
    answer = api.request("PATCH", path, body, status=200)
    assert answer.body == b""
    shown = api.get(path)["configuration"]
    assert shown["values"] == {"wait_timeout": 100, "max_connections": 20}
    assert shown["name"] == "group"
    api.request("PATCH", path, {"configuration": {}}, status=200)
    assert api.get(path)["configuration"]["values"] == shown["values"]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"configuration": None},
        {"configuration": {"values": {}}},
        {"configuration": {"name": "x"}},
        {"configuration": {"name": "", "values": {}}},
        {"configuration": {"name": "x", "values": []}},
        {"configuration": {"name": "x", "values": {"": 1}}},
        {"configuration": {"name": "x", "values": {"a" * 129: 1}}},
        {"configuration": {"name": "x", "values": {}, "description": 1}},
        {"configuration": {"name": "x", "values": {}, "datastore": "mariadb"}},
    ],
)
def test_bodies_that_fit_no_schema_are_refused(api: api_fixture.Api, body: Any) -> None:
    api.request("POST", "/configurations", body, status=400)


def test_a_datastore_without_parameters_has_no_groups_with_values(api: api_fixture.Api) -> None:
    (version,) = api.add_datastore("odd", versions=("1",), default=False)
    with api.database.writer() as session:
        for name in parameters.load("mariadb"):
            session.add(
                models.ConfigurationParameter(
                    datastore_version_id=version, name=name, data_type="string", is_deleted=True
                )
            )
    content = {"datastore": {"type": "odd"}}
    fault = make_group(api, {"wait_timeout": 1}, content=content, status=422)
    assert "not supported for this datastore: odd 1" in fault["unprocessableEntity"]["message"]
    group = make_group(api, content=content)
    for method in ("PUT", "PATCH"):
        body: Any = {"configuration": {"values": {}}}
        api.request(method, f"/configurations/{group['id']}", body, status=422)
    assert api.get(f"/datastores/versions/{version}/parameters") == {"configuration-parameters": []}


def test_groups_of_other_projects_do_not_exist_but_for_administrators(
    api: api_fixture.Api,
) -> None:
    group = make_group(api)
    path = f"/configurations/{group['id']}"
    body = {"configuration": {"values": {}}}
    for method, tail in (("GET", ""), ("PUT", ""), ("PATCH", ""), ("DELETE", "")):
        sent = body if method in ("PUT", "PATCH") else None
        answer = api.request(method, path + tail, sent, project="project-b", status=404)
        assert group["id"] in answer.json["itemNotFound"]["message"]
    api.request("GET", f"{path}/instances", project="project-b", status=404)
    assert api.get("/configurations", project="project-b")["configurations"] == []
    foreign = {"project": "project-b", "roles": "admin"}
    assert api.get(path, **foreign)["configuration"]["id"] == group["id"]
    (seen,) = api.get("/configurations", **foreign)["configurations"]
    assert seen["id"] == group["id"]
    api.request("DELETE", path, status=202, **foreign)
    api.request("GET", path, status=404)
    api.request("GET", "/configurations/none", status=404)


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_groups_come_in_pages(api: api_fixture.Api, count: int) -> None:
    ids = sorted(make_group(api)["id"] for _ in range(count))
    page = api.get("/configurations?limit=2")
    assert [each["id"] for each in page["configurations"]] == ids[:2]
    assert ("links" in page) == (count > 2)
    if "links" in page:
        (link,) = page["links"]
        assert f"marker={ids[1]}" in link["href"]
        rest = api.get(f"/configurations?limit=2&marker={ids[1]}")
        assert [each["id"] for each in rest["configurations"]] == ids[2:]
        assert "links" not in rest
    assert api.get("/configurations?limit=0")["configurations"] == []
    api.request("GET", "/configurations?limit=x", status=400)


# -- attached -----


def test_attach_begins_an_operation_and_the_instance_shows_its_group(
    api: api_fixture.Api,
) -> None:
    instance_id = api.create_instance(active=True)
    assert "configuration" not in api.get(f"/instances/{instance_id}")["instance"]
    group = make_group(api, {"wait_timeout": 100})
    assert attach(api, instance_id, group["id"]).body == b""
    shown = api.get(f"/instances/{instance_id}")["instance"]
    assert (shown["configuration"]["id"], shown["configuration"]["name"]) == (group["id"], "group")
    assert shown["configuration"]["links"][0]["href"].endswith(f"/configurations/{group['id']}")
    assert (shown["status"], shown["operating_status"]) == ("ACTIVE", "")
    (operation,) = begun(api, instance_id)
    assert operation.data == {"task": "NONE", "previous": None}
    assert api.taskmanager.hints[-1] == operation.id
    assert row(api, instance_id).task is Task.UPDATING
    assert api.get(f"/configurations/{group['id']}")["configuration"]["instance_count"] == 1
    assert api.get(f"/configurations/{group['id']}/instances")["instances"] == [
        {"id": instance_id, "name": "db"}
    ]


def test_attach_is_refused_with_a_reason(api: api_fixture.Api) -> None:
    instance_id = api.create_instance(active=True)
    building = api.create_instance()
    group = make_group(api)
    (other,) = api.add_datastore("other", versions=("1",), default=False)
    misfit = make_group(api, content={"datastore": {"version": other}})
    answer = attach(api, instance_id, misfit["id"], status=400)
    assert "is for datastore other 1" in answer.json["badRequest"]["message"]
    unknown = "00000000-0000-4000-8000-000000000000"
    attach(api, instance_id, unknown, status=404)
    attach(api, unknown, group["id"], status=404)
    attach(api, instance_id, group["id"], project="project-b", status=404)
    api.set_instance(instance_id, task=Task.RESTART_REQUIRED)
    attach(api, instance_id, group["id"], status=400)
    api.set_instance(instance_id, task=Task.NONE, server_status=states.ServerStatus.SHUTOFF)
    attach(api, instance_id, group["id"], status=400)
    attach(api, building, group["id"], status=422)
    configured(api, instance_id, group["id"], {})
    content = {"datastore": {"type": "mariadb"}}
    for again in (group["id"], make_group(api, content=content)["id"]):
        answer = attach(api, instance_id, again, status=400)
        assert "detach it first" in answer.json["badRequest"]["message"]


def test_administrators_attach_no_group_of_another_project(api: api_fixture.Api) -> None:
    instance_id = api.create_instance(active=True)
    foreign = {"project": "project-b", "roles": "admin"}
    group = make_group(api, **foreign)
    answer = attach(api, instance_id, group["id"], status=400, **foreign)
    assert "another project" in answer.json["badRequest"]["message"]
    attach(api, instance_id, make_group(api)["id"], **foreign)


@pytest.mark.parametrize("body", [{"configuration": None}, {}])
def test_detach_begins_an_operation_once(api: api_fixture.Api, body: dict[str, None]) -> None:
    instance_id = api.create_instance(active=True)
    path = f"/instances/{instance_id}"
    api.request("PUT", path, {"instance": body}, status=202)
    assert begun(api, instance_id) == []
    group = make_group(api, {"wait_timeout": 100})
    configured(api, instance_id, group["id"], group["values"])
    api.request("PUT", path, {"instance": body}, status=202)
    assert "configuration" not in api.get(path)["instance"]
    (operation,) = begun(api, instance_id)
    assert operation.data == {"task": "NONE", "previous": group["id"]}
    # it was detached already: clients who ask again are not told of the operation under way
    api.request("PUT", path, {"instance": body}, status=202)
    assert len(begun(api, instance_id)) == 1


def test_a_group_in_use_cannot_be_deleted(api: api_fixture.Api) -> None:
    instance_id = api.create_instance(active=True)
    group = make_group(api)
    path = f"/configurations/{group['id']}"
    configured(api, instance_id, group["id"], {})
    answer = api.request("DELETE", path, status=400)
    assert "detach it" in answer.json["badRequest"]["message"]
    configured(api, instance_id, None, {})
    api.request("DELETE", path, status=202)
    api.request("GET", path, status=404)
    api.request("DELETE", path, status=404)
    attach(api, instance_id, group["id"], status=404)


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
def test_new_values_are_applied_to_the_instances_that_are_ready(
    api: api_fixture.Api, method: str
) -> None:
    old = {"wait_timeout": 100}
    group = make_group(api, old)
    ready, waiting, busy, silent, apart = (api.create_instance(active=True) for _ in range(5))
    for each in (ready, waiting, busy, silent):
        configured(api, each, group["id"], old)
    api.set_instance(waiting, task=Task.RESTART_REQUIRED)
    api.set_instance(busy, task=Task.RESIZING)
    api.set_heartbeat(silent, service_status=states.ServiceStatus.PAUSED)
    body = {"configuration": {"values": {"wait_timeout": 200}}}
    status = 202 if method == "PUT" else 200
    path = f"/configurations/{group['id']}"
    api.request(method, path, body, status=status)
    tasks = [row(api, each).task for each in (ready, waiting, busy, silent, apart)]
    assert tasks == [Task.UPDATING, Task.UPDATING, Task.RESIZING, Task.NONE, Task.NONE]
    (operation,) = begun(api, waiting)
    assert operation.data == {"task": "RESTART_REQUIRED"}
    # the same once more changes nothing for those who run on it
    configured(api, ready, group["id"], {"wait_timeout": 200})
    api.request(method, path, body, status=status)
    assert row(api, ready).task is Task.NONE


def test_the_instances_of_a_group_come_in_pages(api: api_fixture.Api) -> None:
    group = make_group(api)
    path = f"/configurations/{group['id']}/instances"
    assert api.get(path) == {"instances": []}
    ids = sorted(api.create_instance(active=True) for _ in range(3))
    for each in ids:
        configured(api, each, group["id"], {})
    page = api.get(f"{path}?limit=2")
    assert [each["id"] for each in page["instances"]] == ids[:2]
    assert page["links"] == page["instances_links"]
    rest = api.get(f"{path}?limit=2&marker={ids[1]}")
    assert [each["id"] for each in rest["instances"]] == ids[2:]
    assert "links" not in rest
    assert "links" not in api.get(f"{path}?limit=3")
    assert api.get(f"{path}?limit=0") == {"instances": []}


@pytest.mark.parametrize("form", ["{}", "http://example.org/v1.0/p/configurations/{}"])
def test_an_instance_can_be_made_with_a_group(api: api_fixture.Api, form: str) -> None:
    group = make_group(api, {"wait_timeout": 100})
    instance_id = api.create_instance(instance={"configuration": form.format(group["id"])})
    shown = api.get(f"/instances/{instance_id}")["instance"]
    assert shown["configuration"]["id"] == group["id"]
    api.request("DELETE", f"/configurations/{group['id']}", status=400)


def test_an_instance_is_not_made_with_a_group_that_does_not_fit(api: api_fixture.Api) -> None:
    (other,) = api.add_datastore("other", versions=("1",), default=False)
    misfit = make_group(api, content={"datastore": {"version": other}})
    body: Any = {
        "instance": {
            "name": "x",
            "flavorRef": "1",
            "volume": {"size": 1},
            "datastore": {"type": "mariadb"},
        }
    }
    for group_id, status in (
        (misfit["id"], 400),
        ("00000000-0000-4000-8000-000000000000", 404),
        ("no id", 400),
    ):
        body["instance"]["configuration"] = group_id
        api.request("POST", "/instances", body, status=status)


def test_the_default_configuration_needs_neither_guest_nor_server(api: api_fixture.Api) -> None:
    instance_id = api.create_instance()
    values = api.get(f"/instances/{instance_id}/configuration")["instance"]["configuration"]
    assert values["max_allowed_packet"] == 64 * 2**20
    assert values["binlog_format"] == "ROW"
    assert isinstance(values["innodb_buffer_pool_size"], int)
    assert "datadir" not in json.dumps(values)
    assert api.guest.calls == []
    path = f"/instances/{instance_id}/configuration"
    api.request("GET", path, project="project-b", status=404)


# -- parameters -----


def parameter_paths(version: str) -> list[str]:
    return [
        "/datastores/mariadb/versions/10.11/parameters",
        f"/datastores/mariadb/versions/{version}/parameters",
        f"/datastores/versions/{version}/parameters",
    ]


def version_of(api: api_fixture.Api) -> str:
    version_id: str = api.get("/datastores/mariadb/versions/10.11")["version"]["id"]
    return version_id


def test_parameters_are_listed_and_shown_flat_with_their_limits(api: api_fixture.Api) -> None:
    version = version_of(api)
    for path in parameter_paths(version):
        listed = api.get(path)["configuration-parameters"]
        assert [each["name"] for each in listed] == sorted(parameters.load("mariadb"))
        assert api.get(f"{path}/max_connections") == {
            "name": "max_connections",
            "datastore_version_id": version,
            "restart_required": False,
            "type": "integer",
            "min": 10,
            "max": 100000,
        }
        assert api.get(f"{path}/auto_increment_offset")["min"] == 1
        # zero is a limit as well
        assert api.get(f"{path}/query_cache_size")["min"] == 0
        assert "min" not in api.get(f"{path}/sql_mode")
        assert api.get(f"{path}/back_log")["restart_required"] is True
        api.request("GET", f"{path}/nonsense", status=404)


def test_parameters_of_what_does_not_exist_are_not_shown(api: api_fixture.Api) -> None:
    unknown = "00000000-0000-4000-8000-000000000000"
    api.request("GET", "/datastores/none/versions/1/parameters", status=404)
    api.request("GET", "/datastores/mariadb/versions/1/parameters", status=400)
    api.request("GET", f"/datastores/versions/{unknown}/parameters", status=400)
    api.request("GET", f"/mgmt/datastores/versions/{unknown}/parameters", roles="admin", status=400)


def test_operators_add_change_and_take_parameters_for_a_version(api: api_fixture.Api) -> None:
    version = version_of(api)
    path = f"/mgmt/datastores/versions/{version}/parameters"
    user_path = f"/datastores/versions/{version}/parameters"

    def send(method: str, tail: str, status: int = 200, **content: Any) -> Any:
        sent = {"configuration-parameter": content} if content else None
        return api.request(method, path + tail, sent, roles="admin", status=status)

    integer = {"data_type": "integer", "restart_required": 1, "min_size": 0, "max_size": "7"}
    made = send("POST", "", name="new_one", **integer).json
    assert made == {
        "name": "new_one",
        "datastore_version_id": version,
        "restart_required": True,
        "type": "integer",
        "min_size": 0,
        "max_size": 7,
    }
    assert send("GET", "/new_one").json == made
    assert api.get(f"{user_path}/new_one")["max"] == 7
    make_group(api, {"new_one": 7})
    make_group(api, {"new_one": 8}, status=422)
    send("POST", "", 400, name="new_one", **integer)
    send("POST", "", 400, name="wait_timeout", **integer)

    changed = send("PUT", "/new_one", name="new_one", **{**integer, "max_size": 9}).json
    assert changed["max_size"] == 9
    make_group(api, {"new_one": 8})
    send("PUT", "/none", 404, name="none", **integer)
    send("PUT", "/new_one", 400, name="renamed", **integer)

    answer = send("DELETE", "/new_one", 204)
    assert answer.body == b""
    send("DELETE", "/new_one", 400)
    assert send("GET", "/new_one").json["max_size"] == 9
    api.request("GET", f"{user_path}/new_one", status=404)
    send("POST", "", name="new_one", **integer)

    send("DELETE", "/wait_timeout", 204)
    make_group(api, {"wait_timeout": 100}, status=422)
    names = [each["name"] for each in send("GET", "").json["configuration-parameters"]]
    assert "wait_timeout" not in names
    assert "new_one" in names


@pytest.mark.parametrize(
    ("kind", "limits", "good", "bad"),
    [
        ("float", {"min_size": 0.5, "max_size": 1.5}, 1.0, 2.0),
        ("float", {}, 1.0, 1),
        ("boolean", {}, True, 1),
        ("string", {}, "text", 1),
    ],
)
def test_operators_add_parameters_of_every_type(
    api: api_fixture.Api, kind: str, limits: dict[str, float], good: Any, bad: Any
) -> None:
    path = f"/mgmt/datastores/versions/{version_of(api)}/parameters"
    content = {"name": "new", "data_type": kind, "restart_required": False, **limits}
    made = api.request(
        "POST", path, {"configuration-parameter": content}, roles="admin", status=200
    ).json
    assert made["type"] == kind
    assert {key: made[key] for key in limits} == limits
    make_group(api, {"new": good})
    make_group(api, {"new": bad}, status=422)


@pytest.mark.parametrize(
    "change",
    [
        {"data_type": "xinteger"},
        {"data_type": None},
        {"name": ""},
        {"name": "a" * 129},
        {"name": "a\nb"},
        {"name": "-a"},
        {"restart_required": 2},
        {"restart_required": "yes"},
        {"max_size": None},
        {"min_size": 11},
        {"max_size": 1.5},
        {"max_size": "many"},
        {"max_size": 10**30},
        {"data_type": "string"},
    ],
)
def test_operators_are_told_what_is_wrong_with_a_parameter(
    api: api_fixture.Api, change: dict[str, Any]
) -> None:
    good: dict[str, Any] = {
        "name": "new",
        "data_type": "integer",
        "restart_required": 0,
        "min_size": 1,
        "max_size": 10,
    }
    path = f"/mgmt/datastores/versions/{version_of(api)}/parameters"
    body = {"configuration-parameter": {**good, **change}}
    api.request("POST", path, body, roles="admin", status=400)
    with api.database.reader() as session:
        assert session.scalar(sa.select(sa.func.count(models.ConfigurationParameter.name))) == 0
