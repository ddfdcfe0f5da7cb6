"""Compare what there is with what there should be, and begin operations for the difference.

A run asks for all servers in one call, and at longer intervals each other driver in one call for
what it has made; then it reads the instances in pages: a resource is always younger than its row,
so whatever is listed has a row that is seen. A driver that fails keeps the others from nothing.
What looks wrong is looked at again before anything is made of it. Except for showing the status of
servers, the reconciler acts only by creating operations, and their lock keys keep several
reconcilers from doing so twice.

The list of servers serves the operations too: whose server changed since the last list is woken, so
that none has to look at its own server again and again. Where a look costs a service something
(``look_interval_s`` of the compute driver) only one reconciler of all processes looks, by a lease.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

from oslo_context import context
from oslo_log import log

from trove import states
from trove.common import exception
from trove.db import backups, base, instances, leases, operations
from trove.drivers.compute.base import Server
from trove.taskmanager.operations import delete, engine

LOG = log.getLogger(__name__)

_IDLE = frozenset({states.TaskStatus.NONE, states.TaskStatus.RESTART_REQUIRED})
#: What is suspected of having nobody any more: a server, or anything else.
_SERVER, _REST = "server", "rest"
#: Statuses that a server passes through by itself.
_CHANGING = frozenset(
    {states.ServerStatus.BUILD, states.ServerStatus.REBOOT, states.ServerStatus.RESIZE}
)
_LEASE = "reconciler"
#: Intervals after which another process takes the place of a reconciler that is not heard of.
_LEASE_INTERVALS = 3.0


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
        self._owner = str(uuid.uuid4())
        #: Suspect (what, instance id) -> monotonic time it was first seen.
        self._suspects: dict[tuple[str, str], float] = {}
        #: Owners without a record that the operator was told of.
        self._unknown: set[str] = set()
        #: All servers by instance as of the last list; None before the first.
        self._servers: Mapping[str, Server] | None = None
        #: Busy instances that have a server, though it was not in the last list.
        self._unlisted: set[str] = set()
        #: Monotonic time of the last look at what is not a server.
        self._looked_for_rest: float | None = None
        #: Instance -> monotonic time before which its server, which is off, is left alone.
        self._let_be: dict[str, float] = {}

    def run(self) -> None:
        """Look at everything once, unless another process does."""
        if not self._is_mine():
            self._servers = None
            return
        engine.tell_troubles("looking at access rules", self._tools.drivers.network.refresh)
        now = self._tools.clock.monotonic()
        self._let_be = {each: until for each, until in self._let_be.items() if until > now}
        servers = self._list_servers()
        rest = self._list_rest()
        owners = set(servers or ()) | (rest or set())
        with self._tools.database.reader() as session:
            busy = operations.list_active_resources(session)
        self._wake(servers, busy)
        suspects: set[tuple[str, str]] = set()
        unlisted: set[str] = set()
        budget = self._limits.per_run
        for snapshot in self._snapshots():
            if snapshot.id in busy:
                owners.discard(snapshot.id)
                if servers is not None and snapshot.server_id and snapshot.id not in servers:
                    unlisted.add(snapshot.id)
                continue
            if snapshot.task not in delete.OWNS_NOTHING:
                owners.discard(snapshot.id)
            if snapshot.task is states.TaskStatus.DELETING:
                suspects.add(("deleting", snapshot.id))
            elif budget > 0 and servers is not None and self._differs(snapshot, servers):
                budget -= 1
                self._look_into(snapshot)
        # gone before any list had it: no list tells of a change
        self._signal_all(unlisted - self._unlisted)
        self._unlisted = unlisted
        recorded = self._recorded(owners - busy)
        suspects |= {(_SERVER, each) for each in recorded.intersection(servers or ())}
        suspects |= {(_REST, each) for each in recorded.intersection(rest or ())}
        self._act_on(suspects, budget, has_rest=rest is not None)

    def close(self) -> None:
        """Let another process take over at once."""
        if self._tools.drivers.compute.look_interval_s:
            with self._tools.database.writer() as session:
                leases.release(session, _LEASE, owner=self._owner)

    @base.retry_on_conflict
    def _is_mine(self) -> bool:
        """Tell whether it is this process that looks."""
        interval_s = self._tools.drivers.compute.look_interval_s
        if not interval_s:
            return True
        interval_s = max(interval_s, self._tools.conf.taskmanager.reconcile_interval_s)
        with self._tools.database.writer() as session:
            return leases.take(
                session,
                _LEASE,
                owner=self._owner,
                now=self._tools.clock.now(),
                lease_s=_LEASE_INTERVALS * interval_s,
            )

    # -- lists -----

    def _list_servers(self) -> Mapping[str, Server] | None:
        """Return all servers by instance; None when the service does not tell."""
        found: list[Mapping[str, Server]] = []

        def look() -> None:
            listed = self._tools.drivers.compute.list_servers()
            found.append({server.instance_id: server for server in listed})

        engine.tell_troubles("listing servers", look)
        return found[0] if found else None

    def _list_rest(self) -> set[str] | None:
        """Return whose anything else is; None while it is not yet time to ask for it again."""
        now = self._tools.clock.monotonic()
        interval_s = self._tools.conf.taskmanager.orphans_interval_s
        last = self._looked_for_rest
        if last is not None and now - last < interval_s:
            return None
        self._looked_for_rest = now
        drivers = self._tools.drivers
        sources: Mapping[str, Callable[[], Collection[str]]] = {
            "server groups": drivers.compute.list_empty_groups,
            "volumes": self._list_volume_owners,
            "ports and addresses": drivers.network.list_owners,
            "broker accounts": drivers.broker.list_owners,
            "DNS records": drivers.dns.list_owners,
        }
        owners: set[str] = set()
        for what, list_owners in sources.items():
            engine.tell_troubles(
                f"listing {what}", functools.partial(_add_listed, owners, list_owners)
            )
        return owners

    def _list_volume_owners(self) -> set[str]:
        """Return whose volumes there are, but for those that are kept for their snapshots."""
        volume = self._tools.drivers.volume
        owners = {each.instance_id for each in volume.list_volumes()}
        if volume.snapshots_outlive_volumes or not volume.has_snapshots:
            return owners
        with self._tools.database.reader() as session:
            return owners - backups.list_snapshot_sources(session)

    def _wake(self, servers: Mapping[str, Server] | None, busy: Collection[str]) -> None:
        """Wake the operations whose server changed since the last list."""
        if servers is None:
            return
        before, self._servers = self._servers, servers
        if before is None:
            changed = set(busy)
        else:
            changed = {
                instance_id
                for instance_id in before.keys() | servers.keys()
                if _essence(before.get(instance_id)) != _essence(servers.get(instance_id))
            }
        self._signal_all(changed.intersection(busy))

    def _signal_all(self, instance_ids: Collection[str]) -> None:
        for instance_id in sorted(instance_ids):
            self._hint(self._signal(instance_id))

    @base.retry_on_conflict
    def _signal(self, instance_id: str) -> list[str]:
        with self._tools.database.writer() as session:
            return operations.signal(
                session, resource_id=instance_id, event="server", now=self._tools.clock.now()
            )

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

    def _differs(self, snapshot: instances.InstanceSnapshot, servers: Mapping[str, Server]) -> bool:
        """Tell whether a server's status is not what its row says, or not what it should be."""
        if snapshot.server_id is None:
            return False
        server = servers.get(snapshot.id)
        seen = states.ServerStatus.MISSING if server is None else server.status
        is_off = seen is states.ServerStatus.SHUTOFF and snapshot.task in _IDLE
        if seen is snapshot.server_status and not is_off:
            return False
        if seen not in (states.ServerStatus.MISSING, snapshot.server_status):
            return True
        # it may be that it cannot be started, or that it is there though no list has it: one does
        # not ask for it again in every run
        if snapshot.id in self._let_be:
            return False
        self._let_be[snapshot.id] = self._tools.clock.monotonic() + self._limits.pause_s / 2
        return True

    def _look_into(self, snapshot: instances.InstanceSnapshot) -> None:
        """Look again at one server, show its status, and have it started if it should run."""
        server = self._tools.drivers.compute.find_server(snapshot.id)
        if server is None and snapshot.server_id is not None:
            try:
                self._tools.drivers.compute.check_gone(snapshot.server_id)
            except exception.DriverError as e:
                LOG.warning("instance %s: its server is not listed: %s", snapshot.id, e)
                return
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
                "there are a server, volume, port or account of instance %s, of which this database"
                " has no record; they are left alone: check [database] connection, or remove them"
                " by hand",
                instance_id,
            )
        self._unknown |= owners - recorded
        return recorded

    def _act_on(self, suspects: set[tuple[str, str]], budget: int, *, has_rest: bool) -> None:
        """Act on what was suspect in look after look, for longer than the grace."""
        now = self._tools.clock.monotonic()
        before = self._suspects
        self._suspects = {suspect: before.get(suspect, now) for suspect in suspects}
        ripe = {
            suspect
            for suspect, since in self._suspects.items()
            if suspect in before and now - since >= self._limits.grace_s
        }
        if not has_rest:
            # they were not looked at: what was suspect is so still, until the next look
            self._suspects |= {each: since for each, since in before.items() if each[0] == _REST}
        deleting = sorted(instance_id for what, instance_id in ripe if what == "deleting")
        orphans = sorted({instance_id for what, instance_id in ripe if what != "deleting"})
        chosen = [(operations.DELETE_INSTANCE, each) for each in deleting]
        chosen += [(operations.CLEANUP, each) for each in orphans]
        for kind, instance_id in chosen[: max(budget, 0)]:
            self._create(kind, instance_id)

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


def _essence(server: Server | None) -> Server | None:
    """Return what somebody may wait for: not each stage of what takes its time."""
    if server is None or server.status not in _CHANGING:
        return server
    return dataclasses.replace(server, changed=None)


def _add_listed(owners: set[str], list_owners: Callable[[], Collection[str]]) -> None:
    owners.update(list_owners())


def _failed_lately(operation: operations.Operation, since: datetime.datetime) -> bool:
    return operation.state is states.OperationState.FAILED and operation.updated > since
