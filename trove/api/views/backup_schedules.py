"""Schedules of backups as clients see them."""

from __future__ import annotations

from typing import Any

from trove.api.views.instances import timestamp
from trove.db.backup_schedules import Schedule
from trove.states import BackupStatus


def schedule(row: Schedule) -> dict[str, Any]:
    """Return a schedule; the instance of a project's default is null."""
    problem = row.problem
    if problem is None and row.last_backup_status is BackupStatus.FAILED:
        problem = f"Backup {row.last_backup_id} failed: it says why."
    return {
        "id": row.id,
        "project_id": row.project_id,
        "instance_id": row.instance_id or None,
        "name": row.name,
        "cron": row.cron,
        "timezone": row.timezone,
        "window_s": row.window_s,
        "full_every": row.full_every,
        "retention": dict(row.retention),
        "enabled": row.is_enabled,
        "next_run": None if row.next_run is None else timestamp(row.next_run),
        "last_run": None if row.last_run is None else timestamp(row.last_run),
        "last_backup_id": row.last_backup_id,
        "last_backup_status": row.last_backup_status,
        "problem": problem,
        "created": timestamp(row.created),
        "updated": timestamp(row.updated),
    }
