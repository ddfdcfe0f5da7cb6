"""What the API reads of operations."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import sqlalchemy as sa
from sqlalchemy import orm

from trove import states
from trove.db import models

_operations = cast(sa.Table, models.Operation.__table__)
_jobs = cast(sa.Table, models.GuestJob.__table__)
_heartbeats = cast(sa.Table, models.InstanceHeartbeat.__table__)

#: Successes that an estimate is made from.
_SAMPLE = 20


class OperationView(NamedTuple):
    """An operation as clients may see it."""

    id: str
    kind: str
    resource_id: str
    state: states.OperationState
    step: str
    error: str | None
    request_id: str | None
    user_id: str | None
    progress: int
    created: datetime.datetime
    updated: datetime.datetime


class ActiveOperation(NamedTuple):
    """The operation under way on an instance.

    ``error`` is that of the last try, if the current step has to be tried again; ``job_percent``
    is how far the agent says it is with its part, None when it has none.
    """

    id: str
    kind: str
    state: states.OperationState
    step: str
    progress: int
    created: datetime.datetime
    error: str | None
    job_percent: int | None


_VIEW = sa.select(*(_operations.c[name] for name in OperationView._fields))

_ACTIVE = (
    sa.select(
        *(_operations.c[name] for name in ActiveOperation._fields[:-2]),
        sa.case((_operations.c.attempts > 0, _operations.c.error)).label("error"),
        sa.case((_jobs.c.id.is_not(None), _heartbeats.c.job_progress_percent)).label("job_percent"),
    )
    .select_from(_operations)
    .outerjoin(_heartbeats, _heartbeats.c.instance_id == _operations.c.resource_id)
    .outerjoin(
        _jobs,
        sa.and_(
            _jobs.c.id == _heartbeats.c.job_id,
            _jobs.c.operation_id == _operations.c.id,
            _jobs.c.succeeded.is_(None),
        ),
    )
    .where(_operations.c.lock_key.in_(sa.bindparam("lock_keys", expanding=True)))
    # a deletion is what people want to know of, though another operation has not ended yet
    .order_by(_operations.c.lock_key)
    .limit(1)
)


def find_active(session: orm.Session, lock_keys: Sequence[str]) -> ActiveOperation | None:
    """Return the operation that holds the first of these locks, or None."""
    row = session.execute(_ACTIVE, {"lock_keys": list(lock_keys)}).first()
    return None if row is None else ActiveOperation._make(row)


def list_durations(session: orm.Session, kind: str) -> Sequence[float]:
    """Return how many seconds the last successes of a kind took."""
    rows = session.execute(
        sa.select(_operations.c.created, _operations.c.updated)
        .where(
            _operations.c.kind == kind,
            _operations.c.state == states.OperationState.SUCCEEDED,
        )
        .order_by(_operations.c.created.desc())
        .limit(_SAMPLE)
    )
    return [(row.updated - row.created).total_seconds() for row in rows]


def find(session: orm.Session, operation_id: str, *, resource_id: str) -> OperationView | None:
    """Return an operation of a resource, or None."""
    row = session.execute(
        _VIEW.where(_operations.c.id == operation_id, _operations.c.resource_id == resource_id)
    ).first()
    return None if row is None else OperationView._make(row)


def list_page(
    session: orm.Session,
    resource_id: str,
    *,
    limit: int,
    after: OperationView | None,
    hidden: Sequence[str] = (),
) -> tuple[Sequence[OperationView], bool]:
    """Return up to ``limit`` operations, newest first, behind ``after``, and whether more are.

    Those of ``hidden`` kinds are left out.
    """
    order: tuple[Any, ...] = (_operations.c.created.desc(), _operations.c.id.desc())
    query = _VIEW.where(_operations.c.resource_id == resource_id)
    if hidden:
        query = query.where(_operations.c.kind.not_in(list(hidden)))
    if after is not None:
        query = query.where(
            sa.or_(
                _operations.c.created < after.created,
                sa.and_(_operations.c.created == after.created, _operations.c.id < after.id),
            )
        )
    rows = session.execute(query.order_by(*order).limit(limit + 1)).all()
    return [OperationView._make(row) for row in rows[:limit]], len(rows) > limit
