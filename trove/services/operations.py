"""Operations as their project sees them: what was done, and how far is what is being done."""

from __future__ import annotations

import dataclasses
import datetime
import statistics
import threading
from collections.abc import Sequence
from typing import Any

from trove.common import concurrency, context, exception
from trove.db import base, operation_kinds, operation_views, operations
from trove.services.changes import find_in_reach

#: Seconds for which the usual duration of a kind is remembered.
_DURATION_AGE_S = 30.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far an operation is; step ``step_number`` of ``step_count``, None when not known.

    ``message`` says what holds it up, None when nothing does.
    """

    operation_id: str
    operation: str
    step: str
    step_number: int | None
    step_count: int | None
    percent: int
    since: datetime.datetime
    estimated_end: datetime.datetime | None
    message: str | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Journal:
    """An operation with what it did, oldest first."""

    operation: operation_views.OperationView
    entries: Sequence[operations.JournalEntry]


class Operations:
    """Use cases of operations."""

    def __init__(self, *, database: base.Database, clock: concurrency.Clock) -> None:
        """Take the collaborators."""
        self._database = database
        self._clock = clock
        self._lock = threading.Lock()
        #: Kind -> (monotonic time it was read, usual seconds).
        self._durations: dict[str, tuple[float, float | None]] = {}

    def list_page(
        self, caller: context.RequestContext, instance_id: str, *, limit: int, marker: str | None
    ) -> tuple[Sequence[operation_views.OperationView], str | None]:
        """Return operations of an instance, newest first, and the marker of the next page.

        Raises InstanceNotFound, and BadRequest for a marker that is no operation of it.
        """
        hidden = () if caller.is_admin else _INTERNAL
        with self._database.reader() as session:
            find_in_reach(session, caller, instance_id)
            after = None
            if marker is not None:
                after = operation_views.find(session, marker, resource_id=instance_id)
                if after is None:
                    raise exception.BadRequest(reason="marker is no operation of the instance")
            page, more = operation_views.list_page(
                session, instance_id, limit=limit, after=after, hidden=hidden
            )
        return page, page[-1].id if more and page else None

    def get(self, caller: context.RequestContext, instance_id: str, operation_id: str) -> Journal:
        """Return an operation of an instance; raises InstanceNotFound, OperationNotFound."""
        with self._database.reader() as session:
            find_in_reach(session, caller, instance_id)
            operation = operation_views.find(session, operation_id, resource_id=instance_id)
            if operation is None or (operation.kind in _INTERNAL and not caller.is_admin):
                raise exception.OperationNotFound(operation_id=operation_id)
            entries = operations.list_journal(session, operation_id)
        return Journal(operation=operation, entries=entries)

    def find_progress(self, instance_id: str) -> Progress | None:
        """Return how far the operation on an instance is, or None when there is none."""
        locks = [operations.delete_lock(instance_id), operations.instance_lock(instance_id)]
        with self._database.reader() as session:
            active = operation_views.find_active(session, locks)
            if active is None or operation_kinds.of(active.kind).is_internal:
                return None
            usual_s = self._usual_duration_s(session, active.kind)
        return progress_of(active, usual_s=usual_s, now=self._clock.now())

    def _usual_duration_s(self, session: Any, kind: str) -> float | None:
        now = self._clock.monotonic()
        with self._lock:
            read, usual_s = self._durations.get(kind, (None, None))
        if read is not None and now - read < _DURATION_AGE_S:
            return usual_s
        durations = operation_views.list_durations(session, kind)
        usual_s = statistics.median(durations) if durations else None
        with self._lock:
            self._durations[kind] = (now, usual_s)
        return usual_s


_INTERNAL = tuple(name for name, kind in operation_kinds.KINDS.items() if kind.is_internal)


def progress_of(
    active: operation_views.ActiveOperation, *, usual_s: float | None, now: datetime.datetime
) -> Progress:
    """Return how far an operation is.

    Of the current step counts what the agent says of its job. The end is estimated from how long
    such operations usually take; when that is over or unknown, from how long this far has taken.
    """
    kind = operation_kinds.of(active.kind)
    number = count = None
    percent = active.progress
    if active.step in kind.steps:
        number, count = kind.steps.index(active.step) + 1, len(kind.steps)
        if active.job_percent is not None:
            percent = max(percent, (100 * (number - 1) + active.job_percent) // count)
    percent = min(percent, 99)
    return Progress(
        operation_id=active.id,
        operation=kind.word,
        step=active.step,
        step_number=number,
        step_count=count,
        percent=percent,
        since=active.created,
        estimated_end=_estimate(active.created, usual_s=usual_s, percent=percent, now=now),
        message=None if active.error is None else f"Tried again until it passes: {active.error}",
    )


def _estimate(
    since: datetime.datetime, *, usual_s: float | None, percent: int, now: datetime.datetime
) -> datetime.datetime | None:
    spent_s = (now - since).total_seconds()
    if usual_s is not None and usual_s > spent_s:
        return since + datetime.timedelta(seconds=usual_s)
    if percent > 0 and spent_s > 0:
        return since + datetime.timedelta(seconds=spent_s * 100 / percent)
    return None
