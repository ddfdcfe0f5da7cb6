"""Where the members of the MySQL family differ, as data."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping

from trove.datastores import mariadb, mysql_server
from trove.datastores import spec as datastore_spec


class Initialization(enum.Enum):
    """How the data directory of a member is made."""

    #: By a program of its own, which runs the server.
    PROGRAM = "program"
    #: By the server itself, without a superuser's password.
    SERVER = "server"
    #: By the server, of the statements that it is shipped with.
    STATEMENTS = "statements"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Syntax:
    """The statements about accounts, as templates of :mod:`.connection`.

    What stands in ``<demand>`` is what is demanded of clients' TLS: NONE, SSL, X509.
    """

    create_user: tuple[str, ...]
    identify: str
    demand: str
    enable_root: tuple[str, ...]
    disable_root: tuple[str, ...]
    #: Makes the agent's account, whatever there is; with ``{password}``, which needs no quoting,
    #: one statement a line, as an init file must have them.
    assert_agent: tuple[str, ...]


_CREATED = "CREATE USER {name}@{host} IDENTIFIED BY {password} REQUIRE <demand>"
_AGENT = "`os_admin`@`localhost`"
_GRANT_AGENT = f"GRANT ALL PRIVILEGES ON *.* TO {_AGENT} WITH GRANT OPTION"
_GRANT_ROOT = "GRANT ALL PRIVILEGES ON *.* TO {name}@'%' WITH GRANT OPTION"

MARIADB_SYNTAX = Syntax(
    create_user=(_CREATED,),
    identify="ALTER USER {name}@{host} IDENTIFIED BY {password}",
    demand="ALTER USER {name}@{host} REQUIRE <demand>",
    enable_root=(
        "CREATE USER IF NOT EXISTS {name}@'%' IDENTIFIED BY {password}",
        "ALTER USER {name}@'%' IDENTIFIED BY {password} REQUIRE <demand>",
        _GRANT_ROOT,
    ),
    disable_root=("DROP USER IF EXISTS {name}@'%'",),
    assert_agent=(f"CREATE OR REPLACE USER {_AGENT} IDENTIFIED BY '{{password}}'", _GRANT_AGENT),
)
#: MySQL 8: passwords by caching_sha2, whatever the server's default.
MYSQL_8_SYNTAX = Syntax(
    create_user=(
        "CREATE USER {name}@{host} IDENTIFIED WITH caching_sha2_password BY {password}"
        " REQUIRE <demand>",
    ),
    identify="ALTER USER {name}@{host} IDENTIFIED WITH caching_sha2_password BY {password}",
    demand="ALTER USER {name}@{host} REQUIRE <demand>",
    enable_root=(
        "CREATE USER IF NOT EXISTS {name}@'%' IDENTIFIED WITH caching_sha2_password BY {password}",
        "ALTER USER {name}@'%' IDENTIFIED WITH caching_sha2_password BY {password}"
        " REQUIRE <demand>",
        _GRANT_ROOT,
    ),
    disable_root=("DROP USER IF EXISTS {name}@'%'",),
    assert_agent=(
        f"CREATE USER IF NOT EXISTS {_AGENT}"
        " IDENTIFIED WITH caching_sha2_password BY '{password}'",
        f"ALTER USER {_AGENT} IDENTIFIED WITH caching_sha2_password BY '{{password}}'"
        " REQUIRE NONE ACCOUNT UNLOCK",
        _GRANT_AGENT,
    ),
)
#: MySQL 5.6 has no IF EXISTS, and ALTER USER only expires passwords: GRANT does it all.
MYSQL_5_6_SYNTAX = Syntax(
    create_user=(
        "CREATE USER {name}@{host} IDENTIFIED BY {password}",
        "GRANT USAGE ON *.* TO {name}@{host} REQUIRE <demand>",
    ),
    identify="SET PASSWORD FOR {name}@{host} = PASSWORD({password})",
    demand="GRANT USAGE ON *.* TO {name}@{host} REQUIRE <demand>",
    enable_root=(
        "GRANT ALL PRIVILEGES ON *.* TO {name}@'%' IDENTIFIED BY {password} REQUIRE <demand>"
        " WITH GRANT OPTION",
    ),
    disable_root=("GRANT USAGE ON *.* TO {name}@'%'", "DROP USER {name}@'%'"),
    assert_agent=(
        f"GRANT ALL PRIVILEGES ON *.* TO {_AGENT} IDENTIFIED BY '{{password}}'"
        " REQUIRE NONE WITH GRANT OPTION",
    ),
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BackupPrograms:
    """The programs that copy a server, unpack and prepare copies, replay its log and check it.

    Each with the package that it comes with.
    """

    backup: tuple[str, str]
    unpack: tuple[str, str]
    read_log: tuple[str, str]
    client: tuple[str, str]
    check: tuple[str, str]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """One member of the family.

    ``user_source`` is a table expression with the columns ``User`` and ``Host`` of all accounts
    that are users (not roles).
    """

    spec: datastore_spec.DatastoreSpec
    syntax: Syntax
    server_program: str
    initialization: Initialization
    init_program: str = ""
    init_arguments: tuple[str, ...] = ()
    #: What is taken out of a new data directory: everybody who could log in.
    drop_accounts: str
    package: str
    template: str
    user_source: str
    #: SELECT of the names of all variables that can be set while the server runs: not those that
    #: can under conditions only (a pool within the limit of the start, a limit that was not 0).
    #: None where the server cannot say: those count that the rules say so of.
    dynamic_variables: str | None
    #: Has a running server read key and certificates again; None where nothing does.
    reload_tls: str | None
    #: Whether the performance schema can be told whom not to watch.
    has_disabled_actors: bool = False
    #: The variable that keeps tenants from writing, and the privilege of those that it does not
    #: keep from it; None when it keeps everybody.
    read_only: str = "read_only"
    read_only_exemption: str | None = None
    #: The variable that says after how long the server removes its log, and a day in its unit.
    log_expiry: tuple[str, int] = ("expire_logs_days", 1)
    #: Size of the redo log, and what else private servers have, such as what was valid in the
    #: servers whose statements they are given.
    redo_log_option: str = "innodb-log-file-size"
    private_options: tuple[str, ...] = ()
    #: None where no program copies the files of a running server.
    backup: BackupPrograms | None = None
    #: Tables of the accounts and their rights, as far as a version has them.
    grant_tables: tuple[str, ...] = ()


MARIADB = Dialect(
    spec=mariadb.SPEC,
    syntax=MARIADB_SYNTAX,
    server_program="mariadbd",
    initialization=Initialization.PROGRAM,
    init_program="mariadb-install-db",
    init_arguments=(
        "--auth-root-authentication-method=socket",
        "--skip-test-db",
        "--skip-name-resolve",
    ),
    # the account that owns the system's views is locked
    drop_accounts=(
        "DELETE FROM mysql.global_priv WHERE User <> 'mariadb.sys';\n"
        "DELETE FROM mysql.proxies_priv;\n"
    ),
    package="mariadb-server",
    template="mariadb.cnf.j2",
    user_source="(SELECT User, Host FROM mysql.user WHERE is_role = 'N') AS accounts",
    dynamic_variables=(
        "SELECT LOWER(VARIABLE_NAME) FROM information_schema.SYSTEM_VARIABLES"
        " WHERE READ_ONLY = 'NO' AND VARIABLE_SCOPE <> 'SESSION ONLY'"
        " AND VARIABLE_NAME NOT IN ('INNODB_BUFFER_POOL_SIZE', 'MAX_USER_CONNECTIONS')"
    ),
    reload_tls="FLUSH LOCAL SSL",
    has_disabled_actors=True,
    read_only_exemption="READ ONLY ADMIN",
    backup=BackupPrograms(
        backup=("mariabackup", "mariadb-backup"),
        unpack=("mbstream", "mariadb-backup"),
        read_log=("mariadb-binlog", "mariadb-client"),
        client=("mariadb", "mariadb-client"),
        check=("mariadb-check", "mariadb-client"),
    ),
)

_GRANT_TABLES = ("user", "db", "tables_priv", "columns_priv", "procs_priv", "proxies_priv")

MYSQL_8 = Dialect(
    spec=mysql_server.SPEC,
    syntax=MYSQL_8_SYNTAX,
    server_program="mysqld",
    initialization=Initialization.SERVER,
    # the accounts of the system's own are locked
    drop_accounts="DROP USER root@localhost;\n",
    package="mysql-community-server",
    template=mysql_server.CONFIG_TEMPLATE,
    # a role is an account that is locked, expired and without a password
    user_source=(
        "(SELECT User, Host FROM mysql.user WHERE NOT (account_locked = 'Y'"
        " AND password_expired = 'Y' AND authentication_string = '')) AS accounts"
    ),
    dynamic_variables=None,
    reload_tls="ALTER INSTANCE RELOAD TLS",
    has_disabled_actors=True,
    read_only="super_read_only",
    log_expiry=("binlog_expire_logs_seconds", 86400),
    redo_log_option="loose-innodb-redo-log-capacity",
    private_options=("mysqlx = OFF",),
    grant_tables=(
        *_GRANT_TABLES,
        "global_grants",
        "role_edges",
        "default_roles",
        "password_history",
    ),
)

MYSQL_5_6 = Dialect(
    spec=mysql_server.SPEC,
    syntax=MYSQL_5_6_SYNTAX,
    server_program="mysqld",
    initialization=Initialization.STATEMENTS,
    drop_accounts=(
        "DELETE FROM mysql.user;\nDELETE FROM mysql.db;\nDELETE FROM mysql.proxies_priv;\n"
    ),
    package="mysql-community-server",
    template=mysql_server.CONFIG_TEMPLATE_5_6,
    user_source="(SELECT User, Host FROM mysql.user) AS accounts",
    dynamic_variables=None,
    reload_tls=None,
    read_only_exemption="SUPER",
    private_options=(
        "explicit-defaults-for-timestamp",
        "innodb-file-format = Barracuda",
        "innodb-large-prefix = ON",
    ),
    grant_tables=_GRANT_TABLES,
)

#: Members by manager; of MySQL the current one.
DIALECTS: Mapping[str, Dialect] = {dialect.spec.manager: dialect for dialect in (MARIADB, MYSQL_8)}


def for_version(manager: str, version: str) -> Dialect:
    """Return the member of the family that a server of a manager and a version speaks."""
    if manager == MYSQL_5_6.spec.manager and version.startswith("5.6."):
        return MYSQL_5_6
    return DIALECTS[manager]
