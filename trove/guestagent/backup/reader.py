"""Reading a backup: every byte is proved to be what was stored before it is handed on.

A segment counts as a whole by the manifest's SHA-256, a chunk by its seal, the manifest by what the
control plane knows of it and by its MAC, the end by the mark of the last chunk and the number of
bytes. While one segment is used the next is fetched: three are in memory at most.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import io
from collections.abc import Iterator, Sequence
from concurrent import futures
from typing import Protocol, Self

from trove.common import exception
from trove.guestagent.backup import compression, sealing
from trove.guestagent.backup import place as places
from trove.guestagent.backup import progress as progresses
from trove.guestagent.datastores import base
from trove.storage import manifests

#: What comes damaged is fetched once more: it may have been on the way.
_FETCHES = 2
_AHEAD = 1


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StoredBackup:
    """A backup that is stored: its manifest, which was checked, and its bytes."""

    manifest: manifests.Manifest
    kept: base.Kept


def open_backup(
    place: places.Place,
    *,
    key: bytes,
    backup_id: str,
    manifest_sha256: str | None,
    progress: progresses.Progress | None = None,
) -> StoredBackup:
    """Return a backup; raises GuestError unless its manifest is the one that was written.

    ``manifest_sha256`` is what the control plane knows of it; None where nobody does, and the MAC
    is the proof. Bytes that are read count in ``progress``.
    """
    full = place.full_name(manifests.MANIFEST_NAME)
    content = bytes(
        place.get(manifests.MANIFEST_NAME, most_bytes=manifests.MOST_BYTES, progress=progress)
    )
    if manifest_sha256 is not None and hashlib.sha256(content).hexdigest() != manifest_sha256:
        raise exception.GuestError(
            reason=f"{full} is not the manifest that the backup was completed with"
        )
    try:
        manifest = manifests.Manifest.from_json(content)
        manifest.check(key)
    except manifests.ManifestError as e:
        raise exception.GuestError(reason=f"{full}: {e}") from e
    if manifest.backup_id != backup_id:
        raise exception.GuestError(
            reason=f"{full} is the manifest of backup {manifest.backup_id}, not of {backup_id}"
        )

    def open_content() -> base.Content:
        cipher = sealing.Cipher(key, f"backup:{backup_id}:{manifest.attempt}")
        return SealedContent(
            Segments(place, manifest.segments, progress=progress),
            cipher,
            data_bytes=manifest.data_bytes,
            progress=progress,
        )

    return StoredBackup(manifest=manifest, kept=base.Kept(facts=manifest.facts, open=open_content))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """A segment whose bytes were checked; ``label`` is what people find it by."""

    label: str
    content: bytearray | memoryview
    is_last: bool


class Source(Protocol):
    """The segments of a stream in order, each one checked; a context manager."""

    def __enter__(self) -> Self:
        """Be ready."""

    def __exit__(self, *exc: object) -> None:
        """No more of them are wanted."""

    def __iter__(self) -> Iterator[Fetched]:
        """Yield them; raises GuestError, Cancelled."""


class Segments:
    """The segments of a stream in order, each one checked; a context manager."""

    def __init__(
        self,
        place: places.Place,
        segments: Sequence[manifests.Segment],
        *,
        progress: progresses.Progress | None,
        what: str = "segment",
    ) -> None:
        """Take which they are; nothing is fetched yet."""
        self._place = place
        self._what = what
        self._segments = segments
        self._progress = progress
        #: Ends what is fetched when nobody wants it any more.
        self._halt = progresses.Progress()
        self._executor: futures.ThreadPoolExecutor | None = None

    def __enter__(self) -> Self:
        """Be ready to fetch."""
        self._executor = futures.ThreadPoolExecutor(1, thread_name_prefix="backup-fetch")
        return self

    def __exit__(self, *exc: object) -> None:
        """Fetch no more."""
        self._halt.cancel()
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)

    def __iter__(self) -> Iterator[Fetched]:
        """Yield them; raises GuestError for one that is missing or damaged, and Cancelled."""
        assert self._executor is not None  # noqa: S101 (for the type checker)
        coming: collections.deque[futures.Future[Fetched]] = collections.deque()
        numbers = iter(range(len(self._segments)))
        for number in numbers:
            coming.append(self._executor.submit(self._fetch, number))
            if len(coming) > _AHEAD:
                break
        while coming:
            fetched = self._wait(coming.popleft())
            for number in numbers:
                coming.append(self._executor.submit(self._fetch, number))
                break
            yield fetched

    def _wait(self, coming: futures.Future[Fetched]) -> Fetched:
        if self._progress is None:
            return coming.result()
        with self._progress.on_cancel(self._halt.cancel):
            try:
                return coming.result()
            except progresses.Cancelled:
                self._progress.check()
                raise

    def _fetch(self, number: int) -> Fetched:
        segment = self._segments[number]
        label = (
            f"{self._what} {number + 1} of {len(self._segments)}"
            f" ({self._place.full_name(segment.name)})"
        )
        content = bytearray()
        for _ in range(_FETCHES):
            found = self._place.find_content(
                segment.name, most_bytes=segment.size, progress=self._halt
            )
            if found is None:
                raise exception.GuestError(reason=f"{label} is missing")
            content = found
            if hashlib.sha256(content).hexdigest() == segment.sha256:
                return Fetched(
                    label=label, content=content, is_last=number == len(self._segments) - 1
                )
        raise exception.GuestError(
            reason=f"{label} is damaged: it has {len(content)} bytes of {segment.size}, and its"
            " SHA-256 is not the one that it was stored with"
        )


class _Chunks(io.RawIOBase):
    """The compressed bytes of a stream, each chunk opened when it is its turn."""

    def __init__(self, segments: Source, cipher: sealing.Cipher) -> None:
        super().__init__()
        self._opened = self._open(segments, cipher)
        self._chunk = memoryview(b"")

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Give the next bytes; raises GuestError."""
        while not self._chunk:
            chunk = next(self._opened, None)
            if chunk is None:
                return 0
            self._chunk = memoryview(chunk)
        size = min(len(buffer), len(self._chunk))
        buffer[:size] = self._chunk[:size]
        self._chunk = self._chunk[size:]
        return size

    @staticmethod
    def _open(segments: Source, cipher: sealing.Cipher) -> Iterator[bytes]:
        number = 0
        for segment in segments:
            size = len(segment.content)
            view = memoryview(segment.content)
            for start in range(0, size, sealing.SEALED_BYTES):
                end = min(start + sealing.SEALED_BYTES, size)
                try:
                    chunk = cipher.open(
                        view[start:end], number, is_last=segment.is_last and end == size
                    )
                except sealing.SealBroken as e:
                    raise exception.GuestError(reason=f"{segment.label} is refused: {e}") from e
                number += 1
                yield chunk


