"""Make a backup: the agent stores it, and what it stored is looked at before it counts.

The agent streams the engine's data into objects below the backup's own prefix, with a grant for
these alone, and the manifest last. A backup is COMPLETED once the control plane has read the
manifest, found it to be written with the backup's key, and seen all segments in their sizes. One
that fails leaves nothing but its row with the reason.
"""

from __future__ import annotations

import base64
import datetime
from typing import Any

from oslo_log import log

from trove import states
from trove.db import backups, guest_jobs, log_archives, operations
from trove.rpc import payloads
from trove.services import proofs
from trove.storage import manifests, stored_backups
from trove.taskmanager.operations import archives, backup_storage, engine, final_backup, steps

LOG = log.getLogger(__name__)

_Status = states.BackupStatus
#: Longest that the agent is waited for to end a backup that is cancelled.
_CANCEL_WITHIN_S = 60.0
_CANCEL_LOOK_S = 2.0
_MIB = 1 << 20


def get_running(ctx: engine.Context) -> backups.BackupView:
    """Return the backup; raises StepFailed when it is not being made any more."""
    backup = backup_storage.get_backup(ctx)
    if not backup.is_running:
        raise engine.StepFailed(backup.fault or f"The backup is {backup.status.value}.")
    return backup


def change(
    ctx: engine.Context, expect: frozenset[_Status] | set[_Status], to: _Status, **values: Any
) -> bool:
    """Change the status of the backup of an operation, if it is one of those expected."""
    changed: list[bool] = []

    def write(session: Any, now: datetime.datetime) -> None:
        changed.append(
            backups.change_status(
                session, str(ctx.data["backup_id"]), expect=expect, to=to, now=now, **values
            )
        )

    steps.record(ctx, write)
    return changed[-1]


class ChoosePlace(engine.Step):
    """Choose the account that it goes to."""

    name = "choose_place"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Note the account: the instance's project's, or the service's own."""
        backup = get_running(ctx)
        if backup.account_id is not None:
            return None
        store = backup_storage.get_store(ctx, backup)
        account_id = backup.project_id
        if ctx.tools.conf.backup.account == "service":
            with backup_storage.asking(ctx):
                account_id = store.service_project()
        steps.record(
            ctx,
            lambda session, now: backups.update(
                session, backup.id, account_id=account_id, expect=backups.RUNNING, now=now
            ),
        )
        return None

    def undo(self, ctx: engine.Context) -> engine.Wait | None:
        """Remove what the agent stored, as far as the object store lets us."""
        try:
            with_objects = backup_storage.get_backup(ctx)
            count = backup_storage.remove_objects(ctx, with_objects)
        except engine.StepFailed as e:
            LOG.warning(
                "backup %s: objects of it may be left: %s", ctx.data["backup_id"], e.message
            )
            return None
        if count:
            LOG.info("backup %s: removed %d objects of it", with_objects.id, count)
        return None


class RunBackup(engine.Step):
    """Have the agent make it."""

    name = "run_backup"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Send the job until its outcome is known; show how far it is."""
        backup = get_running(ctx)
        if backup.status is _Status.NEW:
            change(ctx, {_Status.NEW}, _Status.BUILDING)
        outcome = steps.run_job(ctx, payloads.BackupJob.KIND, lambda: self._make_job(ctx, backup))
        if isinstance(outcome, engine.Wait):
            steps.watch_server(ctx)
            self._show_progress(ctx, backup)
            return outcome
        steps.expect_success(outcome, what="Making the backup")
        change(ctx, {_Status.BUILDING}, _Status.SAVING)
        ctx.data["manifest_sha256"] = (outcome.result or {}).get("manifest_sha256")
        return None

    def undo(self, ctx: engine.Context) -> engine.Wait | None:
        """Have the agent end it, if it answers; bounded in time."""
        job_id = ctx.job_id(payloads.BackupJob.KIND)
        with ctx.tools.database.reader() as session:
            job = guest_jobs.find(session, job_id)
        if job is None or job.succeeded is not None:
            return None
        steps.cancel_job(ctx.tools, ctx.instance_id, job_id)
        if steps.time_left_s(ctx, "cancel", _CANCEL_WITHIN_S) <= 0:
            LOG.warning("backup %s: its agent did not end it", ctx.data["backup_id"])
            return None
        return engine.Wait(event=f"job:{job_id}", timeout_s=_CANCEL_LOOK_S)

    def _make_job(self, ctx: engine.Context, backup: backups.BackupView) -> payloads.BackupJob:
        group = ctx.tools.conf.backup
        return payloads.BackupJob(
            backup_id=backup.id,
            storage=backup_storage.make_grant(ctx, backup),
            key=_key_of(ctx, backup),
            wrapped_key=base64.b64encode(backup.key_wrapped or b"").decode("ascii"),
            parent=self._make_parent(ctx, backup),
            about=_describe(backup),
            segment_bytes=group.segment_mib * _MIB,
            compression_level=group.compression_level,
            rate_limit_bytes_s=group.rate_limit_mib_s * _MIB,
        )

    def _make_parent(
        self, ctx: engine.Context, backup: backups.BackupView
    ) -> payloads.StoredBackup | None:
        if backup.parent_id is None:
            return None
        parent = backup_storage.get_backup(ctx, backup.parent_id)
        if not parent.is_restorable:
            raise engine.StepFailed(f"Its parent, backup {parent.id}, is being deleted.")
        return payloads.StoredBackup(
            backup_id=parent.id,
            storage=backup_storage.make_grant(ctx, parent, is_read_only=True),
            key=_key_of(ctx, parent),
            manifest_sha256=str(parent.manifest_sha256),
        )

    def _show_progress(self, ctx: engine.Context, backup: backups.BackupView) -> None:
        """Note that the agent is storing it."""
        if backup.status is _Status.SAVING:
            return
        with ctx.tools.database.reader() as session:
            progress = backups.find_progress(session, backup.id, instance_id=ctx.instance_id)
        if progress is not None and (progress.done_bytes or progress.percent):
            change(ctx, {_Status.BUILDING}, _Status.SAVING)


class CheckStored(engine.Step):
    """Look at what the agent stored."""

    name = "check_stored"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Read the manifest, look at the segments, note what there is."""
        backup = get_running(ctx)
        container, prefix = str(backup.container), str(backup.prefix)
        with backup_storage.asking(ctx):
            account = backup_storage.get_account(ctx, backup)
            manifest = stored_backups.read_manifest(account, container, prefix)
            _check(ctx, backup, manifest)
            facts = stored_backups.facts_of(manifest)
            strangers = stored_backups.check_segments(account, container, prefix, manifest)
            for name in strangers:
                account.delete(container, name)
            location = backup_storage.get_store(ctx, backup).locate(
                str(backup.account_id),
                container=container,
                name=prefix + manifests.MANIFEST_NAME,
            )
        if strangers:
            LOG.info("backup %s: removed %d objects of other attempts", backup.id, len(strangers))
        if not self._has_archive(ctx, manifest):
            facts |= {"archive_epoch": None, "archive_sequence": None}
        steps.record(
            ctx,
            lambda session, now: backups.update(
                session,
                backup.id,
                expect=backups.RUNNING,
                location=location,
                now=now,
                **facts,
            ),
        )
        return None

    def _has_archive(self, ctx: engine.Context, manifest: manifests.Manifest) -> bool:
        """Tell whether the log goes on from it in an archive of the instance's own."""
        if manifest.archive is None:
            return False
        with ctx.tools.database.reader() as session:
            archive = log_archives.find(session, manifest.archive.epoch)
        if archive is None or archive.instance_id != ctx.instance_id:
            LOG.warning("backup %s names an archive that is none", ctx.data["backup_id"])
            return False
        return True


