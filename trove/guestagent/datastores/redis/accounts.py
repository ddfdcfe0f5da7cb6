"""Users and the superuser of the Redis family; what is granted are patterns of keys.

Reserved names are refused and hidden here too, whatever the API lets through.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import NoReturn

from trove.common import exception
from trove.datastores import redis as facts
from trove.datastores import spec as datastore_spec
from trove.guestagent.datastores import base
from trove.guestagent.datastores.redis import users as user_lists
from trove.rpc import payloads


def _require(wrong: str | None) -> None:
    if wrong is not None:
        raise exception.GuestError(reason=wrong)


class RedisAccounts(base.Accounts):
    """Users by the server's ACL. There are no databases: each use of one raises."""

    capabilities = frozenset({datastore_spec.Capability.USERS})

    def __init__(self, spec: datastore_spec.DatastoreSpec, users: user_lists.UserList) -> None:
        """Take the facts and the list of users."""
        self._spec = spec
        self._users = users

    # -- databases -----

    def _refuse_databases(self) -> NoReturn:
        raise exception.NotImplementedByEngine(
            datastore=self._spec.manager, operation=datastore_spec.Capability.DATABASES.value
        )

    def list_databases(self, page: payloads.Page) -> payloads.Databases:
        """Raise: there are none."""
        self._refuse_databases()

    def create_databases(self, databases: tuple[payloads.Database, ...]) -> None:
        """Raise: there are none."""
        self._refuse_databases()

    def ensure_databases(self, databases: tuple[payloads.Database, ...]) -> None:
        """Raise: there are none."""
        self._refuse_databases()

    def delete_database(self, name: str) -> None:
        """Raise: there are none."""
        self._refuse_databases()

    # -- checks -----

    def _check_user(self, user: payloads.User | payloads.UserRef) -> None:
        _require(self._spec.check_user_name(user.name))
        _require(self._spec.check_host(user.host))
        if self._spec.is_reserved_user(user.name):
            raise exception.GuestError(reason=f"the user name {user.name} is reserved")

    def _check_patterns(self, patterns: Iterable[str]) -> None:
        for pattern in patterns:
            _require(self._spec.check_database_name(pattern))

    def _made(self, user: payloads.User) -> user_lists.User:
        """Return a new user as the list has it."""
        self._check_user(user)
        self._check_patterns(user.databases)
        if user.password is None:
            raise exception.GuestError(reason=f"the user {user.name} needs a password")
        _require(self._spec.check_password(user.password))
        return user_lists.User(
            name=user.name,
            sha256=user_lists.digest(user.password),
            patterns=_sorted(user.databases or (facts.EVERYTHING,)),
        )

    def _require_user(self, user: payloads.UserRef) -> user_lists.User:
        self._check_user(user)
        found = self._users.all().get(user.name)
        if found is None:
            raise exception.UserNotFound(name=user.name, host=user.host)
        return found

    # -- users -----

    def list_users(self, page: payloads.Page) -> payloads.Users:
        """Return a page of users."""
        after = (page.marker or "").rpartition("@")[0].encode()
        found = sorted(
            (user for user in self._users.all().values() if user.name.encode() > after),
            key=lambda user: user.name.encode(),
        )
        shown = tuple(_shown(user) for user in found[: page.limit])
        more = len(found) > page.limit and shown
        return payloads.Users(users=shown, next_marker=f"{shown[-1].name}@%" if more else None)

    def get_user(self, user: payloads.UserRef) -> payloads.User:
        """Return a user with its patterns."""
        return _shown(self._require_user(user))

    def create_users(self, users: tuple[payloads.User, ...]) -> None:
        """Create all or none; one without patterns has all keys."""
        made = {user.name: self._made(user) for user in users}
        with self._users.lock:
            known = self._users.all()
            for name in made:
                if name in known:
                    raise exception.AlreadyExists(kind="user", name=name)
            self._users.replace(made)

    def ensure_users(self, users: tuple[payloads.User, ...]) -> None:
        """Create those that are missing; give all their passwords and patterns."""
        with self._users.lock:
            known = self._users.all()
            wanted = {}
            for user in users:
                made = self._made(user)
                if user.name in known:
                    patterns = _sorted((*known[user.name].patterns, *user.databases))
                    made = dataclasses.replace(made, patterns=patterns)
                wanted[user.name] = made
            self._users.replace(wanted)

    def update_user(self, user: payloads.UserRef, change: payloads.UserChange) -> None:
        """Change name or password; patterns go with the user."""
        if change.new_host is not None:
            _require(self._spec.check_host(change.new_host))
        name = user.name if change.new_name is None else change.new_name
        self._check_user(payloads.UserRef(name=name))
        if change.new_password is not None:
            _require(self._spec.check_password(change.new_password))
        with self._users.lock:
            current = self._require_user(user)
            if name != current.name and name in self._users.all():
                raise exception.AlreadyExists(kind="user", name=name)
            sha256 = current.sha256
            if change.new_password is not None:
                sha256 = user_lists.digest(change.new_password)
            wanted: dict[str, user_lists.User | None] = {
                name: dataclasses.replace(current, name=name, sha256=sha256)
            }
            if name != current.name:
                wanted[current.name] = None
            self._users.replace(wanted)

    def delete_user(self, user: payloads.UserRef) -> None:
        """Drop a user; its connections end."""
        with self._users.lock:
            self._users.replace({self._require_user(user).name: None})

    # -- grants -----

    def grant(self, user: payloads.UserRef, databases: tuple[str, ...]) -> None:
        """Grant everything on keys that match patterns."""
        self._check_patterns(databases)
        with self._users.lock:
            current = self._require_user(user)
            patterns = _sorted((*current.patterns, *databases))
            self._users.replace({current.name: dataclasses.replace(current, patterns=patterns)})

    def revoke(self, user: payloads.UserRef, databases: tuple[str, ...]) -> None:
        """Take patterns back; what is left without any reaches no key."""
        self._check_patterns(databases)
        with self._users.lock:
            current = self._require_user(user)
            for pattern in databases:
                if pattern not in current.patterns:
                    raise exception.DatabaseNotFound(name=pattern)
            patterns = tuple(each for each in current.patterns if each not in databases)
            self._users.replace({current.name: dataclasses.replace(current, patterns=patterns)})


class RedisRoot(base.Root):
    """The engine's user ``default``: the tenant's, with all that cannot harm the service."""

    capabilities = frozenset({datastore_spec.Capability.ROOT})

    def __init__(self, spec: datastore_spec.DatastoreSpec, users: user_lists.UserList) -> None:
        """Take the facts and the list of users."""
        self._spec = spec
        self._users = users

    def enable(self, password: str) -> str:
        """Let the superuser in with this password."""
        _require(self._spec.check_password(password))
        with self._users.lock:
            self._users.set_root(user_lists.digest(password))
        return self._spec.root_name

    def disable(self) -> None:
        """Let it in no more, and end its connections."""
        with self._users.lock:
            self._users.set_root(None)


def _sorted(patterns: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(set(patterns), key=str.encode))


def _shown(user: user_lists.User) -> payloads.User:
    return payloads.User(name=user.name, host="%", databases=user.patterns)
