"""Proofs of backups in the database: what was proven when, and how many are being made."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Collection, Mapping
from typing import cast

import sqlalchemy as sa
from sqlalchemy import orm

from trove import states
from trove.db import backups, models, operations

_backups = cast(sa.Table, models.Backup.__table__)
_instances = cast(sa.Table, models.Instance.__table__)
_MOST_TRIED = 5000
_ACTIVE = sorted(state for state in states.OperationState if state.is_active)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Provable:
    """A backup that can be proven, and what came of that when it last was."""

    id: str
    kind: states.BackupKind
    created: datetime.datetime
    completed: datetime.datetime | None
    verification: states.Verification | None
    verified: datetime.datetime | None


def list_provable(
    session: orm.Session, instance_ids: Collection[str], *, with_deleted: bool = False
) -> Mapping[str, list[Provable]]:
    """Return the backups of instances that can be proven, the newest first.

    Without ``with_deleted`` there are only snapshots of instances that are deleted.
    """
    is_live = _instances.c.is_deleted == sa.false()
    is_snapshot = _backups.c.kind == states.BackupKind.SNAPSHOT
    columns = [_backups.c[field.name] for field in dataclasses.fields(Provable)]
    query = (
        sa.select(_backups.c.instance_id, *columns)
        .join(_instances, _instances.c.id == _backups.c.instance_id)
        .where(
            _backups.c.instance_id.in_(list(instance_ids)),
            _backups.c.is_deleted == sa.false(),
            sa.true() if with_deleted else sa.or_(is_live, is_snapshot),
            _backups.c.deleted.is_(None),
            _backups.c.status.in_(sorted(backups.RESTORABLE)),
        )
        .order_by(_backups.c.instance_id, _backups.c.created.desc(), _backups.c.id)
    )
    found: dict[str, list[Provable]] = {}
    for instance_id, *values in session.execute(query):
        row = Provable(**dict(zip((column.name for column in columns), values, strict=True)))
        found.setdefault(instance_id, []).append(row)
    return found


def list_tried(session: orm.Session, *, since: datetime.datetime) -> frozenset[str]:
    """Return the backups of which a proof began since then that found nothing out."""
    query = (
        sa.select(models.Operation.data)
        .where(
            models.Operation.kind.in_(sorted(operations.PROOFS)),
            models.Operation.state == states.OperationState.FAILED,
            models.Operation.created > since,
        )
        .order_by(models.Operation.created.desc())
        .limit(_MOST_TRIED)
    )
    return frozenset(str(data.get("backup_id")) for data in session.scalars(query))


def count_active(session: orm.Session) -> int:
    """Return how many proofs are being made, or wait for their agents."""
    query = sa.select(sa.func.count()).where(
        models.Operation.kind.in_(sorted(operations.PROOFS)),
        models.Operation.state.in_(_ACTIVE),
    )
    return session.scalar(query) or 0