class Complete(engine.Step):
    """Let it count."""

    name = "complete"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Set the status, unless somebody had it fail meanwhile."""
        if backup_storage.get_backup(ctx).status is _Status.COMPLETED:
            return None
        if not change(ctx, {_Status.SAVING}, _Status.COMPLETED):
            get_running(ctx)
            raise engine.StepFailed("The backup was not being stored.")
        LOG.info("backup %s: completed", ctx.data["backup_id"])
        have_proven(ctx)
        return None


def have_proven(ctx: engine.Context) -> None:
    """Begin the proof of a backup that was just completed, if one is wanted."""
    backup = backup_storage.get_backup(ctx)
    begun: list[str] = []
    steps.record(
        ctx,
        lambda session, now: begun.extend(
            proofs.begin_wanted(session, ctx.tools.conf, backup, now=now)
        ),
    )
    ctx.hint(begun)


def _check(ctx: engine.Context, backup: backups.BackupView, manifest: manifests.Manifest) -> None:
    """Raise ManifestError unless a manifest is that of this very backup."""
    manifest.check(base64.b64decode(_key_of(ctx, backup)))
    reported = ctx.data.get("manifest_sha256")
    if reported is not None and reported != manifest.sha256:
        raise manifests.ManifestError(reason="it is not the one that the agent wrote")
    wanted = (backup.id, backup.manager, backup.kind, backup.parent_id)
    if (manifest.backup_id, manifest.manager, manifest.kind, manifest.parent_id) != wanted:
        raise manifests.ManifestError(reason="it is that of another backup")


def _key_of(ctx: engine.Context, backup: backups.BackupView) -> str:
    """Return the data key of a backup, base64."""
    key = ctx.tools.key_ring.unwrap(
        backup.key_wrapped or b"", purpose=stored_backups.key_purpose(backup.id)
    )
    return base64.b64encode(key).decode("ascii")


def _describe(backup: backups.BackupView) -> dict[str, Any]:
    """Return what stands in the manifest, so that the backup can be told from its objects alone."""
    return {
        "project_id": backup.project_id,
        "user_id": backup.user_id,
        "instance_id": backup.instance_id,
        "name": backup.name,
        "description": backup.description,
        "datastore": backup.datastore_name,
        "version": backup.version_name,
        "version_id": backup.datastore_version_id,
        "version_number": backup.version_number,
        "volume_size_gib": backup.volume_size_gib,
        "purpose": backup.purpose.value,
        "created": backup.created.isoformat(),
    }


def on_failed(ctx: engine.Context, session: Any, failure: engine.Failure) -> None:
    """Note why there is no backup; tell who waits for its end."""
    now = ctx.tools.clock.now()
    backup_id = str(ctx.data["backup_id"])
    if backups.change_status(
        session,
        backup_id,
        expect=backups.RUNNING,
        to=_Status.FAILED,
        fault=failure.message,
        now=now,
    ):
        LOG.warning("backup %s: failed: %s", backup_id, failure.message)
    final_backup.on_failed(ctx, session, failure)
    ctx.hint(operations.signal(session, resource_id=backup_id, event="backup-ended", now=now))


FLOW = engine.Flow(
    kind=operations.CREATE_BACKUP,
    steps=(ChoosePlace(), archives.StartArchive(), RunBackup(), CheckStored(), Complete()),
    on_failed=on_failed,
    on_succeeded=final_backup.on_succeeded,
)
