"""Our own commands of the openstack client: the real client, over HTTP, with its formatters."""

import datetime
import importlib.metadata
import json
import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import bcrypt
import pytest

from tests.fixtures import api as api_fixture
from tests.fixtures import project, served
from tests.fixtures.osc import Done, OpenStackClient
from tests.fixtures.waiting import wait_until
from trove.db import base, events, operations
from trove.rpc import payloads

_GROUP = "openstack.database.v1"


@pytest.fixture
def api(sqlite_database: base.Database, tmp_path: pathlib.Path) -> api_fixture.Api:
    users = tmp_path / "htpasswd"
    digest = bcrypt.hashpw(b"s3cret", bcrypt.gensalt(4)).decode()
    users.write_text(f"joe:{digest}:{api_fixture.PROJECT}:member\n")
    made = api_fixture.make_api(
        sqlite_database, auth_strategy="http_basic", http_basic_auth_user_file=str(users)
    )
    made.add_datastore()
    return made


@pytest.fixture
def environment(api: api_fixture.Api, entry_points: dict[str, str]) -> Iterator[dict[str, str]]:
    with served.serve(api.wsgi) as url:
        yield {
            **entry_points,
            "OS_AUTH_TYPE": "http_basic",
            "OS_USERNAME": "joe",
            "OS_PASSWORD": "s3cret",
            "OS_ENDPOINT": f"{url}/v1.0/{api_fixture.PROJECT}",
        }


