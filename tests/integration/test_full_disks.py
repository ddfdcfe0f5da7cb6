"""A real MariaDB whose store's disk, or whose own volume, gets full.

Many more, at random: ``tools/faults/backup.py --what full``.
"""

from __future__ import annotations

import functools

from tests.fixtures import backup_full_disks
from tests.fixtures.engine import needs_mariadb
from tests.fixtures.syncing import no_syncing
from tests.fixtures.trials import Trials

__all__ = ["no_syncing"]

pytestmark = needs_mariadb


def test_a_full_disk_is_told_and_costs_neither_backups_nor_the_database() -> None:
    trials = Trials("full")
    with backup_full_disks.tight() as made:
        for number, kind in enumerate(("store", "volume during a restoration")):
            trial = functools.partial(backup_full_disks.KINDS[kind], made)
            trials.run(kind, number, trial)
        trials.check()
