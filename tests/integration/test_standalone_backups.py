"""The standalone user's session with backups, by the openstack client and the engine's own.

With one engine here, and backups that are asked for; tools/sessions.py --backups has the whole of
it with all engines, which waits for schedules.
"""

from __future__ import annotations

import json
import pathlib
import signal
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest

from tests.fixtures import backup_sessions, sessions
from tests.fixtures.stack import Stack, destroy_stack, make_stack
from tests.fixtures.verifying import Verifier
from tests.fixtures.waiting import wait_until
from trove.drivers.compute import processes

ROW = "mariadb"

pytestmark = pytest.mark.skipif(
    not sessions.is_possible(ROW), reason="MariaDB or its client is not installed"
)


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """Give a stack whose logs are archived every second, and proofs made on a host of their own.

    Without one they are made on servers. In all other sessions it is beside the running database.
    """
    state_dir = pathlib.Path(tempfile.mkdtemp(prefix="trove-"))
    state_dir.chmod(0o755)
    options: dict[str, dict[str, object]] = {
        "backup": {
            "archive_interval_s": 1,
            "verify_place": "host",
            "verify_fallback": "server",
        },
        "guest": {"heartbeat_interval_s": 1},
        # an agent that is killed is missed sooner
        "taskmanager": {"job_retry_interval_s": 2},
        "verifier": Verifier.options(state_dir),
    }
    made = make_stack({**sessions.OPTIONS, **options}, state_dir=state_dir)
    yield made
    destroy_stack(made)


@pytest.fixture
def verifier(stack: Stack) -> Iterator[Verifier]:
    """Give a verifier on this machine that is not started yet."""
    made = Verifier(stack)
    yield made
    made.stop()


def test_a_dropped_table_is_had_again_in_a_new_instance_and_in_place(
    stack: Stack, verifier: Verifier
) -> None:
    session = backup_sessions.begin(stack, ROW)
    # there is no host yet
    session.back_up("first")
    expect_proofs(stack, "verify_on_server")
    verifier.start()
    session.lose_and_restore("first")
    # what was restored is as good as any: its own log begins with its next backup
    shown = stack.rest().show(session.instance_id)
    assert shown["archive"]["status"] == "closed"
    session.openstack("database backup create", "again", "--instance", session.name)
    kill_in_proof(verifier)
    session.await_proven("again")
    shown = stack.rest().show(session.instance_id)
    assert shown["archive"]["status"] == "active"
    assert shown["earliest_restorable_time"] is not None
    expect_proofs(stack, "verify_on_host", failed=1)
    verifier.await_clean()
    session.snapshot_and_restore()
    session.retire_and_undelete()
    session.end()


def kill_in_proof(verifier: Verifier) -> None:
    """Kill verifier and agent of a proof that has begun, and start the verifier anew."""
    wait_until(verifier.found, timeout_s=120, what="a proof that has begun")
    verifier.kill()
    for each in processes.using_path(verifier.state_dir):
        each.send(signal.SIGKILL)
    verifier.start()


def expect_proofs(stack: Stack, kind: str, *, failed: int = 0) -> None:
    """See that proofs were made of a kind, and that nothing is left of them."""

    def find_proofs() -> list[dict[str, Any]] | None:
        # what comes of a proof is told before everything of it is removed
        operations = json.loads(stack.manage("operation", "list", "--json"))
        proofs = [each for each in operations if each["kind"] == kind]
        ends = sorted(each["state"] for each in proofs)
        return proofs if ends == ["FAILED"] * failed + ["SUCCEEDED"] else None

    assert wait_until(find_proofs, timeout_s=60, what="the end of proofs")
    shown = stack.rest("trove-admin")("GET", "/mgmt/instances", status=200).json["instances"]
    assert not [each for each in shown if each["name"].startswith("proof-")]
