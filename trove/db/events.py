"""The events feed: what happened in a project, numbered without gaps in the order of commits.

An event is appended in the transaction of what it tells of, and gets its number at the end of it,
from the row of its project in ``event_sequences``. That row stays locked until the commit, so
whoever sees an event sees all events of the project with smaller numbers: a reader that goes on
from the last number it saw misses none. Since the rows are taken last, and in order of project,
nobody who holds one waits for anything else.
"""

from __future__ import annotations

import collections
import dataclasses
import datetime
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.dialects import mysql, sqlite

from trove.db import models

_PENDING = "trove.events"

_events = cast(sa.Table, models.Event.__table__)
_sequences = cast(sa.Table, models.EventSequence.__table__)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class NewEvent:
    """An event before it has its number. ``payload`` holds plain values, never a secret."""

    project_id: str
    type: str
    resource_type: str
    resource_id: str
    payload: Mapping[str, Any]
    request_id: str | None
    user_id: str | None
    created: datetime.datetime


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """An event as it was read."""

    sequence: int
    project_id: str
    type: str
    resource_type: str
    resource_id: str
    payload: Mapping[str, Any]
    request_id: str | None
    user_id: str | None
    created: datetime.datetime


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which events of a project; ``type_prefix`` ends at a dot or at the end of a type."""

    resource_id: str | None = None
    type_prefix: str | None = None
    since: datetime.datetime | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Events in order, oldest first, and where to go on.

    ``has_gap``: events behind the place that was asked for are not kept any more.
    """

    events: Sequence[Event]
    next_sequence: int
    has_more: bool
    has_gap: bool


def append(
    session: orm.Session,
    project_id: str,
    *,
    type: str,  # noqa: A002 - the column's name
    resource_id: str,
    now: datetime.datetime,
    resource_type: str = "instance",
    payload: Mapping[str, Any] | None = None,
    request_id: str | None = None,
    user_id: str | None = None,
) -> None:
    """Add an event to the transaction of a writer; it is gone with it, too.

    Call it outside of savepoints that may be rolled back alone.
    """
    pending: list[NewEvent] = session.info.setdefault(_PENDING, [])
    pending.append(
        NewEvent(
            project_id=project_id,
            type=type,
            resource_type=resource_type,
            resource_id=resource_id,
            payload=dict(payload or {}),
            request_id=request_id,
            user_id=user_id,
            created=now,
        )
    )


def is_told(
    session: orm.Session,
    resource_id: str,
    *,
    type: str,  # noqa: A002 - the column's name
    since: datetime.datetime,
) -> bool:
    """Tell whether an event of a type and resource was written since then."""
    query = sa.select(_events.c.sequence).where(
        _events.c.resource_id == resource_id, _events.c.type == type, _events.c.created >= since
    )
    return session.scalar(query.limit(1)) is not None


def write_pending(session: orm.Session) -> None:
    """Number and store what was appended; the last statements of a transaction."""
    pending: list[NewEvent] = session.info.pop(_PENDING, [])
    if not pending:
        return
    session.flush()
    numbers = _take_numbers(session, collections.Counter(event.project_id for event in pending))
    session.execute(
        sa.insert(_events),
        [
            {
                "sequence": next(numbers[event.project_id]),
                **{field.name: getattr(event, field.name) for field in _NEW_FIELDS},
            }
            for event in pending
        ],
    )


_NEW_FIELDS = dataclasses.fields(NewEvent)
_READ_COLUMNS = tuple(_events.c[field.name] for field in dataclasses.fields(Event))


