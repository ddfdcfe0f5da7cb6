"""Backups of datastores that have none, and backup strategies."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fixtures import api as api_fixture
from tests.fixtures import control_plane
from trove.db import backup_strategies, base, models

PROJECT = api_fixture.PROJECT
STRATEGIES = "/backup_strategies"


@pytest.fixture
def api(sqlite_database: base.Database) -> api_fixture.Api:
    api = api_fixture.make_api(sqlite_database)
    api.add_datastore()
    return api


def message(api: api_fixture.Api, method: str, path: str, body: Any = None, **options: Any) -> str:
    (fault,) = api.request(method, path, body, **options).json.values()
    return str(fault["message"])


# -- backups -----


def test_the_list_is_empty_for_every_query_that_makes_sense(api: api_fixture.Api) -> None:
    for query in (
        "",
        "limit=0",
        "limit=5&marker=20",
        "datastore=mariadb",
        f"instance_id={models.new_id()}",
        "instance_id=anything",
        "all_projects=False",
    ):
        assert api.get(f"/backups?{query}") == {"backups": []}
    for query in ("all_projects=True", f"project_id={PROJECT}", "project_id=other"):
        assert api.get(f"/backups?{query}", roles="admin") == {"backups": []}
        assert "backup:index:all_projects" in message(
            api, "GET", f"/backups?{query}", roles="manager", status=403
        )


@pytest.mark.parametrize("query", ["limit=a", "limit=-1", "marker=a", "all_projects=perhaps"])
def test_a_query_that_makes_no_sense_is_refused(api: api_fixture.Api, query: str) -> None:
    name = query.partition("=")[0]
    assert name in message(api, "GET", f"/backups?{query}", status=400)
    if name != "all_projects":
        path = f"/instances/{api.create_instance()}/backups"
        assert name in message(api, "GET", f"{path}?{query}", status=400)


def test_backups_of_an_unknown_datastore_are_a_404(api: api_fixture.Api) -> None:
    api.request("GET", "/backups?datastore=nothing", status=404)


def test_an_instance_has_no_backups_in_whatever_state_it_is(api: api_fixture.Api) -> None:
    path = f"/instances/{api.create_instance()}/backups"
    assert api.get(f"{path}?limit=5") == {"backups": []}
    assert api.get(path, project="project-b", roles="admin") == {"backups": []}
    api.request("GET", path, project="project-b", status=404)
    api.request("GET", f"/instances/{models.new_id()}/backups", status=404)


@pytest.mark.parametrize(
    ("values", "status", "text"),
    [
        ({"name": None}, 400, "name is missing"),
        ({"name": ""}, 400, "backup.name"),
        ({"instance": "x"}, 400, "backup.instance must be a UUID"),
        ({"instance": None}, 400, "instance is missing."),
        ({"description": ""}, 400, "backup.description"),
        ({"parent_id": "x"}, 400, "backup.parent_id"),
        ({"incremental": 2}, 400, "backup.incremental"),
        ({"swift_container": "a;b"}, 400, "backup.swift_container"),
        ({"swift_container": "a\n"}, 400, "backup.swift_container"),
        ({"storage_driver": "tape"}, 400, "backup.storage_driver"),
        ({"restore_from": {"size": 1}}, 400, "is missing"),
        ({"instance": models.new_id()}, 404, "cannot be found"),
        ({}, 501, "not supported for datastore mariadb: backup"),
        ({"parent_id": models.new_id(), "incremental": 1}, 501, "not supported"),
        ({"incremental": True, "swift_container": "my.box", "storage_driver": "swift"}, 501, ""),
    ],
)
def test_a_backup_is_checked_as_a_whole_and_then_refused(
    api: api_fixture.Api, values: dict[str, Any], status: int, text: str
) -> None:
    body = {"name": "b", "instance": api.create_instance(), **values}
    body = {"backup": {key: value for key, value in body.items() if value is not None}}
    assert text in message(api, "POST", "/backups", body, status=status)


def test_a_stored_backup_is_refused_for_the_datastore_of_its_version(
    api: api_fixture.Api,
) -> None:
    (version_id,) = api.add_datastore("mysql")
    stored = {"remote_location": "http://x/y", "size": 1.5}
    for version, status in ((version_id, 501), (models.new_id(), 400)):
        restore_from = {**stored, "local_datastore_version_id": version}
        body = {"backup": {"name": "b", "restore_from": restore_from}}
        api.request("POST", "/backups", body, status=status)


def test_there_is_no_backup_to_show_or_delete(api: api_fixture.Api) -> None:
    for backup_id in (models.new_id(), "anything"):
        api.request("GET", f"/backups/{backup_id}", status=404)
        api.request("DELETE", f"/backups/{backup_id}", status=404)


# -- strategies -----


def put(api: api_fixture.Api, container: str, instance_id: str | None = None, **who: Any) -> Any:
    body = {"swift_container": container}
    if instance_id is not None:
        body["instance_id"] = instance_id
    answer = api.request("POST", STRATEGIES, {"backup_strategy": body}, status=202, **who)
    return answer.json["backup_strategy"]


def listed(api: api_fixture.Api, query: str = "", **who: Any) -> list[tuple[str, str]]:
    rows = api.get(f"{STRATEGIES}?{query}", **who)["backup_strategies"]
    return [(row["instance_id"], row["swift_container"]) for row in rows]


def test_strategies_are_stored_and_replaced(database: base.Database) -> None:
    api = api_fixture.make_api(database)
    api.add_datastore()
    instance_id = api.create_instance()
    assert put(api, "first") == {
        "project_id": PROJECT,
        "instance_id": "",
        "backend": "swift",
        "swift_container": "first",
    }
    put(api, "whole")
    put(api, "one", instance_id.upper())
    put(api, "other", project="project-b")
    assert listed(api, roles="reader") == [("", "whole"), (instance_id, "one")]
    assert listed(api, f"instance_id={instance_id}") == [(instance_id, "one")]
    assert listed(api, f"instance_id={models.new_id()}") == []
    # as the dashboard asks
    assert listed(api, f"project_id={PROJECT}{instance_id}") == [(instance_id, "one")]
    assert listed(api, f"project_id={PROJECT}") == listed(api)
    for _ in range(2):
        api.request("DELETE", STRATEGIES, status=202)
        assert listed(api) == [(instance_id, "one")]
    api.request("DELETE", f"{STRATEGIES}?project_id={PROJECT}{instance_id}", status=202)
    assert listed(api) == []
    put(api, "again", instance_id)
    api.request("DELETE", f"{STRATEGIES}?instance_id={instance_id}", status=202)
    assert listed(api) == []
    assert listed(api, project="project-b") == [("", "other")]


def test_a_strategy_is_for_an_instance_in_reach(api: api_fixture.Api) -> None:
    theirs = api.create_instance(project="project-b")
    for instance_id in (theirs, models.new_id()):
        body = {"backup_strategy": {"swift_container": "c", "instance_id": instance_id}}
        api.request("POST", STRATEGIES, body, status=404)
    # what an administrator sets is the owner's
    assert put(api, "c", theirs, roles="admin")["project_id"] == "project-b"
    assert listed(api, project="project-b") == [(theirs, "c")]


def test_another_projects_strategies_are_the_administrators(api: api_fixture.Api) -> None:
    put(api, "c", project="project-b")
    for method in ("GET", "DELETE"):
        path = f"{STRATEGIES}?project_id=project-b"
        api.request(method, path, roles="manager", status=403)
        api.request(method, f"{path}{models.new_id()}", roles="manager", status=403)
    assert listed(api, "project_id=project-b", roles="admin") == [("", "c")]
    api.request("DELETE", f"{STRATEGIES}?project_id=project-b", roles="admin", status=202)
    assert listed(api, project="project-b") == []


@pytest.mark.parametrize(
    "body",
    [
        None,
        {},
        {"backup_strategy": {}},
        {"backup_strategy": {"swift_container": ""}},
        {"backup_strategy": {"swift_container": "..."}},
        {"backup_strategy": {"swift_container": "a/b"}},
        {"backup_strategy": {"swift_container": "c", "instance_id": "x"}},
        {"backup_strategy": {"swift_container": "c", "hat": "x"}},
    ],
)
def test_a_strategy_that_makes_no_sense_is_refused(api: api_fixture.Api, body: Any) -> None:
    api.request("POST", STRATEGIES, body, status=400)


def test_a_strategy_goes_with_its_instance(sqlite_database: base.Database) -> None:
    plane = control_plane.ControlPlane(sqlite_database)
    doomed, _ = plane.create()
    kept, _ = plane.create()
    plane.settle(plane.runner())
    with sqlite_database.writer() as session:
        for instance_id in (doomed, kept, backup_strategies.WHOLE_PROJECT):
            strategy = backup_strategies.Strategy(
                project_id=control_plane.PROJECT, instance_id=instance_id, container="c"
            )
            backup_strategies.put(session, strategy, now=plane.clock.now())
    plane.delete(doomed)
    plane.settle(plane.runner())
    with sqlite_database.reader() as session:
        left = backup_strategies.list_strategies(session, control_plane.PROJECT, instance_id=None)
    assert [strategy.instance_id for strategy in left] == ["", kept]
