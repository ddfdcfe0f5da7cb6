"""Modules over the API: options, reach, applications, counts."""

from __future__ import annotations

import base64
import hashlib
import threading
from typing import Any

import pytest
import sqlalchemy as sa

from tests.fixtures import api as api_fixture
from trove import states
from trove.db import base, models, modules

ADMIN = {"roles": "admin"}
OTHER = {"project": "project-b"}
UNKNOWN = "00000000-0000-4000-8000-000000000000"


@pytest.fixture
def api(sqlite_database: base.Database) -> api_fixture.Api:
    made = api_fixture.make_api(sqlite_database)
    made.add_datastore()
    return made


def encode(contents: bytes) -> str:
    return base64.b64encode(contents).decode()


def post(api: api_fixture.Api, status: int = 200, **wanted: Any) -> Any:
    options = wanted.pop("options", {})
    body = {"name": "m", "module_type": "ping", "contents": encode(b"message=a"), **wanted}
    answer = api.request("POST", "/modules", {"module": body}, status=status, **options).json
    return answer["module"] if status == 200 else next(iter(answer.values()))["message"]


def put(api: api_fixture.Api, module_id: str, status: int = 200, **wanted: Any) -> Any:
    options = wanted.pop("options", {})
    path = f"/modules/{module_id}"
    answer = api.request("PUT", path, {"module": wanted}, status=status, **options).json
    return answer["module"] if status == 200 else next(iter(answer.values()))["message"]


def names(api: api_fixture.Api, query: str = "", **options: Any) -> list[str]:
    return [each["name"] for each in api.get(f"/modules{query}", **options)["modules"]]


def apply(
    api: api_fixture.Api, instance_id: str, *ids: str, status: int = 200, **options: Any
) -> Any:
    body = {"modules": [{"id": each} for each in ids]}
    path = f"/instances/{instance_id}/modules"
    answer = api.request("POST", path, body, status=status, **options).json
    return answer["modules"] if status == 200 else next(iter(answer.values()))["message"]


# -- made -----


def test_a_module_is_made_and_shown_without_its_contents(api: api_fixture.Api) -> None:
    made = post(api, description="first", apply_order=3, live_update=1)
    assert made == {
        "id": made["id"],
        "name": "m",
        "type": "ping",
        "description": "first",
        "tenant_id": api_fixture.PROJECT,
        "datastore_id": None,
        "datastore_version_id": None,
        "auto_apply": False,
        "priority_apply": False,
        "is_admin": False,
        "visible": True,
        "apply_order": 3,
        "md5": hashlib.md5(b"message=a", usedforsecurity=False).hexdigest(),
        "created": "2026-05-01T12:00:00",
        "updated": "2026-05-01T12:00:00",
        "tenant": api_fixture.PROJECT,
        "datastore": "all",
        "datastore_version": "all",
        "live_update": True,
    }
    shown = api.get(f"/modules/{made['id']}")["module"]
    assert shown == made | {"instance_count": 0}
    (item,) = api.get("/modules")["modules"]
    assert item == {key: value for key, value in made.items() if key != "live_update"}


def test_contents_are_stored_wrapped_for_the_module_alone(api: api_fixture.Api) -> None:
    made = post(api, contents=encode(b"license_key=12345678"), module_type="new_relic_license")
    with api.database.reader() as session:
        wrapped = modules.get_contents(session, [made["id"]])[made["id"]]
    assert b"12345678" not in wrapped
    assert api.key_ring.unwrap(wrapped, purpose=f"module:{made['id']}") == b"license_key=12345678"


@pytest.mark.parametrize(
    ("wanted", "status", "told"),
    [
        ({"contents": "*"}, 400, "base64"),
        ({"contents": "  "}, 400, "empty"),
        ({"contents": ""}, 400, "contents"),
        ({"name": ""}, 400, "name"),
        ({"module_type": "virus"}, 404, "virus"),
        ({"datastore": {"version": "10.11"}}, 400, "needs its datastore"),
        ({"datastore": {"type": "oracle"}}, 404, "oracle"),
        ({"datastore": {"type": "mariadb", "version": "9"}}, 400, "9"),
        ({"apply_order": 10}, 400, "apply_order"),
        ({"auto_apply": 2}, 400, "auto_apply"),
        ({"live_update": "yes"}, 400, "live_update"),
    ],
)
def test_what_is_wrong_with_a_module_is_told(
    api: api_fixture.Api, wanted: dict[str, Any], status: int, told: str
) -> None:
    assert told in post(api, status, **wanted)
    assert names(api) == []


