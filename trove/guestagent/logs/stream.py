"""A log as an endless stream of bytes, of which a part is on the disk.

The writer appends to the *active* file. Once that is large it becomes a *piece*: it is renamed into
the stream's own directory, under the offset in the stream of its first byte, and the writer is
told to open its file anew. So every byte has one offset for ever, and pieces can go, oldest first,
without anybody losing count. What goes before it was published is counted.

The record (``record.json``) is replaced as a whole before and after each step, so that an end of
the agent at any moment leaves a step that can be told to be done or not. A piece that the writer
may still append to (nobody could tell it to open its file anew) is the last one and stays so.

Not safe for use by several threads: users take :attr:`Stream.lock`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import os
import pathlib
import secrets
import stat
import threading
from collections.abc import Callable
from typing import Any

from oslo_log import log

from trove.common import exception
from trove.guestagent.system import filesystem

LOG = log.getLogger(__name__)

_MIB = 1024 * 1024


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How much of a log is kept on the disk, and at which size the active file becomes a piece."""

    total_bytes: int
    piece_bytes: int


@dataclasses.dataclass(slots=True, kw_only=True)
class Record:
    """What the agent remembers of a log; offsets and sizes in bytes.

    ``first`` is the offset of the oldest byte that is kept, ``active_start`` of the active file's
    first, ``position`` of the first that is not published. ``uploading`` is an object that is being
    stored: its name, and the range that it is of. ``account``, ``container`` and ``prefix`` are
    where it is published, None while nothing is. ``switching``: the engine may not know ``enabled``
    yet. ``dropped_bytes`` went unpublished, ``unseen_bytes`` of them since it was published last.
    """

    stream_id: str
    enabled: bool = False
    switching: bool = False
    first: int = 0
    active_start: int = 0
    position: int = 0
    published_bytes: int = 0
    dropped_bytes: int = 0
    unseen_bytes: int = 0
    account: str | None = None
    container: str | None = None
    prefix: str | None = None
    uploading: dict[str, Any] | None = None
    discarding: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A file of the stream; ``is_final``: nothing is appended to it any more."""

    path: pathlib.Path
    start: int
    size: int
    is_final: bool

    @property
    def end(self) -> int:
        """The offset behind its last byte."""
        return self.start + self.size


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Whole lines of the stream, as far as there are any; from one piece."""

    start: int
    content: bytes = dataclasses.field(repr=False)

    @property
    def end(self) -> int:
        """The offset behind its last byte."""
        return self.start + len(self.content)


def _new_record() -> Record:
    now = datetime.datetime.now(datetime.UTC)
    # another server of the same instance begins another stream: names must not meet
    return Record(stream_id=f"{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}")


def _size(path: pathlib.Path) -> int | None:
    """Return the size of a regular file, None when it is none."""
    try:
        status = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


