"""What every datastore promises, asked of the real engine: one suite, a row for each manager."""

from __future__ import annotations

import dataclasses
import pathlib
import string
import uuid
from collections.abc import Iterator

import pymysql
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tests.fixtures.engine import (
    ENGINES,
    Guest,
    is_available,
    passable_directory,
    template_of,
)
from tests.fixtures.project import entry_points
from trove.common import exception
from trove.datastores import all as all_specs
from trove.datastores import mariadb, mysql
from trove.datastores import spec as datastore_spec
from trove.guestagent import templates
from trove.guestagent.datastores import base
from trove.rpc import payloads

assert all_specs

ROWS = [
    pytest.param(
        row, marks=pytest.mark.skipif(not is_available(row), reason=f"{row} is not installed")
    )
    for row in ENGINES
]


@pytest.fixture(scope="module", params=ROWS)
def instance(request: pytest.FixtureRequest) -> Iterator[Guest]:
    """A running instance of each datastore."""
    with passable_directory() as directory:
        template = template_of(request.param)
        guest = Guest(directory=directory, row=request.param, template=template)
        try:
            guest.start_agent()
            guest.prepare()
            yield guest
        finally:
            guest.destroy()


@pytest.fixture
def clean(instance: Guest) -> Guest:
    """The instance without databases and users."""
    for database in instance.call("list_databases", payloads.Page(limit=1000)).databases:
        instance.call("delete_database", payloads.DatabaseRef(name=database.name))
    for user in instance.call("list_users", payloads.Page(limit=1000)).users:
        instance.call("delete_user", _ref(user))
    return instance


def _ref(user: payloads.User) -> payloads.UserRef:
    return payloads.UserRef(name=user.name, host=user.host)


def _create(guest: Guest, *names: str) -> None:
    databases = tuple(payloads.Database(name=name) for name in names)
    guest.call("create_databases", payloads.Databases(databases=databases))


def _add(guest: Guest, *users: payloads.User) -> None:
    guest.call("create_users", payloads.Users(users=users))


def _names(guest: Guest) -> list[str]:
    page = guest.call("list_databases", payloads.Page(limit=1000))
    return [database.name for database in page.databases]


# -- composition -----


def test_capabilities_are_those_of_the_spec(instance: Guest) -> None:
    assert instance.datastore is not None
    assert instance.datastore.capabilities == instance.datastore.spec.capabilities
    assert instance.datastore.spec is datastore_spec.registry()[instance.manager]


def test_entry_point_names_the_maker(instance: Guest) -> None:
    module, _, attribute = entry_points()["trove.guestagent.datastores"][
        instance.manager
    ].partition(":")
    maker = instance.row_engine.maker
    assert (maker.__module__, maker.__name__) == (module, attribute)


def test_absent_parts_say_that_they_are_unsupported(instance: Guest) -> None:
    assert instance.datastore is not None
    parts = [getattr(instance.datastore, f.name) for f in dataclasses.fields(instance.datastore)]
    absent = [part for part in parts if isinstance(part, base.Unsupported)]
    assert absent
    for part in absent:
        with pytest.raises(exception.NotImplementedByEngine, match=instance.manager):
            part.anything()


def test_every_call_of_the_wire_format_has_a_handler(instance: Guest) -> None:
    assert instance.agent is not None
    assert set(instance.agent.manager.handlers) == set(payloads.CALLS)


# -- databases -----


def test_databases_come_back_in_order_and_pages_are_full(clean: Guest) -> None:
    names = ["B", "a", "b", "x.y", "z-1", "A", "é"]
    _create(clean, *names)
    seen: list[str] = []
    marker = None
    pages = 0
    while True:
        page = clean.call("list_databases", payloads.Page(limit=2, marker=marker))
        seen += [database.name for database in page.databases]
        pages += 1
        marker = page.next_marker
        if marker is None:
            break
        assert len(page.databases) == 2  # reserved ones are taken out before the page is cut
    assert seen == sorted(names, key=lambda name: name.encode())
    assert pages == 4


def test_character_set_and_collation_are_kept(clean: Guest) -> None:
    wanted = payloads.Database(name="c", character_set="latin1", collate="latin1_bin")
    clean.call("create_databases", payloads.Databases(databases=(wanted,)))
    page = clean.call("list_databases", payloads.Page(limit=10))
    assert page.databases == (wanted,)


