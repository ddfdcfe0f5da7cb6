"""Actions of users: one a request, shown at once, refused with the reason."""

from __future__ import annotations

import datetime
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


def _act(api: api_fixture.Api, instance_id: str, body: Any, status: int, **options: Any) -> str:
    path = f"/instances/{instance_id}/action"
    return str(api.request("POST", path, body, status=status, **options).text)


def _operations(api: api_fixture.Api, instance_id: str) -> list[operations.Operation]:
    with api.database.reader() as session:
        found = operations.list_operations(session, resource_id=instance_id, active_only=True)
    return list(found)


def _show(api: api_fixture.Api, instance_id: str) -> dict[str, Any]:
    shown: dict[str, Any] = api.get(f"/instances/{instance_id}")["instance"]
    return shown


@pytest.mark.parametrize("arguments", [{}, None])
def test_restart_shows_at_once_and_needs_a_ready_instance(
    api: api_fixture.Api, arguments: object
) -> None:
    instance_id = api.create_instance()
    assert "BUILD" in _act(api, instance_id, {"restart": arguments}, 422)
    api.make_active(instance_id)
    _act(api, instance_id, {"restart": arguments}, 202)
    shown = _show(api, instance_id)
    assert (shown["status"], shown["operating_status"]) == ("REBOOT", "")
    _act(api, instance_id, {"restart": arguments}, 422)
    (operation,) = _operations(api, instance_id)
    assert operation.kind == operations.RESTART_INSTANCE
    assert operation.deadline - operation.created == datetime.timedelta(seconds=300)
    assert operation.request_id


@pytest.mark.parametrize(
    ("resize", "kind", "data"),
    [
        ({"volume": {"size": 2}}, operations.RESIZE_VOLUME, {"size_gib": 2}),
        ({"volume": {"size": "002"}}, operations.RESIZE_VOLUME, {"size_gib": 2}),
        ({"volume": {"size": 2, "type": None}}, operations.RESIZE_VOLUME, {"size_gib": 2}),
        ({"volume": 2}, operations.RESIZE_VOLUME, {"size_gib": 2}),
        ({"volume": "2"}, operations.RESIZE_VOLUME, {"size_gib": 2}),
        ({"flavorRef": "2"}, operations.RESIZE_FLAVOR, {"flavor_id": "2"}),
        ({"flavorRef": 2}, operations.RESIZE_FLAVOR, {"flavor_id": "2"}),
        ({"flavorRef": "http://nova/v2/flavors/2/"}, operations.RESIZE_FLAVOR, {"flavor_id": "2"}),
    ],
)
def test_resizes_are_taken_in_every_form_that_clients_send(
    api: api_fixture.Api, resize: dict[str, Any], kind: str, data: dict[str, Any]
) -> None:
    instance_id = api.create_instance(active=True)
    _act(api, instance_id, {"resize": resize}, 202)
    (operation,) = _operations(api, instance_id)
    assert operation.kind == kind
    assert data.items() <= operation.data.items()
    assert _show(api, instance_id)["status"] == "RESIZE"


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({}, 400, "must have at least 1"),
        (None, 400, "no body"),
        ({"restart": {}, "reset_status": {}}, 400, "must have at most 1"),
        ({"restart": 1}, 400, "restart is not of type object or null"),
        ({"restart": {"hard": True}}, 400, "restart must have at most 0"),
        ({"explode": {}}, 400, "unknown keys 'explode'"),
        ({"resize": {}}, 400, "resize must have at least 1"),
        ({"resize": None}, 400, "resize"),
        ({"resize": {"volume": {"size": 2}, "flavorRef": "2"}}, 400, "must have at most 1"),
        ({"resize": {"volume": {}}}, 400, "resize.volume must be a size"),
        ({"resize": {"volume": 0}}, 400, "resize.volume"),
        ({"resize": {"volume": 2.5}}, 400, "resize.volume"),
        ({"resize": {"volume": True}}, 400, "resize.volume"),
        ({"resize": {"volume": {"size": 1}}}, 400, "larger"),
        ({"resize": {"volume": {"size": 11}}}, 413, "largest accepted is 10"),
        ({"resize": {"volume": "9" * 40}}, 413, "largest accepted is 10"),
        ({"resize": {"flavorRef": "1"}}, 400, "already"),
        ({"resize": {"flavorRef": "9"}}, 400, "Flavor 9 cannot be found"),
        ({"resize": {"flavorRef": None}}, 400, "resize.flavorRef"),
        ({"resize": {"disk": 2}}, 400, "unknown keys 'disk'"),
        ({"promote_to_replica_source": {}}, 400, "is not a replica."),
        ({"promote_to_replica_source": None}, 400, "is not a replica."),
        ({"eject_replica_source": {}}, 400, "is not a replica source"),
        ({"eject_replica_source": 7}, 400, "eject_replica_source"),
        ({"reset_status": {}}, 403, "instance:reset_status"),
        ({"reset_status": {"force_delete": 1}}, 403, "instance:force_delete"),
        ({"reset_status": None}, 400, "reset_status is not of type object"),
        ({"reset_status": {"hard": 1}}, 400, "unknown keys 'hard'"),
    ],
)
def test_bad_actions_are_refused_with_the_reason_and_change_nothing(
    api: api_fixture.Api, body: Any, status: int, said: str
) -> None:
    instance_id = api.create_instance(active=True)
    assert said in _act(api, instance_id, body, status)
    assert _show(api, instance_id)["status"] == "ACTIVE"
    assert _operations(api, instance_id) == []


