"""Logs as clients see them."""

from __future__ import annotations

from typing import Any

from trove.rpc import payloads

#: Clients ask the object store for what they find here: for null they fail, for this they are told
#: that there is nothing.
_NOTHING = "None"


def show(log: payloads.Log) -> dict[str, Any]:
    """Render a log; sizes are bytes."""
    prefix = log.prefix
    return {
        "name": log.name,
        "type": log.type,
        "status": log.status,
        "published": log.published_bytes,
        "pending": log.pending_bytes,
        "dropped": log.dropped_bytes,
        "container": log.container or _NOTHING,
        "prefix": prefix or _NOTHING,
        "metafile": f"{prefix.rstrip('/')}_metafile" if prefix else _NOTHING,
    }
