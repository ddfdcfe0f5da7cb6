"""Rules of schedules of backups."""

from __future__ import annotations

from trove.policies.base import MEMBER, READER, rule

RULES = [
    rule("backup_schedule:index", READER, "List schedules of backups.", "GET /backup_schedules"),
    rule("backup_schedule:create", MEMBER, "Make a schedule of backups.", "POST /backup_schedules"),
    rule(
        "backup_schedule:show",
        READER,
        "Show a schedule of backups.",
        "GET /backup_schedules/{schedule_id}",
    ),
    rule(
        "backup_schedule:update",
        MEMBER,
        "Change a schedule of backups.",
        "PATCH /backup_schedules/{schedule_id}",
    ),
    rule(
        "backup_schedule:delete",
        MEMBER,
        "Delete a schedule of backups.",
        "DELETE /backup_schedules/{schedule_id}",
    ),
]
