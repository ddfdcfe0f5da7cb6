"""The task manager's parts, put together: runner, reconciler, scheduler on one set of tools."""

from __future__ import annotations

from collections.abc import Iterable

from trove.common import concurrency
from trove.rpc import notifier as notifications
from trove.taskmanager import (
    convergence,
    housekeeping,
    outbox,
    proof_keeping,
    reconciler,
    scheduler,
    storage_sweep,
    verifier_watch,
)
from trove.taskmanager.operations import engine, flows

_SEND_INTERVAL_S = 1.0
_SCHEDULE_INTERVAL_S = 5.0
_SWEEP_INTERVAL_S = 10.0


class TaskManager:
    """Runs operations and reconciles until it is stopped."""

    def __init__(
        self, tools: engine.Tools, *, notifier: notifications.NotifierApi | None = None
    ) -> None:
        """Take the tools, and who sends notifications if any are sent; ``start`` begins."""
        self.runner = engine.Runner(tools, flows.ALL)
        self.reconciler = reconciler.Reconciler(tools, hint=self._hint)
        self.convergence = convergence.Convergence(tools, hint=self._hint)
        self._reconciling = concurrency.PeriodicThread(
            "reconciler",
            self._reconcile,
            interval_s=max(
                tools.conf.taskmanager.reconcile_interval_s, tools.drivers.compute.look_interval_s
            ),
        )
        self.housekeeping = housekeeping.Housekeeping(tools, hint=self._hint)
        self.scheduler = scheduler.Scheduler(tools, hint=self._hint)
        self.proofs = proof_keeping.ProofKeeping(tools, hint=self._hint)
        self.verifiers = verifier_watch.VerifierWatch(tools, hint=self._hint)
        self._scheduling = concurrency.PeriodicThread(
            "backup schedules",
            self._schedule,
            interval_s=_SCHEDULE_INTERVAL_S,
        )
        self.sweep = storage_sweep.StorageSweep(tools)
        # of its own: a store may take long to answer
        self._sweeping = concurrency.PeriodicThread(
            "storage sweep",
            lambda: engine.tell_troubles("sweeping the object store", self.sweep.run),
            interval_s=_SWEEP_INTERVAL_S,
        )
        self._sending: concurrency.PeriodicThread | None = None
        if notifier is not None:
            self.outbox = outbox.Outbox(tools, notifier)
            self._sending = concurrency.PeriodicThread(
                "notifications",
                lambda: engine.tell_troubles("sending notifications", self.outbox.run),
                interval_s=_SEND_INTERVAL_S,
            )

    def _reconcile(self) -> None:
        engine.tell_troubles("reconciling", self.reconciler.run)
        engine.tell_troubles("tidying up", self.housekeeping.run)
        engine.tell_troubles("applying configurations", self.convergence.run)

    def _schedule(self) -> None:
        engine.tell_troubles("scheduling backups", self.scheduler.run)
        engine.tell_troubles("renewing proofs", self.proofs.run)
        engine.tell_troubles("looking after verifiers", self.verifiers.run)

    def run_operation(self, operation_id: str) -> None:
        """Take a hint; returns at once."""
        self.runner.run(operation_id)

    def _hint(self, operation_ids: Iterable[str]) -> None:
        for operation_id in operation_ids:
            self.runner.run(operation_id)

    def start(self) -> None:
        """Begin."""
        self.runner.start()
        self._reconciling.start()
        self._scheduling.start()
        self._sweeping.start()
        if self._sending is not None:
            self._sending.start()

    def stop(self) -> None:
        """Let the steps in work end, give back the rest, and stop."""
        self._sweeping.stop()
        self._scheduling.stop()
        self._reconciling.stop()
        engine.tell_troubles("giving the reconciler's place away", self.reconciler.close)
        if self._sending is not None:
            self._sending.stop()
        self.runner.stop()
