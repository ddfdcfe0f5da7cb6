"""What containers hold: backups, whether they are registered or not, and what is left over.

Objects below the prefix of a backup are left over when no manifest makes them one, no backup that
is there or is being made has that prefix, and none of them is new: another service may store
backups in the same container. What has a manifest is never left over, whoever made it.
"""

from __future__ import annotations

import dataclasses
import datetime
import re
from collections.abc import Iterable, Sequence

from oslo_log import log

from trove import states
from trove.common import concurrency, exception
from trove.db import backups, base
from trove.storage import base as storage
from trove.storage import manifests, stored_backups

LOG = log.getLogger(__name__)

#: What segments are called below the prefix of their backup.
_SEGMENT = re.compile(r"[0-9a-f]{16}/[0-9]{8,}")


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


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    """How far a sweep is: behind which name it goes on, None at the end; and what it removed."""

    marker: str | None
    removed: int = 0


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

    # -- a bit at a time, by nobody's word -----

    def sweep(
        self,
        account_id: str,
        container: str,
        marker: str,
        *,
        age: datetime.timedelta,
        most_listed: int,
        most_removed: int,
    ) -> Swept:
        """Remove what is left over among the objects of a container that come behind a name.

        Nobody looks at what that is: below the prefix everything has to be called like segments of
        backups. One page is listed, and what is below those of its prefixes that may be left over.
        Raises StorageError.
        """
        account = self._get_store().account(account_id)
        page = account.list(container, marker=marker, limit=most_listed)
        prefixes = {
            place[0]: place[2]
            for place in (stored_backups.find_prefix(each.name) for each in page)
            if place is not None
        }
        with self._database.reader() as session:
            statuses = backups.list_statuses(session, list(prefixes.values()))
        before = self._clock.now() - age
        removed = 0
        for prefix, backup_id in prefixes.items():
            if statuses.get(backup_id) not in (None, states.BackupStatus.FAILED):
                continue
            names = _find_left(account, container, prefix, before=before)
            for name in names[: most_removed - removed]:
                removed += account.delete(container, name)
            if names:
                LOG.info("removed objects below %s/%s that no backup has", container, prefix)
            if removed >= most_removed:
                # there may be more below this one
                return Swept(marker=prefix.removesuffix("/"), removed=removed)
        if len(page) < most_listed:
            return Swept(marker=None, removed=removed)
        return Swept(marker=_behind(page[-1].name), removed=removed)

    def _get_store(self) -> storage.Store:
        if self._store is None:
            raise exception.ConfigurationError(reason="[storage] driver is not set")
        return self._store


def _behind(name: str) -> str:
    """Return behind what a look goes on: an object, and with it all of the backup it is of."""
    place = stored_backups.find_prefix(name)
    # "0" is what comes behind "/"
    return name if place is None else place[0].removesuffix("/") + "0"


def _find_left(
    account: storage.Account, container: str, prefix: str, *, before: datetime.datetime
) -> list[str]:
    """Return the names of all objects below a prefix, none when they may be somebody's."""
    if account.find(container, prefix + manifests.MANIFEST_NAME) is not None:
        return []
    names = []
    for each in stored_backups.list_objects(account, container, prefix):
        if each.modified >= before or not _SEGMENT.fullmatch(each.name, len(prefix)):
            return []
        names.append(each.name)
    return names


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
