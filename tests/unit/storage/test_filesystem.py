"""The filesystem store: what it leaves on the disk, and what it makes of what it finds there."""

from __future__ import annotations

import datetime
import pathlib
from collections.abc import Callable

import pytest

from tests.fixtures import full_disk
from trove import conf as trove_conf
from trove.common import exception
from trove.storage import base, factory, filesystem


@pytest.fixture
def store(tmp_path: pathlib.Path) -> filesystem.FilesystemStore:
    return filesystem.FilesystemStore(tmp_path / "objects")


def test_directories_and_files_are_the_service_s_own(
    store: filesystem.FilesystemStore, tmp_path: pathlib.Path
) -> None:
    store.account("p").put("box", "a/b", [b"x"])
    for path in (tmp_path / "objects").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0


def test_what_a_crash_left_goes_with_the_next_object_of_the_name(
    store: filesystem.FilesystemStore, tmp_path: pathlib.Path
) -> None:
    account = store.account("p")
    account.put("box", "x", [b"1"])
    (directory,) = (path.parent for path in tmp_path.rglob("*.json"))
    (directory / "x+o.00ff.data").write_bytes(b"half")
    (directory / "x+o.json.new").write_bytes(b"{")
    assert [each.name for each in account.list("box")] == ["x"]
    account.put("box", "x", [b"2"])
    assert len(list(directory.iterdir())) == 2


def test_damaged_object_is_told_and_can_be_replaced(
    store: filesystem.FilesystemStore, tmp_path: pathlib.Path
) -> None:
    account = store.account("p")
    account.put("box", "x", [b"1"])
    (described,) = tmp_path.rglob("*.json")
    for damage in ("{", "[]", "{}"):
        described.write_text(damage)
        with pytest.raises(base.StorageError, match="damaged"):
            account.find("box", "x")
    account.put("box", "x", [b"2"])
    for content in tmp_path.rglob("*.data"):
        content.unlink()
    with pytest.raises(base.StorageError, match="missing"):
        account.open("box", "x")


def test_times_grow_when_the_clock_is_set_back(
    store: filesystem.FilesystemStore, tmp_path: pathlib.Path
) -> None:
    account = store.account("p")
    account.put("box", "x", [b""])
    (last,) = tmp_path.rglob("last_modified")
    later = datetime.datetime(2199, 1, 1, tzinfo=datetime.UTC)
    last.write_text(later.isoformat())
    assert account.put("box", "y", [b""]).modified > later
    last.write_text("damaged")
    account.put("box", "z", [b""])


def test_directory_that_cannot_be_written_is_an_error_with_its_cause(
    tmp_path: pathlib.Path,
) -> None:
    (tmp_path / "objects").mkdir()
    (tmp_path / "objects" / "p").write_text("in the way")
    with pytest.raises(base.StorageError, match="directory"):
        filesystem.FilesystemStore(tmp_path / "objects").account("p").put("box", "x", [b""])


def _try_to_put(account: base.Account, name: str) -> str:
    try:
        account.put("box", name, [b"x" * 20_000])
    except base.StorageError as e:
        return str(e)
    return ""


@pytest.mark.parametrize(
    "fill",
    [
        lambda path, leave: full_disk.fill(path, leave_bytes=4096 * leave),
        lambda path, leave: full_disk.use_up_inodes(path, leave=leave),
    ],
    ids=["space", "files"],
)
def test_a_full_disk_is_told_and_has_nothing_of_what_was_to_be_stored(
    tmp_path: pathlib.Path, fill: Callable[[pathlib.Path, int], None]
) -> None:
    with full_disk.mounted(tmp_path, "size=256k,nr_inodes=64"):
        account = filesystem.FilesystemStore(tmp_path / "objects").account("p")
        account.put("box", "b/old", [b"old"])
        before = set(tmp_path.rglob("*"))
        told: list[str] = []
        for leave in range(12):
            fill(tmp_path, leave)
            told.append(_try_to_put(account, "b/c/d"))
            full_disk.free(tmp_path)
            assert account.delete("box", "b/c/d") == (not told[-1])
            assert set(tmp_path.rglob("*")) == before
        assert [bool(each) for each in told] == sorted(map(bool, told), reverse=True)
        assert {told[0], told[-1]} == {told[0], ""}
        assert all("No space left on device" in each for each in told if each)
        # space is made by deleting what is there
        fill(tmp_path, 0)
        assert account.delete("box", "b/old")
        assert account.list("box") == []


def test_guest_does_not_make_the_directory_of_a_store_that_it_does_not_share(
    tmp_path: pathlib.Path,
) -> None:
    account = factory.open_grant("filesystem", {"directory": str(tmp_path / "elsewhere" / "p")})
    with pytest.raises(base.StorageError, match="No such file"):
        account.put("box", "x", [b""])
    assert not (tmp_path / "elsewhere").exists()


def test_store_is_chosen_by_the_configuration(tmp_path: pathlib.Path) -> None:
    conf = trove_conf.new()
    conf([], project="trove", default_config_files=[], default_config_dirs=[])
    assert factory.load(conf) is None
    conf.set_override("driver", "filesystem", "storage")
    conf.set_override("filesystem_directory", str(tmp_path / "o"), "storage")
    store = factory.load(conf)
    assert isinstance(store, filesystem.FilesystemStore)
    assert store.grant("p", container="c", prefix="p") == {"directory": str(tmp_path / "o" / "p")}
    conf.set_override("driver", "tape", "storage")
    with pytest.raises(exception.ConfigurationError, match="filesystem, s3, swift can be chosen"):
        factory.load(conf)
