"""Backups: made, found, changed by compare-and-swap, marked as deleted once their objects are gone.

Every function joins the caller's transaction. A backup that is being made stands in
``instances.running_backup_id`` of its instance, written together with the backup: at most one at a
time, and lists of instances know of it without asking here. Whatever ends the making of a backup
ends that too, in :func:`change_status`.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Collection, Mapping, Sequence
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy import orm

from trove import states
from trove.common import exception
from trove.db import models, operations

#: Longest chain that is followed: a guard, not a limit that anybody should meet.
_LONGEST_CHAIN = 1000

#: Where a backup's status may come from.
TRANSITIONS: Mapping[states.BackupStatus, frozenset[states.BackupStatus]] = {
    states.BackupStatus.NEW: frozenset(),
    states.BackupStatus.RESTORED: frozenset(),
    states.BackupStatus.BUILDING: frozenset({states.BackupStatus.NEW}),
    states.BackupStatus.SAVING: frozenset({states.BackupStatus.NEW, states.BackupStatus.BUILDING}),
    states.BackupStatus.COMPLETED: frozenset({states.BackupStatus.SAVING}),
    states.BackupStatus.FAILED: frozenset(
        status for status in states.BackupStatus if status.is_running
    ),
    states.BackupStatus.DELETE_FAILED: frozenset(
        {
            states.BackupStatus.COMPLETED,
            states.BackupStatus.FAILED,
            states.BackupStatus.RESTORED,
            states.BackupStatus.DELETE_FAILED,
        }
    ),
}

RUNNING = frozenset(status for status in states.BackupStatus if status.is_running)
RESTORABLE = frozenset(status for status in states.BackupStatus if status.is_restorable)

_backups = cast(sa.Table, models.Backup.__table__)
_instances = cast(sa.Table, models.Instance.__table__)
_versions = cast(sa.Table, models.DatastoreVersion.__table__)
_datastores = cast(sa.Table, models.Datastore.__table__)
_operations = cast(sa.Table, models.Operation.__table__)
_jobs = cast(sa.Table, models.GuestJob.__table__)
_heartbeats = cast(sa.Table, models.InstanceHeartbeat.__table__)
_LIVE = _backups.c.is_deleted == sa.false()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class NewBackup:
    """What a backup is made of; the fields are those of :class:`trove.db.models.Backup`."""

    project_id: str
    user_id: str | None
    instance_id: str | None
    name: str
    datastore_version_id: str
    manager: str
    storage_driver: str
    id: str = dataclasses.field(default_factory=models.new_id)
    description: str | None = None
    status: states.BackupStatus = states.BackupStatus.NEW
    kind: states.BackupKind = states.BackupKind.FULL
    parent_id: str | None = None
    schedule_id: str | None = None
    purpose: states.BackupPurpose = states.BackupPurpose.MANUAL
    engine_version: str | None = None
    account_id: str | None = None
    container: str | None = None
    prefix: str | None = None
    location: str | None = None
    stored_bytes: int | None = None
    data_bytes: int | None = None
    volume_size_gib: int | None = None
    manifest_sha256: str | None = None
    key_wrapped: bytes | None = dataclasses.field(default=None, repr=False)
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    archive_epoch: str | None = None
    archive_sequence: int | None = None
    began: datetime.datetime | None = None
    completed: datetime.datetime | None = None
    expires: datetime.datetime | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BackupView:
    """A backup as it was read, with the names of its datastore; sizes are bytes and GiB."""

    id: str
    project_id: str
    user_id: str | None
    instance_id: str | None
    name: str
    description: str | None
    status: states.BackupStatus
    kind: states.BackupKind
    parent_id: str | None
    schedule_id: str | None
    purpose: states.BackupPurpose
    datastore_version_id: str
    manager: str
    engine_version: str | None
    storage_driver: str
    account_id: str | None
    container: str | None
    prefix: str | None
    location: str | None
    volume_owner: str | None
    stored_bytes: int | None
    data_bytes: int | None
    volume_size_gib: int | None
    manifest_sha256: str | None
    key_wrapped: bytes | None = dataclasses.field(repr=False)
    facts: Mapping[str, Any]
    archive_epoch: str | None
    archive_sequence: int | None
    began: datetime.datetime | None
    completed: datetime.datetime | None
    expires: datetime.datetime | None
    verification: states.Verification | None
    verified: datetime.datetime | None
    verification_details: Mapping[str, Any]
    fault: str | None
    created: datetime.datetime
    updated: datetime.datetime
    is_deleted: bool
    #: When it was asked to be deleted, while it is being deleted.
    deleted: datetime.datetime | None
    datastore_name: str
    version_name: str
    version_number: str

    @property
    def is_deleting(self) -> bool:
        """Tell whether its objects are being removed: nothing can be made of it any more."""
        return self.deleted is not None

    @property
    def is_running(self) -> bool:
        """Tell whether it is being made."""
        return self.status.is_running

    @property
    def is_restorable(self) -> bool:
        """Tell whether a database can be made from it."""
        return self.status.is_restorable and not self.is_deleted and not self.is_deleting


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """Which backups a list has; None: whatever it is."""

    project_id: str | None = None
    instance_id: str | None = None
    datastore_id: str | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """How many backups there are, and what they take in the storage."""

    count: int
    stored_bytes: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far the making of a backup is: bytes of the engine's data, about how many there are."""

    percent: int | None
    done_bytes: int | None
    total_bytes: int | None
    since: datetime.datetime
    reported: datetime.datetime


