"""A lease is held by one, until it is given back or not renewed."""

import concurrent.futures
import datetime

from tests.fixtures.database import NOW
from trove.db import base, leases


def take(database: base.Database, owner: str, *, after_s: float = 0) -> bool:
    now = NOW + datetime.timedelta(seconds=after_s)
    with database.writer() as session:
        return leases.take(session, "x", owner=owner, now=now, lease_s=10)


def test_a_lease_is_held_by_one(database: base.Database) -> None:
    assert take(database, "a")
    assert not take(database, "b")
    # renewed by its holder only
    assert take(database, "a", after_s=8)
    assert not take(database, "b", after_s=17)
    assert take(database, "b", after_s=19)
    assert not take(database, "a", after_s=20)


def test_a_lease_of_a_clock_that_was_ahead_holds_nobody_up(database: base.Database) -> None:
    assert take(database, "a", after_s=365 * 86400)
    assert take(database, "b")
    assert not take(database, "c")


def test_a_lease_that_is_given_back_is_free(database: base.Database) -> None:
    assert take(database, "a")
    with database.writer() as session:
        leases.release(session, "x", owner="b")
    assert not take(database, "b")
    with database.writer() as session:
        leases.release(session, "x", owner="a")
    assert take(database, "b")


def test_of_many_at_once_one_takes_it(database: base.Database) -> None:
    @base.retry_on_conflict
    def try_it(owner: str) -> bool:
        return take(database, owner)

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(try_it, "abcdefgh")) == 1
