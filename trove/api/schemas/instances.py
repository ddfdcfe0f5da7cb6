"""Schemas of instances."""

from __future__ import annotations

from trove.api.schemas import common, restores
from trove.api.schemas.operations import PROGRESS
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
_ACCESS: common.Document = {
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

#: The id of a configuration group, or its URL.
_CONFIGURATION = {
    "type": ["string", "null"],
    "maxLength": 1000,
    "pattern": "^([^\\s]*/)?[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}/?$",
    "x-reason": "must be the id of a configuration group",
}
_NULLABLE_UUID = {
    **common.UUID,
    "type": ["string", "null"],
    "pattern": f"^$|{common.UUID['pattern']}",
}
#: One tag; no comma, since lists of tags are separated by it, and no slash.
TAG = {
    "type": "string",
    "minLength": 1,
    "maxLength": 60,
    "pattern": "^[0-9A-Za-z_.:=@-]+$",
    **common.NO_CONTROL,
    "x-reason": "must be 1 to 60 letters, digits or characters of _ . : = @ -",
}
_TAGS = {"type": "array", "items": TAG, "uniqueItems": True, "maxItems": 64}
_LOCALITY = {
    "enum": ["affinity", "soft-affinity", "anti-affinity", "soft-anti-affinity", None],
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
                "replica_of": _NULLABLE_UUID,
                "replica_count": {"type": ["integer", "null"], "minimum": 1, "maximum": 3},
                "restorePoint": {"anyOf": [restores.POINT, {"type": "null"}]},
                "configuration": _CONFIGURATION,
                "configuration_id": _CONFIGURATION,
                "modules": {
                    "anyOf": [
                        common.unique(common.wrapped("id", common.UUID)),
                        {"type": "null"},
                    ]
                },
                "locality": _LOCALITY,
                "tags": _TAGS,
                "deletion_protected": common.BOOL,
            },
        },
    )
)

_UPDATE: common.Document = {
    "name": common.NAME,
    "configuration": _CONFIGURATION,
    # whatever it is: a replica is detached
    "replica_of": {},
    "datastore_version": common.NAME,
    "access": {**_ACCESS, "additionalProperties": False},
    "tags": _TAGS,
    "deletion_protected": common.BOOL,
}
UPDATE = Schema(common.wrapped("instance", common.closed({}, _UPDATE)))
#: As clients of old send it.
EDIT = Schema(common.wrapped("instance", common.closed({}, {**_UPDATE, "slave_of": {}})))

_NOTHING = {"type": ["object", "null"], "maxProperties": 0}
_RESIZE = {
    "type": "object",
    "additionalProperties": False,
    "minProperties": 1,
    "maxProperties": 1,
    "properties": {
        "volume": {
            "anyOf": [
                common.VOLUME_SIZE,
                {
                    "type": "object",
                    "required": ["size"],
                    "properties": {"size": common.VOLUME_SIZE},
                },
            ],
            "x-reason": "must be a size in GiB",
        },
        "flavorRef": common.FLAVOR_REF,
    },
}


def _one_of(actions: common.Document) -> Schema:
    """Return the schema of an object with exactly one key: which action."""
    return Schema({**common.closed({}, actions), "minProperties": 1, "maxProperties": 1})


ACTION = _one_of(
    {
        "restart": _NOTHING,
        "resize": _RESIZE,
        "promote_to_replica_source": _NOTHING,
        "eject_replica_source": _NOTHING,
        "reset_status": common.closed({}, {"force_delete": {}}),
        "restore": restores.IN_PLACE,
    }
)
_EMPTY = {"type": "object", "maxProperties": 0}
MGMT_ACTION = _one_of(
    {
        "stop": _EMPTY,
        "reboot": _EMPTY,
        "migrate": common.closed({}, {"host": {"anyOf": [common.NAME, {"type": "null"}]}}),
        "reset-task-status": _EMPTY,
        "rebuild": common.closed({"image_id": common.UUID}),
    }
)

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
        "tags": {"type": "array", "items": common.STRING},
        "deletion_protected": common.BOOL,
    },
    {
        **_BASE_OPTIONAL,
        "configuration": common.closed(
            {"id": common.UUID, "name": common.STRING, "links": common.LINKS}
        ),
        "locality": common.STRING,
        "local_storage": common.closed({"used": {"type": "number"}}),
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
        "progress": PROGRESS,
        "earliest_restorable_time": {"anyOf": [common.TIMESTAMP, {"type": "null"}]},
        "latest_restorable_time": {"anyOf": [common.TIMESTAMP, {"type": "null"}]},
        "archive": common.closed(
            {
                "status": {"enum": ["active", "closed", "lost"]},
                "lag_seconds": {"type": ["integer", "null"], "minimum": 0},
                "pending_bytes": {"type": "integer", "minimum": 0},
                "problem": common.NULLABLE_STRING,
            }
        ),
    },
)

LIST = Schema(common.listing("instances", BASE, paginated=True))
LIST_DETAIL = Schema(common.listing("instances", DETAIL, paginated=True))
SHOW = Schema(common.closed({"instance": DETAIL}))
