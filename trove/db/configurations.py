"""Configuration groups, and what operators changed of the parameters of a version.

Every function joins the caller's transaction. Who attaches a group and who deletes it both take
its row first (:func:`hold`), so that no instance is ever left with a deleted group.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import orm

from trove import states
from trove.db import models


class Group(NamedTuple):
    """A configuration group with the version it is for."""

    id: str
    project_id: str
    name: str
    description: str | None
    values: Mapping[str, Any]
    digest: str | None
    created: datetime.datetime
    updated: datetime.datetime
    datastore_version_id: str
    version_name: str
    version_number: str
    manager: str
    datastore_name: str


class Attached(NamedTuple):
    """An instance that a group is attached to."""

    id: str
    name: str


class Overlay(NamedTuple):
    """What an operator made of a parameter; ``minimum`` and ``maximum`` are numbers as text."""

    name: str
    data_type: str
    restart_required: bool
    minimum: str | None
    maximum: str | None
    is_deleted: bool


class Due(NamedTuple):
    """An instance, the digest of the values it should run on, and of those it does."""

    instance_id: str
    wanted: str | None
    confirmed: str | None


_groups = models.Configuration.__table__.alias("c")
_versions = models.DatastoreVersion.__table__.alias("v")
_datastores = models.Datastore.__table__.alias("d")
_instances = models.Instance.__table__.alias("i")
_heartbeats = models.InstanceHeartbeat.__table__.alias("h")
_SELECT = (
    sa.select(
        *(
            _groups.c[name]
            for name in (
                "id",
                "project_id",
                "name",
                "description",
                "values",
                "digest",
                "created",
                "updated",
                "datastore_version_id",
            )
        ),
        _versions.c.name.label("version_name"),
        _versions.c.version.label("version_number"),
        _versions.c.manager,
        _datastores.c.name.label("datastore_name"),
    )
    .select_from(_groups)
    .join(_versions, _versions.c.id == _groups.c.datastore_version_id)
    .join(_datastores, _datastores.c.id == _versions.c.datastore_id)
    .where(_groups.c.is_deleted == sa.false())
)


# -- groups -----


def find_group(
    session: orm.Session, configuration_id: str, *, project_id: str | None
) -> Group | None:
    """Return a live group, or None; of ``project_id`` only, unless that is None."""
    row = session.execute(_SELECT.where(_groups.c.id == configuration_id)).first()
    if row is None or (project_id is not None and row.project_id != project_id):
        return None
    return Group._make(row)


def list_groups(
    session: orm.Session, *, project_id: str | None, limit: int, marker: str | None
) -> tuple[Sequence[Group], bool]:
    """Return up to ``limit`` live groups behind ``marker`` by id, and whether there are more.

    Without ``project_id`` those of all projects.
    """
    query = _SELECT.order_by(_groups.c.id).limit(limit + 1)
    if project_id is not None:
        query = query.where(_groups.c.project_id == project_id)
    if marker is not None:
        query = query.where(_groups.c.id > marker)
    rows = session.execute(query).all()
    return [Group._make(row) for row in rows[:limit]], len(rows) > limit


def add_group(
    session: orm.Session,
    *,
    project_id: str,
    name: str,
    description: str | None,
    datastore_version_id: str,
    values: Mapping[str, Any],
    digest: str | None,
    now: datetime.datetime,
) -> str:
    """Add a group and return its id."""
    group = models.Configuration(
        id=models.new_id(),
        project_id=project_id,
        name=name,
        description=description,
        datastore_version_id=datastore_version_id,
        values=dict(values),
        digest=digest,
        created=now,
        updated=now,
    )
    session.add(group)
    session.flush()
    return group.id


def hold(session: orm.Session, configuration_id: str) -> bool:
    """Keep a live group from being changed until the transaction ends; False when there is none.

    SQLite knows no such locks and needs none: its writers come one after the other.
    """
    query = (
        sa.select(models.Configuration.id)
        .where(
            models.Configuration.id == configuration_id,
            models.Configuration.is_deleted == sa.false(),
        )
        .with_for_update()
    )
    return session.scalar(query) is not None


def update_group(
    session: orm.Session, configuration_id: str, *, now: datetime.datetime, **values: Any
) -> bool:
    """Change columns of a live group; False when there is none."""
    return _update(session, configuration_id, updated=now, **values)


def replace_values(
    session: orm.Session,
    configuration_id: str,
    values: Mapping[str, Any],
    *,
    digest: str | None,
    now: datetime.datetime,
) -> None:
    """Change the values of a live group; its instances are due to get them."""
    _update(session, configuration_id, updated=now, values=dict(values), digest=digest)
    session.execute(
        sa.update(models.Instance)
        .where(
            models.Instance.configuration_id == configuration_id,
            models.Instance.is_deleted == sa.false(),
        )
        .values(is_configuration_due=True)
        .execution_options(synchronize_session=False)
    )


def mark_deleted(session: orm.Session, configuration_id: str, *, now: datetime.datetime) -> bool:
    """Delete a group; False when it is not there any more."""
    return _update(session, configuration_id, is_deleted=True, deleted=now, updated=now)


def _update(session: orm.Session, configuration_id: str, **values: Any) -> bool:
    result = session.execute(
        sa.update(models.Configuration)
        .where(
            models.Configuration.id == configuration_id,
            models.Configuration.is_deleted == sa.false(),
        )
        .values(values)
        .execution_options(synchronize_session=False)
    )
    return bool(result.rowcount)  # type: ignore[attr-defined]


# -- instances of a group -----


def _attached_to(configuration_id: str) -> Sequence[sa.ColumnElement[bool]]:
    return (
        _instances.c.configuration_id == configuration_id,
        _instances.c.is_deleted == sa.false(),
    )


def count_attached(session: orm.Session, configuration_id: str) -> int:
    """Return to how many live instances a group is attached."""
    query = sa.select(sa.func.count()).where(*_attached_to(configuration_id))
    return int(session.scalar(query) or 0)


def list_attached(
    session: orm.Session, configuration_id: str, *, limit: int, marker: str | None
) -> tuple[Sequence[Attached], bool]:
    """Return up to ``limit`` instances of a group behind ``marker`` by id; are there more?"""
    query = (
        sa.select(_instances.c.id, _instances.c.name)
        .where(*_attached_to(configuration_id), _instances.c.id > (marker or ""))
        .order_by(_instances.c.id)
        .limit(limit + 1)
    )
    rows = session.execute(query).all()
    return [Attached._make(row) for row in rows[:limit]], len(rows) > limit


def list_due(
    session: orm.Session,
    *,
    heard_since: datetime.datetime,
    limit: int,
    after: str = "",
    configuration_id: str | None = None,
) -> Sequence[Due]:
    """Return idle instances that may run on other values than they should, in order of id.

    Only those whose agent was heard since a moment: others could not be told anyway.
    """
    query = (
        sa.select(_instances.c.id, _groups.c.digest, _instances.c.configuration_digest)
        .select_from(_instances)
        .join(_heartbeats, _heartbeats.c.instance_id == _instances.c.id)
        .join(_groups, _groups.c.id == _instances.c.configuration_id, isouter=True)
        .where(
            _instances.c.is_configuration_due == sa.true(),
            _instances.c.id > after,
            _instances.c.is_deleted == sa.false(),
            _instances.c.task.in_([states.TaskStatus.NONE, states.TaskStatus.RESTART_REQUIRED]),
            _instances.c.server_status == states.ServerStatus.ACTIVE,
            _heartbeats.c.received >= heard_since,
        )
        .order_by(_instances.c.id)
        .limit(limit)
    )
    if configuration_id is not None:
        query = query.where(_instances.c.configuration_id == configuration_id)
    return [Due._make(row) for row in session.execute(query)]


def settle(session: orm.Session, instance_id: str) -> bool:
    """Note that nothing is due for an instance; False when something is, after all."""
    instance = session.execute(
        sa.select(_instances.c.configuration_id).where(_instances.c.id == instance_id)
    ).one_or_none()
    if instance is None:
        return False
    wanted = None
    if instance.configuration_id is not None and hold(session, instance.configuration_id):
        # read behind the lock: whoever changes the group now comes afterwards and says so
        wanted = session.scalar(
            sa.select(_groups.c.digest).where(_groups.c.id == instance.configuration_id)
        )
    result = session.execute(
        sa.update(models.Instance)
        .where(
            models.Instance.id == instance_id,
            models.Instance.configuration_id == instance.configuration_id,
            models.Instance.configuration_digest == wanted,
        )
        .values(is_configuration_due=False)
        .execution_options(synchronize_session=False)
    )
    return bool(result.rowcount)  # type: ignore[attr-defined]


# -- parameters -----


def list_overlays(session: orm.Session, version_id: str) -> Sequence[Overlay]:
    """Return what operators made of a version's parameters."""
    columns = [getattr(models.ConfigurationParameter, name) for name in Overlay._fields]
    query = sa.select(*columns).where(
        models.ConfigurationParameter.datastore_version_id == version_id
    )
    return [Overlay._make(row) for row in session.execute(query)]


def save_overlay(
    session: orm.Session, version_id: str, overlay: Overlay, *, now: datetime.datetime
) -> None:
    """Write what an operator made of a parameter, over what was written before."""
    row = session.get(models.ConfigurationParameter, (version_id, overlay.name))
    if row is None:
        row = models.ConfigurationParameter(datastore_version_id=version_id, name=overlay.name)
        session.add(row)
    row.data_type = overlay.data_type
    row.restart_required = overlay.restart_required
    row.minimum, row.maximum = overlay.minimum, overlay.maximum
    row.is_deleted = overlay.is_deleted
    row.deleted = now if overlay.is_deleted else None
    session.flush()