class SealedContent(base.Content):
    """What was sealed into segments, again; the last byte is given once the end is proved."""

    def __init__(
        self,
        segments: Source,
        cipher: sealing.Cipher,
        *,
        data_bytes: int,
        progress: progresses.Progress | None = None,
        name: str = "the backup",
    ) -> None:
        """Take the segments, what opens them, and how many bytes there are."""
        self._segments = segments
        self._cipher = cipher
        self._data_bytes = data_bytes
        self._progress = progress
        self._name = name
        self._done_bytes = 0
        self._is_over = False
        self._chunks: _Chunks | None = None
        self._content: compression.Decompressor | None = None

    def __enter__(self) -> Self:
        """Begin to fetch."""
        self._segments.__enter__()
        self._chunks = _Chunks(self._segments, self._cipher)
        self._content = compression.Decompressor(self._chunks)
        return self

    def __exit__(self, *exc: object) -> None:
        """Fetch no more."""
        self._content = None
        self._segments.__exit__(*exc)

    def read(self, most: int) -> bytes:
        """Return up to ``most`` bytes, none at the end; raises GuestError, Cancelled."""
        if self._content is None or self._chunks is None:
            raise ValueError("the content is not open")
        if self._is_over or most <= 0:
            return b""
        content = self._content.read(most)
        self._done_bytes += len(content)
        if not content or self._done_bytes >= self._data_bytes:
            self._prove_end(self._content, self._chunks)
        if self._progress is not None:
            self._progress.advance(len(content))
        return content

    def _prove_end(self, content: compression.Decompressor, chunks: _Chunks) -> None:
        """Raise GuestError unless this was all, and nothing comes behind it."""
        if self._done_bytes != self._data_bytes or content.read(1) or chunks.read(1):
            raise exception.GuestError(
                reason=f"{self._name} has not the {self._data_bytes} bytes that its engine gave"
            )
        self._is_over = True
