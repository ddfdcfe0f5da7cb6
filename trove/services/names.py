"""Checks of what users name: databases, users, hosts, passwords, by the datastore's own rules."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from typing import TypeVar

import trove.datastores.all  # noqa: F401 - fills the registry
from trove.common import exception
from trove.datastores import spec
from trove.rpc import payloads

_T = TypeVar("_T")

_LARGEST_SERVER_ID = 2**32 - 1


def server_number(instance_id: str) -> int:
    """Return the number by which an engine tells its instance from others (replication)."""
    return uuid.UUID(instance_id).int % _LARGEST_SERVER_ID + 1


def get_spec(manager: str) -> spec.DatastoreSpec:
    """Return the facts of a datastore manager; raises UnprocessableEntity for an unknown one."""
    found = spec.registry().get(manager)
    if found is None:
        raise exception.UnprocessableEntity(
            reason=f"datastore manager {manager} is not known to this service"
        )
    return found


def require(facts: spec.DatastoreSpec, capability: spec.Capability) -> None:
    """Raise UnprocessableEntity unless the datastore has a capability."""
    if capability not in facts.capabilities:
        raise exception.UnprocessableEntity(
            reason=f"Operation not supported for datastore {facts.manager}: {capability.value}"
        )


def require_engine(
    facts: spec.DatastoreSpec, capability: spec.Capability, *, datastore: str
) -> None:
    """Raise NotImplementedByEngine unless the datastore has what a whole part of the API needs."""
    if capability not in facts.capabilities:
        raise exception.NotImplementedByEngine(datastore=datastore, operation=capability.value)


def _refuse(what: str, wrong: str | None) -> None:
    if wrong is not None:
        raise exception.BadRequest(reason=f"{what}: {wrong}")


def _check_reserved(kind: str, name: str, reserved: frozenset[str]) -> None:
    if name.casefold() in {each.casefold() for each in reserved}:
        raise exception.BadRequest(reason=f'{kind} name "{name}" is on the reserved list')


def check_database_name(facts: spec.DatastoreSpec, name: str) -> None:
    """Raise BadRequest unless a user may have a database of this name."""
    _check_reserved("Database", name, facts.reserved_databases)
    _refuse("database", facts.check_database_name(name))


def check_user_name(facts: spec.DatastoreSpec, name: str) -> None:
    """Raise BadRequest unless there may be a user of this name."""
    _check_reserved("User", name, facts.reserved_users)
    _refuse("user", facts.check_user_name(name))


def check_host(facts: spec.DatastoreSpec, host: str) -> None:
    """Raise BadRequest unless users may come from ``host``."""
    _refuse("host", facts.check_host(host))


def check_password(facts: spec.DatastoreSpec, password: str) -> None:
    """Raise BadRequest unless the engine can take this password."""
    _refuse("password", facts.check_password(password))


def check_databases(facts: spec.DatastoreSpec, databases: Sequence[payloads.Database]) -> None:
    """Check new databases; raises BadRequest, for duplicates too.

    Raises UnprocessableEntity where the engine has none.
    """
    if databases:
        require(facts, spec.Capability.DATABASES)
    for database in databases:
        check_database_name(facts, database.name)
        if database.character_set is not None or database.collate is not None:
            _refuse(
                f"database {database.name}",
                facts.check_character_set(database.character_set, database.collate),
            )
    _check_unique("databases", databases, lambda database: database.name)


def check_users(facts: spec.DatastoreSpec, users: Sequence[payloads.User]) -> None:
    """Check new users with passwords and grants; raises BadRequest, for duplicates too."""
    for user in users:
        check_user_name(facts, user.name)
        check_host(facts, user.host)
        if user.password is not None:
            check_password(facts, user.password)
        for name in user.databases:
            check_database_name(facts, name)
    _check_unique("users", users, lambda user: f"{user.name}@{user.host}")


def _check_unique(kind: str, things: Sequence[_T], key: Callable[[_T], str]) -> None:
    seen: set[str] = set()
    for each in map(key, things):
        if each in seen:
            raise exception.BadRequest(reason=f'{kind}: "{each}" is named twice')
        seen.add(each)
