"""Configuration of MariaDB: the rules, and their values, held against the real server."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from tests.fixtures.engine import Guest, needs_mariadb, passable_directory, template_of
from trove.common import exception
from trove.datastores import all as all_specs
from trove.datastores import parameters
from trove.datastores import spec as datastore_spec
from trove.datastores.parameters import ParameterType
from trove.guestagent.datastores.mysql import configuration, connection
from trove.rpc import payloads

assert all_specs

pytestmark = needs_mariadb

_TYPES = {
    "BOOLEAN": ParameterType.BOOLEAN,
    "DOUBLE": ParameterType.FLOAT,
    "ENUM": ParameterType.STRING,
    "SET": ParameterType.STRING,
    "FLAGSET": ParameterType.STRING,
    "VARCHAR": ParameterType.STRING,
}
#: Not listed with an option by the server, which takes one nevertheless.
_OPTIONS_OF_OLD = {"character_set_server", "collation_server"}
#: Not read-only, and yet refused by a server that was started without a limit.
_CONDITIONAL = {"max_user_connections"}
#: What the service itself relies on.
_OWN = {
    "basedir", "bind_address", "datadir", "general_log_file", "gtid_domain_id", "init_connect",
    "init_file", "innodb_buffer_pool_size", "innodb_data_home_dir", "innodb_force_recovery",
    "innodb_log_group_home_dir", "innodb_read_only", "local_infile", "log_bin", "log_bin_basename",
    "log_error", "lower_case_table_names", "pid_file", "plugin_dir", "plugin_load", "port",
    "read_only", "relay_log", "report_host", "require_secure_transport", "secure_file_priv",
    "server_id", "skip_grant_tables", "skip_name_resolve", "skip_networking", "slow_query_log_file",
    "socket", "ssl_ca", "ssl_cert", "ssl_key", "sync_binlog", "tls_version", "tmpdir",
    "wsrep_notify_cmd", "wsrep_provider",
}  # fmt: skip
_SIZES: Mapping[str, Any] = {"memory_mib": 256, "vcpus": 1, "volume_size_gib": 1}


@pytest.fixture(scope="module")
def instance() -> Iterator[Guest]:
    """A running instance."""
    with passable_directory() as directory:
        guest = Guest(directory=directory, template=template_of("mariadb"))
        try:
            guest.start_agent()
            guest.prepare(overrides={"max_connections": 77}, overrides_digest="first")
            yield guest
        finally:
            guest.destroy()


@pytest.fixture
def plain(instance: Guest) -> Guest:
    """The instance on its defaults, restarted when that is needed."""
    if configure(instance, {}).result["restart_required"]:
        instance.run(payloads.RestartJob())
    return instance


def configure(guest: Guest, overrides: dict[str, Any], **changes: Any) -> payloads.JobOutcome:
    outcome = guest.run(payloads.ConfigureJob(**{**_SIZES, **changes}, overrides=overrides))
    assert outcome.succeeded, outcome.error
    return outcome


def refuse(guest: Guest, overrides: dict[str, Any]) -> str:
    outcome = guest.run(payloads.ConfigureJob(**_SIZES, overrides=overrides))
    assert not outcome.succeeded
    assert outcome.error_code == exception.ConfigurationRefused.code
    return str(outcome.error)


def execute(guest: Guest, statement: str) -> Any:
    assert guest.datastore is not None
    connector: connection.Connector = guest.datastore.service.connector  # type: ignore[attr-defined]
    with connector.session() as session:
        return session.execute(statement)


def value(guest: Guest, name: str) -> Any:
    return execute(guest, f"SELECT @@GLOBAL.{name}")[0][0]


def config_file(guest: Guest) -> pathlib.Path:
    return guest.layout.engine_dir / "my.cnf"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Variable:
    """What the server says of a variable."""

    type: str
    scope: str
    is_read_only: bool
    has_option: bool
    minimum: str | None
    maximum: str | None
    words: str | None


def variables(guest: Guest) -> dict[str, Variable]:
    rows = execute(
        guest,
        "SELECT LOWER(VARIABLE_NAME), VARIABLE_TYPE, VARIABLE_SCOPE, READ_ONLY,"
        " COMMAND_LINE_ARGUMENT, NUMERIC_MIN_VALUE, NUMERIC_MAX_VALUE, ENUM_VALUE_LIST"
        " FROM information_schema.SYSTEM_VARIABLES",
    )
    return {
        row[0]: Variable(
            type=row[1],
            scope=row[2],
            is_read_only=row[3] == "YES",
            has_option=row[4] is not None,
            minimum=row[5],
            maximum=row[6],
            words=row[7],
        )
        for row in rows
    }


# -- the rules -----


def test_every_rule_is_as_the_server_says(instance: Guest) -> None:
    known = variables(instance)
    rules = parameters.load("mariadb")
    assert 80 <= len(rules) <= 150
    for name, rule in rules.items():
        variable = known[name]
        assert variable.scope != "SESSION ONLY", name
        assert variable.has_option or name in _OPTIONS_OF_OLD, name
        assert rule.restart_required == (variable.is_read_only or name in _CONDITIONAL), name
        assert rule.type is _TYPES.get(variable.type, ParameterType.INTEGER), name
        if rule.type in (ParameterType.INTEGER, ParameterType.FLOAT):
            assert rule.minimum is not None, name
            assert rule.maximum is not None, name
            assert float(variable.minimum or 0) <= rule.minimum <= rule.maximum, name
            assert rule.maximum <= float(variable.maximum or 0), name
        words = rule.values or rule.any_of
        if words is not None:
            assert set(words) <= set((variable.words or "").split(",")), name
            assert (rule.any_of is not None) == (variable.type in ("SET", "FLAGSET")), name


def test_no_rule_touches_what_the_service_relies_on() -> None:
    assert not _OWN & set(parameters.load("mariadb"))


def test_every_default_is_a_variable_of_the_server_or_known_to_be_none(plain: Guest) -> None:
    facts = datastore_spec.registry()["mariadb"]
    defaults = facts.default_configuration(256, 1)
    known = variables(plain)
    unknown = {name for name in defaults if name not in known}
    assert unknown <= {"symbolic_links", "innodb_buffer_pool_size_max"}
    for name in ("max_connections", "max_allowed_packet", "binlog_format", "tmp_table_size"):
        assert value(plain, name) == defaults[name], name


def _sample(rule: parameters.Parameter, current: Any) -> Any:
    """Return a good value that is not the current one, where there is another."""
    if rule.type is ParameterType.BOOLEAN:
        return not bool(current)
    if rule.type is ParameterType.STRING:
        words = rule.values or rule.any_of or (current,)
        others = [word for word in words if word.lower() != str(current).lower()]
        return others[0]
    assert rule.minimum is not None
    assert rule.maximum is not None
    if rule.type is ParameterType.FLOAT:
        return rule.minimum
    # small enough for this machine, large enough for the server's own work
    return int(min(rule.maximum, max(rule.minimum, 65536 if "size" in rule.name else 64)))


def test_every_parameter_is_taken_by_a_running_server_and_given_back(plain: Guest) -> None:
    rules = parameters.load("mariadb")
    # words of their own: what is on a list may want others beside it, or another engine
    given = {
        "character_set_server": "utf8mb4",
        "collation_server": "utf8mb4_unicode_ci",
        "event_scheduler": "ON",
        "sql_mode": "ANSI_QUOTES,STRICT_ALL_TABLES",
        "innodb_adaptive_flushing_lwm": 5.0,
        "completion_type": "NO_CHAIN",
    }
    values = {
        name: given[name] if name in given else _sample(rule, value(plain, name))
        for name, rule in rules.items()
    }
    for name, rule in rules.items():
        if name not in _OPTIONS_OF_OLD:
            assert rule.check(values[name]) is None, name
    # some follow from others when the server starts
    assert plain.run(payloads.RestartJob()).succeeded
    before = {name: value(plain, name) for name in rules}
    assert configure(plain, values).result["restart_required"] is True
    changed = [n for n in rules if value(plain, n) != before[n]]
    assert len(changed) > len(rules) * 2 / 3
    assert all(not rules[name].restart_required for name in changed)
    assert plain.run(payloads.RestartJob()).succeeded
    again = {name for name in rules if value(plain, name) != before[name]}
    assert any(rules[name].restart_required for name in again)
    assert configure(plain, {}).result["restart_required"] is True
    assert plain.run(payloads.RestartJob()).succeeded
    assert {name: value(plain, name) for name in rules} == before


# -- values -----


def test_a_new_instance_has_its_groups_values_from_the_beginning(instance: Guest) -> None:
    (prepared,) = [o for o in instance.conductor.outcomes if "engine_version" in o.result][:1]
    assert prepared.result["overrides_digest"] == "first"


def test_what_is_no_longer_set_goes_back_to_the_files_value_or_the_servers(plain: Guest) -> None:
    facts = datastore_spec.registry()["mariadb"].default_configuration(256, 1)
    usual = value(plain, "wait_timeout")
    configure(plain, {"max_connections": 55, "max_allowed_packet": 2**20, "wait_timeout": 60})
    assert value(plain, "wait_timeout") == 60
    configure(plain, {"wait_timeout": 60})
    assert value(plain, "max_connections") == facts["max_connections"]
    assert value(plain, "max_allowed_packet") == facts["max_allowed_packet"]
    configure(plain, {})
    assert value(plain, "wait_timeout") == usual


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"nonsense": 1}, "nonsense"),
        ({"event_scheduler": "MAYBE"}, "MAYBE"),
        ({"character_set_server": "nonsense"}, "nonsense"),
        # good for the running server, but it would not start again with it
        ({"collation_server": "latin1_swedish_ci"}, "latin1_swedish_ci"),
        # good for a start, but not while it runs
        ({"max_connections": 99, "event_scheduler": "DISABLED"}, "event_scheduler"),
    ],
)
def test_what_the_server_refuses_leaves_everything_as_it_was(
    plain: Guest, overrides: dict[str, Any], words: str
) -> None:
    configure(plain, {"max_connections": 55})
    text = config_file(plain).read_text()
    settings = plain.environment().store.find("settings")
    message = refuse(plain, {**overrides, "wait_timeout": 61})
    assert words in message
    assert config_file(plain).read_text() == text
    assert plain.environment().store.find("settings") == settings
    assert value(plain, "max_connections") == 55
    assert value(plain, "wait_timeout") != 61
    assert not list(plain.layout.engine_dir.glob("trial*"))
    # and nothing of it is left in the way of what is good
    configure(plain, {"max_connections": 56})
    assert value(plain, "max_connections") == 56


def test_sizes_change_with_the_flavor(plain: Guest) -> None:
    outcome = configure(plain, {}, memory_mib=512)
    assert value(plain, "max_connections") == 128
    assert outcome.result["restart_required"] is True
    assert "512 MiB" in config_file(plain).read_text()
    assert configure(plain, {}).result["restart_required"] is False
    assert value(plain, "max_connections") == 64


def test_an_interrupted_job_is_done_again_completely(
    plain: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert plain.datastore is not None

    def die(*args: Any) -> None:
        raise SystemExit

    job = payloads.ConfigureJob(**_SIZES, overrides={"max_connections": 55})
    with monkeypatch.context() as patched:
        patched.setattr(configuration, "_set", die)
        with pytest.raises(SystemExit):
            plain.datastore.config.configure(job, is_running=True)
    assert "max_connections = 55" in config_file(plain).read_text()
    assert value(plain, "max_connections") != 55
    assert plain.datastore.config.configure(job, is_running=True) is False
    assert value(plain, "max_connections") == 55
    assert plain.environment().store.find("former_settings") == {}


def test_a_server_that_does_not_start_is_started_by_a_better_configuration(plain: Guest) -> None:
    assert plain.agent is not None
    # past the trial, as if an earlier release had let it through
    store = plain.environment().store
    settings = store.find("settings")
    assert settings is not None
    store.save("settings", {**settings, "overrides": {"innodb_page_size": 65536}})
    assert not plain.run(payloads.RestartJob()).succeeded
    plain.wait_status("CRASHED")
    assert configure(plain, {"max_connections": 55}).result["restart_required"] is False
    plain.wait_status("HEALTHY")
    assert value(plain, "max_connections") == 55


def test_before_there_is_a_database_nothing_is_configured() -> None:
    with passable_directory() as directory:
        guest = Guest(directory=directory)
        try:
            guest.start_agent()
            outcome = guest.run(payloads.ConfigureJob(**_SIZES))
            assert not outcome.succeeded
            assert "no database" in str(outcome.error)
        finally:
            guest.destroy()
