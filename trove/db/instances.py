"""The write side of instances: made, changed by compare-and-swap, marked as deleted.

Every function joins the caller's transaction. A change of ``task`` obeys
:data:`trove.states.TASK_TRANSITIONS` and says from which tasks it starts, so that two writers
never pass the same gate. Nothing changes a deleted instance.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import orm

from trove import states
from trove.common import exception
from trove.db import models


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class NewInstance:
    """What an instance is made of; memory is MiB, volume GiB."""

    id: str
    project_id: str
    user_id: str | None
    name: str
    datastore_version_id: str
    flavor_id: str
    flavor_ram_mib: int
    key_wrapped: bytes = dataclasses.field(repr=False)
    volume_size_gib: int | None = None
    volume_type: str | None = None
    availability_zone: str | None = None
    region: str | None = None
    access: Mapping[str, Any] | None = None
    replica_of_id: str | None = None
    configuration_id: str | None = None
    locality: str | None = None
    is_protected: bool = False
    tags: tuple[str, ...] = ()
    task: states.TaskStatus = states.TaskStatus.BUILDING


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class InstanceSnapshot:
    """What the reconciler looks at."""

    id: str
    project_id: str
    task: states.TaskStatus
    server_status: states.ServerStatus
    server_id: str | None


def create_instance(
    session: orm.Session, new: NewInstance, *, now: datetime.datetime
) -> models.Instance:
    """Add an instance with its (still empty) heartbeat row."""
    instance = models.Instance(
        id=new.id,
        project_id=new.project_id,
        user_id=new.user_id,
        name=new.name,
        datastore_version_id=new.datastore_version_id,
        flavor_id=new.flavor_id,
        flavor_ram_mib=new.flavor_ram_mib,
        volume_size_gib=new.volume_size_gib,
        volume_type=new.volume_type,
        availability_zone=new.availability_zone,
        region=new.region,
        access=dict(new.access) if new.access is not None else None,
        addresses=[],
        replica_of_id=new.replica_of_id,
        configuration_id=new.configuration_id,
        locality=new.locality,
        is_protected=new.is_protected,
        tags=list(new.tags),
        key_wrapped=new.key_wrapped,
        is_bootstrap_key=True,
        task=new.task,
        server_status=states.ServerStatus.NONE,
        created=now,
        updated=now,
    )
    instance.heartbeat = models.InstanceHeartbeat(
        instance_id=new.id, service_status=states.ServiceStatus.NEW, received=now
    )
    session.add(instance)
    session.flush()
    _index_tags(session, new.id, new.tags)
    return instance


def _index_tags(session: orm.Session, instance_id: str, tags: Sequence[str]) -> None:
    if tags:
        session.execute(
            sa.insert(models.InstanceTag),
            [{"tag": tag, "instance_id": instance_id} for tag in tags],
        )


def update_details(
    session: orm.Session,
    instance_id: str,
    *,
    now: datetime.datetime,
    name: str | None = None,
    tags: Sequence[str] | None = None,
    is_protected: bool | None = None,
) -> bool:
    """Change what is the user's own of an instance; None leaves a thing as it is.

    False when there is no such instance any more, or when it was to be protected while it is
    being deleted.
    """
    values: dict[str, Any] = {"name": name, "is_protected": is_protected}
    values["tags"] = None if tags is None else list(tags)
    conditions = []
    if is_protected:
        conditions.append(models.Instance.task != states.TaskStatus.DELETING)
    given = {key: value for key, value in values.items() if value is not None}
    if not _update(session, instance_id, *conditions, updated=now, **given):
        return False
    if tags is not None:
        _forget_tags(session, instance_id)
        _index_tags(session, instance_id, tags)
    return True


def _forget_tags(session: orm.Session, instance_id: str) -> None:
    session.execute(
        sa.delete(models.InstanceTag)
        .where(models.InstanceTag.instance_id == instance_id)
        .execution_options(synchronize_session=False)
    )


def list_recorded(session: orm.Session, instance_ids: Collection[str]) -> Sequence[str]:
    """Return those of the ids that have a row, deleted ones too."""
    found: list[str] = []
    ids = sorted(instance_ids)
    # in pieces: backends limit how many values a statement may hold
    for start in range(0, len(ids), 500):
        piece = ids[start : start + 500]
        found += session.scalars(sa.select(models.Instance.id).where(models.Instance.id.in_(piece)))
    return found


def find_instance(session: orm.Session, instance_id: str) -> models.Instance | None:
    """Return an instance, deleted ones too, with version, datastore and heartbeat; or None."""
    return session.scalar(
        sa.select(models.Instance)
        .where(models.Instance.id == instance_id)
        .options(
            orm.joinedload(models.Instance.version).joinedload(models.DatastoreVersion.datastore),
            orm.joinedload(models.Instance.heartbeat),
        )
        .execution_options(populate_existing=True)
    )


def find_project(session: orm.Session, instance_id: str) -> str | None:
    """Return whose an instance is, deleted ones too; or None."""
    return session.scalar(
        sa.select(models.Instance.project_id).where(models.Instance.id == instance_id)
    )


def get_instance(session: orm.Session, instance_id: str) -> models.Instance:
    """Return a live instance with version, datastore and heartbeat; raises InstanceNotFound."""
    instance = find_instance(session, instance_id)
    if instance is None or instance.is_deleted:
        raise exception.InstanceNotFound(instance_id=instance_id)
    return instance


def _update(
    session: orm.Session,
    instance_id: str,
    *conditions: sa.ColumnElement[bool],
    **values: Any,
) -> bool:
    """Change a live instance where the conditions hold; tell whether they did."""
    result = session.execute(
        sa.update(models.Instance)
        .where(models.Instance.id == instance_id, models.Instance.is_deleted == sa.false())
        .where(*conditions)
        .values(**values)
        .execution_options(synchronize_session=False)
    )
    return bool(result.rowcount)  # type: ignore[attr-defined]


def change_task(
    session: orm.Session,
    instance_id: str,
    *,
    expect: states.TaskStatus | Collection[states.TaskStatus],
    to: states.TaskStatus,
    now: datetime.datetime,
    given: Mapping[str, Any] | None = None,
    **values: Any,
) -> bool:
    """Change the task from one of ``expect``; tell whether the instance was in one of them.

    ``given`` are columns that must have these values as well; ``values`` are further columns set
    in the same statement. Raises ValueError when the transition
    table does not allow the change: that is a mistake of the caller.
    """
    wanted = {expect} if isinstance(expect, states.TaskStatus) else set(expect)
    for task in wanted:
        if not states.can_change(task, to):
            raise ValueError(f"the transition table has no {task.value} -> {to.value}")
    return _update(
        session,
        instance_id,
        models.Instance.task.in_(sorted(wanted)),
        *(getattr(models.Instance, name) == value for name, value in (given or {}).items()),
        task=to,
        updated=now,
        **values,
    )


def set_version(
    session: orm.Session, instance_id: str, version_id: str, *, now: datetime.datetime
) -> bool:
    """Record what an instance that is being upgraded runs now; tell whether it is."""
    return _update(
        session,
        instance_id,
        models.Instance.task == states.TaskStatus.UPGRADING,
        datastore_version_id=version_id,
        server_status=states.ServerStatus.ACTIVE,
        updated=now,
    )


def set_fault(
    session: orm.Session,
    instance_id: str,
    *,
    message: str,
    details: str | None,
    now: datetime.datetime,
) -> None:
    """Record what went wrong: ``message`` for people, ``details`` for administrators."""
    _update(
        session,
        instance_id,
        fault_message=message,
        fault_details=details,
        fault_created=now,
        updated=now,
    )


def clear_fault(session: orm.Session, instance_id: str, *, now: datetime.datetime) -> None:
    """Forget the fault, if there is one."""
    _update(
        session,
        instance_id,
        models.Instance.fault_created.is_not(None),
        fault_message=None,
        fault_details=None,
        fault_created=None,
        updated=now,
    )


def set_server(
    session: orm.Session,
    instance_id: str,
    *,
    server_id: str | None,
    status: states.ServerStatus,
    now: datetime.datetime,
) -> None:
    """Record the server of an instance; None when it has none any more."""
    _update(session, instance_id, server_id=server_id, server_status=status, updated=now)


def change_server_status(
    session: orm.Session,
    instance_id: str,
    *,
    server_id: str | None,
    expect: states.ServerStatus,
    to: states.ServerStatus,
    now: datetime.datetime,
) -> bool:
    """Change the status of the server from ``expect``, while it is this server."""
    same = (
        models.Instance.server_id.is_(None)
        if server_id is None
        else models.Instance.server_id == server_id
    )
    return _update(
        session,
        instance_id,
        same,
        models.Instance.server_status == expect,
        server_status=to,
        updated=now,
    )


def set_configuration_digest(
    session: orm.Session, instance_id: str, digest: str | None, *, now: datetime.datetime
) -> None:
    """Record which values of its configuration group the instance runs on."""
    _update(session, instance_id, configuration_digest=digest, updated=now)


def set_volume(
    session: orm.Session, instance_id: str, *, volume_id: str | None, now: datetime.datetime
) -> None:
    """Record the volume of an instance; None when it has none any more."""
    _update(session, instance_id, volume_id=volume_id, updated=now)


def set_volume_size(
    session: orm.Session, instance_id: str, *, size_gib: int, now: datetime.datetime
) -> bool:
    """Record the size of the volume; tell whether the instance still lives."""
    return _update(session, instance_id, volume_size_gib=size_gib, updated=now)


def set_port(
    session: orm.Session,
    instance_id: str,
    *,
    port_id: str | None,
    addresses: Sequence[Mapping[str, Any]],
    now: datetime.datetime,
) -> None:
    """Record the port and the addresses of an instance; None and empty when there are none."""
    _update(
        session,
        instance_id,
        port_id=port_id,
        addresses=[dict(address) for address in addresses],
        updated=now,
    )


def set_hostname(
    session: orm.Session, instance_id: str, *, hostname: str | None, now: datetime.datetime
) -> None:
    """Record the name of an instance in the DNS; None when it has none any more."""
    _update(session, instance_id, hostname=hostname, updated=now)


def find_volume_type(session: orm.Session, instance_id: str) -> str | None:
    """Return the volume type of an instance, of a deleted one, too; None without one."""
    return session.scalar(
        sa.select(models.Instance.volume_type).where(models.Instance.id == instance_id)
    )


def mark_deleted(session: orm.Session, instance_id: str, *, now: datetime.datetime) -> bool:
    """End an instance and forget its key; True only for the caller that did it.

    What belongs to the end exactly once (quota) hangs on the answer.
    """
    _forget_tags(session, instance_id)
    return _update(
        session,
        instance_id,
        is_deleted=True,
        deleted=now,
        updated=now,
        task=states.TaskStatus.NONE,
        server_status=states.ServerStatus.NONE,
        server_id=None,
        volume_id=None,
        port_id=None,
        addresses=[],
        key_wrapped=None,
        next_key_wrapped=None,
    )


def list_snapshots(
    session: orm.Session, *, after: str | None, limit: int
) -> Sequence[InstanceSnapshot]:
    """Return a page of the live instances in order of id, for the reconciler."""
    columns = (
        models.Instance.id,
        models.Instance.project_id,
        models.Instance.task,
        models.Instance.server_status,
        models.Instance.server_id,
    )
    query = sa.select(*columns).where(models.Instance.is_deleted == sa.false())
    if after is not None:
        query = query.where(models.Instance.id > after)
    rows = session.execute(query.order_by(models.Instance.id).limit(limit))
    return [
        InstanceSnapshot(
            id=row.id,
            project_id=row.project_id,
            task=row.task,
            server_status=row.server_status,
            server_id=row.server_id,
        )
        for row in rows
    ]
