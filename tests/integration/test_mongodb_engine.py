"""What only MongoDB has: the agent's identity, the replica set, its values, slow queries."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from typing import Any

import bson
import psutil
import pymongo
import pymongo.errors
import pytest

from tests.fixtures.engine import Guest, is_available, new_address, passable_directory, template_of
from tests.fixtures.probes import Refused
from tests.fixtures.probes_mongodb import MongodbSession, agent_of, options_of
from tests.fixtures.rows import Subject, running
from tests.fixtures.waiting import wait_until
from trove.common import exception
from trove.datastores import mongodb, parameters
from trove.guestagent.datastores.mongodb import accounts, metrics, template
from trove.rpc import payloads

pytestmark = pytest.mark.skipif(
    not is_available("mongodb"), reason="MongoDB is not installed (tools/test-engines.sh mongodb)"
)

#: CPU time that the figures of a heartbeat may cost the engine.
_HEARTBEAT_S = 0.002
#: Words of names that no rule may have: places, commands, what the service relies on.
_NOT_FOR_TENANTS = (
    "path", "directory", "file", "net.", "security.", "processmanagement", "tls", "ssl", "port",
    "bindip", "auth", "diagnostic", "cloud", "aws", "ldap", "test", "failpoint", "notablescan",
    "clusterauth", "shutdown", "replset",
)  # fmt: skip
_NAMES_THAT_ARE_GOOD = {"createrollbackdatafiles", "wiredtigerfilehandlecloseidletime"}


@pytest.fixture(scope="module")
def subject() -> Iterator[Subject]:
    """Give a running instance with TLS."""
    with running("mongodb") as made:
        yield made


@pytest.fixture
def clean(subject: Subject) -> Subject:
    """Give the instance without databases and users."""
    subject.clean()
    return subject


def anonymous(guest: Guest) -> pymongo.MongoClient[dict[str, Any]]:
    return pymongo.MongoClient(
        guest.address, guest.port, directConnection=True, serverSelectionTimeoutMS=1000
    )


@contextlib.contextmanager
def root_of(subject: Subject) -> Iterator[pymongo.MongoClient[dict[str, Any]]]:
    with subject.root() as session:
        assert isinstance(session, MongodbSession)
        yield session.client


# -- the agent's identity -----


def test_nobody_makes_the_first_user_without_a_password(clean: Subject) -> None:
    with agent_of(clean.guest) as client:
        assert list(client.admin["system.users"].find()) == []
    with anonymous(clean.guest) as client, pytest.raises(pymongo.errors.OperationFailure) as caught:
        client.admin.command("createUser", "first", pwd="x", roles=["root"])
    assert caught.value.code == 13


def test_the_agent_is_in_no_list_of_users_and_root_cannot_be_it(clean: Subject) -> None:
    with root_of(clean) as client:
        listed = client.admin.command("usersInfo", {"forAllDBs": True})["users"]
        assert [user["user"] for user in listed] == [mongodb.ROOT_USER]
        for command in ("dropUser", "updateUser"):
            options = {"pwd": "x"} if command == "updateUser" else {}
            with pytest.raises(pymongo.errors.OperationFailure):
                client.local.command(command, "__system", **options)
        for command in ({"shutdown": 1}, {"fsync": 1, "lock": True}, {"replSetStepDown": 60}):
            with pytest.raises(pymongo.errors.OperationFailure) as caught:
                client.admin.command(command)
            assert caught.value.code == 13
    clean.create("still")
    assert clean.databases() == ["still"]


def test_the_agent_is_let_in_when_there_are_too_many_clients(clean: Subject) -> None:
    guest = clean.guest
    with agent_of(guest) as client:
        most = int(client.admin.command("serverStatus")["connections"]["available"])
    clients: list[socket.socket] = []
    try:
        clients += [socket.create_connection((guest.address, guest.port)) for _ in range(most + 20)]
        wait_until(lambda: not clean.is_let_in("anybody", "x"), what="a full server")
        assert guest.datastore is not None
        guest.datastore.service.disconnect()
        assert guest.datastore.service.ping()
        clean.create("more")
    finally:
        for each in clients:
            each.close()


def test_the_key_is_the_engines_and_no_two_instances_have_one(clean: Subject) -> None:
    layout = clean.guest.layout
    path = layout.secret_dir / "keyfile"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.stat().st_uid == layout.engine_user.uid
    with passable_directory() as directory:
        other = Guest(directory=directory, row="mongodb", template=None)
        made = other.environment().store.password("mongodb-key")
    assert path.read_text() != made
    assert len(made) >= 32


# -- the replica set -----


def test_the_template_belongs_to_no_set_and_has_no_account() -> None:
    directory = template_of("mongodb")
    names = {path.name for path in directory.iterdir()}
    assert "mongod.lock" not in names
    with running("mongodb") as one:
        with agent_of(one.guest) as client:
            config = client.admin.command("replSetGetConfig")["config"]
            assert config["version"] == 1
            first = config["settings"]["replicaSetId"]
            assert list(client.admin["system.users"].find()) == []
            assert client.local["oplog.rs"].estimated_document_count() > 0
        # the volume comes to a server with another address
        value = _keep(one)
        one.guest.agent.supervisor.power_off(30)  # type: ignore[union-attr]
        one.guest.stop_agent()
        one.guest.address = new_address()
        one.guest.start_agent()
        one.guest.wait_status("HEALTHY")
        with agent_of(one.guest) as client:
            config = client.admin.command("replSetGetConfig")["config"]
        assert [each["host"] for each in config["members"]] == [f"{one.guest.address}:27017"]
        assert config["settings"]["replicaSetId"] == first
        with one.login("joe", "secret", database="shop") as session:
            assert session.read() == value


def _keep(subject: Subject) -> str:
    subject.tenant_user()
    with subject.login("joe", "secret", database="shop") as session:
        session.write("kept")
    return "kept"


# -- accounts -----


def test_a_database_is_listed_before_something_is_in_it(clean: Subject) -> None:
    clean.create("empty")
    clean.add(payloads.User(name="joe", password="secret", databases=("made_by_joe",)))
    with clean.login("joe", "secret", database="made_by_joe") as session:
        session.write("x")
    assert clean.databases() == ["empty", "made_by_joe"]


def test_databases_that_differ_in_case_are_refused_with_the_reason(clean: Subject) -> None:
    clean.create("shop")
    for names in (("SHOP",), ("Other", "other")):
        with pytest.raises(exception.GuestError, match=r"tell .* apart"):
            clean.create(*names)
    assert clean.databases() == ["shop"]


def test_a_user_without_sha_256_is_renamed_with_a_new_password_only(clean: Subject) -> None:
    clean.add(payloads.User(name="joe", password="secret"))
    with agent_of(clean.guest) as client:
        client.admin["system.users"].update_one(
            {"user": "joe"}, {"$rename": {"credentials.SCRAM-SHA-256": "credentials.SCRAM-SHA-1"}}
        )
    with pytest.raises(exception.GuestError, match="new password"):
        clean.change("joe", new_name="jim")
    clean.change("joe", new_name="jim", new_password="secret")
    assert clean.is_let_in("jim", "secret")


def test_hosts_and_character_sets_are_refused_with_the_reason(clean: Subject) -> None:
    with pytest.raises(exception.GuestError, match="hosts"):
        clean.add(payloads.User(name="joe", host="10.0.0.1", password="secret"))
    database = payloads.Database(name="shop", character_set="utf8")
    with pytest.raises(exception.GuestError, match="character set"):
        clean.guest.call("create_databases", payloads.Databases(databases=(database,)))


def test_grants_are_roles_and_all_roles_on_a_database_are_taken_back(clean: Subject) -> None:
    clean.create("shop")
    clean.add(payloads.User(name="joe", password="secret", databases=("shop",)))
    with agent_of(clean.guest) as client:
        client.admin.command("grantRolesToUser", "joe", roles=[{"role": "dbOwner", "db": "shop"}])
    clean.revoke("joe", "shop")
    with agent_of(clean.guest) as client:
        assert client.admin["system.users"].find_one({"user": "joe"})["roles"] == []  # type: ignore[index]


# -- writes -----


def test_while_writes_are_refused_a_database_can_be_deleted_by_the_service(clean: Subject) -> None:
    _keep(clean)
    assert clean.guest.datastore is not None
    service = clean.guest.datastore.service
    service.set_read_only(True)
    try:
        with clean.login("joe", "secret", database="shop") as session:
            assert session.read() == "kept"
            for refused in (lambda: session.write("other"), lambda: session.fill(1)):
                with pytest.raises(Refused, match="User writes blocked"):
                    refused()
            assert isinstance(session, MongodbSession)
            with pytest.raises(pymongo.errors.OperationFailure, match="User writes blocked"):
                session.database.kept.delete_one({"_id": 1})
        service.prove_write()
        clean.delete_database("shop")
    finally:
        service.set_read_only(False)
    assert clean.databases() == []


# -- parameters -----


def test_no_rule_is_of_a_place_or_of_what_the_service_relies_on() -> None:
    for name, rule in parameters.load("mongodb").items():
        assert rule.spelling is not None
        assert rule.spelling.lower() == name
        if name not in _NAMES_THAT_ARE_GOOD:
            assert not any(word in name for word in _NOT_FOR_TENANTS), name


def test_rules_have_the_types_of_the_server_and_say_what_needs_a_restart(subject: Subject) -> None:
    with agent_of(subject.guest) as client:
        known = client.admin.command({"getParameter": {"showDetails": True, "allParameters": True}})
        read = options_of(client)
    for name, rule in parameters.load("mongodb").items():
        spelling = str(rule.spelling)
        if "." in spelling:
            value = read[spelling]
        else:
            value = known[spelling]["value"]
            assert rule.restart_required is not known[spelling]["settableAtRuntime"], name
            assert known[spelling]["settableAtStartup"], name
        types = {"integer": int, "float": float, "boolean": bool, "string": str}
        assert isinstance(value, types[rule.type.value]), name
        # large ones are of a type of their own
        value = int(value) if type(value) is bson.Int64 else value
        assert rule.check(value) is None, name


def _limits(rule: parameters.Parameter) -> tuple[Any, ...]:
    if rule.type is parameters.ParameterType.BOOLEAN:
        return (False, True)
    if rule.values is not None:
        return (rule.values[0], rule.values[-1])
    assert rule.minimum is not None
    assert rule.maximum is not None
    return (rule.minimum, rule.maximum)


@pytest.mark.parametrize("which", [0, 1])
def test_the_server_takes_every_rule_at_its_limits(subject: Subject, which: int) -> None:
    """At run time, and at a start: the trial before a configuration counts is one."""
    rules = parameters.load("mongodb")
    overrides = {name: _limits(rule)[which] for name, rule in rules.items()}
    job = payloads.ConfigureJob(**subject.guest.sizes, overrides=overrides)
    outcome = subject.guest.run(job)
    assert outcome.succeeded, outcome.error
    with agent_of(subject.guest) as client:
        for name, rule in rules.items():
            if not rule.restart_required and "." not in name:
                found = client.admin.command({"getParameter": 1, str(rule.spelling): 1})
                assert found[str(rule.spelling)] == pytest.approx(overrides[name]), name
    outcome = subject.guest.run(payloads.ConfigureJob(**subject.guest.sizes))
    assert outcome.succeeded, outcome.error


def test_a_static_value_that_the_server_refuses_leaves_it_running(subject: Subject) -> None:
    overrides = {"maxbsondepth": 1}
    before = subject.guest.engine()
    outcome = subject.guest.run(payloads.ConfigureJob(**subject.guest.sizes, overrides=overrides))
    assert outcome.error_code == exception.ConfigurationRefused.code
    assert "maxBSONDepth" in str(outcome.error)
    assert subject.guest.engine() == before
    assert not (subject.guest.layout.temporary_dir / "trial").exists()


# -- slow queries -----


def _slow_queries(subject: Subject) -> list[dict[str, Any]]:
    path = subject.guest.layout.volume_agent_dir / "logs" / "slow_query.log"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_slow_queries_are_the_tenants_own_and_hold_no_password(clean: Subject) -> None:
    guest, database = clean.guest, clean.tenant_user()
    assert database is not None
    request = payloads.LogRequest(name=mongodb.SLOW_QUERY_LOG, enable=True)
    guest.call("change_log", request)
    with clean.login("joe", "secret", database=database) as session:
        assert isinstance(session, MongodbSession)
        session.database.command("profile", 0, slowms=0)
        clean.add(payloads.User(name="jim", password="swordfish-1"))
        # looks like a slow query, and is none
        session.database.kept.find_one({"x": '"id":51803,"msg":"Slow query"'}, comment="mine")
        session.database.command("profile", 0, slowms=100)

    def mine() -> list[dict[str, Any]]:
        guest.call("show_log", payloads.LogRequest(name=mongodb.SLOW_QUERY_LOG))
        found = _slow_queries(clean)
        return [e for e in found if e["attr"].get("command", {}).get("comment") == "mine"]

    assert wait_until(mine, what="the slow query")
    entries = _slow_queries(clean)
    assert {entry["id"] for entry in entries} == {51803}
    assert "trove-guestagent" not in {entry["attr"].get("appName") for entry in entries}
    assert "swordfish" not in guest.layout.log.read_text()
    # an agent that starts again goes on where the last one was
    count = len(mine())
    guest.stop_agent()
    guest.start_agent()
    guest.wait_status("HEALTHY")
    assert len(mine()) == count
    request = payloads.LogRequest(name=mongodb.SLOW_QUERY_LOG, disable=True)
    guest.call("change_log", request)


def test_no_slow_query_is_lost_when_the_servers_log_is_rotated(clean: Subject) -> None:
    guest, database = clean.guest, clean.tenant_user()
    assert database is not None
    assert guest.datastore is not None
    logs = guest.datastore.logs
    guest.call("change_log", payloads.LogRequest(name=mongodb.SLOW_QUERY_LOG, enable=True))
    source = logs._sources[mongodb.ERROR_LOG]  # type: ignore[union-attr]
    with clean.login("joe", "secret", database=database) as session:
        assert isinstance(session, MongodbSession)
        session.database.command("profile", 0, slowms=0)
        for number in range(30):
            session.database.kept.find_one({}, comment=f"n{number}")
            if number % 10 == 5:
                with source.stream.lock:
                    source.stream.cut()
        session.database.command("profile", 0, slowms=100)

    def numbers() -> bool:
        guest.call("show_log", payloads.LogRequest(name=mongodb.SLOW_QUERY_LOG))
        found = [e["attr"].get("command", {}).get("comment") for e in _slow_queries(clean)]
        return [text for text in found if str(text).startswith("n")] == [f"n{n}" for n in range(30)]

    wait_until(numbers, what="all slow queries, once and in order")
    guest.call("change_log", payloads.LogRequest(name=mongodb.SLOW_QUERY_LOG, disable=True))


# -- figures -----


def test_figures_are_those_of_the_server_and_cost_little(clean: Subject) -> None:
    assert clean.guest.datastore is not None
    part = clean.guest.datastore.metrics
    assert isinstance(part, metrics.MongodbMetrics)
    before = part.read()
    _keep(clean)
    after = part.read()
    assert after["rows_written_total"] > before["rows_written_total"]
    assert after["commands_total"] > before["commands_total"]
    assert after["connections_max"] == 128
    assert after["memory_max_bytes"] == 256 * 2**20
    engine = clean.guest.engine()
    assert engine is not None
    server = psutil.Process(engine.pid)
    begun = server.cpu_times()
    for _ in range(200):
        part.read()
    ended = server.cpu_times()
    spent_s = ended.user + ended.system - begun.user - begun.system
    assert spent_s / 200 < _HEARTBEAT_S


# -- words -----


def test_the_end_of_the_server_is_explained(subject: Subject) -> None:
    assert subject.guest.datastore is not None
    explain = subject.guest.datastore.service.explain_exit
    line = {"s": "E", "msg": "Error", "attr": {"error": {"errmsg": "Address already in use"}}}
    assert "27017" in explain(48, json.dumps(line))
    assert "disk is full" in explain(14, json.dumps({"s": "E", "msg": "No space left on device"}))
    assert "killed by signal 9" in explain(-9, "")
    said = explain(2, "Unrecognized option: storage.nonsense\ntry 'mongod --help'")
    assert said.endswith("with code 2: Unrecognized option: storage.nonsense")
    assert template.errors_of("no JSON\n[1]\n") == []


def test_root_has_no_role_that_writes_while_writes_are_refused() -> None:
    assert not {"root", "restore", "clusterAdmin", "__system"} & set(accounts.ROOT_ROLES)
