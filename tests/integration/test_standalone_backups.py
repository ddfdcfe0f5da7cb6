"""The standalone user's session with backups, by the openstack client and the engine's own.

With one engine here; tools/sessions.py has it with all.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fixtures import sessions
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
    sessions.import_image(stack, ROW, name="backed")
    session = sessions.Session(stack, ROW, "backed")
    session.create()
    session.connect()
    session.lose_and_restore()
    # what was restored is as good as any: its own log begins with its next backup
    shown = stack.rest().show(session.instance_id)
    assert shown["archive"]["status"] == "closed"
    session.back_up("again")
    shown = stack.rest().show(session.instance_id)
    assert shown["archive"]["status"] == "active"
    assert shown["earliest_restorable_time"] is not None
    session.delete()
