"""Volumes as directories."""

from __future__ import annotations

import os
import pathlib
import stat

import pytest
from oslo_config import cfg

from trove.common import exception
from trove.drivers.volume import base
from trove.drivers.volume.local import LocalVolume


def _create(conf: cfg.ConfigOpts, instance_id: str, *, size_gib: int = 1) -> base.Volume:
    return LocalVolume(conf).create_volume(
        instance_id=instance_id, size_gib=size_gib, volume_type=None, project_id="p"
    )


def _path(conf: cfg.ConfigOpts) -> pathlib.Path:
    return pathlib.Path(conf.local.state_dir) / "volumes"


def test_a_volume_is_made_once_and_remembers_its_size(conf: cfg.ConfigOpts) -> None:
    made = _create(conf, "i1")
    (_path(conf) / "i1" / "data").write_text("rows")
    assert _create(conf, "i1", size_gib=3) == made
    assert LocalVolume(conf).find_volume("i1") == made
    assert LocalVolume(conf).list_volumes() == [made]
    assert (_path(conf) / "i1" / "data").read_text() == "rows"
    assert made.status == "available"


def test_others_may_pass_through_to_the_data_but_not_look(conf: cfg.ConfigOpts) -> None:
    _create(conf, "i1")
    for path in (_path(conf), _path(conf) / "i1"):
        assert path.stat().st_mode & 0o777 == 0o711


def test_delete_removes_the_data_and_may_be_repeated(conf: cfg.ConfigOpts) -> None:
    volume = _create(conf, "i1")
    (_path(conf) / "i1" / "data").mkdir()
    LocalVolume(conf).delete_volume(volume.id)
    LocalVolume(conf).delete_volume(volume.id)
    assert LocalVolume(conf).find_volume("i1") is None
    assert list(_path(conf).iterdir()) == []


def test_too_little_space_is_said_with_path_and_figures(conf: cfg.ConfigOpts) -> None:
    with pytest.raises(
        exception.DriverError, match=r"needs 10000000\.0 GiB free in .*volumes.*are"
    ):
        _create(conf, "i1", size_gib=10_000_000)
    assert LocalVolume(conf).list_volumes() == []


def test_a_lost_directory_and_a_half_made_one_are_seen(conf: cfg.ConfigOpts) -> None:
    _create(conf, "lost")
    (_path(conf) / "lost").rmdir()
    (_path(conf) / "half").mkdir()
    seen = {volume.id: volume.status for volume in LocalVolume(conf).list_volumes()}
    assert seen == {"lost": "error", "half": "creating"}
    assert _create(conf, "half").status == "available"


def test_a_state_directory_that_cannot_be_made_is_named(
    conf: cfg.ConfigOpts, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "file").write_text("")
    conf.set_override("state_dir", str(tmp_path / "file" / "s"), group="local")
    with pytest.raises(exception.DriverError, match=str(tmp_path / "file")):
        _create(conf, "i1")


def test_the_types_are_those_of_the_configuration(conf: cfg.ConfigOpts) -> None:
    assert LocalVolume(conf).list_volume_types() == []
    conf.set_override("volume_types", ["slow", "fast:solid state: quick"], group="local")
    slow, fast = LocalVolume(conf).list_volume_types()
    assert (slow.id, slow.name, slow.description) == ("slow", "slow", None)
    assert (fast.name, fast.description) == ("fast", "solid state: quick")


def test_a_snapshot_holds_what_was_there_with_modes_and_links(conf: cfg.ConfigOpts) -> None:
    volume = _create(conf, "i1")
    driver = LocalVolume(conf)
    data = pathlib.Path(conf.local.state_dir) / "volumes" / volume.id / "data"
    data.mkdir(mode=0o700)
    (data / "rows").write_text("before")
    (data / "rows").chmod(0o640)
    (data / "link").symlink_to("rows")
    snapshot = driver.create_snapshot(volume_id=volume.id, owner_id="b1")
    (data / "rows").write_text("after")
    assert LocalVolume(conf).create_snapshot(volume_id=volume.id, owner_id="b1") == snapshot
    driver.delete_volume(volume.id)

    driver.create_volume(
        instance_id="i2", size_gib=1, volume_type=None, project_id="p", snapshot_id="b1"
    )
    copy = data.parents[1] / "i2" / "data"
    assert (copy / "rows").read_text() == "before"
    assert stat.S_IMODE((copy / "rows").stat().st_mode) == 0o640
    assert stat.S_IMODE(copy.stat().st_mode) == 0o700
    assert (copy / "link").is_symlink()
    with pytest.raises(exception.DriverError, match="is of 1 GiB"):
        driver.create_volume(
            instance_id="i3", size_gib=0, volume_type=None, project_id="p", snapshot_id="b1"
        )


def test_what_a_killed_copy_left_is_neither_seen_nor_kept(conf: cfg.ConfigOpts) -> None:
    volume = _create(conf, "i1")
    driver = LocalVolume(conf)
    snapshots = pathlib.Path(conf.local.state_dir) / "snapshots"
    (snapshots / ".b1.part").mkdir(parents=True)
    (snapshots / ".b1.part" / "half").touch()
    assert driver.find_snapshot("b1") is None
    driver.create_snapshot(volume_id=volume.id, owner_id="b1")
    assert sorted(os.listdir(snapshots)) == ["b1", "b1.json"]
    assert not (snapshots / "b1" / "half").exists()
    driver.delete_snapshot("b1")
    assert os.listdir(snapshots) == []
