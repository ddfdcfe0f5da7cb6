"""Figures of all instances and of the service, as Prometheus reads them.

Everything is read from SQL, so that every process answers the same. In the text format the samples
of a metric stand together, while instances are read one after the other: each metric has a stream
of its own that is compressed as it grows, and the streams one behind the other are the document
(RFC 1952 lets a file have several members). What is in memory is the compressed document, some
700 bytes an instance.
"""

from __future__ import annotations

import collections
import datetime
import json
import threading
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

import prometheus_client
from prometheus_client import core, registry

from trove import states
from trove.common import concurrency
from trove.datastores import metrics
from trove.db import backups, base, counters, figures, notifications

CONTENT_TYPE = prometheus_client.exposition.CONTENT_TYPE_PLAIN_0_0_4

PREFIX = "trove_instance_"
_LABELS = ("project", "instance", "datastore")
_GZIP = 16 + zlib.MAX_WBITS
_FASTEST = 1
_PIECE_BYTES = 256 * 1024

_UP = metrics.Metric(
    name="up",
    kind=metrics.Kind.GAUGE,
    help="1 when the database answers and its agent was heard of lately.",
)
_HEARD = metrics.Metric(
    name="heartbeat_timestamp_seconds",
    kind=metrics.Kind.GAUGE,
    help="When the agent was last heard of.",
)
_DISK_USED = metrics.Metric(
    name="disk_used_bytes", kind=metrics.Kind.GAUGE, help="What is used of the data volume."
)
_DISK_TOTAL = metrics.Metric(
    name="disk_total_bytes", kind=metrics.Kind.GAUGE, help="Size of the data volume."
)
_ARCHIVE_LAG = metrics.Metric(
    name="archive_lag_seconds",
    kind=metrics.Kind.GAUGE,
    help="For how long what is written is on the data volume alone.",
)
_PER_INSTANCE = (
    _UP,
    _HEARD,
    _DISK_USED,
    _DISK_TOTAL,
    _ARCHIVE_LAG,
    *metrics.METRICS.values(),
)

#: Counters of the service: name -> (name of the label or None, help).
_COUNTERS: Mapping[str, tuple[str | None, str]] = {
    "trove_heartbeats_stored_total": (None, "Heartbeats of agents that were stored."),
    "trove_guest_messages_dropped_total": (
        "reason",
        "Messages of agents, or parts of them, that were dropped.",
    ),
    "trove_backup_orphans_removed_total": (
        None,
        "Objects that were removed because no backup has them.",
    ),
}
#: What a conductor counts, as it is added up in SQL.
STORED = counters.Key("trove_heartbeats_stored_total")
DROPPED = "trove_guest_messages_dropped_total"


