"""Notices hosts that prove backups and are gone, and has others go on with what they had."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable

from oslo_log import log

from trove.db import base, operations, verifier_hosts
from trove.taskmanager.operations import engine

LOG = log.getLogger(__name__)

#: After which a host that has nothing to do and is not heard of is forgotten.
_FORGOTTEN_AFTER = datetime.timedelta(days=1)
_REST_S = 600.0


class VerifierWatch:
    """One pass is ``run``.

    A host is gone when what it counts stood still for long by the clock of this process: clocks
    that differ, and a database that nobody reached for a while, make none.
    """

    def __init__(self, tools: engine.Tools, *, hint: Callable[[Iterable[str]], None]) -> None:
        """Take the tools, and who is told of operations that are free again."""
        self._conf = tools.conf.verifier
        self._database = tools.database
        self._clock = tools.clock
        self._hint = hint
        #: Host -> what it counted last, and the monotonic time since when.
        self._beats: dict[str, tuple[int, float]] = {}
        self._tidy_at = tools.clock.monotonic()

    def run(self) -> None:
        """Look at all hosts that have something to do."""
        now = self._clock.monotonic()
        with self._database.reader() as session:
            at_work = operations.list_pinning(session)
            beats = {each.name: each.beats for each in verifier_hosts.list_hosts(session)}
        seen = {}
        for name in at_work:
            count = beats.get(name, 0)
            before = self._beats.get(name)
            seen[name] = before if before is not None and before[0] == count else (count, now)
        self._beats = seen
        for name, (_, since) in seen.items():
            if now - since >= self._conf.lost_after_s:
                self._hint(self._take_from(name))
        if now >= self._tidy_at:
            self._tidy_at = now + _REST_S
            self._forget(at_work)

    @base.retry_on_conflict
    def _take_from(self, name: str) -> list[str]:
        with self._database.writer() as session:
            ids = operations.unpin(session, name, now=self._clock.now())
        LOG.error(
            "host %s, which proves backups, was not heard of for %.0f s: %d proofs are taken from"
            " it",
            name,
            self._conf.lost_after_s,
            len(ids),
        )
        return ids

    @base.retry_on_conflict
    def _forget(self, at_work: frozenset[str]) -> None:
        if at_work:
            return
        with self._database.writer() as session:
            verifier_hosts.forget(session, before=self._clock.now() - _FORGOTTEN_AFTER)
