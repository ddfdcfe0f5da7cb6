"""The rules of MariaDB's names; that a server agrees is in tests/contract/test_datastore.py."""

from __future__ import annotations

import pytest

from trove.datastores import all as all_specs
from trove.datastores import mariadb, mysql, spec

SPEC = mariadb.SPEC


def test_all_registers_mariadb() -> None:
    assert all_specs.mariadb is mariadb
    assert spec.registry()["mariadb"] is SPEC


def test_audit_log_is_of_mariadb_and_not_of_mysql() -> None:
    logs = {each: [log.name for log in spec.registry()[each].logs] for each in ("mariadb", "mysql")}
    assert logs["mariadb"] == ["general", "slow_query", "audit", "error", "guest"]
    assert logs["mysql"] == ["general", "slow_query", "error", "guest"]


def test_registering_a_manager_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="twice"):
        spec.register(SPEC)


@pytest.mark.parametrize(
    "name", ["db", "x.y", "a-b", "é€", "a'\"b`;--", "a%b_c", "1", "a" * 64, "name with blank"]
)
def test_database_names_that_pass(name: str) -> None:
    assert SPEC.check_database_name(name) is None


@pytest.mark.parametrize(
    "name",
    [
        "",
        "a" * 65,
        "_" * 33,  # its grant would need 66 characters
        "+" * 52,  # its directory would need 260 bytes
        "a\0b",
        "a\nb",
        "trailing ",
        " leading",
        "../x",
        "a/b",
        "a\\b",
        ".",
        "..",
        "#mysql50#x",
        "\U0001f600",
        "\ud800",
        "a\u2028b",
    ],
)
def test_database_names_that_are_refused(name: str) -> None:
    assert SPEC.check_database_name(name)


@pytest.mark.parametrize("name", ["u", "a@b", "o'brien", "u" * 80, "Ünï", "a b", "x;DROP TABLE y"])
def test_user_names_that_pass(name: str) -> None:
    assert SPEC.check_user_name(name) is None


@pytest.mark.parametrize("name", ["", "u" * 81, " u", "u ", "u\0", "\U0001f600", "u\x7f", "\udc80"])
def test_user_names_that_are_refused(name: str) -> None:
    assert SPEC.check_user_name(name)


@pytest.mark.parametrize(
    "host",
    [
        "%",
        "10.0.0.1",
        "10.0.%",
        "my-host.example.org",
        "localhost",
        "2001:db8::1",
        "2001:db8:%",
        "10.0.0.0/255.0.0.0",
        "192.168.1.5/255.255.255.255",
        "web_1",
    ],
)
def test_hosts_that_pass(host: str) -> None:
    assert SPEC.check_host(host) is None


@pytest.mark.parametrize(
    "host",
    [
        "",
        "a b",
        "a'b",
        "a@b",
        "10.0.0.1/255.0.0.0",
        "10.0.0.0/8",
        "10.0.0.0/255.0.255.0",
        "2001:db8::/32",
        "1:2",
        "h" * 256,
        "x\0",
    ],
)
def test_hosts_that_are_refused(host: str) -> None:
    assert SPEC.check_host(host)


def test_passwords() -> None:
    assert SPEC.check_password("p'\"\\`%s;😀") is None
    for bad in ("", "a\0", "a\n", "x" * 256):
        wrong = SPEC.check_password(bad)
        assert wrong
        assert bad not in wrong or not bad


@pytest.mark.parametrize(
    ("charset", "collate"),
    [
        (None, None),
        ("utf8", None),
        ("utf8", "utf8_general_ci"),
        ("utf8mb3", "utf8_bin"),
        ("UTF8MB4", "UTF8MB4_GENERAL_CI"),
        (None, "latin1_swedish_ci"),
        ("utf8mb4", "uca1400_ai_ci"),
        (None, "utf8mb4_uca1400_ai_ci"),
        ("binary", "binary"),
    ],
)
def test_character_sets_that_pass(charset: str | None, collate: str | None) -> None:
    assert SPEC.check_character_set(charset, collate) is None


@pytest.mark.parametrize(
    ("charset", "collate"),
    [
        ("klingon", None),
        ("latin1", "utf8mb4_bin"),
        (None, "utf8mb4_0900_ai_ci"),
        (None, "uca1400_ai_ci"),
        ("filename", None),
        ("utf8mb4; DROP", None),
    ],
)
def test_character_sets_that_are_refused(charset: str | None, collate: str | None) -> None:
    assert SPEC.check_character_set(charset, collate)


@pytest.mark.parametrize("name", ["root", "ROOT", "os_admin", "Os_Admin", "mariadb.sys", "PUBLIC"])
def test_reserved_users_in_any_spelling(name: str) -> None:
    assert SPEC.is_reserved_user(name)


@pytest.mark.parametrize("name", ["mysql", "SYS", "Information_Schema", "lost+found"])
def test_reserved_databases_in_any_spelling(name: str) -> None:
    assert SPEC.is_reserved_database(name)


@pytest.mark.parametrize("name", ["a_b", "a%b", "a\\_b", "plain", "\\\\%_"])
def test_grant_patterns_come_back_as_the_name(name: str) -> None:
    assert mysql.unescape_grant_pattern(mysql.escape_grant_pattern(name)) == name
