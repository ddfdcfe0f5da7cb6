"""Schemas of modules."""

from __future__ import annotations

from trove.api.schemas import common, instances
from trove.api.validation import Schema

#: Modules in one request: an agent applies them while the client waits.
_MOST_MODULES = 50

#: Clients send truth as 0 or 1, or as what it is.
_FLAG = {
    "anyOf": [{"type": "boolean"}, {"type": "integer", "minimum": 0, "maximum": 1}],
    "x-reason": "must be 0, 1, true or false",
}
_OPTIONS = {
    "description": {"type": ["string", "null"], "maxLength": 65535},
    "datastore": {
        "type": "object",
        "properties": {
            "type": {**common.TEXT, "type": ["string", "null"]},
            "version": {**common.TEXT, "type": ["string", "null"]},
        },
    },
    "all_tenants": _FLAG,
    "auto_apply": _FLAG,
    "visible": _FLAG,
    "live_update": _FLAG,
    "priority_apply": _FLAG,
    "full_access": _FLAG,
    "apply_order": {"type": "integer", "minimum": 0, "maximum": 9},
}
_CONTENTS = {"type": "string", "minLength": 1}

CREATE = Schema(
    common.wrapped(
        "module",
        {
            "type": "object",
            "required": ["name", "contents"],
            "properties": {
                **_OPTIONS,
                "name": common.NAME,
                "module_type": common.NAME,
                "type": common.NAME,
                "contents": _CONTENTS,
            },
            "anyOf": [{"required": ["module_type"]}, {"required": ["type"]}],
            "x-reason": "module_type is missing",
        },
    )
)
UPDATE = Schema(
    common.wrapped(
        "module",
        {
            "type": "object",
            "properties": {
                **_OPTIONS,
                "name": common.NAME,
                "module_type": common.NAME,
                "type": common.NAME,
                "contents": _CONTENTS,
                "all_datastores": _FLAG,
                "all_datastore_versions": _FLAG,
            },
        },
    )
)
REAPPLY = Schema(
    common.wrapped(
        "reapply",
        {
            "type": "object",
            "properties": {
                "md5": {
                    "type": ["string", "null"],
                    "pattern": "^[0-9a-fA-F]{32}$",
                    "maxLength": 32,
                    "x-reason": "must be an MD5 of 32 hexadecimal digits",
                },
                "include_clustered": _FLAG,
                "batch_size": {"type": ["integer", "null"], "minimum": 1, "maximum": 1000},
                "batch_delay": {"type": ["number", "null"], "minimum": 0, "maximum": 3600},
                "force": _FLAG,
            },
        },
    )
)
APPLY = Schema(
    common.wrapped(
        "modules",
        {
            "type": "array",
            "maxItems": _MOST_MODULES,
            "items": {
                "type": "object",
                "required": ["id"],
                "properties": {"id": common.UUID},
            },
        },
    )
)

_MD5 = {"type": "string", "pattern": "^[0-9a-f]{32}$"}
_ITEM = {
    "id": common.UUID,
    "name": common.STRING,
    "type": common.STRING,
    "description": common.NULLABLE_STRING,
    "tenant_id": common.NULLABLE_STRING,
    "datastore_id": common.NULLABLE_STRING,
    "datastore_version_id": common.NULLABLE_STRING,
    "auto_apply": common.BOOL,
    "priority_apply": common.BOOL,
    "is_admin": common.BOOL,
    "visible": common.BOOL,
    "apply_order": common.INTEGER,
    "md5": _MD5,
    "created": common.TIMESTAMP,
    "updated": common.TIMESTAMP,
    "tenant": common.STRING,
    "datastore": common.STRING,
    "datastore_version": common.STRING,
}
LIST = Schema(common.listing("modules", common.closed(_ITEM)))
DETAIL = Schema(common.closed({"module": common.closed({**_ITEM, "live_update": common.BOOL})}))
SHOW = Schema(
    common.closed(
        {
            "module": common.closed(
                {**_ITEM, "live_update": common.BOOL, "instance_count": common.INTEGER}
            )
        }
    )
)
_COUNT = common.closed(
    {
        "module_name": common.STRING,
        "module_id": common.UUID,
        "module_md5": _MD5,
        "instance_count": common.INTEGER,
        "current": common.BOOL,
        "min_updated_date": common.TIMESTAMP,
        "max_updated_date": common.TIMESTAMP,
    }
)
INSTANCES = Schema(common.listing("instances", {"anyOf": [instances.BASE, _COUNT]}, paginated=True))
_TIME = {"anyOf": [common.TIMESTAMP, {"type": "null"}]}
RESULTS = Schema(
    common.listing(
        "modules",
        common.closed(
            {
                "id": common.UUID,
                "name": common.STRING,
                "type": common.STRING,
                "datastore": common.STRING,
                "datastore_version": common.STRING,
                "tenant": common.STRING,
                "md5": common.STRING,
                "status": {"enum": ["OK", "ERROR"]},
                "message": common.NULLABLE_STRING,
                "created": _TIME,
                "updated": _TIME,
                "removed": _TIME,
                "auto_apply": common.BOOL,
                "visible": common.BOOL,
                "is_admin": common.BOOL,
            },
            {"contents": common.STRING},
        ),
    )
)
