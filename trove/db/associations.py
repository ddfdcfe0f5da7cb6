"""Which flavors and volume types a datastore version may be used with; without any, all."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy import orm

from trove.db import models

_flavors = cast(sa.Table, models.VersionFlavor.__table__)
_volume_types = cast(sa.Table, models.VersionVolumeType.__table__)

#: What is associated: the table, and its column of names.
Kind = tuple[sa.Table, sa.Column[Any]]
FLAVORS: Kind = (_flavors, _flavors.c.flavor_id)
VOLUME_TYPES: Kind = (_volume_types, _volume_types.c.volume_type)


def list_names(session: orm.Session, kind: Kind, version_id: str) -> frozenset[str]:
    """Return what a version is associated with."""
    table, column = kind
    return frozenset(
        session.scalars(sa.select(column).where(table.c.datastore_version_id == version_id))
    )


def add(session: orm.Session, kind: Kind, version_id: str, names: Collection[str]) -> None:
    """Associate a version with more; those that are associated already stay."""
    table, column = kind
    missing = set(names) - list_names(session, kind, version_id)
    if missing:
        session.execute(
            sa.insert(table),
            [{"datastore_version_id": version_id, column.name: name} for name in sorted(missing)],
        )


def remove(session: orm.Session, kind: Kind, version_id: str, names: Collection[str]) -> int:
    """End associations of a version; return how many there were."""
    table, column = kind
    result = session.execute(
        sa.delete(table).where(
            table.c.datastore_version_id == version_id, column.in_(sorted(names))
        )
    )
    return int(result.rowcount)  # type: ignore[attr-defined]
