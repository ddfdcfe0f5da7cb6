"""Persisted operations: how they are made, claimed, stepped, woken and ended.

The invariants, each a conditional UPDATE and never a check followed by a write:

* At most one active operation holds a ``lock_key``; an ended one holds none.
* Only the claim whose token stands in ``owner`` may save a step, and only from the step it
  expects; a claim is taken when there is no owner or the owner's lease has run out.
* An event for a resource increments ``signals``; a wait is stored only if ``signals`` is what it
  was when the step began, so no event is lost between a look and a wait.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from oslo_db import exception as oslo_db_exception
from oslo_log import log
from sqlalchemy import orm

from trove import states
from trove.common import exception
from trove.db import announcements, models

LOG = log.getLogger(__name__)

#: Kinds of operations.
CREATE_INSTANCE = "create_instance"
DELETE_INSTANCE = "delete_instance"
RESTART_INSTANCE = "restart_instance"
RECOVER_INSTANCE = "recover_instance"
CLEANUP = "cleanup"
AUDIT = "audit"
CONFIGURE_INSTANCE = "configure_instance"
RESIZE_FLAVOR = "resize_flavor"
RESIZE_VOLUME = "resize_volume"
UPDATE_ACCESS = "update_access"
UPGRADE_INSTANCE = "upgrade_instance"
REBUILD_INSTANCE = "rebuild_instance"
REBOOT_INSTANCE = "reboot_instance"
STOP_DATABASE = "stop_database"
MIGRATE_INSTANCE = "migrate_instance"
UPDATE_SSL = "update_ssl"
REAPPLY_MODULE = "reapply_module"
UPGRADE_AGENT = "upgrade_agent"
RESTORE_INSTANCE = "restore_instance"
RESTORE_SNAPSHOT = "restore_snapshot"
VERIFY_BACKUP = "verify_backup"
VERIFY_ON_SERVER = "verify_on_server"
VERIFY_ON_HOST = "verify_on_host"
STOP_ARCHIVE = "stop_archive"
CREATE_BACKUP = "create_backup"
SNAPSHOT_BACKUP = "snapshot_backup"
DELETE_BACKUP = "delete_backup"
DISCARD_BACKUP = "discard_backup"

#: Those that prove a backup.
PROOFS = frozenset({VERIFY_BACKUP, VERIFY_ON_SERVER, VERIFY_ON_HOST})

#: Where each kind begins: what ``create(step=...)`` is given.
FIRST_STEPS: Mapping[str, str] = {
    CREATE_INSTANCE: "create_port",
    DELETE_INSTANCE: "supersede",
    RESTART_INSTANCE: "restart_engine",
    RECOVER_INSTANCE: "start_server",
    UPDATE_SSL: "register_consumer",
    REAPPLY_MODULE: "reapply",
    UPGRADE_AGENT: "install_release",
    CLEANUP: "delete_orphan",
    AUDIT: "tell_of_instances",
    CONFIGURE_INSTANCE: "configure",
    RESIZE_FLAVOR: "stop_engine",
    RESIZE_VOLUME: "stop_engine",
    UPDATE_ACCESS: "update_access",
    UPGRADE_INSTANCE: "check_image",
    REBUILD_INSTANCE: "check_image",
    REBOOT_INSTANCE: "note_start",
    STOP_DATABASE: "stop_engine",
    MIGRATE_INSTANCE: "migrate_server",
    RESTORE_INSTANCE: "await_backup",
    RESTORE_SNAPSHOT: "await_backup",
    VERIFY_BACKUP: "verify",
    VERIFY_ON_SERVER: "add_server",
    VERIFY_ON_HOST: "choose_host",
    STOP_ARCHIVE: "stop_archive",
    CREATE_BACKUP: "choose_place",
    SNAPSHOT_BACKUP: "freeze",
    DELETE_BACKUP: "await_end",
    DISCARD_BACKUP: "remove_objects",
}

#: Those that put another database in the place of an instance's.
RESTORATIONS = (RESTORE_INSTANCE, RESTORE_SNAPSHOT)


def instance_lock(instance_id: str) -> str:
    """Return the lock key of all operations on an instance but its deletion."""
    return f"instance:{instance_id}"


def delete_lock(instance_id: str) -> str:
    """Return the lock key of the deletion of an instance."""
    return f"delete:{instance_id}"


def backup_lock(backup_id: str) -> str:
    """Return the lock key of the deletion of a backup."""
    return f"backup:{backup_id}"


#: How an operation is asked to end early.
UNDO = "undo"
SUPERSEDE = "supersede"

_STATE_TYPE = models.EnumString(states.OperationState)
_IS_ACTIVE = models.Operation.state.in_([s for s in states.OperationState if s.is_active])


def _is_free(now: datetime.datetime) -> sa.ColumnElement[bool]:
    return sa.or_(models.Operation.owner.is_(None), models.Operation.lease_until < now)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """An operation as it was read."""

    id: str
    kind: str
    resource_id: str
    lock_key: str | None
    state: states.OperationState
    step: str
    data: Mapping[str, Any]
    secret_wrapped: bytes | None = dataclasses.field(repr=False)
    host: str | None
    owner: str | None
    lease_until: datetime.datetime | None
    signals: int
    wake_on: str | None
    wake_at: datetime.datetime
    deadline: datetime.datetime
    attempts: int
    cancel: str | None
    error: str | None
    request_id: str | None
    project_id: str
    user_id: str | None
    progress: int
    created: datetime.datetime
    updated: datetime.datetime


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class JournalEntry:
    """One line of an operation's journal."""

    step: str
    event: str
    message: str | None
    created: datetime.datetime
    timings: Mapping[str, float] | None = None


