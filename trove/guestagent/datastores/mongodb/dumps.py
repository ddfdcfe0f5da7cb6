"""What a backup of MongoDB is as bytes.

``mongodump`` writes an archive: what collections there are, then blocks of documents of each, and
for each an end with a checksum. The oplog of the time that this took follows it, read by the agent:
so it is known exactly where it ends. Both are in frames, each a letter and a length, and the last
one says how many there were.

``mongorestore`` replays an oplog that is part of its archive, and makes indexes only after that. So
a restore gives it one archive: the list of collections has the oplog added to it, and the entries,
those of the shipped log too, go behind all other blocks. Nothing is put on a disk in between.

Format of archives: https://github.com/mongodb/mongo-tools (common/archive), version 0.1.
"""

from __future__ import annotations

import ctypes
import dataclasses
import json
import struct
from collections.abc import Callable, Iterator
from typing import Any

import bson

from trove.common import exception

MAGIC = b"TROVEMDB"
ARCHIVE = b"A"
OPLOG = b"O"
END = b"E"
_FRAME = struct.Struct(">cI")
_MOST_FRAME_BYTES = 64 * 1024 * 1024
#: Of an archive of mongodump.
_ARCHIVE_MAGIC = struct.pack("<I", 0x8199E26D)
_TERMINATOR = b"\xff\xff\xff\xff"
_MOST_PRELUDE_BYTES = 256 * 1024 * 1024
_BLOCK_BYTES = 512 * 1024
#: How the head of a block says that its collection ends (BSON of ``EOF: true, CRC: <int64>``).
_END_OF_COLLECTION = b"\x08EOF\x00\x01\x12CRC\x00"
_TAIL_BYTES = 4096


def frame(kind: bytes, data: bytes) -> bytes:
    """Return a frame."""
    return _FRAME.pack(kind, len(data)) + data


