"""Heartbeats of all instances, stored together; what they tell of archives of logs with them.

A heartbeat waits at most ``flush_interval_s`` for others. Of one instance only the newest is kept,
so what waits is bounded by the number of instances, also while the database is down: then
everything is tried again at the next flush.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Mapping

from oslo_db import exception as db_exception
from oslo_log import log

from trove.common import concurrency
from trove.db import base, heartbeats, log_archives

LOG = log.getLogger(__name__)


class HeartbeatBatcher:
    """Takes reports from many threads and stores them from one."""

    def __init__(
        self,
        database: base.Database,
        *,
        flush_interval_s: float,
        batch_size: int,
        max_waiting: int = 100_000,
    ) -> None:
        """Take where to store, how long to wait and how many go into a statement."""
        self._database = database
        self._batch_size = batch_size
        self._max_waiting = max_waiting
        self._lock = threading.Lock()
        self._waiting: dict[str, heartbeats.Report] = {}
        #: Of those that wait, what they tell of their archives.
        self._archives: dict[str, log_archives.Report] = {}
        self._stored = 0
        self._dropped = 0
        self._thread = concurrency.PeriodicThread(
            "heartbeats", self.flush, interval_s=flush_interval_s
        )

    def start(self) -> None:
        """Begin to store."""
        self._thread.start()

    def stop(self) -> None:
        """Store what waits, if the database lets us, and end."""
        self._thread.stop()
        try:
            self.flush()
        except db_exception.DBError as e:
            LOG.warning("heartbeats lost at the end: %s", type(e).__name__)

    def put(self, report: heartbeats.Report, archive: log_archives.Report | None = None) -> None:
        """Have a report stored soon, unless a newer one of the instance waits already.

        ``archive`` is what it tells of the instance's archive, if anything.
        """
        with self._lock:
            self._keep_newest(report, archive)
            is_full = len(self._waiting) >= self._batch_size
        if is_full:
            self._thread.poke()

    def flush(self) -> None:
        """Store all that waits now; raises oslo.db's errors: what is left waits for the next flush.

        What comes meanwhile waits for its own turn: chasing it would be a statement for a handful.
        """
        with self._lock:
            left = len(self._waiting)
        while left > 0:
            with self._lock:
                ids = list(itertools.islice(self._waiting, min(left, self._batch_size)))
                batch = {instance_id: self._waiting.pop(instance_id) for instance_id in ids}
                archives = {
                    instance_id: self._archives.pop(instance_id)
                    for instance_id in ids
                    if instance_id in self._archives
                }
            left -= self._batch_size
            try:
                self._store(batch, archives)
            except db_exception.DBError:
                with self._lock:
                    for instance_id, report in batch.items():
                        self._keep_newest(report, archives.get(instance_id))
                raise

    def counters(self) -> dict[str, int]:
        """Return how many reports were stored and dropped."""
        with self._lock:
            return {"stored": self._stored, "dropped": self._dropped}

    def _keep_newest(self, report: heartbeats.Report, archive: log_archives.Report | None) -> None:
        waiting = self._waiting.get(report.instance_id)
        if waiting is None and len(self._waiting) >= self._max_waiting:
            self._dropped += 1
        elif waiting is None or waiting.order < report.order:
            self._waiting[report.instance_id] = report
            if archive is not None:
                self._archives[report.instance_id] = archive

    def _store(
        self,
        batch: Mapping[str, heartbeats.Report],
        archives: Mapping[str, log_archives.Report],
    ) -> None:
        with self._database.writer() as session:
            heartbeats.store(session, batch.values())
            log_archives.store(session, archives.values())
        with self._lock:
            self._stored += len(batch)
