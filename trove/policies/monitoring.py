"""Rules of what an instance counts and is busy with."""

from __future__ import annotations

from trove.policies.base import READER, rule

RULES = [
    rule(
        "instance:metrics:show",
        READER,
        "Show what the database of an instance counts.",
        "GET /instances/{instance_id}/metrics",
    ),
    rule(
        "instance:queries:index",
        READER,
        "List the statements that cost the database most, without their literals.",
        "GET /instances/{instance_id}/queries",
    ),
]
