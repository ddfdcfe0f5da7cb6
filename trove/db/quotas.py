"""Quotas: what a project may use and uses.

``in_use`` changes only by conditional updates in the transaction of the change it stands for, so
that two requests never share the last unit and nothing is charged that is not there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, cast

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
_instances = cast(sa.Table, models.Instance.__table__)
_backups = cast(sa.Table, models.Backup.__table__)
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


def get_held(session: orm.Session, project_id: str) -> dict[str, int]:
    """Return how much of a project's usage is held for operations under way."""
    rows = session.execute(
        sa.select(_held.c.resource, sa.func.sum(_held.c.delta).label("held"))
        .where(_held.c.project_id == project_id)
        .group_by(_held.c.resource)
    )
    return {**dict.fromkeys(RESOURCES, 0), **{row.resource: int(row.held) for row in rows}}


def set_limits(session: orm.Session, project_id: str, limits: Mapping[str, int]) -> None:
    """Give a project limits of its own; -1 is unlimited. Others of its limits stay."""
    if not limits:
        return
    rows = [
        {"project_id": project_id, "resource": resource, "limit": limits[resource]}
        for resource in sorted(limits)
    ]
    if session.get_bind().dialect.name == "sqlite":
        statement = sqlite.insert(_quotas)
        session.execute(
            statement.on_conflict_do_update(
                index_elements=["project_id", "resource"], set_={"limit": statement.excluded.limit}
            ),
            rows,
        )
    else:
        insert = mysql.insert(_quotas)
        session.execute(insert.on_duplicate_key_update(limit=insert.inserted.limit), rows)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """A usage that is not what the project's resources add up to."""

    project_id: str
    resource: str
    recorded: int
    counted: int


def list_projects(session: orm.Session) -> Sequence[str]:
    """Return all projects that have a usage, a live instance or a backup, in order."""
    charged = sa.select(_usages.c.project_id).distinct()
    owning = (
        sa.select(_instances.c.project_id).where(_instances.c.is_deleted == sa.false()).distinct()
    )
    keeping = sa.select(_backups.c.project_id).where(_backups.c.is_deleted == sa.false()).distinct()
    return sorted(session.scalars(sa.union(charged, owning, keeping)))


def recount(session: orm.Session, project_id: str, *, dry_run: bool) -> Sequence[Drift]:
    """Set a project's usage to what its resources add up to; return what was wrong.

    Whoever charges or gives back waits for the rows that are locked here first, and has written
    or will write the resource in the same transaction: the count and the usage are of one moment.
    """
    _ensure_rows(session, project_id, sorted(RESOURCES))
    mine = _usages.c.project_id == project_id
    rows = session.execute(
        sa.select(_usages.c.resource, _usages.c.in_use)
        .where(mine)
        .order_by(_usages.c.resource)
        .with_for_update()
    )
    recorded = {row.resource: row.in_use for row in rows}
    counted = _count(session, project_id)
    drifts = [
        Drift(
            project_id=project_id,
            resource=resource,
            recorded=recorded[resource],
            counted=counted[resource],
        )
        for resource in RESOURCES
        if recorded[resource] != counted[resource]
    ]
    if not dry_run:
        for drift in drifts:
            session.execute(
                sa.update(_usages)
                .where(mine, _usages.c.resource == drift.resource)
                .values(in_use=drift.counted)
            )
    return drifts


def _count(session: orm.Session, project_id: str) -> dict[str, int]:
    """Add up a project's resources and what is held for them, in one statement: at one moment."""

    def total(amount: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
        return sa.func.coalesce(sa.func.sum(amount), 0)

    live = sa.and_(_instances.c.project_id == project_id, _instances.c.is_deleted == sa.false())
    parts = [
        sa.select(sa.literal(INSTANCES).label("resource"), total(sa.literal(1)).label("amount"))
        .select_from(_instances)
        .where(live),
        sa.select(sa.literal(RAM), total(_instances.c.flavor_ram_mib)).where(live),
        sa.select(sa.literal(VOLUMES), total(_instances.c.volume_size_gib)).where(live),
        sa.select(sa.literal(BACKUPS), total(sa.literal(1)))
        .select_from(_backups)
        .where(_backups.c.project_id == project_id, _backups.c.is_deleted == sa.false()),
        sa.select(_held.c.resource, total(_held.c.delta))
        .where(_held.c.project_id == project_id)
        .group_by(_held.c.resource),
    ]
    counted = dict.fromkeys(RESOURCES, 0)
    for resource, amount in session.execute(sa.union_all(*parts)):
        counted[resource] += int(amount)
    return counted
