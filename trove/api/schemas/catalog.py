"""Schemas of what users choose from: datastores, versions, flavors, limits."""

from __future__ import annotations

from trove.api.schemas import common
from trove.api.validation import Schema

_OPERATORS = {
    "active": common.BOOL,
    "packages": common.NULLABLE_STRING,
    "image": common.NULLABLE_STRING,
    "registry_ext": common.NULLABLE_STRING,
    "repl_strategy": common.NULLABLE_STRING,
    "image_tags": {"type": "array", "items": common.STRING},
}
_VERSION_REQUIRED = {
    "id": common.UUID,
    "name": common.STRING,
    "version": common.STRING,
    "links": common.LINKS,
}
_VERSION_ITEM = common.closed(_VERSION_REQUIRED, _OPERATORS)
_VERSION = common.closed({**_VERSION_REQUIRED, "datastore": common.UUID}, _OPERATORS)
_DATASTORE = common.closed(
    {
        "id": common.UUID,
        "name": common.STRING,
        "links": common.LINKS,
        "versions": {"type": "array", "items": _VERSION_ITEM},
    },
    {"default_version": common.UUID},
)
DATASTORES = Schema(common.listing("datastores", _DATASTORE))
DATASTORE = Schema(common.closed({"datastore": _DATASTORE}))
VERSIONS = Schema(common.listing("versions", _VERSION))
VERSION = Schema(common.closed({"version": _VERSION}))

_FLAVOR = common.closed(
    {
        "id": {"type": ["integer", "null"]},
        "str_id": common.STRING,
        "name": common.STRING,
        "ram": common.INTEGER,
        "vcpus": common.INTEGER,
        "disk": common.INTEGER,
        "ephemeral": common.INTEGER,
        "links": common.LINKS,
    }
)
FLAVORS = Schema(common.listing("flavors", _FLAVOR))
FLAVOR = Schema(common.closed({"flavor": _FLAVOR}))

_ABSOLUTE = common.closed(
    {
        "verb": {"const": "ABSOLUTE"},
        "max_instances": common.INTEGER,
        "max_ram": common.INTEGER,
        "max_volumes": common.INTEGER,
        "max_backups": common.INTEGER,
    }
)
_RATE = common.closed(
    {
        "verb": {"enum": ["GET", "POST", "PUT", "DELETE"]},
        "uri": {"const": "*"},
        "regex": {"const": ".*"},
        "value": common.INTEGER,
        "remaining": common.INTEGER,
        "unit": {"const": "MINUTE"},
        "nextAvailable": {"type": "string", "pattern": "Z$"},
    }
)
LIMITS = Schema(
    common.closed({"limits": {"type": "array", "prefixItems": [_ABSOLUTE], "items": _RATE}})
)
CERTIFICATE_AUTHORITY = Schema(
    common.closed(
        {
            "certificate_authority": common.closed(
                {"certificate": {"type": "string", "pattern": "^-----BEGIN CERTIFICATE-----"}}
            )
        }
    )
)

_API_VERSION = common.closed(
    {
        "id": {"const": "v1.0"},
        "status": {"const": "CURRENT"},
        "updated": common.STRING,
        "links": common.LINKS,
    }
)
API_VERSIONS = Schema(
    common.closed({"versions": {"type": "array", "items": _API_VERSION, "minItems": 1}})
)
API_VERSION = Schema(common.closed({"version": _API_VERSION}))
