"""Schemas of logs."""

from __future__ import annotations

from trove.api.schemas import common
from trove.api.validation import Schema

CHANGE = Schema(
    {
        "type": "object",
        "required": ["name"],
        "properties": {
            "name": common.NAME,
            "enable": common.FLAG,
            "disable": common.FLAG,
            "publish": common.FLAG,
            "discard": common.FLAG,
        },
    }
)

_LOG = common.closed(
    {
        "name": common.STRING,
        "type": {"enum": ["USER", "SYS"]},
        "status": common.STRING,
        "published": common.INTEGER,
        "pending": common.INTEGER,
        # in the place of null, as long as nothing is published: clients put it into a URL
        "container": common.STRING,
        "prefix": common.STRING,
        "metafile": common.STRING,
        "dropped": common.INTEGER,
    }
)
LIST = Schema(common.listing("logs", _LOG))
SHOW = Schema(common.closed({"log": _LOG}))
