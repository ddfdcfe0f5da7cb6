"""The data volume of an instance, on loop devices where this machine lets us have them."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from trove.common import exception
from trove.guestagent import state, volume
from trove.guestagent.system import blockdevices, mounts, users

VOLUME_ID = "0f8fad5b-d9cb-469f-a165-70867728950e"
_MIB = 1 << 20


def _run(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()


def _can_use_loop_devices() -> bool:
    if os.geteuid() != 0 or not all(map(shutil.which, ("losetup", "mkfs.ext4", "blkid"))):
        return False
    return subprocess.run(["losetup", "--find"], capture_output=True, check=False).returncode == 0


needs_loop_devices = pytest.mark.skipif(
    not _can_use_loop_devices(), reason="needs root and loop devices"
)


def _can_resize_online() -> bool:
    """Tell whether we have CAP_SYS_RESOURCE, which containers are often denied."""
    status = pathlib.Path("/proc/self/status").read_text(encoding="ascii")
    line = next(line for line in status.splitlines() if line.startswith("CapEff:"))
    return bool(int(line.split()[1], 16) >> 24 & 1)


class Disk:
    """A volume of Cinder's: a file that a loop device shows, unless it is detached."""

    def __init__(self, path: pathlib.Path, size_bytes: int) -> None:
        """Attach a blank volume."""
        self.path = path
        with open(path, "wb") as stream:
            stream.truncate(size_bytes)
        self.device: pathlib.Path | None = None
        self.attach()

    def attach(self) -> None:
        self.device = pathlib.Path(_run("losetup", "--find", "--show", str(self.path)))

    def detach(self) -> None:
        if self.device is not None:
            subprocess.run(["losetup", "--detach", str(self.device)], check=True)
            self.device = None

    def extend(self, size_bytes: int) -> None:
        os.truncate(self.path, size_bytes)
        if self.device is not None:
            _run("losetup", "--set-capacity", str(self.device))

    def find(self, volume_id: str) -> pathlib.Path | None:
        return self.device if volume_id == VOLUME_ID else None


class Guest:
    """An agent's directories and its volume."""

    def __init__(self, root: pathlib.Path, disk: Disk) -> None:
        """Begin as an instance that was never prepared."""
        self.disk = disk
        self.layout = state.Layout(
            state_dir=root / "state", mount_point=root / "data", engine_user=users.current()
        )
        self.layout.make_state()
        self.store = state.Store(self.layout)

    def open(self, *, must_hold_data: bool = False) -> volume.DataVolume:
        """Return the volume as an agent that starts now has it."""
        return volume.DataVolume(
            self.layout.mount_point,
            volume_id=VOLUME_ID,
            store=self.store,
            must_hold_data=must_hold_data,
            find_device=self.disk.find,
            patience_s=0.0,
        )


@pytest.fixture
def guest(tmp_path: pathlib.Path) -> Iterator[Guest]:
    made = Guest(tmp_path, Disk(tmp_path / "disk", 32 * _MIB))
    yield made
    if made.layout.mount_point.is_mount():
        mounts.unmount(made.layout.mount_point)
    made.disk.detach()


@needs_loop_devices
def test_blank_volume_gets_a_file_system_once(guest: Guest) -> None:
    opened = guest.open()
    assert not opened.is_ready
    opened.ensure()
    assert opened.is_ready
    options = _run("findmnt", "-no", "OPTIONS", str(guest.layout.mount_point)).split(",")
    assert {"noatime", "nodev", "nosuid", "noexec"} <= set(options)
    (guest.layout.mount_point / "row").write_text("data")
    mounts.unmount(guest.layout.mount_point)
    guest.open().ensure()
    assert (guest.layout.mount_point / "row").read_text() == "data"


@needs_loop_devices
@pytest.mark.parametrize("how", ["formatted before", "later server"])
def test_blank_volume_that_should_hold_data_is_left_alone(guest: Guest, how: str) -> None:
    if how == "formatted before":
        guest.open().ensure()
        mounts.unmount(guest.layout.mount_point)
        guest.disk.detach()
        guest.disk = Disk(guest.disk.path.with_name("other"), 32 * _MIB)
    opened = guest.open(must_hold_data=how == "later server")
    with pytest.raises(exception.GuestError, match="blank"):
        opened.ensure()
    assert "blank" in str(opened.problem)
    assert guest.disk.device is not None
    assert blockdevices.find_signature(guest.disk.device) is None
    assert not list(guest.layout.mount_point.glob("*"))