def test_creating_databases_is_all_or_nothing(clean: Guest) -> None:
    _create(clean, "there")
    with pytest.raises(exception.AlreadyExists) as caught:
        _create(clean, "new", "there")
    assert caught.value.kwargs == {"kind": "database", "name": "there"}
    assert _names(clean) == ["there"]


def test_missing_database_cannot_be_deleted(clean: Guest) -> None:
    with pytest.raises(exception.DatabaseNotFound):
        clean.call("delete_database", payloads.DatabaseRef(name="nothing"))


def test_deleting_a_dotted_database_leaves_its_namesake(clean: Guest) -> None:
    _create(clean, "x", "x.y")
    clean.call("delete_database", payloads.DatabaseRef(name="x.y"))
    assert _names(clean) == ["x"]


@pytest.mark.parametrize("name", ["mysql", "MySQL", "sys", "../etc", "a/b", "", "x" * 65, "a\0b"])
def test_reserved_and_bad_database_names_are_refused_by_the_agent_too(
    clean: Guest, name: str
) -> None:
    with pytest.raises(exception.GuestError):
        _create(clean, name)
    with pytest.raises(exception.GuestError):
        clean.call("delete_database", payloads.DatabaseRef(name=name))


# -- users -----


def test_users_come_back_in_order_and_pages_are_full(clean: Guest) -> None:
    wanted = [("a", "%"), ("a", "10.0.0.1"), ("a@b", "%"), ("b", "%"), ("B", "%")]
    _add(clean, *(payloads.User(name=n, host=h, password="x") for n, h in wanted))
    seen: list[tuple[str, str]] = []
    marker = None
    while True:
        page = clean.call("list_users", payloads.Page(limit=2, marker=marker))
        seen += [(user.name, user.host) for user in page.users]
        assert all(user.password is None for user in page.users)
        marker = page.next_marker
        if marker is None:
            break
        assert len(page.users) == 2
    assert seen == sorted(wanted)


def test_creating_users_is_all_or_nothing(clean: Guest) -> None:
    _add(clean, payloads.User(name="there", password="x"))
    with pytest.raises(exception.AlreadyExists):
        _add(clean, *(payloads.User(name=n, password="x") for n in ("new", "there")))
    users = clean.call("list_users", payloads.Page(limit=10)).users
    assert [user.name for user in users] == ["there"]


def test_missing_users_are_told_apart(clean: Guest) -> None:
    _add(clean, payloads.User(name="u", host="10.0.0.1", password="x"))
    missing = payloads.UserRef(name="u", host="%")
    change = payloads.UserChange(new_password="y")
    for method, request in (
        ("get_user", missing),
        ("delete_user", missing),
        ("update_user", payloads.UpdateUser(user=missing, change=change)),
        ("grant", payloads.Grant(user=missing, databases=())),
        ("revoke", payloads.Grant(user=missing, databases=())),
    ):
        with pytest.raises(exception.UserNotFound) as caught:
            clean.call(method, request)
        assert caught.value.kwargs == {"name": "u", "host": "%"}


def test_new_name_host_and_password_keep_the_grants(clean: Guest) -> None:
    _create(clean, "d_1")
    _add(clean, payloads.User(name="old", password="old", databases=("d_1",)))
    change = payloads.UserChange(new_name="new", new_host="127.%", new_password="new")
    request = payloads.UpdateUser(user=payloads.UserRef(name="old"), change=change)
    clean.call("update_user", request)
    user = clean.call("get_user", payloads.UserRef(name="new", host="127.%"))
    assert user.databases == ("d_1",)
    with clean.connect("new", "new", database="d_1"):
        pass
    with pytest.raises(pymysql.err.OperationalError):
        clean.connect("new", "old")


def test_renaming_to_an_existing_user_is_refused_and_changes_nothing(clean: Guest) -> None:
    _add(clean, *(payloads.User(name=n, password=n) for n in ("a", "b")))
    change = payloads.UserChange(new_name="b", new_password="new")
    with pytest.raises(exception.AlreadyExists):
        clean.call(
            "update_user", payloads.UpdateUser(user=payloads.UserRef(name="a"), change=change)
        )
    with clean.connect("a", "a"):
        pass


@pytest.mark.parametrize("name", ["root", "os_admin", "mariadb.sys", "PUBLIC", "Root"])
def test_reserved_users_can_be_neither_seen_nor_touched(clean: Guest, name: str) -> None:
    reference = payloads.UserRef(name=name, host="localhost")
    change = payloads.UserChange(new_password="x")
    with pytest.raises(exception.GuestError):
        _add(clean, payloads.User(name=name, password="x"))
    for method, request in (
        ("get_user", reference),
        ("delete_user", reference),
        ("update_user", payloads.UpdateUser(user=reference, change=change)),
        ("grant", payloads.Grant(user=reference, databases=())),
    ):
        with pytest.raises(exception.GuestError):
            clean.call(method, request)
    assert clean.call("list_users", payloads.Page(limit=10)).users == ()


