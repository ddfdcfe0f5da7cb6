"""The config drive: how it is recognised, and what is taken from it."""

from __future__ import annotations

import json
import pathlib

import pytest

from trove.guestagent.boot import configdrive, errors

DOCUMENT = {"trove": 1, "files": {"guest.conf": "secret text", "instance.key": "a key"}}


def _iso(path: pathlib.Path, label: bytes) -> None:
    image = bytearray(64 * 1024)
    image[32769:32774] = b"CD001"
    image[32808:32840] = label.ljust(32)
    path.write_bytes(image)


def _fat(path: pathlib.Path, label: bytes, at: int) -> None:
    image = bytearray(64 * 1024)
    image[at : at + 11] = label.ljust(11)
    path.write_bytes(image)


def test_drive_is_recognised_by_its_label(tmp_path: pathlib.Path) -> None:
    _iso(tmp_path / "iso", b"config-2")
    _fat(tmp_path / "fat16", b"CONFIG-2", 43)
    _fat(tmp_path / "fat32", b"config-2", 71)
    _iso(tmp_path / "other", b"Debian 12")
    (tmp_path / "short").write_bytes(b"x")
    names = [path.name for path in sorted(tmp_path.iterdir()) if configdrive.has_label(path)]
    assert names == ["fat16", "fat32", "iso"]
    assert not configdrive.has_label(tmp_path / "missing")


def test_drive_is_found_among_devices(tmp_path: pathlib.Path) -> None:
    block, dev = tmp_path / "block", tmp_path / "dev"
    dev.mkdir()
    for name in ("vda", "vdb", "sr0", "loop0"):
        (block / name).mkdir(parents=True)
        (dev / name).write_bytes(bytes(4096))
    assert configdrive.find(block, dev) is None
    _iso(dev / "vdb", b"config-2")
    assert configdrive.find(block, dev) == dev / "vdb"


def _write(root: pathlib.Path, user_data: object, meta: object = None) -> pathlib.Path:
    latest = root / "openstack" / "latest"
    latest.mkdir(parents=True, exist_ok=True)
    (latest / "meta_data.json").write_text(json.dumps(meta or {"uuid": "u", "hostname": "db"}))
    (latest / "user_data").write_text(json.dumps(user_data))
    return root


def test_files_are_read(tmp_path: pathlib.Path) -> None:
    drive = configdrive.read(_write(tmp_path, DOCUMENT))
    assert (drive.server_id, drive.hostname) == ("u", "db")
    assert drive.files == DOCUMENT["files"]
    assert "secret" not in repr(drive)


@pytest.mark.parametrize(
    "user_data",
    [
        {},
        {"trove": 2, "files": {}},
        {"trove": 1, "files": {"../etc/shadow": "x"}},
        {"trove": 1, "files": {"a/b": "x"}},
        {"trove": 1, "files": {".hidden": "x"}},
        {"trove": 1, "files": {"guest.conf": 1}},
        [],
    ],
)
def test_other_user_data_is_refused(tmp_path: pathlib.Path, user_data: object) -> None:
    with pytest.raises(errors.BootError):
        configdrive.read(_write(tmp_path, user_data))


def test_broken_user_data_is_not_shown(tmp_path: pathlib.Path) -> None:
    _write(tmp_path, {})
    (tmp_path / "openstack/latest/user_data").write_text("secret but no JSON")
    with pytest.raises(errors.BootError) as told:
        configdrive.read(tmp_path)
    assert "secret" not in str(told.value)
