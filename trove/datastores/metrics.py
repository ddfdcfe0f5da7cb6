"""What the figures of a running engine are called, whatever the engine.

Agents send them in heartbeats by these names; an engine sends those that it has. Names and units
follow https://prometheus.io/docs/practices/naming/: bytes, seconds, counters end in ``_total``.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping


class Kind(enum.StrEnum):
    """How a figure moves: a counter only grows until the engine starts again."""

    COUNTER = "counter"
    GAUGE = "gauge"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One figure."""

    name: str
    kind: Kind
    help: str


def _table(*metrics: Metric) -> Mapping[str, Metric]:
    return {metric.name: metric for metric in metrics}


def _gauge(name: str, text: str) -> Metric:
    return Metric(name=name, kind=Kind.GAUGE, help=text)


def _counter(name: str, text: str) -> Metric:
    return Metric(name=name, kind=Kind.COUNTER, help=text)


#: All figures that an agent may send; others are dropped.
METRICS: Mapping[str, Metric] = _table(
    _gauge("uptime_seconds", "Time since the engine started."),
    _gauge("connections", "Connections of clients."),
    _gauge("connections_max", "Most connections that the engine takes."),
    _gauge("connections_active", "Connections that are doing something."),
    _counter("connections_refused_total", "Connections that were refused or failed."),
    _counter("transactions_total", "Transactions that ended, committed or not."),
    _counter("transactions_rolled_back_total", "Transactions that were rolled back."),
    _counter("commands_total", "Statements or commands that clients sent."),
    _counter("slow_commands_total", "Statements that took longer than the engine's limit."),
    _counter("deadlocks_total", "Deadlocks that the engine broke."),
    _counter("rows_read_total", "Rows, documents or keys that were read."),
    _counter("rows_written_total", "Rows, documents or keys that were written or deleted."),
    _counter("cache_hits_total", "Reads that the engine's cache answered, or keys that existed."),
    _counter("cache_misses_total", "Reads that went to the disk, or keys that did not exist."),
    _gauge("memory_used_bytes", "Memory that the engine says it uses."),
    _gauge("memory_max_bytes", "Most memory that the engine may use for data."),
    _gauge("data_bytes", "Size of the data as the engine counts it."),
    _counter("evicted_total", "Keys that were evicted for lack of memory."),
    _counter("network_received_bytes_total", "Bytes from clients."),
    _counter("network_sent_bytes_total", "Bytes to clients."),
    _gauge("replication_lag_seconds", "How far a replica is behind; absent on a primary."),
    _gauge("replicas", "Replicas that are connected."),
)
