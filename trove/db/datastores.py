"""Datastores and their versions, as plain rows."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import orm

from trove.common import exception
from trove.db import models


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """A version of a datastore."""

    id: str
    datastore_id: str
    datastore_name: str
    name: str
    version: str
    manager: str
    active: bool
    image_id: str | None
    image_tags: tuple[str, ...]
    packages: tuple[str, ...]
    registry_ext: str | None
    repl_strategy: str | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Datastore:
    """A datastore with all its versions, active or not, in order of name."""

    id: str
    name: str
    default_version_id: str | None
    versions: tuple[Version, ...]


_datastores = models.Datastore.__table__.alias("d")
_versions = models.DatastoreVersion.__table__.alias("v")
_SELECT = (
    sa.select(
        _datastores.c.id.label("datastore_id"),
        _datastores.c.name.label("datastore_name"),
        _datastores.c.default_version_id,
        _versions.c.id,
        _versions.c.name,
        _versions.c.version,
        _versions.c.manager,
        _versions.c.active,
        _versions.c.image_id,
        _versions.c.image_tags,
        _versions.c.packages,
        _versions.c.registry_ext,
        _versions.c.repl_strategy,
    )
    .select_from(_datastores)
    .join(_versions, _versions.c.datastore_id == _datastores.c.id, isouter=True)
    .order_by(_datastores.c.name, _versions.c.name, _versions.c.version)
)


def _version(row: Any) -> Version:
    return Version(
        id=row.id,
        datastore_id=row.datastore_id,
        datastore_name=row.datastore_name,
        name=row.name,
        version=row.version,
        manager=row.manager,
        active=bool(row.active),
        image_id=row.image_id,
        image_tags=tuple(row.image_tags or ()),
        packages=tuple(row.packages or ()),
        registry_ext=row.registry_ext,
        repl_strategy=row.repl_strategy,
    )


def list_datastores(session: orm.Session) -> Sequence[Datastore]:
    """Return all datastores in order of name."""
    grouped: dict[str, list[Any]] = {}
    for row in session.execute(_SELECT):
        grouped.setdefault(row.datastore_id, []).append(row)
    return [
        Datastore(
            id=rows[0].datastore_id,
            name=rows[0].datastore_name,
            default_version_id=rows[0].default_version_id,
            versions=tuple(_version(row) for row in rows if row.id is not None),
        )
        for rows in grouped.values()
    ]


def get_datastore(session: orm.Session, name_or_id: str) -> Datastore:
    """Return a datastore by name or id; raises DatastoreNotFound."""
    for datastore in list_datastores(session):
        if name_or_id in (datastore.id, datastore.name):
            return datastore
    raise exception.DatastoreNotFound(datastore=name_or_id)


def find_version(session: orm.Session, version_id: str) -> Version | None:
    """Return a version by its id, or None."""
    row = session.execute(_SELECT.where(_versions.c.id == version_id)).first()
    return None if row is None else _version(row)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class NewVersion:
    """What an operator registers; ``name`` is for users, ``version`` is the engine's own number."""

    datastore_name: str
    name: str
    version: str
    manager: str
    image_id: str
    active: bool = True


def upsert_version(
    session: orm.Session, new: NewVersion, *, make_default: bool, now: datetime.datetime
) -> Version:
    """Register a version, its datastore too when that is new; the same again changes nothing.

    The first version of a datastore becomes its default. Older versions of the same name are made
    inactive: new instances get the newest under a name, existing ones keep theirs.
    """
    datastore = session.scalar(
        sa.select(models.Datastore).where(models.Datastore.name == new.datastore_name)
    )
    if datastore is None:
        datastore = models.Datastore(name=new.datastore_name, created=now, updated=now)
        session.add(datastore)
        session.flush()
    same_name = session.scalars(
        sa.select(models.DatastoreVersion).where(
            models.DatastoreVersion.datastore_id == datastore.id,
            models.DatastoreVersion.name == new.name,
        )
    ).all()
    row = next((old for old in same_name if old.version == new.version), None)
    if row is None:
        row = models.DatastoreVersion(
            datastore_id=datastore.id, name=new.name, version=new.version, created=now
        )
        session.add(row)
    row.manager, row.image_id, row.active, row.updated = new.manager, new.image_id, new.active, now
    if new.active:
        for old in same_name:
            if old is not row:
                old.active, old.updated = False, now
    session.flush()
    if make_default or datastore.default_version_id is None:
        datastore.default_version_id, datastore.updated = row.id, now
        session.flush()
    version = find_version(session, row.id)
    if version is None:
        raise exception.DatastoreVersionUnknown(version=new.name, reason="it was not stored")
    return version
