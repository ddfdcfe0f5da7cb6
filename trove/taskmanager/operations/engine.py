"""Run persisted operations: claim, step, wait by ending, retry, undo.

A flow is a row of steps. A step is small and idempotent: it may run again after a crash, after a
lease that ran out, or because something was signalled. What a step learns it keeps in
``Context.data``, which is saved with it. A thread never waits for the outside world: a step that
has to wait returns :class:`Wait`, and the operation gives its claim back until an event or a time.

A step that fails is tried again until the deadline when its error may pass, else the operation
turns round and undoes its steps in reverse order; undoing never gives up. At the end
``Flow.on_failed`` puts the resource into a defined state with a fault.
"""

from __future__ import annotations

import abc
import concurrent.futures
import contextlib
import dataclasses
import datetime
import json
import random
import threading
import traceback
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar

from oslo_config import cfg
from oslo_log import log

from trove import states
from trove.common import concurrency, context, crypto, exception
from trove.db import base, operations, quotas
from trove.drivers import factory
from trove.rpc import guest
from trove.storage import base as storage
from trove.taskmanager.operations import timing

LOG = log.getLogger(__name__)

#: Key of ``Operation.data`` that belongs to the engine.
FAILURE = "failure"

_BACKOFF_FIRST_S = 0.5
_BACKOFF_LARGEST_S = 30.0
#: Hints beyond this many are dropped: the sweep finds what they were for.
_MAX_QUEUED = 1000
#: Its own: Python's shared one is left to whoever seeds or watches it.
_RANDOM = random.Random()  # noqa: S311 (no secret)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """Go on when ``event`` was signalled for the resource, or after ``timeout_s``."""

    event: str
    timeout_s: float


class StepFailed(exception.TroveError):
    """A step cannot reach its aim; trying again would not help.

    ``message`` is for people and says what to do; ``details`` is for administrators.
    """

    msg_fmt = "{reason}"
    code = "trove.step_failed"

    def __init__(self, reason: str, *, details: str | None = None) -> None:
        """Take cause and remedy, and what administrators want to know beyond."""
        super().__init__(reason=reason)
        self.details = details


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why an operation did not reach its aim, and at which step."""

    step: str
    message: str
    details: str | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What steps work with."""

    conf: cfg.ConfigOpts
    database: base.Database
    drivers: factory.Drivers
    guests: guest.GuestApi
    key_ring: crypto.KeyRing
    clock: concurrency.Clock
    #: Where backups go, None without one.
    store: storage.Store | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """One step's view of its operation; ``data`` may be changed and is saved with the step."""

    operation: operations.Operation
    data: dict[str, Any]
    tools: Tools
    #: Has operations looked at soon, after what the step wrote is committed.
    hint: Callable[[Iterable[str]], None]
    #: What the step's calls of drivers take.
    meter: timing.Meter

    def secret(self) -> Mapping[str, Any]:
        """Return the secrets of the operation; empty when it has none."""
        blob = self.operation.secret_wrapped
        if blob is None:
            return {}
        purpose = f"operation:{self.operation.id}"
        secret: dict[str, Any] = json.loads(self.tools.key_ring.unwrap(blob, purpose=purpose))
        return secret

    def job_id(self, name: str) -> str:
        """Return the id of a job of this operation, the same whenever it is asked for."""
        return str(uuid.uuid5(uuid.UUID(self.operation.id), name))

    @property
    def instance_id(self) -> str:
        """The instance that the operation works on."""
        return self.operation.resource_id

    @property
    def failure(self) -> Failure | None:
        """Why the operation is being undone."""
        record = self.data.get(FAILURE)
        return None if record is None else Failure(**record)


class Step(abc.ABC):
    """A piece of an operation; must be idempotent both ways."""

    name: ClassVar[str]

    @abc.abstractmethod
    def run(self, ctx: Context) -> Wait | None:
        """Go towards the aim; None when the step is done."""

    def undo(self, ctx: Context) -> Wait | None:
        """Take back what ``run`` may have done, whether it did or not; None when that is done."""
        return None


#: ``on_failed(ctx, session, failure)`` joins the transaction that ends the operation.
FailureHook = Callable[[Context, Any, Failure], None]


#: ``on_succeeded(ctx, session)`` joins the transaction that ends the operation.
SuccessHook = Callable[[Context, Any], None]


