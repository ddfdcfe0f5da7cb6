"""The words of ``status`` and ``operating_status``, row by row, and what they follow from."""

from __future__ import annotations

import datetime
import itertools

import pytest

from trove import states
from trove.db import instance_lists
from trove.states import ServerStatus as Server
from trove.states import ServiceStatus as Service
from trove.states import TaskStatus as Task

MINUTE = datetime.timedelta(minutes=1)
_IS_PLAIN = (Task.NONE, Task.MIGRATING, Task.UPDATING)

#: In the order in which the rows of the API's description count; the first that fits does.
STATUS = [
    *((task, server, "ERROR") for task in Task if task.is_error for server in Server),
    (Task.BUILDING, Server.ERROR, "ERROR"),
    *((Task.BUILDING, server, "BUILD") for server in Server if server is not Server.ERROR),
    *((Task.REBOOTING, server, "REBOOT") for server in Server),
    *((Task.RESIZING, server, "RESIZE") for server in Server),
    *((Task.UPGRADING, server, "UPGRADE") for server in Server),
    *((Task.RESTART_REQUIRED, server, "RESTART_REQUIRED") for server in Server),
    *((Task.PROMOTING, server, "PROMOTE") for server in Server),
    *((Task.EJECTING, server, "EJECT") for server in Server),
    *((Task.DETACHING, server, "DETACH") for server in Server),
    *((Task.DELETING, server, "SHUTDOWN") for server in Server),
    *((task, Server.ACTIVE, "ACTIVE") for task in _IS_PLAIN),
    *((task, Server.BUILD, "BUILD") for task in _IS_PLAIN),
    *((task, Server.ERROR, "ERROR") for task in _IS_PLAIN),
    *((task, Server.REBOOT, "REBOOT") for task in _IS_PLAIN),
    *((task, Server.RESIZE, "RESIZE") for task in _IS_PLAIN),
    *((task, Server.VERIFY_RESIZE, "RESIZE") for task in _IS_PLAIN),
    *((task, Server.MISSING, "SHUTDOWN") for task in _IS_PLAIN),
    *((task, Server.NONE, "SHUTDOWN") for task in _IS_PLAIN),
    *((task, Server.SHUTOFF, "UNKNOWN") for task in _IS_PLAIN),
    *((task, Server.UNKNOWN, "UNKNOWN") for task in _IS_PLAIN),
]

OPERATING = {
    Service.RUNNING: ("ACTIVE", True),
    Service.BLOCKED: ("BLOCKED", True),
    Service.PAUSED: ("SHUTDOWN", False),
    Service.SHUTDOWN: ("SHUTDOWN", True),
    Service.DELETED: ("DELETED", False),
    Service.CRASHED: ("SHUTDOWN", True),
    Service.FAILED: ("FAILED", False),
    Service.BUILDING: ("BUILD", False),
    Service.PROMOTING: ("PROMOTE", False),
    Service.EJECTING: ("EJECT", False),
    Service.UNKNOWN: ("ERROR", False),
    Service.NEW: ("NEW", False),
    Service.FAILED_TIMEOUT_GUESTAGENT: ("ERROR", False),
    Service.INSTANCE_READY: ("BUILD", False),
    Service.RESTART_REQUIRED: ("RESTART_REQUIRED", True),
    Service.HEALTHY: ("HEALTHY", True),
    Service.UPGRADING: ("RESTARTING", False),
    Service.RESTARTING: ("RESTARTING", False),
}


def test_the_table_of_status_has_every_pair_once() -> None:
    pairs = [(task, server) for task, server, _ in STATUS]
    assert len(pairs) == len(set(pairs))
    assert set(pairs) == set(itertools.product(Task, Server))


def test_status_is_as_in_the_table() -> None:
    for task, server, word in STATUS:
        assert states.api_status(task, server) == word, (task, server)
        assert states.api_status(task, server, is_deleted=True) == "SHUTDOWN"
        expected = "BACKUP" if task in _IS_PLAIN else word
        assert states.api_status(task, server, is_backing_up=True) == expected


def test_every_word_of_status_can_be_filtered_by() -> None:
    assert {word for _, _, word in STATUS} | {"BACKUP"} == instance_lists.STATUSES


@pytest.mark.parametrize("service", Service)
def test_operating_status_is_as_in_the_table(service: Service) -> None:
    word, allows_action = OPERATING[service]
    ages = {"heartbeat_age": MINUTE, "heartbeat_expiry": MINUTE}
    assert states.api_operating_status(Task.NONE, Server.ACTIVE, service, **ages) == word
    late = {"heartbeat_age": 2 * MINUTE, "heartbeat_expiry": MINUTE}
    assert states.api_operating_status(Task.NONE, Server.ACTIVE, service, **late) == "ERROR"
    for task, server in itertools.product(Task, Server):
        if (task, server) != (Task.NONE, Server.ACTIVE):
            assert states.api_operating_status(task, server, service, **late) == ""
    assert service.allows_action == allows_action
    assert service.is_running == (service in (Service.RUNNING, Service.HEALTHY))
    assert service.description


def test_ready_is_active_idle_and_running_something() -> None:
    idle = {Task.NONE, Task.RESTART_REQUIRED}
    for task, server, service in itertools.product(Task, Server, Service):
        expected = server is Server.ACTIVE and task in idle and OPERATING[service][1]
        assert states.is_ready(task, server, service) == expected
        assert not states.is_ready(task, server, service, is_backing_up=True)


def test_every_task_is_described_and_only_a_deletion_is_for_good() -> None:
    assert set(states.TASK_DESCRIPTIONS) == set(Task)
    for task in Task:
        assert states.can_change(task, Task.NONE) == (task is not Task.DELETING)
        assert states.can_change(task, Task.DELETING)
