"""The history of the superuser of instances: who enabled it, when it was disabled again."""

from __future__ import annotations

import dataclasses
import datetime
from typing import cast

import sqlalchemy as sa
from sqlalchemy import orm

from trove.db import models

_history = cast(sa.Table, models.RootHistory.__table__)
_instances = cast(sa.Table, models.Instance.__table__)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Enabling:
    """Who let the superuser in, and when; ``disabled`` is when it was locked out again."""

    user_id: str | None
    enabled: datetime.datetime
    disabled: datetime.datetime | None


def find_last(session: orm.Session, instance_id: str) -> Enabling | None:
    """Return the last time the superuser was enabled; None when it never was."""
    row = session.execute(
        sa.select(_history.c.user_id, _history.c.enabled, _history.c.disabled)
        .where(_history.c.instance_id == instance_id)
        .order_by(_history.c.enabled.desc(), _history.c.id)
        .limit(1)
    ).first()
    if row is None:
        return None
    return Enabling(user_id=row.user_id, enabled=row.enabled, disabled=row.disabled)


def is_enabled(session: orm.Session, instance_id: str) -> bool:
    """Tell whether the superuser was enabled and not disabled since."""
    query = sa.select(_history.c.id).where(
        _history.c.instance_id == instance_id, _history.c.disabled.is_(None)
    )
    return session.execute(query.limit(1)).first() is not None


def record_enabled(
    session: orm.Session, instance_id: str, *, user_id: str | None, now: datetime.datetime
) -> None:
    """Begin a new record, unless the last one is still open."""
    if not is_enabled(session, instance_id):
        session.execute(
            sa.insert(_history).values(
                id=models.new_id(), instance_id=instance_id, user_id=user_id, enabled=now
            )
        )
    _set_flag(session, instance_id, enabled=True)


def record_disabled(session: orm.Session, instance_id: str, *, now: datetime.datetime) -> None:
    """Close the open records."""
    session.execute(
        sa.update(_history)
        .where(_history.c.instance_id == instance_id, _history.c.disabled.is_(None))
        .values(disabled=now)
    )
    _set_flag(session, instance_id, enabled=False)


def _set_flag(session: orm.Session, instance_id: str, *, enabled: bool) -> None:
    session.execute(
        sa.update(_instances).where(_instances.c.id == instance_id).values(root_enabled=enabled)
    )