@needs_loop_devices
@pytest.mark.parametrize("content", ["swap", "partitions", "unclear"])
def test_volume_with_anything_else_on_it_is_never_formatted(guest: Guest, content: str) -> None:
    device = str(guest.disk.device)
    if content == "swap":
        _run("mkswap", device)
    elif content == "partitions":
        subprocess.run(["sfdisk", "-q", device], input=b"label: gpt\n", check=True)
    else:
        _run("mkswap", device)
        # both at once: neither reader may take it for blank
        with open(device, "r+b") as stream:
            stream.seek(0)
            stream.write(b"XFSB" + bytes(508))
    _run("sync", "--file-system", device)
    before = _run("sha256sum", str(guest.disk.path))
    with pytest.raises(exception.GuestError, match="instead of ext4"):
        guest.open().ensure()
    assert _run("sha256sum", str(guest.disk.path)) == before


@needs_loop_devices
def test_missing_device_is_told_and_nothing_is_written_in_its_place(guest: Guest) -> None:
    guest.disk.detach()
    opened = guest.open()
    with pytest.raises(exception.GuestError, match="not attached"):
        opened.ensure(is_patient=False)
    assert VOLUME_ID in str(opened.problem)
    assert not guest.layout.mount_point.exists()
    guest.disk.attach()
    opened.ensure(is_patient=False)
    assert opened.problem is None


@needs_loop_devices
@pytest.mark.skipif(not _can_resize_online(), reason="needs CAP_SYS_RESOURCE")
def test_file_system_grows_while_it_is_mounted(guest: Guest) -> None:
    opened = guest.open()
    opened.ensure()
    before = os.statvfs(guest.layout.mount_point).f_blocks
    guest.disk.extend(1 << 30)
    opened.grow(1)
    assert os.statvfs(guest.layout.mount_point).f_blocks > before * 8
    with pytest.raises(exception.GuestError, match="1 GiB instead of 2 GiB"):
        opened.grow(2)


@needs_loop_devices
def test_volume_is_let_go_of_and_taken_again_larger(guest: Guest) -> None:
    opened = guest.open()
    opened.ensure()
    (guest.layout.mount_point / "row").write_text("data")
    opened.release()
    opened.release()
    assert not opened.is_ready
    # neither this agent nor its successor takes it back by itself
    for agent in (opened, guest.open()):
        with pytest.raises(exception.GuestError, match="let go of"):
            agent.ensure()
    guest.disk.detach()
    size_gib = 1 if _can_resize_online() else 0
    guest.disk.extend(max(32 * _MIB, size_gib << 30))
    guest.disk.attach()
    opened.take(VOLUME_ID, size_gib=size_gib)
    opened.take(VOLUME_ID, size_gib=size_gib)
    assert (guest.layout.mount_point / "row").read_text() == "data"
    if size_gib:
        assert os.statvfs(guest.layout.mount_point).f_blocks * 4096 > 800 * _MIB
    assert guest.open().is_ready


@needs_loop_devices
def test_volume_in_use_is_not_let_go_of(guest: Guest) -> None:
    opened = guest.open()
    opened.ensure()
    with (
        open(guest.layout.mount_point / "open", "w"),
        pytest.raises(exception.GuestError, match="busy"),
    ):
        opened.release()
    assert opened.is_ready


@needs_loop_devices
def test_taking_a_blank_volume_fails(guest: Guest) -> None:
    with pytest.raises(exception.GuestError, match="blank"):
        guest.open().take(VOLUME_ID, size_gib=0)


def test_instance_without_a_volume_has_a_directory(tmp_path: pathlib.Path) -> None:
    layout = state.Layout(
        state_dir=tmp_path / "state", mount_point=tmp_path / "data", engine_user=users.current()
    )
    layout.make_state()
    opened = volume.DataVolume(
        layout.mount_point, volume_id=None, store=state.Store(layout), must_hold_data=True
    )
    opened.ensure()
    opened.grow(5)
    opened.release()
    opened.take("any", size_gib=5)
    assert opened.is_ready
    assert opened.problem is None


def test_device_is_found_by_the_beginning_of_the_id(tmp_path: pathlib.Path) -> None:
    block, dev = tmp_path / "block", tmp_path / "dev"
    for name, serial in (("vda", ""), ("vdb", VOLUME_ID[:20]), ("vdc", "something else")):
        (block / name).mkdir(parents=True)
        (block / name / "serial").write_text(f"{serial}\n")
    links = dev / "disk" / "by-id"
    links.mkdir(parents=True)
    (links / f"virtio-{VOLUME_ID[:20]}").symlink_to("../../vdb")
    (links / f"virtio-{VOLUME_ID[:20]}-part1").symlink_to("../../vdb1")
    found = blockdevices.find_by_volume(VOLUME_ID, block=block, dev=dev)
    assert found == dev / "vdb"
    assert blockdevices.find_by_volume("1" * 36, block=block, dev=dev) is None
    (links / f"scsi-0QEMU_QEMU_HARDDISK_{VOLUME_ID}").symlink_to("../../sda")
    with pytest.raises(OSError, match="several devices"):
        blockdevices.find_by_volume(VOLUME_ID, block=block, dev=dev)
