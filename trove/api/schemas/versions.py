"""Schemas of datastore versions as operators keep them, and of volume types."""

from __future__ import annotations

from trove.api.schemas import common
from trove.api.validation import Schema

_NAME: common.Document = {**common.NAME, "maxLength": 150}
_MANAGER: common.Document = {**common.NAME, "maxLength": 64}
_PROPERTIES: common.Document = {
    "datastore_manager": _MANAGER,
    "image": common.UUID,
    "image_tags": {
        "type": "array",
        "items": {**common.NAME, "maxLength": 20},
        "maxItems": 5,
        "uniqueItems": True,
    },
    "packages": {**common.unique(common.NAME), "uniqueItems": True},
    "registry_ext": common.NAME,
    "repl_strategy": common.NAME,
    "active": common.BOOL,
    "default": common.BOOL,
    "name": _NAME,
}
CREATE = Schema(
    common.wrapped(
        "version",
        {
            "type": "object",
            "additionalProperties": False,
            "required": ["name", "datastore_name", "datastore_manager", "active"],
            "properties": {**_PROPERTIES, "datastore_name": common.NAME, "version": _NAME},
        },
    )
)
#: Without a wrapper, as clients send it.
UPDATE = Schema(
    {
        "type": "object",
        "minProperties": 1,
        "additionalProperties": False,
        "properties": _PROPERTIES,
    }
)
_VERSION = common.closed(
    {
        "id": common.UUID,
        "name": common.STRING,
        "version": common.STRING,
        "datastore_id": common.UUID,
        "datastore_name": common.STRING,
        "datastore_manager": common.STRING,
        "image": common.NULLABLE_STRING,
        "image_tags": {"type": "array", "items": common.STRING},
        "packages": {"type": "array", "items": common.STRING},
        "active": common.BOOL,
        "registry_ext": common.NULLABLE_STRING,
        "repl_strategy": common.NULLABLE_STRING,
        "default": common.BOOL,
    }
)
LIST = Schema(common.listing("versions", _VERSION))
SHOW = Schema(common.closed({"version": _VERSION}))

_VOLUME_TYPE = common.closed(
    {
        "id": common.STRING,
        "name": common.STRING,
        "is_public": common.BOOL,
        "description": common.NULLABLE_STRING,
    }
)
VOLUME_TYPES = Schema(common.listing("volume_types", _VOLUME_TYPE))
