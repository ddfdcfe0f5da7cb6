"""MongoDB: facts of the datastore.

Users belong to the database ``admin``, whatever databases they may use: clients log in with
``authSource=admin``, which is the default of MongoDB's drivers when no database is named. Passwords
are kept for SCRAM-SHA-256 only, the one mechanism that the service enables.
"""

from __future__ import annotations

import functools
import stringprep
import unicodedata

from trove.datastores import mongodb_configuration, names, parameters, spec

ERROR_LOG = "mongod"
SLOW_QUERY_LOG = "slow_query"
ROOT_USER = "root"
#: Where all users are.
USERS_DATABASE = "admin"

RESERVED_DATABASES = frozenset({"admin", "local", "config"})
RESERVED_USERS = frozenset({ROOT_USER, "__system", "os_admin"})

#: MongoDB counts bytes (https://www.mongodb.com/docs/manual/reference/limits/#naming-restrictions).
MAX_DATABASE_NAME_BYTES = 63
MAX_USER_NAME_LENGTH = 128
_NOT_IN_DATABASE_NAMES = frozenset('/\\. "$*<>:|?')
#: Tables of stringprep of which SASLprep allows no character, or replaces it (RFC 4013).
_UNPREPARED = (
    stringprep.in_table_a1,
    stringprep.in_table_b1,
    stringprep.in_table_c12,
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
    # text from right to left has rules of its own that clients do not all know
    stringprep.in_table_d1,
)


def check_database_name(text: str) -> str | None:
    """Check the name of a database: at most 63 bytes, without the characters MongoDB refuses."""
    kind = "A database name"
    wrong = names.check_text(kind, text, max_length=MAX_DATABASE_NAME_BYTES)
    if wrong:
        return wrong
    if len(text.encode()) > MAX_DATABASE_NAME_BYTES:
        return f"{kind} must not be longer than {MAX_DATABASE_NAME_BYTES} bytes"
    if any(character in _NOT_IN_DATABASE_NAMES for character in text):
        return f'{kind} must not contain blanks or any of / \\ . " $ * < > : | ?'
    return None


def check_user_name(text: str) -> str | None:
    """Check the name of a user."""
    kind = "A user name"
    wrong = names.check_text(kind, text, max_length=MAX_USER_NAME_LENGTH)
    if wrong:
        return wrong
    if text.startswith("."):
        # MongoDB takes it for the name of a collection
        return f"{kind} must not begin with a dot"
    return f"{kind} must not begin or end with a blank" if text != text.strip() else None


def check_host(text: str) -> str | None:
    """Check where a user may connect from: users of this service may from everywhere."""
    return None if text == "%" else "MongoDB's users have no hosts: leave it out, or give %"


def check_password(text: str) -> str | None:
    """Check a password: what SASLprep neither refuses nor changes, so that all clients agree."""
    wrong = names.check_password(text)
    if wrong:
        return wrong
    if text != unicodedata.ucd_3_2_0.normalize("NFKC", text) or any(
        table(character) for character in text if character > "\x7f" for table in _UNPREPARED
    ):
        return (
            "A password must be made of characters that SASLprep (RFC 4013) leaves as they are,"
            " from left to right; letters and digits of ASCII always are"
        )
    return None


def check_character_set(character_set: str | None, collate: str | None) -> str | None:
    """Check a character set: MongoDB has UTF-8 and nothing to choose."""
    if character_set is None and collate is None:
        return None
    return "MongoDB's databases have no character set and no collation: leave them out"


SPEC = spec.register(
    spec.DatastoreSpec(
        manager="mongodb",
        port=27017,
        system_user="mongodb",
        root_name=ROOT_USER,
        capabilities=frozenset(
            {
                spec.Capability.DATABASES,
                spec.Capability.USERS,
                spec.Capability.ROOT,
                spec.Capability.LOGS,
                spec.Capability.CONFIGURATION,
                spec.Capability.TLS,
                spec.Capability.METRICS,
                spec.Capability.UPGRADE,
                spec.Capability.BACKUP,
                spec.Capability.POINT_IN_TIME,
            }
        ),
        reserved_databases=RESERVED_DATABASES,
        reserved_users=RESERVED_USERS,
        check_database_name=check_database_name,
        check_user_name=check_user_name,
        check_host=check_host,
        check_password=check_password,
        check_character_set=check_character_set,
        parameters=functools.partial(parameters.load, "mongodb"),
        default_configuration=mongodb_configuration.defaults,
        minimum_ram_mib=512,
        logs=(
            spec.LogSpec(name=SLOW_QUERY_LOG, type=spec.LogType.USER),
            spec.LogSpec(name=ERROR_LOG, type=spec.LogType.SYS),
            spec.GUEST_LOG,
        ),
    )
)