def test_replicas_and_sources_are_refused_by_what_the_datastore_can_do(
    api: api_fixture.Api,
) -> None:
    source, replica = api.create_instance(active=True), api.create_instance(active=True)
    api.set_instance(replica, replica_of_id=source)
    said = "replication is not supported for datastore mariadb"
    assert said in _act(api, source, {"eject_replica_source": {}}, 400)
    assert said in _act(api, replica, {"promote_to_replica_source": {}}, 400)
    assert "is not a replica source" in _act(api, replica, {"eject_replica_source": {}}, 400)
    assert "is not a replica." in _act(api, source, {"promote_to_replica_source": {}}, 400)


@pytest.mark.parametrize(
    "body",
    [
        {"restart": {}},
        {"resize": {"volume": 2}},
        {"resize": {"flavorRef": 2}},
        {"promote_to_replica_source": {}},
        {"eject_replica_source": {}},
        {"reset_status": {}},
    ],
)
def test_foreign_and_unknown_instances_are_not_found(
    api: api_fixture.Api, body: dict[str, Any]
) -> None:
    instance_id = api.create_instance(active=True)
    if "reset_status" not in body:
        _act(api, instance_id, body, 404, project="project-b")
    _act(api, str(uuid.uuid4()), body, 404, roles="admin")
    _act(api, instance_id, body, 403, roles="reader")


@pytest.mark.parametrize(
    ("task", "service", "status"),
    [
        (states.TaskStatus.NONE, states.ServiceStatus.HEALTHY, 202),
        (states.TaskStatus.RESTART_REQUIRED, states.ServiceStatus.HEALTHY, 202),
        (states.TaskStatus.NONE, states.ServiceStatus.SHUTDOWN, 202),
        (states.TaskStatus.NONE, states.ServiceStatus.CRASHED, 202),
        (states.TaskStatus.NONE, states.ServiceStatus.PAUSED, 422),
        (states.TaskStatus.NONE, states.ServiceStatus.NEW, 422),
        (states.TaskStatus.NONE, states.ServiceStatus.UNKNOWN, 422),
        (states.TaskStatus.UPGRADING, states.ServiceStatus.HEALTHY, 422),
        (states.TaskStatus.DELETING, states.ServiceStatus.HEALTHY, 422),
        (states.TaskStatus.UPGRADING_ERROR, states.ServiceStatus.HEALTHY, 422),
    ],
)
def test_actions_begin_only_on_what_is_ready(
    api: api_fixture.Api,
    task: states.TaskStatus,
    service: states.ServiceStatus,
    status: int,
) -> None:
    for body in ({"restart": {}}, {"resize": {"volume": 2}}, {"resize": {"flavorRef": 2}}):
        instance_id = api.create_instance(active=True)
        api.set_instance(instance_id, task=task)
        api.set_heartbeat(instance_id, service_status=service)
        _act(api, instance_id, body, status)


# -- reset_status -----


@pytest.mark.parametrize("task", states.TaskStatus)
def test_a_status_is_reset_in_every_state_but_a_deletion(
    api: api_fixture.Api, task: states.TaskStatus
) -> None:
    instance_id = api.create_instance(active=True)
    api.set_instance(instance_id, task=task)
    _act(api, instance_id, {"reset_status": {}}, 202, project="ops", roles="admin")
    shown = _show(api, instance_id)
    expected = ("ACTIVE", "ERROR") if task is not states.TaskStatus.DELETING else ("SHUTDOWN", "")
    assert (shown["status"], shown["operating_status"]) == expected
    api.request("DELETE", f"/instances/{instance_id}", status=202, project="ops", roles="admin")


def test_a_build_that_is_reset_is_taken_back_and_can_be_deleted(api: api_fixture.Api) -> None:
    instance_id = api.create_instance()
    (operation,) = _operations(api, instance_id)
    _act(api, instance_id, {"reset_status": {"force_delete": None}}, 202, roles="manager")
    shown = _show(api, instance_id)
    assert (shown["status"], shown["operating_status"]) == ("SHUTDOWN", "")
    (asked,) = _operations(api, instance_id)
    assert (asked.id, asked.cancel) == (operation.id, operations.UNDO)
    assert api.taskmanager.hints == [operation.id, operation.id]
    # until it has ended nothing else begins
    api.set_instance(instance_id, server_status=states.ServerStatus.ACTIVE)
    api.set_heartbeat(instance_id, service_status=states.ServiceStatus.HEALTHY)
    assert "another operation" in _act(api, instance_id, {"restart": {}}, 422)
    api.request("DELETE", f"/instances/{instance_id}", status=202)


def test_the_next_heartbeat_counts_after_a_reset(api: api_fixture.Api) -> None:
    instance_id = api.create_instance(active=True)
    api.set_heartbeat(instance_id, message="odd")
    _act(api, instance_id, {"reset_status": {}}, 202, roles="admin")
    with api.database.reader() as session:
        heartbeat = session.get(models.InstanceHeartbeat, instance_id)
        assert heartbeat is not None
        assert heartbeat.service_status is states.ServiceStatus.UNKNOWN
        assert heartbeat.received == api.clock.now()
    assert "fault" not in _show(api, instance_id)
    api.set_heartbeat(instance_id, service_status=states.ServiceStatus.HEALTHY)
    assert _show(api, instance_id)["operating_status"] == "HEALTHY"
