"""Bring an instance to the values of its configuration group.

The job carries the digest of its values and the agent gives it back: what the row says is what the
agent confirmed. Without an outcome nobody knows what the agent did or will do, and the row says so;
whatever is not what it should be is begun again by :mod:`trove.taskmanager.convergence`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from oslo_log import log

from trove import states
from trove.common import exception
from trove.datastores import parameters
from trove.db import configurations, guest_jobs, instances, models, operations
from trove.rpc import payloads
from trove.taskmanager.operations import engine, steps

LOG = log.getLogger(__name__)

#: Digest of values nobody knows.
UNKNOWN = "unknown"
#: Key of an operation's data: digest of the values that the engine refused.
REFUSED = "refused"
#: Key of an operation's data: the group that was attached before, if that changed.
PREVIOUS = "previous"
_LONGEST_DIGEST = 64


def wanted(ctx: engine.Context, instance: models.Instance) -> tuple[dict[str, Any], str | None]:
    """Return the values that an instance should run on, and their digest."""
    if instance.configuration_id is None:
        return {}, None
    with ctx.tools.database.reader() as session:
        group = configurations.find_group(session, instance.configuration_id, project_id=None)
    if group is None:
        return {}, None
    return parameters.overrides(group.values), group.digest


def confirmed(outcome: guest_jobs.GuestJob) -> str | None:
    """Return the digest of the values that an agent says it has written."""
    digest = (outcome.result or {}).get("overrides_digest")
    return str(digest)[:_LONGEST_DIGEST] if digest else None


def record_confirmed(ctx: engine.Context, outcome: guest_jobs.GuestJob) -> None:
    """Record which values an agent has written, as the outcome of a job that carried them says."""
    steps.record(
        ctx,
        lambda session, now: instances.set_configuration_digest(
            session, ctx.instance_id, confirmed(outcome), now=now
        ),
    )


def configure_job(ctx: engine.Context, instance: models.Instance) -> payloads.ConfigureJob:
    """Describe the configuration that an instance should have, by its flavor, volume and group."""
    flavor = ctx.tools.drivers.compute.get_flavor(instance.flavor_id)
    overrides, digest = wanted(ctx, instance)
    return payloads.ConfigureJob(
        memory_mib=flavor.ram_mib,
        vcpus=flavor.vcpus,
        volume_size_gib=instance.volume_size_gib,
        overrides=overrides,
        overrides_digest=digest,
    )


class Configure(engine.Step):
    """Have the agent write and apply the configuration."""

    name = "configure"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Send the job, the same each time, until its outcome is known."""
        if "job" not in ctx.data:
            ctx.data["job"] = configure_job(ctx, steps.get_instance(ctx)).to_wire()
        job = payloads.ConfigureJob.from_wire(ctx.data["job"])
        outcome = steps.run_job(ctx, payloads.ConfigureJob.KIND, lambda: job)
        if isinstance(outcome, engine.Wait):
            steps.watch_server(ctx)
            return outcome
        ctx.data["has_outcome"] = True
        if outcome.error_code == exception.ConfigurationRefused.code:
            ctx.data[REFUSED] = job.overrides_digest
        steps.expect_success(outcome, what="Applying the configuration")
        ctx.data["confirmed"] = confirmed(outcome)
        ctx.data["restart_required"] = bool((outcome.result or {}).get("restart_required"))
        return None


class Finish(engine.Step):
    """End the task, in RESTART_REQUIRED when some value waits for a restart."""

    name = "finish"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Set the task and what is confirmed, unless somebody else has set another task."""
        to = (
            states.TaskStatus.RESTART_REQUIRED
            if ctx.data.get("restart_required")
            else states.TaskStatus.NONE
        )

        def finish(session: Any, now: Any) -> None:
            if instances.change_task(
                session,
                ctx.instance_id,
                expect=states.TaskStatus.UPDATING,
                to=to,
                now=now,
                configuration_digest=ctx.data.get("confirmed"),
            ):
                instances.clear_fault(session, ctx.instance_id, now=now)
                LOG.info("instance %s: configured, task %s", ctx.instance_id, to.value)

        steps.record(ctx, finish)
        return None


def on_failed(ctx: engine.Context, session: Any, failure: engine.Failure) -> None:
    """Set task and group back and tell what happened."""
    now = ctx.tools.clock.now()
    if not instances.change_task(
        session,
        ctx.instance_id,
        expect=states.TaskStatus.UPDATING,
        to=states.TaskStatus(ctx.data.get("task", states.TaskStatus.NONE)),
        now=now,
        **_former(ctx.data, session),
    ):
        return
    instances.set_fault(
        session,
        ctx.instance_id,
        message=f"{failure.message} {_consequence(ctx.data)}",
        details=f"step {failure.step}: {failure.details or failure.message}",
        now=now,
    )


def _former(data: Mapping[str, Any], session: Any) -> dict[str, Any]:
    """Return the columns that go back; a group that was deleted meanwhile stays detached."""
    columns: dict[str, Any] = {}
    if not data.get("has_outcome"):
        columns |= {"configuration_digest": UNKNOWN, "is_configuration_due": True}
    if PREVIOUS in data:
        previous = data[PREVIOUS]
        if previous is None or configurations.hold(session, previous):
            columns["configuration_id"] = previous
    return columns


def _consequence(data: Mapping[str, Any]) -> str:
    if PREVIOUS not in data:
        if REFUSED in data:
            return "The database runs on its former values: change those of the group."
        return "It is tried again."
    if data[PREVIOUS] is None:
        return "The configuration group was not attached."
    return "The configuration group was not detached."


FLOW = engine.Flow(
    kind=operations.CONFIGURE_INSTANCE, steps=(Configure(), Finish()), on_failed=on_failed
)
