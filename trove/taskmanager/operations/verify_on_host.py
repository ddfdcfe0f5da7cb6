"""Prove a backup on a host of the operator's, by an agent in a process with limits.

The first step chooses a host that has the engine and room, and pins the operation to it: all other
steps are run by the trove-verifier of that host, with the local drivers in place of the cloud's.
There the agent and its directories carry the operation's id, so that a verifier that died goes on
with what it began. What is on a host and belongs to no operation that is pinned to it is removed by
its verifier.

Where a host is not heard of any more, its operations are taken from it and end; another operation
takes their place, on another host. So it does on a server, if that is wanted, where no host has
what is needed.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any

from oslo_log import log

from trove import states
from trove.common import exception
from trove.datastores import upgrades
from trove.db import backups, instances, operations, verifier_hosts
from trove.drivers.compute.base import Flavor, ServerSpec
from trove.services import proofs
from trove.taskmanager.operations import (
    channel,
    create,
    engine,
    steps,
    verify_backup,
    verify_on_server,
)

LOG = log.getLogger(__name__)

#: Keys of the data: the host, by name, and that something lacks that another place may have.
HOST, LACKS = "host", "lacks"
#: What stands for the flavor of an agent on a host.
FLAVOR = "verifier"
#: Where the engine of a proof would listen, if it were ever begun but for the proof.
_ADDRESS = "127.0.0.1"
#: How often one looks for a host that has room.
_LOOK_S = 5.0
#: How long one waits for any host to be heard of, where there is nothing else.
_HOSTS_WITHIN_S = 600.0
#: Hosts that may be lost over one proof.
_MOST_TRIES = 3
_GIB = 1024**3


class ChooseHost(engine.Step):
    """Find a host that can prove the backup, and leave everything else to it."""

    name = "choose_host"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Pin the operation to a host once one has room; raises StepFailed when none can."""
        if ctx.operation.host is not None:
            return None
        with ctx.tools.database.reader() as session:
            chain = backups.chain(session, ctx.data["backup_id"])
            hosts = [each for each in verifier_hosts.list_hosts(session) if _is_heard(ctx, each)]
        if not hosts:
            waited = ctx.tools.clock.now() - ctx.operation.created
            if waited.total_seconds() < _HOSTS_WITHIN_S and not _has_fallback(ctx):
                return engine.Wait(event="host", timeout_s=_LOOK_S)
            ctx.data[LACKS] = True
            raise engine.StepFailed(
                "No host that proves backups is heard of: the operator starts trove-verifier."
            )
        able = [each for each in hosts if find_engine(chain[-1], each.engines)]
        if not able:
            ctx.data[LACKS] = True
            raise engine.StepFailed(_lack(chain[-1], hosts))
        chosen = _place(ctx, able)
        if chosen is None:
            return engine.Wait(event="room", timeout_s=_LOOK_S)
        ctx.data[HOST] = chosen
        return None


def _has_fallback(ctx: engine.Context) -> bool:
    return str(ctx.tools.conf.backup.verify_fallback) == "server"


def _is_heard(ctx: engine.Context, host: verifier_hosts.VerifierHost) -> bool:
    silent = ctx.tools.clock.now() - host.seen
    return silent.total_seconds() < ctx.tools.conf.verifier.lost_after_s


def find_engine(backup: backups.BackupView, installed: Any) -> str | None:
    """Return the version of an engine that is installed and takes the data of a backup.

    An engine that is older than that of the instance may not know all that is in them: what came of
    it would be no proof. ``installed`` are versions by manager.
    """
    wanted = backup.engine_version or backup.version_number
    found = [
        version
        for version in installed.get(backup.manager, ())
        if upgrades.may_be_same_series(backup.manager, wanted, version)
        and not upgrades.is_older(version, wanted)
    ]
    return max(found, key=upgrades.number, default=None)


def _lack(backup: backups.BackupView, hosts: Sequence[verifier_hosts.VerifierHost]) -> str:
    there = {version for host in hosts for version in host.engines.get(backup.manager, ())}
    wanted = backup.engine_version or backup.version_number
    return (
        f"No host that proves backups has {backup.manager} {wanted}, or a later one of its series;"
        f" installed there is {', '.join(sorted(there, key=upgrades.number)) or 'none'}."
    )


def _place(ctx: engine.Context, able: Sequence[verifier_hosts.VerifierHost]) -> str | None:
    """Pin the operation to the host with the most room; return it, None when all are full."""
    chosen: list[str] = []

    def place(session: Any, now: datetime.datetime) -> None:
        chosen.clear()
        for host in able:
            verifier_hosts.hold(session, host.name)
        room = {
            host.name: host.at_once - len(operations.list_pinned(session, host.name))
            for host in able
        }
        most = max(room, key=lambda name: (room[name], name))
        if room[most] > 0 and operations.pin(session, ctx.operation, host=most, now=now):
            chosen.append(most)

    steps.record(ctx, place)
    return chosen[0] if chosen else None


class AddRow(engine.Step):
    """Have a row, which keys, jobs and reports of the agent belong to."""

    name = "add_row"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Add it, unless it is there."""
        with ctx.tools.database.reader() as session:
            if instances.find_instance(session, ctx.instance_id) is not None:
                return None
            backup = backups.get(session, ctx.data["backup_id"])
        if ctx.tools.store is None:
            raise engine.StepFailed("There is no object store: see [storage] driver.")
        memory_mib = ctx.tools.conf.verifier.memory_mib
        verify_on_server.add_row(ctx, backup, flavor_id=FLAVOR, flavor_ram_mib=memory_mib)
        return None


class StartAgent(engine.Step):
    """Make a directory for the data, and start an agent in a process with limits."""

    name = "start_agent"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Make and start what is not there; raises DriverError when this host cannot."""
        with ctx.tools.database.reader() as session:
            chain = backups.chain(session, ctx.data["backup_id"])
        drivers = ctx.tools.drivers
        try:
            drivers.volume.create_volume(
                instance_id=ctx.instance_id,
                size_gib=_needed_gib(chain),
                volume_type=None,
                project_id=chain[-1].project_id,
            )
            # also where there is something: what died half-way is gone on with
            drivers.compute.create_server(_describe(ctx, chain[-1]))
        except exception.DriverError as e:
            ctx.data[LACKS] = not e.retryable
            raise
        return None

    def undo(self, ctx: engine.Context) -> engine.Wait | None:
        """Remove all of it."""
        return remove(ctx)


