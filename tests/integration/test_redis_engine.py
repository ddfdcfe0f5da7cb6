"""What is special to Redis and Valkey, on real servers."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import stat
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import redis as driver

from tests.fixtures.engine import is_available
from tests.fixtures.probes import Refused
from tests.fixtures.probes_redis import TLS_PORT, RedisSession, execute
from tests.fixtures.rows import Subject, running
from tests.fixtures.waiting import wait_until
from trove.common import exception
from trove.datastores import redis as facts
from trove.datastores import redis_configuration
from trove.datastores.metrics import METRICS
from trove.datastores.parameters import Parameter, ParameterType
from trove.datastores.spec import Capability
from trove.guestagent.datastores import base
from trove.guestagent.datastores.redis import users
from trove.guestagent.datastores.redis.service import RedisService
from trove.guestagent.system import process
from trove.rpc import payloads

ROWS = [
    pytest.param(
        row, marks=pytest.mark.skipif(not is_available(row), reason=f"{row} is not installed")
    )
    for row in ("redis", "valkey")
]

#: What nobody but the agent may do; arguments are such that they would do little.
FORBIDDEN = (
    ("CONFIG", "GET", "dir"),
    ("CONFIG", "SET", "dir", "/"),
    ("CONFIG", "REWRITE"),
    ("CONFIG", "RESETSTAT"),
    ("DEBUG", "SLEEP", "0"),
    ("MODULE", "LOAD", "/nowhere"),
    ("MODULE", "LIST"),
    ("SHUTDOWN", "NOSAVE"),
    ("REPLICAOF", "127.0.0.1", "1"),
    ("SLAVEOF", "127.0.0.1", "1"),
    ("FAILOVER",),
    ("PSYNC", "?", "-1"),
    ("SYNC",),
    ("SAVE",),
    ("BGSAVE",),
    ("BGREWRITEAOF",),
    ("ACL", "LIST"),
    ("ACL", "USERS"),
    ("ACL", "GETUSER", "os_admin"),
    ("ACL", "SETUSER", "joe", "+@all"),
    ("ACL", "DELUSER", "os_admin"),
    ("ACL", "LOAD"),
    ("ACL", "SAVE"),
    ("ACL", "LOG"),
    ("CLIENT", "PAUSE", "1"),
    ("MIGRATE", "127.0.0.1", "1", "k", "0", "1"),
    ("SCRIPT", "DEBUG", "SYNC"),
    ("CLUSTER", "RESET"),
    ("PFDEBUG", "DECODE", "k"),
)


@pytest.fixture(scope="module", params=ROWS)
def subject(request: pytest.FixtureRequest) -> Iterator[Subject]:
    """Give a running instance."""
    with running(request.param) as made:
        yield made


@pytest.fixture
def clean(subject: Subject) -> Iterator[Subject]:
    """Give the instance without users and keys."""
    subject.clean()
    execute(subject.guest, "FLUSHALL")
    yield subject
    subject.guest.call("disable_root", payloads.Empty())


@contextlib.contextmanager
def session(subject: Subject, name: str = "joe", *patterns: str) -> Iterator[RedisSession]:
    """Log in as a new user."""
    subject.add(payloads.User(name=name, password="secret", databases=patterns))
    with subject.login(name, "secret") as opened:
        assert isinstance(opened, RedisSession)
        yield opened


def refused(opened: RedisSession, *command: Any) -> bool:
    """Tell whether a command is refused for want of rights, or by the server to everybody."""
    words = ""
    try:
        opened.execute(*command)
    except Refused as e:
        words = str(e).lower()
    return any(each in words for each in ("permission", "command not allowed", "can't run this"))


def service_of(subject: Subject) -> RedisService:
    assert subject.guest.datastore is not None
    service = subject.guest.datastore.service
    assert isinstance(service, RedisService)
    return service


# -- users -----


def test_users_reach_the_keys_and_channels_of_their_patterns(clean: Subject) -> None:
    with session(clean, "joe", "app:*", "shared") as joe:
        joe.execute("SET", "app:1", "x")
        joe.execute("SET", "shared", "x")
        joe.execute("PUBLISH", "app:news", "x")
        for command in (
            ("SET", "other", "x"),
            ("GET", "app"),
            ("MGET", "app:1", "other"),
            ("EVAL", "return redis.call('get', 'other')", "1", "other"),
            ("PUBLISH", "other", "x"),
            ("KEYS", "*"),
            ("SCAN", "0"),
            ("RANDOMKEY",),
            ("FLUSHDB",),
            ("FLUSHALL",),
            ("SWAPDB", "0", "1"),
            ("FUNCTION", "FLUSH"),
        ):
            assert refused(joe, *command), command
        clean.grant("joe", "other")
        joe.execute("SET", "other", "x")
        clean.revoke("joe", "app:*")
        assert refused(joe, "GET", "app:1")
        assert clean.get_user("joe").databases == ("other", "shared")
        with pytest.raises(exception.DatabaseNotFound):
            clean.revoke("joe", "app:*")
        clean.revoke("joe", "other", "shared")
        assert refused(joe, "GET", "other")
        clean.grant("joe", "*", "one")
        joe.execute("SET", "any", "x")
        clean.revoke("joe", "*")
        assert refused(joe, "GET", "any")
        assert clean.get_user("joe").databases == ("one",)


def test_a_user_without_patterns_has_all_keys_and_is_shown_so(clean: Subject) -> None:
    with session(clean) as joe:
        assert clean.get_user("joe").databases == (facts.EVERYTHING,)
        joe.execute("SET", "any", "x")
        assert joe.execute("KEYS", "*") == ["any"]
        joe.execute("INFO")
        joe.execute("FLUSHALL")
        assert refused(joe, "CLIENT", "LIST")
        assert refused(joe, "MONITOR")


def test_nobody_may_do_what_would_harm_the_service(clean: Subject) -> None:
    with session(clean) as joe, clean.root() as root:
        assert isinstance(root, RedisSession)
        for command in FORBIDDEN:
            for opened in (joe, root):
                assert refused(opened, *command), command
        root.execute("SLOWLOG", "GET", "1")
        root.execute("CLIENT", "KILL", "TYPE", "pubsub")
        root.execute("FLUSHALL")


def test_an_old_client_that_knows_no_user_names_is_the_superuser(clean: Subject) -> None:
    answer = clean.guest.call("enable_root", payloads.EnableRoot(password="pw"))
    assert answer.name == "default"
    with clean.login("", "pw") as opened:
        opened.write("x")


def test_listening_ends_with_the_superuser(clean: Subject) -> None:
    clean.guest.call("enable_root", payloads.EnableRoot(password="pw"))
    with clean.login("default", "pw") as opened:
        assert isinstance(opened, RedisSession)
        listener = opened.client.pubsub(ignore_subscribe_messages=True)
        listener.subscribe("news")
        listener.get_message(timeout=5)
        clean.guest.call("disable_root", payloads.Empty())
        assert execute(clean.guest, "PUBSUB", "NUMSUB", "news")[1] == 0
        listener.connection_pool.disconnect()


def test_names_of_every_shape_and_all_users_survive_a_restart(clean: Subject) -> None:
    names = ['a"b', "a'b", "é", "(x", ")", "#x", "~*", "+@all", "user", "on", "\\", "{", "🂡", "-x"]
    patterns = ("p(1", '"q"', "é*", "[a-z]:*", "~x", "%R~y")
    clean.add(
        *(payloads.User(name=name, password=f"pw {name}", databases=patterns) for name in names)
    )
    clean.guest.call("enable_root", payloads.EnableRoot(password="pw"))
    clean.restart()
    assert sorted(user.name for user in clean.users()) == sorted(names)
    for name in names:
        assert clean.get_user(name).databases == tuple(sorted(patterns, key=str.encode))
        with clean.login(name, f"pw {name}") as opened:
            assert isinstance(opened, RedisSession)
            for key in ("p(1", '"q"', "éx", "b:1", "~x", "%R~y"):
                opened.execute("SET", key, "x")
            assert refused(opened, "GET", "other")
    assert clean.is_let_in("default", "pw")


def test_passwords_are_kept_as_digests_that_only_the_agent_and_the_engine_can_read(
    clean: Subject,
) -> None:
    clean.add(payloads.User(name="joe", password="Very-Secret-1"))
    clean.restart()
    layout = clean.guest.layout
    for path, uid in (
        (layout.volume_agent_dir / "users.json", os.geteuid()),
        (layout.secret_dir / "users.acl", layout.engine_user.uid),
    ):
        assert "Very-Secret-1" not in path.read_text()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert path.stat().st_uid == uid
    password = clean.guest.environment().store.password("os_admin")
    assert password not in (layout.secret_dir / "users.acl").read_text()


def test_users_outlive_the_server_on_the_same_volume(clean: Subject) -> None:
    guest = clean.guest
    clean.add(payloads.User(name="joe", password="secret", databases=("app:*",)))
    assert guest.agent is not None
    guest.agent.supervisor.power_off(30)
    guest.stop_agent()
    shutil.rmtree(guest.layout.state_dir)
    guest.start_agent()
    clean.prepare()
    assert clean.is_let_in("joe", "secret")
    assert clean.get_user("joe").databases == ("app:*",)


def test_a_new_agent_has_a_running_engine_know_the_users_of_its_list(clean: Subject) -> None:
    clean.add(payloads.User(name="joe", password="secret"))
    # as if the former agent had ended in the middle
    execute(clean.guest, "ACL SETUSER", "stranger", "on", ">pw", "+@all", "~*")
    execute(clean.guest, "ACL DELUSER", "joe")
    before = clean.guest.engine()
    clean.guest.stop_agent()
    clean.guest.start_agent()
    clean.guest.wait_status("HEALTHY")
    assert clean.guest.engine() == before
    assert clean.is_let_in("joe", "secret")
    assert not clean.is_let_in("stranger", "pw")


def test_what_cannot_be_remembered_is_not_done(
    clean: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean.add(payloads.User(name="joe", password="first"))

    def fail(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("trove.guestagent.system.filesystem.write_file", fail)
        for act in (
            lambda: clean.add(payloads.User(name="new", password="x")),
            lambda: clean.change("joe", new_password="second"),
            lambda: clean.change("joe", new_name="jim"),
            lambda: clean.delete_user("joe"),
            lambda: clean.guest.call("enable_root", payloads.EnableRoot(password="x")),
        ):
            with pytest.raises(exception.GuestError, match="full"):
                act()
    assert [user.name for user in clean.users()] == ["joe"]
    assert clean.is_let_in("joe", "first")
    for name, password in (("new", "x"), ("joe", "second"), ("jim", "first"), ("default", "x")):
        assert not clean.is_let_in(name, password)


def test_what_the_agent_does_is_not_shown_to_the_superuser(clean: Subject) -> None:
    clean.add(payloads.User(name="joe", password="secret"))
    with clean.root() as root:
        assert isinstance(root, RedisSession)
        with root.client.monitor() as watched:
            clean.change("joe", new_password="Very-Secret-1")
            assert clean.is_let_in("joe", "Very-Secret-1")
            with clean.login("joe", "Very-Secret-1") as opened:
                opened.write("the last")
            seen = ""
            while "the last" not in seen:
                seen += str(watched.next_command())
    assert "SETUSER" not in seen
    assert users.digest("Very-Secret-1") not in seen
    assert "Very-Secret-1" not in seen


def test_tenants_that_take_all_connections_do_not_shut_the_agent_out(clean: Subject) -> None:
    clean.guest.wait_status("HEALTHY")
    with session(clean) as joe:
        execute(clean.guest, "CONFIG SET", "maxclients", "2")
        try:
            assert not clean.is_let_in("joe", "secret")
            joe.write("x")
            clean.change("joe", new_password="other")
            clean.guest.call("enable_root", payloads.EnableRoot(password="pw"))
            service_of(clean).ping()
        finally:
            with service_of(clean).connector.session() as client:
                client.config_set({"maxclients": "1024"})
    assert clean.is_let_in("joe", "other")


def test_a_script_without_end_is_told_and_can_be_ended(clean: Subject) -> None:
    guest = clean.guest
    job = payloads.ConfigureJob(**guest.sizes, overrides={"busy_reply_threshold": 100})  # type: ignore[arg-type]
    assert guest.run(job).succeeded
    clean.guest.call("enable_root", payloads.EnableRoot(password="pw"))
    ended: list[str] = []

    def run() -> None:
        with clean.login("joe", "secret") as opened:
            assert isinstance(opened, RedisSession)
            try:
                opened.execute("EVAL", "while true do end", "0")
            except Refused as e:
                ended.append(str(e))

    with session(clean):
        script = threading.Thread(target=run)
        script.start()
        try:
            told = guest.wait_status("BLOCKED")
            assert "SCRIPT KILL" in str(told.message)
        finally:
            with contextlib.closing(
                driver.Redis(host=guest.address, password="pw", protocol=2)
            ) as root:
                root.script_kill()
            script.join(20)
    assert ended
    guest.wait_status("HEALTHY")
    assert guest.run(payloads.ConfigureJob(**guest.sizes)).succeeded  # type: ignore[arg-type]


def test_databases_are_refused(clean: Subject) -> None:
    for method, request in (
        ("list_databases", payloads.Page(limit=10)),
        ("create_databases", payloads.Databases(databases=(payloads.Database(name="d"),))),
        ("delete_database", payloads.DatabaseRef(name="d")),
    ):
        with pytest.raises(exception.NotImplementedByEngine):
            clean.guest.call(method, request)


# -- data -----


def test_writes_of_the_last_second_survive_a_kill(clean: Subject) -> None:
    with session(clean) as joe:
        for number in range(50):
            joe.execute("SET", f"k{number}", number)
    # the log of writes is synced every second; a killed process leaves it to the kernel
    identity = clean.guest.engine()
    assert identity is not None
    os.kill(identity.pid, signal.SIGKILL)
    wait_until(lambda: clean.guest.engine() not in (None, identity))
    wait_until(lambda: clean.is_let_in("joe", "secret"))
    with clean.login("joe", "secret") as opened:
        assert isinstance(opened, RedisSession)
        assert opened.execute("GET", "k49") == "49"


def test_a_snapshot_without_a_log_of_writes_is_loaded(clean: Subject) -> None:
    guest = clean.guest
    with session(clean) as joe:
        joe.execute("SET", "restored", "yes")
        execute(guest, "SAVE")
        joe.execute("SET", "later", "yes")
    assert guest.run(payloads.StopJob()).succeeded
    data = guest.layout.data_dir
    log_of_writes = data / "appendonlydir"
    # as a backup by snapshot is
    shutil.rmtree(log_of_writes)
    for _ in range(2):
        assert guest.run(payloads.StartJob()).succeeded
        with clean.login("joe", "secret") as opened:
            assert isinstance(opened, RedisSession)
            assert opened.execute("GET", "restored") == "yes"
            opened.execute("SET", "after", "yes")
        assert execute(guest, "CONFIG GET", "appendonly") == {"appendonly": "yes"}
        assert (log_of_writes / "appendonly.aof.manifest").exists()
        # from now on the log counts, whatever the snapshot says
        assert guest.run(payloads.StopJob()).succeeded
        (data / "dump.rdb").unlink(missing_ok=True)
    assert guest.run(payloads.StartJob()).succeeded
    assert clean.is_let_in("joe", "secret")


def test_read_only_lets_tenants_read_and_delete(clean: Subject) -> None:
    service = service_of(clean)
    with session(clean) as joe, clean.root() as root:
        assert isinstance(root, RedisSession)
        joe.execute("SET", "k", "x")
        joe.execute("RPUSH", "l", "a", "b")
        service.set_read_only(True)
        for opened in (joe, root):
            assert refused(opened, "SET", "k", "y")
            assert refused(opened, "RPUSH", "l", "y")
            assert refused(opened, "FUNCTION", "LOAD", "#!lua name=x\nx")
            assert opened.execute("GET", "k") == "x"
        assert refused(joe, "EVAL", "return redis.call('set', KEYS[1], 'y')", "1", "k")
        joe.execute("LPOP", "l")
        joe.execute("DEL", "k")
        # users made meanwhile are no exception
        with session(clean, "jim") as jim:
            assert refused(jim, "SET", "k", "y")
            service.set_read_only(False)
            jim.execute("SET", "k", "y")
        joe.execute("SET", "k", "y")
        service.set_read_only(True)
    clean.restart()
    assert clean.may_write("joe", "secret", None)


def test_a_server_that_cannot_store_its_writes_is_noticed(clean: Subject) -> None:
    service = service_of(clean)
    service.prove_write()
    before = execute(clean.guest, "DBSIZE")
    service.prove_write()
    assert execute(clean.guest, "DBSIZE") == before
    data = clean.guest.layout.data_dir
    with session(clean) as joe:
        joe.execute("SET", "k", "x")
        data.chmod(0o500)
        try:
            # after a snapshot that failed a server takes no writes
            execute(clean.guest, "BGSAVE")
            wait_until(lambda: _snapshot_failed(clean))
            with pytest.raises(base.NotReady, match="cannot store"):
                service.prove_write()
            assert service.ping()
        finally:
            data.chmod(0o700)
        execute(clean.guest, "BGSAVE")
        wait_until(lambda: not _snapshot_failed(clean))
        service.prove_write()


def _snapshot_failed(subject: Subject) -> bool:
    return bool(execute(subject.guest, "INFO", "persistence")["rdb_last_bgsave_status"] == "err")


def test_only_data_in_memory_that_is_in_the_log_too_counts_as_running(clean: Subject) -> None:
    service = service_of(clean)
    manifest = clean.guest.layout.data_dir / "appendonlydir" / "appendonly.aof.manifest"
    away = manifest.with_name("away")
    manifest.rename(away)
    service.disconnect()
    try:
        with pytest.raises(base.NotReady, match="log of writes"):
            service.ping()
    finally:
        away.rename(manifest)
    assert service.ping()


# -- configuration -----


def _samples(rule: Parameter) -> list[Any]:
    if rule.type is ParameterType.BOOLEAN:
        return [True, False]
    if rule.values is not None:
        return list(rule.values)
    if rule.type is ParameterType.INTEGER:
        return [rule.minimum, rule.maximum]
    return {
        "notify_keyspace_events": ["AKE", ""],
        "save": ["", "60 1", "3600 1 300 100"],
        "latency_tracking_info_percentiles": ["50 99", "99.9"],
    }[rule.name]


def test_every_limit_of_every_rule_is_taken_by_the_server(subject: Subject) -> None:
    """By CONFIG SET where the rule says dynamic; where it says static the server refuses that."""
    guest = subject.guest
    rules = subject.spec.parameters()
    assert len(rules) > 40
    for name, rule in rules.items():
        spelled, samples = name.replace("_", "-"), _samples(rule)
        before = execute(guest, "CONFIG GET", spelled)[spelled]
        for value in samples:
            assert rule.check(value) is None, name
            text = redis_configuration.option(name, value)[1]
            if rule.restart_required:
                with pytest.raises(Refused, match="immutable"):
                    execute(guest, "CONFIG SET", spelled, text)
            else:
                execute(guest, "CONFIG SET", spelled, text)
                assert execute(guest, "CONFIG GET", spelled)[spelled] == text, name
        if not rule.restart_required:
            execute(guest, "CONFIG SET", spelled, before)
    static = {n: _samples(r)[-1] for n, r in rules.items() if r.restart_required}
    job = payloads.ConfigureJob(**guest.sizes, overrides=static)
    assert guest.run(job).succeeded
    subject.restart()
    for name, value in static.items():
        assert subject.probe.setting(guest, name) == value
    assert guest.run(payloads.ConfigureJob(**guest.sizes)).succeeded


def test_no_rule_leaves_the_data_directory_runs_code_or_locks_anybody_out(
    subject: Subject,
) -> None:
    own = {
        "dir", "dbfilename", "logfile", "pidfile", "unixsocket", "unixsocketperm", "loadmodule",
        "include", "rename_command", "aclfile", "acl_pubsub_default", "acllog_max_len", "bind",
        "port", "requirepass", "masterauth", "masteruser", "user", "protected_mode",
        "enable_debug_command", "enable_module_command", "enable_protected_configs", "daemonize",
        "supervised", "appendonly", "appendfilename", "appenddirname", "databases", "maxmemory",
        "maxclients", "replicaof", "slaveof", "replica_announce_ip", "cluster_enabled",
        "set_proc_title", "syslog_enabled", "syslog_ident", "proc_title_template", "io_threads",
        "min_replicas_to_write", "replica_read_only", "import_mode", "availability_zone",
    }  # fmt: skip
    rules = set(subject.spec.parameters())
    assert not rules & own
    assert not {name for name in rules if name.startswith(("tls_", "acl", "cluster_", "enable_"))}
    assert not {name for name in rules if name.endswith(("_file", "_dir", "cpulist"))}


def test_sizes_are_what_the_server_says_it_has(subject: Subject) -> None:
    sizes = redis_configuration.sizes(256)
    found = execute(subject.guest, "CONFIG GET", "*")
    assert found["maxmemory"] == str(sizes.data_mib * 2**20)
    assert found["maxclients"] == str(sizes.max_clients)
    assert found["repl-backlog-size"] == str(sizes.backlog_mib * 2**20)
    assert f"normal {sizes.client_buffer_mib * 2**20} " in found["client-output-buffer-limit"]
    defaults = subject.spec.default_configuration(256, 1)
    known = set(subject.probe.catalogue(subject.guest))
    assert set(defaults) <= known
    for name, value in defaults.items():
        if name != "client_output_buffer_limit":
            shown = found[name.replace("_", "-")]
            assert shown == str(value), name


def test_a_trial_leaves_nothing_behind_and_holds_no_secret(subject: Subject) -> None:
    guest = subject.guest
    outcome = guest.run(
        payloads.ConfigureJob(**guest.sizes, overrides={"notify_keyspace_events": "nonsense"})
    )
    assert outcome.error_code == exception.ConfigurationRefused.code
    assert "notify-keyspace-events" in str(outcome.error)
    assert not list(guest.layout.engine_dir.rglob("trial*"))
    assert guest.run(payloads.ConfigureJob(**guest.sizes)).succeeded
    assert not list(guest.layout.engine_dir.rglob("trial*"))


# -- TLS -----


def test_tls_has_a_port_of_its_own_and_a_must_closes_the_other(subject: Subject) -> None:
    subject.need(Capability.TLS)
    subject.clean()
    subject.tenant_user()
    ca = subject.authority.pem
    assert (subject.guest.port, TLS_PORT) == (6379, 6380)
    assert subject.is_let_in("joe", "secret")
    assert subject.is_let_in("joe", "secret", ca=ca)
    job = subject.tls("enforced")
    subject.apply_tls(job)
    assert process.is_port_free(subject.guest.address, 6379)
    assert subject.is_let_in("joe", "secret", ca=subject.tenant.pem)
    subject.restart()
    assert process.is_port_free(subject.guest.address, 6379)
    subject.apply_tls(payloads.SslJob(mode="builtin"))
    assert subject.is_let_in("joe", "secret")
    assert subject.is_let_in("joe", "secret", ca=ca)


def test_a_program_without_tls_says_so_and_serves_without(subject: Subject) -> None:
    if service_of(subject).has_tls():
        pytest.skip("this server was built with TLS")
    outcome = subject.guest.run(subject.tls("basic"))
    assert "built without it" in str(outcome.error)
    assert "tls-port" not in (subject.guest.layout.engine_dir / "engine.conf").read_text()


# -- logs, figures, endings -----


def test_slow_commands_are_in_the_log_once_each_without_secrets(clean: Subject) -> None:
    guest = clean.guest
    log = clean.guest.layout.volume_agent_dir / "logs" / "slow_query.log"
    guest.call("change_log", payloads.LogRequest(name="slow_query", enable=True))
    try:
        with session(clean) as joe:
            execute(guest, "CONFIG SET", "slowlog-log-slower-than", "0")
            joe.execute("SET", "slow-key", "a\nb")
            clean.is_let_in("joe", "Wrong-Secret")
            clean.change("joe", new_password="New-Secret")
            execute(guest, "CONFIG SET", "slowlog-log-slower-than", "10000")
        for _ in range(2):
            guest.call("show_log", payloads.LogRequest(name="slow_query"))
        text = log.read_text()
        (line,) = [line for line in text.splitlines() if "slow-key" in line]
        assert "SET slow-key a\\nb" in line
        assert "Secret" not in text
        clean.restart()
        guest.call("show_log", payloads.LogRequest(name="slow_query"))
        assert log.read_text().count("slow-key") == 1
    finally:
        guest.call("change_log", payloads.LogRequest(name="slow_query", disable=True))


def test_figures_cost_the_server_less_than_two_milliseconds(clean: Subject) -> None:
    assert clean.guest.datastore is not None
    metrics = clean.guest.datastore.metrics
    with session(clean) as joe:
        before = metrics.read()
        joe.execute("SET", "k", "x")
        joe.execute("GET", "k")
        joe.execute("GET", "nothing")
        execute(clean.guest, "CONFIG RESETSTAT")
        after = metrics.read()
    assert set(after) <= set(METRICS)
    assert before["memory_max_bytes"] == redis_configuration.sizes(256).data_mib * 2**20
    assert before["connections_max"] == redis_configuration.sizes(256).max_clients
    spent = execute(clean.guest, "INFO", "commandstats")["cmdstat_info"]
    assert spent["usec_per_call"] < 2000


@pytest.mark.parametrize("row", ROWS)
def test_why_it_does_not_start_is_told(row: str) -> None:
    with running(row) as subject:
        guest = subject.guest
        assert guest.run(payloads.StopJob()).succeeded
        manifest = guest.layout.data_dir / "appendonlydir" / "appendonly.aof.manifest"
        good = manifest.read_text()
        manifest.write_text("nonsense\n")
        outcome = guest.run(payloads.StartJob())
        assert "damaged" in str(outcome.error)
        manifest.write_text(good)
        with socket.create_server((guest.address, 6380)):
            outcome = guest.run(payloads.StartJob())
            assert "6380" in str(outcome.error)
            assert "taken by another program" in str(outcome.error)
        users_file = guest.layout.volume_agent_dir / "users.json"
        users_file.write_text('{"users": [')
        assert "users.json" in str(guest.run(payloads.StartJob()).error)
        users_file.unlink()
        assert guest.run(payloads.StartJob()).succeeded
