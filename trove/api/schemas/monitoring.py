"""Schemas of figures and of statistics of statements."""

from __future__ import annotations

from trove.api.schemas import common
from trove.api.schemas.queries import Parameters
from trove.api.validation import Schema

#: What statements are in order of, the largest first.
ORDERS = ("total_seconds", "mean_seconds", "max_seconds", "calls", "rows")
MOST = 200

_NUMBER = {"type": "number"}
_SIZE = {"type": ["integer", "null"]}

FIGURES = Schema(
    common.closed(
        {
            "metrics": common.closed(
                {
                    "reported": {**common.TIMESTAMP, "type": ["string", "null"]},
                    "service_status": common.STRING,
                    "disk_used_bytes": _SIZE,
                    "disk_total_bytes": _SIZE,
                    "figures": {"type": "object", "additionalProperties": _NUMBER},
                }
            )
        }
    )
)
QUERIES = Schema(
    common.closed(
        {
            "queries": {
                "type": "array",
                "items": common.closed(
                    {
                        "text": common.STRING,
                        "database": common.NULLABLE_STRING,
                        "user": common.NULLABLE_STRING,
                        "calls": common.INTEGER,
                        "rows": common.INTEGER,
                        "total_seconds": _NUMBER,
                        "mean_seconds": _NUMBER,
                        "max_seconds": _NUMBER,
                    }
                ),
            },
            "since": {**common.TIMESTAMP, "type": ["string", "null"]},
        }
    )
)
WANTED: Parameters = {
    "limit": {
        "type": "integer",
        "minimum": 0,
        "description": f"The most statements; 20 by default, {MOST} at most.",
    },
    "order_by": {
        "enum": list(ORDERS),
        "description": "What the list is in order of, the largest first.",
    },
}