def _needed_gib(chain: Sequence[backups.BackupView]) -> int:
    """Return what the data of a chain need; the agent knows it better, once it has looked."""
    return sum(each.data_bytes or 0 for each in chain) // _GIB + 1


def _describe(ctx: engine.Context, backup: backups.BackupView) -> ServerSpec:
    """Describe the agent's process; raises StepFailed when the engine is not here any more."""
    images = ctx.tools.drivers.image.list_images()
    here = {backup.manager: [each.version for each in images if each.manager == backup.manager]}
    version = find_engine(backup, here)
    if version is None:
        ctx.data[LACKS] = True
        raise engine.StepFailed(f"The engine of {backup.manager} is not on this host any more.")
    (image, *_) = [
        each for each in images if (each.manager, each.version) == (backup.manager, version)
    ]
    first = channel.first_credentials(ctx)
    conf = ctx.tools.conf
    return ServerSpec(
        instance_id=ctx.instance_id,
        name=f"proof-{backup.id}",
        project_id=backup.project_id,
        flavor=Flavor(id=FLAVOR, name=FLAVOR, ram_mib=conf.verifier.memory_mib, vcpus=1),
        image_id=image.id,
        datastore_manager=backup.manager,
        port_id=FLAVOR,
        address=_ADDRESS,
        volume_id=ctx.instance_id,
        files={
            "guest.conf": create.render_guest_conf(
                conf,
                instance_id=ctx.instance_id,
                datastore_manager=backup.manager,
                transport_url=first.transport_url,
            ),
            "instance.key": first.key + "\n",
        },
    )


def remove(ctx: engine.Context) -> engine.Wait | None:
    """Remove agent, directories and accounts; None when they are gone.

    What was left on a host that is gone is removed by its verifier when that is back.
    """
    if ctx.operation.host is None:
        ctx.tools.drivers.broker.remove_accounts(ctx.instance_id)
        return None
    return steps.remove_server(ctx) or steps.remove_volume(ctx)


class Verify(verify_on_server.Verify):
    """Have the agent prove the backup."""

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Send the job until its outcome is known; note when something lacks here.

        What fails where programs were killed for want of memory tells nothing of the backup.
        """
        try:
            outcome = super().run(ctx)
        except verify_backup.NotFoundOut as e:
            ctx.data[LACKS] = e.is_of_place
            raise
        if outcome is None and not ctx.data["result"]["is_passed"]:
            reason = ctx.tools.drivers.compute.find_setback(ctx.instance_id)
            if reason is not None:
                del ctx.data["result"]
                ctx.data[LACKS] = True
                raise engine.StepFailed(f"On host {ctx.data[HOST]} {reason}: see [verifier].")
        return outcome


class Remove(engine.Step):
    """Leave nothing on the host."""

    name = "remove"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Remove all, and wait until it is gone."""
        return remove(ctx)


def on_failed(ctx: engine.Context, session: Any, failure: engine.Failure) -> None:
    """Have it proven elsewhere where that can help; else tell that nothing was found out."""
    if _begin_again(ctx, session):
        verify_on_server.forget(ctx, session, ctx.tools.clock.now())
    else:
        verify_on_server.on_failed(ctx, session, failure)


def _begin_again(ctx: engine.Context, session: Any) -> bool:
    """Begin another proof of the backup in place of this one, if that is to be."""
    data = ctx.data
    is_lost = data.get(HOST) is not None and ctx.operation.host is None
    tries = int(data.get("tries") or 0) + 1
    is_known = data.get(verify_backup.RECORDED) or "result" in data
    if is_known or ctx.operation.cancel is not None:
        return False
    if data.get(LACKS) and _has_fallback(ctx):
        kind = operations.VERIFY_ON_SERVER
    elif is_lost and tries < _MOST_TRIES:
        kind = operations.VERIFY_ON_HOST
    else:
        return False
    before = (data.get("before") or {}).get("verification")
    backup = backups.find(session, data["backup_id"])
    if backup is None or not backups.hold(session, backup.id):
        return False
    try:
        operation_id = proofs.begin(
            session,
            ctx.tools.conf,
            backup,
            now=ctx.tools.clock.now(),
            request_id=ctx.operation.request_id,
            user_id=ctx.operation.user_id,
            again=proofs.Again(
                kind=kind,
                before=None if before is None else states.Verification(before),
                tries=tries,
            ),
        )
    except (exception.Conflict, exception.BackupNotFound) as e:
        LOG.info("backup %s is not proven elsewhere: %s", backup.id, e.message)
        return False
    LOG.info("backup %s: its proof goes on as %s, operation %s", backup.id, kind, operation_id)
    return True


FLOW = engine.Flow(
    kind=operations.VERIFY_ON_HOST,
    steps=(
        ChooseHost(),
        AddRow(),
        StartAgent(),
        create.AwaitAgent(),
        channel.SecureChannel(),
        Verify(),
        verify_backup.Record(),
        Remove(),
        verify_on_server.ForgetServer(),
    ),
    on_failed=on_failed,
    is_hosted=True,
)