_COLUMNS = tuple(getattr(models.Operation, f.name) for f in dataclasses.fields(Operation))


def _from_row(row: sa.Row[Any]) -> Operation:
    return Operation(**row._mapping)


# -- making and reading -----


def create(
    session: orm.Session,
    *,
    kind: str,
    resource_id: str,
    lock_key: str | None,
    deadline: datetime.datetime,
    now: datetime.datetime,
    project_id: str,
    step: str | None = None,
    data: Mapping[str, Any] | None = None,
    secret_wrapped: bytes | None = None,
    request_id: str | None = None,
    user_id: str | None = None,
    operation_id: str | None = None,
) -> str:
    """Add an operation, due at once, and return its id.

    ``step`` is by default the first of its kind. Raises Conflict while an active operation holds
    ``lock_key``; the caller's transaction can go on.
    """
    operation = models.Operation(
        id=operation_id or models.new_id(),
        kind=kind,
        resource_id=resource_id,
        lock_key=lock_key,
        state=states.OperationState.PENDING,
        step=step or FIRST_STEPS[kind],
        data=dict(data or {}),
        secret_wrapped=secret_wrapped,
        wake_at=now,
        deadline=deadline,
        request_id=request_id,
        project_id=project_id,
        user_id=user_id,
        created=now,
        updated=now,
    )
    try:
        with session.begin_nested():
            session.add(operation)
    except oslo_db_exception.DBDuplicateEntry:
        raise exception.Conflict(
            reason=f"another operation is running on {resource_id}; wait until it has ended"
        ) from None
    announcements.accepted(session, operation)
    return operation.id


def get(session: orm.Session, operation_id: str) -> Operation:
    """Return an operation; raises OperationNotFound."""
    row = session.execute(
        sa.select(*_COLUMNS).where(models.Operation.id == operation_id)
    ).one_or_none()
    if row is None:
        raise exception.OperationNotFound(operation_id=operation_id)
    return _from_row(row)


def list_operations(
    session: orm.Session,
    *,
    resource_id: str | None = None,
    kind: str | None = None,
    active_only: bool = False,
    limit: int = 100,
) -> Sequence[Operation]:
    """Return operations, newest first."""
    query = sa.select(*_COLUMNS)
    if resource_id is not None:
        query = query.where(models.Operation.resource_id == resource_id)
    if kind is not None:
        query = query.where(models.Operation.kind == kind)
    if active_only:
        query = query.where(_IS_ACTIVE)
    query = query.order_by(models.Operation.created.desc(), models.Operation.id).limit(limit)
    return [_from_row(row) for row in session.execute(query)]


def list_active_resources(session: orm.Session) -> frozenset[str]:
    """Return the ids of all resources that an active operation works on.

    Among them are those of operations that have something of their own besides.
    """
    query = sa.select(models.Operation.resource_id).where(_IS_ACTIVE)
    own = sa.select(models.Operation.id).where(
        _IS_ACTIVE, models.Operation.kind == RESTORE_SNAPSHOT
    )
    return frozenset([*session.scalars(query), *session.scalars(own)])


def is_active(session: orm.Session, operation_id: str) -> bool:
    """Tell whether there is an operation of an id that is not over."""
    query = sa.select(models.Operation.id).where(models.Operation.id == operation_id, _IS_ACTIVE)
    return session.scalar(query) is not None


