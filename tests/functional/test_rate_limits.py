"""Rate limits that all workers share, on both backends."""

from __future__ import annotations

import concurrent.futures
import contextlib
import random
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from tests.fixtures import api as api_fixture
from tests.fixtures import workers
from tests.fixtures.limited import admits
from tests.fixtures.limited import make_limiter as limiter
from trove.common import concurrency, exception
from trove.db import base, models, rate_windows

PROJECT = "p"


@contextlib.contextmanager
def statements(database: base.Database) -> Iterator[list[str]]:
    """Collect what is asked of any engine, but for the brackets of transactions."""
    seen: list[str] = []

    def note(*args: Any) -> None:
        if not args[2].startswith(("BEGIN", "ROLLBACK", "COMMIT")):
            seen.append(args[2])

    sa.event.listen(sa.Engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", note)


@pytest.fixture
def clock() -> concurrency.ManualClock:
    return concurrency.ManualClock()


def test_a_single_worker_admits_exactly_the_limit_and_again_in_the_next_minute(
    database: base.Database, clock: concurrency.ManualClock
) -> None:
    limits = limiter(database, clock, get=200, post=3)
    for _ in range(3):
        assert sum(admits(limits) for _ in range(210)) == 200
        assert sum(admits(limits, "POST") for _ in range(5)) == 3
        clock.advance(60)


def test_methods_without_a_rate_and_other_projects_are_not_counted(
    sqlite_database: base.Database, clock: concurrency.ManualClock
) -> None:
    limits = limiter(sqlite_database, clock, get=2)
    assert all(admits(limits, "PATCH") for _ in range(5))
    assert all(admits(limits, "POST") for _ in range(5))
    assert [admits(limits) for _ in range(3)] == [True, True, False]
    assert admits(limits, project="q")


def test_most_requests_ask_nothing_of_the_backend_and_none_more_than_two_statements(
    database: base.Database, clock: concurrency.ManualClock
) -> None:
    limits = limiter(database, clock, get=1000)
    for _ in range(2):
        costs = []
        with statements(database) as seen:
            for _ in range(1000):
                seen.clear()
                assert admits(limits)
                costs.append(len(seen))
        assert max(costs) == 2
        assert costs.count(0) > 800
        with statements(database) as seen:
            assert not admits(limits)
            seen.clear()
            # once it is used up, nobody asks again
            assert not admits(limits)
            assert seen == []
        clock.advance(60)


def test_a_list_costs_four_statements_even_when_it_pays_for_the_limit(
    sqlite_database: base.Database,
) -> None:
    api = api_fixture.make_api(sqlite_database, http_get_rate=1000)
    api.add_datastore()
    source = api.create_instance(active=True)
    api.set_instance(api.create_instance(active=True), replica_of_id=source)
    for path in ("/instances", "/instances/detail"):
        for _ in range(10):
            with statements(sqlite_database) as seen:
                api.get(path)
            assert len(seen) <= 4


@pytest.mark.parametrize("count", [2, 8])
def test_workers_together_never_admit_more_and_hardly_less(
    database: base.Database, clock: concurrency.ManualClock, count: int
) -> None:
    chance = random.Random(count)
    several = [limiter(database, clock, get=200) for _ in range(count)]
    for _ in range(2):
        first_refusal = None
        admitted = 0
        for _ in range(400):
            if admits(chance.choice(several)):
                admitted += 1
            elif first_refusal is None:
                first_refusal = admitted
        assert admitted == 200
        assert first_refusal is not None
        assert first_refusal >= 180
        clock.advance(60)


def test_a_client_that_moves_to_one_worker_loses_at_most_a_25th_a_worker(
    sqlite_database: base.Database, clock: concurrency.ManualClock
) -> None:
    first, *others = [limiter(sqlite_database, clock, get=200) for _ in range(4)]
    admitted = sum(admits(each) for each in others for _ in range(20))
    while admits(first):
        admitted += 1
    assert 200 - 3 * 8 <= admitted <= 200
    # what the others hold is still theirs to give
    admitted += sum(admits(each) for each in others for _ in range(20))
    assert admitted == 200


def test_a_worker_that_ends_takes_no_more_than_its_share_along(
    sqlite_database: base.Database, clock: concurrency.ManualClock
) -> None:
    lost = limiter(sqlite_database, clock, get=200)
    admitted = sum(admits(lost) for _ in range(50))
    fresh = limiter(sqlite_database, clock, get=200)
    while admits(fresh):
        admitted += 1
    assert 192 <= admitted <= 200


def test_threads_and_engines_share_one_window(
    database: base.Database, clock: concurrency.ManualClock
) -> None:
    others = [base.Database(workers.url_of(database)) for _ in range(3)]
    several = [limiter(each, clock, get=100) for each in (database, *others)]
    barrier = threading.Barrier(8)

    def work(number: int) -> int:
        barrier.wait(30)
        return sum(admits(several[number % 4]) for _ in range(40))

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(work, range(8))) == 100
    for each in others:
        each.dispose()


