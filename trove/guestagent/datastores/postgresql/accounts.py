"""Databases, users, grants and the superuser of PostgreSQL.

Every database is owned by a role of the service's, ``trove_owner_...``, that cannot log in. Who is
granted a database becomes a member of its owner: so all of them may do what an owner may, and what
one of them makes the others may use, by default privileges. Nobody else may even connect. Users are
roles that log in; they have no hosts. The roles, not their names, are remembered by the server, so
a new name keeps everything, the password too: what is kept of it (SCRAM) does not hold the name.

Reserved names are refused and hidden here too, whatever the API lets through. What several
statements do is undone when one of them fails.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from typing import LiteralString

from oslo_log import log
from psycopg2 import errors, sql

from trove.common import exception
from trove.datastores import postgresql
from trove.datastores import spec as datastore_spec
from trove.guestagent.datastores import base
from trove.guestagent.datastores.postgresql import connection
from trove.rpc import payloads

LOG = log.getLogger(__name__)

_EVERYWHERE = "%"
#: What is made in a database is shared by these default privileges.
_SHARED = ("TABLES", "SEQUENCES", "ROUTINES", "TYPES", "SCHEMAS")
#: What the tenant's superuser is a member of, with the version that has it first.
_ROOT_ROLES = (
    ("pg_monitor", 10),
    ("pg_signal_backend", 10),
    ("pg_checkpoint", 15),
    ("pg_maintain", 17),
)


def _require(wrong: str | None) -> None:
    if wrong is not None:
        raise exception.GuestError(reason=wrong)


def find_role(session: connection.Session, name: str) -> int | None:
    """Return the number of a role, None when there is none of this name."""
    rows = session.execute("SELECT oid FROM pg_roles WHERE rolname = %s", name)
    return int(rows[0][0]) if rows else None


def find_owner(session: connection.Session, database: str) -> str | None:
    """Return the owner of a database, None when there is no such database."""
    rows = session.execute(
        "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = %s", database
    )
    return str(rows[0][0]) if rows else None


def give_to_root(
    session: connection.Session, *, owners: Iterable[str], users: Iterable[str]
) -> None:
    """Have the tenant's superuser, if it was ever enabled, reach what the roles have."""
    if find_role(session, postgresql.ROOT_USER) is None:
        return
    root = connection.name(postgresql.ROOT_USER)
    for owner in owners:
        _give(session, "GRANT {role} TO {root}", owner, root)
    for user in users:
        _give(session, "GRANT {role} TO {root} WITH ADMIN OPTION", user, root)


def _give(
    session: connection.Session, template: LiteralString, role: str, root: sql.Identifier
) -> None:
    try:
        session.execute(template, role=connection.name(role), root=root)
    except errors.InvalidGrantOperation:
        # the tenant made root a group of this one, which has everything then
        LOG.info("the role %s is not given to root, of which it is a member", role)


def own(session: connection.Session, database: str, owner: str) -> str:
    """Have a database owned by a role of the service's; returns the role.

    Databases that the tenant's superuser made are its own at first.
    """
    if owner.startswith(postgresql.OWNER_PREFIX):
        return owner
    made = make_owner(session)
    session.execute(
        "ALTER DATABASE {database} OWNER TO {owner}",
        database=connection.name(database),
        owner=connection.name(made),
    )
    close(session, database)
    give_to_root(session, owners=[made], users=[])
    return made


def make_owner(session: connection.Session) -> str:
    """Make a role that can own a database."""
    owner = f"{postgresql.OWNER_PREFIX}{secrets.token_hex(8)}"
    session.execute("CREATE ROLE {owner} NOLOGIN", owner=connection.name(owner))
    return owner


def close(session: connection.Session, database: str) -> None:
    """Let nobody into a database but those who are granted it."""
    session.execute(
        "REVOKE ALL ON DATABASE {database} FROM PUBLIC", database=connection.name(database)
    )


