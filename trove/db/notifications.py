"""The outbox of notifications: written with what they tell of, sent afterwards, then removed.

Nothing is written unless the database was told that somebody listens (``Database.notifies``).
Rows are sent in the order of their ids by whoever holds the lease on the first one, so that several
task managers do not send side by side; a row is removed after it was sent, so that none is lost and
one may come twice. The table is bounded: while nobody takes notifications the oldest go.
"""

from __future__ import annotations

import dataclasses
import datetime
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import sqlalchemy as sa
from oslo_context import context
from sqlalchemy import orm

from trove.db import models

#: Key of ``session.info``: whether notifications are written.
ENABLED = "trove.notifies"

INFO = "info"
ERROR = "error"

#: Makes the id of a message from the row's, so that consumers can tell one that comes twice.
_NAMESPACE = uuid.UUID("7d1b2a4c-3f0e-4e57-9d0b-6f1f6f0a6c55")

_rows = cast(sa.Table, models.Notification.__table__)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Notification:
    """A notification to send; ``message_id`` is the same whenever it is sent."""

    id: int
    event_type: str
    priority: str
    payload: Mapping[str, Any]
    created: datetime.datetime

    @property
    def message_id(self) -> str:
        """The id of its message."""
        return str(uuid.uuid5(_NAMESPACE, f"{self.id} {self.created.isoformat()}"))


_COLUMNS = tuple(_rows.c[field.name] for field in dataclasses.fields(Notification))


def is_enabled(session: orm.Session) -> bool:
    """Tell whether notifications are written at all."""
    return bool(session.info.get(ENABLED))


def append(
    session: orm.Session,
    event_type: str,
    payload: Mapping[str, Any],
    *,
    now: datetime.datetime,
    priority: str = INFO,
) -> None:
    """Add a notification to the transaction, if anybody listens. No secret in ``payload``."""
    append_all(session, [(event_type, payload)], now=now, priority=priority)


def append_all(
    session: orm.Session,
    items: Iterable[tuple[str, Mapping[str, Any]]],
    *,
    now: datetime.datetime,
    priority: str = INFO,
) -> None:
    """Add notifications to the transaction, if anybody listens."""
    if not is_enabled(session):
        return
    rows = [
        {"event_type": event_type, "priority": priority, "payload": dict(payload), "created": now}
        for event_type, payload in items
    ]
    if rows:
        session.execute(sa.insert(_rows), rows)


def base_traits(project_id: str | None, request_id: str | None) -> dict[str, Any]:
    """Return the traits that every ``dbaas`` notification has, for the request of this thread."""
    current = context.get_current()
    client_ip = getattr(current, "client_ip", None)
    return {
        "tenant_id": project_id,
        "request_id": request_id,
        "client_ip": client_ip,
        "server_ip": getattr(current, "server_ip", None),
        "server_type": "api" if client_ip else "taskmanager",
    }


# -- sending -----


def claim(
    session: orm.Session, *, owner: str, now: datetime.datetime, lease_s: float, limit: int
) -> Sequence[Notification]:
    """Take the lease on the first row and return it with those behind it.

    Empty when there is none, or when somebody else sends now.
    """
    head = session.execute(
        sa.select(_rows.c.id, _rows.c.owner, _rows.c.lease_until).order_by(_rows.c.id).limit(1)
    ).one_or_none()
    if head is None:
        return []
    is_foreign = head.owner not in (None, owner)
    if is_foreign and head.lease_until is not None and head.lease_until >= now:
        return []
    same = _rows.c.owner.is_(None) if head.owner is None else _rows.c.owner == head.owner
    taken = session.execute(
        sa.update(_rows)
        .where(_rows.c.id == head.id, same)
        .values(owner=owner, lease_until=now + datetime.timedelta(seconds=lease_s))
    )
    if not taken.rowcount:  # type: ignore[attr-defined]
        return []
    found = session.execute(
        sa.select(*_COLUMNS).where(_rows.c.id >= head.id).order_by(_rows.c.id).limit(limit)
    )
    return [Notification(**row._mapping) for row in found]


def release(session: orm.Session, *, owner: str) -> None:
    """Give the lease back."""
    session.execute(
        sa.update(_rows).where(_rows.c.owner == owner).values(owner=None, lease_until=None)
    )


def remove(session: orm.Session, ids: Sequence[int]) -> None:
    """Forget what was sent."""
    if ids:
        session.execute(sa.delete(_rows).where(_rows.c.id.in_(list(ids))))


def has_any(session: orm.Session) -> bool:
    """Tell whether any waits."""
    return session.execute(sa.select(_rows.c.id).limit(1)).first() is not None


def count(session: orm.Session) -> int:
    """Return how many wait."""
    return int(session.scalar(sa.select(sa.func.count()).select_from(_rows)) or 0)


def drop_oldest(session: orm.Session, *, keep: int, limit: int) -> int:
    """Remove up to ``limit`` of the oldest while more than ``keep`` wait; return how many went."""
    excess = min(count(session) - keep, limit)
    if excess <= 0:
        return 0
    ids = session.scalars(sa.select(_rows.c.id).order_by(_rows.c.id).limit(excess)).all()
    remove(session, ids)
    return len(ids)
