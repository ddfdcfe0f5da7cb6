"""Schemas of instances as operators see them."""

from __future__ import annotations

from trove.api.schemas import common, instances
from trove.api.validation import Schema

_SERVER = {
    "id": common.STRING,
    "name": common.STRING,
    "status": common.STRING,
    "tenant_id": common.STRING,
    "host": common.NULLABLE_STRING,
}
_NUMBER_OR_NULL = {"type": ["number", "null"]}
_ADDRESSES = {
    "type": "object",
    "additionalProperties": {
        "type": "array",
        "items": common.closed({"addr": common.STRING, "version": {"enum": [4, 6]}}),
    },
}
_VOLUME = common.closed(
    {
        "attachments": {"type": "array", "items": common.closed({"server_id": common.STRING})},
        "availability_zone": common.NULLABLE_STRING,
        "created_at": common.TIMESTAMP,
        "id": common.NULLABLE_STRING,
        "size": common.INTEGER,
        "status": common.STRING,
        "used": _NUMBER_OR_NULL,
        "total": _NUMBER_OR_NULL,
    }
)
_MORE = {
    "service_status": common.STRING,
    "tenant_id": common.STRING,
    "deleted": common.BOOL,
    "deleted_at": {"anyOf": [common.TIMESTAMP, {"type": "null"}]},
    "task_description": common.STRING,
}


def _detail(required: common.Document, optional: common.Document) -> common.Document:
    known = instances.DETAIL["properties"]
    names = set(instances.DETAIL["required"])
    return common.closed(
        {**{name: known[name] for name in known if name in names}, **required},
        {
            **{name: known[name] for name in known if name not in names and name not in required},
            **optional,
        },
    )


_ITEM = _detail({**_MORE, "server": {"anyOf": [common.closed(_SERVER), {"type": "null"}]}}, {})
_SHOW = _detail(
    {
        **_MORE,
        "server": {
            "anyOf": [common.closed({**_SERVER, "addresses": _ADDRESSES}), {"type": "null"}]
        },
        "guest_status": common.closed({"state_description": common.STRING}),
        "volume": {"anyOf": [_VOLUME, {"type": "null"}]},
    },
    {"root_enabled": common.TIMESTAMP, "root_enabled_by": common.NULLABLE_STRING},
)

LIST = Schema(common.listing("instances", _ITEM, paginated=True))
SHOW = Schema(common.closed({"instance": _SHOW}))
ROOT_HISTORY = Schema(
    common.closed(
        {
            "root_history": common.closed(
                {
                    "id": common.UUID,
                    "enabled": {"anyOf": [common.TIMESTAMP, {"const": "Never"}]},
                    "user": common.NULLABLE_STRING,
                }
            )
        }
    )
)
_PROCESS = {
    "version": common.NULLABLE_STRING,
    "threads": common.INTEGER,
    "fdSize": common.INTEGER,
    "vmSize": common.INTEGER,
    "vmPeak": common.INTEGER,
    "vmRss": common.INTEGER,
    "vmHwm": common.INTEGER,
}
DIAGNOSTICS = Schema(
    common.closed({"diagnostics": common.closed(_PROCESS, {"engine": common.closed(_PROCESS)})})
)
HARDWARE = Schema(
    common.closed(
        {"hwinfo": common.closed({"mem_total": common.INTEGER, "num_cpus": common.INTEGER})}
    )
)
