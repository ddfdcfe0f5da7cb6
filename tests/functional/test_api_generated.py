"""Requests generated from the API's own description: every answer is one that it describes.

A few requests for each operation, the same ones in every run; a service that runs is sent many more
by ``tools/faults/generated_requests.py``. That answers are of a described status and schema is also
checked by the fixture.
"""

from __future__ import annotations

import contextlib
from typing import Any

import hypothesis
import pytest
import schemathesis
from schemathesis import GenerationMode
from schemathesis.specs.openapi import checks

from tests.fixtures import api as api_fixture
from trove.db import base, models
from trove.rpc import payloads

_HEADERS = {"X-Project-Id": "project-a", "X-User-Id": "u", "X-Roles": "admin"}
#: A 500 is described nowhere.
_CHECKS = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]
#: What changes least comes first, so that there is something to find.
_METHODS = ("get", "post", "put", "patch", "delete")
#: Requests of each operation.
_REQUESTS = 3


@pytest.fixture
def api(sqlite_database: base.Database) -> api_fixture.Api:
    made = api_fixture.make_api(sqlite_database)
    made.conf.set_override("max_instances_per_tenant", -1, "quota")
    made.conf.set_override("max_volumes_per_tenant", -1, "quota")
    made.conf.set_override("max_ram_per_tenant", -1, "quota")
    return made


def _make_world(api: api_fixture.Api) -> dict[str, str]:
    """Make one of everything that can be made without an engine; return what paths name it by."""
    datastore = f"mariadb-{models.new_id()[:8]}"
    (version,) = api.add_datastore(datastore)
    wanted = {"datastore": {"type": datastore}}
    instance_id = api.create_instance(active=True, instance=wanted, roles="admin")
    engine = api.guest.engine(instance_id)
    engine.databases["d"] = payloads.Database(name="d")
    engine.users["u", "%"] = payloads.User(name="u", password="old", databases=("d",))
    body: dict[str, Any] = {"configuration": {"name": "c", "values": {}, **wanted}}
    group = api.request("POST", "/configurations", body, status=200).json["configuration"]
    body = {"module": {"name": models.new_id(), "module_type": "ping", "contents": "bWVzc2FnZT1h"}}
    module = api.request("POST", "/modules", body, status=200).json["module"]
    return {
        "project_id": "project-a",
        "instance_id": instance_id,
        "configuration_id": group["id"],
        "module_id": module["id"],
        "operation_id": api.taskmanager.hints[-1],
        "database": "d",
        "user": "u",
        "datastore": datastore,
        "version": version,
        "version_id": version,
        "flavor_id": "1",
        "quota_project_id": "project-a",
    }


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_no_generated_request_gets_an_answer_that_is_not_described(
    api: api_fixture.Api, mode: GenerationMode
) -> None:
    schema = schemathesis.openapi.from_wsgi("/v1.0/openapi.json", api.wsgi)
    operations = [result.ok() for result in schema.get_all_operations()]
    operations.sort(key=lambda operation: _METHODS.index(operation.method))
    assert len(operations) > 100
    sent = 0
    names: dict[str, str] = {}
    for operation in operations:
        if not names or operation.method != "get":
            names = _make_world(api)
        known = {p.name: names[p.name] for p in operation.path_parameters if p.name in names}

        @hypothesis.given(case=operation.as_strategy(mode, path_parameters=known))
        @hypothesis.settings(
            max_examples=_REQUESTS,
            derandomize=True,
            database=None,
            deadline=None,
            phases=[hypothesis.Phase.generate],
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        def send(case: schemathesis.Case) -> None:
            nonlocal sent
            sent += 1
            case.call_and_validate(headers=_HEADERS, checks=_CHECKS)

        # of some operations nothing can be wrong
        with contextlib.suppress(hypothesis.errors.Unsatisfiable):
            send()
    assert sent > 2 * len(operations)
