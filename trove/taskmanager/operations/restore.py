"""Restore a database: what its agent is told to restore from, and doing so in place.

Which backups and which log stands in the operation's data, without a key or a grant: both are made
when a job is sent. In place, the agent keeps the former database until the restored one answers and
that is recorded; whatever fails before has the former one put back. From the record on nothing is
taken back. The log goes on from another database then: its archive is over, and the next backup
begins another.
"""

from __future__ import annotations

import contextlib
import datetime
from typing import Any

from oslo_log import log

from trove import states
from trove.common import crypto
from trove.db import backups, guest_jobs, log_archives, operations, restorations
from trove.rpc import payloads
from trove.services import restores
from trove.storage import grants
from trove.taskmanager.operations import backup_storage, engine, steps

LOG = log.getLogger(__name__)

_BUILDING = states.TaskStatus.BUILDING
#: How often one looks whether an archive is as old as is wanted.
_ARCHIVE_LOOK_S = 1.0
#: How long an archive may take to get there: so many of its intervals, and a margin.
_ARCHIVE_INTERVALS = 3
_ARCHIVE_MARGIN_S = 60.0
_RECORDED = "is_recorded"


def grant_archive(
    ctx: engine.Context, archive: log_archives.Archive, *, is_read_only: bool
) -> payloads.ObjectStorage:
    """Return what a guest opens the pieces of an archive with."""
    with backup_storage.asking(ctx):
        return grants.make(
            backup_storage.get_store(ctx, archive),
            archive.account_id,
            container=archive.container,
            prefix=archive.prefix,
            is_read_only=is_read_only,
        )


def unwrap(ctx: engine.Context, wrapped: bytes | None, *, purpose: str) -> str:
    """Return a data key as payloads carry it; raises StepFailed when there is none to be had."""
    if wrapped is None:
        raise engine.StepFailed("The key of the backup is not kept any more.")
    try:
        return crypto.encode_key(ctx.tools.key_ring.unwrap(wrapped, purpose=purpose))
    except crypto.DecryptionFailed:
        raise engine.StepFailed(
            "The key of the backup cannot be unwrapped: the operator adds the key-encryption key of"
            " its time to [guest] key_encryption_keys."
        ) from None


def find(ctx: engine.Context) -> restorations.Restoration | None:
    """Return what the operation restores from, None when it makes a new database."""
    data = ctx.data.get(restorations.KEY)
    return None if data is None else restorations.Restoration.from_data(data)


def is_recorded(ctx: engine.Context) -> bool:
    """Tell whether the restored database is the instance's for good."""
    return bool(ctx.data.get(_RECORDED))


def payload_of(ctx: engine.Context) -> payloads.Restoration | None:
    """Return what the agent is told, with keys and grants; None for a new database."""
    restoration = find(ctx)
    if restoration is None:
        return None
    if restoration.snapshot_id is not None:
        return payloads.Restoration(chain=(), snapshot=restoration.backup_id)
    with ctx.tools.database.reader() as session:
        chain = [backups.get(session, backup_id) for backup_id in restoration.chain]
        archive = None
        if restoration.epoch is not None:
            archive = log_archives.find(session, restoration.epoch)
    if restoration.epoch is not None and archive is None:
        raise engine.StepFailed("The log behind the backup is not kept any more.")
    return payloads.Restoration(
        chain=tuple(_stored(ctx, each) for each in chain),
        archive=None if archive is None else _log(ctx, archive, restoration),
        target_time=restoration.target_time,
        target_position=restoration.target_position,
        target_name=restoration.target_name,
    )


def _stored(ctx: engine.Context, backup: backups.BackupView) -> payloads.StoredBackup:
    if backup.manifest_sha256 is None:
        raise engine.StepFailed(f"Backup {backup.id} is not complete.")
    return payloads.StoredBackup(
        backup_id=backup.id,
        storage=backup_storage.make_grant(ctx, backup, is_read_only=True),
        key=unwrap(ctx, backup.key_wrapped, purpose=f"backup:{backup.id}"),
        manifest_sha256=backup.manifest_sha256,
    )


