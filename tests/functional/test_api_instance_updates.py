"""PUT and PATCH of an instance: what is immediate, what begins a change, what is refused."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from tests.fixtures import api as api_fixture
from trove import states
from trove.db import base, models, operations


@pytest.fixture
def api(sqlite_database: base.Database) -> api_fixture.Api:
    made = api_fixture.make_api(sqlite_database)
    made.add_datastore()
    return made


def _update(
    api: api_fixture.Api, instance_id: str, status: int, method: str = "PUT", **wanted: Any
) -> str:
    answer = api.request(method, f"/instances/{instance_id}", {"instance": wanted}, status=status)
    return str(answer.text)


def _show(api: api_fixture.Api, instance_id: str) -> dict[str, Any]:
    shown: dict[str, Any] = api.get(f"/instances/{instance_id}")["instance"]
    return shown


def _kinds(api: api_fixture.Api, instance_id: str) -> list[str]:
    with api.database.reader() as session:
        found = operations.list_operations(session, resource_id=instance_id, active_only=True)
    return [operation.kind for operation in found]


def _add_group(api: api_fixture.Api, **values: Any) -> str:
    now = api.clock.now()
    with api.database.writer() as session:
        (version_id,) = session.query(models.DatastoreVersion.id).first() or ("",)
        group = models.Configuration(
            project_id=api_fixture.PROJECT,
            name="mine",
            datastore_version_id=version_id,
            values={"max_connections": 100},
            digest="d",
            created=now,
            updated=now,
        )
        for name, value in values.items():
            setattr(group, name, value)
        session.add(group)
        session.flush()
        return group.id


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
def test_name_tags_and_protection_change_at_once_in_every_state(
    api: api_fixture.Api, method: str
) -> None:
    instance_id = api.create_instance()
    api.clock.advance(5)
    _update(api, instance_id, 202, method, name="new", tags=["b", "a"], deletion_protected=True)
    shown = _show(api, instance_id)
    assert shown["name"] == "new"
    assert shown["tags"] == ["b", "a"]
    assert shown["deletion_protected"] is True
    assert shown["updated"] == "2026-05-01T12:00:05"
    assert shown["status"] == "BUILD"
    _update(api, instance_id, 202, method, tags=[])
    shown = _show(api, instance_id)
    assert (shown["name"], shown["tags"], shown["deletion_protected"]) == ("new", [], True)


def test_a_refused_change_leaves_the_name(api: api_fixture.Api) -> None:
    instance_id = api.create_instance(active=True)
    _update(api, instance_id, 404, name="new", configuration=str(uuid.uuid4()))
    _update(api, instance_id, 400, name="new", replica_of="")
    _update(api, instance_id, 400, name="new", datastore_version="99")
    _update(api, instance_id, 400, name="new", access={"allowed_cidrs": ["10.0.0.0/99"]})
    _update(api, instance_id, 400, name="new", access={}, replica_of=None)
    api.set_instance(instance_id, task=states.TaskStatus.REBOOTING)
    _update(api, instance_id, 422, name="new", access={"is_public": True})
    assert _show(api, instance_id)["name"] == "db"


def test_an_accepted_change_comes_with_the_name(api: api_fixture.Api) -> None:
    instance_id = api.create_instance(active=True)
    _update(api, instance_id, 202, name="new", access={"is_public": True})
    assert _show(api, instance_id)["name"] == "new"
    assert _kinds(api, instance_id) == [operations.UPDATE_ACCESS]


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
@pytest.mark.parametrize("form", ["{}", "http://trove/v1.0/p/configurations/{}", "upper"])
def test_a_group_is_attached_by_id_or_url(api: api_fixture.Api, method: str, form: str) -> None:
    instance_id, group_id = api.create_instance(active=True), _add_group(api)
    given = group_id.upper() if form == "upper" else form.format(group_id)
    _update(api, instance_id, 202, method, configuration=given)
    shown = _show(api, instance_id)["configuration"]
    assert (shown["id"], shown["name"]) == (group_id, "mine")
    assert shown["links"][0]["href"].endswith(f"/configurations/{group_id}")
    assert _kinds(api, instance_id) == [operations.CONFIGURE_INSTANCE]
    listed = api.get("/instances/detail")["instances"][0]
    assert listed["configuration"]["id"] == group_id


@pytest.mark.parametrize("wanted", [{}, {"configuration": None}])
@pytest.mark.parametrize("method", ["PUT", "PATCH"])
def test_an_empty_update_and_null_detach_the_group(
    api: api_fixture.Api, method: str, wanted: dict[str, Any]
) -> None:
    instance_id = api.create_instance(active=True)
    _update(api, instance_id, 202, method, **wanted)
    assert _kinds(api, instance_id) == []
    api.set_instance(instance_id, configuration_id=_add_group(api))
    _update(api, instance_id, 202, method, **wanted)
    assert "configuration" not in _show(api, instance_id)
    assert _kinds(api, instance_id) == [operations.CONFIGURE_INSTANCE]


@pytest.mark.parametrize("value", [None, "", "x", str(uuid.uuid4()), {}, 1])
@pytest.mark.parametrize(
    ("method", "key"), [("PUT", "replica_of"), ("PATCH", "replica_of"), ("PATCH", "slave_of")]
)
def test_detaching_what_is_no_replica_is_refused_whatever_the_value(
    api: api_fixture.Api, method: str, key: str, value: object
) -> None:
    instance_id = api.create_instance(active=True)
    assert "is not a replica" in _update(api, instance_id, 400, method, **{key: value})
    api.set_instance(instance_id, replica_of_id=api.create_instance())
    said = _update(api, instance_id, 400, method, **{key: value})
    assert "replication is not supported for datastore mariadb" in said


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
def test_access_and_version_begin_their_operations(api: api_fixture.Api, method: str) -> None:
    instance_id = api.create_instance(active=True)
    _update(api, instance_id, 202, method, access={"allowed_cidrs": ["fd00::/8"]})
    assert _kinds(api, instance_id) == [operations.UPDATE_ACCESS]
    assert _show(api, instance_id)["operating_status"] == ""
    api.make_active(instance_id)
    now = api.clock.now()
    with api.database.writer() as session:
        version = session.query(models.DatastoreVersion).first()
        assert version is not None
        newer = models.DatastoreVersion(
            datastore_id=version.datastore_id,
            name="newer",
            version=version.version,
            manager=version.manager,
            image_id=models.new_id(),
            created=now,
            updated=now,
        )
        session.add(newer)
    _update(api, instance_id, 202, method, datastore_version="newer")
    assert _show(api, instance_id)["status"] == "UPGRADE"
    assert _show(api, instance_id)["datastore"]["version"] == "10.11"


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"name": ""}, "instance.name"),
        ({"name": None}, "instance.name"),
        ({"configuration": "x"}, "instance.configuration must be the id"),
        ({"datastore_version": 1}, "instance.datastore_version"),
        ({"access": None}, "instance.access"),
        ({"access": {"cidrs": []}}, "unknown keys 'cidrs'"),
        ({"tags": ["a", "b c"]}, "instance.tags.1 must be 1 to 60"),
        ({"deletion_protected": "yes"}, "instance.deletion_protected"),
        ({"flavorRef": "1"}, "unknown keys 'flavorRef'"),
        ({"replica_of": "", "configuration": None}, "Only one attribute (except 'name')"),
    ],
)
@pytest.mark.parametrize("method", ["PUT", "PATCH"])
def test_bad_updates_are_refused_with_the_reason(
    api: api_fixture.Api, method: str, wanted: dict[str, Any], said: str
) -> None:
    instance_id = api.create_instance(active=True)
    assert said in _update(api, instance_id, 400, method, **wanted)


def test_old_names_are_for_patch_and_bodies_are_needed(api: api_fixture.Api) -> None:
    instance_id = api.create_instance(active=True)
    assert "unknown keys 'slave_of'" in _update(api, instance_id, 400, slave_of="")
    for body in (None, {}, {"instance": None}, {"instance": []}, [], {"name": "x"}):
        api.request("PUT", f"/instances/{instance_id}", body, status=400)


def test_foreign_unknown_and_deleted_instances_are_not_found(api: api_fixture.Api) -> None:
    instance_id = api.create_instance(active=True)
    path, body = f"/instances/{instance_id}", {"instance": {"name": "mine now"}}
    api.request("PUT", path, body, status=404, project="project-b")
    api.request("PUT", path, body, status=202, project="ops", roles="admin")
    api.request("PUT", path, body, status=403, roles="reader")
    api.request("PUT", f"/instances/{uuid.uuid4()}", body, status=404)
    api.set_instance(instance_id, is_deleted=True)
    api.request("PUT", path, body, status=404)


# -- protection -----


def test_a_protected_instance_is_deleted_by_nobody_until_it_is_not(api: api_fixture.Api) -> None:
    instance_id = api.create_instance(active=True, instance={"deletion_protected": True})
    path = f"/instances/{instance_id}"
    hints = list(api.taskmanager.hints)
    refused = api.request("DELETE", path, status=409).json["conflict"]["message"]
    assert '{"instance": {"deletion_protected": false}}' in refused
    api.request("DELETE", path, status=409, project="ops", roles="admin")
    forced = {"reset_status": {"force_delete": True}}
    api.request("POST", f"{path}/action", forced, status=409, roles="admin")
    shown = _show(api, instance_id)
    assert (shown["status"], shown["operating_status"]) == ("ACTIVE", "HEALTHY")
    assert api.taskmanager.hints == hints
    _update(api, instance_id, 202, deletion_protected=False)
    api.request("DELETE", path, status=202)
    assert _show(api, instance_id)["status"] == "SHUTDOWN"


def test_what_is_being_deleted_cannot_be_protected_any_more(api: api_fixture.Api) -> None:
    instance_id = api.create_instance(active=True)
    api.request("DELETE", f"/instances/{instance_id}", status=202)
    assert "SHUTDOWN" in _update(api, instance_id, 422, deletion_protected=True)
    assert _show(api, instance_id)["deletion_protected"] is False
