"""Remove what attempts at backups left in the object store, from time to time.

That is little and seldom: whoever gives a backup up removes what it stored, and this is for where
the store refused or nobody was left to do it. What counts as left over is told in
:mod:`trove.services.backup_orphans`. Of several task managers one sweeps, by a lease, which it
holds on to until the next time. One pass lists a page and removes a bounded number of objects; a
task manager that ends in the middle has another begin anew.
"""

from __future__ import annotations

import datetime
import uuid

from oslo_log import log

from trove.common import concurrency
from trove.db import base, counters, leases
from trove.services import backup_orphans
from trove.storage import base as storage
from trove.taskmanager.operations import engine

LOG = log.getLogger(__name__)

#: What is removed is counted.
REMOVED = counters.Key("trove_backup_orphans_removed_total")
#: Objects are left alone that were changed within this time.
AGE = datetime.timedelta(days=2)
_LEASE = "storage-sweep"
_LEASE_S = 600.0
#: Objects listed and removed in one pass.
_LISTED = 1000
_REMOVED = 200
#: Before a process that does not sweep asks again whether it is to.
_ASK_S = 300.0


class StorageSweep:
    """One pass is ``run``."""

    def __init__(self, tools: engine.Tools) -> None:
        """Take the tools."""
        self._database = tools.database
        self._clock = tools.clock
        self._watch = concurrency.ClockWatch(tools.clock)
        self._interval_s = 3600.0 * tools.conf.backup.sweep_interval_hours
        self._has_store = tools.store is not None
        self._orphans = backup_orphans.BackupOrphans(
            database=tools.database, store=tools.store, clock=tools.clock
        )
        self._owner = str(uuid.uuid4())
        #: Accounts and containers that are still to be swept, and where in the first of them.
        self._places: list[tuple[str, str]] | None = None
        self._marker = ""
        self._removed = 0
        self._rest_until = tools.clock.monotonic()

    def run(self) -> None:
        """Sweep a page, if it is time to and nobody else does; not while the clock is in doubt."""
        if not self._interval_s or not self._has_store:
            return
        if self._clock.monotonic() < self._rest_until or not self._watch.is_settled():
            return
        if not self._hold(_LEASE_S):
            self._places = None
            self._rest_until = self._clock.monotonic() + _ASK_S
            return
        if self._places is None:
            self._places, self._marker, self._removed = list(self._orphans.list_places()), "", 0
        if self._places:
            self._sweep(self._places)
        if not self._places:
            self._end()

    def _sweep(self, places: list[tuple[str, str]]) -> None:
        account_id, container = places[0]
        try:
            swept = self._orphans.sweep(
                account_id,
                container,
                self._marker,
                age=AGE,
                most_listed=_LISTED,
                most_removed=_REMOVED,
            )
        except storage.StorageError as e:
            LOG.warning("container %s is not swept now: %s", container, e.message)
            swept = backup_orphans.Swept(marker=None)
        if swept.removed:
            self._removed += swept.removed
            self._count(swept.removed)
        if swept.marker is None:
            del places[0]
        self._marker = swept.marker or ""

    def _end(self) -> None:
        """Rest until the next time; nobody else begins before."""
        self._hold(self._interval_s)
        self._rest_until = self._clock.monotonic() + self._interval_s
        self._places = None
        if self._removed:
            LOG.warning("removed %d objects in all that no backup has", self._removed)

    @base.retry_on_conflict
    def _hold(self, lease_s: float) -> bool:
        with self._database.writer() as session:
            return leases.take(
                session,
                _LEASE,
                owner=self._owner,
                now=self._clock.now(),
                lease_s=lease_s,
                longest_s=max(_LEASE_S, self._interval_s),
            )

    @base.retry_on_conflict
    def _count(self, removed: int) -> None:
        with self._database.writer() as session:
            counters.add(session, {REMOVED: removed})
