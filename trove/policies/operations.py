"""Rules of operations and of the events feed."""

from __future__ import annotations

from trove.policies.base import READER, rule

_OPERATIONS = "/instances/{instance_id}/operations"

RULES = [
    rule("operation:index", READER, "List what was done to an instance.", f"GET {_OPERATIONS}"),
    rule(
        "operation:show",
        READER,
        "Show an operation with its journal.",
        f"GET {_OPERATIONS}/{{operation_id}}",
    ),
    rule("event:index", READER, "List what happened in the project.", "GET /events"),
    rule(
        "event:instance",
        READER,
        "List what happened to an instance.",
        "GET /instances/{instance_id}/events",
    ),
]
