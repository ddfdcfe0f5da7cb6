"""kill -9 of any process, during a create and in steady state: everything comes right by itself.

Real processes only: API, conductor, taskmanager, RabbitMQ, guest agent and MariaDB of a running
trove-standalone.
"""

from __future__ import annotations

import os
import signal
from typing import Any

import psutil
import pymysql
import pytest

from tests.fixtures.stack import Stack, stack
from tests.fixtures.waiting import wait_until

__all__ = ["stack"]

CONTROL = ("taskmanager", "conductor", "broker")
GUEST = ("agent", "engine")


def _processes(stack: Stack, instance_id: str, role: str) -> list[psutil.Process]:
    """Find the processes of a role: control processes of the stack, or an instance's own."""
    if role in ("agent", "engine"):
        program = "trove-guestagent" if role == "agent" else "mariadbd"
        found = []
        for process in psutil.process_iter(["cmdline"]):
            command = " ".join(process.info["cmdline"] or ())
            if instance_id in command and program in command:
                found.append(process)
        return found
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
    made = stack.openstack(
        *("database", "instance", "create", name, "--flavor", "1", "--size", "1"),
        *("--datastore", "mariadb", "--databases", "shop", "--users", "ann:s3cret-Word"),
        *("-f", "json"),
    )
    return str(made["id"])


def _count(stack: Stack, instance_id: str) -> int:
    shown: dict[str, Any] = stack.openstack(
        "database", "instance", "show", instance_id, "-f", "json"
    )
    connection = pymysql.connect(
        host=shown["addresses"][0]["address"],
        user="ann",
        password="s3cret-Word",
        database="shop",
        connect_timeout=5,
    )
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
    stack.wait_active(instance_id, timeout_s=90)
    assert _count(stack, instance_id) == 1
    assert len(_processes(stack, instance_id, "agent")) == 1
    assert len(_processes(stack, instance_id, "engine")) == 1
    stack.openstack("database", "instance", "delete", instance_id)
    wait_until(
        lambda: (
            not _processes(stack, instance_id, "agent")
            and not _processes(stack, instance_id, "engine")
            and not list(stack.state_dir.rglob(f"*{instance_id}*"))
        ),
        timeout_s=60,
        what="nothing left over",
    )


def test_steady_state_survives_the_death_of_every_process_in_turn(stack: Stack) -> None:
    instance_id = _create(stack, "steady")
    stack.wait_active(instance_id)
    rows = _count(stack, instance_id)
    for role in ("engine", "agent", "broker", "conductor", "taskmanager", "api"):
        _kill(stack, instance_id, role)
        wait_until(
            lambda role=role: _processes(stack, instance_id, role),
            timeout_s=60,
            what=f"{role} back",
        )
        stack.wait_active(instance_id, timeout_s=60)
        rows += 1
        assert _count(stack, instance_id) == rows
    assert len(_processes(stack, instance_id, "agent")) == 1
    assert len(_processes(stack, instance_id, "engine")) == 1
    # and the whole path works: API -> taskmanager -> agent -> conductor
    stack.openstack("database", "instance", "restart", instance_id)
    stack.wait_active(instance_id, timeout_s=60)
    assert _count(stack, instance_id) == rows + 1


def test_a_reboot_of_the_machine_brings_everything_back_with_its_data(stack: Stack) -> None:
    instance_id = _create(stack, "rebooted")
    stack.wait_active(instance_id)
    rows = _count(stack, instance_id)
    for role in ("supervisor", "taskmanager", "conductor", "api", "agent", "engine", "broker"):
        for process in _processes(stack, instance_id, role):
            os.kill(process.pid, signal.SIGKILL)
    stack.up()
    stack.wait_active(instance_id, timeout_s=60)
    assert _count(stack, instance_id) == rows + 1
