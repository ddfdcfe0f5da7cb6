"""What only the MySQL family has: hosts, character sets, patterns in grants."""

from __future__ import annotations

import string
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tests.fixtures.probes import Refused
from tests.fixtures.probes_mysql import MysqlProbe
from tests.fixtures.rows import MYSQL_ROWS, Subject, clean, running
from trove.common import exception
from trove.datastores import mariadb, mysql
from trove.datastores.parameters import ParameterType
from trove.guestagent.datastores import base
from trove.rpc import payloads

__all__ = ["clean"]


@pytest.fixture(scope="module", params=MYSQL_ROWS)
def subject(request: pytest.FixtureRequest) -> Iterator[Subject]:
    """Give a running instance of each member of the family."""
    with running(request.param) as made:
        yield made


def test_character_set_and_collation_are_kept(clean: Subject) -> None:
    wanted = payloads.Database(name="c", character_set="latin1", collate="latin1_bin")
    clean.guest.call("create_databases", payloads.Databases(databases=(wanted,)))
    page = clean.guest.call("list_databases", payloads.Page(limit=10))
    assert page.databases == (wanted,)


def test_deleting_a_dotted_database_leaves_its_namesake(clean: Subject) -> None:
    clean.create("x", "x.y")
    clean.delete_database("x.y")
    assert clean.databases() == ["x"]


@pytest.mark.parametrize("name", ["MySQL", "sys", "../etc", "a/b", "x" * 65])
def test_names_that_would_leave_the_data_directory_are_refused(clean: Subject, name: str) -> None:
    with pytest.raises(exception.GuestError):
        clean.create(name)


def test_a_new_host_keeps_the_grants(clean: Subject) -> None:
    clean.tenant_user("old", "old-Word", "d_1")
    clean.change("old", new_name="new", new_host="127.%", new_password="new-Word")
    assert clean.get_user("new", "127.%").databases == ("d_1",)
    assert clean.may_write("new", "new-Word", "d_1")
    with pytest.raises(exception.UserNotFound):
        clean.get_user("new")


def test_users_make_triggers_and_functions_in_their_databases(clean: Subject) -> None:
    clean.tenant_user("u", "u-Word", "d")
    with clean.login("u", "u-Word", database="d") as session:
        for statement in (
            "CREATE TABLE t (n INT)",
            "CREATE TRIGGER up BEFORE INSERT ON t FOR EACH ROW SET NEW.n = NEW.n + 1",
            "CREATE FUNCTION now_and_then() RETURNS INT RETURN RAND() * 10",
            "INSERT INTO t VALUES (now_and_then() * 0 + 6)",
        ):
            session._execute(statement)  # type: ignore[attr-defined]
        assert session._execute("SELECT n FROM t") == ((7,),)  # type: ignore[attr-defined]


def test_grant_that_the_tenants_root_made_without_escapes_can_be_revoked(clean: Subject) -> None:
    clean.create("a_b")
    clean.add(payloads.User(name="u", password="u"))
    with clean.root() as session:
        session._execute("GRANT SELECT ON `a_b`.* TO u@'%'")  # type: ignore[attr-defined]
    assert clean.get_user("u").databases == ("a_b",)
    clean.revoke("u", "a_b")
    assert clean.get_user("u").databases == ()


_HOST = st.one_of(
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(str),
    st.text(string.ascii_letters + string.digits + "-._%", min_size=1, max_size=60),
    st.integers(1, 31).map(lambda bits: f"0.0.0.0/{_netmask(bits)}"),
)


def _netmask(bits: int) -> str:
    value = (0xFFFFFFFF << (32 - bits)) & 0xFFFFFFFF
    return ".".join(str(value >> shift & 0xFF) for shift in (24, 16, 8, 0))


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much],
)
@given(host=_HOST)
def test_every_host_that_passes_the_checks_works(subject: Subject, host: str) -> None:
    assume(subject.spec.check_host(host) is None)
    subject.add(payloads.User(name="h", host=host, password="x"))
    try:
        assert subject.get_user("h", host).host.lower() == host.lower()
        with pytest.raises(exception.AlreadyExists):
            subject.add(payloads.User(name="h", host=host, password="x"))
    finally:
        subject.delete_user("h", host)


