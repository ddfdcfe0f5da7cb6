"""Modules and the instances they are applied to.

Every function joins the caller's transaction. Rows never carry contents unless asked for. Who
records an application and who deletes a module both take the module's row first (:func:`hold`), so
that no instance is ever left with a deleted module.
"""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa
from oslo_db import exception as oslo_db_exception
from sqlalchemy import orm

from trove.common import exception
from trove.db import instance_views, models


class Module(NamedTuple):
    """A module, without its contents; ``datastore_name`` and ``version_name`` None: for all."""

    id: str
    project_id: str | None
    name: str
    type: str
    description: str | None
    md5: str
    datastore_id: str | None
    datastore_version_id: str | None
    auto_apply: bool
    visible: bool
    live_update: bool
    priority_apply: bool
    is_admin: bool
    apply_order: int
    created: datetime.datetime
    updated: datetime.datetime
    datastore_name: str | None
    version_name: str | None


class Count(NamedTuple):
    """How many live instances have which contents of a module, and since when."""

    md5: str
    instances: int
    first: datetime.datetime
    last: datetime.datetime


_modules = models.Module.__table__.alias("m")
_datastores = models.Datastore.__table__.alias("d")
_versions = models.DatastoreVersion.__table__.alias("v")
_applied = models.InstanceModule.__table__.alias("a")
_instances = models.Instance.__table__.alias("i")

_SELECT = (
    sa.select(
        *(_modules.c[name] for name in Module._fields[:-2]),
        _datastores.c.name.label("datastore_name"),
        _versions.c.name.label("version_name"),
    )
    .select_from(_modules)
    .outerjoin(_datastores, _datastores.c.id == _modules.c.datastore_id)
    .outerjoin(_versions, _versions.c.id == _modules.c.datastore_version_id)
    .where(_modules.c.is_deleted == sa.false())
)


def _in_reach(project_id: str | None) -> sa.ColumnElement[bool]:
    """Those that a project may know of: its own and everybody's, if visible. None: all."""
    if project_id is None:
        return sa.true()
    return sa.and_(
        sa.or_(_modules.c.project_id == project_id, _modules.c.project_id.is_(None)),
        _modules.c.visible == sa.true(),
    )


def identity(
    *, name: str, project_id: str | None, datastore_id: str | None, version_id: str | None
) -> str:
    """Return what no two modules may share."""
    text = json.dumps([name, project_id, datastore_id, version_id])
    return hashlib.sha256(text.encode()).hexdigest()


# -- modules -----


def find(session: orm.Session, module_id: str, *, project_id: str | None) -> Module | None:
    """Return a live module that a project may know of (None: any), or None."""
    query = _SELECT.where(_modules.c.id == module_id, _in_reach(project_id))
    row = session.execute(query).first()
    return None if row is None else Module._make(row)


def list_modules(
    session: orm.Session,
    *,
    project_id: str | None,
    datastore_id: str | None = None,
    for_all_datastores: bool = False,
) -> Sequence[Module]:
    """Return the live modules a project may know of (None: any), in order of name.

    Of one datastore, or those that are bound to none; by default all.
    """
    query = _SELECT.where(_in_reach(project_id))
    if for_all_datastores:
        query = query.where(_modules.c.datastore_id.is_(None))
    elif datastore_id is not None:
        query = query.where(_modules.c.datastore_id == datastore_id)
    rows = session.execute(query.order_by(_modules.c.name, _modules.c.id))
    return [Module._make(row) for row in rows]


def list_by_ids(session: orm.Session, ids: Collection[str]) -> Sequence[Module]:
    """Return the live ones among some modules."""
    rows = session.execute(_SELECT.where(_modules.c.id.in_(list(ids))))
    return [Module._make(row) for row in rows]


