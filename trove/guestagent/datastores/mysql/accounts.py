"""Databases, users, grants and the superuser of the MySQL family.

Reserved names are refused and hidden here too, whatever the API lets through. What several
statements do is undone when one of them fails.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pymysql.err

from trove.common import exception
from trove.datastores import mysql
from trove.datastores import spec as datastore_spec
from trove.guestagent.datastores import base
from trove.guestagent.datastores.mysql import connection
from trove.guestagent.datastores.mysql import dialect as dialects
from trove.rpc import payloads

_DATABASES = (
    "SELECT schema_name, default_character_set_name, default_collation_name"
    " FROM information_schema.schemata"
)
#: Names are compared as bytes: "A" and "a" are two databases, and two users.
_BYTES = "CAST({column} AS BINARY)"


def _require(wrong: str | None) -> None:
    if wrong is not None:
        raise exception.GuestError(reason=wrong)


def _number(error: pymysql.err.MySQLError) -> int:
    return int(error.args[0]) if error.args else 0


class MysqlAccounts(base.Accounts):
    """Accounts over the engine's socket; each call has a connection of its own."""

    capabilities = frozenset(
        {
            datastore_spec.Capability.DATABASES,
            datastore_spec.Capability.USERS,
            datastore_spec.Capability.HOSTS,
        }
    )

    def __init__(
        self,
        dialect: dialects.Dialect,
        connector: connection.Connector,
        *,
        demand: Callable[[], str] = lambda: "NONE",
    ) -> None:
        """Take the member of the family, what connects to it, what it demands of clients' TLS."""
        self._dialect = dialect
        self._spec = dialect.spec
        self._connector = connector
        self._demand = demand

    # -- checks -----

    def _check_database(self, name: str) -> None:
        _require(self._spec.check_database_name(name))
        if self._spec.is_reserved_database(name):
            raise exception.GuestError(reason=f"the database name {name} is reserved")

    def _check_user(self, user: payloads.User | payloads.UserRef) -> None:
        _require(self._spec.check_user_name(user.name))
        _require(self._spec.check_host(user.host))
        if self._spec.is_reserved_user(user.name):
            raise exception.GuestError(reason=f"the user name {user.name} is reserved")

    def _hidden(self, names: Iterable[str]) -> dict[str, object]:
        return {f"hidden{index}": name for index, name in enumerate(sorted(names))}

    # -- databases -----

    def list_databases(self, page: payloads.Page) -> payloads.Databases:
        """Return a page of databases."""
        hidden = self._hidden(self._spec.reserved_databases)
        key = _BYTES.format(column="schema_name")
        query = (
            f"{_DATABASES} WHERE LOWER(schema_name) NOT IN ({_placeholders(hidden)})"
            f" AND {key} > CAST({{marker}} AS BINARY) ORDER BY {key} LIMIT {{limit}}"
        )
        with self._connector.session() as session:
            rows = session.execute(query, marker=page.marker or "", limit=page.limit + 1, **hidden)
        databases = tuple(
            payloads.Database(name=name, character_set=charset, collate=collate)
            for name, charset, collate in rows
        )
        more = len(databases) > page.limit
        databases = databases[: page.limit]
        return payloads.Databases(
            databases=databases, next_marker=databases[-1].name if more and databases else None
        )

    def create_databases(self, databases: tuple[payloads.Database, ...]) -> None:
        """Create all or none."""
        for database in databases:
            self._check_database(database.name)
            _require(self._spec.check_character_set(database.character_set, database.collate))
        made: list[str] = []
        with self._connector.session() as session:
            try:
                for database in databases:
                    self._create_database(session, database)
                    made.append(database.name)
            except (pymysql.err.MySQLError, exception.TroveError):
                for name in made:
                    session.execute("DROP DATABASE {name}", name=connection.Identifier(name))
                raise

    @staticmethod
    def _create_database(session: connection.Session, database: payloads.Database) -> None:
        statement = "CREATE DATABASE {name}"
        if database.character_set is not None:
            statement += " CHARACTER SET {character_set}"
        if database.collate is not None:
            statement += " COLLATE {collate}"
        try:
            session.execute(
                statement,
                name=connection.Identifier(database.name),
                character_set=database.character_set or "",
                collate=database.collate or "",
            )
        except pymysql.err.MySQLError as e:
            if _number(e) == connection.DATABASE_EXISTS:
                raise exception.AlreadyExists(kind="database", name=database.name) from None
            raise

    def ensure_databases(self, databases: tuple[payloads.Database, ...]) -> None:
        """Create those that are missing."""
        for database in databases:
            try:
                self.create_databases((database,))
            except exception.AlreadyExists:
                continue

    def delete_database(self, name: str) -> None:
        """Drop a database; grants on its name stay, as the engine has it."""
        self._check_database(name)
        with self._connector.session() as session:
            try:
                session.execute("DROP DATABASE {name}", name=connection.Identifier(name))
            except pymysql.err.MySQLError as e:
                if _number(e) in (connection.DATABASE_MISSING, connection.UNKNOWN_DATABASE):
                    raise exception.DatabaseNotFound(name=name) from None
                raise

    def _require_databases(self, session: connection.Session, names: Iterable[str]) -> None:
        for name in names:
            key = _BYTES.format(column="schema_name")
            rows = session.execute(
                f"{_DATABASES} WHERE {key} = CAST({{name}} AS BINARY)", name=name
            )
            if not rows:
                raise exception.DatabaseNotFound(name=name)

    # -- users -----

    def list_users(self, page: payloads.Page) -> payloads.Users:
        """Return a page of users."""
        hidden = self._hidden({*self._spec.reserved_users, ""})
        name, _, host = (page.marker or "").rpartition("@")
        user_key, host_key = _BYTES.format(column="User"), _BYTES.format(column="Host")
        query = (  # every piece is a constant; values are quoted by execute
            f"SELECT User, Host FROM {self._dialect.user_source}"  # noqa: S608
            f" WHERE LOWER(User) NOT IN ({_placeholders(hidden)})"
            f" AND ({user_key}, {host_key}) > (CAST({{name}} AS BINARY), CAST({{host}} AS BINARY))"
            f" ORDER BY {user_key}, {host_key} LIMIT {{limit}}"
        )
        with self._connector.session() as session:
            rows = session.execute(query, name=name, host=host, limit=page.limit + 1, **hidden)
            users = tuple(
                payloads.User(name=user, host=at, databases=self._granted(session, user, at))
                for user, at in rows[: page.limit]
            )
        more = len(rows) > page.limit and users
        return payloads.Users(
            users=users, next_marker=f"{users[-1].name}@{users[-1].host}" if more else None
        )

    def get_user(self, user: payloads.UserRef) -> payloads.User:
        """Return a user with its databases."""
        self._check_user(user)
        with self._connector.session() as session:
            host = self._require_user(session, user)
            databases = self._granted(session, user.name, host)
        return payloads.User(name=user.name, host=host, databases=databases)

    def _find_host(self, session: connection.Session, name: str, host: str) -> str | None:
        """Return the host of a user as the server spells it, None when there is no such user."""
        rows = session.execute(
            f"SELECT Host FROM {self._dialect.user_source}"  # noqa: S608 (a constant)
            " WHERE CAST(User AS BINARY) = CAST({name} AS BINARY) AND LOWER(Host) = LOWER({host})",
            name=name,
            host=host,
        )
        return str(rows[0][0]) if rows else None

    def _require_user(
        self, session: connection.Session, user: payloads.User | payloads.UserRef
    ) -> str:
        host = self._find_host(session, user.name, user.host)
        if host is None:
            raise exception.UserNotFound(name=user.name, host=user.host)
        return host

    @staticmethod
    def _granted(session: connection.Session, name: str, host: str) -> tuple[str, ...]:
        rows = session.execute(
            "SELECT Db FROM mysql.db WHERE CAST(User AS BINARY) = CAST({name} AS BINARY)"
            " AND Host = {host}",
            name=name,
            host=host,
        )
        return tuple(sorted({mysql.unescape_grant_pattern(pattern) for (pattern,) in rows}))

    def create_users(self, users: tuple[payloads.User, ...]) -> None:
        """Create all or none, with their grants; databases need not exist yet."""
        for user in users:
            self._check_new_user(user)
        made: list[payloads.User] = []
        with self._connector.session() as session:
            try:
                for user in users:
                    if self._find_host(session, user.name, user.host) is not None:
                        raise exception.AlreadyExists(kind="user", name=user.name)
                    self._create_user(session, user, made)
                    self._grant_all(session, user.name, user.host, user.databases)
            except (pymysql.err.MySQLError, exception.TroveError):
                for user in made:
                    session.execute("DROP USER {name}@{host}", name=user.name, host=user.host)
                raise

    def _create_user(
        self, session: connection.Session, user: payloads.User, made: list[payloads.User]
    ) -> None:
        """Create a user, which is among those made from the first statement on."""
        for statement in self._dialect.syntax.create_user:
            session.execute(
                statement.replace("<demand>", self._demand()),
                name=user.name,
                host=user.host,
                password=user.password,
            )
            if user not in made:
                made.append(user)

    def _check_new_user(self, user: payloads.User) -> None:
        self._check_user(user)
        if user.password is None:
            raise exception.GuestError(reason=f"the user {user.name} needs a password")
        _require(self._spec.check_password(user.password))
        for name in user.databases:
            self._check_database(name)

    def ensure_users(self, users: tuple[payloads.User, ...]) -> None:
        """Create those that are missing; give all their passwords and grants."""
        for user in users:
            try:
                self.create_users((user,))
            except exception.AlreadyExists:
                reference = payloads.UserRef(name=user.name, host=user.host)
                change = payloads.UserChange(new_password=user.password)
                self.update_user(reference, change)
                with self._connector.session() as session:
                    host = self._require_user(session, reference)
                    self._grant_all(session, user.name, host, user.databases)

    def update_user(self, user: payloads.UserRef, change: payloads.UserChange) -> None:
        """Change name, host or password; grants go with the user."""
        self._check_user(user)
        wanted = payloads.UserRef(
            name=user.name if change.new_name is None else change.new_name,
            host=user.host if change.new_host is None else change.new_host,
        )
        self._check_user(wanted)
        if change.new_password is not None:
            _require(self._spec.check_password(change.new_password))
        with self._connector.session() as session:
            host = self._require_user(session, user)
            current = payloads.UserRef(name=user.name, host=host)
            new_host = host if change.new_host is None else wanted.host
            target = payloads.UserRef(name=wanted.name, host=new_host)
            if target.name != current.name or target.host.lower() != current.host.lower():
                if self._find_host(session, target.name, target.host) is not None:
                    raise exception.AlreadyExists(kind="user", name=target.name)
                self._rename(session, current, target)
            if change.new_password is not None:
                try:
                    self._set_password(session, target, change.new_password)
                except pymysql.err.MySQLError:
                    if target != current:
                        self._rename(session, target, current)
                    raise

    @staticmethod
    def _rename(
        session: connection.Session, current: payloads.UserRef, target: payloads.UserRef
    ) -> None:
        session.execute(
            "RENAME USER {name}@{host} TO {new_name}@{new_host}",
            name=current.name,
            host=current.host,
            new_name=target.name,
            new_host=target.host,
        )

    def _set_password(
        self, session: connection.Session, user: payloads.UserRef, password: str
    ) -> None:
        session.execute(
            self._dialect.syntax.identify,
            name=user.name,
            host=user.host,
            password=password,
        )

    def delete_user(self, user: payloads.UserRef) -> None:
        """Drop a user."""
        self._check_user(user)
        with self._connector.session() as session:
            host = self._require_user(session, user)
            session.execute("DROP USER {name}@{host}", name=user.name, host=host)

    # -- grants -----

    def grant(self, user: payloads.UserRef, databases: tuple[str, ...]) -> None:
        """Grant everything on existing databases."""
        self._check_user(user)
        for name in databases:
            self._check_database(name)
        with self._connector.session() as session:
            host = self._require_user(session, user)
            self._require_databases(session, databases)
            self._grant_all(session, user.name, host, databases)

    @staticmethod
    def _grant_all(
        session: connection.Session, name: str, host: str, databases: Iterable[str]
    ) -> None:
        for database in databases:
            session.execute(
                "GRANT ALL PRIVILEGES ON {database}.* TO {name}@{host}",
                database=connection.GrantPattern(database),
                name=name,
                host=host,
            )

    def revoke(self, user: payloads.UserRef, databases: tuple[str, ...]) -> None:
        """Take grants back, those that were given without escapes by hand too."""
        self._check_user(user)
        for name in databases:
            self._check_database(name)
        with self._connector.session() as session:
            host = self._require_user(session, user)
            granted = self._granted(session, user.name, host)
            for name in databases:
                if name not in granted:
                    raise exception.DatabaseNotFound(name=name)
            for name in databases:
                self._revoke_one(session, user.name, host, name)

    @staticmethod
    def _revoke_one(session: connection.Session, name: str, host: str, database: str) -> None:
        patterns = {
            connection.GrantPattern(database),
            connection.GrantPattern(database, escaped=False),
        }
        if mysql.escape_grant_pattern(database) == database:
            patterns = {connection.GrantPattern(database)}
        for pattern in patterns:
            for privilege in ("ALL PRIVILEGES", "GRANT OPTION"):
                try:
                    session.execute(
                        f"REVOKE {privilege} ON {{database}}.* FROM {{name}}@{{host}}",
                        database=pattern,
                        name=name,
                        host=host,
                    )
                except pymysql.err.MySQLError as e:
                    if _number(e) != connection.NO_SUCH_GRANT:
                        raise


class MysqlRoot(base.Root):
    """``root`` from everywhere; it is the tenant's, the agent has an account of its own."""

    capabilities = frozenset({datastore_spec.Capability.ROOT})

    def __init__(
        self,
        dialect: dialects.Dialect,
        connector: connection.Connector,
        *,
        demand: Callable[[], str] = lambda: "NONE",
    ) -> None:
        """Take the member of the family, what connects to it, what it demands of clients' TLS."""
        self._name = dialect.spec.root_name
        self._spec = dialect.spec
        self._syntax = dialect.syntax
        self._connector = connector
        self._demand = demand

    def enable(self, password: str) -> str:
        """Let root in with this password and every privilege."""
        _require(self._spec.check_password(password))
        with self._connector.session() as session:
            for statement in self._syntax.enable_root:
                session.execute(
                    statement.replace("<demand>", self._demand()),
                    name=self._name,
                    password=password,
                )
        return self._name

    def disable(self) -> None:
        """Remove root, wherever it may connect from."""
        with self._connector.session() as session:
            for statement in self._syntax.disable_root:
                session.execute(statement, name=self._name)


def _placeholders(values: dict[str, object]) -> str:
    return ", ".join("{" + name + "}" for name in values)
