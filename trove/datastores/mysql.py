"""What the datastores of the MySQL family have in common: names, reserved accounts, grants.

The limits were found by asking a server (MariaDB 10.11), not in a manual; the contract test of
the family asks again.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Collection

from trove.datastores import mysql_configuration, names, parameters, spec

#: Account of the guest agent itself; no tenant may see or change it.
AGENT_USER = "os_admin"

RESERVED_DATABASES = frozenset(
    {"mysql", "information_schema", "performance_schema", "sys", "lost+found"}
)
RESERVED_USERS = frozenset(
    {
        "root",
        AGENT_USER,
        "mysql",
        "mariadb.sys",
        "mysql.sys",
        "mysql.session",
        "mysql.infoschema",
        "public",
        "none",
    }
)

#: Names of the logs; tenants switch all but the errors on and off.
GENERAL_LOG = "general"
SLOW_QUERY_LOG = "slow_query"
ERROR_LOG = "error"
#: Of MariaDB alone.
AUDIT_LOG = "audit"

MAX_DATABASE_NAME_LENGTH = 64
#: Names of files hold at most 255 bytes.
_MAX_DIRECTORY_NAME_BYTES = 255
_PLAIN = re.compile(r"[A-Za-z0-9_]")


def escape_grant_pattern(database: str) -> str:
    """Return the pattern that, in a grant, means this one database and no other."""
    return re.sub(r"([\\_%])", r"\\\1", database)


def unescape_grant_pattern(pattern: str) -> str:
    """Undo :func:`escape_grant_pattern`."""
    return re.sub(r"\\(.)", r"\1", pattern)


def _check_identifier(kind: str, text: str, *, max_length: int) -> str | None:
    wrong = names.check_text(kind, text, max_length=max_length)
    if wrong:
        return wrong
    if any(ord(character) > 0xFFFF for character in text):
        return f"{kind} must not contain characters beyond U+FFFF, such as emoji"
    if text != text.strip():
        return f"{kind} must not begin or end with a blank"
    return None


def check_database_name(text: str) -> str | None:
    """Check the name of a database.

    A grant needs ``_``, ``%`` and the backslash escaped, and its column holds 64 characters; a
    name that does not fit could not be granted without granting others.
    """
    kind = "A database name"
    wrong = _check_identifier(kind, text, max_length=MAX_DATABASE_NAME_LENGTH)
    if wrong:
        return wrong
    if any(character in text for character in "/\\") or set(text) == {"."}:
        return f"{kind} must not contain / or \\ and must not be made of dots alone"
    if text.lower().startswith("#mysql50#"):
        return f"{kind} must not begin with #mysql50#"
    # every other character becomes @ and up to four digits in the name of the directory
    encoded_bytes = sum(1 if _PLAIN.match(character) else 5 for character in text)
    if encoded_bytes > _MAX_DIRECTORY_NAME_BYTES:
        return f"{kind} is too long: other characters than letters, digits and _ count five times"
    if len(escape_grant_pattern(text)) > MAX_DATABASE_NAME_LENGTH:
        return (
            f"{kind} is too long: it must not be longer than {MAX_DATABASE_NAME_LENGTH}"
            " characters with each _ and % counted twice"
        )
    return None


def check_user_name(text: str, *, max_length: int) -> str | None:
    """Check the name of a user."""
    return _check_identifier("A user name", text, max_length=max_length)


def make_spec(
    *,
    manager: str,
    max_user_name_length: int,
    check_character_set: Callable[[str | None, str | None], str | None],
    template: str,
    minimum_ram_mib: int,
    capabilities: Collection[spec.Capability] = (),
    has_audit_log: bool = False,
) -> spec.DatastoreSpec:
    """Return the facts of a member of the family; ``template`` is of its configuration file.

    ``capabilities`` are those that not all members have, ``has_audit_log`` that it has one.
    """
    return spec.DatastoreSpec(
        manager=manager,
        port=3306,
        system_user="mysql",
        root_name="root",
        capabilities=frozenset(
            {
                spec.Capability.DATABASES,
                spec.Capability.USERS,
                spec.Capability.HOSTS,
                spec.Capability.ROOT,
                spec.Capability.LOGS,
                spec.Capability.CONFIGURATION,
                spec.Capability.TLS,
                spec.Capability.METRICS,
                spec.Capability.QUERIES,
                spec.Capability.UPGRADE,
                *capabilities,
            }
        ),
        reserved_databases=RESERVED_DATABASES,
        reserved_users=RESERVED_USERS,
        check_database_name=check_database_name,
        check_user_name=functools.partial(check_user_name, max_length=max_user_name_length),
        check_host=names.check_host_pattern,
        check_password=names.check_password,
        check_character_set=check_character_set,
        parameters=functools.partial(parameters.load, manager),
        default_configuration=functools.partial(mysql_configuration.defaults, template),
        minimum_ram_mib=minimum_ram_mib,
        logs=(
            spec.LogSpec(name=GENERAL_LOG, type=spec.LogType.USER),
            spec.LogSpec(name=SLOW_QUERY_LOG, type=spec.LogType.USER),
            *((spec.LogSpec(name=AUDIT_LOG, type=spec.LogType.USER),) if has_audit_log else ()),
            spec.LogSpec(name=ERROR_LOG, type=spec.LogType.SYS),
            spec.GUEST_LOG,
        ),
    )
