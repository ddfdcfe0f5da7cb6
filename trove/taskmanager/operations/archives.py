"""The archive of an instance's log: begun before a backup is made, ended when none is left.

An archive that cannot be begun does not keep a backup from being made: that is told, and the next
backup tries again.
"""

from __future__ import annotations

import datetime
from typing import Any

from oslo_log import log

from trove.common import crypto
from trove.datastores import spec
from trove.db import backups, log_archives, models, operations
from trove.rpc import payloads
from trove.services import names
from trove.taskmanager.operations import engine, restore, steps

LOG = log.getLogger(__name__)

#: How long the end of an archive may keep other operations of its instance waiting.
_STOP_S = 60.0


def _key_purpose(epoch: str) -> str:
    return f"archive:{epoch}"


class StartArchive(engine.Step):
    """Have the agent keep the log in an archive, unless it does; before a backup is made.

    The operation's data has the ``backup_id`` of the backup, whose place is known.
    """

    name = "start_archive"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Begin an epoch where none is active, and send the job until its outcome is known."""
        instance = steps.get_instance(ctx)
        facts = names.get_spec(instance.version.manager)
        if (
            not ctx.tools.conf.backup.point_in_time
            or spec.Capability.POINT_IN_TIME not in facts.capabilities
        ):
            return None
        epoch = ctx.job_id("archive-epoch")
        with ctx.tools.database.reader() as session:
            backup = backups.get(session, ctx.data["backup_id"])
            active = log_archives.find_active(session, ctx.instance_id)
        if active is None or (active.epoch != epoch and self._is_forgotten(ctx, instance, active)):
            self._begin(ctx, epoch, backup)
        elif active.epoch != epoch:
            return None
        outcome = steps.run_job(
            ctx, payloads.ArchiveJob.KIND, lambda: self._job(ctx, epoch), name="archive-start"
        )
        if isinstance(outcome, engine.Wait):
            steps.watch_server(ctx)
            return outcome
        if not outcome.succeeded:
            problem = steps.shorten(outcome.error, default="the guest agent gave no reason")
            LOG.warning("instance %s: its log is not archived: %s", ctx.instance_id, problem)
            steps.record(
                ctx,
                lambda session, now: log_archives.lose(session, epoch, problem=problem, now=now),
            )
        return None

    def _is_forgotten(
        self, ctx: engine.Context, instance: models.Instance, active: log_archives.Archive
    ) -> bool:
        """Tell whether the agent is there and tells nothing of the archive that it should have."""
        silent_after = datetime.timedelta(
            seconds=steps.SILENT_AFTER * ctx.tools.conf.guest.heartbeat_interval_s
        )
        return instance.heartbeat.received - (active.reported or active.created) > silent_after

    def _begin(self, ctx: engine.Context, epoch: str, backup: backups.BackupView) -> None:
        """Add the epoch, once, in the place of one that the agent does not know of any more."""
        wrapped = ctx.tools.key_ring.wrap(crypto.generate_key(), purpose=_key_purpose(epoch))
        new = log_archives.NewArchive(
            epoch=epoch,
            instance_id=ctx.instance_id,
            project_id=backup.project_id,
            storage_driver=backup.storage_driver,
            account_id=str(backup.account_id),
            container=str(backup.container),
            prefix=f"{ctx.instance_id}/archive/{epoch}/",
            key_wrapped=wrapped,
        )

        def begin(session: Any, now: datetime.datetime) -> None:
            if log_archives.find(session, epoch) is not None:
                return
            former = log_archives.find_active(session, ctx.instance_id)
            if former is not None:
                problem = "the guest agent does not know of it any more"
                log_archives.lose(session, former.epoch, problem=problem, now=now)
            log_archives.begin(session, new, now=now)

        steps.record(ctx, begin)

    def _job(self, ctx: engine.Context, epoch: str) -> payloads.ArchiveJob:
        with ctx.tools.database.reader() as session:
            archive = log_archives.find(session, epoch)
        if archive is None:
            raise engine.StepFailed("The archive of the log was removed meanwhile.")
        group = ctx.tools.conf.backup
        return payloads.ArchiveJob(
            archive=payloads.LogArchive(
                epoch=epoch,
                storage=restore.grant_archive(ctx, archive, is_read_only=False),
                key=restore.unwrap(ctx, archive.key_wrapped, purpose=_key_purpose(epoch)),
            ),
            interval_s=group.archive_interval_s,
            spool_bytes=group.archive_spool_mib << 20,
        )


class StopArchive(engine.Step):
    """Have the agent keep the log no longer."""

    name = "stop_archive"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Send the job, and end the epoch when it is done; raises StepFailed when it takes long.

        A backup that came in between needs the archive again.
        """
        with ctx.tools.database.reader() as session:
            active = log_archives.find_active(session, ctx.instance_id)
            if active is None or log_archives.is_needed(session, active):
                return None
        outcome = steps.run_job(ctx, payloads.ArchiveJob.KIND, payloads.ArchiveJob)
        if isinstance(outcome, engine.Wait):
            left_s = steps.time_left_s(ctx, self.name, _STOP_S)
            if left_s <= 0:
                raise engine.StepFailed("The guest agent did not answer.")
            return engine.Wait(event=outcome.event, timeout_s=min(outcome.timeout_s, left_s))
        steps.expect_success(outcome, what="Ending the archive of the log")
        steps.record(
            ctx,
            lambda session, now: log_archives.close_active(session, ctx.instance_id, now=now),
        )
        return None


FLOW = engine.Flow(kind=operations.STOP_ARCHIVE, steps=(StopArchive(),))
