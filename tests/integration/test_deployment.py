"""The service as processes of its own on MariaDB: several of each, killed, and without backends.

Two API workers, two conductors and two task managers with a private broker and a private SQL
server, both of which are taken away while operations are under way.
"""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest

from tests.fixtures.deployment import Deployment, deployed
from tests.fixtures.rest import Rest, create_body, left_over, processes_of
from tests.fixtures.waiting import wait_until
from trove import states
from trove.db import base, operations, quotas

_LIMIT = 3


@pytest.fixture(scope="module")
def service() -> Iterator[Deployment]:
    options = {
        "quota": {"max_instances_per_tenant": _LIMIT},
        # a job that a broker lost is sent again
        "taskmanager": {"job_retry_interval_s": 3},
    }
    with deployed(options) as made:
        yield made


@pytest.fixture(scope="module")
def database(service: Deployment) -> Iterator[base.Database]:
    made = service.database()
    yield made
    made.dispose()


@pytest.fixture
def rest(service: Deployment) -> Iterator[Rest]:
    """Give a client of a complete service, and leave it complete and empty."""
    service.complete()
    client = service.rest()
    yield client
    service.complete()
    service.wait_answering()
    client.remove_all()


def _operations(database: base.Database, instance_id: str) -> list[operations.Operation]:
    with database.reader() as session:
        return list(operations.list_operations(session, resource_id=instance_id))


def _await_success(database: base.Database, instance_id: str) -> None:
    """Wait for the end of all operations: the status is set by a step, and that noted later."""
    wait_until(
        lambda: not any(each.state.is_active for each in _operations(database, instance_id)),
        timeout_s=10,
        what="the end of the operations",
    )
    for each in _operations(database, instance_id):
        assert each.state is states.OperationState.SUCCEEDED, each.error


def _usage(database: base.Database) -> dict[str, int]:
    with database.reader() as session:
        return quotas.get_usage(session, "demo")


def _await_step(database: base.Database, instance_id: str, step: str) -> None:
    """Wait until the newest operation of an instance is at a step, or beyond it."""
    wait_until(
        lambda: _operations(database, instance_id)[0].step == step,
        timeout_s=30,
        interval_s=0.01,
        what=f"step {step}",
    )


def _expect_one_of_each(instance_id: str) -> None:
    assert len(processes_of(instance_id, "trove-guestagent")) == 1
    assert len(processes_of(instance_id, "mariadbd")) == 1


def _delete_all(service: Deployment, rest: Rest, database: base.Database, ids: list[str]) -> None:
    for instance_id in ids:
        rest.delete(instance_id)
    for instance_id in ids:
        rest.wait_gone(instance_id)
        assert left_over(service.state_dir, instance_id) == []
    assert _usage(database)["instances"] == 0


# -- several of each -----


def test_three_instances_at_once_are_made_restarted_and_deleted(
    service: Deployment, rest: Rest, database: base.Database
) -> None:
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        ids = list(pool.map(rest.create, ("one", "two", "three")))
        for instance_id in ids:
            rest.wait_active(instance_id)
            _expect_one_of_each(instance_id)
        engines = {each: processes_of(each, "mariadbd")[0].pid for each in ids}
        list(pool.map(rest.restart, ids))
        for instance_id in ids:
            rest.wait_active(instance_id)
            _expect_one_of_each(instance_id)
            assert processes_of(instance_id, "mariadbd")[0].pid != engines[instance_id]
    for instance_id in ids:
        _await_success(database, instance_id)
    assert _usage(database) == {"instances": 3, "ram": 768, "volumes": 3, "backups": 0}
    _delete_all(service, rest, database, ids)


def test_racing_creates_never_share_the_last_unit_of_a_quota(
    service: Deployment, rest: Rest, database: base.Database
) -> None:
    def create(number: int) -> Any:
        return rest("POST", "/instances", create_body(f"racer-{number}"))

    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(create, range(20)))
    accepted = [answer.json["instance"]["id"] for answer in answers if answer.status == 200]
    refused = [answer for answer in answers if answer.status != 200]
    assert len(accepted) == _LIMIT
    assert {answer.status for answer in refused} == {413}
    assert all("Quota exceeded" in answer.message for answer in refused)
    listed = rest("GET", "/instances", status=200).json["instances"]
    assert {each["id"] for each in listed} == set(accepted)
    assert _usage(database)["instances"] == _LIMIT
    _delete_all(service, rest, database, accepted)


def test_a_killed_task_manager_s_creates_are_gone_on_with(
    service: Deployment, rest: Rest, database: base.Database
) -> None:
    ids = [rest.create(f"survivor-{number}") for number in range(3)]
    _await_step(database, ids[-1], "await_agent")
    killed = service.running["trove-taskmanager"][0]
    service.kill(killed)
    for instance_id in ids:
        # what it had in work is taken over once its lease has run out
        rest.wait_active(instance_id, timeout_s=30)
        _expect_one_of_each(instance_id)
    _delete_all(service, rest, database, ids)


