"""Datastores and their versions, as plain rows."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from oslo_db import exception as oslo_db_exception
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
    .join(
        _versions,
        sa.and_(_versions.c.datastore_id == _datastores.c.id, _versions.c.tombstone == ""),
        isouter=True,
    )
    .where(_datastores.c.tombstone == "")
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
    """What an operator registers; ``name`` is for users, ``version`` is the engine's own number.

    The image is named, or is whatever has all the tags when an instance is made.
    """

    datastore_name: str
    name: str
    version: str
    manager: str
    image_id: str | None
    image_tags: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    registry_ext: str | None = None
    repl_strategy: str | None = None
    active: bool = True


#: ``/datastores/versions/{id}`` is another resource than the datastore of that name would be.
_RESERVED_NAMES = frozenset({"versions"})


def _ensure_datastore(
    session: orm.Session, name: str, *, now: datetime.datetime
) -> models.Datastore:
    """Return the datastore of a name, made if it is new; raises BadRequest for a reserved name."""
    if name in _RESERVED_NAMES:
        raise exception.BadRequest(reason=f"a datastore cannot have the name {name!r}")
    datastore = session.scalar(
        sa.select(models.Datastore).where(
            models.Datastore.name == name, models.Datastore.tombstone == ""
        )
    )
    if datastore is None:
        datastore = models.Datastore(name=name, created=now, updated=now)
        _add(session, datastore, kind="datastore", name=name)
    return datastore


def _add(session: orm.Session, row: models.Base, *, kind: str, name: str) -> None:
    """Add a row; raises AlreadyExists when another one has its name."""
    try:
        with session.begin_nested():
            session.add(row)
    except oslo_db_exception.DBDuplicateEntry:
        raise exception.AlreadyExists(kind=kind, name=name) from None


def _same_name(
    session: orm.Session, datastore_id: str, name: str
) -> Sequence[models.DatastoreVersion]:
    return session.scalars(
        sa.select(models.DatastoreVersion).where(
            models.DatastoreVersion.datastore_id == datastore_id,
            models.DatastoreVersion.name == name,
            models.DatastoreVersion.tombstone == "",
        )
    ).all()


def _make_default(
    datastore: models.Datastore, version_id: str | None, *, now: datetime.datetime
) -> None:
    datastore.default_version_id, datastore.updated = version_id, now


def create_version(
    session: orm.Session, new: NewVersion, *, make_default: bool, now: datetime.datetime
) -> str:
    """Register a version, its datastore too when that is new; return its id.

    Raises AlreadyExists for the same name and version, BadRequest for a reserved name.
    """
    datastore = _ensure_datastore(session, new.datastore_name, now=now)
    values = dataclasses.asdict(new)
    del values["datastore_name"]
    values |= {"image_tags": list(new.image_tags), "packages": list(new.packages)}
    row = models.DatastoreVersion(datastore_id=datastore.id, created=now, updated=now, **values)
    _add(session, row, kind="datastore version", name=new.name)
    if make_default:
        _make_default(datastore, row.id, now=now)
    session.flush()
    return row.id


def upsert_version(
    session: orm.Session, new: NewVersion, *, make_default: bool, now: datetime.datetime
) -> Version:
    """Register a version, its datastore too when that is new; the same again changes nothing.

    The first version of a datastore becomes its default. Older versions of the same name are made
    inactive: new instances get the newest under a name, existing ones keep theirs.
    """
    datastore = _ensure_datastore(session, new.datastore_name, now=now)
    same_name = _same_name(session, datastore.id, new.name)
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
        _make_default(datastore, row.id, now=now)
        session.flush()
    return get_version(session, row.id)


def get_version(session: orm.Session, version_id: str) -> Version:
    """Return a version by its id; raises DatastoreVersionUnknown."""
    found = find_version(session, version_id)
    if found is None:
        raise exception.DatastoreVersionUnknown(version=version_id, reason="there is none")
    return found


def require_live(session: orm.Session, version_id: str) -> None:
    """Raise DatastoreVersionUnknown for a version that was removed.

    Whoever writes a row that refers to a version asks this afterwards, in the same transaction:
    the reference holds the version until then.
    """
    if session.scalar(
        sa.select(models.DatastoreVersion.tombstone).where(models.DatastoreVersion.id == version_id)
    ):
        raise exception.DatastoreVersionUnknown(version=version_id, reason="it was removed")


def _get_row(session: orm.Session, version_id: str) -> models.DatastoreVersion:
    row = session.get(models.DatastoreVersion, version_id)
    if row is None or row.tombstone:
        raise exception.DatastoreVersionUnknown(version=version_id, reason="there is none")
    return row


def change_version(
    session: orm.Session,
    version_id: str,
    values: Mapping[str, Any],
    *,
    is_default: bool | None,
    now: datetime.datetime,
) -> None:
    """Change columns of a version, and whether it is its datastore's default (None: as it is).

    Raises DatastoreVersionUnknown, AlreadyExists.
    """
    row = _get_row(session, version_id)
    name = str(values.get("name", row.name))
    try:
        with session.begin_nested():
            for column, value in values.items():
                setattr(row, column, value)
            row.updated = now
    except oslo_db_exception.DBDuplicateEntry:
        raise exception.AlreadyExists(kind="datastore version", name=name) from None
    if is_default:
        _make_default(row.datastore, row.id, now=now)
    elif is_default is False and row.datastore.default_version_id == row.id:
        _make_default(row.datastore, None, now=now)
    session.flush()


#: What there may be of a version.
_USERS: Mapping[str, type[models.Instance | models.Configuration | models.Backup]] = {
    "instance": models.Instance,
    "configuration": models.Configuration,
    "backup": models.Backup,
}


def list_uses(session: orm.Session, version_id: str) -> Sequence[str]:
    """Return what hinders the removal of a version, in words."""
    uses = []
    for kind, model in _USERS.items():
        count = session.scalar(
            sa.select(sa.func.count())
            .select_from(model)
            .where(model.datastore_version_id == version_id, model.is_deleted == sa.false())
        )
        if count:
            uses.append(f"{count} {kind}{'s' if count > 1 else ''}")
    return uses


def remove_version(session: orm.Session, version_id: str, *, now: datetime.datetime) -> None:
    """Remove a version and its associations; raises DatastoreVersionUnknown.

    Its row stays for the instances that were deleted.
    """
    row = _get_row(session, version_id)
    row.tombstone, row.active, row.updated = row.id, False, now
    if row.datastore.default_version_id == row.id:
        _make_default(row.datastore, None, now=now)
    for model in (models.VersionFlavor, models.VersionVolumeType):
        session.execute(sa.delete(model).where(model.datastore_version_id == version_id))
    session.flush()


def remove_datastore(session: orm.Session, datastore_id: str, *, now: datetime.datetime) -> None:
    """Remove a datastore; raises DatastoreNotFound."""
    row = session.get(models.Datastore, datastore_id)
    if row is None or row.tombstone:
        raise exception.DatastoreNotFound(datastore=datastore_id)
    row.tombstone, row.updated = row.id, now
    session.flush()
