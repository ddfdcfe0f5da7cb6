"""Redis: facts of the datastore, and what the Redis family has in common.

The engine has no databases with names, only numbers that every user may select. What a user is
granted are patterns of keys (https://redis.io/docs/latest/operate/oss_and_stack/management/
security/acl/): they stand where other datastores have names of databases. ``*`` is every key.
"""

from __future__ import annotations

import functools

from trove.datastores import names, parameters, redis_configuration, spec

#: Account of the guest agent itself; no tenant may see or change it.
AGENT_USER = "os_admin"
#: The engine's own first user, which clients mean that give a password and no name. The tenant's
#: superuser; it lets nobody in until it is enabled.
ROOT_NAME = "default"
RESERVED_USERS = frozenset({ROOT_NAME, AGENT_USER})

#: Pattern of all keys: what a user has that was given none.
EVERYTHING = "*"

#: Plain connections; TLS has a port of its own, since the engine cannot do both on one.
PORT = 6379
TLS_PORT = 6380

SLOW_QUERY_LOG = "slow_query"
ERROR_LOG = "error"

MAX_USER_NAME_LENGTH = 128
MAX_PATTERN_LENGTH = 255

CAPABILITIES = frozenset(
    {
        spec.Capability.USERS,
        spec.Capability.ROOT,
        spec.Capability.LOGS,
        spec.Capability.CONFIGURATION,
        spec.Capability.TLS,
        spec.Capability.METRICS,
        spec.Capability.UPGRADE,
        spec.Capability.BACKUP,
    }
)
LOGS = (
    spec.LogSpec(name=SLOW_QUERY_LOG, type=spec.LogType.USER),
    spec.LogSpec(name=ERROR_LOG, type=spec.LogType.SYS),
    spec.GUEST_LOG,
)


def _check_word(kind: str, text: str, *, max_length: int) -> str | None:
    wrong = names.check_text(kind, text, max_length=max_length)
    if wrong:
        return wrong
    if " " in text:
        return f"{kind} must not contain blanks"
    return None


def check_user_name(text: str) -> str | None:
    """Check the name of a user: no blanks, which the engine's file of users is divided by."""
    return _check_word("A user name", text, max_length=MAX_USER_NAME_LENGTH)


def check_pattern(text: str) -> str | None:
    """Check a pattern of keys, such as ``app:*``."""
    return _check_word("A pattern of keys", text, max_length=MAX_PATTERN_LENGTH)


def check_host(text: str) -> str | None:
    """Check where a user may connect from: the engine knows no hosts."""
    return None if text == "%" else "The engine knows no hosts of users: only % is possible"


def check_character_set(character_set: str | None, collate: str | None) -> str | None:
    """Refuse what the engine does not have."""
    if character_set is None and collate is None:
        return None
    return "The engine has no character sets"


SPEC = spec.register(
    spec.DatastoreSpec(
        manager="redis",
        port=PORT,
        more_ports=(TLS_PORT,),
        system_user="redis",
        root_name=ROOT_NAME,
        capabilities=CAPABILITIES,
        reserved_databases=frozenset(),
        reserved_users=RESERVED_USERS,
        check_database_name=check_pattern,
        check_user_name=check_user_name,
        check_host=check_host,
        check_password=names.check_password,
        check_character_set=check_character_set,
        parameters=functools.partial(parameters.load, "redis"),
        default_configuration=redis_configuration.defaults,
        minimum_ram_mib=128,
        logs=LOGS,
    )
)
