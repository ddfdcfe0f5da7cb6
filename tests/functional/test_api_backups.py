"""Backups and backup strategies."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import pytest

from tests.fixtures import api as api_fixture
from tests.fixtures import backups as agent
from tests.fixtures import control_plane
from tests.fixtures.database import new_backup
from trove import states
from trove.common import crypto
from trove.datastores import spec
from trove.db import backup_strategies, backups, base, models, operations, quotas
from trove.storage import filesystem, manifests

PROJECT = api_fixture.PROJECT
Status = states.BackupStatus
STRATEGIES = "/backup_strategies"


@pytest.fixture
def api(sqlite_database: base.Database, tmp_path: pathlib.Path) -> api_fixture.Api:
    return make_api(sqlite_database, tmp_path)


def make_api(database: base.Database, tmp_path: pathlib.Path) -> api_fixture.Api:
    objects = filesystem.FilesystemStore(tmp_path / "objects")
    api = api_fixture.make_api(database, objects=objects)
    api.add_datastore()
    return api


def message(api: api_fixture.Api, method: str, path: str, body: Any = None, **options: Any) -> str:
    (fault,) = api.request(method, path, body, **options).json.values()
    return str(fault["message"])


# -- backups -----


def create(api: api_fixture.Api, instance_id: str, **values: Any) -> dict[str, Any]:
    """Have a backup begun; ``who`` asks."""
    who = values.pop("who", {})
    body = {"backup": {"name": "b", "instance": instance_id, **values}}
    view: dict[str, Any] = api.request("POST", "/backups", body, status=202, **who).json["backup"]
    return view


def end(api: api_fixture.Api, backup_id: str, to: Status = Status.COMPLETED, **values: Any) -> str:
    """Let a backup and its operation be over; return its id."""
    now = api.clock.now()
    with api.database.writer() as session:
        view = backups.get(session, backup_id)
        steps = (Status.SAVING, to) if to is Status.COMPLETED else (to,)
        for status in steps:
            assert backups.change_status(
                session,
                backup_id,
                expect=backups.RUNNING & backups.TRANSITIONS[status],
                to=status,
                now=now,
                **values,
            )
    if view.instance_id is not None:
        api.make_active(view.instance_id)
    return backup_id


def made(api: api_fixture.Api, instance_id: str, **values: Any) -> str:
    """Have a backup made; return its id."""
    stored = values.pop("stored", {"stored_bytes": 1 << 20})
    api.clock.advance(1)
    return end(api, create(api, instance_id, **values)["id"], **stored)


def test_a_backup_is_shown_the_same_in_lists(api: api_fixture.Api) -> None:
    instance_id = api.create_instance(active=True)
    view = create(api, instance_id, description="mine")
    assert view == {
        "id": view["id"],
        "name": "b",
        "description": "mine",
        "locationRef": None,
        "instance_id": instance_id,
        "created": "2026-05-01T12:00:00",
        "updated": "2026-05-01T12:00:00",
        "size": None,
        "status": "NEW",
        "parent_id": None,
        "project_id": PROJECT,
        "datastore": {
            "type": "mariadb",
            "version": "10.11",
            "version_id": view["datastore"]["version_id"],
        },
        "storage_driver": "filesystem",
        "type": "full",
        "purpose": "manual",
        "schedule_id": None,
        "engine_version": None,
        "data_bytes": None,
        "stored_bytes": None,
        "verification": {"status": None, "verified_at": None, "details": {}},
    }
    assert api.get("/backups") == {"backups": [view]}
    assert api.get(f"/backups/{view['id']}")["backup"] == view
    assert api.get(f"/instances/{instance_id}/backups") == {"backups": [view]}
    end(api, view["id"], stored_bytes=3 << 29, data_bytes=9 << 30, location="http://x")
    view = api.get(f"/backups/{view['id']}")["backup"]
    assert (view["status"], view["size"], view["locationRef"]) == ("COMPLETED", 1.5, "http://x")
    assert api.get("/limits")["limits"][0]["max_backups"] == 50


def test_a_backup_is_a_snapshot_where_volumes_have_them(api: api_fixture.Api) -> None:
    instance_id = api.create_instance(active=True)
    body = {"backup": {"name": "b", "instance": instance_id, "storage_driver": "cinder"}}
    api.volumes.has_snapshots = False
    answer = message(api, "POST", "/backups", body, status=400)
    assert "the volumes of this service have no snapshots" in answer
    api.volumes.has_snapshots = True
    view = api.request("POST", "/backups", body, status=202).json["backup"]
    assert (view["storage_driver"], view["type"]) == ("cinder", "snapshot")
    assert api.get(f"/backups/{view['id']}")["backup"] == view
    with api.database.reader() as session:
        (making,) = operations.list_operations(session, kind=operations.SNAPSHOT_BACKUP, limit=1)
    assert making.data["backup_id"] == view["id"]


def test_the_instance_says_so_while_a_backup_is_made_of_it(api: api_fixture.Api) -> None:
    instance_id = api.create_instance(active=True)
    other_id = api.create_instance(active=True)
    backup_id = create(api, instance_id)["id"]
    for path in ("/instances", "/instances/detail"):
        words = {each["id"]: each["status"] for each in api.get(path)["instances"]}
        assert words == {instance_id: "BACKUP", other_id: "ACTIVE"}
    shown = api.get(f"/instances/{instance_id}")["instance"]
    assert (shown["status"], shown["operating_status"]) == ("BACKUP", "HEALTHY")
    (found,) = api.get("/instances?status=BACKUP")["instances"]
    assert found["id"] == instance_id
    (found,) = api.get("/instances?status=ACTIVE")["instances"]
    assert found["id"] == other_id
    (found,) = api.get("/mgmt/instances?limit=1", roles="admin", headers={})["instances"][:1]
    assert {"BACKUP", "ACTIVE"} >= {found["status"]}
    # nothing else begins meanwhile
    for action in ({"restart": {}}, {"resize": {"volume": {"size": 2}}}):
        path = f"/instances/{instance_id}/action"
        assert "BACKUP" in message(api, "POST", path, action, status=422)
    body = {"backup": {"name": "c", "instance": instance_id}}
    assert "BACKUP" in message(api, "POST", "/backups", body, status=422)
    end(api, backup_id)
    assert api.get(f"/instances/{instance_id}")["instance"]["status"] == "ACTIVE"


@pytest.mark.parametrize(
    ("path", "body"),
    [("/instances/{}/action", "reset_status"), ("/mgmt/instances/{}/action", "reset-task-status")],
)
def test_a_reset_fails_the_running_backup(api: api_fixture.Api, path: str, body: str) -> None:
    instance_id = api.create_instance(active=True)
    backup_id = create(api, instance_id)["id"]
    api.request("POST", path.format(instance_id), {body: {}}, roles="admin", status=202)
    view = api.get(f"/backups/{backup_id}")["backup"]
    assert view["status"] == "FAILED"
    assert "reset" in view["fault"]
    assert api.get(f"/instances/{instance_id}")["instance"]["status"] != "BACKUP"


def test_a_backup_of_an_instance_that_is_not_ready_is_refused(api: api_fixture.Api) -> None:
    instance_id = api.create_instance()
    body = {"backup": {"name": "b", "instance": instance_id}}
    assert "not ready" in message(api, "POST", "/backups", body, status=422)
    api.make_active(instance_id)
    # something that shows in no status holds it
    with api.database.writer() as session:
        operations.create(
            session,
            kind=operations.CONFIGURE_INSTANCE,
            resource_id=instance_id,
            lock_key=operations.instance_lock(instance_id),
            deadline=api.clock.now(),
            now=api.clock.now(),
            project_id=PROJECT,
        )
    assert "another operation" in message(api, "POST", "/backups", body, status=422)
    assert api.get("/backups") == {"backups": []}
    assert _in_use(api) == 0


def _in_use(api: api_fixture.Api, project: str = PROJECT) -> int:
    with api.database.reader() as session:
        return quotas.get_usage(session, project)["backups"]


def test_backups_count_in_the_quota_of_their_project(api: api_fixture.Api) -> None:
    limits = {"quotas": {"backups": 2}}
    api.request("PUT", f"/mgmt/quotas/{PROJECT}", limits, roles="admin", status=200)
    instance_id = api.create_instance(active=True)
    # an administrator of another project charges the owner
    full = made(api, instance_id, who={"project": "admins", "roles": "admin"})
    made(api, instance_id, parent_id=full)
    assert (_in_use(api), _in_use(api, "admins")) == (2, 0)
    body = {"backup": {"name": "b", "instance": instance_id}}
    assert "['backups']" in message(api, "POST", "/backups", body, status=413)


def test_lists_are_of_the_own_project_and_of_what_is_asked_for(api: api_fixture.Api) -> None:
    first = api.create_instance(active=True)
    second = api.create_instance(active=True)
    theirs = api.create_instance(active=True, project="project-b")
    ids = [made(api, first), made(api, second), made(api, first)]
    foreign = made(api, theirs, who={"project": "project-b"})

    def listed(query: str = "", **who: Any) -> list[str]:
        return [each["id"] for each in api.get(f"/backups?{query}", **who)["backups"]]

    assert listed() == ids[::-1]
    assert listed(roles="admin") == ids[::-1]
    assert listed(f"instance_id={first.upper()}") == [ids[2], ids[0]]
    assert listed(f"instance_id={theirs}") == []
    assert listed("datastore=mariadb&limit=1") == [ids[2]]
    assert listed("all_projects=True", roles="admin") == [foreign, *ids[::-1]]
    assert listed("project_id=project-b", roles="admin") == [foreign]
    api.add_datastore("redis", manager="redis")
    assert listed("datastore=redis") == []
    # nobody else's is there
    for method in ("GET", "DELETE"):
        api.request(method, f"/backups/{foreign}", status=404)
    assert api.get(f"/backups/{foreign}", roles="admin")["backup"]["project_id"] == "project-b"
    # another change comes first
    api.clock.advance(1)
    with api.database.writer() as session:
        backups.update(session, ids[0], name="n", now=api.clock.now())
    assert listed() == [ids[0], ids[2], ids[1]]


def test_pages_end_and_go_on_by_number(api: api_fixture.Api) -> None:
    instance_id = api.create_instance(active=True)
    ids = [made(api, instance_id) for _ in range(5)][::-1]
    for path in ("/backups", f"/instances/{instance_id}/backups"):
        found, query = [], "limit=2"
        for count in (2, 2, 1):
            page = api.get(f"{path}?{query}")
            assert len(page["backups"]) == count
            found += [each["id"] for each in page["backups"]]
            links = page.get("links")
            if links is not None:
                query = links[0]["href"].partition("?")[2]
        assert links is None
        assert found == ids
    assert "marker=4" in query


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
        ({"parent_id": models.new_id(), "incremental": 1}, 404, "cannot be found"),
        ({"storage_driver": "swift"}, 400, "not stored by swift here, but by filesystem"),
        ({"storage_driver": "cinder", "incremental": 1}, 400, "no increments of snapshots"),
        ({"storage_driver": "cinder", "swift_container": "mine"}, 400, "in no container"),
    ],
)
def test_a_backup_that_makes_no_sense_is_refused(
    api: api_fixture.Api, values: dict[str, Any], status: int, text: str
) -> None:
    body = {"name": "b", "instance": api.create_instance(active=True), **values}
    body = {"backup": {key: value for key, value in body.items() if value is not None}}
    assert text in message(api, "POST", "/backups", body, status=status)
    assert _in_use(api) == 0


def test_backups_need_an_engine_that_has_them_and_a_store(
    api: api_fixture.Api, sqlite_database: base.Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance_id = api.create_instance(active=True)
    body: dict[str, Any] = {"backup": {"name": "b", "instance": instance_id}}
    registry = spec.registry()
    able = registry["mariadb"]
    for lost, more in (
        (spec.Capability.INCREMENTS, {"incremental": 1}),
        (spec.Capability.BACKUP, {}),
    ):
        monkeypatch.setitem(
            registry,  # type: ignore[arg-type]
            "mariadb",
            dataclasses.replace(able, capabilities=able.capabilities - {lost}),
        )
        body["backup"] |= more
        assert "not supported for datastore mariadb" in message(
            api, "POST", "/backups", body, status=501
        )
    monkeypatch.setitem(registry, "mariadb", able)  # type: ignore[arg-type]
    storeless = api_fixture.make_api(sqlite_database)
    assert "no object store" in message(storeless, "POST", "/backups", body, status=501)


def test_an_increment_needs_a_parent_that_can_be_one(api: api_fixture.Api) -> None:
    instance_id = api.create_instance(active=True)
    other_id = api.create_instance(active=True)
    theirs = api.create_instance(active=True, project="project-b")
    foreign = made(api, theirs, who={"project": "project-b"})
    failed = end(api, create(api, instance_id)["id"], Status.FAILED)
    parent = made(api, instance_id)
    for parent_id, status, text in (
        (foreign, 404, "cannot be found"),
        (failed, 400, "it is FAILED"),
        (made(api, other_id), 400, "not of this instance"),
    ):
        body = {"backup": {"name": "b", "instance": instance_id, "parent_id": parent_id}}
        assert text in message(api, "POST", "/backups", body, status=status)
    explicit = made(api, instance_id, parent_id=parent.upper())
    implicit = made(api, instance_id, incremental=True)
    shown = api.get(f"/backups/{implicit}")["backup"]
    assert (shown["parent_id"], shown["type"]) == (explicit, "incremental")
    # one to another version of the engine is none
    (version_id,) = api.add_datastore("other", versions=("11.4",))
    api.set_instance(instance_id, datastore_version_id=version_id)
    view = create(api, instance_id, incremental=1)
    assert (view["parent_id"], view["type"]) == (None, "full")


def test_an_increment_of_nothing_is_a_full_backup(api: api_fixture.Api) -> None:
    instance_id = api.create_instance(active=True)
    assert create(api, instance_id, incremental=1)["type"] == "full"


def test_a_backup_goes_to_the_container_that_is_nearest(api: api_fixture.Api) -> None:
    instance_id = api.create_instance(active=True)

    def container(**values: Any) -> str | None:
        backup_id = made(api, instance_id, **values)
        with api.database.reader() as session:
            return backups.get(session, backup_id).container

    assert container() == "database_backups"
    put(api, "project-box")
    assert container() == "project-box"
    put(api, "instance-box", instance_id)
    assert container() == "instance-box"
    assert container(swift_container="asked-for") == "asked-for"


# -- deleted -----


def test_a_backup_is_deleted_with_its_increments_and_again(api: api_fixture.Api) -> None:
    instance_id = api.create_instance(active=True)
    full = made(api, instance_id)
    increment = made(api, instance_id, parent_id=full)
    for _ in range(2):
        api.request("DELETE", f"/backups/{full}", status=202)
    with api.database.reader() as session:
        (deletion,) = operations.list_operations(session, kind=operations.DELETE_BACKUP)
    assert deletion.data["backup_ids"] == [increment, full]
    assert deletion.id in api.taskmanager.hints
    # nothing is built on it any more
    body = {"backup": {"name": "b", "instance": instance_id, "parent_id": full}}
    assert "being deleted" in message(api, "POST", "/backups", body, status=400)
    assert create(api, instance_id, incremental=1)["parent_id"] is None


def test_what_is_running_is_deleted_by_force_only(api: api_fixture.Api) -> None:
    instance_id = api.create_instance(active=True)
    full = made(api, instance_id)
    api.clock.advance(1)
    running = create(api, instance_id, parent_id=full)["id"]
    for backup_id in (full, running):
        for query in ("", "?force=false"):
            path = f"/backups/{backup_id}{query}"
            assert "is running" in message(api, "DELETE", path, status=422)
    api.request("DELETE", f"/backups/{running}?force=maybe", status=400)
    api.request("DELETE", f"/backups/{running}?force=true", status=202)
    with api.database.reader() as session:
        (making,) = operations.list_operations(session, kind=operations.CREATE_BACKUP, limit=1)
    assert making.cancel == operations.UNDO


def test_there_is_no_unknown_backup_to_show_or_delete(api: api_fixture.Api) -> None:
    for backup_id in (models.new_id(), "anything"):
        api.request("GET", f"/backups/{backup_id}", status=404)
        api.request("DELETE", f"/backups/{backup_id}", status=404)


def test_a_version_is_not_removed_while_there_is_a_backup_of_it(api: api_fixture.Api) -> None:
    (version_id,) = api.add_datastore("other")
    backup_id = _add(api, version_id)
    path = f"/mgmt/datastore-versions/{version_id}"
    assert "1 backup" in message(api, "DELETE", path, roles="admin", status=400)
    with api.database.writer() as session:
        backups.mark_deleted(session, backup_id, now=api.clock.now())
    api.request("DELETE", path, roles="admin", status=202)


def _add(api: api_fixture.Api, version_id: str) -> str:
    new = new_backup(version_id, project_id=PROJECT, status=Status.RESTORED)
    with api.database.writer() as session:
        backups.create(session, new, now=api.clock.now())
    return new.id


# -- registered -----


def store(api: api_fixture.Api, tmp_path: pathlib.Path, **changes: Any) -> agent.Stored:
    """Store a backup as an agent of a service with the same key did."""
    objects = filesystem.FilesystemStore(tmp_path / "objects")
    ring = changes.pop("ring", api.key_ring)
    return agent.keep(objects, ring, account=PROJECT, container="box", **changes)


def register(
    api: api_fixture.Api, location: str, *, status: int, version_id: str | None = None, **who: Any
) -> Any:
    version_id = version_id or api.get("/datastores/mariadb/versions")["versions"][0]["id"]
    restore_from = {
        "remote_location": location,
        "local_datastore_version_id": version_id,
        "size": 1.5,
    }
    body = {"backup": {"name": "old", "restore_from": restore_from}}
    (answer,) = api.request("POST", "/backups", body, status=status, **who).json.values()
    return answer


def test_a_stored_backup_is_registered(api: api_fixture.Api, tmp_path: pathlib.Path) -> None:
    full = store(api, tmp_path)
    increment = store(api, tmp_path, parent=full.id)
    assert "register that one first" in register(api, increment.location, status=400)["message"]
    view = register(api, full.location, status=202)
    assert view["id"] == full.id
    assert (view["status"], view["instance_id"]) == ("RESTORED", None)
    assert view["locationRef"] == full.location
    assert view["stored_bytes"] == sum(map(len, agent.SEGMENTS))
    assert "registered already" in register(api, full.location, status=400)["message"]
    child = register(api, f"box/{increment.prefix}", status=202)
    assert (child["parent_id"], child["type"]) == (full.id, "incremental")
    assert _in_use(api) == 2
    with api.database.reader() as session:
        assert [each.id for each in backups.chain(session, increment.id)] == [
            full.id,
            increment.id,
        ]
        assert backups.get(session, full.id).volume_size_gib == 5
    # again, after it was deleted here
    with api.database.writer() as session:
        for backup_id in (increment.id, full.id):
            backups.mark_deleted(session, backup_id, now=api.clock.now())
    assert register(api, full.location, status=202)["id"] == full.id


def test_what_cannot_be_trusted_is_not_registered(
    api: api_fixture.Api, tmp_path: pathlib.Path
) -> None:
    other_ring = crypto.KeyRing([crypto.generate_key()])
    far = manifests.ArchiveStart(epoch=models.new_id(), sequence=2**64)
    foreign = store(api, tmp_path, owner="project-b")
    gap = store(api, tmp_path)
    account = filesystem.FilesystemStore(tmp_path / "objects").account(PROJECT)
    (first, *_) = account.list("box", prefix=gap.prefix)
    account.delete("box", first.name)
    for location, text in (
        ("nothing", "does not tell"),
        ("http://swift/v1/other/a/b", "does not tell"),
        ("http://swift/v1/AUTH_x/box/nothing", "no backup of this project"),
        (f"http://swift/v1/AUTH_{PROJECT}/box/nothing", "cannot be found"),
        ("box/nothing", "cannot be found"),
        (store(api, tmp_path, ring=other_ring).location, "key_encryption_keys"),
        (store(api, tmp_path, manager="redis").location, "one of redis"),
        (gap.location, "is missing"),
        (store(api, tmp_path, archive=far).location, "too large"),
        (foreign.location, "no backup of this project"),
    ):
        assert text in register(api, location, status=400)["message"]
    assert register(api, foreign.location, status=202, roles="admin")["project_id"] == PROJECT
    unknown = models.new_id()
    assert unknown in register(api, gap.location, status=400, version_id=unknown)["message"]


def test_events_tell_of_backups(api: api_fixture.Api, tmp_path: pathlib.Path) -> None:
    instance_id = api.create_instance(active=True)
    backup_id = made(api, instance_id)
    register(api, store(api, tmp_path).location, status=202)
    api.request("DELETE", f"/backups/{backup_id}", status=202)
    found = [each for each in api.get("/events")["events"] if each["type"].startswith("backup.")]
    assert [each["type"] for each in found] == [
        "backup.create.accepted",
        "backup.registered",
        "backup.delete.accepted",
    ]
    assert (found[0]["resource_type"], found[0]["resource_id"]) == ("backup", backup_id)


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