_NAMES: Mapping[str, sa.ColumnElement[Any]] = {
    "datastore_name": _datastores.c.name,
    "version_name": _versions.c.name,
    "version_number": _versions.c.version,
}
_FIELDS = tuple(field.name for field in dataclasses.fields(BackupView))
_SELECT = (
    sa.select(
        *(
            _NAMES[name].label(name) if name in _NAMES else _backups.c[name].label(name)
            for name in _FIELDS
        )
    )
    .select_from(_backups)
    .join(_versions, _versions.c.id == _backups.c.datastore_version_id)
    .join(_datastores, _datastores.c.id == _versions.c.datastore_id)
)


def _views(session: orm.Session, query: sa.Select[Any]) -> list[BackupView]:
    return [BackupView(**row._mapping) for row in session.execute(query)]


# -- making and changing -----


def create(
    session: orm.Session,
    new: NewBackup,
    *,
    now: datetime.datetime,
    tasks: Collection[states.TaskStatus] = frozenset(states.TaskStatus),
) -> bool:
    """Add a backup; False, and nothing is added, while another one of its instance is being made.

    Neither is one of an instance that is in none of ``tasks``. One whose status is not that of a
    running one is added in any case.
    """
    if new.status.is_running and not _begin(session, str(new.instance_id), new.id, tasks):
        return False
    values = {field.name: getattr(new, field.name) for field in dataclasses.fields(new)}
    session.execute(
        sa.insert(models.Backup).values(
            **{**values, "facts": dict(new.facts)},
            verification_details={},
            is_deleted=False,
            created=now,
            updated=now,
        )
    )
    return True


def _begin(
    session: orm.Session,
    instance_id: str,
    backup_id: str,
    tasks: Collection[states.TaskStatus],
) -> bool:
    result = session.execute(
        sa.update(_instances)
        .where(
            _instances.c.id == instance_id,
            _instances.c.is_deleted == sa.false(),
            _instances.c.running_backup_id.is_(None),
            _instances.c.task.in_(sorted(tasks)),
        )
        .values(running_backup_id=backup_id)
    )
    return bool(result.rowcount)  # type: ignore[attr-defined]


def change_status(
    session: orm.Session,
    backup_id: str,
    *,
    expect: states.BackupStatus | Collection[states.BackupStatus],
    to: states.BackupStatus,
    now: datetime.datetime,
    **values: Any,
) -> bool:
    """Change the status from one of ``expect``, with further columns; tell whether it was one.

    Its instance is free for others as soon as it is not being made any more. Raises ValueError for
    a change that :data:`TRANSITIONS` do not allow.
    """
    wanted = {expect} if isinstance(expect, states.BackupStatus) else set(expect)
    for status in wanted:
        if status not in TRANSITIONS[to]:
            raise ValueError(f"a backup does not go from {status.value} to {to.value}")
    is_changed = _update(
        session, backup_id, _backups.c.status.in_(sorted(wanted)), status=to, updated=now, **values
    )
    if is_changed and not to.is_running:
        _end(session, backup_id)
    return is_changed