def test_character_sets_of_the_spec_are_those_of_the_server(subject: Subject) -> None:
    if subject.guest.manager != "mariadb":
        pytest.skip("another engine has another table")
    found = MysqlProbe.execute(
        subject.guest,
        "SELECT character_set_name, collation_name, full_collation_name"
        " FROM information_schema.collation_character_set_applicability"
        " WHERE character_set_name <> 'filename'",
    )
    table: dict[str, set[str]] = {}
    for charset, short, full in found:
        table.setdefault(charset, set()).update((short, full))
    assert {name: set(members) for name, members in mariadb.collations().items()} == table


#: Their limits follow from each other's present value.
_TIED = {"innodb_io_capacity", "innodb_io_capacity_max"}
#: What the server would ask memory for at once.
_COSTLY = {"key_buffer_size", "host_cache_size"}
_READ_ONLY = 1238


def test_every_rule_of_mysql_is_as_a_real_server_takes_it(subject: Subject) -> None:
    if subject.guest.manager != "mysql":
        pytest.skip("the rules of MariaDB are held against its own catalogue")
    for name, rule in subject.spec.parameters().items():
        usual = subject.probe.setting(subject.guest, name)
        assert _set(subject, name, usual) is not rule.restart_required, name
        if rule.type is ParameterType.BOOLEAN:
            assert usual in (0, 1), name
        elif rule.type is ParameterType.STRING:
            assert isinstance(usual, str), name
        limits = {rule.minimum} if name in _COSTLY else {rule.minimum, rule.maximum}
        words = {*(rule.values or ()), *(rule.any_of or ())}
        if not rule.restart_required and name not in _TIED:
            for value in (limits - {None}) | words:
                assert _set(subject, name, value), name
                if not isinstance(value, str):
                    assert subject.probe.setting(subject.guest, name) == value, name
            _set(subject, name, usual)


def _set(subject: Subject, name: str, value: Any) -> bool:
    """Set a variable; tell whether the server lets anybody."""
    assert subject.guest.datastore is not None
    connector = subject.guest.datastore.service.connector  # type: ignore[attr-defined]
    try:
        with connector.session() as session:
            session.execute(f"SET GLOBAL {name} = {{value}}", value=value)
    except exception.GuestError as e:
        if f"({_READ_ONLY})" not in str(e):
            raise
        return False
    return True


def test_agent_user_is_reserved(subject: Subject) -> None:
    assert subject.spec.is_reserved_user(mysql.AGENT_USER)


def test_the_proof_of_writing_is_made_anew_when_a_superuser_breaks_it(clean: Subject) -> None:
    assert clean.guest.datastore is not None
    service = clean.guest.datastore.service
    service.prove_write()
    for statement in (
        "ALTER TABLE mysql.trove_pulse DROP COLUMN beat",
        "DROP TABLE mysql.trove_pulse",
    ):
        MysqlProbe.execute(clean.guest, statement)
        service.prove_write()
        rows = MysqlProbe.execute(clean.guest, "SELECT COUNT(*), MAX(beat) FROM mysql.trove_pulse")
        assert rows[0][0] == 1
        assert rows[0][1] is not None
    clean.tenant_user()
    with clean.login("joe", "secret") as session, pytest.raises(Refused):
        session._execute("SELECT * FROM mysql.trove_pulse")  # type: ignore[attr-defined]


def test_a_server_that_is_locked_for_writes_cannot_prove_any(clean: Subject) -> None:
    assert clean.guest.datastore is not None
    service = clean.guest.datastore.service
    with clean.root() as session:
        session._execute("FLUSH TABLES WITH READ LOCK")  # type: ignore[attr-defined]
        service.ping()
        with pytest.raises(base.NotReady, match="takes no writes"):
            service.prove_write()
    service.prove_write()