def has_active(session: orm.Session, *, resource_id: str, exclude_id: str | None = None) -> bool:
    """Tell whether an active operation, other than ``exclude_id``, works on a resource."""
    query = sa.select(models.Operation.id).where(
        models.Operation.resource_id == resource_id, _IS_ACTIVE
    )
    if exclude_id is not None:
        query = query.where(models.Operation.id != exclude_id)
    return session.scalar(query.limit(1)) is not None


def is_locked(session: orm.Session, lock_key: str) -> bool:
    """Tell whether an active operation holds a lock."""
    query = sa.select(models.Operation.id).where(models.Operation.lock_key == lock_key)
    return session.scalar(query.limit(1)) is not None


def due(
    session: orm.Session, *, now: datetime.datetime, limit: int, host: str | None = None
) -> Sequence[str]:
    """Return ids of operations that somebody should claim now, longest due first.

    With a host they are those that are pinned to it, else those that are pinned to none.
    """
    query = (
        sa.select(models.Operation.id)
        .where(
            _IS_ACTIVE,
            models.Operation.wake_at <= now,
            models.Operation.host == host,
            _is_free(now),
        )
        .order_by(models.Operation.wake_at)
        .limit(limit)
    )
    return list(session.scalars(query))


def list_pinned(session: orm.Session, host: str) -> frozenset[str]:
    """Return the ids of the active operations that are pinned to a host."""
    query = sa.select(models.Operation.id).where(_IS_ACTIVE, models.Operation.host == host)
    return frozenset(session.scalars(query))


def list_pinning(session: orm.Session) -> frozenset[str]:
    """Return the hosts that active operations are pinned to."""
    query = sa.select(models.Operation.host).where(_IS_ACTIVE, models.Operation.host.is_not(None))
    return frozenset(host for host in session.scalars(query.distinct()) if host is not None)


def journal(
    session: orm.Session,
    operation_id: str,
    *,
    step: str,
    event: str,
    now: datetime.datetime,
    message: str | None = None,
    timings: Mapping[str, float] | None = None,
) -> None:
    """Append to the journal of an operation; ``timings`` as in operation_timings."""
    session.execute(
        sa.insert(models.OperationStep).values(
            operation_id=operation_id,
            step=step,
            event=event,
            message=message,
            timings=None if timings is None else dict(timings),
            created=now,
        )
    )


def list_journal(session: orm.Session, operation_id: str) -> Sequence[JournalEntry]:
    """Return the journal of an operation, oldest first."""
    rows = session.scalars(
        sa.select(models.OperationStep)
        .where(models.OperationStep.operation_id == operation_id)
        .order_by(models.OperationStep.id)
    )
    return [
        JournalEntry(
            step=row.step,
            event=row.event,
            message=row.message,
            created=row.created,
            timings=row.timings,
        )
        for row in rows
    ]


# -- waking and cancelling: anybody may -----


def signal(
    session: orm.Session, *, resource_id: str, event: str, now: datetime.datetime
) -> list[str]:
    """Tell the active operations of a resource that something happened to it; return their ids.

    An operation that waits for anything is due at once: which event it waits for is only for
    people, so that a look too many is all that a misnamed event costs. An operation that backs off
    after an error keeps its time. The caller hints the ids after its commit.
    """
    LOG.debug("signal %s for %s", event, resource_id)
    return _poke(
        session,
        models.Operation.resource_id == resource_id,
        now=now,
        wake_at=sa.case(
            (
                sa.and_(models.Operation.wake_on.is_not(None), models.Operation.wake_at > now),
                sa.literal(now, models.UtcDateTime()),
            ),
            else_=models.Operation.wake_at,
        ),
    )


def put_right(
    session: orm.Session, *, now: datetime.datetime, ahead: datetime.timedelta, lease_s: float
) -> list[str]:
    """Have go on at once what a clock put off that was ahead of ``now``; return the ids.

    Whoever holds a claim keeps it, and loses it in time when nobody prolongs it.
    """
    until = now + datetime.timedelta(seconds=lease_s)
    return _poke(
        session,
        sa.or_(
            models.Operation.updated > now + ahead, models.Operation.lease_until > until + ahead
        ),
        now=now,
        wake_at=_at_most(models.Operation.wake_at, now),
        lease_until=_at_most(models.Operation.lease_until, until),
    )


def _at_most(column: Any, moment: datetime.datetime) -> sa.ColumnElement[Any]:
    return sa.case((column > moment, sa.literal(moment, models.UtcDateTime())), else_=column)


