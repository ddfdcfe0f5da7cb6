"""What has to be done from time to time: old events, operations and logs go, instances are told of.

Several task managers may do so at the same time: what one has removed the other does not find, and
the operation that tells of instances has an id made from its hour.
"""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Callable, Iterable

from oslo_context import context
from oslo_log import log

from trove.common import exception
from trove.db import base, events, notifications, operation_pruning, operations
from trove.taskmanager import archive_keeping, proof_watch, rounds
from trove.taskmanager.operations import engine

LOG = log.getLogger(__name__)

#: Rows removed in one transaction, and transactions in one run.
_BATCH = 500
_MOST_BATCHES = 20
#: Seconds between looks at all ended operations.
_OPERATIONS_REST_S = 3600.0
_NAMESPACE = uuid.UUID("0b0d6c8e-5b7c-4a55-8a3c-0a2a7a6f3f10")


class Housekeeping:
    """One pass is ``run``."""

    def __init__(self, tools: engine.Tools, *, hint: Callable[[Iterable[str]], None]) -> None:
        """Take the tools, and who is told of new operations."""
        self._conf = tools.conf
        self._database = tools.database
        self._clock = tools.clock
        self._hint = hint
        self._proofs = proof_watch.ProofWatch(tools)
        self._archives = archive_keeping.ArchiveKeeping(tools, hint=hint)
        self._audited: datetime.datetime | None = None
        #: The look for old operations.
        self._round = rounds.Round(
            tools.clock, first=operation_pruning.FIRST, rest_s=_OPERATIONS_REST_S
        )

    def run(self) -> None:
        """Do what is due."""
        self._prune_events()
        self._prune_operations()
        self._archives.run()
        self._proofs.run()
        if self._database.notifies:
            self._bound_notifications()
            self._audit()

    def _prune_events(self) -> None:
        before = self._clock.now() - datetime.timedelta(days=self._conf.events.retention_days)
        with self._database.reader() as session:
            if not events.has_older(session, before=before):
                return
        for _ in range(_MOST_BATCHES):
            if self._prune_batch(before) < _BATCH:
                return

    @base.retry_on_conflict
    def _prune_batch(self, before: datetime.datetime) -> int:
        with self._database.writer() as session:
            return events.prune(session, before=before, limit=_BATCH)

    def _prune_operations(self) -> None:
        """Forget a batch of old operations; when all were looked at, rest."""
        mark = self._round.find_mark()
        if mark is None:
            return
        days = self._conf.taskmanager.operations_retention_days
        before = self._clock.now() - datetime.timedelta(days=days)
        self._round.go_on(self._prune_operations_batch(mark, before))

    @base.retry_on_conflict
    def _prune_operations_batch(
        self, mark: operation_pruning.Mark, before: datetime.datetime
    ) -> operation_pruning.Mark | None:
        with self._database.writer() as session:
            return operation_pruning.prune(session, mark, before=before, limit=_BATCH)

    # -- notifications -----

    def _bound_notifications(self) -> None:
        most = self._conf.notifications.max_waiting
        with self._database.reader() as session:
            if notifications.count(session) <= most:
                return
        for _ in range(_MOST_BATCHES):
            dropped = self._drop_batch(most)
            if dropped:
                LOG.error(
                    "%d notifications dropped: more than [notifications] max_waiting wait for the"
                    " message broker",
                    dropped,
                )
            if dropped < _BATCH:
                return

    @base.retry_on_conflict
    def _drop_batch(self, most: int) -> int:
        with self._database.writer() as session:
            return notifications.drop_oldest(session, keep=most, limit=_BATCH)

    def _audit(self) -> None:
        """Begin to tell of all instances once an interval, by whoever comes first."""
        interval_s = self._conf.notifications.exists_interval_s
        if not interval_s:
            return
        now = self._clock.now()
        ending = datetime.datetime.fromtimestamp(
            now.timestamp() // interval_s * interval_s, datetime.UTC
        )
        if ending == self._audited:
            return
        operation_id = str(uuid.uuid5(_NAMESPACE, ending.isoformat()))
        if self._begin_audit(operation_id, ending, datetime.timedelta(seconds=interval_s), now):
            self._hint([operation_id])
        self._audited = ending

    @base.retry_on_conflict
    def _begin_audit(
        self,
        operation_id: str,
        ending: datetime.datetime,
        interval: datetime.timedelta,
        now: datetime.datetime,
    ) -> bool:
        with self._database.writer() as session:
            try:
                operations.create(
                    session,
                    operation_id=operation_id,
                    kind=operations.AUDIT,
                    resource_id=operation_id,
                    lock_key=None,
                    deadline=now + interval,
                    now=now,
                    data={
                        "beginning": (ending - interval).isoformat(),
                        "ending": ending.isoformat(),
                    },
                    request_id=context.generate_request_id(),
                    project_id="",
                )
            except exception.Conflict:
                return False
        return True
