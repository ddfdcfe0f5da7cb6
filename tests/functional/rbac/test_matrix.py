"""Every cell of the matrix, through the real enforcer and the whole application."""

from __future__ import annotations

import json
import pathlib

import pytest
import sqlalchemy as sa
from oslo_policy import policy

from tests.fixtures import api as api_fixture
from tests.fixtures.database import new_backup
from tests.functional.rbac import matrix
from trove.api import routing
from trove.db import backups, base, models
from trove.rpc import payloads
from trove.storage import filesystem

#: letter -> (project, roles)
PERSONAS = {
    "r": ("project-a", "reader"),
    "m": ("project-a", "member"),
    "g": ("project-a", "manager"),
    "a": ("project-a", "admin"),
    "f": ("project-b", "member"),
    "A": ("project-b", "admin"),
    "s": ("project-b", "service"),
}


@pytest.fixture
def api(sqlite_database: base.Database, tmp_path: pathlib.Path) -> api_fixture.Api:
    objects = filesystem.FilesystemStore(tmp_path / "objects")
    return api_fixture.make_api(sqlite_database, objects=objects)


def prepare(api: api_fixture.Api, version: str) -> dict[str, str]:
    """Make one of everything; returns what fills the paths and bodies of the matrix."""
    instance_id = api.create_instance(active=True)
    api.set_instance(instance_id, root_enabled=True)
    engine = api.guest.engine(instance_id)
    engine.databases["d"] = payloads.Database(name="d")
    engine.users["u", "%"] = payloads.User(name="u", password="old", databases=("d",))
    with api.database.writer() as session:
        session.execute(sa.delete(models.ConfigurationParameter))
    body = {"configuration": {"name": "c", "values": {}}}
    group = api.request("POST", "/configurations", body, status=200).json["configuration"]
    body = {"module": {"name": models.new_id(), "module_type": "ping", "contents": "bWVzc2FnZT1h"}}
    module = api.request("POST", "/modules", body, status=200).json["module"]
    body = {"backup_schedule": {"name": models.new_id(), "cron": "0 2 * * *"}}
    schedule = api.request("POST", "/backup_schedules", body, status=200).json["backup_schedule"]
    return {
        "instance_id": instance_id,
        "schedule_id": schedule["id"],
        "module_id": module["id"],
        "configuration_id": group["id"],
        "name": "wait_timeout",
        "operation_id": api.taskmanager.hints[-1],
        "database": "d",
        "user": "u",
        "datastore": "mariadb",
        "version": version,
        "flavor_id": "1",
        "cluster_id": "c",
        "member_id": "m",
        "backup_id": _add_backup(api, version),
        "version_id": version,
        "quota_project_id": "project-a",
        "unique": models.new_id(),
        "image_id": api.images.import_image(
            manager="mariadb", name="m", file=None, image_id=None
        ).id,
    }


def _add_backup(api: api_fixture.Api, version: str) -> str:
    """Have a backup of an instance that is no more; returns its id."""
    new = new_backup(version, project_id="project-a", instance_id=models.new_id())
    with api.database.writer() as session:
        backups.create(session, new, now=api.clock.now())
    return new.id


def _fill(body: object, names: dict[str, str]) -> object:
    """Put names in the place of ``{name}`` where that is a whole value of a body."""
    text = json.dumps(body)
    for name, value in names.items():
        text = text.replace(json.dumps(f"{{{name}}}"), json.dumps(value))
    return json.loads(text)


def send(api: api_fixture.Api, route: str, names: dict[str, str], persona: str) -> int:
    """Send a request of the matrix; returns the status."""
    project, roles = PERSONAS[persona]
    method, _, path = route.partition(" ")
    status: int = api.request(
        method,
        path.format(**names).rstrip("/"),
        _fill(matrix.BODIES.get(route), names),
        project=project,
        roles=roles,
    ).status_int
    return status


@pytest.mark.parametrize("route", matrix.MATRIX)
def test_exactly_the_personas_of_the_matrix_get_in(api: api_fixture.Api, route: str) -> None:
    (version,) = api.add_datastore()
    answers = {persona: send(api, route, prepare(api, version), persona) for persona in PERSONAS}
    let_in = {persona for persona, status in answers.items() if status in (200, 202, 204)}
    assert let_in == set(matrix.MATRIX[route])
    # who may not use a route at all is not told what there is behind it
    is_operators = matrix.MATRIX[route] in (matrix.ADMIN, matrix.SERVICE)
    foreign = 403 if is_operators else 404
    for persona in set(PERSONAS) - let_in:
        assert answers[persona] == (foreign if persona == "f" else 403)


@pytest.mark.parametrize("route", matrix.REFUSALS)
def test_what_is_refused_to_all_is_refused_with_the_right_status(
    api: api_fixture.Api, route: str
) -> None:
    (version,) = api.add_datastore()
    names = prepare(api, version)
    answers = {persona: send(api, route, names, persona) for persona in PERSONAS}
    assert answers == matrix.REFUSALS[route]


def test_nobody_gets_in_without_credentials_or_with_anothers_project(api: api_fixture.Api) -> None:
    for route in [*matrix.MATRIX, *matrix.REFUSALS]:
        method, _, path = route.partition(" ")
        path = f"/v1.0/project-a{path}".rstrip("/")
        api.raw(method, path, matrix.BODIES.get(route), status=401)
        for roles in ("reader", "member", "manager", "admin"):
            headers = {"X-Project-Id": "project-b", "X-Roles": roles}
            api.raw(method, path, matrix.BODIES.get(route), status=403, headers=headers)


def test_the_matrix_has_every_route(api: api_fixture.Api) -> None:
    tree: routing.Resource = api.tree
    prefix = "/v1.0/{project_id}"
    routes = {
        f"{route.method} {route.path.removeprefix(prefix) or '/'}"
        for route in routing.list_routes(tree)
        if route.path.startswith(prefix)
    }
    assert routes == {*matrix.MATRIX, *matrix.REFUSALS}


@pytest.mark.parametrize(
    ("arguments", "allowed"),
    [({}, {"a": 202, "A": 202}), ({"force_delete": 1}, {"g": 202, "a": 202, "A": 202})],
)
def test_resetting_the_status_is_for_administrators_and_forcing_for_managers(
    api: api_fixture.Api, arguments: dict[str, int], allowed: dict[str, int]
) -> None:
    (version,) = api.add_datastore()
    names = prepare(api, version)
    for persona, (project, roles) in PERSONAS.items():
        path = f"/instances/{names['instance_id']}/action"
        expected = allowed.get(persona, 403)
        api.request(
            "POST",
            path,
            {"reset_status": arguments},
            project=project,
            roles=roles,
            status=expected,
        )


def test_creating_with_users_needs_the_rule_of_users(api: api_fixture.Api) -> None:
    api.add_datastore()
    enforcer = api.enforcer
    enforcer.set_rules(
        policy.Rules.from_dict({"instance:extension:user:create": "!"}), overwrite=False
    )
    body = {
        "instance": {
            "name": "x",
            "flavorRef": 1,
            "volume": {"size": 1},
            "users": [{"name": "u", "password": "secret"}],
        }
    }
    api.request("POST", "/instances", body, status=403)
    del body["instance"]["users"]
    api.request("POST", "/instances", body, status=200)