class Stream:
    """One log."""

    def __init__(
        self,
        active: pathlib.Path,
        directory: pathlib.Path,
        *,
        reopen: Callable[[], None],
        make_active: Callable[[], None] = lambda: None,
    ) -> None:
        """Take the writer's file, and a directory of the agent's own on the same file system.

        ``reopen`` has the writer open its file anew, or raises TroveError or OSError when it cannot
        be told; ``make_active`` makes the file where the writer itself may not.
        """
        self.lock = threading.RLock()
        self._active = active
        self._directory = directory
        self._reopen = reopen
        self._make_active = make_active
        self._must_reopen = True
        self._seen_bytes = 0
        self._record: Record | None = None

    @property
    def record(self) -> Record:
        """What is remembered; to be saved when changed."""
        if self._record is None:
            self._record = self._load()
        return self._record

    def _load(self) -> Record:
        try:
            text = (self._directory / "record.json").read_text(encoding="utf-8")
        except FileNotFoundError:
            return _new_record()
        try:
            return Record(**json.loads(text))
        except (ValueError, TypeError):
            # replaced as a whole, so only a broken disk does this: nothing published is overwritten
            LOG.error("the record of the log %s is damaged; beginning anew", self._directory.name)
            return _new_record()

    def save(self) -> None:
        """Remember the record; durable when this returns."""
        if not self._directory.is_dir():
            filesystem.ensure_directory(self._directory, mode=0o700)
        filesystem.write_file(
            self._directory / "record.json",
            json.dumps(dataclasses.asdict(self.record)),
            mode=0o600,
        )

    # -- what there is -----

    def pieces(self) -> list[Piece]:
        """Return what is on the disk, oldest first, the active file as the last."""
        record, found = self.record, []
        if self._directory.is_dir():
            for path in self._directory.iterdir():
                size = _size(path) if path.name.isdigit() else None
                if size is not None:
                    found.append(Piece(path=path, start=int(path.name), size=size, is_final=True))
        found.sort(key=lambda piece: piece.start)
        kept: list[Piece] = []
        for piece in found:
            # dropped, or the beginning of a shorter copy: an earlier agent ended in between
            if piece.start < record.first or (kept and piece.start < kept[-1].end):
                piece.path.unlink(missing_ok=True)
            else:
                kept.append(piece)
        if kept and self._must_reopen:
            kept[-1] = dataclasses.replace(kept[-1], is_final=False)
        size = _size(self._active)
        if size is not None:
            start = max(record.active_start, kept[-1].end if kept else 0)
            start = self._notice_truncation(start, size)
            kept.append(Piece(path=self._active, start=start, size=size, is_final=False))
        return kept

    def _notice_truncation(self, start: int, size: int) -> int:
        """Return where the active file begins: anew when somebody has cut it."""
        record = self.record
        if size < self._seen_bytes or start + size < record.position:
            after = max(start + self._seen_bytes, record.position)
            self._count_dropped(start, after)
            record.active_start = start = after
            self.save()
        self._seen_bytes = size
        return start

    def exists(self) -> bool:
        """Tell whether anything was ever written."""
        return bool(self.pieces())

    def pending_bytes(self) -> int:
        """Return how much could be published now."""
        position = self.record.position
        return sum(max(0, piece.end - max(piece.start, position)) for piece in self.pieces())

    # -- keeping it small -----

    def tend(self, bounds: Bounds) -> None:
        """Make a piece of an active file that is large; drop what is more than the bounds."""
        if any(not piece.is_final and piece.path != self._active for piece in self.pieces()):
            self._try_reopen()
        size = _size(self._active)
        if size is not None and size >= max(1, bounds.piece_bytes):
            self.cut()
        elif size is None and os.path.lexists(self._active):
            LOG.error("%s is no regular file; removing it", self._active)
            self._active.unlink()
        self._bound(bounds)

    def cut(self) -> None:
        """Make a piece of the active file and have the writer begin another."""
        record, pieces = self.record, self.pieces()
        if not pieces or pieces[-1].path != self._active:
            return
        if self._must_reopen and len(pieces) > 1:
            # the writer may be in the last piece still
            return
        record.active_start = pieces[-1].start
        self.save()
        self._must_reopen = True
        self._active.rename(self._directory / f"{pieces[-1].start:020d}")
        filesystem.sync_directory(self._directory)
        self._seen_bytes = 0
        self._try_reopen()

    def _try_reopen(self) -> None:
        try:
            if _size(self._active) is None:
                self._make_active()
            self._reopen()
        except (exception.TroveError, OSError) as e:
            LOG.info("the writer of %s opens it anew later: %s", self._active.name, e)
            return
        self._must_reopen = False
        pieces = self.pieces()
        ends = [piece.end for piece in pieces if piece.path != self._active]
        if ends and ends[-1] > self.record.active_start:
            self.record.active_start = ends[-1]
            self.save()

    def _bound(self, bounds: Bounds) -> None:
        pieces = self.pieces()
        total = sum(piece.size for piece in pieces)
        for piece in pieces:
            if total <= bounds.total_bytes or not piece.is_final:
                return
            left = total - piece.size
            keep = min(bounds.total_bytes // 2 - left, 8 * _MIB)
            if keep > 0 and piece.size > keep:
                self._shorten(piece, keep)
                return
            self._drop(piece, piece.end)
            total = left

    def _shorten(self, piece: Piece, keep: int) -> None:
        """Drop all of a piece but whole lines of its last ``keep`` bytes."""
        content = self._read(piece, piece.size - keep, keep)
        content = content[content.find(b"\n") + 1 :]
        start = piece.end - len(content)
        filesystem.write_file(self._directory / f"{start:020d}", content, mode=0o600)
        self._drop(piece, start)

    def _drop(self, piece: Piece, offset: int) -> None:
        """Drop the oldest piece, of which what is behind ``offset`` has been copied."""
        record = self.record
        self._count_dropped(piece.start, offset)
        record.first = max(record.first, offset)
        record.active_start = max(record.active_start, offset)
        self.save()
        self.pieces()

    def _count_dropped(self, start: int, end: int) -> None:
        """Count what is lost of a range: what is not published of it."""
        lost = end - max(start, self.record.position)
        if lost > 0:
            LOG.warning("%d bytes of the log %s were not published", lost, self._directory.name)
            self.record.dropped_bytes += lost
            self.record.unseen_bytes += lost

    def forget_published(self) -> None:
        """Drop the pieces that are published to their end."""
        for piece in self.pieces():
            if not piece.is_final or piece.end > self.record.position:
                return
            self._drop(piece, piece.end)

    # -- reading -----

    def next_chunk(self, max_bytes: int) -> Chunk | None:
        """Return what is to be published next, None when there is no whole line more."""
        position = self.record.position
        for piece in self.pieces():
            start = max(position, piece.start)
            if start >= piece.end:
                continue
            content = self._read(piece, start - piece.start, max_bytes)
            if start + len(content) < piece.end or not piece.is_final:
                content = _whole_lines(content, is_full=len(content) >= max_bytes)
            return Chunk(start=start, content=content) if content else None
        return None

    def _read(self, piece: Piece, offset: int, max_bytes: int) -> bytes:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(piece.path, flags)
        with open(descriptor, "rb") as stream:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise exception.GuestError(reason=f"{piece.path.name} is no regular file")
            stream.seek(offset)
            return stream.read(min(max_bytes, piece.size - offset))


def _whole_lines(content: bytes, *, is_full: bool) -> bytes:
    """Return the whole lines; of a line that is too long by itself what is whole characters."""
    end = content.rfind(b"\n") + 1
    if end or not is_full:
        return content[:end]
    for back in range(1, 5):
        byte = content[-back]
        if byte & 0xC0 != 0x80:
            # the last character begins here: it is left out, which costs nothing when it is whole
            with contextlib.suppress(UnicodeDecodeError):
                content[-back:].decode()
                return content
            return content[:-back] if byte & 0x80 else content
    return content
