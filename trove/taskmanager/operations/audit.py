"""Tell of every instance that it exists, for billing."""

from __future__ import annotations

import datetime
from typing import Any

from trove.db import announcements, operations
from trove.taskmanager.operations import engine, steps

#: Instances told of in one transaction.
_PAGE = 500


class TellOfInstances(engine.Step):
    """Tell of all instances, page by page."""

    name = "tell_of_instances"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Tell of one page; what was told of is kept with the operation."""
        # a transaction may be tried again: each time from here
        after = ctx.data.get("after")

        def tell(session: Any, now: datetime.datetime) -> None:
            ctx.data["after"] = announcements.announce_existing(
                session,
                after=after,
                limit=_PAGE,
                beginning=datetime.datetime.fromisoformat(ctx.data["beginning"]),
                ending=datetime.datetime.fromisoformat(ctx.data["ending"]),
                now=now,
            )

        steps.record(ctx, tell)
        if ctx.data["after"] is None:
            return None
        return engine.Wait(event="page", timeout_s=0.0)


FLOW = engine.Flow(kind=operations.AUDIT, steps=(TellOfInstances(),), never_fails=True)
