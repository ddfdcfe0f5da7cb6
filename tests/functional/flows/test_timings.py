"""The journal tells where the time of an operation went."""

import pytest

from tests.fixtures.control_plane import ControlPlane
from trove import states
from trove.common import concurrency
from trove.db import base, operation_timings, operations
from trove.drivers import cloud
from trove.taskmanager.operations import create

Server = states.ServerStatus


def timings(plane: ControlPlane, operation_id: str) -> operation_timings.Timings:
    with plane.database.reader() as session:
        return operation_timings.of(operations.list_journal(session, operation_id))


def took(plane: ControlPlane, operation_id: str) -> float:
    operation = plane.operation(operation_id)
    return (operation.updated - operation.created).total_seconds()


def test_waits_are_counted_for_whom_they_are_spent_on(plane: ControlPlane) -> None:
    plane.guests.is_silent = True
    plane.compute.looks_to_build = 1000
    instance_id, operation_id = plane.create()
    runner = plane.runner()
    began = plane.clock.now()

    def after(seconds: float) -> None:
        plane.settle(runner, until=lambda: (plane.clock.now() - began).total_seconds() >= seconds)

    after(20)
    plane.compute.set_status(instance_id, Server.ACTIVE)
    after(60)
    plane.guests.is_silent = False
    plane.guests.lose_casts = 1
    plane.guests.hello(instance_id)
    plane.settle(runner)
    found = timings(plane, operation_id)
    assert [step.step for step in found.steps] == [step.name for step in create.FLOW.steps]
    assert found.total_s == pytest.approx(took(plane, operation_id), abs=0.01)
    assert found.spent_s["compute"] == pytest.approx(20, abs=2)
    assert found.spent_s["boot"] == pytest.approx(40, abs=6)
    assert found.guest_s == pytest.approx(10, abs=1)
    assert found.own_s <= 2
    assert found.overhead_s == pytest.approx(found.own_s + found.guest_s, abs=0.01)


def test_being_late_is_our_own(plane: ControlPlane) -> None:
    plane.guests.is_silent = True
    instance_id, operation_id = plane.create()
    runner = plane.runner()
    plane.settle(runner, until=lambda: plane.operation(operation_id).wake_on == "hello")
    plane.guests.is_silent = False
    plane.guests.hello(instance_id)
    # nobody takes it up for a while
    plane.manual_clock.advance(7)
    plane.settle(runner)
    found = timings(plane, operation_id)
    assert found.own_s == pytest.approx(7, abs=0.1)
    assert "boot" not in found.spent_s


def test_pauses_after_errors_and_the_way_back_are_told(plane: ControlPlane) -> None:
    down = cloud.refused("Cinder", "create the volume", status=503, reason="")
    plane.volume.injector.fail("create_volume", down, times=3)
    plane.compute.injector.fail(
        "create_server", cloud.refused("Nova", "create the server", status=400, reason="no")
    )
    _, operation_id = plane.create()
    plane.settle(plane.runner())
    found = timings(plane, operation_id)
    assert found.spent_s["pause"] >= 1
    assert found.total_s == pytest.approx(took(plane, operation_id), abs=0.01)
    assert [(step.step, step.event) for step in found.steps] == [
        ("create_port", "done"),
        ("create_name", "done"),
        ("create_volume", "done"),
        ("create_server", "failed"),
        ("create_server", "undone"),
        ("create_volume", "undone"),
        ("create_name", "undone"),
        ("create_port", "undone"),
    ]
    table = found.rows()
    assert table[-1]["step"] == "all"
    assert set(table[0]) == {"step", *found.columns()}


def test_calls_of_drivers_are_measured(sqlite_database: base.Database) -> None:
    class Ticking(concurrency.ManualClock):
        """A clock on which everything takes a moment."""

        def monotonic(self) -> float:
            self.advance(0.25)
            return super().monotonic()

    plane = ControlPlane(sqlite_database, clock=Ticking())
    _, operation_id = plane.create()
    plane.settle(plane.runner())
    found = timings(plane, operation_id)
    for kind in ("compute", "volume", "network"):
        assert found.spent_s[kind] >= 0.25
    assert found.total_s == pytest.approx(took(plane, operation_id), abs=0.01)
