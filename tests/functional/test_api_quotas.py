"""Quotas through the API."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fixtures import api as api_fixture
from trove.db import base, quotas

PATH = f"/mgmt/quotas/{api_fixture.PROJECT}"
DEFAULTS = {"instances": 10, "ram": -1, "volumes": 40, "backups": 50}


@pytest.fixture
def api(sqlite_database: base.Database) -> api_fixture.Api:
    return api_fixture.make_api(sqlite_database)


def shown(api: api_fixture.Api, path: str = PATH, **options: Any) -> dict[str, dict[str, int]]:
    rows = api.get(path, **options)["quotas"]
    assert [row["resource"] for row in rows] == list(quotas.RESOURCES)
    return {row.pop("resource"): row for row in rows}


def test_a_project_sees_its_own_quotas_and_nobody_elses(api: api_fixture.Api) -> None:
    api.add_datastore()
    api.create_instance()
    assert shown(api, roles="reader") == {
        "instances": {"in_use": 1, "reserved": 0, "limit": 10},
        "ram": {"in_use": 256, "reserved": 0, "limit": -1},
        "volumes": {"in_use": 1, "reserved": 0, "limit": 40},
        "backups": {"in_use": 0, "reserved": 0, "limit": 50},
    }
    answer = api.request("GET", PATH, project="project-b", status=403)
    assert "mgmt:quota:show" in answer.json["forbidden"]["message"]
    assert shown(api, project="project-b", roles="admin")["instances"]["in_use"] == 1
    # nobody checks whether there is such a project
    unknown = shown(api, "/mgmt/quotas/nobody", roles="admin")
    assert {name: row["limit"] for name, row in unknown.items()} == DEFAULTS
    api.request("GET", "/mgmt/quotas", roles="admin", status=404)


def test_what_is_held_for_a_change_is_shown_as_reserved(api: api_fixture.Api) -> None:
    with api.database.writer() as session:
        quotas.reserve(session, api_fixture.PROJECT, {"ram": 256}, defaults=DEFAULTS)
        quotas.hold(session, api_fixture.PROJECT, {"ram": 100}, operation_id="o", defaults=DEFAULTS)
    assert shown(api)["ram"] == {"in_use": 256, "reserved": 100, "limit": -1}


def test_limits_are_set_by_operators_and_count_at_once(api: api_fixture.Api) -> None:
    api.add_datastore()
    given = {"instances": 1, "volumes": -1, "ram": None}
    api.request("PUT", PATH, {"quotas": given}, status=403, roles="manager")
    answer = api.request("PUT", PATH, {"quotas": given}, project="project-b", roles="admin")
    assert answer.status_int == 200
    assert answer.json == {"quotas": {"instances": 1, "volumes": -1}}
    limits = {name: row["limit"] for name, row in shown(api).items()}
    assert limits == {"instances": 1, "ram": -1, "volumes": -1, "backups": 50}
    assert api.get("/limits")["limits"][0]["max_instances"] == 1
    api.create_instance()
    body = {"instance": {"name": "x", "flavorRef": "1", "volume": {"size": 1}}}
    refused = api.request("POST", "/instances", body, status=413)
    assert refused.json["overLimit"]["message"] == ("Quota exceeded for resources: ['instances'].")
    api.request("PUT", PATH, {"quotas": {"instances": 2}}, roles="admin", status=200)
    api.create_instance()


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        (None, 400, "no body"),
        ({}, 400, "quotas is missing"),
        ({"quotas": {}}, 400, "at least 1"),
        ({"quotas": {"instances": "5"}}, 400, "quotas.instances"),
        ({"quotas": {"instances": True}}, 400, "quotas.instances"),
        ({"quotas": {"instances": 1.5}}, 400, "quotas.instances"),
        ({"quotas": {"instances": -2}}, 400, "at least -1"),
        ({"quotas": {"instances": 2**31}}, 400, "at most"),
        ({"quotas": {"instances": 1, "hats": 1}}, 404, "'hats'"),
    ],
)
def test_bad_limits_are_refused_and_nothing_is_set(
    api: api_fixture.Api, body: Any, status: int, text: str
) -> None:
    answer = api.request("PUT", PATH, body, roles="admin", status=status)
    (fault,) = answer.json.values()
    assert text in fault["message"]
    assert {name: row["limit"] for name, row in shown(api).items()} == DEFAULTS


def test_an_administrators_deletion_is_given_back_to_the_owner(api: api_fixture.Api) -> None:
    api.add_datastore()
    api.create_instance()
    theirs = api.create_instance(project="project-b")
    api.request("DELETE", f"/instances/{theirs}", roles="admin", status=202)
    with api.database.reader() as session:
        # charged to the owner until the deletion has ended, which gives back by the row's project
        assert quotas.get_usage(session, "project-b")["instances"] == 1
    assert shown(api)["instances"]["in_use"] == 1
