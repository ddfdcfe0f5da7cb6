"""The pieces of a log's archive: one object each, numbered, ``<epoch>/<000000000000>``.

A piece is sealed like a backup. What does not fit into one object are parts, whose names begin with
the piece's, ``<000000000000>-<attempt>-<0000>``; the object of the piece is stored last and names
them, with the facts of the stream and where in the log it ends. A piece that is stored again
replaces the former one in one step.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import struct
from collections.abc import Iterator
from typing import Any, Self

from trove.common import exception
from trove.guestagent.backup import place as places
from trove.guestagent.backup import progress as progresses
from trove.guestagent.backup import reader, sealing, writer
from trove.guestagent.datastores import base
from trove.storage import manifests

#: Largest part; a piece up to this size is one object.
PART_BYTES = 8 * 1024 * 1024
_MAGIC = b"trovelog"
_FORMAT = 1
_ATTEMPT_BYTES = 8
_HEAD = struct.Struct(f">8sB{_ATTEMPT_BYTES}sI")
_MOST_HEADER_BYTES = 16 * 1024 * 1024
_MOST_BYTES = _HEAD.size + _MOST_HEADER_BYTES + PART_BYTES
_READ_BYTES = 1024 * 1024


def piece_name(sequence: int) -> str:
    """Return the name of a piece, below the archive's prefix; its parts' names begin so too."""
    return f"{sequence:012d}"


def put(
    place: places.Place,
    sequence: int,
    piece: base.Piece,
    *,
    key: bytes,
    epoch: str,
    options: writer.Options | None = None,
    progress: progresses.Progress | None = None,
) -> int:
    """Store a piece, whose stream the caller closes; return how many bytes are stored.

    Raises GuestError with the reason; the piece is not there then, or the former one is.
    """
    attempt = secrets.token_bytes(_ATTEMPT_BYTES)
    parts = _Parts(place, f"{piece_name(sequence)}-{attempt.hex()}", progress)
    try:
        stream = _Counted(piece.stream, progress)
        cipher = _cipher(key, epoch, sequence, attempt, "")
        # one thread is enough for a log, and leaves the engine the others
        options = options or writer.Options(threads=0)
        for sealed in writer.pack(stream.blocks(), cipher, options=options):
            parts.add(sealed)
        inline = parts.finish()
        header = {
            "facts": stream.facts,
            "until": dict(piece.until),
            "as_of_s": piece.as_of_s,
            "data_bytes": stream.data_bytes,
            "parts": [
                {"name": each.name, "size": each.size, "sha256": each.sha256}
                for each in parts.stored
            ],
        }
        sealed_header = _cipher(key, epoch, sequence, attempt, ":header").seal(
            json.dumps(header).encode(), 0, is_last=True
        )
        content = _HEAD.pack(_MAGIC, _FORMAT, attempt, len(sealed_header)) + sealed_header + inline
        place.put(piece_name(sequence), content, progress=progress)
    except BaseException:
        parts.clean()
        raise
    return len(content) + sum(each.size for each in parts.stored)


def iterate(
    place: places.Place,
    first: int,
    last: int | None,
    *,
    key: bytes,
    epoch: str,
    progress: progresses.Progress | None = None,
) -> Iterator[base.Kept]:
    """Yield the pieces from ``first`` to ``last``, None: as far as there are any.

    The facts are those of the stream, with ``until`` and ``as_of_s`` of the piece. Raises
    GuestError for one that is missing or damaged, saying which.
    """
    latest = _Latest(place, progress)
    sequence = first
    while last is None or sequence <= last:
        if last is None and latest.find(sequence) is None:
            return
        yield _kept(latest, sequence, key=key, epoch=epoch)
        sequence += 1


def _cipher(key: bytes, epoch: str, sequence: int, attempt: bytes, what: str) -> sealing.Cipher:
    return sealing.Cipher(key, f"archive:{epoch}:{sequence}:{attempt.hex()}{what}")


class _Counted:
    """A stream on its way: how many bytes there were, its facts at the end."""

    def __init__(self, stream: base.Stream, progress: progresses.Progress | None) -> None:
        self._stream = stream
        self._progress = progress
        self.data_bytes = 0
        self.facts: dict[str, Any] = {}

    def blocks(self) -> Iterator[bytes]:
        """Yield its bytes."""
        while block := self._stream.read(_READ_BYTES):
            self.data_bytes += len(block)
            if self._progress is not None:
                self._progress.advance(len(block))
            yield block
        self.facts = self._stream.finish()


class _Parts:
    """The parts of a piece; nothing is stored while one object can hold it all."""

    def __init__(
        self, place: places.Place, prefix: str, progress: progresses.Progress | None
    ) -> None:
        self._place = place
        self._prefix = prefix
        self._progress = progress
        self._pending = bytearray()
        self.stored: list[manifests.Segment] = []

    def add(self, sealed: bytes) -> None:
        """Take a chunk."""
        if len(self._pending) + len(sealed) > PART_BYTES:
            self._store()
        self._pending += sealed

    def finish(self) -> bytes:
        """Return what belongs into the object itself: all of it, or nothing."""
        if not self.stored:
            return bytes(self._pending)
        self._store()
        return b""

    def _store(self) -> None:
        segment = manifests.Segment(
            name=f"{self._prefix}-{len(self.stored):04d}",
            size=len(self._pending),
            sha256=hashlib.sha256(self._pending).hexdigest(),
        )
        self.stored.append(segment)
        self._place.put(segment.name, self._pending, progress=self._progress)
        self._pending = bytearray()

    def clean(self) -> None:
        """Remove what was stored, as far as that goes at once."""
        for segment in self.stored:
            try:
                self._place.delete(segment.name, patience_s=0)
            except exception.TroveError:
                # those that remain go with the archive, by their names
                return


class _Inline:
    """What is in a piece's own object, in the place of segments."""

    def __init__(self, label: str, content: memoryview) -> None:
        self._fetched = reader.Fetched(label=label, content=content, is_last=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        """There is nothing to end."""

    def __iter__(self) -> Iterator[reader.Fetched]:
        yield self._fetched


class _Latest:
    """The object that was read last: pieces are used in order, and each of them once."""

    def __init__(self, place: places.Place, progress: progresses.Progress | None) -> None:
        self.place = place
        self.progress = progress
        self._sequence = -1
        self._content = bytearray()

    def find(self, sequence: int) -> bytearray | None:
        """Return the object of a piece."""
        if sequence != self._sequence:
            found = self.place.find_content(
                piece_name(sequence), most_bytes=_MOST_BYTES, progress=self.progress
            )
            if found is None:
                return None
            self._sequence, self._content = sequence, found
        return self._content

    def get(self, sequence: int) -> bytearray:
        """Return the object of a piece; raises GuestError."""
        found = self.find(sequence)
        if found is None:
            raise exception.GuestError(reason=f"{_label(self.place, sequence)} is missing")
        return found


def _label(place: places.Place, sequence: int) -> str:
    return f"piece {sequence} of the log ({place.full_name(piece_name(sequence))})"


def _kept(latest: _Latest, sequence: int, *, key: bytes, epoch: str) -> base.Kept:
    """Return a piece that is stored; raises GuestError."""
    place, progress = latest.place, latest.progress
    label = _label(place, sequence)
    head = _Head(latest.get(sequence), label, sequence, key=key, epoch=epoch)

    def open_content() -> base.Content:
        again = _Head(latest.get(sequence), label, sequence, key=key, epoch=epoch)
        if again.attempt != head.attempt:
            raise exception.GuestError(reason=f"{label} has been replaced meanwhile")
        source = (
            reader.Segments(place, head.parts, progress=progress, what=f"part of {label}")
            if head.parts
            else _Inline(label, again.inline)
        )
        return reader.SealedContent(
            source,
            _cipher(key, epoch, sequence, head.attempt, ""),
            data_bytes=head.data_bytes,
            progress=progress,
            name=label,
        )

    facts = {"until": head.until, "as_of_s": head.as_of_s} | head.facts
    return base.Kept(facts=facts, open=open_content)


class _Head:
    """The object of a piece: what its header says, and what is behind it."""

    def __init__(
        self, content: bytearray, label: str, sequence: int, *, key: bytes, epoch: str
    ) -> None:
        """Open the header; raises GuestError."""
        try:
            magic, form, self.attempt, size = _HEAD.unpack_from(content)
        except struct.error:
            raise exception.GuestError(reason=f"{label} is damaged: it is cut off") from None
        if (magic, form) != (_MAGIC, _FORMAT) or size > len(content) - _HEAD.size:
            raise exception.GuestError(reason=f"{label} is damaged: it is no piece of a log")
        view = memoryview(content)[_HEAD.size :]
        try:
            header = json.loads(
                _cipher(key, epoch, sequence, self.attempt, ":header").open(
                    view[:size], 0, is_last=True
                )
            )
        except sealing.SealBroken as e:
            raise exception.GuestError(
                reason=f"{label} is refused: its header is not what was stored there, or this is"
                " not the key"
            ) from e
        self.inline = view[size:]
        self.facts: dict[str, Any] = header["facts"]
        self.until: dict[str, Any] = header["until"]
        self.as_of_s: float = header["as_of_s"]
        self.data_bytes: int = header["data_bytes"]
        self.parts = [manifests.Segment(**part) for part in header["parts"]]
