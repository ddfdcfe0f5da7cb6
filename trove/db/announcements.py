"""What is told of an operation when it is accepted and when it ends: events and notifications.

Both are written in the transaction that accepts or ends the operation. What the end must tell of
the request that began it is kept in the operation's data.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy import orm

from trove import states
from trove.db import events, models, notifications, operation_kinds

#: Key of an operation's data: the traits of the request that began it.
ORIGIN = "notify"

QUOTA = "dbaas.quota"
_OUTCOMES: Mapping[states.OperationState, str] = {
    states.OperationState.SUCCEEDED: "succeeded",
    states.OperationState.FAILED: "failed",
    states.OperationState.CANCELLED: "cancelled",
}


def accepted(session: orm.Session, operation: models.Operation) -> None:
    """Tell that an operation was accepted, and note in its data who asked for it."""
    kind = operation_kinds.of(operation.kind)
    if kind.is_internal:
        return
    _append_event(session, operation, kind, "accepted", now=operation.created)
    if not notifications.is_enabled(session):
        return
    base = notifications.base_traits(operation.project_id, operation.request_id)
    operation.data = {**operation.data, ORIGIN: base}
    if kind.event is not None:
        traits = {**base, **_resources(operation, kind), **_start_traits(session, operation)}
        notifications.append(session, f"dbaas.{kind.event}.start", traits, now=operation.created)
    if kind.changes_quota:
        tell_quota(session, operation.project_id, now=operation.created)


def ended(
    session: orm.Session,
    operation: Any,
    *,
    state: states.OperationState,
    error: str | None,
    now: datetime.datetime,
) -> None:
    """Tell how an operation ended."""
    kind = operation_kinds.of(operation.kind)
    if kind.is_internal:
        return
    outcome = _OUTCOMES[state]
    _append_event(session, operation, kind, outcome, now=now, error=error)
    if not notifications.is_enabled(session):
        return
    base = operation.data.get(ORIGIN) or notifications.base_traits(
        operation.project_id, operation.request_id
    )
    traits = {**base, **_resources(operation, kind)}
    is_success = state is states.OperationState.SUCCEEDED
    if kind.event is not None and is_success:
        notifications.append(session, f"dbaas.{kind.event}.end", traits, now=now)
    elif kind.event is not None:
        notifications.append(
            session,
            f"dbaas.{kind.event}.error",
            {**traits, "message": error or "", "exception": f"trove.operation_{outcome}"},
            now=now,
            priority=notifications.ERROR,
        )
    if kind.life_cycle is not None and is_success:
        found = find_life_cycle_traits(session, operation.resource_id)
        if found is not None:
            notifications.append(session, f"trove.instance.{kind.life_cycle}", found, now=now)
    if kind.changes_quota:
        tell_quota(session, operation.project_id, now=now)


def tell_quota(session: orm.Session, project_id: str, *, now: datetime.datetime) -> None:
    """Tell what a project uses of its quota."""
    if not notifications.is_enabled(session):
        return
    rows: Iterable[Any] = session.execute(
        sa.select(models.QuotaUsage.resource, models.QuotaUsage.in_use)
        .where(models.QuotaUsage.project_id == project_id)
        .order_by(models.QuotaUsage.resource)
    )
    usage = {"tenant_id": project_id, "usage": {row.resource: row.in_use for row in rows}}
    notifications.append(session, QUOTA, usage, now=now)


def _append_event(
    session: orm.Session,
    operation: Any,
    kind: operation_kinds.Kind,
    outcome: str,
    *,
    now: datetime.datetime,
    error: str | None = None,
) -> None:
    told_of = _resources(operation, kind)
    resource_id = told_of.pop(f"{kind.resource}_id")
    payload = {"operation_id": operation.id, "operation": kind.word, **told_of}
    if error is not None:
        payload["message"] = error
    events.append(
        session,
        operation.project_id,
        type=f"{kind.feed or f'{kind.resource}.{kind.word}'}.{outcome}",
        resource_type=kind.resource,
        resource_id=resource_id,
        payload=payload,
        request_id=operation.request_id,
        user_id=operation.user_id,
        now=now,
    )


def _resources(operation: Any, kind: operation_kinds.Kind) -> dict[str, str]:
    """Return what an operation is told of by, and the instance that it works on if it does."""
    if kind.resource_key is None:
        return {f"{kind.resource}_id": operation.resource_id}
    return {
        f"{kind.resource}_id": str(operation.data.get(kind.resource_key, "")),
        "instance_id": operation.resource_id,
    }


# -- traits -----


def _start_traits(session: orm.Session, operation: models.Operation) -> Mapping[str, Any]:
    kind = operation_kinds.of(operation.kind)
    traits = {
        trait: operation.data[key] for trait, key in kind.traits.items() if key in operation.data
    }
    if kind.life_cycle == "create":
        traits |= _create_traits(session, operation)
    return traits


def _create_traits(session: orm.Session, operation: models.Operation) -> Mapping[str, Any]:
    """Return what is asked for; None and empty values are left out."""
    row = session.execute(_DESCRIPTION.where(models.Instance.id == operation.resource_id)).first()
    if row is None:
        return {}
    databases = operation.data.get("databases") or []
    found = {
        "name": row.name,
        "flavor_id": row.flavor_id,
        "datastore": row.datastore,
        "datastore_version": row.datastore_version,
        "image_id": row.image_id,
        "availability_zone": row.availability_zone,
        "region_name": row.region,
        "volume_size": row.volume_size_gib,
        "replica_of": row.replica_of_id,
        "databases": [database["name"] for database in databases],
        "nics": operation.data.get("nic"),
    }
    return {trait: value for trait, value in found.items() if value not in (None, [])}


_DESCRIPTION = (
    sa.select(
        models.Instance.id,
        models.Instance.project_id,
        models.Instance.user_id,
        models.Instance.name,
        models.Instance.flavor_id,
        models.Instance.flavor_ram_mib,
        models.Instance.volume_size_gib,
        models.Instance.availability_zone,
        models.Instance.region,
        models.Instance.replica_of_id,
        models.Instance.task,
        models.Instance.server_status,
        models.Instance.running_backup_id,
        models.Instance.server_id,
        models.Instance.created,
        models.DatastoreVersion.name.label("datastore_version"),
        models.DatastoreVersion.image_id,
        models.Datastore.id.label("datastore_id"),
        models.Datastore.name.label("datastore"),
    )
    .join(
        models.DatastoreVersion, models.DatastoreVersion.id == models.Instance.datastore_version_id
    )
    .join(models.Datastore, models.Datastore.id == models.DatastoreVersion.datastore_id)
)


def find_life_cycle_traits(session: orm.Session, instance_id: str) -> dict[str, Any] | None:
    """Return what billing wants to know of an instance, a deleted one too; None without a row.

    ``instance_size`` is MiB, ``volume_size`` GiB.
    """
    row = session.execute(_DESCRIPTION.where(models.Instance.id == instance_id)).first()
    return None if row is None else _life_cycle_traits(row)


def _life_cycle_traits(row: Any) -> dict[str, Any]:
    state = states.api_status(
        row.task, row.server_status, is_backing_up=row.running_backup_id is not None
    )
    return {
        "instance_id": row.id,
        "instance_name": row.name,
        "display_name": row.name,
        "instance_type": row.flavor_id,
        "instance_type_id": row.flavor_id,
        "instance_size": row.flavor_ram_mib,
        "volume_size": row.volume_size_gib,
        "availability_zone": row.availability_zone,
        "region": row.region,
        "state": state,
        "state_description": state,
        "tenant_id": row.project_id,
        "user_id": row.user_id,
        "service_id": row.datastore_id,
        "nova_instance_id": row.server_id,
        "created_at": row.created.isoformat(),
        "launched_at": row.created.isoformat(),
    }


def announce_existing(
    session: orm.Session,
    *,
    after: str | None,
    limit: int,
    beginning: datetime.datetime,
    ending: datetime.datetime,
    now: datetime.datetime,
) -> str | None:
    """Tell of up to ``limit`` live instances by id that they exist; return where to go on."""
    query = _DESCRIPTION.where(models.Instance.is_deleted == sa.false())
    if after is not None:
        query = query.where(models.Instance.id > after)
    rows = session.execute(query.order_by(models.Instance.id).limit(limit)).all()
    period = {
        "audit_period_beginning": beginning.isoformat(),
        "audit_period_ending": ending.isoformat(),
    }
    notifications.append_all(
        session,
        [("trove.instance.exists", {**_life_cycle_traits(row), **period}) for row in rows],
        now=now,
    )
    return rows[-1].id if len(rows) == limit else None
