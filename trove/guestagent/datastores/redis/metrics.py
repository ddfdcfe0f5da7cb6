"""What a server of the Redis family counts, from one INFO."""

from __future__ import annotations

from collections.abc import Mapping

from trove.guestagent.datastores import base
from trove.guestagent.datastores.redis import connection

#: Figure -> field of INFO (https://redis.io/docs/latest/commands/info/).
_FIELDS: Mapping[str, str] = {
    "uptime_seconds": "uptime_in_seconds",
    "connections": "connected_clients",
    "connections_max": "maxclients",
    "connections_refused_total": "rejected_connections",
    "commands_total": "total_commands_processed",
    "cache_hits_total": "keyspace_hits",
    "cache_misses_total": "keyspace_misses",
    "memory_used_bytes": "used_memory",
    "memory_max_bytes": "maxmemory",
    "data_bytes": "used_memory_dataset",
    "evicted_total": "evicted_keys",
    "network_received_bytes_total": "total_net_input_bytes",
    "network_sent_bytes_total": "total_net_output_bytes",
    "replicas": "connected_slaves",
}


class RedisMetrics(base.Metrics):
    """Figures of a server of the family; its own connection and the agent's are not told apart."""

    def __init__(self, connector: connection.Connector) -> None:
        """Take what connects to the server."""
        self._connector = connector

    def read(self) -> dict[str, float]:
        """Return the figures."""
        info = self._connector.info()
        return {name: float(info[field]) for name, field in _FIELDS.items() if field in info}