def _take_numbers(session: orm.Session, counts: Mapping[str, int]) -> dict[str, Iterator[int]]:
    """Take numbers for each project, whose row is locked from now on; return the numbers."""
    # in order of project, so that two transactions never wait for each other
    new = [{"project_id": project_id, "last": counts[project_id]} for project_id in sorted(counts)]
    if session.get_bind().dialect.name == "sqlite":
        upsert = sqlite.insert(_sequences)
        bigger = {"last": _sequences.c.last + upsert.excluded.last}
        session.execute(
            upsert.on_conflict_do_update(index_elements=["project_id"], set_=bigger), new
        )
    else:
        insert = mysql.insert(_sequences)
        session.execute(
            insert.on_duplicate_key_update(last=_sequences.c.last + insert.inserted.last), new
        )
    rows = session.execute(
        sa.select(_sequences.c.project_id, _sequences.c.last).where(
            _sequences.c.project_id.in_(list(counts))
        )
    )
    return {row.project_id: itertools.count(row.last - counts[row.project_id] + 1) for row in rows}


# -- reading -----

#: How far a project has come, and what is kept of it, in one statement.
_REACH = sa.select(
    sa.select(_sequences.c.last)
    .where(_sequences.c.project_id == sa.bindparam("project_id"))
    .scalar_subquery()
    .label("last"),
    sa.select(sa.func.min(_events.c.sequence))
    .where(_events.c.project_id == sa.bindparam("project_id"))
    .scalar_subquery()
    .label("oldest"),
)


def list_page(
    session: orm.Session, project_id: str, *, wanted: Filter, after: int | None, limit: int
) -> Page:
    """Return up to ``limit`` events of a project behind the number ``after``, or from the first.

    The numbers are read before the events: whatever is committed meanwhile is behind the place to
    go on from.
    """
    reach = session.execute(_REACH, {"project_id": project_id}).one()
    last = int(reach.last or 0)
    oldest = int(reach.oldest) if reach.oldest is not None else last + 1
    # a number beyond the last one is of another database, or of this one before a restore
    start = after if after is not None and after <= last else 0
    has_gap = after is not None and (after > last or start + 1 < oldest)
    rows = session.execute(
        _query(project_id, wanted, after=start, last=last).limit(limit + 1)
    ).all()
    has_more = len(rows) > limit
    events = [Event(**row._mapping) for row in rows[:limit]]
    next_sequence = last
    if has_more:
        next_sequence = events[-1].sequence if events else start
    return Page(events=events, next_sequence=next_sequence, has_more=has_more, has_gap=has_gap)


def _query(project_id: str, wanted: Filter, *, after: int, last: int) -> sa.Select[Any]:
    query = sa.select(*_READ_COLUMNS).where(
        _events.c.project_id == project_id, _events.c.sequence > after, _events.c.sequence <= last
    )
    if wanted.resource_id is not None:
        query = query.where(_events.c.resource_id == wanted.resource_id)
    if wanted.type_prefix is not None:
        prefix = wanted.type_prefix
        query = query.where(
            sa.or_(
                _events.c.type == prefix, _events.c.type.startswith(f"{prefix}.", autoescape=True)
            )
        )
    if wanted.since is not None:
        query = query.where(_events.c.created >= wanted.since)
    return query.order_by(_events.c.sequence)


# -- forgetting -----


def has_older(session: orm.Session, *, before: datetime.datetime) -> bool:
    """Tell whether there are events from before a time."""
    query = sa.select(_events.c.sequence).where(_events.c.created < before).limit(1)
    return session.execute(query).first() is not None


def prune(session: orm.Session, *, before: datetime.datetime, limit: int) -> int:
    """Remove up to ``limit`` of the oldest events from before a time; return how many went."""
    keys: Sequence[Any] = session.execute(
        sa.select(_events.c.project_id, _events.c.sequence)
        .where(_events.c.created < before)
        .order_by(_events.c.created)
        .limit(limit)
    ).all()
    for project_id, group in _by_project(keys):
        session.execute(
            sa.delete(_events).where(
                _events.c.project_id == project_id, _events.c.sequence.in_(group)
            )
        )
    return len(keys)


def _by_project(keys: Iterable[Any]) -> Iterable[tuple[str, list[int]]]:
    projects: dict[str, list[int]] = {}
    for project_id, sequence in keys:
        projects.setdefault(project_id, []).append(sequence)
    return sorted(projects.items())
