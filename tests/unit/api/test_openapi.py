"""The description of the API: valid, complete, and true of the code it is made of."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema
import openapi_spec_validator
import pytest

from tests.fixtures import api as api_fixture
from trove import policies
from trove.api import faults, openapi, routing, validation
from trove.db import base


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> api_fixture.Api:
    # nothing here asks the database
    return api_fixture.make_api(base.Database("sqlite://"))


@pytest.fixture(scope="module")
def document(api: api_fixture.Api) -> dict[str, Any]:
    return api.raw("GET", "/v1.0/openapi.json", status=200).json


def _operations(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        operation
        for node in document["paths"].values()
        for method, operation in node.items()
        if method != "parameters"
    ]


def test_it_is_openapi_3_1(document: dict[str, Any]) -> None:
    openapi_spec_validator.validate(document)
    for schema in document["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)


def test_every_route_is_in_it_and_nothing_else(
    api: api_fixture.Api, document: dict[str, Any]
) -> None:
    described = {
        (method.upper(), path)
        for path, node in document["paths"].items()
        for method in node.keys() - {"parameters"}
    }
    routes = list(routing.list_routes(api.tree))
    assert described == {(route.method, route.path) for route in routes}
    for route in routes:
        operation = document["paths"][route.path][route.method.lower()]
        assert set(operation["responses"]) == {str(s) for s in openapi.list_statuses(route)}
        assert ("requestBody" in operation) == (route.handler.route.body is not None)


def test_operations_have_ids_of_their_own_and_say_what_they_do(document: dict[str, Any]) -> None:
    operations = _operations(document)
    ids = [operation["operationId"] for operation in operations]
    assert len(set(ids)) == len(ids)
    rules = {rule.name for rule in policies.list_rules()}
    for operation in operations:
        assert operation["summary"].endswith("."), operation["operationId"]
        assert operation.get("x-policy", "default") in rules
        assert "500" not in operation["responses"]


def test_it_needs_no_caller_and_its_public_paths_say_so(document: dict[str, Any]) -> None:
    public = {
        path
        for path, node in document["paths"].items()
        if node.get("get", {}).get("security") == []
    }
    assert public == {"/", "/v1.0", "/v1.0/openapi.json"}
    assert set(document["components"]["securitySchemes"]) == {"token", "basic"}


def test_every_reference_leads_somewhere_and_nothing_is_left_over(
    document: dict[str, Any],
) -> None:
    components = document["components"]
    referred = set(re.findall(r'"#/components/(\w+/\w+)"', json.dumps(document)))
    for kind in ("schemas", "parameters", "responses", "headers"):
        names = {f"{kind}/{name}" for name in components[kind]}
        assert names == {name for name in referred if name.startswith(f"{kind}/")}


def test_described_schemas_judge_as_those_of_the_routes(
    api: api_fixture.Api, document: dict[str, Any]
) -> None:
    """The names of parts must not be mixed up: hold what is described against what is served."""
    for route in routing.list_routes(api.tree):
        body: validation.Schema | None = route.handler.route.body
        if body is None:
            continue
        operation = document["paths"][route.path][route.method.lower()]
        described = operation["requestBody"]["content"]["application/json"]["schema"]
        assert _resolved(described, document) == _bare(body.document)


def _resolved(value: Any, document: dict[str, Any]) -> Any:
    """Put what references mean in their place, and drop what only people read."""
    if isinstance(value, list):
        return [_resolved(item, document) for item in value]
    if not isinstance(value, dict):
        return value
    if "$ref" in value:
        name = value["$ref"].rpartition("/")[2]
        return _resolved(document["components"]["schemas"][name], document)
    return {
        key: _resolved(item, document)
        for key, item in value.items()
        if key != "description" or isinstance(item, dict)
    }


def _bare(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_bare(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: _bare(item)
        for key, item in value.items()
        if key != "x-reason" and (key != "description" or isinstance(item, dict))
    }


def test_it_is_made_once_and_has_a_tag(api: api_fixture.Api) -> None:
    first = api.raw("GET", "/v1.0/openapi.json", status=200)
    again = api.raw("GET", "/v1.0/openapi.json", headers={"If-None-Match": first.headers["ETag"]})
    assert again.status_int == 304
    elsewhere = api.raw("GET", "/v1.0/openapi.json", headers={"Host": "db.example:8779"})
    assert elsewhere.json["servers"] == [{"url": "http://db.example:8779"}]
    assert elsewhere.json | {"servers": first.json["servers"]} == first.json


def test_every_fault_is_described(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    for status, name in faults.FAULT_NAMES.items():
        if f"Fault{status}" in schemas:
            assert schemas[f"Fault{status}"]["required"] == [name]
    # what has no description is a bug, or no operation's own
    missing = {s for s in faults.FAULT_NAMES if f"Fault{s}" not in schemas}
    assert missing == {405, 406, 500}
