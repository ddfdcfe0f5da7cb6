"""Value types that schemas are made of.

Request objects are open unless said otherwise: unknown keys are ignored. Response objects are
closed, so that the tests notice what a view says beyond its schema.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Document = dict[str, Any]

NO_CONTROL: Document = {"not": {"type": "string", "pattern": "[\\x00-\\x1f\\x7f]"}}

#: A name: at least one letter or digit, no control characters.
NAME: Document = {
    "type": "string",
    "minLength": 1,
    "maxLength": 255,
    "pattern": "[0-9a-zA-Z]",
    **NO_CONTROL,
    "x-reason": "must have at least one letter or digit and no control characters",
}
#: Text that may be empty.
TEXT: Document = {
    "type": "string",
    "maxLength": 255,
    **NO_CONTROL,
    "x-reason": "must not have control characters",
}
SECRET: Document = {**TEXT, "minLength": 1}
UUID: Document = {
    "type": "string",
    "pattern": "^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$",
    "maxLength": 36,
    "x-reason": "must be a UUID",
}
BOOL: Document = {"type": "boolean"}
#: A switch as 0 or 1, as older clients send it, or as true or false.
FLAG: Document = {"enum": [0, 1, False, True]}
#: GiB, as an integer or in decimal digits.
VOLUME_SIZE: Document = {
    "anyOf": [
        {"type": "integer", "minimum": 1},
        {"type": "string", "pattern": "^0*[1-9][0-9]*$", "maxLength": 40},
    ],
    "x-reason": "must be an integer of at least 1",
}
FLAVOR_REF: Document = {
    "anyOf": [NAME, {"type": "integer", "minimum": 0, "maximum": 2**63}],
    "x-reason": "must be the id of a flavor",
}
#: Where a database user may come from.
HOST: Document = {
    "type": "string",
    "minLength": 1,
    "maxLength": 255,
    "pattern": "^[\\w%.:/()-]+$",
    **NO_CONTROL,
    "x-reason": "must be a host name, an address, a network or a pattern with %",
}
DATABASE: Document = {
    "type": "object",
    "required": ["name"],
    "properties": {
        "name": NAME,
        "character_set": {**TEXT, "type": ["string", "null"]},
        "collate": {**TEXT, "type": ["string", "null"]},
    },
}
DATABASE_REF: Document = {
    "type": "object",
    "required": ["name"],
    "properties": {"name": NAME},
}
USER: Document = {
    "type": "object",
    "required": ["name", "password"],
    "properties": {
        "name": NAME,
        "password": SECRET,
        "host": {**HOST, "type": ["string", "null"]},
        "databases": {"type": "array", "items": DATABASE_REF, "uniqueItems": True},
    },
}
#: Most things of one kind in a request.
MOST_ITEMS = 1000

TIMESTAMP: Document = {
    "type": "string",
    "pattern": "^\\d{4}-\\d\\d-\\d\\dT\\d\\d:\\d\\d:\\d\\d$",
}
LINKS: Document = {
    "type": "array",
    "items": {
        "type": "object",
        "additionalProperties": False,
        "required": ["href", "rel"],
        "properties": {
            "href": {"type": "string", "pattern": "^https?://"},
            "rel": {"enum": ["self", "bookmark", "next"]},
        },
    },
}
STRING: Document = {"type": "string"}
NULLABLE_STRING: Document = {"type": ["string", "null"]}
INTEGER: Document = {"type": "integer"}


def wrapped(key: str, content: Document) -> Document:
    """Return the schema of a request body with one expected key; others are ignored."""
    return {"type": "object", "required": [key], "properties": {key: content}}


def closed(required: Mapping[str, Any], optional: Mapping[str, Any] | None = None) -> Document:
    """Return the schema of an object that has exactly these keys, the optional ones maybe."""
    return {
        "type": "object",
        "additionalProperties": False,
        "required": list(required),
        "properties": {**required, **(optional or {})},
    }


def listing(collection: str, item: Document, *, paginated: bool = False) -> Document:
    """Return the schema of a list response."""
    optional = {"links": LINKS, f"{collection}_links": LINKS} if paginated else {}
    return closed({collection: {"type": "array", "items": item}}, optional)


def unique(items: Sequence[Document] | Document) -> Document:
    """Return the schema of a bounded array."""
    return {"type": "array", "items": items, "maxItems": MOST_ITEMS}