class PostgresqlAccounts(base.Accounts):
    """Accounts over the engine's socket; each call has a connection of its own."""

    capabilities = frozenset({datastore_spec.Capability.DATABASES, datastore_spec.Capability.USERS})

    def __init__(self, spec: datastore_spec.DatastoreSpec, connector: connection.Connector) -> None:
        """Take the facts and what connects to the server."""
        self._spec = spec
        self._connector = connector

    # -- checks -----

    def _check_database(self, name: str) -> None:
        _require(self._spec.check_database_name(name))
        if self._spec.is_reserved_database(name):
            raise exception.GuestError(reason=f"the database name {name} is reserved")

    def _check_user(self, user: payloads.User | payloads.UserRef) -> None:
        _require(self._spec.check_user_name(user.name))
        if self._spec.is_reserved_user(user.name):
            raise exception.GuestError(reason=f"the user name {user.name} is reserved")

    # -- databases -----

    def list_databases(self, page: payloads.Page) -> payloads.Databases:
        """Return a page of databases."""
        with self._connector.session() as session:
            rows = session.execute(
                "SELECT datname, pg_encoding_to_char(encoding), datcollate FROM pg_database"
                " WHERE NOT datistemplate AND lower(datname) <> ALL (%s) AND datname > %s"
                " ORDER BY datname LIMIT %s",
                sorted(self._spec.reserved_databases),
                page.marker or "",
                page.limit + 1,
            )
        databases = tuple(
            payloads.Database(name=name, character_set=charset, collate=collate)
            for name, charset, collate in rows[: page.limit]
        )
        more = len(rows) > page.limit and databases
        return payloads.Databases(
            databases=databases, next_marker=databases[-1].name if more else None
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
            except (connection.ServerError, exception.TroveError):
                for name in made:
                    self._drop_database(session, name)
                raise

    def _create_database(self, session: connection.Session, database: payloads.Database) -> None:
        if find_owner(session, database.name) is not None:
            raise exception.AlreadyExists(kind="database", name=database.name)
        owner = make_owner(session)
        collation = postgresql.collation(database.character_set, database.collate)
        try:
            session.execute(
                "CREATE DATABASE {database} OWNER {owner} TEMPLATE template0"
                " ENCODING {encoding} LC_COLLATE {collation} LC_CTYPE {collation}",
                database=connection.name(database.name),
                owner=connection.name(owner),
                encoding=connection.text(postgresql.encoding(database.character_set)),
                collation=connection.text(collation),
            )
        except connection.ServerError as e:
            session.execute("DROP ROLE {owner}", owner=connection.name(owner))
            if isinstance(e, errors.DuplicateDatabase):
                raise exception.AlreadyExists(kind="database", name=database.name) from None
            raise
        close(session, database.name)
        give_to_root(session, owners=[owner], users=[])

    def ensure_databases(self, databases: tuple[payloads.Database, ...]) -> None:
        """Create those that are missing."""
        for database in databases:
            try:
                self.create_databases((database,))
            except exception.AlreadyExists:
                with self._connector.session() as session:
                    # an agent that died in between left it open
                    close(session, database.name)

    def delete_database(self, name: str) -> None:
        """Drop a database and end its sessions."""
        self._check_database(name)
        with self._connector.session() as session:
            if find_owner(session, name) is None:
                raise exception.DatabaseNotFound(name=name)
            self._drop_database(session, name)

    @staticmethod
    def _drop_database(session: connection.Session, name: str) -> None:
        owner = find_owner(session, name) or ""
        session.execute(
            "DROP DATABASE IF EXISTS {database} WITH (FORCE)", database=connection.name(name)
        )
        if owner.startswith(postgresql.OWNER_PREFIX):
            try:
                session.execute("DROP ROLE IF EXISTS {owner}", owner=connection.name(owner))
            except errors.DependentObjectsStillExist:
                # members made something elsewhere in its name; it harms nobody
                return

    # -- users -----

    def list_users(self, page: payloads.Page) -> payloads.Users:
        """Return a page of users."""
        marker = (page.marker or "").removesuffix(f"@{_EVERYWHERE}")
        with self._connector.session() as session:
            rows = session.execute(
                "SELECT rolname FROM pg_roles WHERE rolcanlogin"
                " AND lower(rolname) <> ALL (%s) AND NOT starts_with(rolname, %s)"
                " AND NOT starts_with(rolname, %s) AND rolname > %s ORDER BY rolname LIMIT %s",
                sorted(self._spec.reserved_users),
                postgresql.ENGINE_PREFIX,
                postgresql.SERVICE_PREFIX,
                marker,
                page.limit + 1,
            )
            found = [str(name) for (name,) in rows[: page.limit]]
            granted = self._granted(session, found)
        users = tuple(
            payloads.User(name=name, databases=tuple(granted.get(name, ()))) for name in found
        )
        more = len(rows) > page.limit and users
        return payloads.Users(
            users=users, next_marker=f"{users[-1].name}@{_EVERYWHERE}" if more else None
        )

    def get_user(self, user: payloads.UserRef) -> payloads.User:
        """Return a user with its databases."""
        self._check_user(user)
        with self._connector.session() as session:
            self._require_user(session, user)
            databases = self._granted(session, [user.name]).get(user.name, [])
        return payloads.User(name=user.name, databases=tuple(databases))

    @staticmethod
    def _require_user(session: connection.Session, user: payloads.User | payloads.UserRef) -> None:
        rows = session.execute(
            "SELECT 1 FROM pg_roles WHERE rolname = %s AND rolcanlogin", user.name
        )
        if not rows or user.host != _EVERYWHERE:
            raise exception.UserNotFound(name=user.name, host=user.host)

    @staticmethod
    def _granted(session: connection.Session, users: list[str]) -> dict[str, list[str]]:
        """Return the databases of users, in order of name."""
        rows = session.execute(
            "SELECT u.rolname, d.datname FROM pg_database AS d"
            " JOIN pg_auth_members AS m ON m.roleid = d.datdba"
            " JOIN pg_roles AS u ON u.oid = m.member"
            " WHERE u.rolname = ANY (%s) GROUP BY u.rolname, d.datname ORDER BY d.datname",
            users,
        )
        found: dict[str, list[str]] = {}
        for user, database in rows:
            found.setdefault(str(user), []).append(str(database))
        return found

    def create_users(self, users: tuple[payloads.User, ...]) -> None:
        """Create all or none, with their grants on existing databases."""
        for user in users:
            self._check_new_user(user)
        made: list[str] = []
        with self._connector.session() as session:
            try:
                for user in users:
                    if find_role(session, user.name) is not None:
                        raise exception.AlreadyExists(kind="user", name=user.name)
                    session.execute(
                        "CREATE ROLE {user} LOGIN PASSWORD {verifier}",
                        user=connection.name(user.name),
                        verifier=connection.text(session.verifier(user.name, user.password or "")),
                    )
                    made.append(user.name)
                    give_to_root(session, owners=[], users=[user.name])
                    self._grant_all(session, user.name, user.databases)
            except (connection.ServerError, exception.TroveError):
                for name in made:
                    self._drop_user(session, name)
                raise

    def _check_new_user(self, user: payloads.User) -> None:
        self._check_user(user)
        _require(self._spec.check_host(user.host))
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
                self.update_user(reference, payloads.UserChange(new_password=user.password))
                self.grant(reference, user.databases)

    def update_user(self, user: payloads.UserRef, change: payloads.UserChange) -> None:
        """Change name or password, in one transaction; everything else stays."""
        self._check_user(user)
        new_name = user.name if change.new_name is None else change.new_name
        self._check_user(payloads.UserRef(name=new_name))
        if change.new_host is not None:
            _require(self._spec.check_host(change.new_host))
        if change.new_password is not None:
            _require(self._spec.check_password(change.new_password))
        with self._connector.session() as session:
            self._require_user(session, user)
            session.execute("BEGIN")
            if new_name != user.name:
                if find_role(session, new_name) is not None:
                    raise exception.AlreadyExists(kind="user", name=new_name)
                session.execute(
                    "ALTER ROLE {user} RENAME TO {new}",
                    user=connection.name(user.name),
                    new=connection.name(new_name),
                )
            if change.new_password is not None:
                session.execute(
                    "ALTER ROLE {user} PASSWORD {verifier}",
                    user=connection.name(new_name),
                    verifier=connection.text(session.verifier(new_name, change.new_password)),
                )
            session.execute("COMMIT")

    def delete_user(self, user: payloads.UserRef) -> None:
        """Drop a user and end its sessions; what it owns goes to those who share the database."""
        self._check_user(user)
        with self._connector.session() as session:
            self._require_user(session, user)
            self._drop_user(session, user.name)

    def _drop_user(self, session: connection.Session, name: str) -> None:
        user = connection.name(name)
        session.execute("ALTER ROLE {user} NOLOGIN", user=user)
        _end_sessions(session, name)
        role = find_role(session, name)
        owned = session.execute("SELECT datname FROM pg_database WHERE datdba = %s", role)
        for (database,) in owned:
            own(session, str(database), name)
        # what it has in databases, and, by the one that is always there, of what all share
        rows = session.execute(
            "SELECT DISTINCT d.datname FROM pg_shdepend AS s"
            " JOIN pg_database AS d ON d.oid = s.dbid"
            " WHERE s.refclassid = 'pg_authid'::regclass AND s.refobjid = %s",
            role,
        )
        for database in {postgresql.HOME_DATABASE, *(str(each) for (each,) in rows)}:
            owner = find_owner(session, database) or ""
            with self._connector.session(database) as inside:
                # never to the agent's account: functions of a tenant's would run as a superuser
                if owner.startswith(postgresql.OWNER_PREFIX):
                    inside.execute(
                        "REASSIGN OWNED BY {user} TO {owner}",
                        user=user,
                        owner=connection.name(owner),
                    )
                inside.execute("DROP OWNED BY {user}", user=user)
        session.execute("DROP ROLE {user}", user=user)

    # -- grants -----

    def grant(self, user: payloads.UserRef, databases: tuple[str, ...]) -> None:
        """Grant everything on existing databases."""
        self._check_user(user)
        for name in databases:
            self._check_database(name)
        with self._connector.session() as session:
            self._require_user(session, user)
            self._grant_all(session, user.name, databases)

    def _grant_all(self, session: connection.Session, user: str, databases: Iterable[str]) -> None:
        owners = {}
        for name in databases:
            found = find_owner(session, name)
            if found is None:
                raise exception.DatabaseNotFound(name=name)
            owners[name] = found
        for name, found in owners.items():
            owner = own(session, name, found)
            self._share(name, user, owner, is_adopted=owner != found)
            session.execute(
                "GRANT {owner} TO {user}",
                owner=connection.name(owner),
                user=connection.name(user),
            )

    def _share(self, database: str, user: str, owner: str, *, is_adopted: bool) -> None:
        """Have the others use what a user makes in a database from now on, and what was made."""
        pieces = {"user": connection.name(user), "owner": connection.name(owner)}
        with self._connector.session(database) as inside:
            for kind in _SHARED:
                inside.execute(
                    f"ALTER DEFAULT PRIVILEGES FOR ROLE {{user}} GRANT ALL ON {kind} TO {{owner}}",
                    **pieces,
                )
            if is_adopted:
                inside.execute("GRANT ALL ON SCHEMA public TO {owner}", owner=pieces["owner"])
                for kind in ("TABLES", "SEQUENCES", "ROUTINES"):
                    inside.execute(
                        f"GRANT ALL ON ALL {kind} IN SCHEMA public TO {{owner}}",
                        owner=pieces["owner"],
                    )

    def revoke(self, user: payloads.UserRef, databases: tuple[str, ...]) -> None:
        """Take grants back and end the user's sessions there; what it made stays its own."""
        self._check_user(user)
        for name in databases:
            self._check_database(name)
        with self._connector.session() as session:
            self._require_user(session, user)
            granted = self._granted(session, [user.name]).get(user.name, [])
            for name in databases:
                if name not in granted:
                    raise exception.DatabaseNotFound(name=name)
            for name in databases:
                self._revoke_one(session, user.name, name)

    def _revoke_one(self, session: connection.Session, user: str, database: str) -> None:
        owner = connection.name(find_owner(session, database) or "")
        pieces = {"user": connection.name(user), "owner": owner}
        session.execute("REVOKE {owner} FROM {user}", **pieces)
        _end_sessions(session, user, database=database)
        with self._connector.session(database) as inside:
            for kind in _SHARED:
                inside.execute(
                    f"ALTER DEFAULT PRIVILEGES FOR ROLE {{user}}"
                    f" REVOKE ALL ON {kind} FROM {{owner}}",
                    **pieces,
                )


def _end_sessions(session: connection.Session, user: str, *, database: str | None = None) -> None:
    session.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE usename = %s AND (%s::text IS NULL OR datname = %s)",
        user,
        database,
        database,
    )


