"""What gophercloud (openstack/db/v1) sends and how it reads the answers, request by request.

There is no Go here: each test sends a body that the library makes, checks the status against the
codes it accepts, and reads the answer as its structs would: a string where the struct has a
string, times in the layout without a zone, and so on.
"""

from __future__ import annotations

import datetime
from typing import Any

import pytest

from tests.fixtures import api as api_fixture
from trove.db import base

_NETWORK = "2c1f7d64-5a0e-4ad5-9a6c-3ac5a0a47e5f"


@pytest.fixture
def api(sqlite_database: base.Database) -> api_fixture.Api:
    made = api_fixture.make_api(sqlite_database)
    made.add_datastore()
    return made


@pytest.fixture
def instance_id(api: api_fixture.Api) -> str:
    return api.create_instance(active=True)


def _time(text: str) -> datetime.datetime:
    """Read a time as gophercloud.JSONRFC3339NoZ does."""
    return datetime.datetime.strptime(f"{text}+0000", "%Y-%m-%dT%H:%M:%S%z")


def _read_instance(document: dict[str, Any]) -> None:
    """Read an instance into the fields of instances.Instance."""
    assert isinstance(document["id"], str)
    assert isinstance(document["name"], str)
    assert isinstance(document["status"], str)
    assert isinstance(document["flavor"]["id"], str)
    assert all(isinstance(document["datastore"][key], str) for key in ("type", "version"))
    assert isinstance(document["volume"]["size"], int)
    for link in document["links"]:
        assert set(link) == {"href", "rel"}
    assert all(isinstance(address, str) for address in document.get("ip", []))
    for address in document.get("addresses", []):
        assert isinstance(address["type"], str)
        assert isinstance(address["address"], str)
    for key in ("created", "updated"):
        if key in document:
            _time(document[key])
    if "fault" in document:
        _time(document["fault"]["created"])


def test_instances_create_sends_every_option(api: api_fixture.Api) -> None:
    body = {
        "instance": {
            "name": "json_rack_instance",
            "flavorRef": "1",
            "volume": {"size": 2},
            "databases": [
                {"name": "sampledb", "character_set": "utf8", "collate": "utf8_general_ci"}
            ],
            "users": [
                {
                    "name": "demouser",
                    "password": "demopassword",
                    "databases": [{"name": "sampledb"}],
                }
            ],
            # what a caller leaves out of DatastoreOpts is sent as an empty string
            "datastore": {"type": "mariadb", "version": ""},
            "nics": [{"net-id": _NETWORK}],
        }
    }
    created = api.request("POST", "/instances", body, status=200).json["instance"]
    _read_instance(created)
    # what the service cannot do is said, and nothing is made
    for nic, told in (
        ({"port-id": "x"}, "port-id"),
        ({"net-id": _NETWORK, "v4-fixed-ip": "10.0.0.7"}, "subnet"),
    ):
        refused = {"instance": {**body["instance"], "nics": [nic]}}
        answer = api.request("POST", "/instances", refused, status=400)
        assert told in answer.json["badRequest"]["message"]
    assert len(api.get("/instances")["instances"]) == 1


def test_instances_list_pages_by_links(api: api_fixture.Api, instance_id: str) -> None:
    api.create_instance()
    first = api.get("/instances?limit=1")
    (item,) = first["instances"]
    _read_instance(item)
    (link,) = first.get("instances_links") or first["links"]
    assert link["rel"] == "next"
    path = link["href"].partition("/v1.0/project-a")[2]
    second = api.get(path)
    assert [each["id"] for each in second["instances"]] != [item["id"]]
    assert not second.get("instances_links")


def test_instances_get_and_delete(api: api_fixture.Api, instance_id: str) -> None:
    _read_instance(api.get(f"/instances/{instance_id}")["instance"])
    assert api.request("DELETE", f"/instances/{instance_id}").status_int in (202, 204)


def test_instances_root(api: api_fixture.Api, instance_id: str) -> None:
    # a POST without a body; only 200 is accepted
    enabled = api.request("POST", f"/instances/{instance_id}/root", status=200).json["user"]
    assert isinstance(enabled["name"], str)
    assert isinstance(enabled["password"], str)
    assert api.get(f"/instances/{instance_id}/root")["rootEnabled"] is True


@pytest.mark.parametrize(
    "body",
    [
        {"restart": {}},
        {"resize": {"flavorRef": "2"}},
        {"resize": {"volume": {"size": 4}}},
    ],
)
def test_instances_actions(api: api_fixture.Api, instance_id: str, body: Any) -> None:
    api.request("POST", f"/instances/{instance_id}/action", body, status=202)


def test_instances_attach_and_detach_configuration_group(
    api: api_fixture.Api, instance_id: str
) -> None:
    group = _create_group(api)
    attach = {"instance": {"configuration": group["id"]}}
    api.request("PUT", f"/instances/{instance_id}", attach, status=202)
    api.make_active(instance_id)
    api.request("PUT", f"/instances/{instance_id}", {"instance": {}}, status=202)


