"""What the API reads of instances: plain rows of one SELECT, never ORM objects.

The page of a list costs one statement, plus one more only when some instance of it has replicas.
Columns cost more than anything else in reading many rows: each kind of view names its own.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import sqlalchemy as sa
from sqlalchemy import orm

from trove import states
from trove.db import models, operations, packed_columns


class Fault(NamedTuple):
    """What is wrong with an instance; ``details`` are for administrators."""

    message: str
    details: str | None
    created: datetime.datetime


class InstanceSummary(NamedTuple):
    """What a list shows of an instance; volume GiB.

    A named tuple and not a dataclass, since a page makes many of them from rows.
    """

    id: str
    project_id: str
    name: str
    flavor_id: str
    volume_size_gib: int | None
    region: str | None
    access: Mapping[str, Any] | None
    addresses: Sequence[Mapping[str, Any]]
    hostname: str | None
    replica_of_id: str | None
    task: states.TaskStatus
    server_status: states.ServerStatus
    is_backing_up: bool
    created: datetime.datetime
    service_status: states.ServiceStatus
    heartbeat_received: datetime.datetime
    version_name: str
    datastore_name: str
    has_replicas: bool
    replica_ids: tuple[str, ...] = ()


class PackedSummary(NamedTuple):
    """An :class:`InstanceSummary` that need not be looked into to be shown again.

    ``created`` and ``heartbeat_received`` are as :func:`trove.db.packed_columns.written` writes
    them, ``packed`` has all that rarely changes.
    """

    id: str
    created: str
    heartbeat_received: str
    has_replicas: int
    packed: str
    replica_ids: tuple[str, ...] = ()

    def unpack(self) -> InstanceSummary:
        """Return the summary."""
        return InstanceSummary(
            **dict(zip(_RARELY_CHANGED.names, _RARELY_CHANGED.unpack(self.packed), strict=True)),
            id=self.id,
            created=packed_columns.read_time(self.created),
            heartbeat_received=packed_columns.read_time(self.heartbeat_received),
            has_replicas=bool(self.has_replicas),
            replica_ids=self.replica_ids,
        )


class InstanceView(NamedTuple):
    """An instance with its datastore and its last heartbeat; volume GiB."""

    id: str
    project_id: str
    name: str
    flavor_id: str
    flavor_ram_mib: int
    volume_size_gib: int | None
    availability_zone: str | None
    region: str | None
    access: Mapping[str, Any] | None
    addresses: Sequence[Mapping[str, Any]]
    hostname: str | None
    replica_of_id: str | None
    datastore_version_id: str
    task: states.TaskStatus
    server_status: states.ServerStatus
    is_backing_up: bool
    server_id: str | None
    volume_id: str | None
    fault_message: str | None
    fault_details: str | None
    fault_created: datetime.datetime | None
    root_enabled: bool
    locality: str | None
    is_protected: bool
    tags: Sequence[str]
    created: datetime.datetime
    updated: datetime.datetime
    is_deleted: bool
    deleted: datetime.datetime | None
    service_status: states.ServiceStatus
    heartbeat_received: datetime.datetime
    disk_used_bytes: int | None
    disk_total_bytes: int | None
    heartbeat_message: str | None
    version_name: str
    version_number: str
    manager: str
    datastore_name: str
    configuration_id: str | None
    configuration_name: str | None
    has_operation: bool
    has_archive: bool
    has_replicas: bool
    replica_ids: tuple[str, ...] = ()

    @property
    def status(self) -> str:
        """The word of the API's ``status`` key."""
        return states.api_status(self.task, self.server_status, is_backing_up=self.is_backing_up)

    @property
    def is_ready(self) -> bool:
        """Tell whether restart, resize and their like may start now."""
        return states.is_ready(
            self.task, self.server_status, self.service_status, is_backing_up=self.is_backing_up
        )

    @property
    def fault(self) -> Fault | None:
        """What the control plane recorded, else what the agent says of an engine that is down."""
        if self.fault_message is not None and self.fault_created is not None:
            return Fault(self.fault_message, self.fault_details, self.fault_created)
        if self.heartbeat_message and not self.service_status.is_running:
            return Fault(self.heartbeat_message, None, self.heartbeat_received)
        return None


