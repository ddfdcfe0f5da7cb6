"""Schemas of databases, users, grants and the superuser."""

from __future__ import annotations

from trove.api.schemas import common
from trove.api.validation import Schema

CREATE_DATABASES = Schema(
    {
        "anyOf": [
            common.wrapped("databases", common.unique(common.DATABASE)),
            # what openstacksdk sends
            common.wrapped("database", common.DATABASE),
        ],
        "type": "object",
        "x-reason": "must have the key databases",
    }
)
CREATE_USERS = Schema(common.wrapped("users", common.unique(common.USER)))
#: What openstacksdk sends to /users/{name}: one object under "users" (or "user").
CREATE_ONE_USER = Schema(
    {
        "anyOf": [
            common.wrapped("users", {"type": "object"}),
            common.wrapped("user", {"type": "object"}),
        ],
        "type": "object",
        "x-reason": "must have the key users",
    }
)
USER_ITEM = Schema(common.USER)
CHANGE_PASSWORDS = Schema(
    common.wrapped(
        "users",
        common.unique(
            {
                "type": "object",
                "required": ["name", "password"],
                "properties": {
                    "name": common.NAME,
                    "password": common.SECRET,
                    "host": {**common.HOST, "type": ["string", "null"]},
                },
            }
        ),
    )
)
UPDATE_USER = Schema(
    common.wrapped(
        "user",
        {
            "type": "object",
            "minProperties": 1,
            "properties": {
                "name": {**common.NAME, "type": ["string", "null"]},
                "password": {**common.SECRET, "type": ["string", "null"]},
                "host": {**common.HOST, "type": ["string", "null"]},
            },
        },
    )
)
GRANT = Schema(common.wrapped("databases", common.unique(common.DATABASE_REF)))
ENABLE_ROOT = Schema(
    {
        "type": "object",
        "properties": {"password": {**common.SECRET, "type": ["string", "null"]}},
    }
)

_DATABASE_REF = common.closed({"name": common.STRING})
_USER = common.closed(
    {
        "name": common.STRING,
        "host": common.STRING,
        "databases": {"type": "array", "items": _DATABASE_REF},
    }
)
DATABASES = Schema(common.listing("databases", _DATABASE_REF, paginated=True))
DATABASE = Schema(
    common.closed(
        {
            "database": common.closed(
                {
                    "name": common.STRING,
                    "character_set": common.NULLABLE_STRING,
                    "collate": common.NULLABLE_STRING,
                }
            )
        }
    )
)
USERS = Schema(common.listing("users", _USER, paginated=True))
USER = Schema(common.closed({"user": _USER}))
ACCESS = Schema(common.listing("databases", _DATABASE_REF))
ROOT_ENABLED = Schema(common.closed({"rootEnabled": common.BOOL}))
ROOT_USER = Schema(
    common.closed({"user": common.closed({"name": common.STRING, "password": common.STRING})})
)
