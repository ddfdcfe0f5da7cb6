"""What a real MariaDB counts, in heartbeats and by statement, and what counting costs it."""

from __future__ import annotations

import os
import pathlib
import signal
import time
from collections.abc import Iterator

import pytest

from tests.fixtures.engine import Guest, mariadb_template, needs_mariadb, passable_directory
from tests.fixtures.waiting import wait_until
from trove.common import exception
from trove.datastores import metrics
from trove.guestagent.datastores import base
from trove.guestagent.datastores.mysql import queries
from trove.rpc import payloads

__all__ = ["mariadb_template"]

pytestmark = needs_mariadb

ALICE = payloads.User(name="alice", password="s3cret-Word", databases=("app",))


@pytest.fixture(scope="module")
def running(mariadb_template: pathlib.Path) -> Iterator[Guest]:
    """Give an instance of the smallest size with a database and a user."""
    with passable_directory() as directory:
        guest = Guest(directory=directory, template=mariadb_template)
        try:
            guest.start_agent()
            guest.prepare(databases=(payloads.Database(name="app"),), users=(ALICE,))
            guest.wait_status("HEALTHY")
            yield guest
        finally:
            guest.destroy()


def _figures(guest: Guest) -> dict[str, float]:
    """Return the figures of a heartbeat that is made from now on."""
    last = guest.conductor.last
    sequence = 0 if last is None else last.sequence

    def look() -> dict[str, float]:
        newest = guest.conductor.last
        return newest.metrics if newest is not None and newest.sequence > sequence + 1 else {}

    return wait_until(look, timeout_s=20, what="a heartbeat with figures") or {}


def _cpu_s(guest: Guest) -> float:
    identity = guest.engine()
    assert identity is not None
    fields = pathlib.Path(f"/proc/{identity.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_heartbeats_have_figures_that_move_with_what_clients_do(running: Guest) -> None:
    before = _figures(running)
    with running.connect("alice", "s3cret-Word", database="app", autocommit=True) as connection:
        cursor = connection.cursor()
        cursor.execute("CREATE TABLE moved (id INT PRIMARY KEY AUTO_INCREMENT, word TEXT)")
        for number in range(20):
            cursor.execute("INSERT INTO moved (word) VALUES (%s)", (f"word {number}",))
        cursor.execute("UPDATE moved SET word = 'other'")
        cursor.execute("SELECT * FROM moved")
        assert len(cursor.fetchall()) == 20
        cursor.execute("BEGIN")
        cursor.execute("DELETE FROM moved")
        cursor.execute("ROLLBACK")
        during = _figures(running)
    assert set(during) <= set(metrics.METRICS)
    grown = {name: during[name] - before[name] for name in during}
    assert during["connections"] == before["connections"] + 1
    assert during["connections_max"] == 64
    assert during["memory_max_bytes"] == 56 * 2**20
    assert during["uptime_seconds"] >= 1
    assert grown["commands_total"] >= 25
    assert grown["transactions_total"] >= 22
    assert grown["transactions_rolled_back_total"] == 1
    assert grown["rows_written_total"] >= 60
    assert grown["rows_read_total"] >= 60
    assert grown["cache_hits_total"] > 0
    assert grown["network_received_bytes_total"] > 1000
    assert during["memory_used_bytes"] > 2**20
    counters = [name for name in before if metrics.METRICS[name].kind is metrics.Kind.COUNTER]
    assert all(grown[name] >= 0 for name in counters)


def test_reading_figures_costs_the_engine_two_milliseconds_at_most(running: Guest) -> None:
    assert running.datastore is not None
    read = running.datastore.metrics.read
    read()
    times = 200
    before = _cpu_s(running)
    for _ in range(times):
        read()
    # what else the engine does meanwhile, an agent's pings among it, counts here too
    assert (_cpu_s(running) - before) / times <= 0.002


def test_an_engine_that_hangs_costs_heartbeats_their_figures_and_no_time(running: Guest) -> None:
    identity = running.engine()
    assert identity is not None
    assert _figures(running)
    os.kill(identity.pid, signal.SIGSTOP)
    try:
        heartbeats = running.conductor.heartbeats
        count = len(heartbeats)
        began = time.monotonic()
        # an interval is a second, a statement would time out after three
        wait_until(lambda: len(heartbeats) >= count + 3, timeout_s=20)
        assert time.monotonic() - began < 6
        assert heartbeats[-1].metrics == {}
    finally:
        os.kill(identity.pid, signal.SIGCONT)
    assert _figures(running)


def test_statements_are_told_by_what_they_cost_without_their_literals(running: Guest) -> None:
    with running.connect("alice", "s3cret-Word", database="app", autocommit=True) as connection:
        cursor = connection.cursor()
        cursor.execute("CREATE TABLE told (id INT PRIMARY KEY AUTO_INCREMENT, word TEXT)")
        for number in range(30):
            cursor.execute(f"INSERT INTO told (word) VALUES ('hidden-{number}') /* hidden */")
        cursor.execute("SELECT word, 'hidden' FROM told WHERE id > 4711")
        cursor.execute("SELECT SLEEP(0.2)")
    answer = running.call("top_queries", payloads.TopQueriesRequest())
    assert answer.queries[0].text == "SELECT `SLEEP` (?)"
    assert answer.queries[0].total_seconds >= 0.2
    assert answer.queries[0].database == "app"
    assert answer.since is not None
    assert all("hidden" not in each.text and "4711" not in each.text for each in answer.queries)
    by_calls = running.call("top_queries", payloads.TopQueriesRequest(limit=1, order_by="calls"))
    (most,) = by_calls.queries
    assert most.text == "INSERT INTO `told` ( `word` ) VALUES (?)"
    assert (most.calls, most.rows) == (30, 30)
    assert most.mean_seconds * most.calls == pytest.approx(most.total_seconds, rel=1e-3)
    for order in ("mean_seconds", "max_seconds", "rows"):
        request = payloads.TopQueriesRequest(order_by=order)
        found = [getattr(each, order) for each in running.call("top_queries", request).queries]
        assert found == sorted(found, reverse=True)


def test_passwords_and_what_the_agent_does_are_in_no_statistics(running: Guest) -> None:
    user = payloads.User(name="bob", password="Very-s3cret", databases=("app",))
    running.call("create_users", payloads.Users(users=(user,)))
    assert running.datastore is not None
    root = running.datastore.root
    assert isinstance(root, base.Root)
    root.enable("Very-s3cret")
    with running.connect("root", "Very-s3cret", autocommit=True) as connection:
        connection.cursor().execute("CREATE USER carol IDENTIFIED BY 'Very-s3cret'")
    request = payloads.TopQueriesRequest(limit=queries.MOST, order_by="calls")
    texts = [each.text for each in running.call("top_queries", request).queries]
    assert any("`carol`" in text for text in texts)
    assert not any("Very" in text or "GLOBAL STATUS" in text or "`bob`" in text for text in texts)


def test_an_order_that_there_is_none_of_is_refused(running: Guest) -> None:
    with pytest.raises(exception.GuestError, match="total_seconds"):
        running.call("top_queries", payloads.TopQueriesRequest(order_by="text; DROP"))


def test_statements_beyond_the_room_there_is_are_counted_together(running: Guest) -> None:
    with running.connect("alice", "s3cret-Word", database="app") as connection:
        cursor = connection.cursor()
        for number in range(220):
            cursor.execute(f"SELECT 1 AS a{number}")
    request = payloads.TopQueriesRequest(limit=1000, order_by="calls")
    found = running.call("top_queries", request).queries
    assert len(found) <= queries.MOST
    assert queries.OTHERS in [each.text for each in found]
