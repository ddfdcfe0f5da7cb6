"""Forget operations that ended long ago, with their journals and jobs.

The last ones of each live instance are kept. All ended operations are walked through in small
pieces, in an order that an index gives.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Collection, Sequence
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy import orm

from trove import states
from trove.db import models

#: Operations of a live instance that are kept however old they are.
KEPT = 20

_operations = cast(sa.Table, models.Operation.__table__)
_instances = cast(sa.Table, models.Instance.__table__)
_ENDED = tuple(state for state in states.OperationState if not state.is_active)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """How far the walk is: which state, and the last operation looked at."""

    state: int = 0
    wake_at: datetime.datetime | None = None
    operation_id: str = ""


FIRST = Mark()


def prune(
    session: orm.Session, mark: Mark, *, before: datetime.datetime, limit: int
) -> Mark | None:
    """Look at up to ``limit`` operations and forget those that ended before a time.

    Returns where to go on, None at the end.
    """
    found = _page(session, mark, before=before, limit=limit)
    old = {row.id: row.resource_id for row in found if row.updated < before}
    if old:
        kept = _list_kept(session, set(old.values()))
        _remove(session, sorted(old.keys() - kept))
    if len(found) == limit:
        last = found[-1]
        return Mark(state=mark.state, wake_at=last.wake_at, operation_id=last.id)
    return Mark(state=mark.state + 1) if mark.state + 1 < len(_ENDED) else None


def _page(
    session: orm.Session, mark: Mark, *, before: datetime.datetime, limit: int
) -> Sequence[Any]:
    columns = _operations.c
    # nobody wakes what has ended: it was due for the last time before its end
    query = sa.select(columns.id, columns.resource_id, columns.wake_at, columns.updated).where(
        columns.state == _ENDED[mark.state], columns.wake_at < before
    )
    if mark.wake_at is not None:
        query = query.where(
            sa.or_(
                columns.wake_at > mark.wake_at,
                sa.and_(columns.wake_at == mark.wake_at, columns.id > mark.operation_id),
            )
        )
    return session.execute(query.order_by(columns.wake_at, columns.id).limit(limit)).all()


def _list_kept(session: orm.Session, resource_ids: Collection[str]) -> set[str]:
    """Return the last operations of those resources that are live instances."""
    columns = _operations.c
    live = sa.select(_instances.c.id).where(
        _instances.c.id.in_(sorted(resource_ids)), _instances.c.is_deleted == sa.false()
    )
    ranked = (
        sa.select(
            columns.id,
            sa.func.row_number()
            .over(
                partition_by=columns.resource_id,
                order_by=(columns.created.desc(), columns.id.desc()),
            )
            .label("rank"),
        )
        .where(columns.resource_id.in_(live))
        .subquery()
    )
    return set(session.scalars(sa.select(ranked.c.id).where(ranked.c.rank <= KEPT)))


def _remove(session: orm.Session, operation_ids: Sequence[str]) -> None:
    if not operation_ids:
        return
    for model in (models.OperationStep, models.GuestJob):
        session.execute(
            sa.delete(model)
            .where(model.operation_id.in_(operation_ids))
            .execution_options(synchronize_session=False)
        )
    session.execute(sa.delete(_operations).where(_operations.c.id.in_(operation_ids)))
