"""Quotas on both backends, alone and in races."""

from __future__ import annotations

import concurrent.futures

import pytest

from trove.common import exception
from trove.db import base, models, quotas

_DEFAULTS = {"instances": 10, "ram": -1, "volumes": 40, "backups": 50}


def _reserve(database: base.Database, deltas: dict[str, int], project: str = "p") -> None:
    with database.writer() as session:
        quotas.reserve(session, project, deltas, defaults=_DEFAULTS)


def _usage(database: base.Database) -> dict[str, int]:
    with database.reader() as session:
        return quotas.get_usage(session, "p")


def test_all_is_charged_or_nothing(database: base.Database) -> None:
    _reserve(database, {"instances": 1, "ram": 10**6, "volumes": 40})
    with pytest.raises(exception.QuotaExceeded, match=r"\['volumes'\]"):
        _reserve(database, {"instances": 1, "ram": 1, "volumes": 1})
    _reserve(database, {"instances": 1, "volumes": 0})
    _reserve(database, {"instances": 1}, project="q")
    assert _usage(database) == {"instances": 2, "ram": 10**6, "volumes": 40, "backups": 0}


def test_an_own_limit_replaces_the_default(database: base.Database) -> None:
    with database.writer() as session:
        session.add(models.Quota(project_id="p", resource="instances", limit=0))
        session.add(models.Quota(project_id="p", resource="volumes", limit=-1))
    with pytest.raises(exception.QuotaExceeded, match=r"\['instances'\]"):
        _reserve(database, {"instances": 1, "volumes": 1000})
    _reserve(database, {"volumes": 1000})
    with database.reader() as session:
        limits = quotas.get_limits(session, "p", defaults=_DEFAULTS)
    assert limits == {"instances": 0, "ram": -1, "volumes": -1, "backups": 50}


def test_giving_back_never_goes_below_zero(database: base.Database) -> None:
    _reserve(database, {"instances": 1, "volumes": 5})
    for _ in range(2):
        with database.writer() as session:
            quotas.release(session, "p", {"instances": 1, "volumes": 4, "ram": 0})
    assert _usage(database) == {"instances": 0, "ram": 0, "volumes": 0, "backups": 0}


def test_a_race_for_the_last_units_charges_exactly_the_limit(database: base.Database) -> None:
    @base.retry_on_conflict
    def attempt(_: int) -> bool:
        try:
            _reserve(database, {"volumes": 3, "instances": 1})
        except exception.QuotaExceeded:
            return False
        return True

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        won = sum(pool.map(attempt, range(24)))
    assert won == 10
    assert _usage(database) == {"instances": 10, "ram": 0, "volumes": 30, "backups": 0}
