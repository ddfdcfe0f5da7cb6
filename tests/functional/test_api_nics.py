"""Networks that requests name, and where instances are reached."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from tests.fixtures import api as api_fixture
from trove.common import exception
from trove.db import base, models

NICS = [{"network_id": "9b1d5c6e-0d5b-4f0a-8f43-0d8f2f1f5a11"}]


@pytest.fixture
def api(sqlite_database: base.Database) -> api_fixture.Api:
    made = api_fixture.make_api(sqlite_database)
    made.add_datastore()
    return made


def create(api: api_fixture.Api, status: int, **more: Any) -> Any:
    instance = {"name": "db", "flavorRef": "1", "volume": {"size": 1}, **more}
    return api.request("POST", "/instances", {"instance": instance}, status=status).json


def count(api: api_fixture.Api) -> int:
    with api.database.reader() as session:
        found = session.scalar(sa.select(sa.func.count()).select_from(models.Instance))
    return int(found or 0)


def test_a_network_that_is_not_the_callers_is_refused_and_nothing_is_stored(
    api: api_fixture.Api,
) -> None:
    api.network.injector.fail(
        "check_nic", exception.BadRequest(reason="nics: network x cannot be found")
    )
    fault = create(api, 400, nics=NICS)["badRequest"]
    assert fault["message"] == "Bad request: nics: network x cannot be found"
    assert (count(api), api.taskmanager.hints) == (0, [])
    create(api, 200, nics=NICS)


def test_while_nobody_says_whose_a_network_is_the_request_is_to_be_sent_again(
    api: api_fixture.Api,
) -> None:
    api.network.injector.fail(
        "check_nic", exception.DriverUnavailable(service="Neutron", reason="it is down")
    )
    assert "it is down" in create(api, 503, nics=NICS)["serviceUnavailable"]["message"]
    assert count(api) == 0


def test_where_there_is_no_default_network_one_must_be_named(api: api_fixture.Api) -> None:
    api.network.is_nic_required = True
    assert "there is no default one" in create(api, 400)["badRequest"]["message"]
    create(api, 200, nics=NICS)


def test_an_instance_with_a_name_is_shown_with_it_instead_of_its_addresses(
    api: api_fixture.Api,
) -> None:
    instance_id = create(api, 200)["instance"]["id"]
    addresses = [
        {"address": "10.0.0.3", "type": "private", "network": "n"},
        {"address": "203.0.113.9", "type": "public", "network": "n"},
    ]
    api.set_instance(instance_id, addresses=addresses)
    shown = api.get(f"/instances/{instance_id}")["instance"]
    assert shown["ip"] == ["10.0.0.3", "203.0.113.9"]
    assert shown["addresses"] == [addresses[0], {"address": "203.0.113.9", "type": "public"}]
    api.set_instance(instance_id, hostname="db.example.org")
    for path in (f"/instances/{instance_id}", "/instances", "/instances/detail"):
        document = api.get(path)
        shown = document.get("instance") or document["instances"][0]
        assert shown["hostname"] == "db.example.org"
        assert not {"ip", "addresses"} & set(shown)
