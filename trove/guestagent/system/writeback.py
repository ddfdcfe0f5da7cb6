"""Having a disk take what is written below a directory while more of it comes.

The kernel by itself begins late, and who then waits for everything to be durable waits for the disk
alone. Nothing is made durable here, and no error is taken from whoever sees to that: the disk is
asked to begin (sync_file_range(2)), file by file, so that others on it are not waited for.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pathlib
import threading
import time
from collections.abc import Iterator

from oslo_log import log

LOG = log.getLogger(__name__)

#: Between two looks; longer where a look takes long.
_PAUSE_S = 0.3
_PAUSES_OF_LOOKS = 20
#: By how much the time of a file may be behind the clock.
_COARSE_NS = 20_000_000
#: SYNC_FILE_RANGE_WRITE (linux/fs.h).
_BEGIN = 2
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@contextlib.contextmanager
def running(directory: pathlib.Path) -> Iterator[None]:
    """Have the disk take what is written below a directory, which need not exist yet."""
    end = threading.Event()
    thread = threading.Thread(target=_run, args=(directory, end), name="writeback", daemon=True)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


def _run(directory: pathlib.Path, end: threading.Event) -> None:
    since_ns, pause_s = 0, _PAUSE_S
    while not end.wait(pause_s):
        began_ns, began_s = time.time_ns(), time.monotonic()
        try:
            begin(directory, since_ns=since_ns)
        except OSError as e:
            # it takes longer, and nothing else: who makes it durable finds out what is wrong
            LOG.info("the disk is not asked to begin any more: %s", e)
            return
        since_ns = began_ns - _COARSE_NS
        pause_s = max(_PAUSE_S, _PAUSES_OF_LOOKS * (time.monotonic() - began_s))


def begin(directory: pathlib.Path, *, since_ns: int) -> None:
    """Have the disk begin with the files below a directory that were written since a moment.

    Does not wait for it. Files that vanish do not count; raises OSError.
    """
    pending = [os.fspath(directory)]
    while pending:
        with contextlib.suppress(FileNotFoundError), os.scandir(pending.pop()) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
                    elif _is_new_file(entry, since_ns):
                        _begin_file(entry.path)


def _is_new_file(entry: os.DirEntry[str], since_ns: int) -> bool:
    is_file = entry.is_file(follow_symlinks=False)
    return is_file and entry.stat(follow_symlinks=False).st_mtime_ns >= since_ns


def _begin_file(path: str) -> None:
    descriptor = os.open(path, _OPEN)
    try:
        whole = ctypes.c_int64(0), ctypes.c_int64(0)
        if ctypes.CDLL(None, use_errno=True).sync_file_range(descriptor, *whole, _BEGIN) != 0:
            raise OSError(ctypes.get_errno(), "sync_file_range failed", path)
    finally:
        os.close(descriptor)
