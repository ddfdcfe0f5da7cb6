"""Schemas of actions on backups."""

from __future__ import annotations

from trove.api.schemas import backups, common, instances
from trove.api.validation import Schema

_OF_CREATE = instances.CREATE.document["properties"]["instance"]["properties"]
#: What of the former instance is to be otherwise.
_UNDELETE: common.Document = common.closed(
    {},
    {name: _OF_CREATE[name] for name in ("name", "flavorRef", "volume", "nics", "access")},
)
ACTION = Schema(
    {
        "type": "object",
        "additionalProperties": False,
        "minProperties": 1,
        "maxProperties": 1,
        "properties": {"undelete": _UNDELETE, "verify": common.closed({})},
    }
)
#: An undeleted instance, or the backup that is proven.
ANSWER = Schema({"anyOf": [instances.SHOW.document, backups.SHOW.document]})