def list_for_instance(
    session: orm.Session,
    *,
    ids: Collection[str],
    project_id: str,
    is_admin: bool,
    datastore_id: str,
    version_id: str,
) -> tuple[Sequence[Module], Sequence[Module]]:
    """Return those of ``ids`` that exist for the caller, and those that every new instance gets.

    One statement; the second are those of the datastore version, visible or not.
    """
    auto = sa.and_(
        _modules.c.auto_apply == sa.true(),
        sa.or_(_modules.c.project_id.is_(None), _modules.c.project_id == project_id),
        sa.or_(_modules.c.datastore_id.is_(None), _modules.c.datastore_id == datastore_id),
        sa.or_(
            _modules.c.datastore_version_id.is_(None),
            _modules.c.datastore_version_id == version_id,
        ),
    )
    named = sa.and_(_modules.c.id.in_(list(ids)), _in_reach(None if is_admin else project_id))
    query = _SELECT.add_columns(auto.label("is_auto"), named.label("is_named"))
    rows = session.execute(query.where(sa.or_(auto, named) if ids else auto)).all()
    return (
        [Module._make(row[:-2]) for row in rows if row.is_named],
        [Module._make(row[:-2]) for row in rows if row.is_auto],
    )


def add(
    session: orm.Session,
    *,
    module_id: str,
    contents_wrapped: bytes,
    now: datetime.datetime,
    **values: Any,
) -> None:
    """Add a module; raises AlreadyExists."""
    row = models.Module(
        id=module_id,
        identity=_identity_of(values),
        contents_wrapped=contents_wrapped,
        created=now,
        updated=now,
        **values,
    )
    try:
        with session.begin_nested():
            session.add(row)
    except oslo_db_exception.DBDuplicateEntry:
        raise exception.AlreadyExists(kind="module", name=values["name"]) from None


def update(session: orm.Session, module: Module, *, now: datetime.datetime, **values: Any) -> None:
    """Change a live module; raises AlreadyExists."""
    after = {**module._asdict(), **values}
    try:
        with session.begin_nested():
            session.execute(
                sa.update(models.Module)
                .where(models.Module.id == module.id, models.Module.is_deleted == sa.false())
                .values(identity=_identity_of(after), updated=now, **values)
                .execution_options(synchronize_session=False)
            )
    except oslo_db_exception.DBDuplicateEntry:
        raise exception.AlreadyExists(kind="module", name=after["name"]) from None


def _identity_of(values: Mapping[str, Any]) -> str:
    return identity(
        name=values["name"],
        project_id=values["project_id"],
        datastore_id=values["datastore_id"],
        version_id=values["datastore_version_id"],
    )


def hold(session: orm.Session, module_id: str) -> bool:
    """Take the row of a live module until the end of the transaction; tell whether there is one."""
    query = (
        sa.select(models.Module.id)
        .where(models.Module.id == module_id, models.Module.is_deleted == sa.false())
        .with_for_update()
    )
    return session.scalar(query) is not None


def mark_deleted(session: orm.Session, module_id: str, *, now: datetime.datetime) -> None:
    """End a module and forget its contents."""
    session.execute(
        sa.update(models.Module)
        .where(models.Module.id == module_id)
        .values(is_deleted=True, deleted=now, updated=now, identity=None, contents_wrapped=b"")
        .execution_options(synchronize_session=False)
    )
    session.execute(
        sa.delete(models.InstanceModule).where(models.InstanceModule.module_id == module_id)
    )


def get_contents(session: orm.Session, ids: Collection[str]) -> Mapping[str, bytes]:
    """Return the wrapped contents of modules by id."""
    rows = session.execute(
        sa.select(models.Module.id, models.Module.contents_wrapped).where(
            models.Module.id.in_(list(ids)), models.Module.is_deleted == sa.false()
        )
    )
    return {row.id: row.contents_wrapped for row in rows}


# -- applications -----


def _of_live_instances(module_id: str, project_id: str | None, *columns: Any) -> sa.Select[Any]:
    query = (
        sa.select(*columns)
        .select_from(_applied)
        .join(_instances, _instances.c.id == _applied.c.instance_id)
        .where(_applied.c.module_id == module_id, _instances.c.is_deleted == sa.false())
    )
    return query if project_id is None else query.where(_instances.c.project_id == project_id)


