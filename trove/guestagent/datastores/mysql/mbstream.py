"""The format of mariabackup's streams: files in chunks, checked as they go by.

A tool that stops short between two chunks, or writes nothing at all, leaves something that mbstream
unpacks without a complaint. So all that passes is followed here: every file must have its end. The
format is that of extra/mariabackup/xbstream.h in MariaDB's source.
"""

from __future__ import annotations

import struct
from collections.abc import Collection

from trove.common import exception

_MAGIC = b"XBSTCK01"
#: Magic, flags, type, length of the path.
_HEAD = struct.Struct("<8sBcI")
#: Length, offset in the file, checksum.
_PAYLOAD = struct.Struct("<QQI")
_LONGEST_PATH_BYTES = 4096
_LONGEST_FILE_KEPT_BYTES = 65536


class Follower:
    """Follows a stream; keeps the content of some small files in it."""

    def __init__(self, *, kept: Collection[str] = ()) -> None:
        """Take the paths of the files whose content is wanted."""
        self.files: dict[str, bytes] = {}
        self._kept = frozenset(kept)
        self._buffer = b""
        #: Bytes of the current payload that are still to come, and of which file.
        self._left = 0
        self._path = ""
        self._open: set[str] = set()
        self._ended: set[str] = set()

    def feed(self, data: bytes) -> None:
        """Take the next bytes; raises GuestError when they are not of such a stream."""
        view = memoryview(data)
        while view:
            if self._left:
                piece = view[: self._left]
                self._keep(piece)
                self._left -= len(piece)
                view = view[len(piece) :]
                continue
            taken = self._take_head(view)
            view = view[taken:]

    def _keep(self, piece: memoryview) -> None:
        if self._path in self._kept:
            content = self.files.get(self._path, b"") + piece
            self.files[self._path] = content[:_LONGEST_FILE_KEPT_BYTES]

    def _take_head(self, view: memoryview) -> int:
        """Take what is missing of a chunk's head; returns how many bytes that was."""
        wanted = self._wanted()
        taken = min(len(view), wanted - len(self._buffer))
        self._buffer += bytes(view[:taken])
        if len(self._buffer) == self._wanted():
            self._begin_chunk()
        return taken

    def _wanted(self) -> int:
        """Return how long the head is, as far as is known."""
        if len(self._buffer) < _HEAD.size:
            return _HEAD.size
        magic, _, kind, path_bytes = _HEAD.unpack_from(self._buffer)
        if magic != _MAGIC or not 0 < path_bytes <= _LONGEST_PATH_BYTES or kind not in b"PE":
            raise exception.GuestError(reason="the stream of the backup is damaged")
        return _HEAD.size + path_bytes + (_PAYLOAD.size if kind == b"P" else 0)

    def _begin_chunk(self) -> None:
        _, _, kind, path_bytes = _HEAD.unpack_from(self._buffer)
        end = _HEAD.size + path_bytes
        path = self._buffer[_HEAD.size : end].decode("utf-8", "surrogateescape")
        if path.startswith("/") or ".." in path.split("/"):
            raise exception.GuestError(reason="the stream of the backup leads out of its place")
        if path in self._ended:
            raise exception.GuestError(reason="the stream of the backup has a file twice")
        self._path = path
        if kind == b"P":
            self._left = _PAYLOAD.unpack_from(self._buffer, end)[0]
            self._open.add(path)
        else:
            self._open.discard(path)
            self._ended.add(path)
        self._buffer = b""

    def finish(self, *, required: Collection[str]) -> None:
        """Raise GuestError unless the stream had its end, with these files in it."""
        if self._left or self._buffer or self._open:
            raise exception.GuestError(reason="the stream of the backup ended in the middle")
        missing = sorted(set(required) - self._ended)
        if missing:
            raise exception.GuestError(
                reason=f"the stream of the backup ended too early: {', '.join(missing)} is missing"
            )
