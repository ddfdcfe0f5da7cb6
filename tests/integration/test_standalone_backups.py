"""The standalone user's session with backups, by the openstack client and the engine's own.

With one engine here, and backups that are asked for; tools/sessions.py --backups has the whole of
it with all engines, which waits for schedules.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.fixtures import backup_sessions, sessions
from tests.fixtures.stack import Stack, destroy_stack, make_stack
from tests.fixtures.waiting import wait_until

ROW = "mariadb"

pytestmark = pytest.mark.skipif(
    not sessions.is_possible(ROW), reason="MariaDB or its client is not installed"
)


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """Give a stack whose logs are archived every second, and proofs made on servers of their own.

    Beside the running database they are made in all other sessions.
    """
    options = {
        "backup": {"archive_interval_s": 1, "verify_place": "server"},
        "guest": {"heartbeat_interval_s": 1},
    }
    made = make_stack({**sessions.OPTIONS, **options})
    yield made
    destroy_stack(made)


def test_a_dropped_table_is_had_again_in_a_new_instance_and_in_place(stack: Stack) -> None:
    session = backup_sessions.begin(stack, ROW)
    session.back_up("first")
    session.lose_and_restore("first")
    # what was restored is as good as any: its own log begins with its next backup
    shown = stack.rest().show(session.instance_id)
    assert shown["archive"]["status"] == "closed"
    session.back_up("again")
    shown = stack.rest().show(session.instance_id)
    assert shown["archive"]["status"] == "active"
    assert shown["earliest_restorable_time"] is not None
    expect_proofs_on_servers(stack)
    session.snapshot_and_restore()
    session.retire_and_undelete()
    session.end()


def expect_proofs_on_servers(stack: Stack) -> None:
    """See that servers were made for proofs, and that nothing is left of them."""

    def find_proofs() -> list[dict[str, Any]] | None:
        # what comes of a proof is told before everything of it is removed
        operations = json.loads(stack.manage("operation", "list", "--json"))
        proofs = [each for each in operations if each["kind"] == "verify_on_server"]
        is_over = all(each["state"] == "SUCCEEDED" for each in proofs)
        return proofs if is_over else None

    assert wait_until(find_proofs, timeout_s=60, what="the end of proofs")
    shown = stack.rest("trove-admin")("GET", "/mgmt/instances", status=200).json["instances"]
    assert not [each for each in shown if each["name"].startswith("proof-")]
