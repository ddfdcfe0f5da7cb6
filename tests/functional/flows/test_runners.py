"""Runners with real threads and clocks, side by side on one table."""

import collections
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.fixtures.control_plane import ControlPlane
from tests.fixtures.waiting import wait_until
from trove import states
from trove.common import concurrency
from trove.db import base, operations
from trove.taskmanager.operations import create, engine, flows

Task = states.TaskStatus


class Counting(engine.Step):
    """Counts its effects."""

    def __init__(self, name: str, effects: collections.Counter[tuple[str, str]]) -> None:
        self.name = name  # type: ignore[misc]
        self._effects = effects
        self._lock = threading.Lock()

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        with self._lock:
            self._effects[ctx.operation.id, self.name] += 1
        return None


@pytest.fixture
def effects() -> collections.Counter[tuple[str, str]]:
    return collections.Counter()


@pytest.fixture
def live_plane(database: base.Database) -> ControlPlane:
    return real_time(database, threads=4, sweep_interval_s=0.1, lease_s=5.0)


def real_time(database: base.Database, **overrides: Any) -> ControlPlane:
    return ControlPlane(database, clock=concurrency.SystemClock(), **overrides)


@pytest.fixture
def runners(
    live_plane: ControlPlane, effects: collections.Counter[tuple[str, str]]
) -> Iterator[list[engine.Runner]]:
    flow = engine.Flow(
        kind=operations.RESTART_INSTANCE,
        steps=tuple(Counting(name, effects) for name in ("restart_engine", "two", "three")),
    )
    others = [each for each in flows.ALL if each.kind != flow.kind]
    made = [live_plane.runner([flow, *others]) for _ in range(2)]
    yield made
    for runner in made:
        runner.stop()


def begin(plane: ControlPlane, number: int) -> str:
    now = plane.clock.now()
    with plane.database.writer() as session:
        return operations.create(
            session,
            kind=operations.RESTART_INSTANCE,
            resource_id=f"r{number}",
            lock_key=f"r{number}",
            deadline=now.replace(year=now.year + 1),
            now=now,
            project_id="p",
        )


def test_two_runners_run_each_step_of_many_operations_once(
    live_plane: ControlPlane,
    runners: list[engine.Runner],
    effects: collections.Counter[tuple[str, str]],
) -> None:
    ids = [begin(live_plane, number) for number in range(40)]
    for runner in runners:
        runner.start()
    for operation_id in ids:
        for runner in runners:
            runner.run(operation_id)
    wait_until(lambda: not live_plane.active(), timeout_s=60, what="all operations to end")
    assert set(effects.values()) == {1}
    assert len(effects) == 3 * len(ids)
    assert {live_plane.operation(each).state for each in ids} == {states.OperationState.SUCCEEDED}


def test_a_hint_starts_an_operation_at_once_and_without_it_the_sweep_does(
    sqlite_database: base.Database,
) -> None:
    plane = real_time(sqlite_database, sweep_interval_s=600.0)
    runner = plane.runner()
    plane.guests.hint = runner.run
    runner.start()
    try:
        instance_id, operation_id = plane.create()
        runner.run(operation_id)
        wait_until(lambda: plane.instance(instance_id).task is Task.NONE, timeout_s=10)
        forgotten, _ = plane.create()
        runner.sweep()
        wait_until(lambda: plane.instance(forgotten).task is Task.NONE, timeout_s=10)
    finally:
        runner.stop()


class Slow(engine.Step):
    """Holds its thread until it is let go."""

    name = create.CreatePort.name

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.go_on = threading.Event()
        self.times = 0

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        self.times += 1
        self.entered.set()
        assert self.go_on.wait(30)
        return None


def slow_runner(plane: ControlPlane, step: Slow) -> engine.Runner:
    return plane.runner([engine.Flow(kind=operations.CREATE_INSTANCE, steps=(step,))])


def test_a_step_longer_than_its_lease_is_not_taken_by_another(
    sqlite_database: base.Database,
) -> None:
    plane = real_time(sqlite_database, sweep_interval_s=0.05, lease_s=0.6)
    step = Slow()
    mine, other = slow_runner(plane, step), plane.runner()
    try:
        _, operation_id = plane.create()
        mine.start()
        assert step.entered.wait(10)
        began = plane.clock.monotonic()
        other.start()
        wait_until(lambda: plane.clock.monotonic() - began > 2, timeout_s=10)
        step.go_on.set()
        wait_until(lambda: not plane.active(), timeout_s=10)
        assert plane.operation(operation_id).state is states.OperationState.SUCCEEDED
        assert step.times == 1
    finally:
        step.go_on.set()
        mine.stop()
        other.stop()


def test_a_stopping_runner_gives_back_what_it_holds(sqlite_database: base.Database) -> None:
    plane = real_time(sqlite_database, sweep_interval_s=0.05)
    step = Slow()
    flow = engine.Flow(kind=operations.CREATE_INSTANCE, steps=(step, create.Activate()))
    runner = plane.runner([flow])
    _, operation_id = plane.create()
    runner.start()
    assert step.entered.wait(10)
    stopper = threading.Thread(target=runner.stop)
    stopper.start()
    wait_until(lambda: runner._is_stopping, timeout_s=10)
    step.go_on.set()
    stopper.join(30)
    operation = plane.operation(operation_id)
    assert (operation.owner, operation.step) == (None, "activate")
    assert operation_id in plane.due()


def test_a_hint_during_the_work_is_not_lost(sqlite_database: base.Database) -> None:
    plane = real_time(sqlite_database, sweep_interval_s=600.0)
    looked: list[int] = []
    waiting = threading.Event()

    class Patient(engine.Step):
        name = create.CreatePort.name

        def run(self, ctx: engine.Context) -> engine.Wait | None:
            looked.append(1)
            waiting.set()
            return None if len(looked) > 1 else engine.Wait(event="x", timeout_s=600)

    runner = plane.runner([engine.Flow(kind=operations.CREATE_INSTANCE, steps=(Patient(),))])
    try:
        instance_id, operation_id = plane.create()
        runner.run(operation_id)
        assert waiting.wait(10)
        with plane.database.writer() as session:
            operations.signal(session, resource_id=instance_id, event="x", now=plane.clock.now())
        runner.run(operation_id)
        wait_until(lambda: not plane.active(), timeout_s=10)
        assert len(looked) == 2
    finally:
        runner.stop()
