"""The statements that each member of the MySQL family is sent, as they were recorded.

No server of MySQL 8 runs in the tests: what it is sent is compared with its manual
(https://dev.mysql.com/doc/refman/8.4/en/account-management-statements.html). MySQL 5.6 and MariaDB
are asked for real in the contract suites.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any, cast

import pymysql
import pytest

from trove.datastores import all as all_specs
from trove.datastores import mysql_configuration, mysql_server
from trove.guestagent import state
from trove.guestagent import tls as guest_tls
from trove.guestagent.datastores import base
from trove.guestagent.datastores import mysql as family
from trove.guestagent.datastores.mysql import accounts, connection, template, tls, writes
from trove.guestagent.datastores.mysql import dialect as dialects
from trove.guestagent.system import process, users
from trove.rpc import payloads

assert all_specs

#: What SELECTs yield, by the statement.
Answers = Callable[[str], tuple[tuple[Any, ...], ...]]


class Cursor:
    """Takes down what is executed, and answers with rows of a script."""

    def __init__(self, recorder: Recorder) -> None:
        """Take whom to tell."""
        self._recorder = recorder
        self._rows: tuple[tuple[Any, ...], ...] = ()

    def __enter__(self) -> Cursor:
        return self

    def __exit__(self, *args: object) -> None:
        return None

    def mogrify(self, template: str, values: tuple[object, ...]) -> str:
        """Quote as PyMySQL does."""
        with self._recorder.quoting.cursor() as cursor:
            return cursor.mogrify(template, values)

    def execute(self, statement: str) -> None:
        """Take a statement down."""
        self._rows = self._recorder.answer(statement)
        if not statement.startswith("SELECT"):
            self._recorder.statements.append(statement)

    def fetchall(self) -> tuple[tuple[Any, ...], ...]:
        """Return the rows of the script."""
        return self._rows


class Recorder(connection.Connector):
    """A connector without a server."""

    def __init__(self, answers: Answers = lambda statement: ()) -> None:
        """Take what SELECTs yield."""
        super().__init__(pathlib.Path("/nowhere"), password="x")
        self.statements: list[str] = []
        self.answer = answers
        self.quoting = pymysql.connect(defer_connect=True)
        self.quoting.server_status = 0

    def cursor(self) -> Cursor:
        """Return a cursor, as a connection does."""
        return Cursor(self)

    def close(self) -> None:
        """End nothing."""

    def connect(self, *, timeout_s: int) -> pymysql.connections.Connection[Any]:
        """Be the connection."""
        return cast("pymysql.connections.Connection[Any]", self)


EVERYBODY = (("%",),)


def record(act: Callable[[Recorder], object], answers: Answers = lambda statement: ()) -> list[str]:
    """Return the statements that an action sends."""
    recorder = Recorder(answers)
    act(recorder)
    return recorder.statements


ANN = payloads.User(name="ann", password="pa'ss", databases=("a_b",))
REFERENCE = payloads.UserRef(name="ann")


@pytest.mark.parametrize(
    ("dialect", "expected"),
    [
        (
            dialects.MARIADB,
            ["CREATE USER 'ann'@'%' IDENTIFIED BY 'pa\\'ss' REQUIRE X509"],
        ),
        (
            dialects.MYSQL_8,
            [
                "CREATE USER 'ann'@'%' IDENTIFIED WITH caching_sha2_password BY 'pa\\'ss'"
                " REQUIRE X509"
            ],
        ),
        (
            dialects.MYSQL_5_6,
            [
                "CREATE USER 'ann'@'%' IDENTIFIED BY 'pa\\'ss'",
                "GRANT USAGE ON *.* TO 'ann'@'%' REQUIRE X509",
            ],
        ),
    ],
    ids=["mariadb", "mysql-8", "mysql-5.6"],
)
def test_a_user_is_made_and_granted(dialect: dialects.Dialect, expected: list[str]) -> None:
    def act(recorder: Recorder) -> None:
        made = accounts.MysqlAccounts(dialect, recorder, demand=lambda: "X509")
        made.create_users((ANN,))

    granted = "GRANT ALL PRIVILEGES ON `a\\_b`.* TO 'ann'@'%'"
    assert record(act) == [*expected, granted]


@pytest.mark.parametrize(
    ("dialect", "expected"),
    [
        (dialects.MARIADB, "ALTER USER 'bob'@'%' IDENTIFIED BY 'x'"),
        (
            dialects.MYSQL_8,
            "ALTER USER 'bob'@'%' IDENTIFIED WITH caching_sha2_password BY 'x'",
        ),
        (dialects.MYSQL_5_6, "SET PASSWORD FOR 'bob'@'%' = PASSWORD('x')"),
    ],
    ids=["mariadb", "mysql-8", "mysql-5.6"],
)
def test_a_user_is_renamed_and_given_a_password(dialect: dialects.Dialect, expected: str) -> None:
    def answers(statement: str) -> tuple[tuple[Any, ...], ...]:
        return EVERYBODY if "'ann'" in statement else ()

    def act(recorder: Recorder) -> None:
        change = payloads.UserChange(new_name="bob", new_password="x")
        accounts.MysqlAccounts(dialect, recorder).update_user(REFERENCE, change)

    assert record(act, answers) == ["RENAME USER 'ann'@'%' TO 'bob'@'%'", expected]


@pytest.mark.parametrize(
    ("dialect", "expected"),
    [
        (
            dialects.MYSQL_8,
            [
                "CREATE USER IF NOT EXISTS 'root'@'%' IDENTIFIED WITH caching_sha2_password BY 'x'",
                "ALTER USER 'root'@'%' IDENTIFIED WITH caching_sha2_password BY 'x' REQUIRE NONE",
                "GRANT ALL PRIVILEGES ON *.* TO 'root'@'%' WITH GRANT OPTION",
                "DROP USER IF EXISTS 'root'@'%'",
            ],
        ),
        (
            dialects.MYSQL_5_6,
            [
                "GRANT ALL PRIVILEGES ON *.* TO 'root'@'%' IDENTIFIED BY 'x' REQUIRE NONE"
                " WITH GRANT OPTION",
                "GRANT USAGE ON *.* TO 'root'@'%'",
                "DROP USER 'root'@'%'",
            ],
        ),
    ],
    ids=["mysql-8", "mysql-5.6"],
)
def test_root_is_let_in_and_locked_out(dialect: dialects.Dialect, expected: list[str]) -> None:
    def act(recorder: Recorder) -> None:
        root = accounts.MysqlRoot(dialect, recorder)
        root.enable("x")
        root.disable()

    assert record(act) == expected


def test_users_of_mysql_8_are_no_roles() -> None:
    asked: list[str] = []

    def answers(statement: str) -> tuple[tuple[Any, ...], ...]:
        asked.append(statement)
        return ()

    def act(recorder: Recorder) -> None:
        accounts.MysqlAccounts(dialects.MYSQL_8, recorder).list_users(payloads.Page(limit=2))

    record(act, answers)
    assert "NOT (account_locked = 'Y' AND password_expired = 'Y'" in asked[0]


def test_what_is_demanded_of_clients_is_said_as_each_server_takes_it() -> None:
    def answers(statement: str) -> tuple[tuple[Any, ...], ...]:
        return (("ann", "%", ""),)

    for dialect, expected in (
        (dialects.MYSQL_8, "ALTER USER 'ann'@'%' REQUIRE X509"),
        (dialects.MYSQL_5_6, "GRANT USAGE ON *.* TO 'ann'@'%' REQUIRE X509"),
    ):
        recorder = Recorder(answers)
        part = tls.MysqlTls(
            dialect, recorder, store=cast(Any, None), rewrite_configuration=lambda: None
        )
        with recorder.session() as session:
            part._demand(session, guest_tls.Setting(mode="mtls", set_id="s"))
        assert recorder.statements == [expected]
    assert dialects.MYSQL_8.reload_tls == "ALTER INSTANCE RELOAD TLS"


# -- writes -----


@pytest.fixture
def environment(tmp_path: pathlib.Path) -> base.Environment:
    layout = state.Layout(
        state_dir=tmp_path / "state",
        mount_point=tmp_path / "volume",
        engine_user=users.current(),
    )
    layout.make_state()
    return base.Environment(
        instance_id="i",
        layout=layout,
        store=state.Store(layout),
        bind_address="127.0.0.1",
        port=3306,
        basedir="/opt/mysql",
    )


_BRIEF = "SET SESSION sql_log_bin = 0, lock_wait_timeout = 2, innodb_lock_wait_timeout = 2"


def test_mysql_8_keeps_superusers_from_writing_by_itself(environment: base.Environment) -> None:
    recorder = Recorder()
    part = writes.Writes(
        dialects.MYSQL_8,
        recorder,
        kept=connection.KeptConnection(recorder),
        store=environment.store,
    )
    part.set_read_only(True)
    part.set_read_only(False)
    assert [each for each in recorder.statements if each != _BRIEF] == [
        "SET GLOBAL super_read_only = 1",
        "SET GLOBAL super_read_only = 0",
        "SET GLOBAL read_only = 0",
    ]


def test_mysql_5_6_has_superusers_lose_what_lets_them_write(
    environment: base.Environment,
) -> None:
    def answers(statement: str) -> tuple[tuple[Any, ...], ...]:
        if "USER_PRIVILEGES" in statement:
            assert "'SUPER'" in statement
            return (("'root'@'%'",), ("'os_admin'@'localhost'",))
        return ((7, "root"), (8, "os_admin"))

    recorder = Recorder(answers)
    part = writes.Writes(
        dialects.MYSQL_5_6,
        recorder,
        kept=connection.KeptConnection(recorder),
        store=environment.store,
    )
    part.set_read_only(True)
    part.set_read_only(False)
    assert [each for each in recorder.statements if each != _BRIEF] == [
        "REVOKE SUPER ON *.* FROM 'root'@'%'",
        "KILL 7",
        "SET GLOBAL read_only = 1",
        "SET GLOBAL read_only = 0",
        "SET GLOBAL read_only = 0",
        "GRANT SUPER ON *.* TO 'root'@'%'",
    ]


# -- the server's files -----


def test_init_file_of_mysql_8_asserts_the_agents_account(environment: base.Environment) -> None:
    made = family._make(dialects.MYSQL_8, environment)
    service = cast(Any, made.service)
    service._config_file.write_text("[mysqld]\nperformance-schema = ON\n")
    service._write_init_file()
    password = environment.store.password("os_admin")
    lines = service._init_file.read_text().splitlines()
    assert lines[2:] == [
        "CREATE USER IF NOT EXISTS `os_admin`@`localhost`"
        f" IDENTIFIED WITH caching_sha2_password BY '{password}';",
        "ALTER USER `os_admin`@`localhost`"
        f" IDENTIFIED WITH caching_sha2_password BY '{password}' REQUIRE NONE ACCOUNT UNLOCK;",
        "GRANT ALL PRIVILEGES ON *.* TO `os_admin`@`localhost` WITH GRANT OPTION;",
        "INSERT IGNORE INTO performance_schema.setup_actors (HOST, USER, ROLE, ENABLED, HISTORY)"
        " VALUES ('localhost', 'os_admin', '%', 'NO', 'NO');",
    ]


def test_data_directory_of_mysql_8_is_made_by_the_server_without_accounts(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[list[str]] = []
    statements: list[str] = []

    def run(argv: list[str], **options: object) -> process.Result:
        ran.append(argv)
        if argv[-1] == "--version":
            return process.Result(return_code=0, output="mysqld  Ver 8.4.3 for Linux")
        (init,) = [word for word in argv if word.startswith("--init-file=")]
        statements.append(pathlib.Path(init.partition("=")[2]).read_text())
        defaults = pathlib.Path(argv[1].partition("=")[2])
        data = mysql_configuration.options(defaults.read_text())["datadir"]
        assert not pathlib.Path(str(data)).exists()
        pathlib.Path(str(data)).mkdir()
        return process.Result(return_code=0, output="")

    program = tmp_path / "bin" / "mysqld"
    program.parent.mkdir()
    program.touch(mode=0o755)
    monkeypatch.setattr(process, "run", run)
    version, found = template.make(
        "mysql",
        target=tmp_path / "template",
        user=users.current(),
        basedir=str(tmp_path),
    )
    assert (version, found) == ("8.4.3", program)
    assert ran[-1][2:3] == ["--initialize-insecure"]
    assert statements == ["DROP USER root@localhost;\n"]
    assert (tmp_path / "template").is_dir()


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("5.6.24", dialects.MYSQL_5_6),
        ("8.0.40", dialects.MYSQL_8),
        ("8.4.3", dialects.MYSQL_8),
        ("9.1.0", dialects.MYSQL_8),
    ],
)
def test_version_tells_the_dialect(version: str, expected: dialects.Dialect) -> None:
    assert dialects.for_version("mysql", version) is expected


def test_configuration_of_mysql_8_has_no_word_that_8_4_took_out() -> None:
    options = mysql_server.SPEC.default_configuration(1024, 4)
    gone = {
        "expire_logs_days",
        "innodb_log_file_size",
        "default_authentication_plugin",
        "symbolic_links",
        "log_slave_updates",
        "master_info_repository",
        "binlog_format",
    }
    assert not gone & set(options)
    assert options["gtid_mode"] == "ON"
    assert options["collation_server"] == "utf8mb4_0900_ai_ci"


@pytest.mark.parametrize(
    ("charset", "collation", "is_good"),
    [
        ("utf8mb4", "utf8mb4_0900_ai_ci", True),
        ("utf8", "utf8_bin", True),
        (None, "latin1_bin", True),
        ("binary", "binary", True),
        ("latin1", "utf8mb4_bin", False),
        ("klingon", None, False),
        (None, "klingon_ci", False),
        (None, "latin1_x; DROP", False),
    ],
)
def test_character_sets_of_mysql(charset: str | None, collation: str | None, is_good: bool) -> None:
    assert (mysql_server.check_character_set(charset, collation) is None) is is_good
