"""Import this to have the specs of all datastores in the registry."""

from __future__ import annotations

from trove.datastores import mariadb, mongodb, postgresql, redis, valkey

__all__ = ["mariadb", "mongodb", "postgresql", "redis", "valkey"]