def test_processes_share_one_window(database: base.Database) -> None:
    url = workers.url_of(database)
    function = "tests.fixtures.limited:count_admitted"
    assert sum(workers.run(function, [(url, 120)] * 2)) == 100


def test_what_is_left_is_shown_over_all_workers(sqlite_database: base.Database) -> None:
    one = api_fixture.make_api(sqlite_database, http_get_rate=100, http_post_rate=7)
    other = api_fixture.make_api(sqlite_database, http_get_rate=100, http_post_rate=7)
    for _ in range(10):
        other.get("/flavors")
    _, get, post = one.get("/limits")["limits"]
    # the other worker holds a few of what it took
    assert 100 - 11 - 8 <= get["remaining"] <= 100 - 11
    assert (post["remaining"], post["value"]) == (7, 7)
    assert get["nextAvailable"] == "2026-05-01T12:01:00Z"
    for _ in range(2):
        # what was held of the last minute is worth nothing in this one
        one.clock.advance(60)
        for _ in range(5):
            shown = one.get("/limits")["limits"][1]["remaining"]
        assert shown == 95
        one.clock.advance(60)
        windows = one.limiter.describe(api_fixture.PROJECT)
        assert [window.remaining for window in windows] == [100, 7]


def test_a_refusal_says_when_the_next_minute_begins(
    sqlite_database: base.Database, clock: concurrency.ManualClock
) -> None:
    limits = limiter(sqlite_database, clock, delete=1)
    limits.check("DELETE", PROJECT)
    clock.advance(13)
    with pytest.raises(exception.RateLimited) as refusal:
        limits.check("DELETE", PROJECT)
    assert refusal.value.kwargs["retry_after_s"] == 47


def test_a_host_whose_clock_is_behind_counts_in_the_window_of_the_others(
    sqlite_database: base.Database,
) -> None:
    ahead, behind = concurrency.ManualClock(), concurrency.ManualClock()
    ahead.advance(60.5)
    behind.advance(59.5)
    assert sum(admits(limiter(sqlite_database, ahead, get=10)) for _ in range(6)) == 6
    assert sum(admits(limiter(sqlite_database, behind, get=10)) for _ in range(6)) == 4


def test_a_host_whose_clock_is_far_ahead_shuts_nobody_out(
    sqlite_database: base.Database, clock: concurrency.ManualClock
) -> None:
    wrong = concurrency.ManualClock()
    wrong.advance(86400)
    limits = limiter(sqlite_database, wrong, get=2)
    assert [admits(limits) for _ in range(3)] == [True, True, False]
    assert admits(limiter(sqlite_database, clock, get=2))


def test_without_the_backend_each_worker_counts_alone_and_asks_it_rarely(
    mariadb_server: Any, clock: concurrency.ManualClock
) -> None:
    name = mariadb_server.create_database()
    database = base.Database(mariadb_server.url(name))
    # a schema that is not there yet fails like a backend that is away
    limits = limiter(database, clock, get=5)
    with statements(database) as seen:
        assert [admits(limits) for _ in range(6)] == [True] * 5 + [False]
        asked = [statement for statement in seen if "rate_windows" in statement]
        assert len(asked) == 1
    models.Base.metadata.create_all(database.engine)
    clock.advance(60)
    assert [admits(limits) for _ in range(6)] == [True] * 5 + [False]
    with database.reader() as session:
        window = rate_windows.window_of(clock.now())
        assert rate_windows.get_taken(session, PROJECT, window=window) == {"GET": 5}
    database.dispose()


def test_a_backend_that_is_away_is_a_503_and_no_worse(
    sqlite_database: base.Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = api_fixture.make_api(sqlite_database, http_get_rate=100)
    away = base.DatabaseError("away")

    @contextlib.contextmanager
    def fail() -> Iterator[None]:
        raise base.BackendFailed(sa.exc.OperationalError("x", None, away))
        yield

    monkeypatch.setattr(sqlite_database, "writer", fail)
    assert api.get("/flavors")["flavors"]
    assert api.get("/datastores") == {"datastores": []}


def test_rows_of_silent_projects_are_removed(
    database: base.Database, clock: concurrency.ManualClock
) -> None:
    limits = limiter(database, clock, get=10, post=10)
    assert admits(limits, project="old")
    clock.advance(61 * 60)
    assert admits(limits, "POST")
    clock.advance(60)
    limits.prune()
    with database.reader() as session:
        rows = session.execute(sa.select(models.RateWindow.project_id, models.RateWindow.method))
        assert [tuple(row) for row in rows] == [(PROJECT, "POST")]


def test_a_worker_forgets_projects_that_went_silent(
    sqlite_database: base.Database, clock: concurrency.ManualClock
) -> None:
    limits = limiter(sqlite_database, clock, get=10)
    for number in range(20):
        assert admits(limits, project=f"p{number}")
    clock.advance(120)
    assert admits(limits)
    assert len(limits._buckets) == 1
