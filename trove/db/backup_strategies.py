"""Where backups are stored: one row for a project and one for each instance that differs."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Sequence
from typing import cast

import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.dialects import mysql, sqlite

from trove.db import models

#: Stands for the instance in the strategy of a whole project.
WHOLE_PROJECT = ""

_strategies = cast(sa.Table, models.BackupStrategy.__table__)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Strategy:
    """The container for the backups of an instance, or of the whole project."""

    project_id: str
    instance_id: str
    container: str


def list_strategies(
    session: orm.Session, project_id: str, *, instance_id: str | None
) -> Sequence[Strategy]:
    """Return the strategies of a project, or that of one instance; the project's own first."""
    query = sa.select(
        _strategies.c.project_id, _strategies.c.instance_id, _strategies.c.swift_container
    ).where(_strategies.c.project_id == project_id)
    if instance_id is not None:
        query = query.where(_strategies.c.instance_id == instance_id)
    return [
        Strategy(
            project_id=row.project_id, instance_id=row.instance_id, container=row.swift_container
        )
        for row in session.execute(query.order_by(_strategies.c.instance_id))
    ]


def put(session: orm.Session, strategy: Strategy, *, now: datetime.datetime) -> None:
    """Store a strategy in the place of the one there was."""
    values = {
        "project_id": strategy.project_id,
        "instance_id": strategy.instance_id,
        "swift_container": strategy.container,
        "created": now,
        "updated": now,
    }
    changed = {"swift_container": strategy.container, "updated": now}
    if session.get_bind().dialect.name == "sqlite":
        session.execute(
            sqlite.insert(_strategies).on_conflict_do_update(
                index_elements=["project_id", "instance_id"], set_=changed
            ),
            values,
        )
    else:
        session.execute(mysql.insert(_strategies).on_duplicate_key_update(changed), values)


def remove(session: orm.Session, project_id: str, instance_id: str) -> None:
    """Remove a strategy, if there is one."""
    session.execute(
        sa.delete(_strategies).where(
            _strategies.c.project_id == project_id, _strategies.c.instance_id == instance_id
        )
    )
