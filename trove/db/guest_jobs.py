"""Jobs sent to agents, and their outcomes.

A row is made before the job is first sent and its outcome is written once; the conductor writes it
only for the instance whose key opened the report.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from oslo_db import exception as oslo_db_exception
from sqlalchemy import orm

from trove.db import models


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GuestJob:
    """A job; ``succeeded`` is None until its outcome is known."""

    id: str
    instance_id: str
    kind: str
    succeeded: bool | None
    result: Mapping[str, Any] | None
    error: str | None
    error_code: str | None


def find(session: orm.Session, job_id: str) -> GuestJob | None:
    """Return a job, or None."""
    columns = [getattr(models.GuestJob, f.name) for f in dataclasses.fields(GuestJob)]
    row = session.execute(sa.select(*columns).where(models.GuestJob.id == job_id)).one_or_none()
    return None if row is None else GuestJob(**row._mapping)


def list_open(session: orm.Session, instance_id: str, *, kind: str) -> Sequence[str]:
    """Return the ids of jobs of a kind that an instance was sent and has no outcome of."""
    return list(
        session.scalars(
            sa.select(models.GuestJob.id).where(
                models.GuestJob.instance_id == instance_id,
                models.GuestJob.kind == kind,
                models.GuestJob.succeeded.is_(None),
            )
        )
    )


def ensure(
    session: orm.Session,
    job_id: str,
    *,
    instance_id: str,
    operation_id: str | None,
    kind: str,
    now: datetime.datetime,
) -> GuestJob:
    """Return the job with this id, made now if there is none."""
    job = find(session, job_id)
    if job is not None:
        return job
    row = models.GuestJob(
        id=job_id,
        instance_id=instance_id,
        operation_id=operation_id,
        kind=kind,
        created=now,
        updated=now,
    )
    try:
        with session.begin_nested():
            session.add(row)
    except oslo_db_exception.DBDuplicateEntry:
        # a runner whose lease ran out was here at the same moment
        job = find(session, job_id)
        if job is not None:
            return job
        raise
    return GuestJob(
        id=job_id,
        instance_id=instance_id,
        kind=kind,
        succeeded=None,
        result=None,
        error=None,
        error_code=None,
    )


def record_outcome(
    session: orm.Session,
    job_id: str,
    *,
    instance_id: str,
    succeeded: bool,
    result: Mapping[str, Any],
    error: str | None,
    error_code: str | None,
    now: datetime.datetime,
) -> bool:
    """Write the outcome of a job of this very instance, once; tell whether it was written."""
    outcome = session.execute(
        sa.update(models.GuestJob)
        .where(
            models.GuestJob.id == job_id,
            models.GuestJob.instance_id == instance_id,
            models.GuestJob.succeeded.is_(None),
        )
        .values(
            succeeded=succeeded,
            result=dict(result),
            error=error,
            error_code=error_code,
            updated=now,
        )
        .execution_options(synchronize_session=False)
    )
    return bool(outcome.rowcount)  # type: ignore[attr-defined]