def fail_running(
    session: orm.Session, instance_id: str, *, reason: str, now: datetime.datetime
) -> str | None:
    """Have the backup fail that is being made of an instance; return its id, None without one."""
    running_id = session.scalar(
        sa.select(_instances.c.running_backup_id).where(_instances.c.id == instance_id)
    )
    if running_id is not None:
        change_status(
            session,
            running_id,
            expect=RUNNING,
            to=states.BackupStatus.FAILED,
            now=now,
            fault=reason,
        )
    return running_id


def _end(session: orm.Session, backup_id: str) -> None:
    instance_id = session.scalar(
        sa.select(_backups.c.instance_id).where(_backups.c.id == backup_id)
    )
    if instance_id is not None:
        session.execute(
            sa.update(_instances)
            .where(_instances.c.id == instance_id, _instances.c.running_backup_id == backup_id)
            .values(running_backup_id=None)
        )


def update(
    session: orm.Session,
    backup_id: str,
    *,
    now: datetime.datetime,
    expect: Collection[states.BackupStatus] | None = None,
    **values: Any,
) -> bool:
    """Change columns other than the status, of one in a status of ``expect`` if that is given."""
    if "status" in values:
        raise ValueError("the status changes by change_status")
    conditions = [] if expect is None else [_backups.c.status.in_(sorted(expect))]
    return _update(session, backup_id, *conditions, updated=now, **values)


def _update(
    session: orm.Session, backup_id: str, *conditions: sa.ColumnElement[bool], **values: Any
) -> bool:
    result = session.execute(
        sa.update(models.Backup)
        .where(_backups.c.id == backup_id, _LIVE, *conditions)
        .values(**values)
        .execution_options(synchronize_session=False)
    )
    return bool(result.rowcount)  # type: ignore[attr-defined]


def record_verification(
    session: orm.Session,
    backup_id: str,
    *,
    verification: states.Verification | None,
    details: Mapping[str, Any] | None = None,
    verified: datetime.datetime | None = None,
) -> bool:
    """Write how the proof of a backup stands; when it was changed last stays, for lists' order."""
    values: dict[str, Any] = {"verification": verification}
    if details is not None:
        values["verification_details"] = dict(details)
    if verified is not None:
        values["verified"] = verified
    return _update(session, backup_id, **values)


def end_verifications(session: orm.Session, instance_id: str) -> None:
    """Note that no backup of an instance is being proven any more."""
    session.execute(
        sa.update(models.Backup)
        .where(
            _backups.c.instance_id == instance_id,
            _backups.c.verification == states.Verification.RUNNING,
        )
        .values(verification=None)
        .execution_options(synchronize_session=False)
    )


def hold(session: orm.Session, backup_id: str) -> bool:
    """Keep a backup from being deleted until the transaction ends; False when it cannot be used.

    SQLite knows no such locks and needs none: its writers come one after the other.
    """
    query = (
        sa.select(_backups.c.id)
        .where(
            _backups.c.id == backup_id,
            _LIVE,
            _backups.c.deleted.is_(None),
            _backups.c.status.in_(sorted(RESTORABLE)),
        )
        .with_for_update()
    )
    return session.scalar(query) is not None


def begin_delete(
    session: orm.Session, backup_id: str, *, now: datetime.datetime
) -> Sequence[tuple[str, states.BackupStatus]]:
    """Mark a backup and all that is built on it as about to be deleted.

    Returns (id, status) of all of them, the last increments first. Level by level: whoever adds an
    increment holds what it builds on (:func:`hold`), so none is missed.
    """
    marked: list[tuple[str, states.BackupStatus]] = []
    level = [backup_id]
    while level:
        session.execute(
            sa.update(models.Backup)
            .where(_backups.c.id.in_(level), _LIVE, _backups.c.deleted.is_(None))
            .values(deleted=now)
            .execution_options(synchronize_session=False)
        )
        rows = session.execute(
            sa.select(_backups.c.id, _backups.c.status)
            .where(_backups.c.id.in_(level), _LIVE)
            .order_by(_backups.c.id)
        ).all()
        marked += [(row.id, row.status) for row in rows]
        level = list(
            session.scalars(sa.select(_backups.c.id).where(_backups.c.parent_id.in_(level), _LIVE))
        )
    return marked[::-1]