_instances = models.Instance.__table__.alias("i")
_replicas = models.Instance.__table__.alias("r")
_heartbeats = models.InstanceHeartbeat.__table__.alias("h")
_versions = models.DatastoreVersion.__table__.alias("v")
_datastores = models.Datastore.__table__.alias("d")
_configurations = models.Configuration.__table__.alias("c")
_operations = models.Operation.__table__.alias("o")
_archives = models.LogArchive.__table__.alias("a")

View = TypeVar("View", InstanceSummary, PackedSummary, InstanceView)
_Kind = type[InstanceSummary] | type[PackedSummary] | type[InstanceView]

_HAS_REPLICAS = (
    sa.exists()
    .where(_replicas.c.replica_of_id == _instances.c.id, _replicas.c.is_deleted == sa.false())
    .correlate(_instances)
)


def _holds_lock(prefix: str) -> sa.ColumnElement[bool]:
    """Tell whether an operation holds a lock of an instance; by equality, for the index's sake."""
    return (
        sa.exists()
        .where(_operations.c.lock_key == sa.literal(prefix) + _instances.c.id)
        .correlate(_instances)
    )


#: Fields of views that are no columns of the instance itself by the same name.
_COLUMNS: Mapping[str, sa.ColumnElement[Any]] = {
    "is_backing_up": _instances.c.running_backup_id.is_not(None),
    "service_status": _heartbeats.c.service_status,
    "heartbeat_received": _heartbeats.c.received,
    "disk_used_bytes": _heartbeats.c.disk_used_bytes,
    "disk_total_bytes": _heartbeats.c.disk_total_bytes,
    "heartbeat_message": _heartbeats.c.message,
    "version_name": _versions.c.name,
    "version_number": _versions.c.version,
    "manager": _versions.c.manager,
    "datastore_name": _datastores.c.name,
    "configuration_name": _configurations.c.name,
    "has_archive": (
        sa.exists().where(_archives.c.instance_id == _instances.c.id).correlate(_instances)
    ),
    "has_operation": sa.or_(
        _holds_lock(operations.instance_lock("")), _holds_lock(operations.delete_lock(""))
    ),
    "has_replicas": _HAS_REPLICAS,
}


def _column(name: str) -> sa.ColumnElement[Any]:
    column = _COLUMNS.get(name)
    return _instances.c[name] if column is None else column


def _pack(names: Iterable[str]) -> packed_columns.PackedColumns:
    return packed_columns.PackedColumns({name: _column(name) for name in names})


#: The fields of each kind of view but the last, which no column fills.
_PACKED: Mapping[type, packed_columns.PackedColumns] = {
    kind: _pack(kind._fields[:-1]) for kind in (InstanceSummary, InstanceView)
}
_RARELY_CHANGED = _pack(
    name for name in InstanceSummary._fields if name not in PackedSummary._fields
)


def _columns(kind: _Kind) -> Sequence[sa.ColumnElement[Any]]:
    if kind is not PackedSummary:
        return [_PACKED[kind].column]
    times = (sa.cast(_column(name), sa.String(26)) for name in ("created", "heartbeat_received"))
    return [_column("id"), *times, _column("has_replicas"), _RARELY_CHANGED.column]


def _view(kind: type[View], row: Sequence[Any]) -> View:
    """Return the view of a row that has its columns first."""
    if kind is PackedSummary:
        return kind._make((*row[:5], ()))
    return kind._make((*_PACKED[kind].unpack(row[0]), ()))


def _select(kind: _Kind) -> sa.Select[Any]:
    """Return the SELECT of a kind of view; :func:`_view` reads its rows.

    Deleted instances are in it; whoever uses it says which instances are meant.
    """
    query = (
        sa.select(*_columns(kind))
        .select_from(_instances)
        .join(_heartbeats, _heartbeats.c.instance_id == _instances.c.id)
        .join(_versions, _versions.c.id == _instances.c.datastore_version_id)
        .join(_datastores, _datastores.c.id == _versions.c.datastore_id)
    )
    if "configuration_name" in kind._fields:
        query = query.outerjoin(
            _configurations, _configurations.c.id == _instances.c.configuration_id
        )
    return query


