"""What there is to tell of all instances and of the service's own work, for monitoring.

Instances come in pages by id, however many they are: no more than a page is in memory.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, cast

import sqlalchemy as sa
from sqlalchemy import orm

from trove import states
from trove.db import base, models

_PAGE = 500

_instances = cast(sa.Table, models.Instance.__table__)
_heartbeats = cast(sa.Table, models.InstanceHeartbeat.__table__)
_versions = cast(sa.Table, models.DatastoreVersion.__table__)
_datastores = cast(sa.Table, models.Datastore.__table__)
_operations = cast(sa.Table, models.Operation.__table__)
_archives = cast(sa.Table, models.LogArchive.__table__)

_ACTIVE = tuple(state for state in states.OperationState if state.is_active)


class InstanceFigures(NamedTuple):
    """An instance and what it last reported; ``metrics`` is a JSON object. Sizes are bytes."""

    id: str
    project_id: str
    datastore: str
    service_status: states.ServiceStatus
    boot: int
    received: datetime.datetime
    disk_used_bytes: int | None
    disk_total_bytes: int | None
    metrics: str | None
    #: Until when its log is in its archive; None without one that is active.
    archive_as_of: datetime.datetime | None


_SELECT_PAGE = (
    sa.select(
        _instances.c.id,
        _instances.c.project_id,
        _datastores.c.name,
        _heartbeats.c.service_status,
        _heartbeats.c.boot,
        _heartbeats.c.received,
        _heartbeats.c.disk_used_bytes,
        _heartbeats.c.disk_total_bytes,
        _heartbeats.c.metrics,
        sa.select(sa.func.max(sa.func.coalesce(_archives.c.as_of, _archives.c.created)))
        .where(
            _archives.c.instance_id == _instances.c.id,
            _archives.c.state == states.ArchiveStatus.ACTIVE,
        )
        .correlate(_instances)
        .scalar_subquery(),
    )
    .join(_heartbeats, _heartbeats.c.instance_id == _instances.c.id)
    .join(_versions, _versions.c.id == _instances.c.datastore_version_id)
    .join(_datastores, _datastores.c.id == _versions.c.datastore_id)
    .where(_instances.c.id > sa.bindparam("after"), _instances.c.is_deleted == sa.false())
    .order_by(_instances.c.id)
    .limit(_PAGE)
)


def iterate_pages(database: base.Database) -> Iterator[Sequence[InstanceFigures]]:
    """Yield the live instances of all projects, page by page."""
    after = ""
    while True:
        with database.reader() as session:
            rows = session.execute(_SELECT_PAGE, {"after": after}).all()
        page = [InstanceFigures._make(row) for row in rows]
        if page:
            yield page
        if len(page) < _PAGE:
            return
        after = page[-1].id


def count_operations(session: orm.Session) -> Mapping[states.OperationState, int]:
    """Return how many operations are remembered in each state."""
    rows = session.execute(
        sa.select(_operations.c.state, sa.func.count()).group_by(_operations.c.state)
    )
    found: dict[states.OperationState, int] = dict.fromkeys(states.OperationState, 0)
    return found | {state: int(count) for state, count in rows}


class Backlog(NamedTuple):
    """How much work is due, and since when its oldest is."""

    operations: int
    since: datetime.datetime | None


def find_backlog(session: orm.Session, *, now: datetime.datetime) -> Backlog:
    """Return what should be worked on now and is not."""
    row = session.execute(
        sa.select(sa.func.count(), sa.func.min(_operations.c.wake_at)).where(
            _operations.c.state.in_(_ACTIVE),
            _operations.c.wake_at <= now,
            sa.or_(_operations.c.lease_until.is_(None), _operations.c.lease_until <= now),
        )
    ).one()
    return Backlog(operations=int(row[0]), since=row[1])