def mark_deleted(session: orm.Session, backup_id: str, *, now: datetime.datetime) -> bool:
    """End a backup that is not being made and forget its key; True only for the caller that did it.

    What belongs to the end exactly once (quota) hangs on the answer.
    """
    return _update(
        session,
        backup_id,
        _backups.c.status.not_in(sorted(RUNNING)),
        is_deleted=True,
        deleted=now,
        updated=now,
        key_wrapped=None,
    )


def forget_deleted(session: orm.Session, backup_id: str) -> None:
    """Remove the row of a backup that was deleted, so that it can be registered again."""
    session.execute(
        sa.delete(models.Backup)
        .where(_backups.c.id == backup_id, _backups.c.is_deleted == sa.true())
        .execution_options(synchronize_session=False)
    )


# -- reading -----


def find(
    session: orm.Session,
    backup_id: str,
    *,
    project_id: str | None = None,
    with_deleted: bool = False,
) -> BackupView | None:
    """Return a backup, or None; of ``project_id`` only, unless that is None."""
    query = _SELECT.where(_backups.c.id == backup_id)
    if not with_deleted:
        query = query.where(_LIVE)
    if project_id is not None:
        query = query.where(_backups.c.project_id == project_id)
    found = _views(session, query)
    return found[0] if found else None


def get(session: orm.Session, backup_id: str, *, project_id: str | None = None) -> BackupView:
    """Return a backup; raises BackupNotFound."""
    found = find(session, backup_id, project_id=project_id)
    if found is None:
        raise exception.BackupNotFound(backup_id=backup_id)
    return found


def list_page(
    session: orm.Session, filters: Filters, *, limit: int, offset: int = 0
) -> tuple[Sequence[BackupView], bool]:
    """Return up to ``limit`` backups behind the first ``offset``, and whether there are more.

    Newest change first. The ids of the page come from an index alone; only for them is joined.
    """
    page = sa.select(_backups.c.id).where(_LIVE)
    if filters.project_id is not None:
        page = page.where(_backups.c.project_id == filters.project_id)
    if filters.instance_id is not None:
        page = page.where(_backups.c.instance_id == filters.instance_id)
    if filters.datastore_id is not None:
        versions = session.scalars(
            sa.select(_versions.c.id).where(_versions.c.datastore_id == filters.datastore_id)
        )
        page = page.where(_backups.c.datastore_version_id.in_(list(versions)))
    order = (_backups.c.updated.desc(), _backups.c.id.desc())
    ids = page.order_by(*order).limit(limit + 1).offset(offset).subquery("p")
    found = _views(session, _SELECT.join(ids, ids.c.id == _backups.c.id).order_by(*order))
    return found[:limit], len(found) > limit


def list_of_instance(
    session: orm.Session,
    instance_id: str,
    *,
    statuses: Collection[states.BackupStatus] | None = None,
    limit: int | None = None,
) -> Sequence[BackupView]:
    """Return the backups of an instance, newest first by when they were begun."""
    query = _SELECT.where(_backups.c.instance_id == instance_id, _LIVE)
    if statuses is not None:
        query = query.where(_backups.c.status.in_(sorted(statuses)))
    query = query.order_by(_backups.c.created.desc(), _backups.c.id.desc())
    return _views(session, query if limit is None else query.limit(limit))


def find_running(session: orm.Session, instance_id: str) -> BackupView | None:
    """Return the backup that is being made of an instance, or None."""
    running_id = session.scalar(
        sa.select(_instances.c.running_backup_id).where(_instances.c.id == instance_id)
    )
    return None if running_id is None else find(session, running_id)


def find_last_completed(session: orm.Session, instance_id: str) -> BackupView | None:
    """Return what an increment can be made of: the newest completed backup, no snapshot; or None.

    Of snapshots there are no increments.
    """
    query = _SELECT.where(
        _backups.c.instance_id == instance_id,
        _LIVE,
        _backups.c.status == states.BackupStatus.COMPLETED,
        _backups.c.deleted.is_(None),
        _backups.c.kind != states.BackupKind.SNAPSHOT,
    )
    found = _views(
        session, query.order_by(_backups.c.created.desc(), _backups.c.id.desc()).limit(1)
    )
    return found[0] if found else None


