"""Schemas of backups and backup strategies."""

from __future__ import annotations

from trove.api.schemas import common
from trove.api.validation import Schema

#: What an object store and a shell take for a name without quoting it.
_CONTAINER: common.Document = {
    "type": "string",
    "minLength": 1,
    "maxLength": 255,
    "pattern": "^[A-Za-z0-9._@%+=:,-]*[A-Za-z0-9][A-Za-z0-9._@%+=:,-]*$",
    **common.NO_CONTROL,
    "x-reason": "must be letters, digits and . _ @ % + = : , - with at least one letter or digit",
}
_RESTORE_FROM: common.Document = {
    "type": "object",
    "required": ["remote_location", "local_datastore_version_id", "size"],
    "properties": {
        "remote_location": common.NAME,
        "local_datastore_version_id": common.UUID,
        "size": {"type": "number", "minimum": 0},
    },
}
CREATE = Schema(
    common.wrapped(
        "backup",
        {
            "type": "object",
            "required": ["name"],
            "properties": {
                "name": common.NAME,
                "instance": common.UUID,
                "description": common.NAME,
                "parent_id": common.UUID,
                "incremental": {
                    "enum": [0, 1, True, False],
                    "x-reason": "must be 0 or 1",
                },
                "swift_container": _CONTAINER,
                "storage_driver": {"enum": ["swift", "cinder", "s3", "filesystem"]},
                "restore_from": _RESTORE_FROM,
            },
        },
    )
)
_VERIFICATION = common.closed(
    {
        "status": {"enum": ["running", "passed", "failed", None]},
        "verified_at": {"anyOf": [common.TIMESTAMP, {"type": "null"}]},
        # what the engine found, or why nothing was
        "details": {"type": "object"},
    }
)
_PROGRESS = common.closed(
    {
        "percent": {"type": ["integer", "null"], "minimum": 0, "maximum": 100},
        "done_bytes": {"type": ["integer", "null"], "minimum": 0},
        "total_bytes": {"type": ["integer", "null"], "minimum": 0},
        "estimated_end": {"anyOf": [common.TIMESTAMP, {"type": "null"}]},
    }
)
_BACKUP = common.closed(
    {
        "id": common.UUID,
        "name": common.STRING,
        "description": common.NULLABLE_STRING,
        "locationRef": common.NULLABLE_STRING,
        "instance_id": common.NULLABLE_STRING,
        "created": common.TIMESTAMP,
        "updated": common.TIMESTAMP,
        "size": {"type": ["number", "null"]},
        "status": {
            "enum": [
                "NEW",
                "BUILDING",
                "SAVING",
                "COMPLETED",
                "FAILED",
                "DELETE_FAILED",
                "RESTORED",
            ]
        },
        "parent_id": common.NULLABLE_STRING,
        "project_id": common.STRING,
        "datastore": common.closed(
            {"type": common.STRING, "version": common.STRING, "version_id": common.UUID}
        ),
        "storage_driver": common.STRING,
        "type": {"enum": ["full", "incremental", "snapshot"]},
        "purpose": {"enum": ["manual", "scheduled", "final", "safety"]},
        "schedule_id": common.NULLABLE_STRING,
        "engine_version": common.NULLABLE_STRING,
        "data_bytes": {"type": ["integer", "null"], "minimum": 0},
        "stored_bytes": {"type": ["integer", "null"], "minimum": 0},
        "verification": _VERIFICATION,
    },
    {
        "completed_at": common.TIMESTAMP,
        "expires_at": common.TIMESTAMP,
        "fault": common.STRING,
        "progress": _PROGRESS,
    },
)
LIST = Schema(common.listing("backups", _BACKUP, paginated=True))
SHOW = Schema(common.closed({"backup": _BACKUP}))

SET_STRATEGY = Schema(
    common.wrapped(
        "backup_strategy",
        common.closed({"swift_container": _CONTAINER}, {"instance_id": common.UUID}),
    )
)
_STRATEGY = common.closed(
    {
        "project_id": common.STRING,
        "instance_id": common.STRING,
        "backend": {"const": "swift"},
        "swift_container": common.STRING,
    }
)
STRATEGIES = Schema(common.listing("backup_strategies", _STRATEGY))
STRATEGY = Schema(common.closed({"backup_strategy": _STRATEGY}))
