"""What is being restored from: what active operations read must not go.

A restoration is in the data of its operation: ``{"chain": [ids of backups, the full one first],
"epoch", "first", "last": pieces of the log behind them or None, "target_time", "target_position",
"target_name", "snapshot_id": the driver's id of the snapshot that the volume is made of, None}``.
No key and no grant is in it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy import orm

from trove import states
from trove.db import models, operations

#: Key of an operation's data.
KEY = "restoration"

_KINDS = (
    operations.CREATE_INSTANCE,
    *operations.RESTORATIONS,
    operations.VERIFY_BACKUP,
    operations.VERIFY_ON_SERVER,
    operations.VERIFY_ON_HOST,
)
_ACTIVE = [state for state in states.OperationState if state.is_active]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Restoration:
    """What a database is made from. ``last`` is known when the log is as old as is wanted."""

    chain: tuple[str, ...]
    epoch: str | None = None
    first: int = 0
    last: int | None = None
    target_time: float | None = None
    target_position: str | None = None
    target_name: str | None = None
    snapshot_id: str | None = None

    def to_data(self) -> dict[str, Any]:
        """Return it as an operation keeps it."""
        return {**dataclasses.asdict(self), "chain": list(self.chain)}

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Restoration:
        """Read what an operation keeps."""
        return cls(**{**data, "chain": tuple(data["chain"])})

    @property
    def backup_id(self) -> str:
        """The newest backup of the chain."""
        return self.chain[-1]


def iterate_active(session: orm.Session) -> Iterator[Restoration]:
    """Yield what is being restored from."""
    rows = session.scalars(
        sa.select(models.Operation.data).where(
            models.Operation.kind.in_(_KINDS), models.Operation.state.in_(_ACTIVE)
        )
    )
    for data in rows:
        if isinstance(data.get(KEY), dict):
            yield Restoration.from_data(data[KEY])


def list_readers(session: orm.Session, backup_ids: Collection[str]) -> Mapping[str, str]:
    """Return the active operations that restore from one of these backups: id -> kind.

    Those that prove a backup are among them.
    """
    wanted = frozenset(backup_ids)
    rows = session.execute(
        sa.select(models.Operation.id, models.Operation.kind, models.Operation.data).where(
            models.Operation.kind.in_(_KINDS), models.Operation.state.in_(_ACTIVE)
        )
    )
    return {
        row.id: row.kind
        for row in rows
        if isinstance(row.data.get(KEY), dict)
        and wanted.intersection(Restoration.from_data(row.data[KEY]).chain)
    }
