"""What is written below a directory is on its way to the disk before anybody waits for it."""

from __future__ import annotations

import ctypes
import errno
import os
import pathlib

import pytest

from tests.fixtures.waiting import wait_until
from trove.guestagent.system import writeback

#: Number of cachestat(2), the same on all architectures; from Linux 6.5 on.
_CACHESTAT = 451
_UNKNOWN = "the file system is in memory, or the kernel does not tell what is dirty"


def _dirty_pages(path: pathlib.Path) -> int | None:
    """Return how many pages of a file the disk has not been given; None: nobody knows."""
    told = (ctypes.c_uint64 * 5)()
    descriptor = os.open(path, os.O_RDONLY)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        whole = (ctypes.c_uint64 * 2)()
        if libc.syscall(_CACHESTAT, descriptor, ctypes.byref(whole), ctypes.byref(told), 0) != 0:
            assert ctypes.get_errno() in (errno.ENOSYS, errno.EOPNOTSUPP)
            return None
    finally:
        os.close(descriptor)
    return int(told[1])


def test_disk_begins_while_more_is_written(tmp_path: pathlib.Path) -> None:
    made = tmp_path / "made"
    with writeback.running(made):
        (made / "below").mkdir(parents=True)
        file = made / "below" / "table"
        file.write_bytes(b"x" * 2**20)
        if not _dirty_pages(file):
            pytest.skip(_UNKNOWN)
        # the kernel by itself begins after half a minute
        wait_until(lambda: _dirty_pages(file) == 0, timeout_s=20)


def test_only_plain_files_are_touched_that_were_written_since(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    for file in (old, new):
        file.write_bytes(b"x")
    os.utime(old, ns=(0, 0))
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to(old)
    begun: list[str] = []
    monkeypatch.setattr(writeback, "_begin_file", begun.append)
    writeback.begin(tmp_path, since_ns=1)
    assert begun == [str(new)]
    writeback.begin(tmp_path / "none", since_ns=0)


def test_disk_that_cannot_be_asked_costs_time_alone(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def refuse(path: str) -> None:
        asked.append(path)
        raise OSError(errno.EIO, "no")

    monkeypatch.setattr(writeback, "_begin_file", refuse)
    (tmp_path / "file").write_bytes(b"x")
    with writeback.running(tmp_path):
        wait_until(lambda: asked, timeout_s=20)
    assert len(asked) == 1
