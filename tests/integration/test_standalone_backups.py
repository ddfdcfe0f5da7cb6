"""The standalone user's session with backups, by the openstack client and the engine's own.

With one engine here, and backups that are asked for; tools/sessions.py --backups has the whole of
it with all engines, which waits for schedules.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fixtures import backup_sessions, sessions
from tests.fixtures.stack import Stack, destroy_stack, make_stack

ROW = "mariadb"

pytestmark = pytest.mark.skipif(
    not sessions.is_possible(ROW), reason="MariaDB or its client is not installed"
)


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """Give a stack whose logs are archived every second."""
    often = {"backup": {"archive_interval_s": 1}, "guest": {"heartbeat_interval_s": 1}}
    made = make_stack({**sessions.OPTIONS, **often})
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
    session.retire_and_undelete()
    session.end()