@pytest.mark.parametrize("body", [None, {}, {"module": {}}, {"module": {"name": "x"}}, {"m": 1}])
def test_bodies_that_lack_something_are_bad_requests(api: api_fixture.Api, body: Any) -> None:
    api.request("POST", "/modules", body, status=400)
    module_id = post(api)["id"]
    if body in (None, {}, {"m": 1}):
        api.request("PUT", f"/modules/{module_id}", body, status=400)
        api.request("PUT", f"/modules/{module_id}/instances", body, status=400)


def test_the_type_goes_by_either_name(api: api_fixture.Api) -> None:
    body = {"name": "m", "type": "ping", "contents": encode(b"message=a")}
    made = api.request("POST", "/modules", {"module": body}, status=200).json["module"]
    assert put(api, made["id"], type="new_relic_license")["type"] == "new_relic_license"
    assert put(api, made["id"], module_type="ping")["type"] == "ping"
    assert "virus" in put(api, made["id"], 404, type="virus")


def test_a_name_is_taken_once_per_project_datastore_and_version(api: api_fixture.Api) -> None:
    post(api)
    assert "already exists" in post(api, 400)
    post(api, options=OTHER)
    post(api, datastore={"type": "mariadb"})
    post(api, datastore={"type": "mariadb", "version": "10.11"})
    other = post(api, name="n")
    assert "already exists" in put(api, other["id"], 400, name="m")
    api.request("DELETE", f"/modules/{other['id']}", status=200)
    post(api, name="n")


