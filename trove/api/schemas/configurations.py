"""Schemas of configuration groups and parameters."""

from __future__ import annotations

from trove.api.schemas import common
from trove.api.validation import Schema
from trove.datastores.parameters import ParameterType

_MOST_VALUES = 500
_LONGEST_NAME = 128
_LONGEST_DESCRIPTION = 10_000
_DESCRIPTION = {"type": ["string", "null"], "maxLength": _LONGEST_DESCRIPTION}
#: What is of a wrong type for its parameter is refused with the parameter's own rule.
_VALUES = {
    "type": "object",
    "maxProperties": _MOST_VALUES,
    "propertyNames": {"minLength": 1, "maxLength": _LONGEST_NAME},
}
_DATASTORE = {
    "type": "object",
    "properties": {"type": common.TEXT, "version": common.TEXT, "version_number": common.TEXT},
}

CREATE = Schema(
    common.wrapped(
        "configuration",
        {
            "type": "object",
            "required": ["name", "values"],
            "properties": {
                "name": common.NAME,
                "description": _DESCRIPTION,
                "values": _VALUES,
                "datastore": _DATASTORE,
            },
        },
    )
)
REPLACE = Schema(
    common.wrapped(
        "configuration",
        {
            "type": "object",
            "properties": {
                "name": common.NAME,
                "description": _DESCRIPTION,
                "values": _VALUES,
            },
        },
    )
)
MERGE = Schema(
    common.wrapped("configuration", {"type": "object", "properties": {"values": _VALUES}})
)

_LIMIT_NUMBER = {
    "anyOf": [
        {"type": "number", "minimum": -(2**63), "maximum": 2**64},
        {"type": "string", "pattern": "^-?[0-9]{1,20}(\\.[0-9]{1,10})?$", "maxLength": 40},
        {"type": "null"},
    ],
    "x-reason": "must be a number",
}
PARAMETER = Schema(
    common.wrapped(
        "configuration-parameter",
        {
            "type": "object",
            "required": ["name", "data_type", "restart_required"],
            "properties": {
                "name": {
                    "type": "string",
                    "maxLength": _LONGEST_NAME,
                    "pattern": "^[a-zA-Z][a-zA-Z0-9_-]*$",
                    "x-reason": "must be a letter, followed by letters, digits, _ and -",
                },
                "data_type": {"enum": [kind.value for kind in ParameterType]},
                "restart_required": {
                    "anyOf": [{"type": "integer", "minimum": 0, "maximum": 1}, common.BOOL],
                    "x-reason": "must be 0, 1, true or false",
                },
                "max_size": _LIMIT_NUMBER,
                "min_size": _LIMIT_NUMBER,
            },
        },
    )
)

_ITEM_KEYS = {
    "id": common.UUID,
    "name": common.STRING,
    "description": common.NULLABLE_STRING,
    "created": common.TIMESTAMP,
    "updated": common.TIMESTAMP,
    "datastore_name": common.STRING,
    "datastore_version_id": common.UUID,
    "datastore_version_name": common.STRING,
    "datastore_version_number": common.STRING,
}
_VALUE = {"type": ["string", "integer", "number", "boolean"]}
LIST = Schema(common.listing("configurations", common.closed(_ITEM_KEYS), paginated=True))
SHOW = Schema(
    common.closed(
        {
            "configuration": common.closed(
                {
                    **_ITEM_KEYS,
                    "values": {"type": "object", "additionalProperties": _VALUE},
                    "instance_count": common.INTEGER,
                }
            )
        }
    )
)
INSTANCES = Schema(
    common.listing(
        "instances", common.closed({"id": common.UUID, "name": common.STRING}), paginated=True
    )
)
DEFAULTS = Schema(
    common.closed(
        {
            "instance": common.closed(
                {
                    "configuration": {
                        "type": "object",
                        "additionalProperties": {"type": ["string", "integer"]},
                    }
                }
            )
        }
    )
)

_PARAMETER_KEYS = {
    "name": common.STRING,
    "datastore_version_id": common.UUID,
    "restart_required": common.BOOL,
    "type": {"enum": [kind.value for kind in ParameterType]},
}
_NUMBER = {"type": "number"}
_PARAMETER = common.closed(_PARAMETER_KEYS, {"min": _NUMBER, "max": _NUMBER})
_MGMT_PARAMETER = common.closed(_PARAMETER_KEYS, {"min_size": _NUMBER, "max_size": _NUMBER})
PARAMETERS = Schema(common.listing("configuration-parameters", _PARAMETER))
ONE_PARAMETER = Schema(_PARAMETER)
MGMT_PARAMETERS = Schema(common.listing("configuration-parameters", _MGMT_PARAMETER))
ONE_MGMT_PARAMETER = Schema(_MGMT_PARAMETER)
