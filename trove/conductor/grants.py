"""Grants for the object store that agents ask for, when those that came with their jobs run out.

An instance gets one for the backup that is being made of it, for its active archive, and, to read
only, for what the restoration reads that is under way on it: nothing else, whatever it asks for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from oslo_log import log

from trove.db import backups, base, log_archives, operations
from trove.rpc import payloads
from trove.storage import base as storage
from trove.storage import grants

LOG = log.getLogger(__name__)

#: The reason, as it is counted.
REFUSED = "refused_grant"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Objects that an instance has business with."""

    storage_driver: str
    account_id: str | None
    container: str | None
    prefix: str | None
    is_read_only: bool


class Grants:
    """Gives instances what they may have."""

    def __init__(self, database: base.Database, store: storage.Store | None) -> None:
        """Take where backups are known and where they are kept, None without a store."""
        self._database = database
        self._store = store

    def find(
        self, instance_id: str, request: payloads.GrantRequest
    ) -> payloads.ObjectStorage | None:
        """Return a grant; None when the instance has no business with what it asked for.

        Raises StorageError when none can be made now.
        """
        place = self._find_place(instance_id, request)
        if (
            place is None
            or self._store is None
            or place.storage_driver != self._store.kind
            or not (place.account_id and place.container and place.prefix)
        ):
            return None
        return grants.make(
            self._store,
            place.account_id,
            container=place.container,
            prefix=place.prefix,
            is_read_only=place.is_read_only,
            names=request.names,
        )

    def _find_place(self, instance_id: str, request: payloads.GrantRequest) -> _Place | None:
        if (request.backup_id is None) == (request.epoch is None):
            return None
        with self._database.reader() as session:
            if request.backup_id is not None:
                return _find_backup(session, instance_id, request.backup_id)
            return _find_archive(session, instance_id, str(request.epoch))


def _find_backup(session: Any, instance_id: str, backup_id: str) -> _Place | None:
    found = backups.find(session, backup_id)
    if found is None:
        return None
    running = backups.find_running(session, instance_id)
    is_own = running is not None and running.id == backup_id
    is_parent = running is not None and running.parent_id == backup_id
    if not is_own and not is_parent:
        reads = any(backup_id in each.get("chain", ()) for each in _reading(session, instance_id))
        if not reads:
            return None
    return _Place(
        storage_driver=found.storage_driver,
        account_id=found.account_id,
        container=found.container,
        prefix=found.prefix,
        is_read_only=not is_own,
    )


def _find_archive(session: Any, instance_id: str, epoch: str) -> _Place | None:
    found = log_archives.find(session, epoch)
    if found is None:
        return None
    is_own = found.instance_id == instance_id and found.is_active
    reads = not is_own and any(
        each.get("epoch") == epoch for each in _reading(session, instance_id)
    )
    if not is_own and not reads:
        return None
    return _Place(
        storage_driver=found.storage_driver,
        account_id=found.account_id,
        container=found.container,
        prefix=found.prefix,
        is_read_only=not is_own,
    )


def _reading(session: Any, instance_id: str) -> Iterator[dict[str, Any]]:
    """Yield what the active operations of an instance restore from."""
    for operation in operations.list_operations(session, resource_id=instance_id, active_only=True):
        restoration = operation.data.get("restoration")
        if isinstance(restoration, dict):
            yield restoration
