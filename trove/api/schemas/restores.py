"""The schema of what a database is restored from."""

from __future__ import annotations

from trove.api.schemas import common

#: Closed: a misspelt time must not restore something else.
POINT: common.Document = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "backupRef": common.UUID,
        "instance": common.UUID,
        "time": {
            **common.SECRET,
            "x-reason": 'must be a time in ISO 8601, such as 2026-05-01T12:00:00Z, or "now"',
        },
        "position": common.SECRET,
        "name": common.SECRET,
    },
}
#: In place a backup can be made before.
IN_PLACE: common.Document = {
    **POINT,
    "properties": {**POINT["properties"], "safety_backup": common.BOOL},
}
