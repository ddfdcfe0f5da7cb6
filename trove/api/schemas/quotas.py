"""Schemas of quotas."""

from __future__ import annotations

from trove.api.schemas import common
from trove.api.validation import Schema

_QUOTA = common.closed(
    {
        "resource": common.STRING,
        "in_use": {"type": "integer", "minimum": 0},
        "reserved": {"type": "integer", "minimum": 0},
        "limit": {"type": "integer", "minimum": -1},
    }
)
SHOW = Schema(common.listing("quotas", _QUOTA))

#: Resource -> limit; which resources there are is not the schema's to say: an unknown one is a 404.
UPDATE = Schema(
    common.wrapped(
        "quotas",
        {
            "type": "object",
            "minProperties": 1,
            "maxProperties": 100,
            "additionalProperties": {
                "type": ["integer", "null"],
                "minimum": -1,
                "maximum": 2**31 - 1,
            },
        },
    )
)
UPDATED = Schema(
    common.closed(
        {"quotas": {"type": "object", "additionalProperties": {"type": "integer", "minimum": -1}}}
    )
)
