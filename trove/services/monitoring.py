"""What an instance's engine counts, and which statements it is busy with.

Figures are those of the last heartbeat: showing them asks nobody. Statistics of statements are
asked of the agent.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Mapping

from oslo_config import cfg

from trove.common import concurrency, context, exception
from trove.datastores import spec
from trove.db import base, heartbeats
from trove.db.instance_views import InstanceView
from trove.rpc import guest, payloads
from trove.services import agents, names
from trove.services.changes import find_in_reach


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What an instance last reported; ``reported`` is None when it never did. Sizes are bytes."""

    reported: datetime.datetime | None
    service_status: str
    disk_used_bytes: int | None
    disk_total_bytes: int | None
    values: Mapping[str, float]


class Monitoring:
    """Use cases of looking at what an instance is busy with."""

    def __init__(
        self,
        *,
        conf: cfg.ConfigOpts,
        database: base.Database,
        guest_api: guest.GuestApi,
        clock: concurrency.Clock,
    ) -> None:
        """Take the collaborators."""
        self._conf = conf
        self._database = database
        self._guest = guest_api
        self._clock = clock

    def get_figures(self, caller: context.RequestContext, instance_id: str) -> Figures:
        """Return what was last reported; raises InstanceNotFound, NotImplementedByEngine."""
        with self._database.reader() as session:
            view = find_in_reach(session, caller, instance_id)
            self._require(view, spec.Capability.METRICS)
            report = heartbeats.find_report(session, instance_id)
        if report is None:
            raise exception.InstanceNotFound(instance_id=instance_id)
        return Figures(
            reported=report.received if report.boot else None,
            service_status=report.service_status.value,
            disk_used_bytes=report.disk_used_bytes,
            disk_total_bytes=report.disk_total_bytes,
            values=json.loads(report.metrics) if report.metrics else {},
        )

    def list_top_queries(
        self, caller: context.RequestContext, instance_id: str, *, limit: int, order_by: str
    ) -> payloads.TopQueries:
        """Return the statements with the largest ``order_by``, literals taken out.

        Raises InstanceNotFound, InstanceNotReady, NotImplementedByEngine, GuestError, GuestTimeout.
        """
        with self._database.reader() as session:
            view = find_in_reach(session, caller, instance_id)
        self._require(view, spec.Capability.QUERIES)
        expiry = datetime.timedelta(seconds=self._conf.api.agent_heartbeat_expiry_s)
        agents.require_running(view, now=self._clock.now(), expiry=expiry)
        if limit == 0:
            return payloads.TopQueries()
        answer = self._guest.call(
            instance_id,
            "top_queries",
            payloads.TopQueriesRequest(limit=limit, order_by=order_by),
            timeout_s=float(self._conf.api.guest_call_timeout_s),
        )
        if not isinstance(answer, payloads.TopQueries):
            raise exception.GuestError(reason="top_queries was answered with something else")
        return dataclasses.replace(answer, queries=answer.queries[:limit])

    def _require(self, view: InstanceView, capability: spec.Capability) -> None:
        facts = names.get_spec(view.manager)
        names.require_engine(facts, capability, datastore=view.datastore_name)
