"""Backup strategies as clients see them."""

from __future__ import annotations

import datetime
from typing import Any

from trove.api.views.instances import timestamp
from trove.db.backup_strategies import Strategy
from trove.db.backups import BackupView, Progress

_GIB = 2**30


def backup(row: BackupView, progress: Progress | None = None) -> dict[str, Any]:
    """Return a backup, the same in lists; ``size`` is what it takes in the storage, GiB."""
    view: dict[str, Any] = {
        "id": row.id,
        "name": row.name,
        "description": row.description,
        "locationRef": row.location,
        "instance_id": row.instance_id,
        "created": timestamp(row.created),
        "updated": timestamp(row.updated),
        "size": None if row.stored_bytes is None else round(row.stored_bytes / _GIB, 4),
        "status": row.status.value,
        "parent_id": row.parent_id,
        "project_id": row.project_id,
        "datastore": {
            "type": row.datastore_name,
            "version": row.version_name,
            "version_id": row.datastore_version_id,
        },
        "storage_driver": row.storage_driver,
        "type": row.kind.value,
        "purpose": row.purpose.value,
        "schedule_id": row.schedule_id,
        "engine_version": row.engine_version,
        "data_bytes": row.data_bytes,
        "stored_bytes": row.stored_bytes,
        "verification": {
            "status": None if row.verification is None else row.verification.value,
            "verified_at": None if row.verified is None else timestamp(row.verified),
            "details": dict(row.verification_details),
        },
    }
    for key, moment in (("completed_at", row.completed), ("expires_at", row.expires)):
        if moment is not None:
            view[key] = timestamp(moment)
    if row.fault is not None:
        view["fault"] = row.fault
    if progress is not None:
        view["progress"] = _progress(progress)
    return view


def _progress(progress: Progress) -> dict[str, Any]:
    end = _estimate(progress)
    return {
        "percent": progress.percent,
        "done_bytes": progress.done_bytes,
        "total_bytes": progress.total_bytes,
        "estimated_end": None if end is None else timestamp(end),
    }


def _estimate(progress: Progress) -> datetime.datetime | None:
    """Return when it ends if it goes on as until now."""
    if not progress.percent:
        return None
    spent = progress.reported - progress.since
    return progress.since + spent * 100 / progress.percent


def strategy(row: Strategy) -> dict[str, Any]:
    """Return a strategy; the instance of a whole project's is empty, never null."""
    return {
        "project_id": row.project_id,
        "instance_id": row.instance_id,
        "backend": "swift",
        "swift_container": row.container,
    }
