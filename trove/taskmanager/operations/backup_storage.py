"""What flows of backups share: the backup of an operation, its account, its objects.

An object store that fails is asked again some times, and then is the reason why a step failed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from trove.common import exception
from trove.db import backups, log_archives
from trove.rpc import payloads
from trove.storage import base as storage
from trove.storage import grants, manifests, stored_backups
from trove.taskmanager.operations import engine

#: How often the object store is asked for the same until it has failed.
_TRIES = 6


def get_backup(ctx: engine.Context, backup_id: str | None = None) -> backups.BackupView:
    """Return the backup of an operation, or another one; raises StepFailed when it is gone."""
    wanted = backup_id or str(ctx.data["backup_id"])
    with ctx.tools.database.reader() as session:
        found = backups.find(session, wanted)
    if found is None:
        raise engine.StepFailed(f"Backup {wanted} is gone.")
    return found


def get_store(
    ctx: engine.Context, backup: backups.BackupView | log_archives.Archive
) -> storage.Store:
    """Return the object store that a backup is in; raises StepFailed when it is not configured."""
    store = ctx.tools.store
    if store is None or store.kind != backup.storage_driver:
        configured = "none" if store is None else store.kind
        raise engine.StepFailed(
            f"The backup is stored by {backup.storage_driver}, which this service does not use now:"
            " the operator sets [storage] driver.",
            details=f"[storage] driver is {configured}",
        )
    return store


def get_account(ctx: engine.Context, backup: backups.BackupView) -> storage.Account:
    """Return the account that a backup is in."""
    return get_store(ctx, backup).account(str(backup.account_id))


def make_grant(
    ctx: engine.Context, backup: backups.BackupView, *, is_read_only: bool = False
) -> payloads.ObjectStorage:
    """Return what a guest opens the objects of a backup with."""
    with asking(ctx):
        return grants.make(
            get_store(ctx, backup),
            str(backup.account_id),
            container=str(backup.container),
            prefix=str(backup.prefix),
            is_read_only=is_read_only,
        )


@contextlib.contextmanager
def asking(ctx: engine.Context) -> Iterator[None]:
    """Have a failure of the object store pass by itself, some times; then raise StepFailed.

    Whatever is wrong with a backup's objects is final.
    """
    try:
        yield
    except storage.StorageError as e:
        if ctx.operation.attempts < _TRIES:
            raise exception.ServiceUnavailable(reason=e.message) from e
        raise engine.StepFailed(e.message, details=e.code) from e
    except (storage.ObjectNotFound, manifests.ManifestError) as e:
        raise engine.StepFailed(e.message, details=e.code) from e


def remove_objects(ctx: engine.Context, backup: backups.BackupView) -> int:
    """Remove all objects of a backup; return how many there were."""
    if not (backup.account_id and backup.container and backup.prefix):
        return 0
    with asking(ctx):
        account = get_account(ctx, backup)
        return stored_backups.remove(account, backup.container, backup.prefix)
