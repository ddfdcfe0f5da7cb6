"""Have the agent of an instance go on as another release; its engine goes on as it is."""

from __future__ import annotations

from typing import Any

from oslo_log import log

from trove.db import operations
from trove.rpc import payloads
from trove.storage import base as storage
from trove.storage import factory as storage_factory
from trove.taskmanager.operations import engine, steps

LOG = log.getLogger(__name__)

#: More than a guest needs to go back after a trial.
_MARGIN_S = 60.0


class InstallRelease(engine.Step):
    """Have the agent install the release of a bundle beside its own."""

    name = "install_release"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Send the job until its outcome is known."""
        outcome = steps.run_job(ctx, payloads.UpgradeAgentJob.KIND, lambda: _job(ctx))
        if isinstance(outcome, engine.Wait):
            return outcome
        steps.expect_success(outcome, what="Installing the release of the agent")
        return None


def _job(ctx: engine.Context) -> payloads.UpgradeAgentJob:
    """Describe the bundle, with signed URLs that are new each time."""
    store = storage_factory.load(ctx.tools.conf)
    if store is None:
        raise engine.StepFailed("There is no object store for the bundle: set [storage] driver.")
    data: dict[str, Any] = ctx.data
    try:
        grant = store.grant(
            data["project_id"],
            container=data["container"],
            prefix=data["name"],
            is_read_only=True,
        )
    except storage.StorageError as e:
        raise engine.StepFailed(f"The bundle cannot be handed out: {e.message}") from e
    return payloads.UpgradeAgentJob(
        version=data["version"],
        sha256=data["sha256"],
        size_bytes=data["size_bytes"],
        kind=store.kind,
        container=data["container"],
        name=data["name"],
        grant=dict(grant),
        trial_s=data["trial_s"],
    )


class AwaitRelease(engine.Step):
    """Wait for the new release to say hello, or for the former one to be back."""

    name = "await_release"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Look who reports; raises StepFailed when the agent went back or is silent."""
        heartbeat = steps.get_instance(ctx).heartbeat
        if heartbeat.agent_version == ctx.data["version"]:
            LOG.info("instance %s: its agent is %s", ctx.instance_id, heartbeat.agent_version)
            return None
        began_with = ctx.data.setdefault("boot", heartbeat.boot)
        if heartbeat.boot > began_with:
            raise engine.StepFailed(
                f"The agent went back to {heartbeat.agent_version}: release {ctx.data['version']}"
                " did not report in time. Its log on the server says why."
            )
        if steps.time_left_s(ctx, "trial", ctx.data["trial_s"] + _MARGIN_S) <= 0:
            raise engine.StepFailed(
                f"Neither release {ctx.data['version']} of the agent nor the former one reports."
            )
        return engine.Wait(event="hello", timeout_s=steps.AGENT_LOOK_S)


FLOW = engine.Flow(kind=operations.UPGRADE_AGENT, steps=(InstallRelease(), AwaitRelease()))
