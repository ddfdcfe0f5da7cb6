"""Archives of logs over time: late ones are told of, what no backup needs any more is removed.

Several task managers may do so at the same time: an object that one has removed the other does not
find, and the counter of pieces follows the objects. What is being restored from stays.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from oslo_context import context
from oslo_log import log

from trove.common import exception
from trove.db import base, instances, log_archives, operations, restorations
from trove.storage import base as storage
from trove.taskmanager.operations import engine, steps

LOG = log.getLogger(__name__)

#: An archive that is older than so many of its intervals is late.
LATE_AFTER = 3
#: Objects removed of an archive in one run, archives looked at in one, and those told of.
MOST_OBJECTS = 500
_PAGE = 100
_MOST_TOLD = 500
_STOP_S = 300.0


class ArchiveKeeping:
    """One pass is ``run``."""

    def __init__(self, tools: engine.Tools, *, hint: Callable[[Iterable[str]], None]) -> None:
        """Take the tools, and who is told of new operations."""
        self._tools = tools
        self._hint = hint
        #: Where the look at all archives goes on.
        self._mark = ""

    def run(self) -> None:
        """Do what is due."""
        self._tell_lags()
        if self._tools.store is not None:
            self._keep(self._tools.store)

    @base.retry_on_conflict
    def _tell_lags(self) -> None:
        now = self._tools.clock.now()
        interval_s: float = self._tools.conf.backup.archive_interval_s
        since = now - datetime.timedelta(seconds=LATE_AFTER * interval_s)
        with self._tools.database.writer() as session:
            log_archives.tell_lags(session, since=since, now=now, limit=_MOST_TOLD)

    def _keep(self, store: storage.Store) -> None:
        """Look at some archives; the next run goes on with others."""
        with self._tools.database.reader() as session:
            needs = log_archives.list_needs(session, after=self._mark, limit=_PAGE)
            reading = {
                each.epoch: each.first
                for each in sorted(
                    restorations.iterate_active(session), key=lambda each: -each.first
                )
                if each.epoch is not None
            }
        self._mark = needs[-1].archive.epoch if len(needs) == _PAGE else ""
        for need in needs:
            if need.archive.storage_driver != store.kind:
                continue
            try:
                self._keep_one(store, need, reading)
            except storage.StorageError as e:
                LOG.warning("archive %s is not tidied up now: %s", need.archive.epoch, e)

    def _keep_one(
        self, store: storage.Store, need: log_archives.Need, reading: Mapping[str, int]
    ) -> None:
        archive = need.archive
        wanted = [each for each in (need.sequence, reading.get(archive.epoch)) if each is not None]
        if wanted:
            self._prune(store, archive, min(wanted))
        elif archive.is_active:
            self._stop(archive)
        elif self._remove(store, archive, before=None):
            self._forget(archive)

    def _prune(self, store: storage.Store, archive: log_archives.Archive, sequence: int) -> None:
        if sequence > archive.first_sequence and self._remove(store, archive, before=sequence):
            self._advance(archive, sequence)

    def _remove(
        self, store: storage.Store, archive: log_archives.Archive, *, before: int | None
    ) -> bool:
        """Remove pieces, those before a number or all; tell whether none of them is left.

        The names of a piece's parts begin with its own, and are in the order of the pieces.
        """
        account = store.account(archive.account_id)
        end = None if before is None else f"{archive.prefix}{before:012d}"
        found = account.list(archive.container, prefix=archive.prefix, limit=MOST_OBJECTS)
        for each in found:
            if end is not None and each.name >= end:
                return True
            account.delete(archive.container, each.name)
        return len(found) < MOST_OBJECTS

    @base.retry_on_conflict
    def _advance(self, archive: log_archives.Archive, sequence: int) -> None:
        with self._tools.database.writer() as session:
            log_archives.advance_first(
                session, archive.epoch, sequence, now=self._tools.clock.now()
            )

    @base.retry_on_conflict
    def _forget(self, archive: log_archives.Archive) -> None:
        with self._tools.database.writer() as session:
            log_archives.remove(session, archive.epoch)
        LOG.info("archive %s of instance %s removed", archive.epoch, archive.instance_id)

    def _stop(self, archive: log_archives.Archive) -> None:
        operation_id = self._begin_stop(archive)
        if operation_id is not None:
            self._hint([operation_id])

    @base.retry_on_conflict
    def _begin_stop(self, archive: log_archives.Archive) -> str | None:
        """Have an archive end that no backup needs, unless its agent is silent or busy."""
        now = self._tools.clock.now()
        with self._tools.database.writer() as session:
            if not self._can_stop(session, archive, now):
                return None
            try:
                return operations.create(
                    session,
                    kind=operations.STOP_ARCHIVE,
                    resource_id=archive.instance_id,
                    lock_key=operations.instance_lock(archive.instance_id),
                    deadline=now + datetime.timedelta(seconds=_STOP_S),
                    now=now,
                    request_id=context.generate_request_id(),
                    project_id=archive.project_id,
                )
            except exception.Conflict:
                return None

    def _can_stop(
        self, session: Any, archive: log_archives.Archive, now: datetime.datetime
    ) -> bool:
        instance = instances.find_instance(session, archive.instance_id)
        if instance is None or instance.is_deleted:
            log_archives.close_active(session, archive.instance_id, now=now)
            return False
        silent_after = datetime.timedelta(
            seconds=steps.SILENT_AFTER * self._tools.conf.guest.heartbeat_interval_s
        )
        is_heard = now - instance.heartbeat.received <= silent_after
        return is_heard and not log_archives.is_needed(session, archive)
