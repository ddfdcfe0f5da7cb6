"""Backups and the log of a real MariaDB, damaged in the store: each damage is noticed.

Many more, at random: ``tools/faults/backup.py --what corruption``.
"""

from __future__ import annotations

import functools
import pathlib

import pytest

from tests.fixtures import backup_damage
from tests.fixtures.engine import needs_mariadb
from tests.fixtures.trials import Trials
from trove.guestagent.system import filesystem

pytestmark = needs_mariadb

#: One of each kind that is noticed at another place.
_TRIED = (
    ("bit", "proof"),
    ("of another backup", "in place"),
    ("log missing", "proof"),
    ("log of another", "proof"),
    ("manifest of another", "new"),
)


def test_no_damage_passes_and_nothing_is_overwritten(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filesystem, "sync_file_system", lambda path: None)
    trials = Trials("a few")
    with backup_damage.history(backup_damage.make_shelf(tmp_path)) as made:
        for number, (kind, way) in enumerate(_TRIED):
            notice = functools.partial(backup_damage.notice, made, kind, way)
            trials.run(f"{kind}, {way}", number, notice)
        trials.check()