def request_cancel(
    session: orm.Session,
    *,
    mode: str,
    now: datetime.datetime,
    resource_id: str | None = None,
    operation_id: str | None = None,
    exclude_id: str | None = None,
) -> list[str]:
    """Ask operations to end at their next step boundary; return the ids of those asked.

    ``mode`` is UNDO (take back what was done) or SUPERSEDE (leave everything to the caller, who
    takes over); SUPERSEDE overrides UNDO. Give a resource, whose active operations other than
    ``exclude_id`` are meant, or one operation.
    """
    conditions: list[sa.ColumnElement[bool]] = []
    if resource_id is not None:
        conditions.append(models.Operation.resource_id == resource_id)
    if operation_id is not None:
        conditions.append(models.Operation.id == operation_id)
    if not conditions or mode not in (UNDO, SUPERSEDE):
        raise ValueError("request_cancel needs a target and a known mode")
    if exclude_id is not None:
        conditions.append(models.Operation.id != exclude_id)
    if mode == UNDO:
        conditions.append(models.Operation.cancel.is_(None))
    else:
        conditions.append(
            sa.or_(models.Operation.cancel.is_(None), models.Operation.cancel != SUPERSEDE)
        )
    return _poke(session, *conditions, now=now, cancel=mode, wake_at=now)


def unpin(session: orm.Session, host: str, *, now: datetime.datetime) -> list[str]:
    """Take its operations from a host that is gone; return their ids.

    Whoever is to go on with one claims it once the lease of the host has run out.
    """
    return _poke(session, models.Operation.host == host, now=now, host=None, wake_at=now)


def _poke(
    session: orm.Session, *conditions: sa.ColumnElement[bool], now: datetime.datetime, **values: Any
) -> list[str]:
    """Count an event on active operations and return their ids."""
    ids = list(session.scalars(sa.select(models.Operation.id).where(_IS_ACTIVE, *conditions)))
    if ids:
        # by primary key: no locks on the ranges of secondary indexes
        session.execute(
            sa.update(models.Operation)
            .where(models.Operation.id.in_(ids), _IS_ACTIVE)
            .values(signals=models.Operation.signals + 1, updated=now, **values)
            .execution_options(synchronize_session=False)
        )
    return ids


# -- working on it: only the claim may -----


def claim(
    session: orm.Session,
    operation_id: str,
    *,
    owner: str,
    now: datetime.datetime,
    lease_s: float,
    host: str | None = None,
) -> Operation | None:
    """Take an operation that is due, free and not another host's; None when it is not.

    ``owner`` must be new for each claim: it is what all later writes are conditional on.
    """
    result = session.execute(
        sa.update(models.Operation)
        .where(
            models.Operation.id == operation_id,
            _IS_ACTIVE,
            models.Operation.wake_at <= now,
            models.Operation.host == host,
            _is_free(now),
        )
        .values(
            owner=owner,
            lease_until=now + datetime.timedelta(seconds=lease_s),
            state=sa.case(
                (
                    models.Operation.state == states.OperationState.PENDING,
                    sa.literal(states.OperationState.RUNNING, _STATE_TYPE),
                ),
                else_=models.Operation.state,
            ),
            updated=now,
        )
        .execution_options(synchronize_session=False)
    )
    if not result.rowcount:  # type: ignore[attr-defined]
        return None
    return get(session, operation_id)


def renew(
    session: orm.Session, owners: Collection[str], *, now: datetime.datetime, lease_s: float
) -> int:
    """Prolong the leases of claims that still hold; return how many do."""
    if not owners:
        return 0
    held = sa.select(models.Operation.id).where(
        models.Operation.owner.in_(list(owners)), _IS_ACTIVE
    )
    result = session.execute(
        sa.update(models.Operation)
        .where(
            models.Operation.id.in_(list(session.scalars(held))),
            models.Operation.owner.in_(list(owners)),
        )
        .values(lease_until=now + datetime.timedelta(seconds=lease_s))
        .execution_options(synchronize_session=False)
    )
    return int(result.rowcount)  # type: ignore[attr-defined]


def give_back(session: orm.Session, owners: Collection[str], *, now: datetime.datetime) -> int:
    """Free the operations of claims whose holder does not know how its last write ended.

    They are due at once; whoever claims one next runs its step again. Returns how many there were.
    """
    held = sa.select(models.Operation.id).where(
        models.Operation.owner.in_(list(owners)), _IS_ACTIVE
    )
    result = session.execute(
        sa.update(models.Operation)
        .where(
            models.Operation.id.in_(list(session.scalars(held))),
            models.Operation.owner.in_(list(owners)),
        )
        .values(owner=None, lease_until=None, wake_at=now, updated=now)
        .execution_options(synchronize_session=False)
    )
    return int(result.rowcount)  # type: ignore[attr-defined]