def chain(session: orm.Session, backup_id: str) -> Sequence[BackupView]:
    """Return what a database is restored from: the full backup, then its increments, to this one.

    Raises BackupNotFound when a part of it is missing.
    """
    first = sa.select(
        _backups.c.id, _backups.c.parent_id, sa.literal(0, sa.Integer).label("depth")
    ).where(_backups.c.id == backup_id, _LIVE)
    links = first.cte("links", recursive=True)
    parents = _backups.alias("parents")
    links = links.union_all(
        sa.select(parents.c.id, parents.c.parent_id, links.c.depth + 1)
        .join(links, links.c.parent_id == parents.c.id)
        .where(parents.c.is_deleted == sa.false(), links.c.depth < _LONGEST_CHAIN)
    )
    found = _views(
        session, _SELECT.join(links, links.c.id == _backups.c.id).order_by(links.c.depth.desc())
    )
    if not found:
        raise exception.BackupNotFound(backup_id=backup_id)
    if found[0].parent_id is not None:
        raise exception.BackupNotFound(backup_id=found[0].parent_id)
    return found


def list_children(session: orm.Session, backup_id: str) -> Sequence[BackupView]:
    """Return the increments of a backup, oldest first."""
    query = _SELECT.where(_backups.c.parent_id == backup_id, _LIVE)
    return _views(session, query.order_by(_backups.c.created, _backups.c.id))


def list_descendants(session: orm.Session, backup_id: str) -> Sequence[BackupView]:
    """Return all that is built on a backup, the last increments first."""
    first = sa.select(_backups.c.id, sa.literal(0, sa.Integer).label("depth")).where(
        _backups.c.id == backup_id
    )
    links = first.cte("links", recursive=True)
    increments = _backups.alias("increments")
    links = links.union_all(
        sa.select(increments.c.id, links.c.depth + 1)
        .join(links, increments.c.parent_id == links.c.id)
        .where(increments.c.is_deleted == sa.false(), links.c.depth < _LONGEST_CHAIN)
    )
    query = _SELECT.join(links, links.c.id == _backups.c.id).where(links.c.depth > 0)
    return _views(session, query.order_by(links.c.depth.desc(), _backups.c.id))


def find_making(session: orm.Session, backup_id: str) -> str | None:
    """Return the operation that makes a backup, None when none does."""
    row = session.execute(
        sa.select(_operations.c.id, _operations.c.data)
        .join(_backups, _backups.c.instance_id == _operations.c.resource_id)
        .where(
            _backups.c.id == backup_id,
            _operations.c.kind.in_((operations.CREATE_BACKUP, operations.SNAPSHOT_BACKUP)),
            _operations.c.state.in_([s for s in states.OperationState if s.is_active]),
        )
    ).first()
    return None if row is None or row.data.get("backup_id") != backup_id else str(row.id)


def find_progress(session: orm.Session, backup_id: str, *, instance_id: str) -> Progress | None:
    """Return how far the making of a backup is, as its agent last said; None if it did not."""
    row = session.execute(
        sa.select(
            _jobs.c.operation_id,
            _heartbeats.c.job_progress_percent,
            _heartbeats.c.job_done_bytes,
            _heartbeats.c.job_total_bytes,
            _heartbeats.c.received,
            _operations.c.created,
            _operations.c.data,
        )
        .select_from(_heartbeats)
        .join(_jobs, _jobs.c.id == _heartbeats.c.job_id)
        .join(_operations, _operations.c.id == _jobs.c.operation_id)
        .where(_heartbeats.c.instance_id == instance_id, _jobs.c.succeeded.is_(None))
    ).first()
    if row is None or row.data.get("backup_id") != backup_id:
        return None
    return Progress(
        percent=row.job_progress_percent,
        done_bytes=row.job_done_bytes,
        total_bytes=row.job_total_bytes,
        since=row.created,
        reported=row.received,
    )


