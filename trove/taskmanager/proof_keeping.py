"""Prove backups again whose proof has become old: what was good once need not be so still.

Each instance with backups has one of them proven before its last proof is too old to count
(``verify_max_age_days``): the newest one, and where that turns out to be bad, the one before it,
until one is good. Besides, every backup that was to be proven when it was completed is proven again
after ``verify_interval_days``. The newest come first, one of an instance at a time. Those of an
instance that is gone are only proven where proofs are made on servers of their own.

All instances that have backups are looked at in turn, by an index, a page in a pass. There are
never more than ``verify_at_once`` proofs begun from here and elsewhere; one that found nothing out
is tried again after a day. Several task managers may do so at once: a backup has one proof at a
time by the lock of its operation.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Sequence

from oslo_config import cfg
from oslo_log import log

from trove import states
from trove.common import exception
from trove.db import backup_schedules, backups, base, instance_views
from trove.db import proofs as kept
from trove.services import proofs
from trove.taskmanager import rounds
from trove.taskmanager.operations import engine

LOG = log.getLogger(__name__)

#: Instances looked at in one pass, and most that are looked at one by one.
_INSTANCES = 200
_LOOKS = 50
#: Seconds between two looks at all.
_REST_S = 600.0
#: Before a proof that found nothing out is tried again.
_PAUSE = datetime.timedelta(days=1)
#: Part of the time that a proof counts for after which another is made: there must be time for it.
_EARLY = 0.75


class ProofKeeping:
    """One pass is ``run``."""

    def __init__(self, tools: engine.Tools, *, hint: Callable[[Iterable[str]], None]) -> None:
        """Take the tools, and who is told of new operations."""
        self._conf = tools.conf
        self._database = tools.database
        self._clock = tools.clock
        self._hint = hint
        self._round = rounds.Round(tools.clock, first="", rest_s=_REST_S)

    def run(self) -> None:
        """Begin proofs of some instances' backups; when all were looked at, rest."""
        if self._conf.backup.verify == "none":
            return
        mark = self._round.find_mark()
        if mark is not None:
            self._round.go_on(self._look(mark))

    def _look(self, after: str) -> str | None:
        """Look at the instances behind one; return where to go on, None behind the last one."""
        now = self._clock.now()
        with self._database.reader() as session:
            left = int(self._conf.backup.verify_at_once) - kept.count_active(session)
            if left <= 0:
                return after
            page = backup_schedules.list_instances_with_backups(
                session, after=after, limit=_INSTANCES
            )
            found = kept.list_provable(session, page, with_deleted=proofs.is_on_server(self._conf))
            tried = kept.list_tried(session, since=now - _PAUSE)
        looks = _LOOKS
        for instance_id in page:
            wanted = [
                each
                for each in choose(self._conf, found.get(instance_id, ()), now=now)
                if each not in tried
            ]
            if wanted:
                begun = self._begin(instance_id, wanted)
                looks -= 1
                if begun is not None:
                    left -= 1
                    self._hint([begun])
            if not left or not looks:
                return instance_id
        return page[-1] if len(page) == _INSTANCES else None

    @base.retry_on_conflict
    def _begin(self, instance_id: str, wanted: Sequence[str]) -> str | None:
        """Begin the first proof that can be had now; return its operation."""
        now = self._clock.now()
        with self._database.writer() as session:
            view = instance_views.find_view(session, instance_id, project_id=None)
            is_ready = view is not None and view.is_ready
            for backup_id in wanted:
                found = backups.find(session, backup_id)
                if found is None:
                    continue
                if not is_ready and not proofs.is_on_server(self._conf, found.kind):
                    continue
                if not backups.hold(session, backup_id):
                    continue
                try:
                    begun = proofs.begin(session, self._conf, found, now=now)
                except (exception.Conflict, exception.BackupNotFound) as e:
                    LOG.info("backup %s is not proven again now: %s", backup_id, e.message)
                    continue
                LOG.info("backup %s: its proof is old, operation %s", backup_id, begun)
                return begun
        return None


def choose(
    conf: cfg.ConfigOpts, provable: Sequence[kept.Provable], *, now: datetime.datetime
) -> list[str]:
    """Return which of an instance's backups are to be proven, in this order.

    ``provable`` are in order, the newest first. None while one is being proven. A snapshot lies
    where its database does: a good one makes up for no other backup.
    """
    if any(each.verification is states.Verification.RUNNING for each in provable):
        return []
    snapshots = [each for each in provable if each.kind is states.BackupKind.SNAPSHOT]
    others = [each for each in provable if each.kind is not states.BackupKind.SNAPSHOT]
    return [
        *_choose_alike(conf, others, now=now),
        *_choose_alike(conf, snapshots, now=now),
    ]


def _choose_alike(
    conf: cfg.ConfigOpts, provable: Sequence[kept.Provable], *, now: datetime.datetime
) -> list[str]:
    since = now - datetime.timedelta(days=conf.backup.verify_max_age_days) * _EARLY
    passed = states.Verification.PASSED
    is_kept = any(each.verification is passed and _is_since(each, since) for each in provable)
    # else what is completed is proven then, if that is wanted at all: the first one has its time
    is_first = conf.backup.verify != "scheduled" and not any(
        (each.completed or each.created) < since for each in provable
    )
    wanted = []
    if not is_kept and not is_first:
        wanted = [each.id for each in provable if not _is_since(each, since)]
    if conf.backup.verify != "scheduled" and conf.backup.verify_interval_days:
        before = now - datetime.timedelta(days=conf.backup.verify_interval_days)
        wanted += [
            each.id
            for each in provable
            if each.id not in wanted
            and proofs.is_wanted(conf, each.id)
            and not _is_since(each, before)
            and (each.completed or each.created) < before
        ]
    return wanted


def _is_since(proven: kept.Provable, moment: datetime.datetime) -> bool:
    return proven.verified is not None and proven.verified >= moment
