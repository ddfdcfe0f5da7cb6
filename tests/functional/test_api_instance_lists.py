"""Lists of instances that are filtered and sorted, on every backend, and conditional reads."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import sqlalchemy as sa

from tests.fixtures import api as api_fixture
from trove import states
from trove.db import base, instance_lists, instance_views


@pytest.fixture
def api(database: base.Database) -> api_fixture.Api:
    made = api_fixture.make_api(database)
    made.conf.set_override("max_instances_per_tenant", -1, "quota")
    made.conf.set_override("max_volumes_per_tenant", -1, "quota")
    made.add_datastore()
    made.add_datastore("other", versions=("8.0", "8.4"))
    return made


def _create(api: api_fixture.Api, name: str, **values: Any) -> str:
    values.setdefault("datastore", {"type": "mariadb"})
    instance_id = api.create_instance(instance={"name": name, **values})
    api.clock.advance(1)
    return instance_id


def _names(api: api_fixture.Api, query: str, **options: Any) -> list[str]:
    """Return the names of all pages, which end; every page but the last is full."""
    path, names, limit = f"/instances?{query}", [], 0
    while path:
        page = api.get(path, **options)
        shown = [item["name"] for item in page["instances"]]
        assert not names or shown
        limit = limit or len(shown)
        assert "links" not in page or len(shown) == limit
        names += shown
        path = page["links"][0]["href"].partition("project-a")[2] if "links" in page else ""
    return names


def test_sorted_pages_have_everything_once_and_in_order(api: api_fixture.Api) -> None:
    names = ["b", "d", "a", "c", "a", "é1"]
    ids = [_create(api, name) for name in names]
    for touched in (ids[3], ids[0]):
        api.request("PUT", f"/instances/{touched}", {"instance": {"tags": []}}, status=202)
        api.clock.advance(1)
    by = {
        "created": names,
        "updated": ["d", "a", "a", "é1", "c", "b"],
        "name": sorted(names),
    }
    for limit, (key, expected) in itertools.product((1, 2, 3, 5, 6, 7), by.items()):
        path = f"limit={limit}&sort_key={key}&sort_dir="
        assert _names(api, f"{path}asc") == expected
        assert _names(api, f"{path}desc") == expected[::-1]
    assert _names(api, "limit=4&sort_key=created") == names[::-1]
    assert _names(api, "limit=4&sort_key=name") == sorted(names)
    assert _names(api, "limit=4&sort_dir=asc") == names


def test_sorted_pages_take_the_id_of_the_last_item_and_end_behind_it(
    api: api_fixture.Api,
) -> None:
    ids = {name: _create(api, name) for name in "cab"}
    path = "sort_key=name&limit=1&marker="
    assert api.get(f"/instances?{path}{ids['a']}")["instances"][0]["name"] == "b"
    assert api.get(f"/instances?{path}{ids['c']}") == {"instances": []}
    # of one that was deleted meanwhile the place is still known
    api.set_instance(ids["b"], is_deleted=True)
    assert api.get(f"/instances?{path}{ids['b']}")["instances"][0]["name"] == "c"
    foreign = api.create_instance(project="project-b", instance={"datastore": {"type": "mariadb"}})
    for marker in ("nothing", foreign, "[1,2]", '["x"]', "[1", '["x",{}]', "m~WzEsMl0"):
        api.request("GET", f"/instances?{path}{marker}", status=400)
    for marker in ('["x","y"]', '["2026-01-01","y"]', "[null,null]"):
        api.request("GET", f"/instances?sort_key=created&marker={marker}", status=400)
    assert api.get("/instances?sort_key=name&limit=0") == {"instances": []}


def test_filters_choose_by_what_clients_see(api: api_fixture.Api) -> None:
    _create(api, "maria", tags=["a"], flavorRef="2")
    _create(api, "old", datastore={"type": "other", "version": "8.0"}, tags=["a", "b"])
    new = _create(api, "new", datastore={"type": "other"}, tags=["c"])
    api.create_instance(
        project="project-b", instance={"name": "new", "datastore": {"type": "other"}}
    )
    other = api.get("/datastores/other")["datastore"]
    version_id = next(v["id"] for v in other["versions"] if v["name"] == "8.0")
    for query, expected in {
        "name=new": {"new"},
        "name=ne": set(),
        "flavor_id=2": {"maria"},
        "datastore=other": {"old", "new"},
        f"datastore={other['id']}": {"old", "new"},
        "datastore_version=8.0": {"old"},
        f"datastore_version={version_id}": {"old"},
        "datastore=mariadb&datastore_version=8.0": set(),
        "datastore=oracle": set(),
        "tags=a": {"maria", "old"},
        "tags=a,b": {"old"},
        "tags=a,c": set(),
        "tags-any=b,c": {"old", "new"},
        "tags=a&tags-any=b,c": {"old"},
        "tags=A": set(),
        "status=BUILD": {"maria", "old", "new"},
        "status=build": {"maria", "old", "new"},
        "status=ACTIVE": set(),
        "name=&tags=&status=": {"maria", "old", "new"},
        "deleted=true&all_projects=1&shoe_size=44": {"maria", "old", "new"},
    }.items():
        for order in ("", "&sort_key=name", "&limit=1", "&limit=1&sort_key=created"):
            assert sorted(_names(api, f"{query}{order}")) == sorted(expected), query
        details = api.get(f"/instances/detail?{query}")["instances"]
        assert {item["name"] for item in details} == expected
    path = f"/instances/{new}"
    api.request("PUT", path, {"instance": {"tags": ["b", "d"]}}, status=202)
    assert set(_names(api, "tags=b")) == {"old", "new"}
    assert _names(api, "tags=c") == []
    api.set_instance(new, is_deleted=True)
    assert _names(api, "tags=b") == ["old"]


def test_filtering_by_status_finds_exactly_what_shows_it(
    sqlite_database: base.Database,
) -> None:
    api = api_fixture.make_api(sqlite_database)
    api.conf.set_override("max_instances_per_tenant", -1, "quota")
    api.conf.set_override("max_volumes_per_tenant", -1, "quota")
    api.add_datastore()
    pairs = itertools.product(states.TaskStatus, states.ServerStatus)
    for task, server in sorted(pairs)[::3]:
        api.set_instance(api.create_instance(), task=task, server_status=server)
    shown = api.get("/instances?limit=1000")["instances"]
    for status in {item["status"] for item in shown}:
        found = api.get(f"/instances?limit=1000&status={status}")["instances"]
        expected = {item["id"] for item in shown if item["status"] == status}
        assert {item["id"] for item in found} == expected


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("sort_key=size", "sort_key must be one of created, updated, name"),
        ("sort_key=name&sort_dir=up", "sort_dir must be asc or desc"),
        ("status=FINE", "status must be one of ACTIVE"),
        ("tags=a,,b", "tags must be 1 to 60"),
        ("tags=a%20b", "tags must be 1 to 60"),
        ("tags-any=" + "x" * 61, "tags-any must have at most 60"),
        ("tags=" + ",".join(map(str, range(65))), "more than 64 tags"),
        ("name=" + "x" * 256, "name must have at most"),
        ("limit=-1&name=x", "limit"),
    ],
)
def test_bad_values_of_known_keys_are_refused(
    sqlite_database: base.Database, query: str, said: str
) -> None:
    api = api_fixture.make_api(sqlite_database)
    for path in ("/instances", "/instances/detail"):
        assert said in api.request("GET", f"{path}?{query}", status=400).text


def test_chosen_lists_cost_as_few_statements_as_others(api: api_fixture.Api) -> None:
    ids = [_create(api, name, tags=["x"]) for name in "abc"]
    statements: list[str] = []
    with api.database.reader() as session:
        engine = session.get_bind()
    sa.event.listen(engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    query = "tags=x&status=BUILD&sort_key=name&limit=1"
    for path, most in (
        ("/instances", 1),
        (f"/instances?{query}", 1),
        (f"/instances/detail?{query}", 1),
        (f"/instances?{query}&datastore=mariadb", 2),
        (f"/instances?{query}&marker={ids[0]}", 2),
    ):
        statements.clear()
        api.get(path)
        selects = [each for each in statements if each.lstrip().upper().startswith("SELECT")]
        assert len(selects) == most, selects


def test_mariadb_reads_chosen_lists_in_the_order_of_an_index(
    mariadb_database: base.Database,
) -> None:
    """Without indexes a page costs as much as all instances there are."""
    of_project = instance_lists.Filters(project_id=api_fixture.PROJECT)
    of_all = instance_lists.Filters(project_id=None)
    orders = [instance_lists.Order(key=key, is_descending=True) for key in ("created", "updated")]
    cases = [(of_all, order) for order in orders]
    cases += [(of_project, order) for order in (*orders, instance_lists.Order(key="name"))]
    statements: list[Any] = []
    with mariadb_database.reader() as session:
        engine = session.get_bind()
    sa.event.listen(engine, "before_cursor_execute", lambda *args: statements.append(args[2:4]))
    for filters, order in cases:
        with mariadb_database.reader() as session:
            instance_lists.list_page(
                session, instance_views.InstanceSummary, filters, order=order, limit=5
            )
            sql, values = statements[-1]
            plan = session.connection().exec_driver_sql(f"EXPLAIN {sql}", values).all()
        (row,) = [each for each in plan if each.table == "instances"]
        assert order.key in row.key
        assert "filesort" not in row.Extra


# -- conditional reads -----


def test_a_document_that_did_not_change_is_not_sent_again(
    sqlite_database: base.Database,
) -> None:
    api = api_fixture.make_api(sqlite_database)
    api.add_datastore()
    instance_id = api.create_instance(active=True)
    for path in (f"/instances/{instance_id}", "/instances", "/instances/detail", "/flavors", ""):
        answer = api.request("GET", path, status=200)
        tag = answer.headers["ETag"]
        assert tag.startswith('W/"')
        for wanted in (tag, tag.removeprefix("W/"), f'"x", {tag}', "*"):
            again = api.request("GET", path, status=304, headers={"If-None-Match": wanted})
            assert (again.body, again.headers["ETag"]) == (b"", tag)
        for wanted in ('"x"', "", tag[:-2] + '"'):
            api.request("GET", path, status=200, headers={"If-None-Match": wanted})
    headers = {"If-None-Match": api.request("GET", f"/instances/{instance_id}").headers["ETag"]}
    api.request("POST", f"/instances/{instance_id}/action", {"restart": {}}, status=202)
    changed = api.request("GET", f"/instances/{instance_id}", status=200, headers=headers)
    assert changed.json["instance"]["status"] == "REBOOT"
    everything = {"If-None-Match": "*"}
    api.request("GET", "/instances/x", status=404, headers=everything)
    api.request(
        "PUT",
        f"/instances/{instance_id}",
        {"instance": {"name": "x"}},
        status=202,
        headers=everything,
    )
    assert "ETag" not in api.request("DELETE", f"/instances/{instance_id}", status=202).headers
