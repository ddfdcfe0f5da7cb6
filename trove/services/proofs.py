"""Proofs of backups: which are to be had when a backup is completed, and how one begins.

What comes of it stands with the backup; see :mod:`trove.taskmanager.operations.verify_backup`.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
from collections.abc import Callable, Mapping
from typing import Any

from oslo_config import cfg
from oslo_log import log

from trove import states
from trove.common import concurrency, context, exception
from trove.db import backups, base, instances, models, operations, restorations

LOG = log.getLogger(__name__)

_RATES = 2**32
_KINDS: Mapping[str, str] = {
    "instance": operations.VERIFY_BACKUP,
    "server": operations.VERIFY_ON_SERVER,
    "host": operations.VERIFY_ON_HOST,
}


def lock(backup_id: str) -> str:
    """Return the lock key of the proof of a backup."""
    return f"verify:{backup_id}"


def is_wanted(conf: cfg.ConfigOpts, backup_id: str) -> bool:
    """Tell whether a backup that is completed is to be proven; always the same of a backup."""
    policy: str = conf.backup.verify
    if policy != "sampled":
        return policy == "all"
    drawn = int.from_bytes(hashlib.sha256(backup_id.encode()).digest()[:4], "big")
    return drawn < float(conf.backup.verify_sample_rate) * _RATES


def is_on_server(conf: cfg.ConfigOpts, kind: states.BackupKind = states.BackupKind.FULL) -> bool:
    """Tell whether backups are proven apart from their instances: these may be gone."""
    return _kind(conf, kind) != operations.VERIFY_BACKUP


def _kind(conf: cfg.ConfigOpts, kind: states.BackupKind) -> str:
    """Return the kind of the operations that prove backups of a kind."""
    if kind is states.BackupKind.SNAPSHOT:
        # it takes a volume that is made of it, and a server that has that
        return operations.VERIFY_ON_SERVER
    return _KINDS[str(conf.backup.verify_place)]


def _has_place(
    conf: cfg.ConfigOpts, kind: states.BackupKind, instance: models.Instance | None
) -> bool:
    """Tell whether there is a place to prove a backup of an instance: servers are made like it."""
    if _kind(conf, kind) == operations.VERIFY_ON_HOST:
        return True
    return instance is not None and (is_on_server(conf, kind) or not instance.is_deleted)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Again:
    """A proof that takes the place of one that found nothing out, maybe elsewhere.

    ``before`` is what was known before the first, and ``tries`` how many there were.
    """

    kind: str
    before: states.Verification | None
    tries: int = 0


def begin(
    session: Any,
    conf: cfg.ConfigOpts,
    backup: backups.BackupView,
    *,
    now: datetime.datetime,
    request_id: str | None = None,
    user_id: str | None = None,
    again: Again | None = None,
) -> str:
    """Add the operation that proves a backup, and return its id.

    Raises Conflict while it is being proven, BackupNotFound when a part of its chain is gone.
    """
    chain = backups.chain(session, backup.id)
    restoration = restorations.Restoration(
        chain=tuple(each.id for each in chain),
        snapshot_id=backup.location if backup.kind is states.BackupKind.SNAPSHOT else None,
    )
    again = again or Again(kind=_kind(conf, backup.kind), before=backup.verification)
    operation_id = models.new_id()
    is_at_instance = again.kind == operations.VERIFY_BACKUP
    operations.create(
        session,
        operation_id=operation_id,
        kind=again.kind,
        # what is made for it has the operation's own id
        resource_id=str(backup.instance_id) if is_at_instance else operation_id,
        lock_key=lock(backup.id),
        deadline=now + datetime.timedelta(seconds=conf.backup.timeout_s),
        now=now,
        data={
            "backup_id": backup.id,
            restorations.KEY: restoration.to_data(),
            "before": {"verification": again.before and again.before.value},
            "tries": again.tries,
        },
        request_id=request_id,
        project_id=backup.project_id,
        user_id=user_id,
    )
    backups.record_verification(session, backup.id, verification=states.Verification.RUNNING)
    return operation_id


def begin_wanted(
    session: Any, conf: cfg.ConfigOpts, backup: backups.BackupView, *, now: datetime.datetime
) -> list[str]:
    """Begin the proof of a backup that was just completed, if one is wanted.

    The last backup of an instance is not proven on it: the instance is being deleted. Returns the
    id of the operation, if there is one.
    """
    is_out = not is_wanted(conf, backup.id) or backup.instance_id is None
    if not is_out and not is_on_server(conf, backup.kind):
        is_out = backup.purpose is states.BackupPurpose.FINAL or operations.is_locked(
            session, operations.delete_lock(str(backup.instance_id))
        )
    if is_out:
        return []
    try:
        return [begin(session, conf, backup, now=now)]
    except (exception.Conflict, exception.BackupNotFound) as e:
        LOG.warning("backup %s is not proven: %s", backup.id, e.message)
        return []


class Proofs:
    """The use case of proving a backup now."""

    def __init__(
        self,
        *,
        conf: cfg.ConfigOpts,
        database: base.Database,
        run_operation: Callable[[str], object],
        clock: concurrency.Clock,
    ) -> None:
        """Take the collaborators; ``run_operation`` tells the task manager, by best effort."""
        self._conf = conf
        self._database = database
        self._run_operation = run_operation
        self._clock = clock

    def verify(self, caller: context.RequestContext, backup_id: str) -> None:
        """Begin to prove a backup on the instance that it was made of, or a server like that.

        Raises BackupNotFound; Conflict for one that is not completed, and while it is being proven;
        NotAvailable when its instance is gone, and no place is made for the proof.
        """
        operation_id = self._begin(caller, backup_id)
        self._run_operation(operation_id)
        LOG.info("backup %s: proof accepted as operation %s", backup_id, operation_id)

    @base.retry_on_conflict
    def _begin(self, caller: context.RequestContext, backup_id: str) -> str:
        project_id = None if caller.is_admin else str(caller.project_id)
        with self._database.writer() as session:
            backup = backups.get(session, backup_id, project_id=project_id)
            if not backup.is_restorable or not backups.hold(session, backup_id):
                raise exception.Conflict(
                    reason=f"backup {backup_id} is {backup.status.value}: only one that is"
                    " COMPLETED can be proven"
                )
            instance = None
            if backup.instance_id is not None:
                instance = instances.find_instance(session, backup.instance_id)
            if not _has_place(self._conf, backup.kind, instance):
                raise exception.NotAvailable(
                    feature="a proof, since the instance that the backup is of is gone; restore it"
                    " to a new one"
                )
            return begin(
                session,
                self._conf,
                backup,
                now=self._clock.now(),
                request_id=caller.request_id,
                user_id=caller.user_id,
            )
