"""What this process counted, brought to the counters that all processes share."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from oslo_db import exception as db_exception
from oslo_log import log

from trove.common import concurrency
from trove.db import base, counters

LOG = log.getLogger(__name__)

#: Seconds between additions.
_INTERVAL_S = 5.0


class Counting:
    """Adds the growth of this process's counts to the shared counters."""

    def __init__(
        self, database: base.Database, count: Callable[[], Mapping[counters.Key, int]]
    ) -> None:
        """Take where to add, and what returns all counts since the start of the process."""
        self._database = database
        self._count = count
        self._added: Mapping[counters.Key, int] = {}
        self._thread = concurrency.PeriodicThread("counters", self.flush, interval_s=_INTERVAL_S)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Add what is left, if the database lets us, and end."""
        self._thread.stop()
        try:
            self.flush()
        except db_exception.DBError as e:
            LOG.warning("counts lost at the end: %s", type(e).__name__)

    def flush(self) -> None:
        """Add what was counted since the last time; raises oslo.db's errors: nothing is lost."""
        counted = dict(self._count())
        grown = {
            key: value - self._added.get(key, 0)
            for key, value in counted.items()
            if value > self._added.get(key, 0)
        }
        if grown:
            self._write(grown)
        self._added = counted

    @base.retry_on_conflict
    def _write(self, grown: Mapping[counters.Key, int]) -> None:
        with self._database.writer() as session:
            counters.add(session, grown)