def _no_hook(ctx: Context, session: Any, failure: Failure) -> None:
    """Leave the resource as it is."""


def _no_sequel(ctx: Context, session: Any) -> None:
    """Let nothing follow."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """The steps of one kind of operation.

    A flow that ``never_fails`` has no deadline and is never undone: its steps are tried until they
    succeed, and ``on_trouble`` tells people each time from the third failure on.
    """

    kind: str
    steps: tuple[Step, ...]
    on_failed: FailureHook = _no_hook
    on_succeeded: SuccessHook = _no_sequel
    on_trouble: FailureHook = _no_hook
    never_fails: bool = False
    #: The first step pins the operation to a host, whose processes run all the others. Where that
    #: is gone the operation is pinned to none, and undone.
    is_hosted: bool = False

    def index(self, name: str) -> int | None:
        """Return the position of a step; None when the flow has none of that name."""
        for index, step in enumerate(self.steps):
            if step.name == name:
                return index
        return None


def backoff_s(attempts: int) -> float:
    """Return the jittered pause after the failure number ``attempts`` (from 0)."""
    longest = min(_BACKOFF_FIRST_S * 2.0 ** min(attempts, 16), _BACKOFF_LARGEST_S)
    return longest * _RANDOM.uniform(0.5, 1.0)


def _is_passing(error: Exception) -> bool:
    """Tell whether an error may be gone at the next try."""
    if isinstance(error, exception.DriverError):
        return error.retryable
    return isinstance(error, exception.ServiceUnavailable)


def _describe(error: Exception, step: str) -> Failure:
    """Put an error into words; the text of an unknown one may hold secrets and is left out."""
    if isinstance(error, StepFailed):
        return Failure(step=step, message=error.message, details=error.details)
    if isinstance(error, exception.TroveError):
        return Failure(step=step, message=error.message, details=f"{error.code} in step {step}")
    frames = traceback.extract_tb(error.__traceback__)
    where = ", ".join(f"{frame.filename}:{frame.lineno}" for frame in frames[-4:])
    return Failure(
        step=step,
        message=f"An internal error happened in step {step}; the operator finds it in the log of"
        " the task manager.",
        details=f"{type(error).__name__} at {where}",
    )


def tell_troubles(what: str, function: Callable[[], None]) -> None:
    """Call a function; say in one line that the backend or a driver is down for now."""
    try:
        function()
    except (base.DatabaseError, exception.TroveError) as e:
        text = e.message if isinstance(e, exception.TroveError) else "the SQL backend fails"
        LOG.error("%s: %s (%s)", what, text, type(e).__name__)


class Runner:
    """Runs the operations of one process on a few threads.

    ``run`` is the way in for hints; ``sweep`` finds what hints missed, expired leases included;
    ``renew`` keeps the leases of what runs here. Several runners share a table.
    """

    def __init__(self, tools: Tools, flows: Iterable[Flow], *, host: str | None = None) -> None:
        """Take tools and flows; ``start`` begins.

        With a host only operations are run that are pinned to it, else only those pinned to none.
        """
        group = tools.conf.taskmanager
        self._tools = tools
        self._host = host
        self._flows = {flow.kind: flow for flow in flows}
        self._lease_s: float = group.lease_s
        self._threads: int = group.threads
        self._name = str(uuid.uuid4())
        self._lock = threading.Lock()
        #: Operation in work -> whether it was hinted again meanwhile.
        self._in_flight: dict[str, bool] = {}
        self._claims: set[str] = set()
        #: Claims that the SQL backend's failure ended, to be given back once it answers again.
        self._broken: set[str] = set()
        self._watch = concurrency.ClockWatch(tools.clock)
        self._is_started = False
        self._is_stopping = False
        self._sweep_s: float = group.sweep_interval_s
        self._pool = concurrent.futures.ThreadPoolExecutor(
            self._threads, thread_name_prefix="operation"
        )
        self._sweeper = concurrency.PeriodicThread(
            "operation-sweep",
            lambda: tell_troubles("looking for work", self.sweep),
            interval_s=group.sweep_interval_s,
        )
        self._renewer = concurrency.PeriodicThread(
            "operation-leases",
            lambda: tell_troubles("renewing leases", self.renew),
            interval_s=max(self._lease_s / 3, 0.1),
        )

    # -- threads -----

    @property
    def threads_held(self) -> int:
        """How many operations are in the hands of a thread now; one that waits is in none."""
        with self._lock:
            return len(self._claims)

    def start(self) -> None:
        """Begin to look for work."""
        self._is_started = True
        self._renewer.start()
        self._sweeper.start()

    def stop(self) -> None:
        """Take no new work, let the steps in work end, and stop."""
        self._is_stopping = True
        self._sweeper.stop()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._renewer.stop()

    def run(self, operation_id: str) -> None:
        """Have an operation looked at by a thread of this process; returns at once."""
        with self._lock:
            if self._is_stopping:
                return
            if operation_id in self._in_flight:
                self._in_flight[operation_id] = True
                return
            if len(self._in_flight) >= _MAX_QUEUED:
                return
            self._in_flight[operation_id] = False
        self._submit(operation_id)

    def _submit(self, operation_id: str) -> None:
        try:
            self._pool.submit(self._work, operation_id)
        except RuntimeError:
            # the pool was shut down meanwhile: another process or the next start goes on
            with self._lock:
                self._in_flight.pop(operation_id, None)

    def _work(self, operation_id: str) -> None:
        try:
            self.drive(operation_id)
        except base.DatabaseError as e:
            LOG.error(
                "operation %s: the SQL backend fails (%s), it goes on when that is back",
                operation_id,
                type(e).__name__,
            )
        except Exception:
            LOG.exception("operation %s: gave up for now", operation_id)
        finally:
            with self._lock:
                is_again = self._in_flight.pop(operation_id, False)
        if is_again:
            self.run(operation_id)

    def _look_again_after(self, operation_id: str, seconds: float) -> None:
        """Come back to a wait that is too short for the sweep; a lost timer costs one sweep."""
        if self._is_started and seconds < self._sweep_s:
            timer = threading.Timer(seconds, self.run, (operation_id,))
            timer.daemon = True
            timer.start()

    def _hint(self, operation_ids: Iterable[str]) -> None:
        for operation_id in operation_ids:
            self.run(operation_id)

    def sweep(self) -> None:
        """Run everything that is due, as far as there are threads for it."""
        self.give_back()
        self.put_right()
        with self._lock:
            room = self._threads * 4 - len(self._in_flight)
        if room <= 0:
            return
        with self._tools.database.reader() as session:
            found = operations.due(
                session,
                now=self._tools.clock.now(),
                limit=self._threads * 4,
                host=self._host,
            )
        with self._lock:
            found = [operation_id for operation_id in found if operation_id not in self._in_flight]
        self._hint(found)

    def put_right(self) -> None:
        """Have operations go on that wait for times of a clock that was set back."""
        if self._watch.was_set():
            self._put_right()

    @base.retry_on_conflict
    def _put_right(self) -> None:
        with self._tools.database.writer() as session:
            operations.put_right(
                session,
                now=self._tools.clock.now(),
                ahead=concurrency.CLOCKS_APART,
                lease_s=self._lease_s,
            )

    @base.retry_on_conflict
    def give_back(self) -> None:
        """Free what an error of the SQL backend interrupted here: no need to wait for the lease."""
        with self._lock:
            broken = sorted(self._broken)
        if broken:
            with self._tools.database.writer() as session:
                operations.give_back(session, broken, now=self._tools.clock.now())
            with self._lock:
                self._broken.difference_update(broken)

    @base.retry_on_conflict
    def renew(self) -> None:
        """Prolong the leases of what is in work here."""
        with self._lock:
            claims = sorted(self._claims)
        if claims:
            with self._tools.database.writer() as session:
                operations.renew(
                    session, claims, now=self._tools.clock.now(), lease_s=self._lease_s
                )

    # -- one operation -----

    def drive(self, operation_id: str) -> bool:
        """Claim an operation and run it until it waits or ends; False when it was not free."""
        owner = f"{self._name}/{uuid.uuid4()}"
        with self._held(owner):
            operation = self._claim(operation_id, owner)
            if operation is None:
                return False
            _log_as(operation)
            while operation is not None and not self._is_stopping and self._is_here(operation):
                operation = self._advance(operation)
            if operation is not None:
                self._release(operation)
        return True

    def _is_here(self, operation: operations.Operation) -> bool:
        """Tell whether a claimed operation was not given to a host meanwhile, or taken from it."""
        return operation.host == self._host

    @contextlib.contextmanager
    def _held(self, owner: str) -> Iterator[None]:
        """Have the lease of a claim renewed; remember the claim when the backend fails."""
        with self._lock:
            self._claims.add(owner)
        try:
            yield
        except base.DatabaseError:
            with self._lock:
                self._broken.add(owner)
            raise
        finally:
            with self._lock:
                self._claims.discard(owner)

    @base.retry_on_conflict
    def _claim(self, operation_id: str, owner: str) -> operations.Operation | None:
        with self._tools.database.writer() as session:
            return operations.claim(
                session,
                operation_id,
                owner=owner,
                now=self._tools.clock.now(),
                lease_s=self._lease_s,
                host=self._host,
            )

    @base.retry_on_conflict
    def _release(self, operation: operations.Operation) -> None:
        """Give a claim back as it is, for another process to go on at once."""
        now = self._tools.clock.now()
        with self._tools.database.writer() as session:
            fresh = operations.reread(session, operation)
            if fresh is not None:
                operations.wait(
                    session, fresh, event="runner", wake_at=now, data=operation.data, now=now
                )

    def _advance(self, operation: operations.Operation) -> operations.Operation | None:
        """Do one thing for a claimed operation; None when the claim is given back or lost."""
        flow = self._flows.get(operation.kind)
        if flow is None:
            failure = Failure(
                step=operation.step,
                message=f"This task manager does not know operations of kind {operation.kind}; they"
                " were made by another version.",
            )
            return self._end(operation, Flow(kind=operation.kind, steps=()), failure)
        if operation.cancel == operations.SUPERSEDE:
            return self._cancelled(operation)
        index = flow.index(operation.step)
        if operation.state is states.OperationState.UNDOING:
            return self._undo(operation, flow, len(flow.steps) - 1 if index is None else index)
        if index is None:
            failure = Failure(
                step=operation.step,
                message=f"This task manager does not know step {operation.step} of"
                f" {operation.kind}; it was made by another version. Try again.",
            )
            return self._turn_round(operation, failure, flow.steps[-1].name)
        if flow.is_hosted and index and operation.host is None:
            return self._turn_round(operation, _deserted(operation), operation.step)
        if not flow.never_fails:
            if operation.cancel == operations.UNDO:
                failure = Failure(step=operation.step, message="Cancelled by an operator.")
                return self._turn_round(operation, failure, operation.step)
            if self._tools.clock.now() >= operation.deadline:
                return self._turn_round(operation, _overdue(operation), operation.step)
        return self._run(operation, flow, index)

    def _context(self, operation: operations.Operation) -> Context:
        data = json.loads(json.dumps(operation.data))
        timing.settle(operation, data, now=self._tools.clock.now())
        meter = timing.Meter(self._tools.clock)
        return Context(
            operation=operation,
            data=data,
            tools=dataclasses.replace(self._tools, drivers=meter.around(self._tools.drivers)),
            hint=self._hint,
            meter=meter,
        )

    def _run(
        self, operation: operations.Operation, flow: Flow, index: int
    ) -> operations.Operation | None:
        ctx = self._context(operation)
        try:
            outcome = flow.steps[index].run(ctx)
        except base.DatabaseError:
            # nothing can be said of the step without the database: it is run again later
            raise
        except Exception as error:  # noqa: BLE001 - the runner's border: logged in there
            return self._failed(operation, flow, ctx, error)
        if outcome is not None:
            return self._wait(operation, flow, ctx, outcome)
        if index + 1 == len(flow.steps):
            return self._succeed(operation, flow, ctx)
        progress = 100 * (index + 1) // len(flow.steps)
        return self._save(operation, ctx, flow.steps[index + 1].name, progress)

    def _failed(
        self, operation: operations.Operation, flow: Flow, ctx: Context, error: Exception
    ) -> operations.Operation | None:
        failure = _describe(error, operation.step)
        if not isinstance(error, exception.TroveError):
            LOG.error("operation %s: step %s broke", operation.id, operation.step, exc_info=error)
        if flow.never_fails or _is_passing(error):
            return self._retry(operation, flow, ctx, failure)
        return self._turn_round(operation, failure, operation.step, ctx)

    def _undo(
        self, operation: operations.Operation, flow: Flow, index: int
    ) -> operations.Operation | None:
        ctx = self._context(operation)
        step = flow.steps[index]
        try:
            outcome = step.undo(ctx)
        except base.DatabaseError:
            raise
        except Exception as error:
            LOG.warning(
                "operation %s: undoing step %s failed and is tried again",
                operation.id,
                step.name,
                exc_info=error,
            )
            return self._retry(operation, flow, ctx, _describe(error, step.name))
        if outcome is not None:
            return self._wait(operation, flow, ctx, outcome)
        if index > 0:
            return self._save(operation, ctx, flow.steps[index - 1].name, operation.progress)
        failure = ctx.failure or Failure(step=step.name, message=operation.error or "")
        return self._end(operation, flow, failure, ctx)

    # -- what is written; each one transaction -----

    @base.retry_on_conflict
    def _save(
        self, operation: operations.Operation, ctx: Context, step: str, progress: int
    ) -> operations.Operation | None:
        now = self._tools.clock.now()
        is_undo = operation.state is states.OperationState.UNDOING
        data, timings = timing.over(ctx.data, ctx.meter, now=now)
        with self._tools.database.writer() as session:
            saved = operations.save_step(
                session,
                operation,
                step=step,
                data=data,
                progress=progress,
                now=now,
                lease_s=self._lease_s,
            )
            if saved is not None:
                operations.journal(
                    session,
                    operation.id,
                    step=operation.step,
                    event="undone" if is_undo else "done",
                    timings=timings,
                    now=now,
                )
        LOG.debug("operation %s: step %s done", operation.id, operation.step)
        return saved

    def _has_deadline(self, operation: operations.Operation, flow: Flow) -> bool:
        return operation.state is states.OperationState.RUNNING and not flow.never_fails

    @base.retry_on_conflict
    def _wait(
        self, operation: operations.Operation, flow: Flow, ctx: Context, outcome: Wait
    ) -> operations.Operation | None:
        now = self._tools.clock.now()
        wake_at = now + datetime.timedelta(seconds=outcome.timeout_s)
        if self._has_deadline(operation, flow):
            wake_at = min(wake_at, operation.deadline)
        data = timing.waiting(ctx.data, ctx.meter, outcome.event, now=now)
        with self._tools.database.writer() as session:
            if operations.wait(
                session, operation, event=outcome.event, wake_at=wake_at, data=data, now=now
            ):
                if operation.wake_on != outcome.event:
                    operations.journal(
                        session,
                        operation.id,
                        step=operation.step,
                        event="waiting",
                        message=outcome.event,
                        now=now,
                    )
                self._look_again_after(operation.id, outcome.timeout_s)
                return None
            # something happened meanwhile: look again, with what the step learnt
            fresh = operations.reread(session, operation)
        data = timing.going_on(ctx.data, ctx.meter)
        return None if fresh is None else dataclasses.replace(fresh, data=data)

    @base.retry_on_conflict
    def _retry(
        self, operation: operations.Operation, flow: Flow, ctx: Context, failure: Failure
    ) -> None:
        now = self._tools.clock.now()
        wake_at = now + datetime.timedelta(seconds=backoff_s(operation.attempts))
        if self._has_deadline(operation, flow):
            wake_at = min(wake_at, max(operation.deadline, now))
        data = timing.waiting(ctx.data, ctx.meter, "pause", now=now)
        with self._tools.database.writer() as session:
            if operations.retry(
                session,
                operation,
                error=failure.message,
                wake_at=wake_at,
                data=data,
                now=now,
            ):
                self._journal_failure(session, operation, "retried", failure, now)
                if operation.attempts >= 2:
                    flow.on_trouble(ctx, session, failure)
        LOG.warning(
            "operation %s: step %s failed, try %d: %s",
            operation.id,
            operation.step,
            operation.attempts + 1,
            failure.message,
        )

    @base.retry_on_conflict
    def _turn_round(
        self,
        operation: operations.Operation,
        failure: Failure,
        first_undone: str,
        ctx: Context | None = None,
    ) -> operations.Operation | None:
        now = self._tools.clock.now()
        ctx = ctx or self._context(operation)
        data, timings = timing.over(ctx.data, ctx.meter, now=now)
        data[FAILURE] = dataclasses.asdict(failure)
        with self._tools.database.writer() as session:
            turned = operations.begin_undo(
                session, operation, step=first_undone, error=failure.message, data=data, now=now
            )
            if turned is not None:
                self._journal_failure(session, operation, "failed", failure, now, timings)
        LOG.warning(
            "operation %s: %s failed at step %s and is undone: %s",
            operation.id,
            operation.kind,
            failure.step,
            failure.message,
        )
        return turned

    @base.retry_on_conflict
    def _succeed(self, operation: operations.Operation, flow: Flow, ctx: Context) -> None:
        now = self._tools.clock.now()
        data, timings = timing.over(ctx.data, ctx.meter, now=now)
        with self._tools.database.writer() as session:
            if not operations.finish(
                session,
                operation,
                state=states.OperationState.SUCCEEDED,
                data=data,
                now=now,
            ):
                return
            operations.journal(
                session,
                operation.id,
                step=operation.step,
                event="done",
                timings=timings,
                now=now,
            )
            flow.on_succeeded(ctx, session)
            woken = self._ended(session, operation, now)
        LOG.info("operation %s: %s succeeded", operation.id, operation.kind)
        self._hint(woken)

    @base.retry_on_conflict
    def _end(
        self,
        operation: operations.Operation,
        flow: Flow,
        failure: Failure,
        ctx: Context | None = None,
    ) -> None:
        """End an operation that failed, with its resource in a defined state."""
        now = self._tools.clock.now()
        is_cancelled = operation.cancel is not None
        with self._tools.database.writer() as session:
            if not operations.finish(
                session,
                operation,
                state=(
                    states.OperationState.CANCELLED
                    if is_cancelled
                    else states.OperationState.FAILED
                ),
                error=failure.message,
                now=now,
            ):
                return
            if ctx is not None:
                _, timings = timing.over(ctx.data, ctx.meter, now=now)
                operations.journal(
                    session,
                    operation.id,
                    step=operation.step,
                    event="undone",
                    timings=timings,
                    now=now,
                )
            flow.on_failed(ctx or self._context(operation), session, failure)
            self._journal_failure(session, operation, "ended", failure, now)
            woken = self._ended(session, operation, now)
        LOG.warning("operation %s: %s failed: %s", operation.id, operation.kind, failure.message)
        self._hint(woken)

    @base.retry_on_conflict
    def _cancelled(self, operation: operations.Operation) -> None:
        """End an operation as it stands: whoever superseded it takes over what it made."""
        now = self._tools.clock.now()
        with self._tools.database.writer() as session:
            if not operations.finish(
                session,
                operation,
                state=states.OperationState.CANCELLED,
                error="superseded",
                now=now,
            ):
                return
            operations.journal(
                session, operation.id, step=operation.step, event="cancelled", now=now
            )
            woken = self._ended(session, operation, now)
        LOG.info("operation %s: %s superseded", operation.id, operation.kind)
        self._hint(woken)

    def _ended(
        self, session: Any, operation: operations.Operation, now: datetime.datetime
    ) -> list[str]:
        """Give back what was held for an operation; wake whoever waits for its end."""
        quotas.give_back(session, operation.id)
        return operations.signal(
            session, resource_id=operation.resource_id, event="operation-ended", now=now
        )

    def _journal_failure(
        self,
        session: Any,
        operation: operations.Operation,
        event: str,
        failure: Failure,
        now: datetime.datetime,
        timings: Mapping[str, float] | None = None,
    ) -> None:
        text = (
            failure.message if failure.details is None else f"{failure.message} ({failure.details})"
        )
        operations.journal(
            session,
            operation.id,
            step=operation.step,
            event=event,
            message=text,
            timings=timings,
            now=now,
        )


def _overdue(operation: operations.Operation) -> Failure:
    """Describe an operation that took too long."""
    took = operation.deadline - operation.created
    text = f"It did not come to an end within {took.total_seconds():.0f} s."
    if operation.wake_on is not None:
        text = f"{text[:-1]}: still waiting for {operation.wake_on}."
    if operation.error is not None:
        text = f"{text} The last error was: {operation.error}"
    return Failure(step=operation.step, message=text, details="deadline")


def _deserted(operation: operations.Operation) -> Failure:
    """Describe an operation whose host is gone."""
    return Failure(
        step=operation.step,
        message="The host that was at work on it is not heard of any more.",
        details="its operations were taken from it",
    )


def _log_as(operation: operations.Operation) -> None:
    """Have the thread's log lines carry the request that began the operation."""
    context.RequestContext(
        request_id=operation.request_id,
        project_id=operation.project_id,
        user_id=operation.user_id,
        overwrite=True,
    )