def frames(read: Callable[[int], bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Return the frames of a backup that is read in parts, the last one too.

    Raises GuestError for what is none, or has no end.
    """
    if _exactly(read, len(MAGIC)) != MAGIC:
        raise exception.GuestError(reason="the backup is none of MongoDB")
    counts = {ARCHIVE: 0, OPLOG: 0}
    while True:
        kind, size = _FRAME.unpack(_exactly(read, _FRAME.size))
        if kind not in (ARCHIVE, OPLOG, END) or size > _MOST_FRAME_BYTES:
            raise exception.GuestError(reason="the backup is damaged: a frame makes no sense")
        data = _exactly(read, size)
        if kind == END:
            try:
                told = json.loads(data)
            except ValueError:
                told = None
            if told != summary(counts[ARCHIVE], counts[OPLOG]) or read(1):
                raise exception.GuestError(reason="the backup is damaged: its end makes no sense")
            return
        counts[kind] += size
        yield kind, data


def summary(archive_bytes: int, oplog_bytes: int) -> dict[str, int]:
    """Return what the last frame says."""
    return {"archive_bytes": archive_bytes, "oplog_bytes": oplog_bytes}


def _exactly(read: Callable[[int], bytes], size: int) -> bytes:
    parts = []
    while size:
        part = read(size)
        if not part:
            raise exception.GuestError(reason="the backup ends before its end")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


class Prelude:
    """The beginning of an archive, which lists its collections; fed until it is whole."""

    def __init__(self) -> None:
        """Begin."""
        self._data = bytearray()
        self._place = len(_ARCHIVE_MAGIC)
        #: Documents that list a collection, one each.
        self.collections = 0
        self._is_whole = False

    def feed(self, data: bytes) -> tuple[bytes, bytes] | None:
        """Return (the prelude without its terminator, what is behind it) once it is whole."""
        self._data += data
        if len(self._data) < len(_ARCHIVE_MAGIC):
            return None
        if not self._data.startswith(_ARCHIVE_MAGIC) or len(self._data) > _MOST_PRELUDE_BYTES:
            raise exception.GuestError(reason="mongodump gave no archive of the format that it has")
        while len(self._data) - self._place >= len(_TERMINATOR):
            if self._data[self._place : self._place + 4] == _TERMINATOR:
                # the first document is about the archive
                self.collections -= 1
                behind = bytes(self._data[self._place + 4 :])
                return bytes(self._data[: self._place]), behind
            (length,) = struct.unpack_from("<i", self._data, self._place)
            if length < 5:
                raise exception.GuestError(reason="the archive of mongodump is damaged")
            if len(self._data) - self._place < length:
                return None
            self._place += length
            self.collections += 1
        return None


class Watch:
    """Looks at an archive as it passes, whether it has its beginning and all its ends.

    An end is looked for in all bytes, so it may be seen where there is none, in a document that
    looks like one; never overlooked.
    """

    def __init__(self) -> None:
        """Begin."""
        self._prelude: Prelude | None = Prelude()
        self.collections = 0
        self._ends = 0
        self._tail = b""
        self.size = 0

    def see(self, data: bytes) -> None:
        """Look at the next bytes."""
        self.size += len(data)
        if self._prelude is not None:
            found = self._prelude.feed(data)
            if found is None:
                return
            self.collections = self._prelude.collections
            self._prelude = None
            data = found[1]
        overlap = self._tail[1 - len(_END_OF_COLLECTION) :]
        self._ends += (overlap + data).count(_END_OF_COLLECTION)
        self._tail = (self._tail + data)[-_TAIL_BYTES:]

    def is_whole(self) -> bool:
        """Tell whether all collections had their end, and the last bytes are one."""
        if self._prelude is not None or self._ends < self.collections:
            return False
        if not self.collections:
            return True
        place = self._tail.rfind(_END_OF_COLLECTION)
        behind = len(self._tail) - place - len(_END_OF_COLLECTION)
        # the checksum, the end of the document, the terminator
        return place >= 0 and behind == 8 + 1 + 4 and self._tail.endswith(b"\0" + _TERMINATOR)


@dataclasses.dataclass(slots=True)
class _Checksum:
    """CRC-64 of ECMA-182 as archives have it: xz has it too, and its library is on every system."""

    value: int = 0

    def add(self, data: bytes) -> None:
        """Take bytes into account."""
        self.value = int(_crc64()(data, len(data), self.value))


def _crc64() -> Any:
    try:
        function = ctypes.CDLL("liblzma.so.5").lzma_crc64
    except (OSError, AttributeError):
        raise exception.GuestError(
            reason="the library liblzma.so.5 is missing: install it (liblzma5), or rebuild the"
            " image"
        ) from None
    function.argtypes = (ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint64)
    function.restype = ctypes.c_uint64
    return function


class Writer:
    """Gives mongorestore an archive with an oplog behind everything else."""

    def __init__(self, write: Callable[[bytes], None]) -> None:
        """Take what the archive is written with."""
        self._write = write
        self._prelude: Prelude | None = Prelude()
        self._checksum = _Checksum()
        self._block: list[bytes] = []
        self._block_bytes = 0

    def archive(self, data: bytes) -> None:
        """Write the next bytes of the archive that mongodump made."""
        if self._prelude is not None:
            found = self._prelude.feed(data)
            if found is None:
                return
            self._prelude = None
            listed = {**_NAME, "metadata": "", "size": 0, "type": ""}
            self._write(found[0] + bson.encode(listed) + _TERMINATOR)
            data = found[1]
        if data:
            self._write(data)

    def entry(self, data: bytes) -> None:
        """Write an entry of the oplog; all of the archive was written."""
        self._block.append(data)
        self._block_bytes += len(data)
        if self._block_bytes >= _BLOCK_BYTES:
            self._flush()

    def _flush(self) -> None:
        if not self._block:
            return
        data = b"".join(self._block)
        self._block, self._block_bytes = [], 0
        self._checksum.add(data)
        self._write(bson.encode({**_NAME, "EOF": False, "CRC": bson.Int64(0)}) + data + _TERMINATOR)

    def end(self) -> None:
        """Write the end of the oplog, and so of the archive."""
        if self._prelude is not None:
            raise exception.GuestError(reason="the backup has no archive of mongodump in it")
        self._flush()
        value = self._checksum.value
        signed = value - (1 << 64) if value >> 63 else value
        self._write(
            bson.encode({**_NAME, "EOF": False, "CRC": bson.Int64(0)})
            + _TERMINATOR
            + bson.encode({**_NAME, "EOF": True, "CRC": bson.Int64(signed)})
            + _TERMINATOR
        )


#: What the oplog is called in archives.
_NAME = {"db": "", "collection": "oplog"}