def _log(
    ctx: engine.Context, archive: log_archives.Archive, restoration: restorations.Restoration
) -> payloads.LogArchive:
    return payloads.LogArchive(
        epoch=archive.epoch,
        storage=grant_archive(ctx, archive, is_read_only=True),
        key=unwrap(ctx, archive.key_wrapped, purpose=f"archive:{archive.epoch}"),
        first=restoration.first,
        last=restoration.last,
    )


class AwaitBackup(engine.Step):
    """Wait for the backup that is made before, if one is wanted."""

    name = "await_backup"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Look how it is; raises StepFailed when there will be none."""
        backup_id = ctx.data.get(restores.SAFETY_KEY)
        if backup_id is None:
            return None
        with ctx.tools.database.reader() as session:
            backup = backups.find(session, backup_id)
            active = operations.list_operations(
                session,
                resource_id=ctx.instance_id,
                kind=operations.CREATE_BACKUP,
                active_only=True,
            )
        if backup is not None and backup.status is states.BackupStatus.COMPLETED:
            return None
        if backup is None or not backup.is_running:
            reason = steps.shorten(None if backup is None else backup.fault, default="it is gone")
            raise engine.StepFailed(f"The backup that was to be made before failed: {reason}")
        ctx.hint([each.id for each in active])
        return engine.Wait(event="backup-ended", timeout_s=_ARCHIVE_LOOK_S)


class AwaitArchive(engine.Step):
    """Wait until the archive of the log is as old as is wanted, and note its last piece.

    From then on it does not matter what is added: each try restores the same.
    """

    name = "await_archive"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Look how old it is; raises StepFailed when it does not get there."""
        restoration = find(ctx)
        if restoration is None or restoration.epoch is None or restoration.last is not None:
            return None
        with ctx.tools.database.reader() as session:
            archive = log_archives.find(session, restoration.epoch)
        if archive is None:
            raise engine.StepFailed("The log behind the backup is not kept any more.")
        wanted = self._wanted(ctx, archive, restoration)
        if wanted is not None and (archive.as_of is None or archive.as_of < wanted):
            return self._wait(ctx, archive)
        ctx.data[restorations.KEY]["last"] = archive.next_sequence - 1
        return None

    def _wanted(
        self,
        ctx: engine.Context,
        archive: log_archives.Archive,
        restoration: restorations.Restoration,
    ) -> datetime.datetime | None:
        """Return what time the archive has to have; a position was written before the request."""
        if restoration.target_time is not None:
            return datetime.datetime.fromtimestamp(restoration.target_time, datetime.UTC)
        return ctx.operation.created if archive.is_active else None

    def _wait(self, ctx: engine.Context, archive: log_archives.Archive) -> engine.Wait:
        within_s = _ARCHIVE_INTERVALS * ctx.tools.conf.backup.archive_interval_s
        if not archive.is_active or (
            steps.time_left_s(ctx, self.name, within_s + _ARCHIVE_MARGIN_S) <= 0
        ):
            reached = (archive.as_of or archive.created).strftime("%Y-%m-%dT%H:%M:%SZ")
            problem = f" ({archive.problem})" if archive.problem else ""
            raise engine.StepFailed(
                f"The archive of the log reaches to {reached} only{problem}: choose a time until"
                " then."
            )
        return engine.Wait(event="archive", timeout_s=_ARCHIVE_LOOK_S)


def _phase(phase: str) -> str:
    return f"{payloads.RestoreJob.KIND}-{phase}"


def _keep_agent(ctx: engine.Context) -> None:
    """See to it that there is an agent to do what is waited for; best effort."""
    with contextlib.suppress(engine.StepFailed):
        steps.watch_server(ctx)