@pytest.fixture(scope="module")
def entry_points(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return project.environment_with_entry_points(tmp_path_factory.mktemp("installed"))


class Client:
    """Runs ``openstack database ...``."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._client = OpenStackClient(environment)

    def run(self, *argv: str) -> Done:
        return self._client.run("database", *argv)

    def text(self, *argv: str) -> str:
        done = self.run(*argv)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def json(self, *argv: str) -> Any:
        return json.loads(self.text(*argv, "-f", "json"))

    def close(self) -> None:
        self._client.close()


@pytest.fixture
def client(environment: dict[str, str]) -> Iterator[Client]:
    made = Client(environment)
    yield made
    made.close()


@pytest.fixture
def instance_id(api: api_fixture.Api) -> str:
    headers = {"Authorization": "Basic am9lOnMzY3JldA=="}
    created: str = api.create_instance(active=True, headers=headers)
    return created


def test_our_commands_do_not_take_the_names_of_pythontroveclients() -> None:
    theirs = importlib.metadata.distribution("python-troveclient").entry_points
    taken = {each.name for each in theirs.select(group=_GROUP)}
    ours = project.entry_points()[_GROUP]
    assert len(taken) > 70
    assert taken.isdisjoint(ours)
    # a command must not begin with another one's whole name: cliff would take the longer for it
    assert not {name for name in ours if any(name.startswith(f"{each}_") for each in taken)}


def test_the_commands_import_nothing_of_the_service() -> None:
    script = (
        "import sys, importlib\n"
        "for name in ('api', 'backup_schedules', 'backups', 'certificates', 'events', 'instances',"
        " 'monitoring', 'operations'):\n"
        "    importlib.import_module('trove.osc.' + name)\n"
        "print(sorted(n for n in sys.modules if n.startswith(('trove.', 'sqlalchemy', 'pecan'))"
        " and not n.startswith('trove.osc')))\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        cwd=project.ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"


def test_operations_are_listed_and_shown(
    api: api_fixture.Api, instance_id: str, client: Client
) -> None:
    api.clock.advance(60)
    with api.database.writer() as session:
        restart = operations.create(
            session,
            kind=operations.RESTART_INSTANCE,
            resource_id=instance_id,
            lock_key=None,
            deadline=api.clock.now(),
            now=api.clock.now(),
            project_id=api_fixture.PROJECT,
        )
        operations.journal(
            session, restart, step="restart_engine", event="waiting", now=api.clock.now()
        )
    rows = client.json("operation", "list", "db")
    assert [row["Operation"] for row in rows] == ["restart", "create"]
    assert rows[0]["ID"] == restart
    assert rows[0]["Step"] == "restart_engine (1 of 2)"
    assert rows[0]["Percent"] == 0
    assert len(client.json("operation", "list", instance_id, "--limit", "1")) == 1
    shown = client.json("operation", "show", instance_id, restart)
    assert shown["state"] == "PENDING"
    assert shown["journal"] == [
        {"step": "restart_engine", "event": "waiting", "created": shown["created"]}
    ]
    assert "restart_engine" in client.text("operation", "show", "db", restart)
    done = client.run("operation", "show", instance_id, "none")
    assert done.returncode == 1
    assert "cannot be found" in done.stderr


def test_all_pages_of_operations_are_listed(
    api: api_fixture.Api, instance_id: str, client: Client
) -> None:
    with api.database.writer() as session:
        for _ in range(25):
            operations.create(
                session,
                kind=operations.RESTART_INSTANCE,
                resource_id=instance_id,
                lock_key=None,
                deadline=api.clock.now(),
                now=api.clock.now(),
                project_id=api_fixture.PROJECT,
            )
    rows = client.json("operation", "list", instance_id)
    assert len({row["ID"] for row in rows}) == 26


def test_figures_are_shown_and_statements_listed(
    api: api_fixture.Api, instance_id: str, client: Client
) -> None:
    api.set_heartbeat(
        instance_id, boot=1, metrics='{"connections": 3, "uptime_seconds": 1.5, "replicas": 0.0}'
    )
    shown = client.json("instance", "metrics", "show", "db")
    assert (shown["connections"], shown["uptime_seconds"], shown["replicas"]) == (3, 1.5, 0)
    assert shown["disk_total_bytes"] == 2**30
    assert shown["service_status"] == "HEALTHY"
    api.guest.engine(instance_id).queries = [
        payloads.TopQuery(text="SELECT ?", calls=9, total_seconds=0.1234567, rows=9),
        payloads.TopQuery(text="UPDATE t SET a = ?", database="d", calls=2, total_seconds=2.0),
    ]
    rows = client.json("instance", "query", "list", "db")
    assert [row["Query"] for row in rows] == ["UPDATE t SET a = ?", "SELECT ?"]
    assert (rows[0]["Database"], rows[0]["Calls"], rows[1]["Total Seconds"]) == ("d", 2, 0.123457)
    rows = client.json("instance", "query", "list", instance_id, "--order-by", "calls")
    assert rows[0]["Query"] == "SELECT ?"
    assert len(client.json("instance", "query", "list", "db", "--limit", "1")) == 1
    done = client.run("instance", "query", "list", "db", "--order-by", "weight")
    assert done.returncode == 2


def _fill(api: api_fixture.Api, count: int) -> None:
    with api.database.writer() as session:
        for number in range(count):
            events.append(
                session,
                api_fixture.PROJECT,
                type="instance.test",
                resource_id="r",
                payload={"number": number},
                now=api.clock.now() + datetime.timedelta(seconds=number),
            )


def test_events_are_listed_with_all_pages_and_filters(
    api: api_fixture.Api, instance_id: str, client: Client
) -> None:
    _fill(api, 30)
    rows = client.json("event", "list")
    assert [row["Sequence"] for row in rows] == list(range(1, 32))
    assert rows[0]["Type"] == "instance.create.accepted"
    assert rows[0]["Resource ID"] == instance_id
    assert json.loads(rows[-1]["Payload"]) == {"number": 29}
    assert len(client.json("event", "list", "--limit", "23")) == 23
    assert len(client.json("event", "list", "--instance", "db")) == 1
    assert len(client.json("event", "list", "--type", "instance.create")) == 1
    assert len(client.json("event", "list", "--since", "2026-05-01T12:00:20")) == 10
    text = client.text("event", "list", "--limit", "1", "-f", "value", "-c", "Type")
    assert text == "instance.create.accepted\n"
    assert client.run("event", "list", "--limit", "0").returncode == 2
    assert "2026-01-31" in client.run("event", "list", "--since", "soon").stderr


def test_following_prints_events_as_they_happen_until_it_is_interrupted(
    api: api_fixture.Api, environment: dict[str, str], tmp_path: pathlib.Path
) -> None:
    _fill(api, 1)
    out = tmp_path / "out"
    with out.open("wb") as sink:
        process = subprocess.Popen(
            [
                # a run of the tests in the background may ignore interrupts, and so would this
                *("env", "--default-signal=INT"),
                str(pathlib.Path(sys.executable).parent / "openstack"),
                *("database", "event", "list", "--follow", "-f", "json"),
            ],
            env={key: value for key, value in os.environ.items() if not key.startswith("OS_")}
            | environment,
            stdout=sink,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_until(lambda: out.read_text().count("\n") == 1, timeout_s=30, what="what there is")
        _fill(api, 2)
        wait_until(lambda: out.read_text().count("\n") == 3, timeout_s=30, what="what is new")
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
    printed = [json.loads(line) for line in out.read_text().splitlines()]
    assert [event["sequence"] for event in printed] == [1, 2, 3]


def test_protection_and_tags_are_set_and_taken_away(
    api: api_fixture.Api, instance_id: str, client: Client
) -> None:
    client.text("instance", "protect", "db")
    done = client.run("instance", "delete", instance_id)
    assert done.returncode != 0
    client.text("instance", "unprotect", instance_id)

    assert client.json("instance", "tag", "list", "db") == []
    client.text("instance", "tag", "add", "db", "prod", "team-a")
    client.text("instance", "tag", "add", "db", "prod")
    assert client.json("instance", "tag", "list", "db") == [{"Tag": "prod"}, {"Tag": "team-a"}]
    client.text("instance", "tag", "remove", instance_id, "prod", "never-there")
    assert client.text("instance", "tag", "list", "db", "-f", "value") == "team-a\n"
    client.text("instance", "delete", instance_id)


def test_the_certificate_authority_is_shown(api: api_fixture.Api, client: Client) -> None:
    shown = client.text("certificate", "authority", "show", "-f", "value", "-c", "certificate")
    assert shown.strip() == api.secrets.get_ca_certificate().strip()
