"""Quotas as clients see them."""

from __future__ import annotations

from typing import Any

from trove.services.quotas import Quota


def quota(row: Quota) -> dict[str, Any]:
    """Return the quota of a resource."""
    return {
        "resource": row.resource,
        "in_use": row.in_use,
        "reserved": row.reserved,
        "limit": row.limit,
    }
