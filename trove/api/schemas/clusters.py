"""Schemas of clusters."""

from __future__ import annotations

from trove.api.schemas import common
from trove.api.validation import Schema

_NOTHING: common.Document = {"type": ["object", "null"], "maxProperties": 0}
_VOLUME: common.Document = {
    "type": "object",
    "required": ["size"],
    "properties": {
        "size": common.VOLUME_SIZE,
        "type": {**common.TEXT, "type": ["string", "null"]},
    },
}
_MEMBER: common.Document = {
    "type": "object",
    "required": ["flavorRef"],
    "properties": {
        "flavorRef": common.FLAVOR_REF,
        "volume": _VOLUME,
        "nics": {"type": "array", "maxItems": 1, "items": {"type": "object"}},
        "availability_zone": common.NAME,
        "modules": common.unique({"type": "object"}),
        "region_name": common.TEXT,
        "region": common.TEXT,
    },
}
_EXTENDED = {
    "type": "object",
    "properties": {
        "num_configsvr": {"type": ["integer", "string"]},
        "num_mongos": {"type": ["integer", "string"]},
        "configsvr_volume_size": common.VOLUME_SIZE,
        "configsvr_volume_type": common.TEXT,
        "mongos_volume_size": common.VOLUME_SIZE,
        "mongos_volume_type": common.TEXT,
    },
}
CREATE = Schema(
    common.wrapped(
        "cluster",
        {
            "type": "object",
            "required": ["name", "datastore", "instances"],
            "properties": {
                "name": common.NAME,
                "datastore": {
                    "type": "object",
                    "required": ["type", "version"],
                    "properties": {"type": common.NAME, "version": common.NAME},
                },
                "instances": common.unique(_MEMBER),
                "locality": {
                    "enum": ["affinity", "anti-affinity", "soft-affinity", "soft-anti-affinity"]
                },
                "extended_properties": _EXTENDED,
                "configuration": {**common.UUID, "type": ["string", "null"]},
            },
        },
    )
)
_ACTIONS: common.Document = {
    "grow": common.unique(
        {**_MEMBER, "properties": {**_MEMBER["properties"], "name": common.NAME}}
    ),
    "shrink": common.unique(
        {"type": "object", "required": ["id"], "properties": {"id": common.UUID}}
    ),
    "restart": _NOTHING,
    "upgrade": common.wrapped("datastore_version", common.NAME),
    "reset-status": {"type": ["object", "null"]},
    "configuration_attach": common.wrapped("configuration_id", common.UUID),
    "configuration_detach": _NOTHING,
    "add_shard": _NOTHING,
}
#: Exactly one action.
ACTION = Schema(
    {
        "type": "object",
        "minProperties": 1,
        "maxProperties": 1,
        "additionalProperties": False,
        "properties": _ACTIONS,
    }
)
MGMT_ACTION = Schema(common.closed({"reset-task": _NOTHING}))
ENABLE_ROOT = Schema({"type": "object", "properties": {"password": common.SECRET}})

#: There are none to be shown yet.
_CLUSTER: common.Document = {"type": "object"}
LIST = Schema(common.listing("clusters", _CLUSTER, paginated=True))
SHOW = Schema(common.closed({"cluster": _CLUSTER}))
MEMBER = Schema(common.closed({"instance": {"type": "object"}}))
ROOT = Schema(common.closed({"rootEnabled": common.BOOL}))
ROOT_USER = Schema(
    common.closed({"user": common.closed({"name": common.STRING, "password": common.STRING})})
)
