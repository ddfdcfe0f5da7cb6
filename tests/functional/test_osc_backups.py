"""Commands of backups of the openstack client: the real client, over HTTP."""

from __future__ import annotations

import itertools
import pathlib
from collections.abc import Iterator
from typing import Any

import bcrypt
import pytest
import sqlalchemy as sa

from tests.fixtures import api as api_fixture
from tests.fixtures import project, served
from tests.fixtures.database import sqlite_copy
from tests.functional.test_api_backups import end
from tests.functional.test_osc import Client
from trove import states
from trove.db import models, operations
from trove.storage import filesystem

HEADERS = {"Authorization": "Basic am9lOnMzY3JldA=="}
_numbers = itertools.count()


@pytest.fixture(scope="module")
def api(
    sqlite_template: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[api_fixture.Api]:
    directory = tmp_path_factory.mktemp("api")
    users = directory / "htpasswd"
    digest = bcrypt.hashpw(b"s3cret", bcrypt.gensalt(4)).decode()
    users.write_text(f"joe:{digest}:{api_fixture.PROJECT}:member\n")
    database = sqlite_copy(sqlite_template, directory)
    made = api_fixture.make_api(
        database,
        objects=filesystem.FilesystemStore(directory / "objects"),
        auth_strategy="http_basic",
        http_basic_auth_user_file=str(users),
    )
    made.conf.set_override("max_instances_per_tenant", -1, group="quota")
    made.add_datastore()
    yield made
    database.dispose()


@pytest.fixture(scope="module")
def client(api: api_fixture.Api, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Give one client for all: its start takes longer than all of its commands here."""
    installed = project.environment_with_entry_points(tmp_path_factory.mktemp("installed"))
    with served.serve(api.wsgi) as url:
        made = Client(
            {
                **installed,
                "OS_AUTH_TYPE": "http_basic",
                "OS_USERNAME": "joe",
                "OS_PASSWORD": "s3cret",
                "OS_ENDPOINT": f"{url}/v1.0/{api_fixture.PROJECT}",
            }
        )
        yield made
        made.close()


@pytest.fixture
def name() -> str:
    return f"db{next(_numbers)}"


@pytest.fixture
def instance_id(api: api_fixture.Api, name: str) -> str:
    created: str = api.create_instance(active=True, headers=HEADERS, instance={"name": name})
    api.clock.advance(1)
    return created


def backup(api: api_fixture.Api, instance_id: str, name: str = "b", *, done: bool = True) -> str:
    """Have a backup made, or begun; return its id."""
    api.clock.advance(1)
    body = {"backup": {"name": name, "instance": instance_id}}
    view = api.request("POST", "/backups", body, status=202, headers=HEADERS).json["backup"]
    if done:
        end(api, view["id"], stored_bytes=1 << 20, data_bytes=1 << 30, completed=api.clock.now())
    api.clock.advance(1)
    return str(view["id"])


def last_operation(api: api_fixture.Api, resource_id: str) -> operations.Operation:
    with api.database.reader() as session:
        return operations.list_operations(session, resource_id=resource_id)[0]


def columns(shown: Any, *names: str) -> list[Any]:
    return [shown[name] for name in names]


def test_schedules_are_made_listed_shown_changed_and_deleted(
    instance_id: str, name: str, client: Client
) -> None:
    given = ["--cron", "30 2 * * 0", "--timezone", "Europe/Berlin", "--window", "600"]
    rules = ["--full-every", "7", "--keep-daily", "7", "--keep-monthly", "6"]
    command = ("backup", "schedule")
    made = client.json(*command, "create", "weekly", "--instance", name, *given, *rules)
    names = ("instance_id", "cron", "timezone", "window_s", "full_every", "enabled")
    assert columns(made, *names) == [instance_id, "30 2 * * 0", "Europe/Berlin", 600, 7, True]
    assert made["retention"] == '{"daily": 7, "monthly": 6}'
    assert made["next_run"] == "2026-05-03T00:30:00"
    default = client.json(*command, "create", "default", "--cron", "0 3 * * *", "--disabled")
    assert columns(default, "instance_id", "enabled", "next_run") == [None, False, None]
    (listed,) = client.json(*command, "list", "--instance", name)
    assert listed == {
        "ID": made["id"],
        "Name": "weekly",
        "Instance ID": instance_id,
        "Cron": "30 2 * * 0",
        "Timezone": "Europe/Berlin",
        "Enabled": True,
        "Next Run": "2026-05-03T00:30:00",
        "Problem": None,
    }
    assert len(client.json(*command, "list")) == 2
    client.text(*command, "set", "weekly", "--cron", "0 4 * * *", "--keep-count", "3", "--disable")
    shown = client.json(*command, "show", made["id"])
    assert columns(shown, "cron", "retention", "enabled") == ["0 4 * * *", '{"count": 3}', False]
    assert "give an option" in client.run(*command, "set", "weekly").stderr
    assert "five fields" in client.run(*command, "set", "weekly", "--cron", "0 4 * * * *").stderr
    client.text(*command, "set", "default", "--name", "weekly")
    assert "More than one" in client.run(*command, "show", "weekly").stderr
    client.text(*command, "delete", made["id"], default["id"])
    assert client.json(*command, "list") == []
    assert "cannot be found" in client.run(*command, "show", made["id"]).stderr


def test_a_backup_is_proven_and_shows_it(
    api: api_fixture.Api, instance_id: str, name: str, client: Client
) -> None:
    backup_id = backup(api, instance_id, "first")
    client.text("backup", "verify", "first")
    operation = last_operation(api, instance_id)
    assert operation.kind == operations.VERIFY_BACKUP
    shown = client.json("backup", "proof", "show", backup_id)
    names = ("id", "status", "type", "purpose", "verification", "data_bytes")
    assert columns(shown, *names) == [
        backup_id,
        "COMPLETED",
        "full",
        "manual",
        "running",
        1 << 30,
    ]


def test_a_backup_that_is_being_made_is_cancelled(
    api: api_fixture.Api, instance_id: str, name: str, client: Client
) -> None:
    made = backup(api, instance_id, "made")
    running = backup(api, instance_id, "running", done=False)
    client.text("backup", "cancel", "running")
    with api.database.reader() as session:
        asked = session.scalar(
            sa.select(models.Operation.cancel).where(
                models.Operation.kind == operations.CREATE_BACKUP,
                models.Operation.resource_id == instance_id,
                models.Operation.state != states.OperationState.SUCCEEDED,
            )
        )
    assert asked == operations.UNDO
    assert last_operation(api, running).kind == operations.DELETE_BACKUP
    # what is made already is not deleted by that name
    assert "not being made" in client.run("backup", "cancel", made).stderr


def test_an_instance_is_restored_in_place(
    api: api_fixture.Api, instance_id: str, name: str, client: Client
) -> None:
    backup(api, instance_id, "second")
    assert "Give a --backup" in client.run("instance", "restore", name).stderr
    wrong = client.run("instance", "restore", name, "--position", "0-1-7")
    assert "need the --backup" in wrong.stderr
    shown = client.json("instance", "archive", "show", name)
    assert columns(shown, "status", "latest_restorable_time") == [None, None]
    late = client.run("instance", "restore", name, "--time", "2030-01-01T00:00:00Z")
    assert "has not come yet" in late.stderr
    client.text("instance", "restore", name, "--backup", "second")
    assert last_operation(api, instance_id).kind == operations.RESTORE_INSTANCE


def test_an_instance_is_cloned_as_it_was(
    api: api_fixture.Api, instance_id: str, name: str, client: Client
) -> None:
    backup(api, instance_id, "third")
    made = client.json("instance", "clone", name, "copy", "--backup", "third", "--size", "2")
    assert columns(made, "name", "status", "flavor") == ["copy", "BUILD", "1"]
    operation = last_operation(api, made["id"])
    assert operation.kind == operations.CREATE_INSTANCE
    assert "restoration" in str(operation.data)
    # without a log there is no way to now
    assert "no backup with a log" in client.run("instance", "clone", name, "other").stderr


def test_an_instance_is_retired_and_had_again(
    api: api_fixture.Api, instance_id: str, name: str, client: Client
) -> None:
    client.text("instance", "retire", name)
    operation = last_operation(api, instance_id)
    assert operation.kind == operations.CREATE_BACKUP
    backup_id = str(operation.data["backup_id"])
    assert client.json("backup", "proof", "show", backup_id)["purpose"] == "final"
    end(api, backup_id, stored_bytes=1, completed=api.clock.now())
    wrong = client.run("instance", "undelete", backup_id)
    assert "is not deleted" in wrong.stderr
    api.set_instance(instance_id, is_deleted=True, deleted=api.clock.now())
    made = client.json("instance", "undelete", backup_id)
    assert columns(made, "name", "status", "flavor", "datastore") == [name, "BUILD", "1", "mariadb"]
    assert made["id"] != instance_id
    assert "restoration" in str(last_operation(api, made["id"]).data)
    other = client.json("instance", "undelete", backup_id, "--name", "again", "--size", "3")
    assert other["name"] == "again"