def count_instances(session: orm.Session, module_id: str) -> int:
    """Return how many live instances a module is applied to."""
    return int(session.scalar(_of_live_instances(module_id, None, sa.func.count())) or 0)


def list_counts(session: orm.Session, module_id: str, *, project_id: str | None) -> Sequence[Count]:
    """Return the counts by applied contents, of a project's instances (None: all)."""
    columns = (
        _applied.c.md5,
        sa.func.count(),
        sa.func.min(_applied.c.updated, type_=models.UtcDateTime()),
        sa.func.max(_applied.c.updated, type_=models.UtcDateTime()),
    )
    query = _of_live_instances(module_id, project_id, *columns).group_by(_applied.c.md5)
    return [Count._make(row) for row in session.execute(query.order_by(_applied.c.md5))]


def list_instances(
    session: orm.Session,
    module_id: str,
    *,
    project_id: str | None,
    limit: int,
    marker: str | None,
) -> tuple[Sequence[instance_views.InstanceSummary], bool]:
    """Return up to ``limit`` instances of a module behind ``marker``, and whether there are more.

    In order of id, of a project (None: all).
    """
    page = _of_live_instances(module_id, project_id, _instances.c.id)
    if marker is not None:
        page = page.where(_instances.c.id > marker)
    views = instance_views.list_views_of(
        session,
        instance_views.InstanceSummary,
        page.order_by(_instances.c.id).limit(limit + 1),
        order=lambda instances: [instances.c.id],
    )
    return views[:limit], len(views) > limit


def list_to_reapply(
    session: orm.Session,
    module: Module,
    *,
    project_id: str | None,
    md5: str | None,
    force: bool,
    after: str,
    limit: int,
) -> Sequence[str]:
    """Return ids of the next instances that have other contents than the module's.

    With ``md5`` only those that have these contents, with ``force`` also those that have the
    module's.
    """
    query = _of_live_instances(module.id, project_id, _instances.c.id)
    query = query.where(_instances.c.id > after)
    if md5 is not None:
        query = query.where(_applied.c.md5 == md5)
    if not force:
        query = query.where(_applied.c.md5 != module.md5)
    return list(session.scalars(query.order_by(_instances.c.id).limit(limit)))


def list_applied(session: orm.Session, instance_id: str) -> Mapping[str, str]:
    """Return the modules of an instance: id -> MD5 of the contents that were applied."""
    rows = session.execute(
        sa.select(models.InstanceModule.module_id, models.InstanceModule.md5).where(
            models.InstanceModule.instance_id == instance_id
        )
    )
    return {row.module_id: row.md5 for row in rows}


def record_applied(
    session: orm.Session, instance_id: str, applied: Mapping[str, str], *, now: datetime.datetime
) -> None:
    """Note which modules an instance has by now: id -> MD5; those deleted meanwhile are passed."""
    for module_id, md5 in sorted(applied.items()):
        if not hold(session, module_id):
            continue
        changed = session.execute(
            sa.update(models.InstanceModule)
            .where(
                models.InstanceModule.instance_id == instance_id,
                models.InstanceModule.module_id == module_id,
            )
            .values(md5=md5, updated=now)
            .execution_options(synchronize_session=False)
        )
        # the module's row is held: nobody else inserts
        if not changed.rowcount:  # type: ignore[attr-defined]
            session.execute(
                sa.insert(models.InstanceModule).values(
                    instance_id=instance_id, module_id=module_id, md5=md5, created=now, updated=now
                )
            )


def forget(session: orm.Session, instance_id: str, module_id: str | None = None) -> None:
    """Forget that an instance has a module, or all of them."""
    statement = sa.delete(models.InstanceModule).where(
        models.InstanceModule.instance_id == instance_id
    )
    if module_id is not None:
        statement = statement.where(models.InstanceModule.module_id == module_id)
    session.execute(statement)
