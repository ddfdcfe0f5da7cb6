"""Compare what there is with what there should be, and begin operations for the difference.

A run asks each driver once for everything, then reads the instances in pages: a resource is always
younger than its row, so whatever is listed has a row that is seen. What looks wrong is looked at
again before anything is made of it. Except for showing the status of servers, the reconciler acts
only by creating operations, and their lock keys keep several reconcilers from doing so twice.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable, Iterable, Iterator, Mapping

from oslo_context import context
from oslo_log import log

from trove import states
from trove.common import exception
from trove.db import base, instances, operations
from trove.taskmanager.operations import delete, engine

LOG = log.getLogger(__name__)

_IDLE = frozenset({states.TaskStatus.NONE, states.TaskStatus.RESTART_REQUIRED})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much and how soon."""

    page_size: int = 1000
    #: Differences looked into, and operations created, in one run.
    per_run: int = 100
    #: Seconds something must be without an owner before it is removed.
    grace_s: float = 30.0
    #: Seconds before a repair that failed is begun again.
    pause_s: float = 60.0


class Reconciler:
    """One pass is ``run``; who calls it regularly passes its exceptions to the log."""

    def __init__(
        self,
        tools: engine.Tools,
        *,
        hint: Callable[[Iterable[str]], None],
        limits: Limits | None = None,
    ) -> None:
        """Take tools, and who is told of new operations."""
        self._tools = tools
        self._hint = hint
        self._limits = limits or Limits()
        #: Suspect (what, instance id) -> monotonic time it was first seen.
        self._suspects: dict[tuple[str, str], float] = {}
        #: Owners without a record that the operator was told of.
        self._unknown: set[str] = set()

    def run(self) -> None:
        """Look at everything once."""
        drivers = self._tools.drivers
        engine.tell_troubles("looking at access rules", drivers.network.refresh)
        servers = {server.instance_id: server.status for server in drivers.compute.list_servers()}
        owners = set(servers)
        owners |= {volume.instance_id for volume in drivers.volume.list_volumes()}
        owners |= {port.instance_id for port in drivers.network.list_ports()}
        with self._tools.database.reader() as session:
            busy = operations.list_active_resources(session)
        suspects: set[tuple[str, str]] = set()
        budget = self._limits.per_run
        for snapshot in self._snapshots():
            if snapshot.id in busy:
                owners.discard(snapshot.id)
                continue
            if snapshot.task not in delete.OWNS_NOTHING:
                owners.discard(snapshot.id)
            if snapshot.task is states.TaskStatus.DELETING:
                suspects.add(("deleting", snapshot.id))
            elif budget > 0 and self._differs(snapshot, servers):
                budget -= 1
                self._look_into(snapshot)
        suspects |= {("orphan", instance_id) for instance_id in self._recorded(owners - busy)}
        self._act_on(suspects, budget)

    def _snapshots(self) -> Iterator[instances.InstanceSnapshot]:
        after: str | None = None
        while True:
            with self._tools.database.reader() as session:
                page = instances.list_snapshots(session, after=after, limit=self._limits.page_size)
            yield from page
            if len(page) < self._limits.page_size:
                return
            after = page[-1].id

    # -- servers -----

    def _differs(
        self,
        snapshot: instances.InstanceSnapshot,
        servers: Mapping[str, states.ServerStatus],
    ) -> bool:
        """Tell whether a server's status is not what its row says, or not what it should be."""
        if snapshot.server_id is None:
            return False
        seen = servers.get(snapshot.id, states.ServerStatus.MISSING)
        return seen is not snapshot.server_status or seen is states.ServerStatus.SHUTOFF

    def _look_into(self, snapshot: instances.InstanceSnapshot) -> None:
        """Look again at one server, show its status, and have it started if it should run."""
        server = self._tools.drivers.compute.find_server(snapshot.id)
        seen = states.ServerStatus.MISSING if server is None else server.status
        if seen is not snapshot.server_status:
            self._show(snapshot, seen)
        if seen is states.ServerStatus.SHUTOFF and snapshot.task in _IDLE:
            self._create(
                operations.RECOVER_INSTANCE,
                snapshot.id,
                project_id=snapshot.project_id,
                timeout_s=self._tools.conf.taskmanager.restart_timeout_s,
            )

    @base.retry_on_conflict
    def _show(self, snapshot: instances.InstanceSnapshot, seen: states.ServerStatus) -> None:
        now = self._tools.clock.now()
        with self._tools.database.writer() as session:
            if operations.has_active(session, resource_id=snapshot.id):
                return
            if not instances.change_server_status(
                session,
                snapshot.id,
                server_id=snapshot.server_id,
                expect=snapshot.server_status,
                to=seen,
                now=now,
            ):
                return
            if seen is states.ServerStatus.MISSING:
                instances.set_fault(
                    session,
                    snapshot.id,
                    message="The server of the instance is gone, and was not deleted by this"
                    " service: ask the operator, or delete the instance.",
                    details=f"server {snapshot.server_id} is not listed any more",
                    now=now,
                )
            elif snapshot.server_status is states.ServerStatus.MISSING:
                instances.clear_fault(session, snapshot.id, now=now)
        LOG.info(
            "instance %s: server is %s, was %s",
            snapshot.id,
            seen.value,
            snapshot.server_status.value,
        )

    # -- what belongs to nobody -----

    def _recorded(self, owners: set[str]) -> set[str]:
        """Return those of whom there is a record; tell once of the others."""
        if not owners:
            return set()
        with self._tools.database.reader() as session:
            recorded = set(instances.list_recorded(session, owners))
        for instance_id in sorted(owners - recorded - self._unknown):
            LOG.error(
                "there are a server, volume or port of instance %s, of which this database has no"
                " record; they are left alone: check [database] connection, or remove them by hand",
                instance_id,
            )
        self._unknown = owners - recorded
        return recorded

    def _act_on(self, suspects: set[tuple[str, str]], budget: int) -> None:
        """Act on what was suspect in run after run, for longer than the grace."""
        now = self._tools.clock.monotonic()
        before = self._suspects
        self._suspects = {suspect: before.get(suspect, now) for suspect in suspects}
        ripe = [
            suspect
            for suspect, since in sorted(self._suspects.items())
            if suspect in before and now - since >= self._limits.grace_s
        ]
        for what, instance_id in ripe[: max(budget, 0)]:
            if what == "deleting":
                self._create(operations.DELETE_INSTANCE, instance_id)
            else:
                self._create(operations.CLEANUP, instance_id)

    # -- operations -----

    @base.retry_on_conflict
    def _create(
        self,
        kind: str,
        instance_id: str,
        *,
        project_id: str | None = None,
        timeout_s: float | None = None,
    ) -> None:
        """Begin an operation, unless one runs or the last of this kind just failed."""
        now = self._tools.clock.now()
        if timeout_s is None:
            timeout_s = self._tools.conf.taskmanager.usage_timeout_s
        lock = operations.delete_lock if kind == operations.DELETE_INSTANCE else None
        lock_key = (lock or operations.instance_lock)(instance_id)
        with self._tools.database.writer() as session:
            last = operations.list_operations(session, resource_id=instance_id, kind=kind, limit=1)
            pause = datetime.timedelta(seconds=self._limits.pause_s)
            if last and _failed_lately(last[0], now - pause):
                return
            if project_id is None:
                instance = instances.find_instance(session, instance_id)
                project_id = "" if instance is None else instance.project_id
            try:
                operation_id = operations.create(
                    session,
                    kind=kind,
                    resource_id=instance_id,
                    lock_key=lock_key,
                    deadline=now + datetime.timedelta(seconds=timeout_s),
                    now=now,
                    request_id=context.generate_request_id(),
                    project_id=project_id,
                )
            except exception.Conflict:
                return
        LOG.info("instance %s: operation %s begins to %s", instance_id, operation_id, kind)
        self._hint([operation_id])


def _failed_lately(operation: operations.Operation, since: datetime.datetime) -> bool:
    return operation.state is states.OperationState.FAILED and operation.updated > since
