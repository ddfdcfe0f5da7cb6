"""Quotas: what a project may use and uses.

``in_use`` changes only by conditional updates in the transaction of the change it stands for, so
that two requests never share the last unit and nothing is charged that is not there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.dialects import mysql, sqlite

from trove.common import exception
from trove.db import models

INSTANCES = "instances"
RAM = "ram"
VOLUMES = "volumes"
BACKUPS = "backups"
RESOURCES = (INSTANCES, RAM, VOLUMES, BACKUPS)
UNLIMITED = -1

_usages = cast(sa.Table, models.QuotaUsage.__table__)
_quotas = cast(sa.Table, models.Quota.__table__)
_held = cast(sa.Table, models.QuotaReservation.__table__)


def get_limits(
    session: orm.Session, project_id: str, *, defaults: Mapping[str, int]
) -> dict[str, int]:
    """Return the limit of every resource of a project; -1 is unlimited."""
    own = session.execute(
        sa.select(_quotas.c.resource, _quotas.c.limit).where(_quotas.c.project_id == project_id)
    )
    return {**defaults, **{resource: limit for resource, limit in own if resource in defaults}}


def get_usage(session: orm.Session, project_id: str) -> dict[str, int]:
    """Return what a project uses of every resource."""
    rows = session.execute(
        sa.select(_usages.c.resource, _usages.c.in_use).where(_usages.c.project_id == project_id)
    )
    return {**dict.fromkeys(RESOURCES, 0), **{row.resource: row.in_use for row in rows}}


def reserve(
    session: orm.Session, project_id: str, deltas: Mapping[str, int], *, defaults: Mapping[str, int]
) -> None:
    """Charge a project, all of ``deltas`` or nothing; raises QuotaExceeded naming what is short.

    Must come before other statements of the transaction, which then holds the rows (in order of
    name, so that two of them never wait for each other).
    """
    charged = {resource: deltas[resource] for resource in sorted(deltas) if deltas[resource]}
    _ensure_rows(session, project_id, list(charged))
    limits = get_limits(session, project_id, defaults=defaults)
    exceeded = []
    for resource, delta in charged.items():
        statement = (
            sa.update(_usages)
            .where(_usages.c.project_id == project_id, _usages.c.resource == resource)
            .values(in_use=_usages.c.in_use + delta)
        )
        if limits[resource] != UNLIMITED and delta > 0:
            statement = statement.where(_usages.c.in_use + delta <= limits[resource])
        if not session.execute(statement).rowcount:  # type: ignore[attr-defined]
            exceeded.append(resource)
    if exceeded:
        raise exception.QuotaExceeded(resources=exceeded)


def release(session: orm.Session, project_id: str, deltas: Mapping[str, int]) -> None:
    """Give back what was charged; the usage never goes below zero."""
    for resource in sorted(deltas):
        if deltas[resource]:
            left = _usages.c.in_use - deltas[resource]
            session.execute(
                sa.update(_usages)
                .where(_usages.c.project_id == project_id, _usages.c.resource == resource)
                .values(in_use=sa.case((left < 0, 0), else_=left))
            )


def hold(
    session: orm.Session,
    project_id: str,
    deltas: Mapping[str, int],
    *,
    operation_id: str,
    defaults: Mapping[str, int],
) -> None:
    """Charge a project for an operation that begins; raises QuotaExceeded like :func:`reserve`.

    Held units count as used. They become those of the resource by :func:`settle`, or are given
    back by :func:`give_back`: whichever comes first, and only once.
    """
    held = {resource: delta for resource, delta in deltas.items() if delta > 0}
    reserve(session, project_id, held, defaults=defaults)
    if held:
        session.execute(
            sa.insert(_held),
            [
                {
                    "operation_id": operation_id,
                    "resource": resource,
                    "project_id": project_id,
                    "delta": delta,
                }
                for resource, delta in sorted(held.items())
            ],
        )


def settle(session: orm.Session, operation_id: str) -> None:
    """Leave what is held to the resource whose new size the same transaction writes."""
    session.execute(sa.delete(_held).where(_held.c.operation_id == operation_id))


def give_back(session: orm.Session, operation_id: str) -> None:
    """Give back what is still held for an operation that ends."""
    rows = session.execute(
        sa.select(_held.c.resource, _held.c.project_id, _held.c.delta)
        .where(_held.c.operation_id == operation_id)
        .order_by(_held.c.resource)
    ).all()
    for row in rows:
        taken = session.execute(
            sa.delete(_held).where(
                _held.c.operation_id == operation_id, _held.c.resource == row.resource
            )
        )
        # only who removed the row gives its units back
        if taken.rowcount:  # type: ignore[attr-defined]
            release(session, row.project_id, {row.resource: row.delta})


def _ensure_rows(session: orm.Session, project_id: str, resources: list[str]) -> None:
    """Make the missing rows; harmless when another transaction makes them at the same time."""
    if not resources:
        return
    rows = [{"project_id": project_id, "resource": resource, "in_use": 0} for resource in resources]
    dialect = session.get_bind().dialect.name
    if dialect == "sqlite":
        session.execute(sqlite.insert(_usages).on_conflict_do_nothing(), rows)
    else:
        statement = mysql.insert(_usages)
        same = statement.on_duplicate_key_update(in_use=_usages.c.in_use)
        session.execute(same, rows)