class _Collected(registry.Collector):
    """Families that are there already."""

    def __init__(self, families: Iterable[core.Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[core.Metric]:
        return self._families


def _text(*families: core.Metric) -> bytes:
    return prometheus_client.generate_latest(_Collected(families))


def _family(metric: metrics.Metric) -> core.Metric:
    # the library puts the end of a counter's name to its samples itself
    if metric.kind is metrics.Kind.COUNTER:
        name = (PREFIX + metric.name).removesuffix("_total")
        return core.CounterMetricFamily(name, metric.help, labels=_LABELS)
    return core.GaugeMetricFamily(PREFIX + metric.name, metric.help, labels=_LABELS)


class _Stream:
    """Compressed text that grows."""

    def __init__(self) -> None:
        self._compressor = zlib.compressobj(_FASTEST, zlib.DEFLATED, _GZIP)
        self._pieces: list[bytes] = []

    def write(self, text: bytes) -> None:
        piece = self._compressor.compress(text)
        if piece:
            self._pieces.append(piece)

    def close(self) -> bytes:
        return b"".join([*self._pieces, self._compressor.flush()])


def _label_texts(page: Sequence[figures.InstanceFigures]) -> list[str]:
    """Return the labels of each instance as they stand in a sample, quoted by the library."""
    family = core.GaugeMetricFamily("x", "x", labels=_LABELS)
    for row in page:
        family.add_metric((row.project_id, row.id, row.datastore), 0)
    lines = _text(family).decode().split("\n")
    samples = [line for line in lines if line.startswith("x{")]
    return [line[1 : line.rindex(" ")] for line in samples]


def _samples(
    row: figures.InstanceFigures, *, now: datetime.datetime, expiry: datetime.timedelta
) -> Iterator[tuple[str, float]]:
    """Yield the figures of an instance by name; of one that is silent only what it is not."""
    is_heard = row.boot > 0 and now - row.received <= expiry
    yield _UP.name, float(is_heard and row.service_status is states.ServiceStatus.HEALTHY)
    if row.boot:
        yield _HEARD.name, row.received.timestamp()
    if row.archive_as_of is not None:
        # also of one that is silent: nobody archives then
        yield _ARCHIVE_LAG.name, max(0.0, (now - row.archive_as_of).total_seconds())
    if not is_heard:
        return
    if row.disk_used_bytes is not None:
        yield _DISK_USED.name, float(row.disk_used_bytes)
    if row.disk_total_bytes is not None:
        yield _DISK_TOTAL.name, float(row.disk_total_bytes)
    if row.metrics is not None:
        for name, value in json.loads(row.metrics).items():
            # another release may have stored it
            if name in metrics.METRICS:
                yield name, float(value)


def render(
    database: base.Database,
    *,
    now: datetime.datetime,
    expiry: datetime.timedelta,
    proof_age: datetime.timedelta | None = None,
) -> bytes:
    """Return the document, compressed by gzip.

    Agents that were silent for longer than ``expiry`` count as gone, proofs that are older than
    ``proof_age`` as none.
    """
    streams: dict[str, _Stream] = {}
    statuses: collections.Counter[tuple[str, str]] = collections.Counter()
    for page in figures.iterate_pages(database):
        lines: dict[str, list[str]] = collections.defaultdict(list)
        for row, labels in zip(page, _label_texts(page), strict=True):
            statuses[row.datastore, row.service_status.value] += 1
            for name, value in _samples(row, now=now, expiry=expiry):
                lines[name].append(f"{PREFIX}{name}{labels} {value!r}\n")
        for name, samples in lines.items():
            if name not in streams:
                streams[name] = _Stream()
                streams[name].write(_text(_family(_METRICS[name])))
            streams[name].write("".join(samples).encode())
    service = _Stream()
    service.write(_text(*_service_families(database, statuses, now=now, proof_age=proof_age)))
    ordered = [streams[metric.name] for metric in _PER_INSTANCE if metric.name in streams]
    return b"".join(stream.close() for stream in [*ordered, service])


_METRICS = {metric.name: metric for metric in _PER_INSTANCE}


def _service_families(
    database: base.Database,
    statuses: Mapping[tuple[str, str], int],
    *,
    now: datetime.datetime,
    proof_age: datetime.timedelta | None,
) -> Iterator[core.Metric]:
    """Yield what there is to tell of the service itself."""
    with database.reader() as session:
        operations = figures.count_operations(session)
        backlog = figures.find_backlog(session, now=now)
        waiting = notifications.count(session)
        counted = dict(counters.read(session))
        verifications = backups.count_verifications(session)
        unproven = 0
        if proof_age is not None:
            unproven = len(backups.list_unproven(session, since=now - proof_age))
    instances = core.GaugeMetricFamily(
        "trove_instances", "Instances by what their agents say.", labels=("datastore", "status")
    )
    for key, count in sorted(statuses.items()):
        instances.add_metric(key, count)
    yield instances
    family = core.GaugeMetricFamily(
        "trove_operations", "Operations that are remembered, by state.", labels=("state",)
    )
    for state, count in operations.items():
        family.add_metric((state.value,), count)
    yield family
    yield core.GaugeMetricFamily(
        "trove_operations_due",
        "Operations that a task manager should be working on and none is.",
        value=backlog.operations,
    )
    yield core.GaugeMetricFamily(
        "trove_operations_due_seconds",
        "How long the oldest of them has been due.",
        value=(now - backlog.since).total_seconds() if backlog.since is not None else 0.0,
    )
    yield core.GaugeMetricFamily(
        "trove_notifications_waiting",
        "Notifications that the message broker has not taken yet.",
        value=waiting,
    )
    family = core.GaugeMetricFamily(
        "trove_backups", "Backups that can be restored, by their last proof.", labels=("proof",)
    )
    for verification, count in verifications.items():
        family.add_metric(("none" if verification is None else verification.value,), count)
    yield family
    yield core.GaugeMetricFamily(
        "trove_instances_unproven",
        "Instances with backups, none of which has been proven for long.",
        value=unproven,
    )
    for name, (label, text) in _COUNTERS.items():
        labels = () if label is None else (label,)
        counter = core.CounterMetricFamily(name.removesuffix("_total"), text, labels=labels)
        values = {key.label: value for key, value in counted.items() if key.name == name}
        if label is None:
            counter.add_metric((), values.get("", 0))
        else:
            for each, value in values.items():
                counter.add_metric((each,), value)
        yield counter


def decompress(document: bytes) -> Iterator[bytes]:
    """Yield the text of a document piece by piece."""
    member = zlib.decompressobj(_GZIP)
    position, left = 0, b""
    while left or position < len(document):
        if not left:
            left = document[position : position + _PIECE_BYTES]
            position += len(left)
        piece = member.decompress(left, _PIECE_BYTES)
        if piece:
            yield piece
        if member.eof:
            left, member = member.unused_data, zlib.decompressobj(_GZIP)
        else:
            left = member.unconsumed_tail
    while piece := member.decompress(b"", _PIECE_BYTES):
        yield piece


class Exposition:
    """The document, read anew when it is older than the scrapers' interval."""

    def __init__(
        self,
        database: base.Database,
        *,
        clock: concurrency.Clock,
        expiry: datetime.timedelta,
        cache_s: float,
        proof_age: datetime.timedelta | None = None,
    ) -> None:
        """Take where to read, when agents and proofs count as gone, and how long an answer does."""
        self._database = database
        self._clock = clock
        self._expiry = expiry
        self._cache_s = cache_s
        self._proof_age = proof_age
        self._lock = threading.Lock()
        self._document: bytes | None = None
        self._made_at = 0.0

    def document(self) -> bytes:
        """Return the document, compressed by gzip; whoever comes meanwhile waits for the same."""
        with self._lock:
            now_s = self._clock.monotonic()
            if self._document is None or now_s - self._made_at >= self._cache_s:
                # the old one goes first: two at a time need not fit into memory
                self._document = None
                self._document = render(
                    self._database,
                    now=self._clock.now(),
                    expiry=self._expiry,
                    proof_age=self._proof_age,
                )
                self._made_at = now_s
            return self._document
