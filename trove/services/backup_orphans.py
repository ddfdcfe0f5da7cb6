"""What containers hold: backups, whether they are registered or not, and what is left over.

Objects below the prefix of a backup are left over when no manifest makes them one, no backup that
is there or is being made has that prefix, and none of them is new: another service may store
backups in the same container. What has a manifest is never left over, whoever made it.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Iterable, Sequence

from oslo_log import log

from trove import states
from trove.common import concurrency, exception
from trove.db import backups, base
from trove.storage import base as storage
from trove.storage import manifests, stored_backups

LOG = log.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """The objects below the prefix of a backup."""

    account_id: str
    container: str
    prefix: str
    backup_id: str
    count: int
    size_bytes: int
    modified: datetime.datetime
    has_manifest: bool


class BackupOrphans:
    """Use cases of operators who look into containers."""

    def __init__(
        self,
        *,
        database: base.Database,
        store: storage.Store | None,
        clock: concurrency.Clock,
    ) -> None:
        """Take the collaborators."""
        self._database = database
        self._store = store
        self._clock = clock

    def list_places(self) -> Sequence[tuple[str, str]]:
        """Return (account, container) of all backups that the store has."""
        with self._database.reader() as session:
            return backups.list_places(session, self._get_store().kind)

    def list_stored(self, account_id: str, container: str, prefix: str = "") -> Sequence[Stored]:
        """Return what there is of backups in a container, in order; raises StorageError."""
        account = self._get_store().account(account_id)
        objects = stored_backups.list_objects(account, container, prefix)
        return _group(account_id, container, objects)

    def list_orphans(
        self, account_id: str, container: str, *, age: datetime.timedelta
    ) -> Sequence[Stored]:
        """Return what is left over in a container and has been so for longer than ``age``."""
        before = self._clock.now() - age
        found = [
            each
            for each in self.list_stored(account_id, container)
            if not each.has_manifest and each.modified < before
        ]
        with self._database.reader() as session:
            # behind the listing: what was begun meanwhile is known now
            statuses = backups.list_statuses(session, [each.backup_id for each in found])
        return [
            each
            for each in found
            if statuses.get(each.backup_id) in (None, states.BackupStatus.FAILED)
        ]

    def remove(self, orphan: Stored) -> int:
        """Remove what is left over; return how many objects there were. Raises StorageError."""
        account = self._get_store().account(orphan.account_id)
        if account.find(orphan.container, orphan.prefix + manifests.MANIFEST_NAME) is not None:
            return 0
        count = stored_backups.remove(account, orphan.container, orphan.prefix)
        LOG.info("removed %d objects below %s/%s", count, orphan.container, orphan.prefix)
        return count

    def _get_store(self) -> storage.Store:
        if self._store is None:
            raise exception.ConfigurationError(reason="[storage] driver is not set")
        return self._store


def _group(
    account_id: str, container: str, objects: Iterable[storage.StoredObject]
) -> Sequence[Stored]:
    """Put objects together by the prefixes of their backups; others are not looked at."""
    found: dict[str, Stored] = {}
    for each in objects:
        place = stored_backups.find_prefix(each.name)
        if place is None:
            continue
        prefix, _, backup_id = place
        before = found.get(prefix)
        found[prefix] = Stored(
            account_id=account_id,
            container=container,
            prefix=prefix,
            backup_id=backup_id,
            count=1 + (before.count if before else 0),
            size_bytes=each.size_bytes + (before.size_bytes if before else 0),
            modified=max(each.modified, before.modified) if before else each.modified,
            has_manifest=each.name == prefix + manifests.MANIFEST_NAME
            or (before is not None and before.has_manifest),
        )
    return list(found.values())
