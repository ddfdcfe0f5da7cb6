"""Clusters of datastores that have none."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fixtures import api as api_fixture
from trove.db import base, models


@pytest.fixture
def api(sqlite_database: base.Database) -> api_fixture.Api:
    api = api_fixture.make_api(sqlite_database)
    api.add_datastore()
    return api


def test_clients_find_an_empty_list_and_no_cluster(api: api_fixture.Api) -> None:
    assert api.get("/clusters?limit=5&marker=x") == {"clusters": []}
    api.request("GET", "/clusters?limit=x", status=400)
    for path in ("/clusters/x", "/clusters/x/instances/y", "/clusters/x/root"):
        assert "Cluster x" in api.request("GET", path, status=404).text
    api.request("POST", "/clusters/x/root", status=404)
    api.request("DELETE", "/clusters/x", status=404)
    api.request("GET", "/clusters/x/instances", status=404)


@pytest.mark.parametrize(
    ("values", "status", "text"),
    [
        ({"name": None}, 400, "name is missing"),
        ({"instances": None}, 400, "instances is missing"),
        ({"datastore": {"type": "mariadb"}}, 400, "version is missing"),
        ({"instances": [{}]}, 400, "flavorRef is missing"),
        ({"instances": [{"flavorRef": 1, "volume": {}}]}, 400, "size is missing"),
        ({"locality": "far"}, 400, "cluster.locality"),
        ({"datastore": {"type": "nothing", "version": "1"}}, 404, "nothing"),
        ({"datastore": {"type": "mariadb", "version": "1"}}, 400, "there is none"),
        ({}, 501, "not supported for datastore mariadb: cluster"),
    ],
)
def test_a_cluster_is_checked_and_then_refused(
    api: api_fixture.Api, values: dict[str, Any], status: int, text: str
) -> None:
    body = {
        "name": "c",
        "datastore": {"type": "mariadb", "version": "10.11"},
        "instances": [{"flavorRef": 1, "volume": {"size": 1}, "region": "r"}] * 3,
        **values,
    }
    body = {"cluster": {key: value for key, value in body.items() if value is not None}}
    answer = api.request("POST", "/clusters", body, status=status)
    (fault,) = answer.json.values()
    assert text in fault["message"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 400),
        ({"dance": {}}, 400),
        ({"restart": {}, "add_shard": {}}, 400),
        ({"restart": {"now": True}}, 400),
        ({"grow": [{}]}, 400),
        ({"shrink": [{"id": "x"}]}, 400),
        ({"upgrade": {}}, 400),
        ({"configuration_attach": {"configuration_id": "x"}}, 400),
        ({"restart": {}}, 404),
        ({"restart": None}, 404),
        ({"grow": [{"flavorRef": "1", "name": "n"}]}, 404),
        ({"shrink": [{"id": models.new_id()}]}, 404),
        ({"upgrade": {"datastore_version": "x"}}, 404),
        ({"configuration_attach": {"configuration_id": models.new_id()}}, 404),
        ({"configuration_detach": {}}, 404),
        ({"add_shard": {}}, 404),
    ],
)
def test_an_action_is_checked_before_the_cluster_is_looked_for(
    api: api_fixture.Api, body: dict[str, Any], status: int
) -> None:
    api.request("POST", "/clusters/x", body, status=status)


def test_resetting_the_status_is_for_administrators_and_forcing_for_managers(
    api: api_fixture.Api,
) -> None:
    for arguments, role, status in (
        ({}, "manager", 403),
        ({}, "admin", 404),
        (None, "admin", 404),
        ({"force_delete": 1}, "member", 403),
        ({"force_delete": 1}, "manager", 404),
    ):
        body = {"reset-status": arguments}
        api.request("POST", "/clusters/x", body, roles=role, status=status)


def test_operators_see_none_either(api: api_fixture.Api) -> None:
    for query in ("", "deleted=true", "deleted=false"):
        assert api.get(f"/mgmt/clusters?{query}", roles="admin") == {"clusters": []}
    api.request("GET", "/mgmt/clusters?deleted=x", roles="admin", status=400)
    api.request("GET", "/mgmt/clusters/x", roles="admin", status=404)
    for body, status in (({"reset-task": {}}, 404), ({"dance": {}}, 400), ({}, 400)):
        api.request("POST", "/mgmt/clusters/x/action", body, roles="admin", status=status)
