"""Schemas of instances."""

from __future__ import annotations

from trove.api.schemas import common
from trove.api.validation import Schema

_NIC = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "net-id": common.UUID,
        "network_id": common.UUID,
        "subnet_id": common.UUID,
        "ip_address": {
            "type": "string",
            "format": "ip-address",
            "x-reason": "must be an IP address",
        },
        "v4-fixed-ip": {
            "type": "string",
            "format": "ip-address",
            "x-reason": "must be an IP address",
        },
    },
}
_ACCESS = {
    "type": "object",
    "properties": {
        "is_public": common.BOOL,
        "allowed_cidrs": {
            "type": "array",
            "uniqueItems": True,
            "maxItems": common.MOST_ITEMS,
            "items": {
                "type": "string",
                "format": "ip-network",
                "x-reason": "must be a network in CIDR notation",
            },
        },
    },
}
_DATASTORE = {
    "type": "object",
    "properties": {"type": common.TEXT, "version": common.TEXT, "version_number": common.TEXT},
}
_VOLUME = {
    "type": "object",
    "required": ["size"],
    "properties": {
        "size": common.VOLUME_SIZE,
        "type": {**common.TEXT, "type": ["string", "null"]},
    },
}
_FLAVOR = {
    "anyOf": [
        *common.FLAVOR_REF["anyOf"],
        {
            "type": "object",
            "required": ["id"],
            "properties": {"id": common.FLAVOR_REF},
        },
    ],
    "x-reason": "must be the id of a flavor",
}

CREATE = Schema(
    common.wrapped(
        "instance",
        {
            "type": "object",
            "required": ["name"],
            "properties": {
                "name": common.NAME,
                "flavorRef": common.FLAVOR_REF,
                "flavor": _FLAVOR,
                "volume": {"anyOf": [_VOLUME, {"type": "null"}]},
                "databases": common.unique(common.DATABASE),
                "users": common.unique(common.USER),
                "availability_zone": {"anyOf": [common.NAME, {"type": "null"}]},
                "datastore": _DATASTORE,
                "nics": {"type": "array", "items": _NIC, "maxItems": 1},
                "access": _ACCESS,
                "region_name": {"anyOf": [common.NAME, {"type": "null"}]},
                "replica_count": {"type": ["integer", "null"], "minimum": 1, "maximum": 3},
            },
        },
    )
)

#: An object with exactly one key: which action.
ACTION = Schema({"type": "object", "minProperties": 1, "maxProperties": 1})

_REF = common.closed({"id": common.UUID, "links": common.LINKS})
_BASE_REQUIRED = {
    "id": common.UUID,
    "name": common.STRING,
    "status": common.STRING,
    "operating_status": common.STRING,
    "links": common.LINKS,
    "flavor": common.closed({"id": common.STRING, "links": common.LINKS}),
    "region": common.NULLABLE_STRING,
    "access": common.closed(
        {}, {"is_public": common.BOOL, "allowed_cidrs": common.unique(common.STRING)}
    ),
}
_BASE_OPTIONAL = {
    "tenant_id": common.STRING,
    "volume": common.closed(
        {"size": common.INTEGER}, {"used": {"type": "number"}, "used_percent": {"type": "number"}}
    ),
    "hostname": common.STRING,
    "ip": {"type": "array", "items": common.STRING, "minItems": 1},
    "addresses": {
        "type": "array",
        "minItems": 1,
        "items": common.closed(
            {"address": common.STRING, "type": {"enum": ["private", "public"]}},
            {"network": common.STRING},
        ),
    },
    "replica_of": _REF,
    "replicas": {"type": "array", "items": _REF, "minItems": 1},
}
BASE = common.closed(
    {
        **_BASE_REQUIRED,
        "datastore": common.closed(
            {"type": common.NULLABLE_STRING, "version": common.NULLABLE_STRING}
        ),
    },
    _BASE_OPTIONAL,
)
DETAIL = common.closed(
    {
        **_BASE_REQUIRED,
        "datastore": common.closed(
            {
                "type": common.NULLABLE_STRING,
                "version": common.NULLABLE_STRING,
                "version_number": common.STRING,
            }
        ),
        "created": common.TIMESTAMP,
        "updated": common.TIMESTAMP,
        "service_status_updated": common.TIMESTAMP,
    },
    {
        **_BASE_OPTIONAL,
        "fault": common.closed(
            {
                "message": common.STRING,
                "created": common.TIMESTAMP,
                "details": common.NULLABLE_STRING,
            }
        ),
        "password": common.STRING,
        "server_id": common.NULLABLE_STRING,
        "volume_id": common.NULLABLE_STRING,
        "encrypted_rpc_messaging": common.BOOL,
    },
)

LIST = Schema(common.listing("instances", BASE, paginated=True))
LIST_DETAIL = Schema(common.listing("instances", DETAIL, paginated=True))
SHOW = Schema(common.closed({"instance": DETAIL}))
