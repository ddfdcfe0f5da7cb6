"""PostgreSQL and MongoDB that are killed in a backup or restoration; MariaDB is in other tests.

One stage in each run, at random. All, many times: ``tools/faults/backup.py --what engines``.
"""

from __future__ import annotations

import functools
import os
import pathlib
import random

import pytest

from tests.fixtures import engine_deaths
from tests.fixtures.rows import params
from tests.fixtures.syncing import no_syncing
from tests.fixtures.trials import Trials

__all__ = ["no_syncing"]


@pytest.mark.parametrize("row", params(["postgresql-15", "mongodb"]))
def test_an_engine_that_dies_has_its_backup_or_says_why(row: str, tmp_path: pathlib.Path) -> None:
    seed = os.environ.get("TROVE_TEST_DEATHS_SEED") or str(random.randrange(1 << 32))
    trials = Trials(seed)
    stage = trials.chance(0).choice(list(engine_deaths.STAGES))
    with engine_deaths.written(row, tmp_path) as made:
        trials.run(f"{row}, {stage}", 0, functools.partial(engine_deaths.STAGES[stage], made))
    trials.check()
