"""Send the notifications that wait in the database, in order and each at least once.

Of several task managers one sends at a time: see :mod:`trove.db.notifications`. What could not be
sent stays first in the row and is tried again with the next run.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from trove.db import base, notifications
from trove.rpc import notifier
from trove.taskmanager.operations import engine

#: Longer than sending a batch may take.
_LEASE_S = 60.0
_BATCH = 100


class Outbox:
    """One pass is ``run``."""

    def __init__(self, tools: engine.Tools, api: notifier.NotifierApi) -> None:
        """Take the tools and who sends."""
        self._database = tools.database
        self._clock = tools.clock
        self._notifier = api
        self._owner = str(uuid.uuid4())

    def run(self) -> None:
        """Send all that waits; raises MessagingUnavailable when the broker takes no more."""
        while self._has_work():
            batch = self._claim()
            if not batch:
                return
            sent: list[int] = []
            try:
                for row in batch:
                    self._send(row)
                    sent.append(row.id)
            finally:
                self._settle(sent)

    def _has_work(self) -> bool:
        with self._database.reader() as session:
            return notifications.has_any(session)

    def _send(self, row: notifications.Notification) -> None:
        self._notifier.send(
            notifier.Message(
                message_id=row.message_id,
                event_type=row.event_type,
                priority=row.priority,
                payload=row.payload,
                created=row.created,
            )
        )

    @base.retry_on_conflict
    def _claim(self) -> Sequence[notifications.Notification]:
        with self._database.writer() as session:
            return notifications.claim(
                session,
                owner=self._owner,
                now=self._clock.now(),
                lease_s=_LEASE_S,
                limit=_BATCH,
            )

    @base.retry_on_conflict
    def _settle(self, sent: Sequence[int]) -> None:
        """Forget what was sent and let anybody send the rest."""
        with self._database.writer() as session:
            notifications.remove(session, sent)
            notifications.release(session, owner=self._owner)
