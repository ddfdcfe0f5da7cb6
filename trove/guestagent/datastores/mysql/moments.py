"""When the server wrote which part of its binary log.

The log itself knows whole seconds only, of when a statement began, and sessions may lie about them.
So the file is watched while it grows: how large it was when it was written to last. An idle server
costs nothing. What was written while nobody watched is known by the second.
"""

from __future__ import annotations

import array
import bisect
import dataclasses
import os
import pathlib
import re
import struct
import threading
import time
from collections.abc import Sequence

from oslo_log import log

from trove.guestagent.datastores.mysql import binlog
from trove.guestagent.system import watches

LOG = log.getLogger(__name__)

#: Looks a second that are taken at once; on a busier log there is a pause between two.
_LOOKS = 100
_PAUSE_S = 0.01
#: By how much the time of a change of a file is behind at most. The kernel moves it on at its
#: ticks, by whole ticks: one may have gone by since, and nearly one be left over (clock_getres(2);
#: timekeeping_advance in kernel/time/timekeeping.c).
_REALTIME_COARSE = 5
_BEHIND_US = int(2 * time.clock_getres(_REALTIME_COARSE) * 1e6)
_WAKE_S = 10.0
#: Seconds after which nobody seems to want to know any more.
_UNUSED_S = 180.0
#: Most moments of a file; beyond them every other one is forgotten.
_MOST = 32768
_PACKED = struct.Struct("<HBQQ")
_FILE = re.compile(rf"{binlog.BASE_NAME}\.\d{{6,}}\Z")


@dataclasses.dataclass(frozen=True, slots=True)
class Moment:
    """The log up to ``offset`` was written by ``time_us``, the rest later.

    ``is_late``: nobody watched before, so that it may have been written much earlier.
    """

    offset: int
    time_us: int
    is_late: bool


def pack(moments: Sequence[tuple[int, Moment]]) -> bytes:
    """Return moments, each with the number of a range of the log, as bytes."""
    return b"".join(
        _PACKED.pack(number, moment.is_late, moment.offset, moment.time_us)
        for number, moment in moments
    )


def unpack(data: bytes) -> list[tuple[int, Moment]]:
    """Return the moments that :func:`pack` made bytes of."""
    whole = len(data) // _PACKED.size * _PACKED.size
    return [
        (number, Moment(offset, time_us, bool(is_late)))
        for number, is_late, offset, time_us in _PACKED.iter_unpack(data[:whole])
    ]


class _File:
    """The moments of one file, in the order of offsets."""

    def __init__(self) -> None:
        self.offsets = array.array("Q")
        self.times = array.array("Q")
        self.late = bytearray()

    def add(self, offset: int, time_us: int, *, is_late: bool) -> None:
        if self.offsets and offset <= self.offsets[-1]:
            return
        self.offsets.append(offset)
        self.times.append(time_us)
        self.late.append(is_late)
        if len(self.offsets) > _MOST:
            self._thin()

    def _thin(self) -> None:
        last = len(self.offsets) - 1
        kept = [i for i in range(last + 1) if i % 2 or self.late[i] or i == last]
        self.offsets = array.array("Q", (self.offsets[i] for i in kept))
        self.times = array.array("Q", (self.times[i] for i in kept))
        self.late = bytearray(self.late[i] for i in kept)

    def within(self, start: int, end: int) -> list[Moment]:
        """Return the moments behind ``start``, up to the first one that is not before ``end``."""
        first = bisect.bisect_right(self.offsets, start)
        last = bisect.bisect_left(self.offsets, end) + 1
        return [
            Moment(self.offsets[i], self.times[i], bool(self.late[i]))
            for i in range(first, min(last, len(self.offsets)))
        ]


