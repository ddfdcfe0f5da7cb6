"""Change who may connect to an instance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from oslo_config import cfg
from oslo_log import log

from trove import states
from trove.db import operations
from trove.services import names
from trove.taskmanager.operations import engine, naming, steps

LOG = log.getLogger(__name__)


def effective(conf: cfg.ConfigOpts, access: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return settings of access with both keys; the operator's networks where none is named."""
    access = access or {}
    return {
        "is_public": bool(access.get("is_public", False)),
        "allowed_cidrs": list(
            access.get("allowed_cidrs") or conf.taskmanager.default_allowed_cidrs
        ),
    }


class UpdateAccess(engine.Step):
    """Have the network driver change the rules."""

    name = "update_access"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Change them and remember the address as it is now."""
        instance = steps.get_instance(ctx)
        driver = ctx.tools.drivers.network
        facts = names.get_spec(instance.version.manager)
        port = driver.find_port(instance.id)
        if port is None:
            raise engine.StepFailed(
                "The address of the instance is gone.", details="find_port: none"
            )
        port = driver.update_access(
            port.id,
            access=effective(ctx.tools.conf, ctx.data["access"]),
            engine_port=facts.port,
            more_ports=facts.more_ports,
        )
        ctx.data["addresses"] = steps.addresses_of(port)
        return None


class Finish(engine.Step):
    """Show the new access."""

    name = "finish"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Write access and addresses together with the end of the task."""

        def finish(session: Any, now: Any) -> None:
            if steps.end_task(
                ctx,
                session,
                now,
                states.TaskStatus.UPDATING,
                access=ctx.data["access"],
                addresses=ctx.data["addresses"],
            ):
                LOG.info("instance %s: access changed", ctx.instance_id)

        steps.record(ctx, finish)
        return None


def on_failed(ctx: engine.Context, session: Any, failure: engine.Failure) -> None:
    """Tell that it is not sure who may connect."""
    steps.fail_task(
        ctx,
        session,
        failure,
        expect=states.TaskStatus.UPDATING,
        to=states.TaskStatus.UPDATING_ERROR_ACCESS,
        outcome="The old access or the new one may be in force: change the access again.",
    )


FLOW = engine.Flow(
    kind=operations.UPDATE_ACCESS,
    steps=(UpdateAccess(), naming.UpdateName(), Finish()),
    on_failed=on_failed,
)
