"""Actions of the control plane on a real MariaDB: it has the new size, or runs with the old one."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest

from tests.fixtures.actions import USER, Actions, make_actions
from tests.fixtures.control_plane import ControlPlane
from tests.fixtures.engine import (
    Guest,
    guest,
    mariadb_template,
    needs_mariadb,
    passable_directory,
)
from tests.fixtures.guest_jobs import FakeGuests
from tests.fixtures.waiting import wait_until
from trove import states
from trove.db import base, quotas
from trove.drivers.compute import fake
from trove.drivers.compute.base import Flavor
from trove.rpc import payloads

__all__ = ["guest", "mariadb_template"]

pytestmark = needs_mariadb

#: More than any machine has, so that the engine cannot start with it.
HUGE = Flavor(id="9", name="db.huge", ram_mib=400_000_000, vcpus=1)


class OneGuest(FakeGuests):
    """The agents of all instances are that of one guest, with a real engine."""

    guest: Guest

    def deliver(self, instance_id: str, job: payloads.Job) -> None:
        """Have the agent do the job, and report its outcome as the conductor does."""
        assert self.guest.agent is not None
        if job.kind == payloads.RekeyJob.KIND:
            # the agent of this test is spoken to without a channel
            super().deliver(instance_id, job)
            return
        self.ran.append((instance_id, job.kind, job.job_id))
        self.guest.agent.manager.on_job(job)
        outcome = wait_until(
            lambda: self.guest.conductor.outcome_of(job.job_id), timeout_s=120, what=job.kind
        )
        assert outcome is not None
        self._report(instance_id, job, outcome.error, self._clock.now())


@pytest.fixture
def running(
    guest: Guest, sqlite_database: base.Database, monkeypatch: pytest.MonkeyPatch
) -> tuple[Actions, str, Guest]:
    """Give an instance of 256 MiB, and the guest that runs its engine."""
    monkeypatch.setattr(fake, "FLAVORS", (*fake.FLAVORS, HUGE))
    plane = ControlPlane(sqlite_database)
    plane.conf.set_override("max_ram_per_tenant", -1, group="quota")
    guests = OneGuest(sqlite_database, plane.clock)
    guests.guest = guest
    plane.guests = guests
    plane.tools = dataclasses.replace(plane.tools, guests=guests)
    plane.compute.on_start = guests.hello
    guest.start_agent()
    actions = make_actions(plane)
    return actions, actions.make_active(), guest


def settle(actions: Actions) -> None:
    actions.plane.settle(actions.plane.runner())


def variable(guest: Guest, name: str) -> int:
    with guest.connect("joe", "s3") as connection:
        cursor = connection.cursor()
        cursor.execute(f"SELECT @@{name}")
        ((value,),) = cursor.fetchall()
    return int(value)


def insert(guest: Guest, number: int) -> None:
    with guest.connect("joe", "s3", database="a", autocommit=True) as connection:
        cursor = connection.cursor()
        cursor.execute("CREATE TABLE IF NOT EXISTS numbers (number INT)")
        cursor.execute("INSERT INTO numbers VALUES (%s)", (number,))


def numbers(guest: Guest) -> list[int]:
    with guest.connect("joe", "s3", database="a") as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT number FROM numbers ORDER BY number")
        return [number for (number,) in cursor.fetchall()]


def test_a_larger_flavor_gives_the_engine_a_larger_buffer_pool(
    running: tuple[Actions, str, Guest],
) -> None:
    actions, instance_id, guest = running
    insert(guest, 1)
    before = variable(guest, "innodb_buffer_pool_size")
    actions.service.resize_flavor(USER, instance_id, "2")
    settle(actions)
    assert actions.plane.instance(instance_id).flavor_id == "2"
    assert variable(guest, "innodb_buffer_pool_size") > 3 * before
    assert numbers(guest) == [1]
    # a larger volume is taken note of while the engine runs
    engine = guest.engine()
    actions.service.resize_volume(USER, instance_id, 3)
    settle(actions)
    assert actions.plane.instance(instance_id).volume_size_gib == 3
    assert guest.engine() == engine
    wait_until(lambda: guest.wait_status("HEALTHY").disk_total_bytes == 3 << 30)
    # the agent remembers both sizes
    guest.stop_agent()
    guest.start_agent()
    assert guest.run(payloads.RestartJob()).succeeded
    assert variable(guest, "innodb_buffer_pool_size") > 3 * before


def test_an_engine_that_cannot_start_runs_with_its_old_size_again(
    running: tuple[Actions, str, Guest],
) -> None:
    actions, instance_id, guest = running
    insert(guest, 1)
    before = variable(guest, "innodb_buffer_pool_size")
    usage = actions.plane.usage()
    actions.service.resize_flavor(USER, instance_id, HUGE.id)
    assert actions.plane.usage()[quotas.RAM] == HUGE.ram_mib
    settle(actions)
    instance = actions.plane.instance(instance_id)
    assert (instance.task, instance.flavor_id) == (states.TaskStatus.NONE, "1")
    assert "has its old flavor" in str(instance.fault_message)
    assert "memory" in str(instance.fault_message)
    assert actions.plane.usage() == usage
    guest.wait_status("HEALTHY")
    assert variable(guest, "innodb_buffer_pool_size") == before
    assert numbers(guest) == [1]


@pytest.fixture
def other_server(guest: Guest) -> Iterator[Guest]:
    """Give a new server for the volume and the address of the guest."""
    with passable_directory() as directory:
        made = Guest(
            directory=directory,
            template=guest.template,
            address=guest.address,
            instance_id=guest.instance_id,
            mount_point=guest.layout.mount_point,
        )
        try:
            yield made
        finally:
            made.destroy()


def test_the_agent_of_a_new_server_takes_over_data_and_accounts(
    guest: Guest, other_server: Guest
) -> None:
    guest.start_agent()
    joe = payloads.User(name="joe", password="s3", databases=("a",))
    guest.prepare(databases=(payloads.Database(name="a"),), users=(joe,))
    insert(guest, 1)
    assert guest.run(payloads.StopJob()).succeeded
    guest.destroy()
    other_server.start_agent()
    other_server.prepare()
    other_server.wait_status("HEALTHY")
    insert(other_server, 2)
    assert numbers(other_server) == [1, 2]
    # it has an account of its own in the engine it found
    users = other_server.call("list_users", payloads.Page(limit=10)).users
    assert [user.name for user in users] == ["joe"]


def test_a_new_server_counts_on_from_the_starts_of_those_before(guest: Guest) -> None:
    store = guest.environment().store
    assert [store.count_boot(first=1001) for _ in range(3)] == [1001, 1002, 1003]
    assert store.count_boot() == 1004
