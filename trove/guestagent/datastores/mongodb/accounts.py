"""Databases, users, grants and the superuser of MongoDB.

All users are in ``admin``, with roles on the databases they may use. A database of MongoDB's is
there once something is in it: those that were created through the service and are empty still are
remembered in a collection of ``admin``, so that they are listed and can be granted.

Reserved names are refused and hidden here too, whatever the API lets through.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from typing import Any

import bson
from pymongo import errors

from trove.common import exception
from trove.datastores import mongodb
from trove.datastores import spec as datastore_spec
from trove.guestagent.datastores import base
from trove.guestagent.datastores.mongodb import connection
from trove.rpc import payloads

_SPEC = mongodb.SPEC
_MECHANISM = "SCRAM-SHA-256"
#: Roles that a grant of a database is made of.
_GRANTED = ("dbAdmin", "readWrite")
#: The superuser's roles. ``root`` would have more: to stop the server, to change the replica set
#: and, by ``restore``, to write while the disk is nearly full.
ROOT_ROLES = (
    "readWriteAnyDatabase",
    "dbAdminAnyDatabase",
    "userAdminAnyDatabase",
    "clusterMonitor",
    "backup",
)
#: Where databases are remembered, in ``admin``.
_DATABASES = "trove.databases"
_USERS = "system.users"
_ANY_HOST = "%"


def _require(wrong: str | None) -> None:
    if wrong is not None:
        raise exception.GuestError(reason=wrong)


def _check_database(name: str) -> None:
    _require(_SPEC.check_database_name(name))
    if _SPEC.is_reserved_database(name):
        raise exception.GuestError(reason=f"the database name {name} is reserved")


def _check_user(name: str, host: str) -> None:
    _require(_SPEC.check_user_name(name))
    _require(_SPEC.check_host(host))
    if _SPEC.is_reserved_user(name):
        raise exception.GuestError(reason=f"the user name {name} is reserved")


def _check_new_user(user: payloads.User) -> None:
    _check_user(user.name, user.host)
    if user.password is None:
        raise exception.GuestError(reason=f"the user {user.name} needs a password")
    _require(_SPEC.check_password(user.password))
    for name in user.databases:
        _check_database(name)


def _folded(name: str) -> str:
    """Return what MongoDB compares of the names of databases: it folds the letters of ASCII."""
    return "".join(each.lower() if each.isascii() else each for each in name)


def _roles(databases: Iterable[str]) -> list[dict[str, str]]:
    return [{"role": role, "db": name} for name in databases for role in _GRANTED]


def _granted(document: dict[str, Any]) -> tuple[str, ...]:
    """Return the databases on which a user has any role."""
    names = {str(role["db"]) for role in document.get("roles", ())}
    return tuple(sorted(name for name in names if not _SPEC.is_reserved_database(name)))


def _shown(document: dict[str, Any]) -> payloads.User:
    return payloads.User(name=document["user"], host=_ANY_HOST, databases=_granted(document))


def _find(client: connection.Client, name: str) -> dict[str, Any] | None:
    """Return a user as MongoDB keeps it, credentials and all."""
    return client.admin[_USERS].find_one({"user": name, "db": mongodb.USERS_DATABASE})


def _get(client: connection.Client, name: str) -> dict[str, Any]:
    found = _find(client, name)
    if found is None:
        raise exception.UserNotFound(name=name, host=_ANY_HOST)
    return found


class MongodbAccounts(base.Accounts):
    """Accounts over the engine's socket."""

    capabilities = frozenset({datastore_spec.Capability.DATABASES, datastore_spec.Capability.USERS})

    def __init__(self, connector: connection.Connector) -> None:
        """Take what connects to the server."""
        self._connector = connector

    # -- databases -----

    @staticmethod
    def _names(client: connection.Client) -> set[str]:
        """Return the names of all databases that are tenants'."""
        found = set(client.list_database_names())
        found |= {str(document["_id"]) for document in client.admin[_DATABASES].find()}
        return {name for name in found if not _SPEC.is_reserved_database(name)}

    def list_databases(self, page: payloads.Page) -> payloads.Databases:
        """Return a page of databases."""
        with self._connector.session() as client:
            names = sorted(self._names(client), key=str.encode)
        after = (page.marker or "").encode()
        left = [name for name in names if name.encode() > after]
        shown = left[: page.limit]
        return payloads.Databases(
            databases=tuple(payloads.Database(name=name) for name in shown),
            next_marker=shown[-1] if shown and len(left) > len(shown) else None,
        )

    def create_databases(self, databases: tuple[payloads.Database, ...]) -> None:
        """Create all or none."""
        for database in databases:
            _check_database(database.name)
            _require(_SPEC.check_character_set(database.character_set, database.collate))
        with self._connector.session() as client:
            there = {_folded(name): name for name in self._names(client)}
            for database in databases:
                other = there.setdefault(_folded(database.name), database.name)
                if other != database.name:
                    raise exception.GuestError(
                        reason=f"there is a database {other}, from which MongoDB does not tell"
                        f" {database.name} apart"
                    )
            names = [database.name for database in databases]
            existing = self._names(client)
            for name in names:
                if name in existing:
                    raise exception.AlreadyExists(kind="database", name=name)
                existing.add(name)
            self._remember(client, names)

    @staticmethod
    def _remember(client: connection.Client, names: list[str]) -> None:
        """Remember databases, all or none."""
        if not names:
            return
        try:
            client.admin[_DATABASES].insert_many([{"_id": name} for name in names])
        except errors.PyMongoError:
            client.admin[_DATABASES].delete_many({"_id": {"$in": names}})
            raise

    def ensure_databases(self, databases: tuple[payloads.Database, ...]) -> None:
        """Create those that are missing."""
        for database in databases:
            try:
                self.create_databases((database,))
            except exception.AlreadyExists:
                continue

    def delete_database(self, name: str) -> None:
        """Drop a database; roles on its name stay with their users, as MongoDB has it."""
        _check_database(name)
        with self._connector.session() as client:
            self._require_databases(client, (name,))
            client.drop_database(name)
            client.admin[_DATABASES].delete_one({"_id": name})

    def _require_databases(self, client: connection.Client, names: Iterable[str]) -> None:
        existing = self._names(client)
        for name in names:
            if name not in existing:
                raise exception.DatabaseNotFound(name=name)

    # -- users -----

    def list_users(self, page: payloads.Page) -> payloads.Users:
        """Return a page of users."""
        name, at, _ = (page.marker or "").rpartition("@")
        after = name if at else page.marker or ""
        wanted = {"db": mongodb.USERS_DATABASE, "user": {"$gt": after}}
        found: list[payloads.User] = []
        more = False
        with self._connector.session() as client:
            fields = {"user": 1, "roles": 1}
            for document in client.admin[_USERS].find(wanted, fields).sort("user", 1):
                if _SPEC.is_reserved_user(document["user"]):
                    continue
                more = len(found) == page.limit
                if more:
                    break
                found.append(_shown(document))
        marker = f"{found[-1].name}@{_ANY_HOST}" if more and found else None
        return payloads.Users(users=tuple(found), next_marker=marker)

    def get_user(self, user: payloads.UserRef) -> payloads.User:
        """Return a user with its databases."""
        _check_user(user.name, user.host)
        with self._connector.session() as client:
            document = _get(client, user.name)
        return _shown(document)

    def create_users(self, users: tuple[payloads.User, ...]) -> None:
        """Create all or none, with their grants; databases need not exist yet."""
        for user in users:
            _check_new_user(user)
        made: list[str] = []
        with self._connector.session() as client:
            try:
                for user in users:
                    if _find(client, user.name) is not None:
                        raise exception.AlreadyExists(kind="user", name=user.name)
                    client.admin.command(
                        "createUser",
                        user.name,
                        pwd=user.password,
                        roles=_roles(user.databases),
                        mechanisms=[_MECHANISM],
                    )
                    made.append(user.name)
            except (errors.PyMongoError, exception.TroveError):
                for name in made:
                    client.admin.command("dropUser", name)
                raise

    def ensure_users(self, users: tuple[payloads.User, ...]) -> None:
        """Create those that are missing; give all their passwords and grants."""
        for user in users:
            try:
                self.create_users((user,))
            except exception.AlreadyExists:
                reference = payloads.UserRef(name=user.name, host=user.host)
                self.update_user(reference, payloads.UserChange(new_password=user.password))
                with self._connector.session() as client:
                    self._grant(client, user.name, user.databases)

    def update_user(self, user: payloads.UserRef, change: payloads.UserChange) -> None:
        """Change name or password; roles go with the user."""
        _check_user(user.name, user.host)
        target = user.name if change.new_name is None else change.new_name
        _check_user(target, _ANY_HOST if change.new_host is None else change.new_host)
        if change.new_password is not None:
            _require(_SPEC.check_password(change.new_password))
        with self._connector.session() as client:
            document = _get(client, user.name)
            if target != user.name:
                if _find(client, target) is not None:
                    raise exception.AlreadyExists(kind="user", name=target)
                self._rename(client, document, target, change.new_password)
            elif change.new_password is not None:
                self._set_password(client, target, change.new_password)

    @staticmethod
    def _set_password(client: connection.Client, name: str, password: str) -> None:
        client.admin.command("updateUser", name, pwd=password, mechanisms=[_MECHANISM])

    def _rename(
        self,
        client: connection.Client,
        document: dict[str, Any],
        target: str,
        password: str | None,
    ) -> None:
        """Have a user under another name: a copy, credentials and all, in place of the old one.

        What SCRAM-SHA-256 keeps does not depend on the name, unlike its predecessor.
        """
        credentials = document.get("credentials", {})
        if _MECHANISM not in credentials and password is None:
            raise exception.GuestError(
                reason=f"the user {document['user']} has no password for {_MECHANISM}: rename it"
                " together with a new password"
            )
        copy = {
            **document,
            "_id": f"{mongodb.USERS_DATABASE}.{target}",
            "user": target,
            "userId": bson.Binary.from_uuid(uuid.uuid4()),
            "credentials": {
                name: value for name, value in credentials.items() if name == _MECHANISM
            },
        }
        try:
            client.admin[_USERS].insert_one(copy)
        except errors.DuplicateKeyError:
            raise exception.AlreadyExists(kind="user", name=target) from None
        try:
            if password is not None:
                self._set_password(client, target, password)
            client.admin.command("dropUser", document["user"])
        except errors.PyMongoError:
            client.admin.command("dropUser", target)
            raise

    def delete_user(self, user: payloads.UserRef) -> None:
        """Drop a user."""
        _check_user(user.name, user.host)
        with self._connector.session() as client:
            _get(client, user.name)
            client.admin.command("dropUser", user.name)

    # -- grants -----

    def grant(self, user: payloads.UserRef, databases: tuple[str, ...]) -> None:
        """Grant everything on existing databases."""
        _check_user(user.name, user.host)
        for name in databases:
            _check_database(name)
        with self._connector.session() as client:
            _get(client, user.name)
            self._require_databases(client, databases)
            self._grant(client, user.name, databases)

    @staticmethod
    def _grant(client: connection.Client, user: str, databases: Iterable[str]) -> None:
        roles = _roles(databases)
        if roles:
            client.admin.command("grantRolesToUser", user, roles=roles)

    def revoke(self, user: payloads.UserRef, databases: tuple[str, ...]) -> None:
        """Take all roles on databases back, those that were given by hand too."""
        _check_user(user.name, user.host)
        for name in databases:
            _check_database(name)
        with self._connector.session() as client:
            document = _get(client, user.name)
            granted = _granted(document)
            for name in databases:
                if name not in granted:
                    raise exception.DatabaseNotFound(name=name)
            roles = [role for role in document["roles"] if role["db"] in databases]
            if roles:
                client.admin.command("revokeRolesFromUser", user.name, roles=roles)


class MongodbRoot(base.Root):
    """``root`` in ``admin``: the tenant's; the agent is no user at all."""

    capabilities = frozenset({datastore_spec.Capability.ROOT})

    def __init__(self, connector: connection.Connector) -> None:
        """Take what connects to the server."""
        self._connector = connector

    def enable(self, password: str) -> str:
        """Let root in with this password and its roles."""
        _require(_SPEC.check_password(password))
        name = mongodb.ROOT_USER
        facts: dict[str, Any] = {
            "pwd": password,
            "roles": list(ROOT_ROLES),
            "mechanisms": [_MECHANISM],
        }
        with self._connector.session() as client:
            command = "createUser" if _find(client, name) is None else "updateUser"
            client.admin.command(command, name, **facts)
        return name

    def disable(self) -> None:
        """Remove root."""
        with self._connector.session() as client:
            if _find(client, mongodb.ROOT_USER) is not None:
                client.admin.command("dropUser", mongodb.ROOT_USER)
