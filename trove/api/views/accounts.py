"""Databases and users as clients see them; never a password of a user."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from trove.rpc import payloads


def database_names(names: Iterable[str]) -> list[dict[str, str]]:
    """Return references to databases."""
    return [{"name": name} for name in names]


def database(row: payloads.Database) -> dict[str, Any]:
    """Return one database."""
    return {"name": row.name, "character_set": row.character_set, "collate": row.collate}


def user(row: payloads.User) -> dict[str, Any]:
    """Return one user with its grants."""
    return {"name": row.name, "host": row.host, "databases": database_names(row.databases)}
