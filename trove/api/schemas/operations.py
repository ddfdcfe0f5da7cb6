"""Schemas of operations, progress and events."""

from __future__ import annotations

from trove.api.schemas import common
from trove.api.validation import Schema

_PERCENT = {"type": "integer", "minimum": 0, "maximum": 100}
_STEPS = {
    "step_number": {"type": "integer", "minimum": 1},
    "step_count": {"type": "integer", "minimum": 1},
}

PROGRESS = common.closed(
    {
        "operation_id": common.UUID,
        "operation": common.STRING,
        "step": common.STRING,
        "percent": {**_PERCENT, "maximum": 99},
        "since": common.TIMESTAMP,
    },
    {**_STEPS, "estimated_end": common.TIMESTAMP, "message": common.STRING},
)

_OPERATION = {
    "id": common.UUID,
    "operation": common.STRING,
    "state": {"enum": ["PENDING", "RUNNING", "UNDOING", "SUCCEEDED", "FAILED", "CANCELLED"]},
    "step": common.STRING,
    "percent": _PERCENT,
    "created": common.TIMESTAMP,
    "updated": common.TIMESTAMP,
    "request_id": common.NULLABLE_STRING,
}
_OPERATION_OPTIONAL = {
    **_STEPS,
    "message": common.STRING,
    "user_id": common.NULLABLE_STRING,
}
_ENTRY = common.closed(
    {"step": common.STRING, "event": common.STRING, "created": common.TIMESTAMP},
    {"message": common.STRING},
)

LIST = Schema(
    common.listing("operations", common.closed(_OPERATION, _OPERATION_OPTIONAL), paginated=True)
)
SHOW = Schema(
    common.closed(
        {
            "operation": common.closed(
                {**_OPERATION, "journal": {"type": "array", "items": _ENTRY}}, _OPERATION_OPTIONAL
            )
        }
    )
)

_EVENT = common.closed(
    {
        "sequence": {"type": "integer", "minimum": 1},
        "type": common.STRING,
        "resource_type": common.STRING,
        "resource_id": common.STRING,
        "payload": {"type": "object"},
        "request_id": common.NULLABLE_STRING,
        "created": common.TIMESTAMP,
    },
    {"user_id": common.NULLABLE_STRING, "tenant_id": common.STRING},
)
EVENTS = Schema(
    common.closed(
        {
            "events": {"type": "array", "items": _EVENT},
            "cursor": common.STRING,
        },
        {"gap": {"const": True}, "links": common.LINKS, "events_links": common.LINKS},
    )
)
