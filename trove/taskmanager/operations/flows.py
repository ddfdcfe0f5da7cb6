"""All flows of this task manager."""

from __future__ import annotations

from collections.abc import Sequence

from trove.taskmanager.operations import (
    access,
    archives,
    audit,
    certificates,
    configure,
    create,
    create_backup,
    delete,
    delete_backup,
    engine,
    modules,
    reboot,
    rebuild,
    recover,
    resize,
    restart,
    restore,
    snapshot_backup,
    upgrade,
    upgrade_agent,
    verify_backup,
    verify_on_server,
)

ALL: Sequence[engine.Flow] = (
    create.FLOW,
    configure.FLOW,
    delete.FLOW,
    delete.CLEANUP,
    audit.FLOW,
    restart.FLOW,
    recover.FLOW,
    certificates.FLOW,
    modules.FLOW,
    resize.FLAVOR_FLOW,
    resize.VOLUME_FLOW,
    access.FLOW,
    upgrade.FLOW,
    rebuild.FLOW,
    reboot.REBOOT_FLOW,
    reboot.STOP_FLOW,
    reboot.MIGRATE_FLOW,
    upgrade_agent.FLOW,
    create_backup.FLOW,
    snapshot_backup.FLOW,
    delete_backup.FLOW,
    delete_backup.DISCARD,
    restore.FLOW,
    verify_backup.FLOW,
    verify_on_server.FLOW,
    archives.FLOW,
)
