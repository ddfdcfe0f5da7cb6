"""What a server counts, from its cumulative statistics, over the connection that is kept.

Sessions tell their counts when they have been idle for a moment, at most once a second, and when
they end. Sizes of databases are not there: the server would look at every file.
"""

from __future__ import annotations

from trove.guestagent.datastores import base
from trove.guestagent.datastores.postgresql import connection

_NAMES = (
    "uptime_seconds",
    "connections_max",
    "memory_max_bytes",
    "connections",
    "connections_active",
    "replicas",
    "replication_lag_seconds",
    "transactions_total",
    "transactions_rolled_back_total",
    "rows_read_total",
    "rows_written_total",
    "cache_hits_total",
    "cache_misses_total",
    "deadlocks_total",
)
_QUERY = """
SELECT extract(epoch FROM clock_timestamp() - pg_postmaster_start_time()),
  current_setting('max_connections')::float8,
  pg_size_bytes(current_setting('shared_buffers')),
  a.connections, a.active, (SELECT count(*) FROM pg_stat_replication),
  CASE WHEN NOT pg_is_in_recovery() THEN NULL
    WHEN pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn() THEN 0
    ELSE extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp()) END,
  d.transactions, d.rolled_back, d.rows_read, d.rows_written, d.hits, d.misses, d.deadlocks
FROM
  (SELECT count(*) AS connections, count(*) FILTER (WHERE state = 'active') AS active
    FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()) AS a,
  (SELECT sum(xact_commit + xact_rollback) AS transactions, sum(xact_rollback) AS rolled_back,
      sum(tup_returned) AS rows_read, sum(tup_inserted + tup_updated + tup_deleted) AS rows_written,
      sum(blks_hit) AS hits, sum(blks_read) AS misses, sum(deadlocks) AS deadlocks
    FROM pg_stat_database) AS d
"""


class PostgresqlMetrics(base.Metrics):
    """The figures of a server."""

    def __init__(self, connector: connection.Connector) -> None:
        """Take what connects to the server."""
        self._connector = connector

    def read(self) -> dict[str, float]:
        """Return what the server counts, in all databases; raises NotReady."""
        with self._connector.kept() as session:
            (row,) = session.repeat(_QUERY)
        return {
            name: float(value) for name, value in zip(_NAMES, row, strict=True) if value is not None
        }
