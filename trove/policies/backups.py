"""Rules of backups and backup strategies."""

from __future__ import annotations

from trove.policies.base import ADMIN, MEMBER, READER, rule

RULES = [
    rule("backup:index", READER, "List backups.", "GET /backups"),
    rule("backup:index:all_projects", ADMIN, "List backups of other projects.", "GET /backups"),
    rule("backup:create", MEMBER, "Make a backup.", "POST /backups"),
    rule("backup:show", READER, "Show a backup.", "GET /backups/{backup_id}"),
    rule("backup:delete", MEMBER, "Delete a backup.", "DELETE /backups/{backup_id}"),
    rule(
        "backup:verify",
        MEMBER,
        "Prove a backup by restoring it.",
        "POST /backups/{backup_id}/action",
    ),
    rule(
        "backup:undelete",
        MEMBER,
        "Make a deleted instance anew from a backup.",
        "POST /backups/{backup_id}/action",
    ),
    rule(
        "instance:backups",
        READER,
        "List the backups of an instance.",
        "GET /instances/{instance_id}/backups",
    ),
    rule(
        "backup_strategy:index",
        READER,
        "Show where backups are stored.",
        "GET /backup_strategies",
    ),
    rule(
        "backup_strategy:create",
        MEMBER,
        "Choose where backups are stored.",
        "POST /backup_strategies",
    ),
    rule(
        "backup_strategy:delete",
        MEMBER,
        "Forget a choice of where backups are stored.",
        "DELETE /backup_strategies",
    ),
]