def test_user_cannot_be_renamed_to_a_reserved_name(clean: Guest) -> None:
    _add(clean, payloads.User(name="a", password="a"))
    change = payloads.UserChange(new_name="os_admin", new_host="localhost")
    with pytest.raises(exception.GuestError, match="reserved"):
        clean.call(
            "update_user", payloads.UpdateUser(user=payloads.UserRef(name="a"), change=change)
        )


# -- grants -----


@pytest.mark.parametrize(("granted", "other"), [("a_b", "axb"), ("a%b", "aXXb"), ("a%", "ab")])
def test_grant_reaches_one_database_and_no_other(clean: Guest, granted: str, other: str) -> None:
    _create(clean, granted, other)
    _add(clean, payloads.User(name="u", password="u"))
    grant = payloads.Grant(user=payloads.UserRef(name="u"), databases=(granted,))
    clean.call("grant", grant)
    with clean.connect("u", "u", database=granted) as connection:
        connection.cursor().execute("CREATE TABLE t (i INT)")
    with pytest.raises(pymysql.err.OperationalError, match="1044"):
        clean.connect("u", "u", database=other)
    assert clean.call("get_user", payloads.UserRef(name="u")).databases == (granted,)
    clean.call("revoke", grant)
    assert clean.call("get_user", payloads.UserRef(name="u")).databases == ()
    with pytest.raises(pymysql.err.OperationalError, match="1044"):
        clean.connect("u", "u", database=granted)


def test_grant_adds_and_asks_for_existing_databases(clean: Guest) -> None:
    _create(clean, "a", "b")
    user = payloads.UserRef(name="u")
    _add(clean, payloads.User(name="u", password="u", databases=("a",)))
    clean.call("grant", payloads.Grant(user=user, databases=("b",)))
    clean.call("grant", payloads.Grant(user=user, databases=("b",)))
    assert clean.call("get_user", user).databases == ("a", "b")
    with pytest.raises(exception.DatabaseNotFound):
        clean.call("grant", payloads.Grant(user=user, databases=("none",)))
    with pytest.raises(exception.DatabaseNotFound):
        clean.call("revoke", payloads.Grant(user=user, databases=("none",)))


def test_grant_that_the_tenants_root_made_without_escapes_can_be_revoked(clean: Guest) -> None:
    _create(clean, "a_b")
    _add(clean, payloads.User(name="u", password="u"))
    clean.call("enable_root", payloads.EnableRoot(password="r"))
    with clean.connect("root", "r", autocommit=True) as connection:
        connection.cursor().execute("GRANT SELECT ON `a_b`.* TO u@'%'")
    user = payloads.UserRef(name="u")
    assert clean.call("get_user", user).databases == ("a_b",)
    clean.call("revoke", payloads.Grant(user=user, databases=("a_b",)))
    assert clean.call("get_user", user).databases == ()
    clean.call("disable_root", payloads.Empty())


# -- root -----


def test_root_is_let_in_with_each_new_password_and_locked_out_again(clean: Guest) -> None:
    for password in ("first", "sec'ond\\"):
        answer = clean.call("enable_root", payloads.EnableRoot(password=password))
        assert answer.name == datastore_spec.registry()[clean.manager].root_name
        with clean.connect(answer.name, password, autocommit=True) as connection:
            connection.cursor().execute("CREATE USER made_by_root@'%'")
            connection.cursor().execute("DROP USER made_by_root@'%'")
    with pytest.raises(pymysql.err.OperationalError):
        clean.connect("root", "first")
    clean.call("disable_root", payloads.Empty())
    clean.call("disable_root", payloads.Empty())
    with pytest.raises(pymysql.err.OperationalError):
        clean.connect("root", "sec'ond\\")


def test_template_and_instance_have_no_account_without_password(clean: Guest) -> None:
    assert isinstance(clean.datastore, base.Datastore)
    for user in ("", "root", "mysql", "os_admin", "mariadb.sys", "anybody"):
        with pytest.raises(pymysql.err.OperationalError):
            clean.connect(user, "")


# -- every name that passes the checks -----

