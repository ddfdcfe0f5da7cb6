"""Backup strategies as clients see them."""

from __future__ import annotations

from typing import Any

from trove.db.backup_strategies import Strategy


def strategy(row: Strategy) -> dict[str, Any]:
    """Return a strategy; the instance of a whole project's is empty, never null."""
    return {
        "project_id": row.project_id,
        "instance_id": row.instance_id,
        "backend": "swift",
        "swift_container": row.container,
    }