def test_a_killed_conductor_or_api_worker_is_made_up_for(
    service: Deployment, rest: Rest, database: base.Database
) -> None:
    instance_id = rest.create("steady")
    service.kill(service.running["trove-conductor"][0])
    (api,) = service.running["trove-api"]
    worker = psutil.Process(api.pid).children()[0]
    worker.kill()
    service.wait_answering()
    rest.wait_active(instance_id)
    _expect_one_of_each(instance_id)
    _delete_all(service, rest, database, [instance_id])


# -- without the broker -----


def _restart_cleanly(service: Deployment) -> None:
    service.broker.restart()


def _crash(service: Deployment) -> None:
    service.broker.kill()
    service.broker.start()


def _creating(rest: Rest, step: str) -> tuple[str, list[psutil.Process]]:
    """Have an instance made, and hold its agent before its first word, or while it prepares."""
    instance_id = rest.create(f"at-{step}")
    program = "trove-guestagent" if step == "await_agent" else "mariadbd"
    wait_until(lambda: processes_of(instance_id, program), timeout_s=20, interval_s=0.01)
    held = processes_of(instance_id, "trove-guestagent")
    for agent in held:
        agent.suspend()
    return instance_id, held


@pytest.mark.parametrize(
    ("what", "bounce"),
    [
        ("await_agent", _restart_cleanly),
        ("await_agent", _crash),
        ("prepare", _crash),
        ("restart", _crash),
        ("delete", _restart_cleanly),
    ],
)
def test_a_restart_of_the_broker_loses_no_operation(
    service: Deployment,
    rest: Rest,
    database: base.Database,
    what: str,
    bounce: Callable[[Deployment], None],
) -> None:
    held: list[psutil.Process] = []
    if what in ("await_agent", "prepare"):
        instance_id, held = _creating(rest, what)
    else:
        instance_id = rest.create(f"for-{what}")
        rest.wait_active(instance_id)
        held = processes_of(instance_id, "trove-guestagent")
        for agent in held:
            agent.suspend()
        if what == "restart":
            rest.restart(instance_id)
        else:
            rest.delete(instance_id)
        _await_step(
            database, instance_id, {"restart": "restart_engine", "delete": "stop_guest"}[what]
        )
    bounce(service)
    for agent in held:
        agent.resume()
    if what == "delete":
        rest.wait_gone(instance_id, timeout_s=45)
        assert left_over(service.state_dir, instance_id) == []
        return
    rest.wait_active(instance_id, timeout_s=45)
    _expect_one_of_each(instance_id)
    _await_success(database, instance_id)
    # the way to the agent is whole again, once both its ends have found the broker
    wait_until(
        lambda: rest("GET", f"/instances/{instance_id}/databases").status == 200,
        timeout_s=15,
        what="the agent answering calls",
    )


# -- without the SQL backend -----


def test_without_its_sql_backend_the_api_says_so_and_all_goes_on_afterwards(
    service: Deployment, rest: Rest, database: base.Database
) -> None:
    steady = rest.create("steady")
    rest.wait_active(steady)
    engine = processes_of(steady, "mariadbd")[0].pid
    creating = rest.create("creating")
    wait_until(lambda: processes_of(creating, "trove-guestagent"), timeout_s=20)
    service.sql.kill()
    for method, path, body in (
        ("GET", "/instances", None),
        ("GET", f"/instances/{steady}", None),
        ("POST", "/instances", create_body("refused")),
        ("DELETE", f"/instances/{steady}", None),
        ("GET", f"/instances/{steady}/databases", None),
        ("GET", "/datastores", None),
    ):
        for _ in range(4):
            answer = rest(method, path, body, status=503)
            assert "database cannot be reached" in answer.message
            assert answer.took_s < 3
    # the process is well: a load balancer must not take the last one away for its backend
    assert rest.raw("GET", "/healthcheck").status == 200
    wait_until(lambda: rest.raw("GET", f"/v1.0/{rest.project}/flavors").status, timeout_s=5)
    assert psutil.Process(engine).is_running()
    service.sql.start()
    service.wait_answering(timeout_s=20)
    rest.wait_active(creating, timeout_s=30)
    _expect_one_of_each(creating)
    assert rest.wait_active(steady, timeout_s=30)
    assert processes_of(steady, "mariadbd")[0].pid == engine
    listed = rest("GET", "/instances", status=200).json["instances"]
    assert {each["id"] for each in listed} == {steady, creating}
    _delete_all(service, rest, database, [steady, creating])


def test_processes_that_start_without_backends_work_once_these_are_there(
    service: Deployment, rest: Rest, database: base.Database
) -> None:
    for each in service.running.values():
        for process in list(each):
            service.kill(process)
    service.broker.stop()
    service.sql.kill()
    for program in ("trove-taskmanager", "trove-conductor", "trove-api"):
        service.start(program)
    wait_until(lambda: _answers(rest), timeout_s=20, what="the API up without backends")
    service.sql.start()
    service.broker.start()
    service.wait_answering(timeout_s=30)
    instance_id = rest.create("after-the-flood")
    rest.wait_active(instance_id, timeout_s=60)
    _delete_all(service, rest, database, [instance_id])


def _answers(rest: Rest) -> bool:
    try:
        return rest("GET", "/instances").status == 503
    except OSError:
        return False