def get_usage(session: orm.Session, project_id: str | None = None) -> Usage:
    """Return how many backups a project has, or all have, and what they take."""
    query = sa.select(
        sa.func.count(), sa.func.coalesce(sa.func.sum(_backups.c.stored_bytes), 0)
    ).where(_LIVE)
    if project_id is not None:
        query = query.where(_backups.c.project_id == project_id)
    count, stored = session.execute(query).one()
    return Usage(count=int(count), stored_bytes=int(stored))


def list_places(session: orm.Session, storage_driver: str) -> Sequence[tuple[str, str]]:
    """Return each (account, container) that something of a kind of store was put in, in order."""
    rows = session.execute(
        sa.select(_backups.c.account_id, _backups.c.container)
        .where(
            _backups.c.storage_driver == storage_driver,
            _backups.c.account_id.is_not(None),
            _backups.c.container.is_not(None),
        )
        .distinct()
        .order_by(_backups.c.account_id, _backups.c.container)
    )
    return [(row.account_id, row.container) for row in rows]


def list_snapshot_sources(session: orm.Session) -> set[str]:
    """Return who has volumes that there are snapshots of, also instances that are deleted."""
    owner = sa.func.coalesce(_backups.c.volume_owner, _backups.c.instance_id)
    query = (
        sa.select(owner)
        .where(_LIVE, _backups.c.kind == states.BackupKind.SNAPSHOT, owner.is_not(None))
        .distinct()
    )
    return set(session.scalars(query))


def give_snapshots(session: orm.Session, instance_id: str, *, owner_id: str) -> None:
    """Note who has the volume from now on that the snapshots of an instance's are of."""
    session.execute(
        sa.update(_backups)
        .where(
            _LIVE,
            _backups.c.instance_id == instance_id,
            _backups.c.kind == states.BackupKind.SNAPSHOT,
            _backups.c.volume_owner.is_(None),
        )
        .values(volume_owner=owner_id)
    )


def take_snapshots_back(session: orm.Session, instance_id: str, *, owner_id: str) -> None:
    """Note that an instance has the volume again that an owner had."""
    session.execute(
        sa.update(_backups)
        .where(_backups.c.instance_id == instance_id, _backups.c.volume_owner == owner_id)
        .values(volume_owner=None)
    )


def list_statuses(
    session: orm.Session, backup_ids: Collection[str]
) -> Mapping[str, states.BackupStatus]:
    """Return the statuses of those that are there."""
    query = sa.select(_backups.c.id, _backups.c.status).where(
        _backups.c.id.in_(sorted(backup_ids)), _LIVE
    )
    return {row.id: row.status for row in session.execute(query)}


# -- proofs -----


def count_verifications(session: orm.Session) -> Mapping[states.Verification | None, int]:
    """Return how many backups that can be restored are proven, and how; None: never tried."""
    rows = session.execute(
        sa.select(_backups.c.verification, sa.func.count())
        .where(_LIVE, _backups.c.status.in_(sorted(RESTORABLE)))
        .group_by(_backups.c.verification)
    )
    found: dict[states.Verification | None, int] = dict.fromkeys((*states.Verification, None), 0)
    return found | {verification: int(count) for verification, count in rows}


def list_unproven(
    session: orm.Session, *, since: datetime.datetime, limit: int | None = None
) -> Sequence[tuple[str, str]]:
    """Return (instance, project) of live instances none of whose backups was proven since then.

    Those that have had none to prove for as long do not count.
    """
    proven = _backups.alias("proven")
    query = (
        sa.select(_instances.c.id, _instances.c.project_id)
        .join(_backups, _backups.c.instance_id == _instances.c.id)
        .where(
            _instances.c.is_deleted == sa.false(),
            _LIVE,
            _backups.c.status.in_(sorted(RESTORABLE)),
            _backups.c.kind != states.BackupKind.SNAPSHOT,
            _backups.c.completed < since,
            ~sa.exists().where(
                proven.c.instance_id == _instances.c.id,
                proven.c.kind != states.BackupKind.SNAPSHOT,
                proven.c.verification == states.Verification.PASSED,
                proven.c.verified >= since,
            ),
        )
        .distinct()
        .order_by(_instances.c.id)
        .limit(limit)
    )
    return [(row.id, row.project_id) for row in session.execute(query)]