#: The ids of a page. The database finds them in the order of an index and joins for them alone;
#: with the joins in one SELECT, MariaDB joins and sorts all instances of the project.
_PAGE = (
    sa.select(models.Instance.id)
    .where(
        models.Instance.project_id == sa.bindparam("project_id"),
        # not "IS false": MariaDB finds no index for that
        models.Instance.is_deleted == sa.false(),
        models.Instance.id > sa.bindparam("marker"),
    )
    .order_by(models.Instance.id)
    .limit(sa.bindparam("limit"))
    .subquery("p")
)


def _select_page(kind: _Kind) -> sa.Select[Any]:
    return _select(kind).join(_PAGE, _PAGE.c.id == _instances.c.id).order_by(_instances.c.id)


_LIVE = _instances.c.is_deleted == sa.false()
_ALL = _select(InstanceView).where(_LIVE).order_by(_instances.c.created, _instances.c.id)
_BY_ID = _select(InstanceView).where(_instances.c.id == sa.bindparam("instance_id"))
_LIVE_BY_ID = _BY_ID.where(_LIVE)
_PAGES: Mapping[type, sa.Select[Any]] = {
    kind: _select_page(kind) for kind in (PackedSummary, InstanceView)
}
_REPLICAS = (
    sa.select(_replicas.c.replica_of_id, _replicas.c.id)
    .where(
        _replicas.c.replica_of_id.in_(sa.bindparam("ids", expanding=True)),
        _replicas.c.is_deleted == sa.false(),
    )
    .order_by(_replicas.c.id)
)


def find_view(
    session: orm.Session, instance_id: str, *, project_id: str | None, with_deleted: bool = False
) -> InstanceView | None:
    """Return a live instance, or None; of ``project_id`` only, unless that is None."""
    query = _BY_ID if with_deleted else _LIVE_BY_ID
    row = session.execute(query, {"instance_id": instance_id}).first()
    if row is None:
        return None
    view = _view(InstanceView, row)
    if project_id is not None and view.project_id != project_id:
        return None
    return _with_replicas(session, [view])[0]


def list_views(
    session: orm.Session, kind: type[View], *, project_id: str, limit: int, marker: str | None
) -> tuple[Sequence[View], bool]:
    """Return up to ``limit`` live instances behind ``marker`` by id, and whether there are more."""
    rows = session.execute(
        _PAGES[kind], {"project_id": project_id, "marker": marker or "", "limit": limit + 1}
    ).all()
    views = [_view(kind, row) for row in rows[:limit]]
    return _with_replicas(session, views), len(rows) > limit


_Order = Callable[[sa.FromClause], Sequence[sa.ColumnElement[Any]]]


def list_views_of(
    session: orm.Session, kind: type[View], page: sa.Select[Any], *, order: _Order
) -> Sequence[View]:
    """Return the views of the instances whose ids ``page`` selects, in an order of their columns.

    For other lists than that of :func:`list_views`: the statement is compiled each time anew.
    """
    page = page.add_columns(sa.null().label("place"))
    return [view for view, _ in list_placed_views(session, kind, page, order=order)]


def list_placed_views(
    session: orm.Session, kind: type[View], page: sa.Select[Any], *, order: _Order
) -> Sequence[tuple[View, Any]]:
    """Return views as :func:`list_views_of` does, each with the column ``place`` of ``page``."""
    ids = page.subquery("p")
    query = _select(kind).add_columns(ids.c.place)
    query = query.join(ids, ids.c.id == _instances.c.id).order_by(*order(_instances))
    rows = session.execute(query).all()
    views = [_view(kind, row) for row in rows]
    return list(zip(_with_replicas(session, views), [row[-1] for row in rows], strict=True))


def list_all_views(session: orm.Session) -> Sequence[InstanceView]:
    """Return the live instances of all projects, oldest first: for operators, not for the API."""
    return [_view(InstanceView, row) for row in session.execute(_ALL)]


def _with_replicas(session: orm.Session, views: list[View]) -> list[View]:
    sources = [view.id for view in views if view.has_replicas]
    if not sources:
        return views
    replicas: dict[str, list[str]] = {}
    for source_id, replica_id in session.execute(_REPLICAS, {"ids": sources}):
        replicas.setdefault(source_id, []).append(replica_id)
    return [view._replace(replica_ids=tuple(replicas.get(view.id, ()))) for view in views]
