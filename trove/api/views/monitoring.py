"""Figures and statistics of statements as clients see them."""

from __future__ import annotations

import datetime
from typing import Any

from trove.rpc import payloads
from trove.services.monitoring import Figures

_TIME = "%Y-%m-%dT%H:%M:%S"


def figures(shown: Figures) -> dict[str, Any]:
    """Return what an instance last reported."""
    return {
        "reported": None if shown.reported is None else shown.reported.strftime(_TIME),
        "service_status": shown.service_status,
        "disk_used_bytes": shown.disk_used_bytes,
        "disk_total_bytes": shown.disk_total_bytes,
        "figures": dict(sorted(shown.values.items())),
    }


def query(statement: payloads.TopQuery) -> dict[str, Any]:
    """Return a statement with what it cost."""
    return statement.to_wire()


def since(text: str | None) -> str | None:
    """Return when statistics began; None for what a guest says that is no time."""
    if text is None:
        return None
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        return None
    if moment.tzinfo is not None:
        moment = moment.astimezone(datetime.UTC)
    return moment.strftime(_TIME)