class _Pace:
    """Counts looks, of which so many a second are allowed."""

    def __init__(self) -> None:
        self._left = float(_LOOKS)
        self._last_s = time.monotonic()

    def is_exceeded(self) -> bool:
        """Count a look; tell whether there were too many."""
        now_s = time.monotonic()
        self._left = min(_LOOKS, self._left + (now_s - self._last_s) * _LOOKS)
        self._last_s = now_s
        self._left = max(0.0, self._left - 1)
        return self._left < 1


class Moments:
    """Watches the newest file of the log in a directory."""

    def __init__(self, directory: pathlib.Path) -> None:
        """Take the data directory; :meth:`ensure_watching` begins."""
        self._directory = directory
        self._place = os.fspath(directory)
        self._lock = threading.Lock()
        self._files: dict[int, _File] = {}
        self._thread: threading.Thread | None = None
        self._end = threading.Event()
        self._used = 0.0

    def ensure_watching(self) -> None:
        """Watch, unless somebody does."""
        self._used = time.monotonic()
        if self._thread is not None and self._thread.is_alive() and not self._end.is_set():
            return
        self._end = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(self._end,), name="log-moments", daemon=True
        )
        self._thread.start()

    def within(self, number: int, start: int, end: int) -> list[Moment]:
        """Return the moments of a file between two positions, and the first one behind them."""
        with self._lock:
            is_watched = number in self._files
        if is_watched:
            # who watches may be behind on a busy machine; the file says when it was written to
            self._note(number, is_late=False)
        with self._lock:
            known = self._files.get(number)
            return known.within(start, end) if known is not None else []

    def forget(self, number: int) -> None:
        """Forget the files before one."""
        with self._lock:
            for each in [each for each in self._files if each < number]:
                del self._files[each]

    def close(self) -> None:
        """Watch no longer, and forget everything; may be called again."""
        self._end.set()
        with self._lock:
            self._files.clear()

    # -- the thread -----

    def _run(self, end: threading.Event) -> None:
        try:
            with watches.Watcher() as watcher:
                self._watch(watcher, end)
        except Exception:
            # times are known by the second then
            LOG.warning("the binary log is not watched any more", exc_info=True)

    def _newest(self) -> int | None:
        names = [path.name for path in self._directory.glob(f"{binlog.BASE_NAME}.[0-9]*")]
        numbers = [binlog.number_of(name) for name in names if _FILE.match(name)]
        return max(numbers, default=None)

    def _watch(self, watcher: watches.Watcher, end: threading.Event) -> None:
        watcher.add(self._directory, watches.CREATED | watches.MOVED_HERE)
        pace = _Pace()
        number = self._newest()
        watch = self._begin(watcher, number, is_late=True)
        while not end.is_set() and time.monotonic() - self._used < _UNUSED_S:
            changes = watcher.wait(_WAKE_S)
            if end.is_set() or not self._directory.is_dir():
                break
            if number is not None:
                self._note(number, is_late=False)
            if any(change.name and _FILE.match(change.name) for change in changes):
                newest = self._newest()
                while newest is not None and (number is None or number < newest):
                    if watch is not None:
                        watcher.remove(watch)
                    number = newest if number is None else number + 1
                    watch = self._begin(watcher, number, is_late=False)
            if changes and pace.is_exceeded():
                end.wait(_PAUSE_S)

    def _begin(self, watcher: watches.Watcher, number: int | None, *, is_late: bool) -> int | None:
        if number is None:
            return None
        try:
            watch = watcher.add(self._directory / binlog.name_of(number), watches.MODIFIED)
        except FileNotFoundError:
            return None
        self._note(number, is_late=is_late)
        return watch

    def _note(self, number: int, *, is_late: bool) -> None:
        try:
            status = os.stat(f"{self._place}/{binlog.name_of(number)}")
        except FileNotFoundError:
            return
        # never earlier than it was, later by a moment at most
        time_us = min(status.st_mtime_ns // 1000 + _BEHIND_US, time.time_ns() // 1000)
        with self._lock:
            known = self._files.setdefault(number, _File())
            known.add(status.st_size, time_us, is_late=is_late)
