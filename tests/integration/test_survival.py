"""kill -9 of any process, during a create and in steady state: everything comes right by itself.

Real processes only: API, conductor, taskmanager, RabbitMQ, guest agent and MariaDB of a running
trove-standalone.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import os
import random
import signal
from collections.abc import Iterator

import psutil
import pymysql
import pytest

from tests.fixtures import backup_deaths
from tests.fixtures.rest import left_over, processes_of
from tests.fixtures.stack import Stack, destroy_stack, make_stack
from tests.fixtures.trials import Trials
from tests.fixtures.waiting import wait_until

#: Reports and pieces of the log come soon, and nobody proves what is only looked at here.
_OPTIONS = {
    **backup_deaths.OPTIONS,
    "backup": {"archive_interval_s": 1, "verify": "none"},
}

CONTROL = ("taskmanager", "conductor", "broker")
GUEST = ("agent", "engine")


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    made = make_stack(_OPTIONS)
    yield made
    destroy_stack(made)


def _processes(stack: Stack, instance_id: str, role: str) -> list[psutil.Process]:
    """Find the processes of a role: control processes of the stack, or an instance's own."""
    if role in ("agent", "engine"):
        return processes_of(instance_id, "trove-guestagent" if role == "agent" else "mariadbd")
    pids = stack.pids(role)
    return [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]


def _kill(stack: Stack, instance_id: str, role: str) -> None:
    """Kill the processes of a role with -9 and wait until they are gone."""
    found = wait_until(
        lambda: _processes(stack, instance_id, role), timeout_s=30, what=f"{role} to kill"
    )
    for process in found:
        os.kill(process.pid, signal.SIGKILL)
    psutil.wait_procs(found, timeout=10)


def _create(stack: Stack, name: str) -> str:
    user = {"name": "ann", "password": "s3cret-Word", "databases": [{"name": "shop"}]}
    return stack.rest().create(name, databases=[{"name": "shop"}], users=[user])


def _wait_active(stack: Stack, instance_id: str, *, timeout_s: float = 60) -> None:
    rest = stack.rest()

    def look() -> bool:
        # the API may be the one that was killed
        with contextlib.suppress(OSError, http.client.HTTPException):
            answer = rest("GET", f"/instances/{instance_id}")
            if answer.status == 200:
                seen = answer.json["instance"]
                assert seen["status"] != "ERROR", seen["fault"]
                return (seen["status"], seen["operating_status"]) == ("ACTIVE", "HEALTHY")
        return False

    wait_until(look, timeout_s=timeout_s, interval_s=0.2, what=f"{instance_id} ACTIVE")


def _count(stack: Stack, instance_id: str) -> int:
    shown = stack.rest().show(instance_id)

    def connect() -> pymysql.connections.Connection | None:
        # what is told of an engine may be as old as its last report
        with contextlib.suppress(pymysql.err.OperationalError):
            return pymysql.connect(
                host=shown["addresses"][0]["address"],
                user="ann",
                password="s3cret-Word",
                database="shop",
                connect_timeout=5,
            )
        return None

    connection = wait_until(connect, timeout_s=60, what="an engine that answers")
    assert connection is not None
    with connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE IF NOT EXISTS t (n INT)")
        cursor.execute("INSERT INTO t VALUES (1)")
        connection.commit()
        cursor.execute("SELECT COUNT(*) FROM t")
        return int(cursor.fetchone()[0])


@pytest.mark.parametrize("role", [*CONTROL, *GUEST])
def test_a_create_survives_the_death_of(stack: Stack, role: str) -> None:
    instance_id = _create(stack, f"killed-{role}")
    _kill(stack, instance_id, role)
    _wait_active(stack, instance_id, timeout_s=90)
    assert _count(stack, instance_id) == 1
    assert len(_processes(stack, instance_id, "agent")) == 1
    assert len(_processes(stack, instance_id, "engine")) == 1
    stack.rest().delete(instance_id)
    wait_until(
        lambda: not left_over(stack.state_dir, instance_id),
        timeout_s=60,
        what="nothing left over",
    )


def test_steady_state_survives_the_death_of_every_process_in_turn(stack: Stack) -> None:
    instance_id = _create(stack, "steady")
    _wait_active(stack, instance_id)
    rows = _count(stack, instance_id)
    for role in ("engine", "agent", "broker", "conductor", "taskmanager", "api"):
        _kill(stack, instance_id, role)
        wait_until(
            lambda role=role: _processes(stack, instance_id, role),
            timeout_s=60,
            what=f"{role} back",
        )
        _wait_active(stack, instance_id, timeout_s=60)
        rows += 1
        assert _count(stack, instance_id) == rows
    assert len(_processes(stack, instance_id, "agent")) == 1
    assert len(_processes(stack, instance_id, "engine")) == 1
    # and the whole path works: API -> taskmanager -> agent -> conductor
    stack.rest().restart(instance_id)
    _wait_active(stack, instance_id, timeout_s=60)
    assert _count(stack, instance_id) == rows + 1


def test_backups_the_log_and_restorations_survive_the_death_of_each_and_a_lost_volume(
    stack: Stack,
) -> None:
    """In other orders each time; many more, and at all stages: ``tools/faults/backup.py``."""
    seed = os.environ.get("TROVE_TEST_DEATHS_SEED") or str(random.randrange(1 << 32))
    print(f"TROVE_TEST_DEATHS_SEED={seed}")  # noqa: T201 (shown with a failure)
    trials = Trials(seed)
    trials.run("each once", 0, functools.partial(backup_deaths.die_once_each, stack, trials=trials))
    trials.check()


def test_a_reboot_of_the_machine_brings_everything_back_with_its_data(stack: Stack) -> None:
    instance_id = _create(stack, "rebooted")
    _wait_active(stack, instance_id)
    rows = _count(stack, instance_id)
    for role in ("supervisor", "taskmanager", "conductor", "api", "agent", "engine", "broker"):
        for process in _processes(stack, instance_id, role):
            os.kill(process.pid, signal.SIGKILL)
    stack.up()
    _wait_active(stack, instance_id, timeout_s=60)
    assert _count(stack, instance_id) == rows + 1
