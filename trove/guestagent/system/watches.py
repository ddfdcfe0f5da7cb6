"""Being told when files change (inotify(7)), so that nobody has to look again and again."""

from __future__ import annotations

import ctypes
import dataclasses
import os
import pathlib
import select
import struct
from typing import Self

MODIFIED = 0x2
MOVED_HERE = 0x80
CREATED = 0x100
_EVENT = struct.Struct("iIII")
_MOST_BYTES = 65536


@dataclasses.dataclass(frozen=True, slots=True)
class Change:
    """What changed: the number of a watch, and a name when it is one of a directory."""

    watch: int
    name: str


class Watcher:
    """Watches files and directories; a context manager."""

    def __init__(self) -> None:
        """Begin; raises OSError."""
        self._library = ctypes.CDLL(None, use_errno=True)
        self._descriptor = self._library.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._descriptor < 0:
            raise OSError(ctypes.get_errno(), "files cannot be watched")
        self._poller = select.poll()
        self._poller.register(self._descriptor, select.POLLIN)

    def add(self, path: pathlib.Path, changes: int) -> int:
        """Watch a file or a directory for changes; returns the watch's number. Raises OSError."""
        number = self._library.inotify_add_watch(self._descriptor, os.fsencode(path), changes)
        if number < 0:
            raise OSError(ctypes.get_errno(), "the file cannot be watched", os.fspath(path))
        return int(number)

    def remove(self, number: int) -> None:
        """Watch no longer; nothing when what was watched is gone."""
        self._library.inotify_rm_watch(self._descriptor, number)

    def wait(self, timeout_s: float) -> list[Change]:
        """Return what changed, as soon as something did; nothing after a time."""
        if not self._poller.poll(timeout_s * 1000):
            return []
        data = os.read(self._descriptor, _MOST_BYTES)
        found = []
        offset = 0
        while offset < len(data):
            watch, _, _, name_bytes = _EVENT.unpack_from(data, offset)
            offset += _EVENT.size
            name = data[offset : offset + name_bytes].rstrip(b"\0") if name_bytes else b""
            found.append(Change(watch, os.fsdecode(name)))
            offset += name_bytes
        return found

    def close(self) -> None:
        """End; may be called again."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        """Give the watcher."""
        return self

    def __exit__(self, *exc: object) -> None:
        """End."""
        self.close()
