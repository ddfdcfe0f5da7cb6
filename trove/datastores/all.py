"""Import this to have the specs of all datastores in the registry."""

from __future__ import annotations

from trove.datastores import mariadb, mongodb, mysql_server, postgresql, redis, valkey

__all__ = ["mariadb", "mongodb", "mysql_server", "postgresql", "redis", "valkey"]
