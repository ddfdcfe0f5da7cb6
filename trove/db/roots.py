"""The history of the superuser of instances: who enabled it, when it was disabled again."""

from __future__ import annotations

import datetime
from typing import cast

import sqlalchemy as sa
from sqlalchemy import orm

from trove.db import models

_history = cast(sa.Table, models.RootHistory.__table__)
_instances = cast(sa.Table, models.Instance.__table__)


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
