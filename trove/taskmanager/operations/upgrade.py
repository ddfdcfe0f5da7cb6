"""Run an instance from another version of its datastore.

A rebuild of its server with more around it: the agent of the old version is asked first whether
there is a way; the engine must stop cleanly; the agent of the new one makes the data ready, starts
the engine on them and lets it prove itself. Only then the new version is written, and from there
nothing is taken back. Whatever fails before brings the old image back, whose agent puts the data
where they were. What was kept for that is removed at the end.
"""

from __future__ import annotations

from typing import Any

from oslo_log import log

from trove import states
from trove.datastores import spec, upgrades
from trove.db import instances, operations
from trove.rpc import payloads
from trove.services import names
from trove.taskmanager.operations import channel, create, delete, engine, rebuild, steps

LOG = log.getLogger(__name__)

_UPGRADING = states.TaskStatus.UPGRADING


def _is_written(ctx: engine.Context) -> bool:
    """Tell whether the instance is of the new version for good."""
    version_id: str = steps.get_instance(ctx).datastore_version_id
    return version_id == ctx.data["version_id"]


def _can_upgrade(ctx: engine.Context) -> bool:
    """Tell whether agents of the instance's datastore know upgrades."""
    facts = names.get_spec(steps.get_instance(ctx).version.manager)
    return spec.Capability.UPGRADE in facts.capabilities


def _phase(
    ctx: engine.Context, phase: str, *, what: str, within_s: float | None = None
) -> engine.Wait | None:
    """Have the agent do a phase; raises StepFailed when it could not, or not in time."""
    version = ctx.data["target_version"]
    outcome = steps.run_job(
        ctx,
        payloads.UpgradeEngineJob.KIND,
        lambda: payloads.UpgradeEngineJob(phase=phase, version=version),
        name=f"{payloads.UpgradeEngineJob.KIND}-{phase}",
    )
    if isinstance(outcome, engine.Wait):
        steps.watch_server(ctx)
        return outcome if within_s is None else _in_time(ctx, outcome, phase, within_s)
    steps.expect_success(outcome, what=what)
    return None


def _in_time(ctx: engine.Context, wait: engine.Wait, name: str, within_s: float) -> engine.Wait:
    """Return a wait, not longer than its time; raises StepFailed when that is over."""
    left_s = steps.time_left_s(ctx, name, within_s)
    if left_s <= 0:
        raise engine.StepFailed(f"The guest agent did not answer within {within_s:.0f} s.")
    return engine.Wait(event=wait.event, timeout_s=min(wait.timeout_s, left_s))


def _answer_s(ctx: engine.Context) -> float:
    """Return how long an agent may take for what is done soon."""
    within_s: float = ctx.tools.conf.taskmanager.restart_timeout_s
    return within_s


class CheckUpgrade(engine.Step):
    """Ask the agent, while the engine runs, whether there is a way to the new version."""

    name = "check_upgrade"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Find out what version the image has, and send the job until its outcome is known."""
        if "target_version" not in ctx.data:
            ctx.data["target_version"] = self._target(ctx)
        if not _can_upgrade(ctx):
            return None
        return _phase(ctx, "check", what="The upgrade", within_s=_answer_s(ctx))

    def _target(self, ctx: engine.Context) -> str:
        """Return the version of the image, as exactly as anybody says.

        Raises StepFailed when image and datastore version contradict each other.
        """
        wanted: str = ctx.data.get("engine_version", "")
        image = ctx.tools.drivers.image.get_image(ctx.data["image_id"])
        if not image.version:
            return wanted
        if not upgrades.agree(image.version, wanted):
            raise engine.StepFailed(
                f"Image {image.id} has version {image.version} of the engine, the datastore version"
                f" says {wanted}: have the operator correct one of them."
            )
        return image.version


class StopGuest(delete.StopGuest):
    """Stop the engine cleanly: data that it had no time to write could not be taken over."""

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Send the job until its outcome is known."""
        outcome = steps.do_job(
            ctx, payloads.StopJob.KIND, payloads.StopJob, what="Stopping the database"
        )
        return outcome and _in_time(ctx, outcome, self.name, _answer_s(ctx))

    def undo(self, ctx: engine.Context) -> engine.Wait | None:
        """Bring the instance back on its old image; bounded in time."""
        if _is_written(ctx):
            return None
        return rebuild.bring_back(ctx, engine_version=ctx.data.get("old_engine_version"))