_TEXT = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cs"]) | st.sampled_from("`'\"\\%_.; -*/{}"),
    min_size=1,
    max_size=70,
)
_SETTINGS = settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much],
)


@_SETTINGS
@given(name=_TEXT)
def test_every_database_name_that_passes_the_checks_works(instance: Guest, name: str) -> None:
    spec = datastore_spec.registry()[instance.manager]
    assume(spec.check_database_name(name) is None and not spec.is_reserved_database(name))
    user = f"u{uuid.uuid4().hex[:12]}"
    _create(instance, name)
    try:
        assert name in _names(instance)
        _add(instance, payloads.User(name=user, password="x", databases=(name,)))
        try:
            reference = payloads.UserRef(name=user)
            assert instance.call("get_user", reference).databases == (name,)
            with instance.connect(user, "x", database=name) as connection:
                connection.cursor().execute("CREATE TABLE t (i INT)")
            instance.call("revoke", payloads.Grant(user=reference, databases=(name,)))
            assert instance.call("get_user", reference).databases == ()
        finally:
            instance.call("delete_user", payloads.UserRef(name=user))
    finally:
        instance.call("delete_database", payloads.DatabaseRef(name=name))
    assert name not in _names(instance)


@_SETTINGS
@given(name=_TEXT, password=_TEXT)
def test_every_user_and_password_that_pass_the_checks_work(
    instance: Guest, name: str, password: str
) -> None:
    spec = datastore_spec.registry()[instance.manager]
    assume(spec.check_user_name(name) is None and not spec.is_reserved_user(name))
    assume(spec.check_password(password) is None)
    reference = payloads.UserRef(name=name)
    _add(instance, payloads.User(name=name, password="first"))
    try:
        change = payloads.UserChange(new_password=password)
        instance.call("update_user", payloads.UpdateUser(user=reference, change=change))
        with instance.connect(name, password.encode()):
            pass
        users = instance.call("list_users", payloads.Page(limit=10)).users
        assert [user.name for user in users] == [name]
        assert instance.call("get_user", reference).name == name
    finally:
        instance.call("delete_user", reference)


_HOST = st.one_of(
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(str),
    st.text(string.ascii_letters + string.digits + "-._%", min_size=1, max_size=60),
    st.integers(1, 31).map(lambda bits: f"0.0.0.0/{_netmask(bits)}"),
)


def _netmask(bits: int) -> str:
    value = (0xFFFFFFFF << (32 - bits)) & 0xFFFFFFFF
    return ".".join(str(value >> shift & 0xFF) for shift in (24, 16, 8, 0))


@_SETTINGS
@given(host=_HOST)
def test_every_host_that_passes_the_checks_works(instance: Guest, host: str) -> None:
    spec = datastore_spec.registry()[instance.manager]
    assume(spec.check_host(host) is None)
    reference = payloads.UserRef(name="h", host=host)
    _add(instance, payloads.User(name="h", host=host, password="x"))
    try:
        assert instance.call("get_user", reference).host.lower() == host.lower()
        with pytest.raises(exception.AlreadyExists):
            _add(instance, payloads.User(name="h", host=host, password="x"))
    finally:
        instance.call("delete_user", reference)


# -- facts that the spec holds about the engine -----


def test_character_sets_of_the_spec_are_those_of_the_server(instance: Guest) -> None:
    if instance.manager != "mariadb":
        pytest.skip("another engine has another table")
    instance.call("enable_root", payloads.EnableRoot(password="r"))
    try:
        with instance.connect("root", "r") as connection:
            cursor = connection.cursor()
            cursor.execute(
                "SELECT character_set_name, collation_name, full_collation_name"
                " FROM information_schema.collation_character_set_applicability"
                " WHERE character_set_name <> 'filename'"
            )
            rows = cursor.fetchall()
    finally:
        instance.call("disable_root", payloads.Empty())
    table: dict[str, set[str]] = {}
    for charset, short, full in rows:
        table.setdefault(charset, set()).update((short, full))
    assert {name: set(members) for name, members in mariadb.collations().items()} == table


def test_agent_user_is_reserved(instance: Guest) -> None:
    assert datastore_spec.registry()[instance.manager].is_reserved_user(mysql.AGENT_USER)


def test_template_is_left_alone_when_it_exists(instance: Guest, tmp_path: pathlib.Path) -> None:
    assert instance.template is not None
    before = instance.template.stat()
    made = templates.build(
        instance.manager,
        target=instance.template,
        user=instance.row_engine.user,
        basedir=instance.row_engine.find_basedir(),
    )
    assert made["version"]
    after = instance.template.stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
