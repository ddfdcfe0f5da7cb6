"""A task manager on a real broker: hints arrive, jobs leave, a missing key stops the start."""

import pathlib
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.fixtures.control_plane import ControlPlane
from tests.fixtures.rabbit import RabbitBroker
from tests.fixtures.waiting import wait_until
from trove import states
from trove.common import concurrency, crypto
from trove.db import base
from trove.rpc import taskmanager as rpc
from trove.taskmanager import service


@pytest.fixture
def plane(sqlite_database: base.Database, rabbit: RabbitBroker) -> ControlPlane:
    plane = ControlPlane(sqlite_database, clock=concurrency.SystemClock(), sweep_interval_s=600.0)
    plane.conf.set_override("connection", str(sqlite_database.engine.url), group="database")
    service.transport.prepare(plane.conf)
    plane.conf.set_override("transport_url", rabbit.control_url)
    plane.conf.set_override("transport_url", rabbit.guest_url, group="guest")
    return plane


@pytest.fixture
def parts(plane: ControlPlane) -> Iterator[service.Parts]:
    parts = service.Parts(plane.conf, drivers=plane.tools.drivers)
    parts.start()
    assert parts.wait_serving(30)
    yield parts
    parts.stop()


def test_hints_carry_an_operation_through_without_a_sweep(
    plane: ControlPlane, parts: service.Parts
) -> None:
    client = rpc.TaskManagerClient(plane.conf)
    plane.guests.hint = client.run_operation
    instance_id, operation_id = plane.create()
    client.run_operation(operation_id)
    wait_until(lambda: plane.operation(operation_id).step == "secure_channel", timeout_s=10)
    # the job went to a guest bus on which nobody listens: the operation waits for its outcome
    waits = wait_until(lambda: plane.operation(operation_id).wake_on, timeout_s=10)
    assert str(waits).startswith("job:")
    plane.delete(instance_id)
    client.run_operation(plane.active()[0].id)
    client.run_operation(plane.active()[-1].id)
    wait_until(lambda: plane.operation(operation_id).state.is_active is False, timeout_s=10)
    assert plane.operation(operation_id).state is states.OperationState.CANCELLED
    client.close()


def run_main(tmp_path: pathlib.Path, text: str) -> subprocess.CompletedProcess[str]:
    config = tmp_path / "trove.conf"
    config.write_text(text)
    return subprocess.run(
        [sys.executable, "-m", "trove.cmd.taskmanager", "--config-file", str(config)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_start_ends_with_what_is_missing(tmp_path: pathlib.Path) -> None:
    done = run_main(tmp_path, "")
    assert done.returncode == 1
    assert "key_encryption_keys is not set" in done.stderr
    assert "Traceback" not in done.stderr
    key = f"[guest]\nkey_encryption_keys = {crypto.encode_key(b'k' * 32)}\n"
    done = run_main(tmp_path, key)
    assert done.returncode == 1
    assert "[database] connection" in done.stderr
