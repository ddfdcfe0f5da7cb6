"""PostgreSQL: facts of the datastore.

The agent's own account is ``os_admin``, the superuser that a data directory is made with. It has no
password and is let in by the local socket alone, for the agent's user of the operating system. The
tenant's superuser is ``postgres``, as clients expect: it makes databases and roles and has all that
tenants own, but is no SUPERUSER to the server. That would mean to run programs and to read and
write files on the instance, and to change the agent's account.

Encodings are those a server can have (https://www.postgresql.org/docs/15/multibyte.html).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping

from trove.datastores import names, parameters, postgresql_configuration, spec

#: Account of the guest agent itself; no tenant may see or change it.
AGENT_USER = "os_admin"
ROOT_USER = "postgres"
#: The database that is there from the beginning; everybody may log in to it, nobody write.
HOME_DATABASE = "postgres"
#: Names of roles that the engine and the service keep for themselves.
ENGINE_PREFIX = "pg_"
SERVICE_PREFIX = "trove_"
#: Roles that own databases; users are their members.
OWNER_PREFIX = "trove_owner_"

RESERVED_DATABASES = frozenset({HOME_DATABASE, "template0", "template1"})
RESERVED_USERS = frozenset({AGENT_USER, ROOT_USER, "replicator", "public", "none"})

#: Names of the logs; the first two are tenants' to switch on and off.
GENERAL_LOG = "general"
SLOW_QUERY_LOG = "slow_query"
ERROR_LOG = "error"

#: NAMEDATALEN less one.
_MAX_NAME_BYTES = 63
#: Encodings by the names that clients use; all but UTF8 need the collation C.
_ENCODINGS: Mapping[str, str] = {
    name.lower().replace("_", "").replace("-", ""): name
    for name in (
        "UTF8", "SQL_ASCII", "LATIN1", "LATIN2", "LATIN3", "LATIN4", "LATIN5", "LATIN6", "LATIN7",
        "LATIN8", "LATIN9", "LATIN10", "ISO_8859_5", "ISO_8859_6", "ISO_8859_7", "ISO_8859_8",
        "KOI8R", "KOI8U", "WIN866", "WIN874", "WIN1250", "WIN1251", "WIN1252", "WIN1253", "WIN1254",
        "WIN1255", "WIN1256", "WIN1257", "WIN1258", "EUC_CN", "EUC_JP", "EUC_KR", "EUC_TW",
        "EUC_JIS_2004",
    )
}  # fmt: skip
_COLLATIONS = {"c": "C", "posix": "POSIX", "c.utf8": "C.UTF-8", "c.utf-8": "C.UTF-8"}
_DEFAULT_ENCODING = "UTF8"
_DEFAULT_COLLATION = "C.UTF-8"
_MAJOR = re.compile(r"\d+")


def _check_name(kind: str, text: str) -> str | None:
    wrong = names.check_text(kind, text, max_length=_MAX_NAME_BYTES)
    if wrong:
        return wrong
    if len(text.encode()) > _MAX_NAME_BYTES:
        return f"{kind} must not be longer than {_MAX_NAME_BYTES} bytes in UTF-8"
    if text != text.strip():
        return f"{kind} must not begin or end with a blank"
    return None


def check_database_name(text: str) -> str | None:
    """Check the name of a database: at most 63 bytes."""
    return _check_name("A database name", text)


def check_user_name(text: str) -> str | None:
    """Check the name of a user: at most 63 bytes, and not as if the engine or we had made it."""
    wrong = _check_name("A user name", text)
    if wrong:
        return wrong
    for prefix in (ENGINE_PREFIX, SERVICE_PREFIX):
        if text.lower().startswith(prefix):
            return f"A user name must not begin with {prefix}"
    return None


def check_host(text: str) -> str | None:
    """Check where a user may connect from: roles of PostgreSQL know no hosts."""
    return None if text == "%" else "PostgreSQL users have no hosts: leave the host out"


def encoding(character_set: str | None) -> str:
    """Return how the server spells a character set that passed the check."""
    if character_set is None:
        return _DEFAULT_ENCODING
    return _ENCODINGS[_simplified(character_set)]


def collation(character_set: str | None, collate: str | None) -> str:
    """Return the collation of a database; other encodings than UTF8 have none but C."""
    if collate is None:
        return _DEFAULT_COLLATION if encoding(character_set) == _DEFAULT_ENCODING else "C"
    return _COLLATIONS[collate.lower()]


def _simplified(character_set: str) -> str:
    return character_set.lower().replace("_", "").replace("-", "")


def check_character_set(character_set: str | None, collate: str | None) -> str | None:
    """Check an encoding, a collation, or both together.

    Collations of a language depend on what is installed beside the server, and indexes on them
    break when that changes; they can be had in every statement and column instead.
    """
    if character_set is not None and _simplified(character_set) not in _ENCODINGS:
        return "PostgreSQL has no character set of this name"
    if collate is not None and collate.lower() not in _COLLATIONS:
        return "A database can have the collations C, POSIX and C.UTF-8; use others in columns"
    if collation(character_set, collate) == "C.UTF-8" and encoding(character_set) != "UTF8":
        return "The collation C.UTF-8 belongs to the character set UTF8"
    return None


def major_version(version: str) -> int | None:
    """Return the first number of a version such as 15.18; None when it begins with none."""
    found = _MAJOR.match(version)
    return int(found[0]) if found else None


def parameters_of(version: str) -> Mapping[str, parameters.Parameter]:
    """Return the parameters of a version: those that all have alike, and those of its own.

    A version that the agent was not tried with counts as the one before it.
    """
    major = major_version(version) or SUPPORTED[0]
    known = max((each for each in SUPPORTED if each <= major), default=SUPPORTED[0])
    own = parameters.load(f"postgresql-{known}")
    return dict(sorted({**parameters.load("postgresql"), **own}.items()))


#: Major versions that the agent was tried with.
SUPPORTED = (15, 16, 18)

SPEC = spec.register(
    spec.DatastoreSpec(
        manager="postgresql",
        port=5432,
        system_user="postgres",
        root_name=ROOT_USER,
        capabilities=frozenset(
            {
                spec.Capability.DATABASES,
                spec.Capability.USERS,
                spec.Capability.ROOT,
                spec.Capability.LOGS,
                spec.Capability.UPGRADE,
                spec.Capability.BACKUP,
                spec.Capability.INCREMENTS,
                spec.Capability.POINT_IN_TIME,
                spec.Capability.CONFIGURATION,
                spec.Capability.TLS,
                spec.Capability.METRICS,
                spec.Capability.QUERIES,
            }
        ),
        reserved_databases=RESERVED_DATABASES,
        reserved_users=RESERVED_USERS,
        check_database_name=check_database_name,
        check_user_name=check_user_name,
        check_host=check_host,
        check_password=names.check_password,
        check_character_set=check_character_set,
        parameters=functools.partial(parameters.load, "postgresql"),
        version_parameters=parameters_of,
        default_configuration=postgresql_configuration.defaults,
        minimum_ram_mib=256,
        logs=(
            spec.LogSpec(name=GENERAL_LOG, type=spec.LogType.USER),
            spec.LogSpec(name=SLOW_QUERY_LOG, type=spec.LogType.USER),
            spec.LogSpec(name=ERROR_LOG, type=spec.LogType.SYS),
            spec.GUEST_LOG,
        ),
    )
)
