"""When an engine is told to take no writes, and when it may again."""

from __future__ import annotations

import pathlib

import pytest

from trove.guestagent import disk_guard, state
from trove.guestagent.system import filesystem, users

_MIB = 1024 * 1024


@pytest.fixture
def store(tmp_path: pathlib.Path) -> state.Store:
    layout = state.Layout(
        state_dir=tmp_path / "state", mount_point=tmp_path, engine_user=users.current()
    )
    layout.make_state()
    return state.Store(layout)


class Disk:
    """A disk that is as full as it is said to be."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, total_mib: int) -> None:
        """Stand in for the real one."""
        self.total_mib = self.available_mib = total_mib
        monkeypatch.setattr(filesystem, "disk_use", self._use)

    def _use(self, path: pathlib.Path) -> filesystem.DiskUse:
        if self.available_mib < 0:
            raise FileNotFoundError(path)
        return filesystem.DiskUse(
            used_bytes=(self.total_mib - self.available_mib) * _MIB,
            total_bytes=self.total_mib * _MIB,
            available_bytes=self.available_mib * _MIB,
        )


@pytest.mark.parametrize(
    ("total_mib", "reserve_mib"), [(100, 16), (1024, 25.6), (8192, 204.8), (102400, 256)]
)
def test_reserve_is_a_fortieth_within_bounds(total_mib: int, reserve_mib: float) -> None:
    assert disk_guard.reserve_bytes(total_mib * _MIB) == pytest.approx(reserve_mib * _MIB, abs=1)


def test_guard_closes_at_the_reserve_and_opens_at_twice_of_it(
    tmp_path: pathlib.Path, store: state.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch, total_mib=400)
    guard = disk_guard.DiskGuard(tmp_path, store)
    found = []
    for disk.available_mib in (17, 17, 15, 20, 31, 33, 33):
        guard.look()
        found.append(guard.is_low)
    # the first look has nothing to compare with
    assert found == [False, False, True, True, True, False, False]


def test_what_was_written_since_the_last_look_is_expected_again(
    tmp_path: pathlib.Path, store: state.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch, total_mib=400)
    guard = disk_guard.DiskGuard(tmp_path, store)
    guard.look()
    assert guard.look_again_s(2.0) == 2.0
    disk.available_mib = 205
    guard.look()
    assert guard.is_low
    assert guard.look_again_s(2.0) < 1.0
    guard.look()
    assert not guard.is_low


def test_what_the_engine_was_told_is_remembered(
    tmp_path: pathlib.Path, store: state.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch, total_mib=400)
    guard = disk_guard.DiskGuard(tmp_path, store)
    guard.look()
    assert not guard.must_tell
    disk.available_mib = 1
    guard.look()
    assert guard.must_tell
    assert guard.is_full
    guard.will_tell()
    # the agent ends here: whether the engine knows is not known
    disk.available_mib = 300
    later = disk_guard.DiskGuard(tmp_path, store)
    later.look()
    assert later.must_tell
    later.will_tell()
    later.told()
    assert not later.must_tell
    assert not disk_guard.DiskGuard(tmp_path, store).must_tell


def test_a_disk_that_cannot_be_seen_is_as_it_was(
    tmp_path: pathlib.Path, store: state.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch, total_mib=400)
    guard = disk_guard.DiskGuard(tmp_path, store)
    disk.available_mib = 1
    guard.look()
    disk.available_mib = -1
    guard.look()
    assert guard.is_low


def test_an_engine_that_was_released_by_somebody_else_is_told_again(
    tmp_path: pathlib.Path, store: state.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch, total_mib=400)
    guard = disk_guard.DiskGuard(tmp_path, store)
    guard.look()
    guard.told_otherwise()
    assert not guard.must_tell
    disk.available_mib = 10
    guard.look()
    guard.will_tell()
    guard.told()
    assert not guard.must_tell
    guard.told_otherwise()
    assert guard.must_tell
