"""Figures of a running server, from serverStatus without the sections that nobody asks for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trove.guestagent.datastores import base
from trove.guestagent.datastores.mongodb import connection

#: Sections of serverStatus of 6.0 that are not read; those that a server lacks do not matter.
_LEFT_OUT = (
    "activeIndexBuilds",
    "asserts",
    "batchedDeletes",
    "catalogStats",
    "defaultRWConcern",
    "electionMetrics",
    "extra_info",
    "featureCompatibilityVersion",
    "flowControl",
    "indexBulkBuilder",
    "indexStats",
    "locks",
    "logicalSessionRecordCache",
    "opLatencies",
    "opcountersRepl",
    "oplogTruncation",
    "readConcernCounters",
    "readPreferenceCounters",
    "repl",
    "scramCache",
    "security",
    "storageEngine",
    "tcmalloc",
    "tenantMigrations",
    "trafficRecording",
    "transportSecurity",
    "twoPhaseCommitCoordinator",
)
_COMMAND: Mapping[str, int] = {"serverStatus": 1, **dict.fromkeys(_LEFT_OUT, 0)}
_MIB = 1024 * 1024


class MongodbMetrics(base.Metrics):
    """What serverStatus counts, by the names of the service."""

    def __init__(self, connector: connection.Connector) -> None:
        """Take what connects to the server."""
        self._connector = connector

    def read(self) -> dict[str, float]:
        """Return the figures; raises NotReady."""
        with self._connector.ping_session() as client:
            status = client.admin.command(dict(_COMMAND))
        return figures(status)


def figures(status: Mapping[str, Any]) -> dict[str, float]:
    """Return the figures of a serverStatus; those that the server does not have are left out."""
    connections, cache = status["connections"], status["wiredTiger"]["cache"]
    document, transactions = status["metrics"]["document"], status["transactions"]
    requested, read = cache["pages requested from the cache"], cache["pages read into cache"]
    found = {
        "uptime_seconds": status["uptimeMillis"] / 1000,
        "connections": connections["current"],
        "connections_max": connections["current"] + connections["available"],
        "connections_active": connections.get("active"),
        "connections_refused_total": connections.get("rejected"),
        "transactions_total": transactions["totalCommitted"] + transactions["totalAborted"],
        "transactions_rolled_back_total": transactions["totalAborted"],
        "commands_total": sum(status["opcounters"][name] for name in _OPERATIONS),
        "rows_read_total": document["returned"],
        "rows_written_total": document["inserted"] + document["updated"] + document["deleted"],
        "cache_hits_total": max(0, requested - read),
        "cache_misses_total": read,
        "memory_used_bytes": status["mem"]["resident"] * _MIB,
        "memory_max_bytes": cache["maximum bytes configured"],
        "network_received_bytes_total": status["network"]["bytesIn"],
        "network_sent_bytes_total": status["network"]["bytesOut"],
    }
    return {name: float(value) for name, value in found.items() if value is not None}


_OPERATIONS = ("insert", "query", "update", "delete", "getmore", "command")
