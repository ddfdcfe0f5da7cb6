"""Schemas of schedules of backups."""

from __future__ import annotations

from trove.api.schemas import common
from trove.api.validation import Schema

_NUMBER: common.Document = {"type": "integer", "minimum": 0, "maximum": 10_000}
#: What any of these keeps is kept; none: all are.
_RETENTION: common.Document = common.closed(
    {},
    dict.fromkeys(("count", "days", "daily", "weekly", "monthly", "yearly"), _NUMBER),
)
_CRON: common.Document = {
    "type": "string",
    "minLength": 9,
    "maxLength": 255,
    "pattern": "^[0-9A-Za-z*/,# -]+$",
    "x-reason": "must be five fields of a cron expression, with single spaces between them",
}
_FIELDS: common.Document = {
    "name": common.NAME,
    "cron": _CRON,
    "timezone": {"type": "string", "minLength": 1, "maxLength": 64, **common.NO_CONTROL},
    "window_s": {"type": "integer", "minimum": 0, "maximum": 86_400},
    "full_every": {"type": "integer", "minimum": 1, "maximum": 100},
    "retention": _RETENTION,
    "enabled": common.BOOL,
}
CREATE = Schema(
    common.wrapped(
        "backup_schedule",
        {
            "type": "object",
            "additionalProperties": False,
            "required": ["name", "cron"],
            "properties": {
                **_FIELDS,
                "instance_id": {**common.UUID, "type": ["string", "null"]},
            },
        },
    )
)
UPDATE = Schema(
    common.wrapped(
        "backup_schedule",
        {
            "type": "object",
            "additionalProperties": False,
            "minProperties": 1,
            "properties": _FIELDS,
        },
    )
)
_NULLABLE_TIMESTAMP: common.Document = {**common.TIMESTAMP, "type": ["string", "null"]}
_SCHEDULE = common.closed(
    {
        "id": common.UUID,
        "project_id": common.STRING,
        "instance_id": common.NULLABLE_STRING,
        "name": common.STRING,
        "cron": common.STRING,
        "timezone": common.STRING,
        "window_s": common.INTEGER,
        "full_every": common.INTEGER,
        "retention": _RETENTION,
        "enabled": common.BOOL,
        "next_run": _NULLABLE_TIMESTAMP,
        "last_run": _NULLABLE_TIMESTAMP,
        "last_backup_id": common.NULLABLE_STRING,
        "last_backup_status": common.NULLABLE_STRING,
        "problem": common.NULLABLE_STRING,
        "created": common.TIMESTAMP,
        "updated": common.TIMESTAMP,
    }
)
LIST = Schema(common.listing("backup_schedules", _SCHEDULE, paginated=True))
SHOW = Schema(common.closed({"backup_schedule": _SCHEDULE}))
