"""What is special to PostgreSQL, on the real servers: rules, sharing, limits of root, logs."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.fixtures import test_engines
from tests.fixtures.engine import ENGINES, Engine, Guest, is_available, passable_directory
from tests.fixtures.engine import template_of as template_of_row
from tests.fixtures.probes_postgresql import PostgresqlProbe
from tests.fixtures.waiting import wait_until
from trove.common import exception
from trove.datastores import all as all_specs
from trove.datastores import parameters, postgresql
from trove.datastores.parameters import ParameterType
from trove.guestagent.datastores import postgresql as family
from trove.rpc import payloads

assert all_specs

#: Not a row of the contract suites: it is tried here alone.
_POSTGRESQL_16 = Engine(
    manager="postgresql",
    maker=family.make_postgresql,
    program="postgres",
    find_basedir=lambda: test_engines.find("postgresql-16"),
    user="postgres",
)
_TYPES = {
    "bool": ParameterType.BOOLEAN,
    "integer": ParameterType.INTEGER,
    "real": ParameterType.FLOAT,
    "enum": ParameterType.STRING,
    "string": ParameterType.STRING,
}
#: No test pulls the plug: what is written need not be on the disk at once.
_QUICK = {"fsync": False}
#: Methods of compression that a build may lack.
_BUILT_IN = ("lz4", "zstd")
#: Parts of names of what runs programs, loads libraries, moves files, or is the service's own.
_FORBIDDEN = (
    "command", "librar", "director", "_file", "_path", "socket", "preload", "provider", "password",
    "hba", "ident", "port", "listen", "log_statement", "log_destination", "logging", "fsync",
    "full_page", "zero_damaged", "primary_", "recovery", "restore", "krb_", "_passphrase",
    "read_only", "superuser", "session_replication", "allow_", "debug_io", "synchronous_standby",
)  # fmt: skip
#: Names that have such a part and are harmless.
_HARMLESS = {"temp_file_limit", "log_temp_files", "quote_all_identifiers"}


@contextlib.contextmanager
def running(row: str) -> Iterator[Guest]:
    if not is_available(row):
        pytest.skip(f"{row} is not installed")
    with passable_directory() as directory:
        guest = Guest(directory=directory, row=row, template=template_of_row(row))
        try:
            guest.start_agent()
            guest.prepare(overrides=_QUICK)
            guest.wait_status("HEALTHY")
            yield guest
        finally:
            guest.destroy()


@pytest.fixture(scope="module", params=["postgresql-15", "postgresql-18"])
def instance(request: pytest.FixtureRequest) -> Iterator[Guest]:
    """A running instance of each version."""
    with running(request.param) as guest:
        yield guest


@pytest.fixture
def clean(instance: Guest) -> Guest:
    """The instance without databases and users."""
    for database in instance.call("list_databases", payloads.Page(limit=100)).databases:
        instance.call("delete_database", payloads.DatabaseRef(name=database.name))
    for user in instance.call("list_users", payloads.Page(limit=100)).users:
        instance.call("delete_user", payloads.UserRef(name=user.name))
    return instance


def execute(guest: Guest, statement: str, *values: object) -> Any:
    return PostgresqlProbe.execute(guest, statement, *values)


def create(guest: Guest, *databases: payloads.Database) -> None:
    guest.call("create_databases", payloads.Databases(databases=databases))


def add(guest: Guest, *names: str, database: str = "shop") -> None:
    users = tuple(payloads.User(name=n, password=f"{n}-pw", databases=(database,)) for n in names)
    guest.call("create_users", payloads.Users(users=users))


def connect(
    guest: Guest, user: str, password: str | None = None, database: str = "shop"
) -> psycopg.Connection[Any]:
    return psycopg.connect(
        host=guest.address,
        port=guest.port,
        user=user,
        password=password or f"{user}-pw",
        dbname=database,
        sslmode="disable",
        gssencmode="disable",
        connect_timeout=10,
        autocommit=True,
    )


@contextlib.contextmanager
def session(guest: Guest, user: str, **options: Any) -> Iterator[psycopg.Connection[Any]]:
    with contextlib.closing(connect(guest, user, **options)) as connection:
        yield connection


@contextlib.contextmanager
def root(guest: Guest, database: str = "postgres") -> Iterator[psycopg.Connection[Any]]:
    guest.call("enable_root", payloads.EnableRoot(password="r"))
    try:
        with session(guest, "postgres", password="r", database=database) as connection:
            yield connection
    finally:
        guest.call("disable_root", payloads.Empty())


def configure(guest: Guest, overrides: dict[str, Any]) -> payloads.JobOutcome:
    job = payloads.ConfigureJob(**guest.sizes, overrides={**_QUICK, **overrides})
    outcome = guest.run(job)
    assert outcome.succeeded, outcome.error
    return outcome


def rules_of(guest: Guest) -> dict[str, parameters.Parameter]:
    version = guest.conductor.last
    assert version is not None
    assert version.engine_version is not None
    return dict(postgresql.parameters_of(version.engine_version))


# -- the rules of the parameters -----


def test_every_rule_is_as_the_server_says(instance: Guest) -> None:
    known = {
        row[0]: row[1:]
        for row in execute(
            instance,
            "SELECT lower(name), vartype, context, min_val, max_val, enumvals FROM pg_settings",
        )
    }
    rules = rules_of(instance)
    assert len(rules) >= 170
    for name, rule in rules.items():
        kind, context, minimum, maximum, words = known[name]
        assert rule.type is _TYPES[kind], name
        assert context != "internal", name
        assert rule.restart_required == (context == "postmaster"), name
        if kind in ("integer", "real"):
            assert rule.minimum is not None, name
            assert rule.maximum is not None, name
            assert float(minimum) <= rule.minimum <= rule.maximum <= float(maximum), name
        if kind == "enum":
            assert rule.values, name
            assert set(rule.values) <= {*words, *_BUILT_IN}, name


def test_no_rule_runs_programs_or_moves_files(instance: Guest) -> None:
    names = set(rules_of(instance)) - _HARMLESS
    assert not [name for name in names if any(part in name for part in _FORBIDDEN)]


def _sample(name: str, rule: parameters.Parameter, current: str) -> Any:
    given = {"datestyle": "ISO, DMY", "timezone": "Europe/Berlin", "lc_time": "C"}
    if name in given:
        return given[name]
    if rule.type is ParameterType.BOOLEAN:
        return current != "on"
    if rule.type is ParameterType.STRING:
        if rule.values is None:
            return current
        return next((word for word in rule.values if word not in (current, *_BUILT_IN)), current)
    assert rule.minimum is not None
    assert rule.maximum is not None
    wanted = max(rule.minimum, min(rule.maximum, float(current) + 1))
    return wanted if rule.type is ParameterType.FLOAT else int(wanted)


def test_every_parameter_is_taken_and_given_back(instance: Guest) -> None:
    rules = rules_of(instance)

    def look() -> dict[str, str]:
        rows = execute(instance, "SELECT lower(name), reset_val FROM pg_settings")
        return {name: text for name, text in rows if name in rules}

    before = look()
    values = {name: _sample(name, rule, before[name]) for name, rule in rules.items()}
    # these go together, or want what the tests' machine cannot give
    values.update(
        shared_buffers=5000, max_connections=50, wal_level="logical", client_encoding="UTF8"
    )
    for name, value in values.items():
        if value != "":
            assert rules[name].check(value) is None, name
    values = {name: value for name, value in values.items() if value != ""}
    assert configure(instance, values).result["restart_required"] is True
    assert instance.run(payloads.RestartJob()).succeeded
    changed = [name for name in rules if look()[name] != before[name]]
    assert len(changed) > len(rules) * 2 / 3
    assert configure(instance, {}).result["restart_required"] is True
    assert instance.run(payloads.RestartJob()).succeeded
    assert look() == before


def test_a_server_that_does_not_start_says_why_and_is_cured(instance: Guest) -> None:
    # past the trial, as if an earlier release had let it through
    store = instance.environment().store
    settings = store.find("settings")
    assert settings is not None
    store.save("settings", {**settings, "overrides": {"wal_level": "minimal"}})
    assert not instance.run(payloads.RestartJob()).succeeded
    assert "max_wal_senders" in str(instance.wait_status("CRASHED").message)
    configure(instance, {})
    instance.wait_status("HEALTHY")


# -- databases that are shared -----


def test_users_of_a_database_share_what_each_of_them_makes(clean: Guest) -> None:
    create(clean, payloads.Database(name="shop"))
    add(clean, "ann", "joe")
    with session(clean, "ann") as ann:
        ann.execute("CREATE TABLE t (id serial, i int)")
        ann.execute("CREATE SCHEMA own CREATE TABLE u (i int)")
        ann.execute("CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 7'")
    with session(clean, "joe") as joe:
        joe.execute("INSERT INTO t (i) VALUES (1)")
        joe.execute("INSERT INTO own.u VALUES (f())")
        joe.execute("CREATE EXTENSION IF NOT EXISTS plpgsql")
    # a third one, who came later
    add(clean, "eve")
    clean.call("delete_user", payloads.UserRef(name="ann"))
    with session(clean, "eve") as eve:
        assert eve.execute("SELECT i FROM t").fetchall() == [(1,)]
        assert eve.execute("SELECT i FROM own.u").fetchall() == [(7,)]
        # what was nobody's any more belongs to all of them
        eve.execute("DROP TABLE t")


def test_a_revoked_user_is_out_at_once_and_what_it_made_stays(clean: Guest) -> None:
    create(clean, payloads.Database(name="shop"))
    add(clean, "ann", "joe")
    with session(clean, "ann") as ann:
        ann.execute("CREATE TABLE t AS SELECT 1 AS i")
        grant = payloads.Grant(user=payloads.UserRef(name="ann"), databases=("shop",))
        clean.call("revoke", grant)
        with pytest.raises(psycopg.OperationalError):
            ann.execute("SELECT * FROM t")
    with pytest.raises(psycopg.OperationalError, match="CONNECT"):
        connect(clean, "ann")
    with session(clean, "joe") as joe:
        assert joe.execute("SELECT i FROM t").fetchall() == [(1,)]


def test_database_and_user_are_deleted_under_their_sessions(clean: Guest) -> None:
    create(clean, payloads.Database(name="shop"), payloads.Database(name="other"))
    add(clean, "joe")
    with session(clean, "joe") as first, session(clean, "joe", database="postgres") as second:
        clean.call("delete_database", payloads.DatabaseRef(name="shop"))
        with pytest.raises(psycopg.OperationalError):
            first.execute("SELECT 1")
        clean.call("delete_user", payloads.UserRef(name="joe"))
        with pytest.raises(psycopg.OperationalError):
            second.execute("SELECT 1")
    rows = execute(clean, "SELECT rolname FROM pg_roles WHERE rolname LIKE 'trove_owner%'")
    assert len(rows) == 1


def test_encodings_and_collations_are_kept(clean: Guest) -> None:
    wanted = (
        payloads.Database(name="a", character_set="LATIN1", collate="C"),
        payloads.Database(name="b", character_set="UTF8", collate="C"),
        payloads.Database(name="c", character_set="UTF8", collate="C.UTF-8"),
    )
    create(
        clean,
        payloads.Database(name="a", character_set="latin-1"),
        payloads.Database(name="b", collate="C"),
        payloads.Database(name="c"),
    )
    assert clean.call("list_databases", payloads.Page(limit=9)).databases == wanted


def test_the_server_keeps_scram_verifiers_and_a_new_name_keeps_them_valid(clean: Guest) -> None:
    create(clean, payloads.Database(name="shop"))
    add(clean, "joe")
    query = "SELECT rolpassword FROM pg_authid WHERE rolname = %s"
    ((before,),) = execute(clean, query, "joe")
    assert before.startswith("SCRAM-SHA-256$")
    change = payloads.UserChange(new_name="Jo")
    clean.call("update_user", payloads.UpdateUser(user=payloads.UserRef(name="joe"), change=change))
    assert execute(clean, query, "Jo") == [(before,)]
    connect(clean, "Jo", "joe-pw").close()
    ((without,),) = execute(
        clean, "SELECT count(*) FROM pg_authid WHERE rolcanlogin AND rolpassword IS NULL"
    )
    # the agent's own, and root's while it is locked out
    assert without <= 2


def test_what_an_owner_makes_the_default_of_a_database_does_not_hinder_the_agent(
    clean: Guest,
) -> None:
    create(clean, payloads.Database(name="shop"))
    add(clean, "joe")
    with session(clean, "joe") as joe:
        joe.execute("CREATE FUNCTION public.lower(text) RETURNS text LANGUAGE sql AS 'SELECT 1/0'")
        for setting in (
            "search_path = public, pg_catalog",
            "default_transaction_read_only = on",
            "statement_timeout = 1",
            "role = 'nobody'",
        ):
            with contextlib.suppress(psycopg.Error):
                joe.execute(f"ALTER DATABASE shop SET {setting}")  # type: ignore[arg-type]
        joe.execute("ALTER DATABASE shop CONNECTION LIMIT 0")
    add(clean, "ann")
    clean.call("delete_user", payloads.UserRef(name="joe"))
    assert clean.call("get_user", payloads.UserRef(name="ann")).databases == ("shop",)


# -- root -----


def test_root_may_do_much_but_nothing_on_the_instance_itself(clean: Guest) -> None:
    create(clean, payloads.Database(name="shop"))
    add(clean, "joe")
    with session(clean, "joe") as joe:
        joe.execute("CREATE TABLE t AS SELECT 1 AS i")
    with root(clean) as admin:
        admin.execute("CREATE ROLE made LOGIN PASSWORD 'made-pw'")
        admin.execute("ALTER ROLE joe PASSWORD 'new-pw'")
        admin.execute("CREATE DATABASE roots")
        admin.execute("SELECT count(*) FROM pg_stat_activity")
        for statement in (
            "ALTER ROLE postgres SUPERUSER",
            "GRANT pg_execute_server_program TO postgres",
            "GRANT pg_read_server_files TO made",
            "GRANT pg_write_server_files TO made",
            "GRANT os_admin TO made",
            "SET ROLE pg_execute_server_program",
            "ALTER ROLE pg_execute_server_program LOGIN",
            "COPY (SELECT 1) TO PROGRAM 'true'",
            "COPY (SELECT 1) TO '/tmp/nothing'",
            "SELECT pg_read_file('PG_VERSION')",
            "SELECT lo_import('/etc/passwd')",
            "ALTER SYSTEM SET archive_command = 'true'",
            "SELECT pg_reload_conf()",
            "LOAD '$libdir/plpgsql'",
            "CREATE EXTENSION dblink",
            "CREATE FUNCTION f(int) RETURNS int LANGUAGE c AS 'libc', 'abs'",
            "DROP ROLE os_admin",
            "ALTER ROLE os_admin PASSWORD 'x'",
            "ALTER DATABASE postgres RENAME TO gone",
            "DROP TABLE trove.ping",
            "CREATE TABLE public.t (i int)",
        ):
            with pytest.raises(psycopg.Error) as caught:
                admin.execute(statement)  # type: ignore[arg-type]
            assert caught.value.sqlstate in ("42501", "0A000", "42939", "3D000"), statement
    with root(clean, database="shop") as admin:
        assert admin.execute("SELECT i FROM t").fetchall() == [(1,)]
        admin.execute("ALTER TABLE t ADD j int")
    connect(clean, "joe", "new-pw").close()
    # what root made is the service's to show and to share as well
    clean.call("grant", payloads.Grant(user=payloads.UserRef(name="made"), databases=("roots",)))
    with session(clean, "made", database="roots") as made:
        made.execute("CREATE TABLE t (i int)")
    with pytest.raises(psycopg.OperationalError, match="CONNECT"):
        connect(clean, "joe", "new-pw", "roots")


def test_users_made_after_root_are_roots_too(clean: Guest) -> None:
    with root(clean) as admin:
        create(clean, payloads.Database(name="shop"))
        add(clean, "late")
        admin.execute("ALTER ROLE late CONNECTION LIMIT 5")
        with session(clean, "postgres", password="r") as inside:
            inside.execute("CREATE TABLE t (i int)")


def test_nobody_but_the_agent_comes_by_the_socket(clean: Guest) -> None:
    clean.call("create_users", payloads.Users(users=(payloads.User(name="joe", password="x"),)))
    with pytest.raises(psycopg.OperationalError, match=r"no pg_hba\.conf entry"):
        psycopg.connect(
            host=str(clean.environment().store.run_dir()),
            user="joe",
            password="x",
            dbname="postgres",
        )
    with pytest.raises(psycopg.OperationalError, match="rejects"):
        connect(clean, postgresql.AGENT_USER, "x", "postgres")


@pytest.mark.parametrize("name", ["pg_mine", "PG_mine", "trove_owner_1", "é" * 32, " a", "none"])
def test_names_that_the_server_could_not_have_are_refused(clean: Guest, name: str) -> None:
    with pytest.raises(exception.GuestError):
        clean.call("create_users", payloads.Users(users=(payloads.User(name=name, password="x"),)))
    user = payloads.User(name="joe", host="10.0.0.1", password="x")
    with pytest.raises(exception.GuestError, match="no hosts"):
        clean.call("create_users", payloads.Users(users=(user,)))


# -- logs -----


def read_log(guest: Guest, name: str) -> str:
    assert guest.datastore is not None
    guest.datastore.service.log_files.collect()  # type: ignore[attr-defined]
    directory = guest.layout.volume_agent_dir / "logs"
    path = guest.layout.log if name == "error" else directory / f"{name}.log"
    return path.read_text() if path.exists() else ""


def switch(guest: Guest, name: str, enabled: bool) -> None:
    request = payloads.LogRequest(name=name, enable=enabled, disable=not enabled)
    guest.call("change_log", request)


def test_one_stream_becomes_three_logs(clean: Guest) -> None:
    create(clean, payloads.Database(name="shop"))
    add(clean, "joe")
    configure(clean, {"log_min_duration_statement": 30})
    for name in ("general", "slow_query"):
        switch(clean, name, True)
    with session(clean, "joe") as joe:
        joe.execute("SELECT 'quick'\n, 1")
        joe.execute("SELECT 'slow', pg_sleep(0.05)")
        joe.execute("SELECT %s::text, pg_sleep(0.05)", ("bound",))
        with pytest.raises(psycopg.Error):
            joe.execute("SELECT 1/0")
    add(clean, "secret")

    def is_there() -> bool:
        return "bound" in read_log(clean, "slow_query") and "zero" in read_log(clean, "error")

    wait_until(is_there, what="lines in the logs")
    general, slow = read_log(clean, "general"), read_log(clean, "slow_query")
    assert "statement: SELECT 'quick'\n\t, 1" in general
    assert "joe@shop" in general
    assert "'slow'" in general
    assert "'quick'" not in slow
    assert "'slow'" in slow
    assert "duration: " in slow
    assert "duration: " not in general
    errors = read_log(clean, "error")
    assert "ERROR: division by zero" in errors
    assert "1/0" not in errors
    # the agent's own statements are in no log, nor is any password
    everything = general + slow + errors
    assert "secret-pw" not in everything
    assert "SCRAM" not in everything
    for name in ("general", "slow_query"):
        switch(clean, name, False)
    settled = len(read_log(clean, "general"))
    with session(clean, "joe") as joe:
        joe.execute("SELECT 'unheard', pg_sleep(0.05)")
    assert len(read_log(clean, "general")) == settled
    configure(clean, {})


def test_no_message_is_lost_when_the_stream_is_begun_anew(clean: Guest) -> None:
    create(clean, payloads.Database(name="shop"))
    add(clean, "joe")
    switch(clean, "general", True)
    source = clean.layout.engine_logs_dir / "postgresql.json"
    seen = ""
    with session(clean, "joe") as joe:
        for number in range(60):
            joe.execute(f"SELECT 'n{number:04d}' /* {'x' * 60_000} */")  # type: ignore[arg-type]
            seen = read_log(clean, "general")
    wait_until(lambda: "n0059" in read_log(clean, "general"), what="the last line")
    seen = read_log(clean, "general")
    assert [n for n in range(60) if seen.count(f"'n{n:04d}'") != 1] == []
    assert source.stat().st_size < 3 * 1024 * 1024
    switch(clean, "general", False)


def test_a_line_that_is_no_message_is_an_error_and_a_monster_is_left_out(clean: Guest) -> None:
    source = clean.layout.engine_logs_dir / "postgresql.json"
    before = read_log(clean, "error")
    with open(source, "ab") as stream:
        stream.write(b"plain words\n" + b"y" * (5 * 1024 * 1024) + b"\n")
        stream.write(
            json.dumps({"message": "after it", "error_severity": "PANIC"}).encode() + b"\n"
        )
    told = read_log(clean, "error")[len(before) :]
    assert "plain words\n" in told
    assert "PANIC: after it\n" in told
    assert "yyyy" not in told


# -- the rest -----


def test_read_only_holds_for_all_but_those_who_insist_and_ends_with_a_restart(clean: Guest) -> None:
    create(clean, payloads.Database(name="shop"))
    add(clean, "joe")
    assert clean.datastore is not None
    service = clean.datastore.service
    with session(clean, "joe") as writer, session(clean, "joe") as idle:
        writer.execute("CREATE TABLE t (i int)")
        writer.execute("BEGIN")
        writer.execute("INSERT INTO t VALUES (1)")
        service.set_read_only(True)
        with pytest.raises(psycopg.OperationalError):
            writer.execute("INSERT INTO t VALUES (2)")
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            idle.execute("INSERT INTO t VALUES (3)")
        assert idle.execute("SELECT count(*) FROM t").fetchall() == [(0,)]
        # that is how a full database is made smaller
        idle.execute("BEGIN READ WRITE")
        idle.execute("DELETE FROM t")
        idle.execute("COMMIT")
        # the agent itself goes on
        service.prove_write()
        add(clean, "ann")
        service.set_read_only(False)
        idle.execute("INSERT INTO t VALUES (4)")
    service.set_read_only(True)
    assert clean.run(payloads.RestartJob()).succeeded
    with session(clean, "joe") as joe:
        joe.execute("INSERT INTO t VALUES (5)")


def test_a_stop_ends_sessions_and_is_clean(clean: Guest) -> None:
    create(clean, payloads.Database(name="shop"))
    add(clean, "joe")
    with session(clean, "joe"):
        assert clean.run(payloads.StopJob()).succeeded
        assert clean.engine() is None
    assert "database system is shut down" in read_log(clean, "error")
    assert clean.run(payloads.StartJob()).succeeded
    assert "was interrupted" not in read_log(clean, "error")


def test_a_server_that_takes_no_clients_does_not_count_as_answering(
    clean: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trove.guestagent.datastores.postgresql.connection._CONNECT_TIMEOUT_S", 0.2)
    engine = clean.engine()
    assert engine is not None
    os.kill(engine.pid, signal.SIGSTOP)
    try:
        clean.wait_status("BLOCKED")
    finally:
        os.kill(engine.pid, signal.SIGCONT)
    clean.wait_status("HEALTHY")
    assert clean.engine() == engine


def test_costly_statements_are_told_without_their_literals(clean: Guest) -> None:
    create(clean, payloads.Database(name="shop"))
    add(clean, "joe")
    with session(clean, "joe") as joe:
        joe.execute("CREATE TABLE costly AS SELECT i FROM generate_series(1, 50) AS i")
        for _ in range(3):
            joe.execute("SELECT 'my secret', i FROM costly WHERE i > 10")
        joe.execute("ALTER ROLE joe PASSWORD 'another secret'")
    answer = clean.call("top_queries", payloads.TopQueriesRequest(limit=200, order_by="calls"))
    (found,) = [query for query in answer.queries if "FROM costly" in query.text]
    assert (found.calls, found.rows) == (3, 120)
    assert (found.database, found.user) == ("shop", "joe")
    assert 0 < found.mean_seconds <= found.max_seconds <= found.total_seconds
    assert not [query for query in answer.queries if "secret" in query.text]
    assert postgresql.AGENT_USER not in {query.user for query in answer.queries}
    assert answer.since is not None
    with pytest.raises(exception.GuestError, match="order"):
        clean.call("top_queries", payloads.TopQueriesRequest(order_by="1; DROP TABLE t"))


def test_version_16_has_its_rules_and_keeps_root_within_the_same_limits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(ENGINES, "postgresql-16", _POSTGRESQL_16)
    with running("postgresql-16") as guest:
        test_every_rule_is_as_the_server_says(guest)
        test_no_rule_runs_programs_or_moves_files(guest)
        test_root_may_do_much_but_nothing_on_the_instance_itself(guest)


def test_what_clients_did_wrong_does_not_explain_an_end(instance: Guest) -> None:
    assert instance.datastore is not None
    explain = instance.datastore.service.explain_exit
    stamp = "2026-01-01 00:00:00.000 UTC [12]"
    clients = f"{stamp} joe@shop ERROR: No space left on device\n"
    assert explain(1, clients) == "The database ended unexpectedly with code 1."
    assert "disk is full" in explain(
        1, f"{clients}{stamp} joe@shop PANIC: could not write: No space left on device\n"
    )
    assert "odd" in explain(1, f"{stamp} FATAL:  something odd\n{clients}")
    taken = 'LOG:  could not bind IPv4 address "127.0.0.9": Address already in use\n'
    assert "Port 5432 is taken" in explain(1, f"{stamp} {taken}{stamp} FATAL:  no sockets\n")
