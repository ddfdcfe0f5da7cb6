"""What trove-dashboard asks and reads, panel by panel.

The dashboard goes through python-troveclient; the bodies here are those that its workflows lead to,
and each test reads the answers as its tables, tabs and actions do.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.fixtures import api as api_fixture
from trove import states
from trove.db import base

#: States in which a row of the table is asked for again, and those it takes for good or bad.
_POLLED = {"BUILD", "REBOOT", "RESIZE", "BACKUP", "RESTART_REQUIRED"}
_GOOD = {"ACTIVE", "HEALTHY", "BLOCKED"}
_BAD = {"FAILED", "SHUTDOWN", "ERROR"}


@pytest.fixture
def api(sqlite_database: base.Database) -> api_fixture.Api:
    made = api_fixture.make_api(sqlite_database)
    made.add_datastore()
    return made


@pytest.fixture
def instance_id(api: api_fixture.Api) -> str:
    return api.create_instance(active=True)


def _show(api: api_fixture.Api, instance_id: str) -> dict[str, Any]:
    return dict(api.get(f"/instances/{instance_id}")["instance"])


def test_launch_workflow_sends_all_its_steps(api: api_fixture.Api) -> None:
    body = {
        "instance": {
            "name": "launched",
            "flavorRef": "1",
            "volume": {"size": 1, "type": None},
            "datastore": {"type": "mariadb", "version": "10.11"},
            "databases": [{"name": "shop"}],
            "users": [
                {"name": "ann", "password": "s3cret", "host": "%", "databases": [{"name": "shop"}]}
            ],
            "nics": [{"net-id": "2c1f7d64-5a0e-4ad5-9a6c-3ac5a0a47e5f"}],
            "locality": "affinity",
            "access": {"is_public": True, "allowed_cidrs": ["10.0.0.0/8"]},
        }
    }
    api.request("POST", "/instances", body, status=200)


def test_table_reads_rows_without_asking_again(api: api_fixture.Api, instance_id: str) -> None:
    (row,) = api.get("/instances?limit=20&include_clustered=False")["instances"]
    assert row["flavor"]["id"] == "1"
    assert row["datastore"]["type"] == "mariadb"
    assert row["datastore"]["version"]
    assert row["volume"]["size"] == 1
    assert row["ip"][0] == row["addresses"][0]["address"]
    # a table without these keys asks for each row
    assert isinstance(row["access"], dict)
    assert row["status"] in _GOOD
    assert row["operating_status"] in _GOOD


@pytest.mark.parametrize(
    ("task", "known"),
    [
        (states.TaskStatus.BUILDING, _POLLED),
        (states.TaskStatus.REBOOTING, _POLLED),
        (states.TaskStatus.RESIZING, _POLLED),
        (states.TaskStatus.RESTART_REQUIRED, _POLLED),
        (states.TaskStatus.DELETING, _BAD),
        (states.TaskStatus.BUILDING_ERROR_SERVER, _BAD),
        (states.TaskStatus.UPDATING, _GOOD),
    ],
)
def test_states_of_rows_are_words_it_knows(
    api: api_fixture.Api, instance_id: str, task: states.TaskStatus, known: set[str]
) -> None:
    api.set_instance(instance_id, task=task)
    assert _show(api, instance_id)["status"] in known


def test_overview_tab_reads_the_detail(api: api_fixture.Api, instance_id: str) -> None:
    shown = _show(api, instance_id)
    for key in ("created", "updated", "volume", "flavor", "datastore", "access", "addresses"):
        assert key in shown
    # absent, never null: the tab asks by hasattr
    for key in ("configuration", "fault", "replica_of", "replicas", "hostname"):
        assert key not in shown
    assert api.get(f"/instances/{instance_id}/root")["rootEnabled"] is False


def test_edit_dialogue_sends_name_and_cidrs_together(
    api: api_fixture.Api, instance_id: str
) -> None:
    edit = {"name": "edited", "access": {"allowed_cidrs": ["10.0.0.0/8", "2001:db8::/32"]}}
    api.request("PUT", f"/instances/{instance_id}", {"instance": edit}, status=202)
    assert _show(api, instance_id)["name"] == "edited"


@pytest.mark.parametrize(
    "action",
    [{"restart": {}}, {"resize": {"volume": {"size": 2}}}, {"resize": {"flavorRef": "2"}}],
)
def test_row_actions(api: api_fixture.Api, instance_id: str, action: dict[str, Any]) -> None:
    api.request("POST", f"/instances/{instance_id}/action", action, status=202)
    assert _show(api, instance_id)["status"] in _POLLED


def test_replica_actions_are_refused_in_words(api: api_fixture.Api, instance_id: str) -> None:
    for action in ("promote_to_replica_source", "eject_replica_source"):
        refused = api.request("POST", f"/instances/{instance_id}/action", {action: {}}, status=400)
        assert "not a replica" in refused.json["badRequest"]["message"]


def test_stop_database_is_for_superusers(api: api_fixture.Api, instance_id: str) -> None:
    path = f"/mgmt/instances/{instance_id}/action"
    api.request("POST", path, {"stop": {}}, status=403)
    api.request("POST", path, {"stop": {}}, roles="admin", status=202)


def test_users_and_databases_tabs(api: api_fixture.Api, instance_id: str) -> None:
    one = f"/instances/{instance_id}"
    api.request("POST", f"{one}/databases", {"databases": [{"name": "shop"}]}, status=202)
    user = {"name": "ann", "password": "s3cret", "host": "10.0.0.%", "databases": []}
    api.request("POST", f"{one}/users", {"users": [user]}, status=202)
    (listed,) = api.get(f"{one}/users")["users"]
    assert (listed["name"], listed["host"]) == ("ann", "10.0.0.%")
    who = f"{one}/users/ann%4010%2e0%2e0%2e%25"
    api.request("PUT", f"{who}/databases", {"databases": [{"name": "shop"}]}, status=202)
    assert api.get(f"{who}/databases")["databases"] == [{"name": "shop"}]
    api.request("DELETE", f"{who}/databases/shop", status=202)
    edit = {"user": {"name": "bob", "password": "n3w-secret", "host": "%"}}
    api.request("PUT", who, edit, status=202)
    api.request("DELETE", f"{one}/users/bob%40%25", status=202)
    api.request("DELETE", f"{one}/databases/shop", status=202)


def test_configuration_panel_edits_and_saves_the_whole_set(
    api: api_fixture.Api, instance_id: str
) -> None:
    # created empty, then filled
    body = {"configuration": {"name": "g", "values": {}, "datastore": {"type": "mariadb"}}}
    group = api.request("POST", "/configurations", body, status=200).json["configuration"]
    version = group["datastore_version_id"]
    parameters = api.get(f"/datastores/mariadb/versions/{version}/parameters")
    for parameter in parameters["configuration-parameters"]:
        assert {"name", "type", "restart_required"} <= set(parameter)
    save = {"configuration": {"values": {"max_connections": 88, "wait_timeout": 600}}}
    api.request("PUT", f"/configurations/{group['id']}", save, status=202)
    attach = {"instance": {"configuration": group["id"]}}
    api.request("PUT", f"/instances/{instance_id}", attach, status=202)
    api.make_active(instance_id)
    assert _show(api, instance_id)["configuration"]["id"] == group["id"]
    defaults = api.get(f"/instances/{instance_id}/configuration")["instance"]["configuration"]
    assert "max_connections" in defaults


def test_logs_tab_switches_and_publishes(api: api_fixture.Api, instance_id: str) -> None:
    path = f"/instances/{instance_id}/log"
    for log in api.get(path)["logs"]:
        assert {"name", "type", "status", "published", "pending", "container"} <= set(log)
    for change in ({"enable": 1}, {"disable": 1}):
        answer = api.request("POST", path, {"name": "general", **change}, status=200)
        assert answer.json["log"]["name"] == "general"


def test_backup_panels_say_so_where_there_is_no_object_store(
    api: api_fixture.Api, instance_id: str
) -> None:
    assert api.get("/backups")["backups"] == []
    assert api.get(f"/instances/{instance_id}/backups")["backups"] == []
    backup = {"backup": {"name": "b", "instance": instance_id, "incremental": 0}}
    api.request("POST", "/backups", backup, status=501)


def test_strategy_panel_deletes_by_both_ids_joined(api: api_fixture.Api, instance_id: str) -> None:
    for strategy in (
        {"swift_container": "c"},
        {"swift_container": "d", "instance_id": instance_id},
    ):
        body = {"backup_strategy": strategy}
        made = api.request("POST", "/backup_strategies", body, status=202).json["backup_strategy"]
        joined = f"{made['project_id']}{made['instance_id']}"
        api.request("DELETE", f"/backup_strategies?project_id={joined}", status=202)
    assert api.get("/backup_strategies")["backup_strategies"] == []


def test_cluster_panel_is_empty(api: api_fixture.Api) -> None:
    assert api.get("/clusters?limit=20")["clusters"] == []
    api.request("GET", "/clusters/none", status=404)
