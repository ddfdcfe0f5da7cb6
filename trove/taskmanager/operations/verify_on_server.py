"""Prove a backup on a server that is made for it, and removed whatever comes of it.

The server is like that of the backup's instance: same image, same flavor, a volume as large. It
belongs to the service: its row has the operation's own id, is one of the service's project, is
charged to nobody's quota, and is never more than being built. No engine is ever begun on it but the
throw-away one of the proof, and nobody is admitted to its port. The row lives as long as the
operation, and all that is made carries its id: what may be left over is removed by the reconciler
like that of every instance that is deleted.
"""

from __future__ import annotations

import datetime
from typing import Any

from oslo_log import log

from trove import states
from trove.common import crypto
from trove.db import backups, guest_keys, instances, models, operations
from trove.rpc import payloads
from trove.storage import base as storage
from trove.taskmanager.operations import (
    channel,
    create,
    delete,
    engine,
    steps,
    verify_backup,
)

LOG = log.getLogger(__name__)


class AddServer(engine.Step):
    """Have a row, which keys, jobs and reports of the agent belong to."""

    name = "add_server"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Add it, unless it is there."""
        network = ctx.tools.conf.backup.verify_network
        ctx.data["nic"] = None if network is None else {"network_id": network}
        with ctx.tools.database.reader() as session:
            if instances.find_instance(session, ctx.instance_id) is not None:
                return None
            backup = backups.get(session, ctx.data["backup_id"])
            source = None
            if backup.instance_id is not None:
                source = instances.find_instance(session, backup.instance_id)
        if source is None:
            raise engine.StepFailed("There is no record of the instance that the backup is of.")
        if backup.kind is states.BackupKind.SNAPSHOT:
            _expect_snapshot(ctx, backup)
        flavor = ctx.tools.drivers.compute.get_flavor(source.flavor_id)
        sizes = [each for each in (source.volume_size_gib, backup.volume_size_gib) if each]
        add_row(
            ctx,
            backup,
            flavor_id=source.flavor_id,
            flavor_ram_mib=flavor.ram_mib,
            volume_size_gib=max(sizes, default=None),
            volume_type=source.volume_type,
            availability_zone=source.availability_zone,
        )
        return None


def _expect_snapshot(ctx: engine.Context, backup: backups.BackupView) -> None:
    """Raise StepFailed unless there is the snapshot; that it is gone is what came of the proof."""
    driver = ctx.tools.drivers.volume
    if not driver.has_snapshots:
        raise engine.StepFailed(
            "The volumes that this service has now have no snapshots: the operator sets [drivers]"
            " volume."
        )
    if driver.find_snapshot(backup.id) is None:
        reason = "The volume service does not have the snapshot any more."
        ctx.data["result"] = verify_backup.disproven(reason)
        raise engine.StepFailed(reason)


def add_row(ctx: engine.Context, backup: backups.BackupView, **values: Any) -> None:
    """Add the row of what a proof is made on; ``values`` are more of NewInstance."""
    key = ctx.tools.key_ring.wrap(
        crypto.generate_key(), purpose=guest_keys.purpose(ctx.instance_id)
    )
    store = ctx.tools.store
    new = instances.NewInstance(
        id=ctx.instance_id,
        # where there is no store there are snapshots all the same
        project_id=storage.SERVICE_PROJECT if store is None else store.service_project(),
        user_id=None,
        name=f"proof-{backup.id}",
        datastore_version_id=backup.datastore_version_id,
        key_wrapped=key,
        # who looks among all instances is not to delete it
        is_protected=True,
        **values,
    )
    steps.record(ctx, lambda session, now: instances.create_instance(session, new, now=now))


class CreatePort(create.CreatePort):
    """Give the server ports that nobody may connect to."""

    def access(self, ctx: engine.Context, instance: models.Instance) -> dict[str, Any]:
        """Return that nobody may."""
        return {"is_public": False, "allowed_cidrs": []}


class Verify(engine.Step):
    """Have the agent prove the backup."""

    name = "verify"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Send the job until its outcome is known."""
        ctx.data.setdefault("began", ctx.tools.clock.now().isoformat())
        outcome = steps.run_job(
            ctx, payloads.VerifyBackupJob.KIND, lambda: verify_backup.make_job(ctx)
        )
        if isinstance(outcome, engine.Wait):
            steps.watch_server(ctx)
            return outcome
        verify_backup.expect_found_out(outcome)
        ctx.data["result"] = verify_backup.result_of(ctx, outcome)
        return None


class ForgetServer(engine.Step):
    """End the row."""

    name = "forget_server"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Mark it as deleted."""
        steps.record(ctx, lambda session, now: forget(ctx, session, now))
        return None


def forget(ctx: engine.Context, session: Any, now: datetime.datetime) -> None:
    if instances.mark_deleted(session, ctx.instance_id, now=now):
        LOG.info("server %s, made for a proof, is removed", ctx.instance_id)


def on_failed(ctx: engine.Context, session: Any, failure: engine.Failure) -> None:
    """Tell that nothing was found out, unless something was; everything is removed by now."""
    verify_backup.on_failed(ctx, session, failure)
    forget(ctx, session, ctx.tools.clock.now())


FLOW = engine.Flow(
    kind=operations.VERIFY_ON_SERVER,
    steps=(
        AddServer(),
        CreatePort(),
        create.CreateVolume(),
        create.CreateServer(),
        create.AwaitServer(),
        create.AwaitAgent(),
        channel.SecureChannel(),
        Verify(),
        verify_backup.Record(),
        delete.DeleteServer(),
        delete.DeleteVolume(),
        delete.DeletePort(),
        ForgetServer(),
    ),
    on_failed=on_failed,
)