def _write(
    session: orm.Session,
    operation: Operation,
    *conditions: sa.ColumnElement[bool],
    now: datetime.datetime,
    **values: Any,
) -> bool:
    """Write to a claimed operation where it still stands as it was read."""
    result = session.execute(
        sa.update(models.Operation)
        .where(
            models.Operation.id == operation.id,
            models.Operation.owner == operation.owner,
            models.Operation.step == operation.step,
            models.Operation.state == operation.state,
            *conditions,
        )
        .values(updated=now, **values)
        .execution_options(synchronize_session=False)
    )
    return bool(result.rowcount)  # type: ignore[attr-defined]


def pin(session: orm.Session, operation: Operation, *, host: str, now: datetime.datetime) -> bool:
    """Have a host alone go on with a claimed operation; False when the claim was lost."""
    return _write(session, operation, now=now, host=host)


def save_step(
    session: orm.Session,
    operation: Operation,
    *,
    step: str,
    data: Mapping[str, Any],
    now: datetime.datetime,
    lease_s: float,
    progress: int | None = None,
) -> Operation | None:
    """Go on to another step, keeping the claim; returns the operation as it stands now.

    None when the claim was lost: somebody else has the operation, nothing was written.
    """
    saved = _write(
        session,
        operation,
        now=now,
        step=step,
        data=dict(data),
        wake_on=None,
        progress=operation.progress if progress is None else progress,
        **_recovered(operation),
        lease_until=now + datetime.timedelta(seconds=lease_s),
    )
    return get(session, operation.id) if saved else None


def wait(
    session: orm.Session,
    operation: Operation,
    *,
    event: str,
    wake_at: datetime.datetime,
    data: Mapping[str, Any],
    now: datetime.datetime,
) -> bool:
    """Give the claim back until an event or ``wake_at``.

    False when something was signalled since ``operation`` was read, or the claim was lost: look
    again (:func:`reread`) instead of waiting.
    """
    return _write(
        session,
        operation,
        models.Operation.signals == operation.signals,
        now=now,
        data=dict(data),
        owner=None,
        lease_until=None,
        wake_on=event[:100],
        wake_at=wake_at,
        **_recovered(operation),
    )


def _recovered(operation: Operation) -> dict[str, Any]:
    """Forget what failed before a step succeeded; why an operation is undone stays."""
    if operation.state is states.OperationState.UNDOING:
        return {"attempts": 0}
    return {"attempts": 0, "error": None}


def reread(session: orm.Session, operation: Operation) -> Operation | None:
    """Return a claimed operation as it stands now; None when the claim was lost."""
    fresh = get(session, operation.id)
    return fresh if fresh.owner == operation.owner and fresh.state.is_active else None


def retry(
    session: orm.Session,
    operation: Operation,
    *,
    error: str,
    wake_at: datetime.datetime,
    data: Mapping[str, Any],
    now: datetime.datetime,
) -> bool:
    """Give the claim back after a failed try of the step, until ``wake_at``."""
    return _write(
        session,
        operation,
        now=now,
        data=dict(data),
        error=error,
        attempts=operation.attempts + 1,
        owner=None,
        lease_until=None,
        wake_on=None,
        wake_at=wake_at,
    )


def begin_undo(
    session: orm.Session,
    operation: Operation,
    *,
    step: str,
    error: str,
    data: Mapping[str, Any],
    now: datetime.datetime,
) -> Operation | None:
    """Turn a running operation round: ``step`` is undone next. None when the claim was lost."""
    saved = _write(
        session,
        operation,
        now=now,
        state=states.OperationState.UNDOING,
        step=step,
        data=dict(data),
        error=error,
        attempts=0,
        wake_on=None,
    )
    return get(session, operation.id) if saved else None


def finish(
    session: orm.Session,
    operation: Operation,
    *,
    state: states.OperationState,
    now: datetime.datetime,
    error: str | None = None,
    data: Mapping[str, Any] | None = None,
) -> bool:
    """End an operation: its lock and its secrets are gone. False when the claim was lost."""
    if state.is_active:
        raise ValueError(f"{state.value} is no end")
    is_ended = _write(
        session,
        operation,
        now=now,
        state=state,
        lock_key=None,
        secret_wrapped=None,
        owner=None,
        lease_until=None,
        wake_on=None,
        error=error,
        data=dict(operation.data if data is None else data),
        progress=100 if state is states.OperationState.SUCCEEDED else operation.progress,
    )
    if is_ended:
        announcements.ended(session, operation, state=state, error=error, now=now)
    return is_ended