class RemoveServer(rebuild.RemoveServer):
    """Remove the old server."""

    def undo(self, ctx: engine.Context) -> engine.Wait | None:
        """Remove what there is: the old server half-way, or the new one."""
        return None if _is_written(ctx) else steps.remove_server(ctx)


class AwaitAgent(rebuild.AwaitAgent):
    """Wait until the new agent said hello, as long as one waits for that of a new instance."""

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Look whether it did; raises StepFailed when it takes too long."""
        outcome = super().run(ctx)
        within_s = ctx.tools.conf.taskmanager.usage_timeout_s
        return outcome and _in_time(ctx, outcome, self.name, within_s)


class UpgradeData(engine.Step):
    """Have the agent of the new image make the data ready for its engine."""

    name = "upgrade_data"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Send the job until its outcome is known."""
        if not _can_upgrade(ctx):
            return None
        return _phase(ctx, "begin", what="Upgrading the data")


class Prepare(create.Prepare):
    """Have the agent start the engine on the data, and see that it proves itself."""

    def job(self, ctx: engine.Context) -> payloads.PrepareJob:
        """Describe the engine, with its version."""
        return create.prepare_job(
            ctx, steps.get_instance(ctx), engine_version=ctx.data["target_version"]
        )

    def undo(self, ctx: engine.Context) -> engine.Wait | None:
        """Stop the engine cleanly before its server goes, if it answers."""
        return None if _is_written(ctx) else steps.stop_engine(ctx)


class RecordVersion(engine.Step):
    """Write the new version: it is true, and from here nothing is taken back."""

    name = "record_version"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Write it; raises StepFailed when somebody else has ended the task."""
        version_id = ctx.data["version_id"]
        steps.record(
            ctx,
            lambda session, now: instances.set_version(
                session, ctx.instance_id, version_id, now=now
            ),
        )
        if not _is_written(ctx):
            raise engine.StepFailed("The status of the instance was reset meanwhile.")
        return None


class CommitUpgrade(engine.Step):
    """Have the agent remove what it kept to go back."""

    name = "commit_upgrade"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Send the job until its outcome is known."""
        if not _can_upgrade(ctx):
            return None
        what = "Removing what was kept of the old version"
        return _phase(ctx, "commit", what=what, within_s=_answer_s(ctx))


class Finish(engine.Step):
    """Hand the instance back to its user."""

    name = "finish"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """End the task."""

        def finish(session: Any, now: Any) -> None:
            if steps.end_task(ctx, session, now, _UPGRADING):
                LOG.info(
                    "instance %s: upgraded to version %s", ctx.instance_id, ctx.data["version_id"]
                )

        steps.record(ctx, finish)
        return None


def on_failed(ctx: engine.Context, session: Any, failure: engine.Failure) -> None:
    """Tell what happened, and what the instance runs on now."""
    instance = instances.find_instance(session, ctx.instance_id)
    if instance is None:
        return
    is_written = instance.datastore_version_id == ctx.data["version_id"]
    is_down = ctx.data.get("is_down", False) and not is_written
    outcome = "The instance runs on its old image."
    if is_written:
        outcome = "The instance runs the new version all the same."
    elif is_down:
        outcome = (
            "It could not be brought back on its old image either; its data is on its volume: have"
            " the operator rebuild it."
        )
    steps.fail_task(
        ctx,
        session,
        failure,
        expect=_UPGRADING,
        to=states.TaskStatus.UPGRADING_ERROR if is_down else states.TaskStatus.NONE,
        outcome=outcome,
    )


FLOW = engine.Flow(
    kind=operations.UPGRADE_INSTANCE,
    steps=(
        rebuild.CheckImage(),
        CheckUpgrade(),
        StopGuest(),
        RemoveServer(),
        rebuild.MakeServer(),
        AwaitAgent(),
        channel.SecureChannel(),
        UpgradeData(),
        Prepare(),
        RecordVersion(),
        channel.RemoveFirstAccount(),
        CommitUpgrade(),
        Finish(),
    ),
    on_failed=on_failed,
)
