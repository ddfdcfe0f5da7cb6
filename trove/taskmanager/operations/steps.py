"""What the steps of several flows share: the instance, its server, jobs to its agent."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any

from oslo_log import log

from trove import states
from trove.common import exception
from trove.db import backups, base, guest_jobs, instances, models
from trove.drivers.compute.base import Server
from trove.drivers.network.base import Port
from trove.drivers.volume.base import Volume
from trove.rpc import payloads
from trove.taskmanager.operations import engine

LOG = log.getLogger(__name__)

#: How often a server is looked at while its agent is waited for, where servers are not watched.
AGENT_LOOK_S = 5.0
#: How often something that is being removed is looked at, where that costs no service anything.
REMOVAL_LOOK_S = 0.2
#: How often a server that is being made is looked at, where servers are not watched.
BUILD_LOOK_S = 1.0
#: Where servers are watched, the reconciler tells of each change: one looks by oneself only in case
#: that got lost.
_UNTOLD_S = 120.0
#: Looks at a volume or a port become rarer by this, down to one in the longest.
_LOOKS_GROW = 1.5
_LONGEST_LOOK_S = 30.0
#: Heartbeats that may be missing before an agent counts as silent.
SILENT_AFTER = 3

#: How long an agent may take to answer a call.
_CALL_S = 5.0
_MAX_TEXT = 500


def get_instance(ctx: engine.Context) -> models.Instance:
    """Return the instance of an operation; raises InstanceNotFound."""
    with ctx.tools.database.reader() as session:
        return instances.get_instance(session, ctx.instance_id)


def shorten(text: str | None, *, default: str) -> str:
    """Return what a guest or a server said, short, printable and ending like a sentence."""
    printable = "".join(c if c.isprintable() else " " for c in text or "").strip()[:_MAX_TEXT]
    return (printable or default).rstrip(".") + "."


def get_server(ctx: engine.Context) -> Server:
    """Return the server of the instance; raises StepFailed when it is gone."""
    server = ctx.tools.drivers.compute.find_server(ctx.instance_id)
    if server is None:
        server_id = _recorded_server(ctx)
        if server_id is not None:
            ctx.tools.drivers.compute.check_gone(server_id)
        raise engine.StepFailed("The server of the instance is gone.", details="find_server: none")
    return server


def _recorded_server(ctx: engine.Context) -> str | None:
    """Return the server that the instance has by its row, which may be there though not found."""
    with ctx.tools.database.reader() as session:
        instance = instances.find_instance(session, ctx.instance_id)
    return None if instance is None else instance.server_id


def setback(
    ctx: engine.Context, server: Server, message: str, *, details: str
) -> engine.StepFailed:
    """Return the failure of what was asked of a server again and again, with its reason."""
    reason = server.fault or ctx.tools.drivers.compute.find_setback(server.id)
    if reason is None:
        return engine.StepFailed(f"{message}.", details=details)
    return engine.StepFailed(f"{message}: {shorten(reason, default='')}", details=details)


def record_server(ctx: engine.Context, server: Server) -> None:
    """Record which server the instance has, and how it is."""
    record(
        ctx,
        lambda session, now: instances.set_server(
            session, ctx.instance_id, server_id=server.id, status=server.status, now=now
        ),
    )


def server_wait(ctx: engine.Context, event: str, unwatched_s: float) -> engine.Wait:
    """Wait for a change of the server.

    Where servers are watched the change itself ends the wait, else one looks again after
    ``unwatched_s``.
    """
    is_watched = ctx.tools.drivers.compute.look_interval_s > 0
    return engine.Wait(event=event, timeout_s=_UNTOLD_S if is_watched else unwatched_s)


def agent_wait(ctx: engine.Context, unwatched_s: float = AGENT_LOOK_S) -> engine.Wait:
    """Wait for the agent to say hello."""
    return server_wait(ctx, "hello", unwatched_s)


def volume_wait(ctx: engine.Context, event: str, local_s: float) -> engine.Wait:
    """Wait for a change of the volume: look after ``local_s``, or as rarely as the driver wants."""
    return _look_wait(ctx, event, local_s, ctx.tools.drivers.volume.look_interval_s)


def _look_wait(ctx: engine.Context, event: str, local_s: float, interval_s: float) -> engine.Wait:
    if not interval_s:
        return engine.Wait(event=event, timeout_s=local_s)
    looks = ctx.data.setdefault("looks", {})
    looks[event] = looks.get(event, 0) + 1
    pause_s = interval_s * _LOOKS_GROW ** min(looks[event] - 1, 16)
    return engine.Wait(event=event, timeout_s=min(pause_s, max(_LONGEST_LOOK_S, interval_s)))


def watch_server(ctx: engine.Context) -> None:
    """See to it that the server runs while something else is waited for.

    Where servers are watched, it is looked at only after something was told of the instance, and
    not while its agent is heard of.
    """
    now, signals = ctx.tools.clock.now(), ctx.operation.signals
    if ctx.tools.drivers.compute.look_interval_s:
        told, looked = ctx.data.get("looked", (None, None))
        if told == signals:
            since = now - datetime.datetime.fromisoformat(looked)
            if since.total_seconds() < _UNTOLD_S:
                return
        heartbeat = get_instance(ctx).heartbeat
        silent_s = (now - heartbeat.received).total_seconds()
        if heartbeat.boot > 0 and silent_s < ctx.tools.conf.guest.heartbeat_interval_s:
            # not noted as a look: should it fall silent, what was told meanwhile counts
            return
        ctx.data["looked"] = [signals, now.isoformat()]
    keep_server_running(ctx)


def keep_server_running(ctx: engine.Context) -> Server:
    """Return the server of the instance, started again when it is off.

    Raises StepFailed when the server is gone or in error.
    """
    server = get_server(ctx)
    if server.status is states.ServerStatus.ERROR:
        reason = shorten(server.fault, default="no reason was given")
        raise engine.StepFailed(f"The server of the instance failed: {reason}")
    if server.status is states.ServerStatus.SHUTOFF:
        LOG.info("instance %s: its server is off and is started", ctx.instance_id)
        ctx.tools.drivers.compute.start_server(server.id)
    return server


def remove_server(ctx: engine.Context) -> engine.Wait | None:
    """Remove the server of the instance, then the accounts of its agent; None when it is gone."""
    compute = ctx.tools.drivers.compute
    server = compute.find_server(ctx.instance_id)
    server_id = _recorded_server(ctx) if server is None else server.id
    if server_id is not None:
        compute.delete_server(server_id)
        if compute.find_server(ctx.instance_id) is not None:
            return server_wait(ctx, "server-gone", REMOVAL_LOOK_S)
        compute.check_gone(server_id)
    ctx.tools.drivers.broker.remove_accounts(ctx.instance_id)
    _remove_group(ctx)
    record(
        ctx,
        lambda session, now: instances.set_server(
            session, ctx.instance_id, server_id=None, status=states.ServerStatus.NONE, now=now
        ),
    )
    return None


def _remove_group(ctx: engine.Context) -> None:
    """Remove the group of servers if this was its last one, or one that never came."""
    with ctx.tools.database.reader() as session:
        instance = instances.find_instance(session, ctx.instance_id)
    if instance is not None and instance.locality:
        ctx.tools.drivers.compute.remove_empty_group(group_of(instance))


def group_of(instance: models.Instance) -> str:
    """Return the id of the group of servers that an instance with a locality belongs to."""
    # replicas are placed in relation to their source
    return instance.replica_of_id or instance.id


def remove_volume(ctx: engine.Context) -> engine.Wait | None:
    """Remove the volume of the instance; None when it is gone, or has to stay."""
    wait = remove_volume_of(ctx, ctx.instance_id)
    if wait is not None:
        return wait
    record(
        ctx,
        lambda session, now: instances.set_volume(
            session, ctx.instance_id, volume_id=None, now=now
        ),
    )
    return None


def remove_volume_of(ctx: engine.Context, owner_id: str) -> engine.Wait | None:
    """Remove the volume of an owner; None when it is gone.

    One that has snapshots which are backups, and cannot go before them, stays.
    """
    driver = ctx.tools.drivers.volume
    volume = driver.find_volume(owner_id)
    if volume is not None and has_kept_snapshots(ctx, volume):
        LOG.info("instance %s: its volume stays as long as backups need it", owner_id)
        return None
    if volume is not None and volume.status != "deleting":
        driver.delete_volume(volume.id)
        volume = driver.find_volume(owner_id)
    return None if volume is None else volume_wait(ctx, "volume-gone", REMOVAL_LOOK_S)


def has_kept_snapshots(ctx: engine.Context, volume: Volume) -> bool:
    """Tell whether a volume has to stay because of backups that are snapshots of it."""
    driver = ctx.tools.drivers.volume
    if driver.snapshots_outlive_volumes or volume.status == "deleting":
        return False
    owners = [each.owner_id for each in driver.list_snapshots(volume.id)]
    if not owners:
        return False
    with ctx.tools.database.reader() as session:
        return bool(backups.list_statuses(session, owners))


def remove_port(ctx: engine.Context) -> engine.Wait | None:
    """Remove all that the instance has of the network; None when it is gone."""
    driver = ctx.tools.drivers.network
    if not driver.remove_all(ctx.instance_id):
        return _look_wait(ctx, "port-gone", REMOVAL_LOOK_S, driver.look_interval_s)
    record(
        ctx,
        lambda session, now: instances.set_port(
            session, ctx.instance_id, port_id=None, addresses=[], now=now
        ),
    )
    return None


def remove_name(ctx: engine.Context) -> None:
    """Remove the name of the instance."""
    ctx.tools.drivers.dns.remove_records(ctx.instance_id)


def record(ctx: engine.Context, write: Callable[[Any, datetime.datetime], object]) -> None:
    """Write something in a transaction of its own."""
    now = ctx.tools.clock.now()

    @base.retry_on_conflict
    def transaction() -> None:
        with ctx.tools.database.writer() as session:
            write(session, now)

    transaction()


def run_job(
    ctx: engine.Context,
    kind: str,
    make_payload: Callable[[], payloads.Payload],
    *,
    name: str | None = None,
    retry_s: float | None = None,
) -> guest_jobs.GuestJob | engine.Wait:
    """Send a job to the agent until its outcome is known; return the outcome, or the wait for it.

    The job has the same id whenever it is sent: the agent runs it once. Of several jobs of one
    kind in an operation each has a ``name`` of its own.
    """
    job_id = ctx.job_id(name or kind)
    job = _ensure_job(ctx, job_id, kind)
    if job.succeeded is not None:
        return job
    message = payloads.Job(job_id=job_id, kind=kind, payload=make_payload().to_wire())
    try:
        ctx.tools.guests.send_job(ctx.instance_id, message)
    except exception.ServiceUnavailable as e:
        LOG.info("job %s not sent now, it will be sent again: %s", job_id, e)
    interval_s: float = ctx.tools.conf.taskmanager.job_retry_interval_s
    return engine.Wait(
        event=f"job:{job_id}", timeout_s=interval_s if retry_s is None else min(retry_s, interval_s)
    )


@base.retry_on_conflict
def _ensure_job(ctx: engine.Context, job_id: str, kind: str) -> guest_jobs.GuestJob:
    with ctx.tools.database.reader() as session:
        job = guest_jobs.find(session, job_id)
    if job is not None:
        return job
    with ctx.tools.database.writer() as session:
        return guest_jobs.ensure(
            session,
            job_id,
            instance_id=ctx.instance_id,
            operation_id=ctx.operation.id,
            kind=kind,
            now=ctx.tools.clock.now(),
        )


def do_job(
    ctx: engine.Context,
    kind: str,
    make_payload: Callable[[], payloads.Payload],
    *,
    what: str,
) -> engine.Wait | None:
    """Send a job until it succeeded, its server kept running; raises StepFailed when it failed."""
    outcome = run_job(ctx, kind, make_payload)
    if isinstance(outcome, engine.Wait):
        watch_server(ctx)
        return outcome
    expect_success(outcome, what=what)
    return None


def cancel_job(tools: engine.Tools, instance_id: str, job_id: str) -> None:
    """Have the agent end a job, or never begin it, if it answers."""
    try:
        tools.guests.call(
            instance_id, "cancel_job", payloads.JobRef(job_id=job_id), timeout_s=_CALL_S
        )
    except exception.TroveError as e:
        LOG.info("instance %s: job %s cannot be cancelled now: %s", instance_id, job_id, e.message)


def stop_engine(ctx: engine.Context) -> engine.Wait | None:
    """Have the engine stopped cleanly on the way back, if its agent answers."""
    return try_job(
        ctx,
        payloads.StopJob.KIND,
        payloads.StopJob,
        name="stop-again",
        within_s=ctx.tools.conf.taskmanager.guest_stop_timeout_s,
    )


def try_job(
    ctx: engine.Context,
    kind: str,
    make_payload: Callable[[], payloads.Payload],
    *,
    name: str,
    within_s: float,
) -> engine.Wait | None:
    """Send a job until its outcome is known, whatever that is, or the time is over."""
    left_s = time_left_s(ctx, name, within_s)
    if left_s <= 0:
        LOG.warning("instance %s: job %s has no outcome, going on", ctx.instance_id, name)
        return None
    outcome = run_job(ctx, kind, make_payload, name=name, retry_s=left_s)
    if isinstance(outcome, engine.Wait):
        return outcome
    if not outcome.succeeded:
        LOG.warning("instance %s: job %s failed: %s", ctx.instance_id, name, outcome.error)
    return None


def time_left_s(ctx: engine.Context, name: str, within_s: float) -> float:
    """Return what is left of the time for something that begins with the first call."""
    now = ctx.tools.clock.now()
    since = datetime.datetime.fromisoformat(ctx.data.setdefault(f"{name}_since", now.isoformat()))
    return within_s - (now - since).total_seconds()


def end_task(
    ctx: engine.Context,
    session: Any,
    now: datetime.datetime,
    task: states.TaskStatus,
    **values: Any,
) -> bool:
    """End a task, with columns that change with it; False when somebody else has ended it.

    The fault of an earlier failure is forgotten.
    """
    if not instances.change_task(
        session, ctx.instance_id, expect=task, to=task_before(ctx), now=now, **values
    ):
        return False
    instances.clear_fault(session, ctx.instance_id, now=now)
    return True


def fail_task(
    ctx: engine.Context,
    session: Any,
    failure: engine.Failure,
    *,
    expect: states.TaskStatus,
    to: states.TaskStatus,
    outcome: str,
) -> None:
    """End a task without its aim, unless somebody else has; tell why, and how things are now."""
    now = ctx.tools.clock.now()
    if instances.change_task(session, ctx.instance_id, expect=expect, to=to, now=now):
        instances.set_fault(
            session,
            ctx.instance_id,
            message=f"{failure.message} {outcome}",
            details=f"step {failure.step}: {failure.details or failure.message}",
            now=now,
        )


def task_before(ctx: engine.Context) -> states.TaskStatus:
    """Return the task that the operation found, if it kept that: a restart may be due still."""
    return states.TaskStatus(ctx.data.get("task", states.TaskStatus.NONE))


def addresses_of(port: Port) -> list[dict[str, Any]]:
    """Return how the addresses of a port are stored with an instance.

    The one that the engine listens on is the first, a public one in front of it the last.
    """
    is_own_public = port.is_public and port.public_address is None
    own = {"type": "public" if is_own_public else "private", "network": port.network_id}
    found = [{"address": address, **own} for address in (port.address, *port.more_addresses)]
    if port.public_address is not None:
        found.append({**own, "address": port.public_address, "type": "public"})
    return found


def expect_success(job: guest_jobs.GuestJob, *, what: str) -> None:
    """Raise StepFailed with the guest's own words unless the job succeeded."""
    if not job.succeeded:
        reason = shorten(job.error, default="the guest agent gave no reason")
        raise engine.StepFailed(
            f"{what} failed: {reason}", details=f"job {job.id}: {job.error_code}"
        )