def test_of_many_that_make_the_same_module_at_once_one_does(api: api_fixture.Api) -> None:
    begin = threading.Barrier(6)
    found: list[int] = []

    def make() -> None:
        begin.wait()
        body = {"name": "m", "module_type": "ping", "contents": encode(b"message=a")}
        found.append(api.request("POST", "/modules", {"module": body}).status_int)

    threads = [threading.Thread(target=make) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [200, 400, 400, 400, 400, 400]


@pytest.mark.parametrize(
    "option",
    [
        {"all_tenants": 1},
        {"auto_apply": True},
        {"visible": 0},
        {"priority_apply": 1},
        {"full_access": 1},
        {"full_access": False},
    ],
)
def test_some_options_are_for_administrators(api: api_fixture.Api, option: dict[str, Any]) -> None:
    (name,) = option
    assert name in post(api, 403, **option)
    module_id = post(api)["id"]
    assert name in put(api, module_id, 403, **option)
    assert post(api, name="x", options=ADMIN, **option)["name"] == "x"
    assert put(api, module_id, options=ADMIN, **option)["id"] == module_id


def test_options_that_change_nothing_are_for_everybody(api: api_fixture.Api) -> None:
    post(api, all_tenants=0, auto_apply=False, visible=1, priority_apply=0)


def test_full_access_gives_a_module_away_and_goes_with_no_other_option(
    api: api_fixture.Api,
) -> None:
    for option in ({"all_tenants": 1}, {"auto_apply": 1}, {"visible": 0}):
        assert "full_access" in post(api, 400, full_access=1, options=ADMIN, **option)
    given = post(api, full_access=1, options=ADMIN)
    kept = post(api, name="kept", options=ADMIN)
    assert (given["is_admin"], kept["is_admin"]) == (False, True)
    put(api, given["id"], description="ours")
    assert "administrator" in put(api, kept["id"], 403, description="ours")
    api.request("DELETE", f"/modules/{kept['id']}", status=403)
    assert put(api, given["id"], options=ADMIN, auto_apply=1)["is_admin"] is True
    assert "full_access" in put(api, given["id"], 400, options=ADMIN, full_access=1)
    put(api, given["id"], options=ADMIN, auto_apply=0, full_access=1)
    api.request("DELETE", f"/modules/{given['id']}", status=200)


# -- reach -----


def test_who_sees_which_modules(api: api_fixture.Api) -> None:
    post(api, name="own")
    post(api, name="foreign", options=OTHER)
    post(api, name="everybodys", all_tenants=1, options=ADMIN)
    hidden = post(api, name="hidden", all_tenants=1, visible=0, options=ADMIN)
    assert names(api) == ["everybodys", "own"]
    assert names(api, **OTHER) == ["everybodys", "foreign"]
    assert names(api, **ADMIN) == ["everybodys", "foreign", "hidden", "own"]
    api.request("GET", f"/modules/{hidden['id']}", status=404)
    assert api.get(f"/modules/{hidden['id']}", **ADMIN)["module"]["tenant"] == "all"


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_modules_of_others_and_none_at_all_are_not_found(api: api_fixture.Api, method: str) -> None:
    module_id = post(api)["id"]
    body = {"module": {"name": "x"}} if method == "PUT" else None
    for path in (f"/modules/{UNKNOWN}", "/modules/x"):
        api.request(method, path, body, status=404)
    api.request(method, f"/modules/{module_id}", body, status=404, **OTHER)
    reapply = {"reapply": {}} if method == "PUT" else None
    if method != "DELETE":
        path = f"/modules/{module_id}/instances"
        api.request(method, path, reapply, status=404, **OTHER)
        api.request(method, f"/modules/{UNKNOWN}/instances", reapply, status=404)


def test_the_list_is_of_one_datastore_or_of_none(api: api_fixture.Api) -> None:
    post(api, name="any")
    bound = post(api, name="bound", datastore={"type": "mariadb", "version": "10.11"})
    assert (bound["datastore"], bound["datastore_version"]) == ("mariadb", "10.11")
    assert names(api, "?datastore=mariadb") == ["bound"]
    assert names(api, f"?datastore={bound['datastore_id']}") == ["bound"]
    assert names(api, "?datastore=all") == ["any"]
    assert names(api, "?limit=1&marker=x") == ["any", "bound"]
    api.request("GET", "/modules?datastore=oracle", status=404)


def test_the_list_takes_one_statement_however_long_it_is(api: api_fixture.Api) -> None:
    counts = []
    for number in range(2):
        for index in range(3):
            post(api, name=f"m{number}{index}", datastore={"type": "mariadb"})
        seen: list[str] = []
        engine = api.database._reader or api.database.engine

        def note(*args: Any, seen: list[str] = seen) -> None:
            seen.append(args[2])

        sa.event.listen(engine, "before_cursor_execute", note)
        names(api)
        sa.event.remove(engine, "before_cursor_execute", note)
        counts.append(len([each for each in seen if "modules" in each]))
    assert counts == [1, 1]


# -- changed -----


def test_a_module_is_bound_and_set_free_again(api: api_fixture.Api) -> None:
    module_id = post(api)["id"]
    bound = put(api, module_id, datastore={"type": "mariadb", "version": "10.11"})
    assert (bound["datastore"], bound["datastore_version"]) == ("mariadb", "10.11")
    assert put(api, module_id, all_datastore_versions=1)["datastore_version"] == "all"
    assert put(api, module_id, datastore={"version": "10.11"})["datastore_version"] == "10.11"
    choice = {"type": "mariadb", "version": "10.11"}
    assert "exclude" in put(api, module_id, 400, all_datastores=1, datastore=choice)
    assert "exclude" in put(api, module_id, 400, all_datastore_versions=1, datastore=choice)
    free = put(api, module_id, all_datastores=1)
    assert (free["datastore"], free["datastore_version"]) == ("all", "all")


def test_contents_of_an_applied_module_change_only_with_live_update(
    api: api_fixture.Api,
) -> None:
    instance_id = api.create_instance(active=True)
    module_id = post(api)["id"]
    apply(api, instance_id, module_id)
    new = encode(b"message=b")
    assert "live_update" in put(api, module_id, 403, contents=new)
    assert "live_update" in put(api, module_id, 403, type="new_relic_license")
    # the same contents, and everything else, are no matter
    put(api, module_id, contents=encode(b"message=a"), description="new", name="n")
    changed = put(api, module_id, contents=new, live_update=1)
    assert changed["md5"] == hashlib.md5(b"message=b", usedforsecurity=False).hexdigest()


def test_an_applied_module_is_not_deleted_until_it_is_removed_or_its_instance_gone(
    api: api_fixture.Api,
) -> None:
    first, second = (api.create_instance(active=True) for _ in range(2))
    module_id = post(api)["id"]
    for instance_id in (first, second):
        apply(api, instance_id, module_id)
    assert api.get(f"/modules/{module_id}")["module"]["instance_count"] == 2
    api.request("DELETE", f"/modules/{module_id}", status=403)
    api.request("DELETE", f"/instances/{first}/modules/{module_id}", status=200)
    api.set_instance(second, is_deleted=True)
    assert api.get(f"/modules/{module_id}")["module"]["instance_count"] == 0
    api.request("DELETE", f"/modules/{module_id}", status=200)
    api.request("GET", f"/modules/{module_id}", status=404)
    with api.database.reader() as session:
        assert session.scalars(sa.select(models.Module.contents_wrapped)).all() == [b""]


# -- modules of an instance -----


def test_modules_are_applied_in_order_and_told_as_the_guest_tells(api: api_fixture.Api) -> None:
    instance_id = api.create_instance(active=True)
    late = post(api, name="late", apply_order=9)["id"]
    first = post(api, name="first", apply_order=0)["id"]
    prior = post(api, name="prior", apply_order=9, priority_apply=1, options=ADMIN)["id"]
    api.guest.engine(instance_id).failing_modules[late] = "it did not work"
    results = apply(api, instance_id, late, first, prior, first)
    assert [each["name"] for each in results] == ["prior", "first", "late"]
    assert [each["status"] for each in results] == ["OK", "OK", "ERROR"]
    assert results[2]["message"] == "it did not work"
    assert set(results[0]) == {
        *("type", "name", "datastore", "datastore_version", "tenant", "id", "md5", "status"),
        *("message", "created", "updated", "removed", "auto_apply", "visible", "is_admin"),
    }
    path = f"/instances/{instance_id}/modules"
    # what failed is not applied, but the guest knows of it
    assert {each["name"] for each in api.get(path)["modules"]} == {"prior", "first"}
    assert len(api.get(f"{path}?from_guest=True")["modules"]) == 3
    assert len(api.get(f"{path}?from_guest=False")["modules"]) == 2
    assert api.get(f"/modules/{late}")["module"]["instance_count"] == 0


def test_contents_are_shown_on_demand_and_an_administrators_to_administrators(
    api: api_fixture.Api,
) -> None:
    instance_id = api.create_instance(active=True)
    own = post(api)["id"]
    theirs = post(api, name="theirs", all_tenants=1, options=ADMIN)["id"]
    apply(api, instance_id, own, theirs)
    path = f"/instances/{instance_id}/modules"
    shown = {each["id"]: each for each in api.get(f"{path}?include_contents=1")["modules"]}
    assert shown[own]["contents"] == encode(b"message=a")
    assert "contents" not in shown[theirs]
    shown = api.get(f"{path}?include_contents=True", **ADMIN)["modules"]
    assert all(each["contents"] for each in shown)
    shown = api.get(f"{path}?include_contents=False")["modules"]
    assert not any("contents" in each for each in shown)
    api.request("GET", f"{path}?include_contents=perhaps", status=400)


def test_modules_that_do_not_exist_for_the_caller_are_not_applied(api: api_fixture.Api) -> None:
    instance_id = api.create_instance(active=True)
    own = post(api)["id"]
    foreign = post(api, options=OTHER)["id"]
    hidden = post(api, name="h", visible=0, all_tenants=1, options=ADMIN)["id"]
    for module_id in (UNKNOWN, foreign, hidden):
        assert module_id in apply(api, instance_id, own, module_id, status=404)
    assert apply(api, instance_id, hidden, **ADMIN)[0]["status"] == "OK"
    assert api.get(f"/instances/{instance_id}/modules")["modules"] == []
    assert apply(api, instance_id) == []
    path = f"/instances/{instance_id}/modules"
    for body in (None, {}, {"modules": [{}]}, {"modules": [{"id": "x"}]}, {"modules": None}):
        api.request("POST", path, body, status=400)
    api.request("POST", path, {"modules": [{"id": own}] * 51}, status=400)


def test_a_module_of_another_version_is_refused(api: api_fixture.Api) -> None:
    instance_id = api.create_instance(active=True)
    api.add_datastore("other", versions=("1", "2"))
    module_id = post(api, datastore={"type": "other"})["id"]
    assert "is for datastore other" in apply(api, instance_id, module_id, status=400)
    assert api.guest.calls == []


def test_a_guest_that_does_not_answer_is_told_as_such(api: api_fixture.Api) -> None:
    instance_id = api.create_instance(active=True)
    module_id = post(api)["id"]
    api.guest.silent.add(instance_id)
    apply(api, instance_id, module_id, status=504)
    api.request("GET", f"/instances/{instance_id}/modules", status=504)
    api.request("DELETE", f"/instances/{instance_id}/modules/{module_id}", status=504)
    api.guest.silent.clear()
    api.guest.failing[instance_id] = "no"
    apply(api, instance_id, module_id, status=400)
    api.set_heartbeat(instance_id, service_status=states.ServiceStatus.SHUTDOWN)
    apply(api, instance_id, module_id, status=422)


def test_what_a_guest_says_of_a_module_is_made_harmless(api: api_fixture.Api) -> None:
    instance_id = api.create_instance(active=True)
    module_id = post(api)["id"]
    apply(api, instance_id, module_id)
    engine = api.guest.engine(instance_id)
    engine.failing_modules[module_id] = "\x1b[31m" + "x" * 9000
    (shown,) = api.get(f"/instances/{instance_id}/modules")["modules"]
    assert len(shown["message"]) == 500
    assert shown["message"].isprintable()


def test_a_module_is_removed_from_an_instance_once_and_again(api: api_fixture.Api) -> None:
    instance_id = api.create_instance(active=True)
    module_id = post(api)["id"]
    apply(api, instance_id, module_id)
    path = f"/instances/{instance_id}/modules/{module_id}"
    for _ in range(2):
        assert api.request("DELETE", path, status=200).body == b""
        assert api.guest.engine(instance_id).modules == {}
    api.request("DELETE", f"/instances/{instance_id}/modules/{UNKNOWN}", status=404)
    api.request("DELETE", path, status=404, **OTHER)


def test_what_operators_have_every_instance_get_stays_theirs(api: api_fixture.Api) -> None:
    instance_id = api.create_instance(active=True)
    module_id = post(api, auto_apply=1, all_tenants=1, options=ADMIN)["id"]
    apply(api, instance_id, module_id)
    path = f"/instances/{instance_id}/modules/{module_id}"
    api.request("DELETE", path, status=403)
    api.request("DELETE", path, status=200, **ADMIN)


# -- with new instances -----


def modules_of(api: api_fixture.Api, instance_id: str) -> list[str]:
    with api.database.reader() as session:
        data = session.scalars(
            sa.select(models.Operation.data).where(models.Operation.resource_id == instance_id)
        ).one()
    return list(data["modules"])


def test_new_instances_get_the_modules_they_name_and_those_for_all_in_order(
    api: api_fixture.Api,
) -> None:
    named = post(api, name="named", apply_order=5)["id"]
    auto = post(api, name="auto", all_tenants=1, auto_apply=1, visible=0, options=ADMIN)["id"]
    prior = post(api, name="p", apply_order=9, auto_apply=1, priority_apply=1, options=ADMIN)["id"]
    post(api, name="elsewhere", auto_apply=1, options={"project": "project-b", **ADMIN})
    api.add_datastore("other", default=True)
    post(api, name="o", auto_apply=1, all_tenants=1, datastore={"type": "other"}, options=ADMIN)
    choice = {"datastore": {"type": "mariadb"}}
    plain = api.create_instance(instance=choice)
    assert modules_of(api, plain) == [prior, auto]
    chosen = api.create_instance(
        instance={**choice, "modules": [{"id": named.upper()}, {"id": prior}]}
    )
    assert modules_of(api, chosen) == [prior, auto, named]


def test_an_instance_with_a_module_that_is_not_for_it_is_not_made(api: api_fixture.Api) -> None:
    api.add_datastore("other")
    bound = post(api, datastore={"type": "other"})["id"]
    body = {
        "instance": {
            "name": "db",
            "flavorRef": "1",
            "volume": {"size": 1},
            "datastore": {"type": "mariadb"},
        }
    }
    for module_id, status in ((UNKNOWN, 404), (bound, 400)):
        body["instance"]["modules"] = [{"id": module_id}]
        api.request("POST", "/instances", body, status=status)
    api.request("POST", "/instances", body, status=403, roles="reader")
    assert api.get("/instances")["instances"] == []


# -- its instances -----


@pytest.mark.parametrize("total", [0, 1, 2, 3])
def test_the_instances_of_a_module_come_in_pages(api: api_fixture.Api, total: int) -> None:
    module_id = post(api)["id"]
    ids = sorted(api.create_instance(active=True) for _ in range(total))
    for instance_id in ids:
        apply(api, instance_id, module_id)
    path = f"/modules/{module_id}/instances"
    page = api.get(f"{path}?limit=2")
    seen = [each["id"] for each in page["instances"]]
    if total > 2:
        href = page["links"][0]["href"].partition(api_fixture.PROJECT)[2]
        rest = api.get(href)
        assert "links" not in rest
        seen += [each["id"] for each in rest["instances"]]
    assert seen == ids
    assert ("links" in page) is (total > 2)
    assert api.get(f"{path}?limit=0")["instances"] == []


def test_a_project_sees_its_own_instances_of_a_shared_module(api: api_fixture.Api) -> None:
    module_id = post(api, all_tenants=1, options=ADMIN)["id"]
    own = api.create_instance(active=True)
    foreign = api.create_instance(active=True, **OTHER)
    apply(api, own, module_id)
    apply(api, foreign, module_id, **OTHER)
    path = f"/modules/{module_id}/instances"
    assert [each["id"] for each in api.get(path)["instances"]] == [own]
    assert {each["id"] for each in api.get(path, **ADMIN)["instances"]} == {own, foreign}
    (count,) = api.get(f"{path}?count_only=true")["instances"]
    assert count["instance_count"] == 1
    (count,) = api.get(f"{path}?count_only=true", **ADMIN)["instances"]
    assert count["instance_count"] == 2


def test_counts_are_by_contents_and_say_which_are_current(api: api_fixture.Api) -> None:
    module_id = post(api, live_update=1)["id"]
    first, second = (api.create_instance(active=True) for _ in range(2))
    apply(api, first, module_id)
    api.clock.advance(60)
    put(api, module_id, contents=encode(b"message=b"))
    api.set_heartbeat(second, received=api.clock.now())
    apply(api, second, module_id)
    path = f"/modules/{module_id}/instances?count_only=true"
    found = {each["current"]: each for each in api.get(path)["instances"]}
    assert found[True] == {
        "module_name": "m",
        "module_id": module_id,
        "module_md5": hashlib.md5(b"message=b", usedforsecurity=False).hexdigest(),
        "instance_count": 1,
        "current": True,
        "min_updated_date": "2026-05-01T12:01:00",
        "max_updated_date": "2026-05-01T12:01:00",
    }
    assert found[False]["min_updated_date"] == "2026-05-01T12:00:00"
    assert api.get(path.replace("true", "false"))["instances"][0]["id"] in (first, second)


def test_reapplying_is_an_operation_and_one_at_a_time(api: api_fixture.Api) -> None:
    module_id = post(api)["id"]
    path = f"/modules/{module_id}/instances"
    body = {"reapply": {"md5": "A" * 32, "batch_size": 7, "batch_delay": 0, "force": 1}}
    assert api.request("PUT", path, body, status=202).body == b""
    with api.database.reader() as session:
        operation = session.get(models.Operation, api.taskmanager.hints[-1])
    assert operation is not None
    assert operation.kind == "reapply_module"
    expected = {
        "md5": "a" * 32,
        "force": True,
        "batch_size": 7,
        "batch_delay_s": 0.0,
        "project_id": api_fixture.PROJECT,
    }
    assert {key: operation.data[key] for key in expected} == expected
    api.request("PUT", path, body, status=409)
    for wrong in ({"md5": "x"}, {"batch_size": 0}, {"batch_delay": -1}, {"force": 3}):
        api.request("PUT", path, {"reapply": wrong}, status=400)