class PostgresqlRoot(base.Root):
    """``postgres``: the tenant's own superuser, which the server itself does not take for one.

    What it has made stays when it is locked out, and is its own again when it is let in.
    """

    capabilities = frozenset({datastore_spec.Capability.ROOT})

    def __init__(self, spec: datastore_spec.DatastoreSpec, connector: connection.Connector) -> None:
        """Take the facts and what connects to the server."""
        self._spec = spec
        self._name = spec.root_name
        self._connector = connector

    def enable(self, password: str) -> str:
        """Let root in with this password; it has what all users have and may make more."""
        _require(self._spec.check_password(password))
        root = connection.name(self._name)
        with self._connector.session() as session:
            if find_role(session, self._name) is None:
                session.execute("CREATE ROLE {root} NOLOGIN", root=root)
            for role, first in _ROOT_ROLES:
                if session.major_version >= first:
                    session.execute("GRANT {role} TO {root}", role=connection.name(role), root=root)
            rows = session.execute(
                "SELECT rolname, rolcanlogin FROM pg_roles WHERE NOT rolsuper"
                " AND NOT starts_with(rolname, %s) AND rolname <> %s",
                postgresql.ENGINE_PREFIX,
                self._name,
            )
            give_to_root(
                session,
                owners=[str(name) for name, can_login in rows if not can_login],
                users=[str(name) for name, can_login in rows if can_login],
            )
            session.execute(
                "ALTER ROLE {root} LOGIN INHERIT CREATEDB CREATEROLE PASSWORD {verifier}",
                root=root,
                verifier=connection.text(session.verifier(self._name, password)),
            )
        return self._name

    def disable(self) -> None:
        """Lock root out and end its sessions."""
        with self._connector.session() as session:
            if find_role(session, self._name) is not None:
                session.execute(
                    "ALTER ROLE {root} NOLOGIN PASSWORD NULL", root=connection.name(self._name)
                )
                _end_sessions(session, self._name)