def test_databases_create_list_and_delete(api: api_fixture.Api, instance_id: str) -> None:
    body = {
        "databases": [
            {"name": "testingdb", "character_set": "utf8", "collate": "utf8_general_ci"},
            {"name": "sampledb"},
        ]
    }
    url = f"/instances/{instance_id}/databases"
    assert api.request("POST", url, body).status_int in (201, 202)
    listed = api.get(url)
    assert {each["name"] for each in listed["databases"]} >= {"testingdb", "sampledb"}
    assert not listed.get("databases_links")
    assert api.request("DELETE", f"{url}/testingdb").status_int in (202, 204)


def test_users_create_list_and_delete(api: api_fixture.Api, instance_id: str) -> None:
    api.request(
        "POST", f"/instances/{instance_id}/databases", {"databases": [{"name": "databaseA"}]}
    )
    body = {
        "users": [
            {"databases": [{"name": "databaseA"}], "name": "dbuser3", "password": "secretsecret"},
            {"databases": [{"name": "databaseA"}], "name": "dbuser4", "password": "secretsecret"},
        ]
    }
    url = f"/instances/{instance_id}/users"
    assert api.request("POST", url, body).status_int in (201, 202)
    listed = api.get(url)["users"]
    assert {each["name"] for each in listed} == {"dbuser3", "dbuser4"}
    assert all(each["databases"] == [{"name": "databaseA"}] for each in listed)
    assert api.request("DELETE", f"{url}/dbuser3").status_int in (202, 204)


def _create_group(api: api_fixture.Api, **values: Any) -> dict[str, Any]:
    body = {
        "configuration": {
            "datastore": {"type": "mariadb", "version": "10.11"},
            "description": "description",
            "name": "example-configuration-name",
            "values": {"connect_timeout": 17, **values},
        }
    }
    created = api.request("POST", "/configurations", body, status=200).json["configuration"]
    return dict(created)


def _read_group(document: dict[str, Any]) -> None:
    for key in (
        "id",
        "name",
        "description",
        "datastore_name",
        "datastore_version_id",
        "datastore_version_name",
    ):
        assert isinstance(document[key], str), key
    _time(document["created"])
    _time(document["updated"])


def test_configurations_create_get_list(api: api_fixture.Api) -> None:
    group = _create_group(api)
    _read_group(group)
    assert group["values"] == {"connect_timeout": 17}
    _read_group(api.get(f"/configurations/{group['id']}")["configuration"])
    (listed,) = api.get("/configurations")["configurations"]
    _read_group(listed)


def test_configurations_update_merges_and_replace_replaces(api: api_fixture.Api) -> None:
    group = _create_group(api)
    url = f"/configurations/{group['id']}"
    update = {"configuration": {"values": {"max_connections": 99}}}
    assert api.request("PATCH", url, update).status_int in (200, 202, 204)
    assert api.get(url)["configuration"]["values"] == {
        "connect_timeout": 17,
        "max_connections": 99,
    }
    replace = {"configuration": {"values": {"max_connections": 88}}}
    assert api.request("PUT", url, replace).status_int in (201, 202)
    assert api.get(url)["configuration"]["values"] == {"max_connections": 88}
    assert api.get(f"{url}/instances")["instances"] == []
    assert api.request("DELETE", url).status_int in (202, 204)


def test_configurations_parameters(api: api_fixture.Api) -> None:
    (version,) = api.get("/datastores/mariadb/versions")["versions"]
    for url in (
        f"/datastores/mariadb/versions/{version['id']}/parameters",
        f"/datastores/versions/{version['id']}/parameters",
    ):
        listed = api.get(url)["configuration-parameters"]
        one = api.get(f"{url}/max_connections")
        assert one in listed
        for parameter in listed:
            assert isinstance(parameter["restart_required"], bool)
            # into float64
            for key in ("min", "max"):
                assert isinstance(parameter.get(key, 0), int | float)


def test_datastores_list_get_and_versions(api: api_fixture.Api) -> None:
    (store,) = api.get("/datastores")["datastores"]
    assert store["default_version"] in {each["id"] for each in store["versions"]}
    shown = api.get(f"/datastores/{store['id']}")["datastore"]
    assert shown["name"] == "mariadb"
    (version,) = api.get(f"/datastores/{store['id']}/versions")["versions"]
    assert {link["rel"] for link in version["links"]} == {"self", "bookmark"}
    shown = api.get(f"/datastores/{store['id']}/versions/{version['id']}")["version"]
    assert shown["id"] == version["id"]


def test_flavors_list_and_get(api: api_fixture.Api) -> None:
    for flavor in api.get("/flavors")["flavors"]:
        assert flavor["id"] is None or isinstance(flavor["id"], int)
        assert isinstance(flavor["str_id"], str)
        assert isinstance(flavor["ram"], int)
        shown = api.get(f"/flavors/{flavor['str_id']}")["flavor"]
        assert shown["name"] == flavor["name"]


def test_quotas_get(api: api_fixture.Api) -> None:
    for quota in api.get("/mgmt/quotas/project-a")["quotas"]:
        assert isinstance(quota["resource"], str)
        assert all(isinstance(quota[key], int) for key in ("in_use", "reserved", "limit"))