class Restore(engine.Step):
    """Have the agent restore beside the database, and put that into its place."""

    name = "restore"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Send the job until its outcome is known; raises StepFailed when it failed."""
        outcome = steps.run_job(
            ctx,
            payloads.RestoreJob.KIND,
            lambda: payloads.RestoreJob(phase="restore", restoration=payload_of(ctx)),
            name=_phase("restore"),
        )
        if isinstance(outcome, engine.Wait):
            steps.watch_server(ctx)
            return outcome
        steps.expect_success(outcome, what="Restoring the database")
        return None

    def undo(self, ctx: engine.Context) -> engine.Wait | None:
        """Have the former database put back, unless the restored one is recorded."""
        if is_recorded(ctx):
            return None
        self._cancel(ctx)
        outcome = steps.try_job(
            ctx,
            payloads.RestoreJob.KIND,
            lambda: payloads.RestoreJob(phase="revert"),
            name=_phase("revert"),
            within_s=ctx.tools.conf.taskmanager.usage_timeout_s,
        )
        if outcome is not None:
            _keep_agent(ctx)
        else:
            with ctx.tools.database.reader() as session:
                job = guest_jobs.find(session, ctx.job_id(_phase("revert")))
            ctx.data["is_down"] = job is None or not job.succeeded
        return outcome

    def _cancel(self, ctx: engine.Context) -> None:
        """Have the agent end what it is still at, once; best effort: it may be long over."""
        if ctx.data.get("is_cancelled"):
            return
        ctx.data["is_cancelled"] = True
        steps.cancel_job(ctx.tools, ctx.instance_id, ctx.job_id(_phase("restore")))


class AwaitEngine(engine.Step):
    """See that the engine answers on the restored database, before there is no way back."""

    name = "await_engine"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Look what its agent says; raises StepFailed when it takes too long."""
        if steps.get_instance(ctx).heartbeat.service_status.is_running:
            return None
        within_s = ctx.tools.conf.taskmanager.restart_timeout_s
        if steps.time_left_s(ctx, self.name, within_s) <= 0:
            raise engine.StepFailed(
                f"The database did not answer within {within_s:.0f} s of being restored."
            )
        steps.watch_server(ctx)
        return engine.Wait(event="service", timeout_s=_ARCHIVE_LOOK_S)


class RecordRestored(engine.Step):
    """Note that the database is another one: from here nothing is taken back."""

    name = "record_restored"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """End the archive of the former database's log; what is stored of it stays."""
        steps.record(
            ctx,
            lambda session, now: log_archives.close_active(session, ctx.instance_id, now=now),
        )
        ctx.data[_RECORDED] = True
        LOG.info("instance %s: restored in place", ctx.instance_id)
        return None


class Commit(engine.Step):
    """Have the agent remove the former database and archive the log no longer."""

    name = "commit"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Send the jobs; what an agent does not do in time it does with the next restoration."""
        within_s = ctx.tools.conf.taskmanager.restart_timeout_s
        wait = steps.try_job(
            ctx,
            payloads.ArchiveJob.KIND,
            payloads.ArchiveJob,
            name="archive-stop",
            within_s=within_s,
        ) or steps.try_job(
            ctx,
            payloads.RestoreJob.KIND,
            lambda: payloads.RestoreJob(phase="commit"),
            name=_phase("commit"),
            within_s=within_s,
        )
        if wait is not None:
            _keep_agent(ctx)
        return wait


class Finish(engine.Step):
    """Hand the instance back to its user."""

    name = "finish"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """End the task, unless somebody else has (a deletion)."""
        steps.record(ctx, lambda session, now: steps.end_task(ctx, session, now, _BUILDING))
        return None


def on_failed(ctx: engine.Context, session: Any, failure: engine.Failure) -> None:
    """Tell what happened, and which database there is now."""
    outcome = "The database is the one from before."
    if is_recorded(ctx):
        outcome = "The database was restored all the same."
    elif ctx.data.get("is_down"):
        outcome = (
            "It is not confirmed that the database from before is back in its place; nothing of it"
            " was removed: look at its operating status, and restart the instance."
        )
    steps.fail_task(
        ctx, session, failure, expect=_BUILDING, to=steps.task_before(ctx), outcome=outcome
    )


FLOW = engine.Flow(
    kind=operations.RESTORE_INSTANCE,
    steps=(
        AwaitBackup(),
        AwaitArchive(),
        Restore(),
        AwaitEngine(),
        RecordRestored(),
        Commit(),
        Finish(),
    ),
    on_failed=on_failed,
)
