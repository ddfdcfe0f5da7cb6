"""Making a backup: engine stream, zstd, sealed chunks, segments in the store, the manifest last.

There is no temporary file, and memory is flat: three segments at most, of which two are on their
way to the store while the third is filled. When the store is slow or away the engine is held back.
A backup is one once its manifest is stored and was read back; one that failed or was cancelled
leaves nothing, as far as the store lets us.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent import futures
from typing import Any

from oslo_log import log

from trove import states
from trove.common import concurrency, exception
from trove.guestagent.backup import compression, sealing
from trove.guestagent.backup import place as places
from trove.guestagent.backup import progress as progresses
from trove.guestagent.datastores import base
from trove.storage import manifests

LOG = log.getLogger(__name__)

SEGMENT_BYTES = 8 * 1024 * 1024
_READ_BYTES = 1024 * 1024
_MOST_UPLOADS = 2
_MANIFEST_ATTEMPTS = 3
#: Longest that the store may fail while what a failed attempt left is removed.
_CLEANING_PATIENCE_S = 15.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How it is done. ``threads`` are zstd's, None: as many as there are processors, up to four.

    ``rate_limit_bytes_s`` is of the engine's bytes, 0: as fast as it goes. ``attempt`` is the name
    of this try, 16 hexadecimal digits that no other has; None: one is made up.
    """

    segment_bytes: int = SEGMENT_BYTES
    compression_level: int = 2
    rate_limit_bytes_s: int = 0
    threads: int | None = None
    attempt: str | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What the manifest says of a backup besides what the pipeline knows."""

    kind: states.BackupKind
    manager: str
    engine_version: str
    wrapped_key: str
    parent_id: str | None = None
    archive: manifests.ArchiveStart | None = None
    about: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def store(
    stream: base.Stream,
    place: places.Place,
    *,
    key: bytes,
    backup_id: str,
    describe: Callable[[Mapping[str, Any]], Description],
    options: Options | None = None,
    progress: progresses.Progress | None = None,
) -> manifests.Manifest:
    """Store a stream, which the caller closes, as a backup; return its manifest.

    ``describe`` is given the facts of the stream when it was read to its end. Raises GuestError
    with the reason, Cancelled among them; what the stream raises goes through.
    """
    options = options or Options()
    attempt = options.attempt or secrets.token_hex(8)
    work = _Attempt(
        place,
        backup_id=backup_id,
        attempt=attempt,
        options=options,
        progress=progress or progresses.Progress(),
    )
    try:
        manifest = work.run(stream, key, describe)
    except BaseException as e:
        left = work.clean()
        if left:
            told = f"{left} objects that it stored below {place.full_name(attempt)} are left"
            LOG.warning("backup %s failed and %s", backup_id, told)
            if isinstance(e, exception.GuestError):
                raise _with(e, told) from e
        raise
    work.progress.finish()
    return manifest


def _with(error: exception.GuestError, told: str) -> exception.GuestError:
    """Return an error of the same kind that says more."""
    return type(error)(f"{str(error).rstrip('.')}; {told}", **error.kwargs)


class _Attempt:
    """One try at a backup."""

    def __init__(
        self,
        place: places.Place,
        *,
        backup_id: str,
        attempt: str,
        options: Options,
        progress: progresses.Progress,
    ) -> None:
        self.progress = progress
        self._place = place
        self._backup_id = backup_id
        self._attempt = attempt
        self._options = options
        self._clock = concurrency.SystemClock()
        #: Ends the uploads when anything else failed.
        self._halt = progresses.Progress()
        self._uploader = Uploader(
            place,
            lambda number: manifests.segment_name(attempt, number),
            segment_bytes=options.segment_bytes,
            halt=self._halt,
        )
        self._has_manifest = False
        self._data_bytes = 0
        self._facts: dict[str, Any] = {}

    def run(
        self,
        stream: base.Stream,
        key: bytes,
        describe: Callable[[Mapping[str, Any]], Description],
    ) -> manifests.Manifest:
        """Do it; raises GuestError."""
        began = self._clock.now()
        cipher = sealing.Cipher(key, f"backup:{self._backup_id}:{self._attempt}")
        with self.progress.on_cancel(self._halt.cancel), self.progress.on_cancel(stream.close):
            try:
                for sealed in pack(self._blocks(stream), cipher, options=self._options):
                    self._uploader.add(sealed)
                segments = self._uploader.finish()
            except BaseException:
                self._halt.cancel()
                # whatever came of ending it, this is why
                self.progress.check()
                raise
            finally:
                self._uploader.close()
            description = describe(self._facts)
            manifest = manifests.Manifest(
                backup_id=self._backup_id,
                attempt=self._attempt,
                facts=self._facts,
                began=began,
                completed=self._clock.now(),
                data_bytes=self._data_bytes,
                stored_bytes=sum(segment.size for segment in segments),
                segments=tuple(segments),
                **{
                    field.name: getattr(description, field.name)
                    for field in dataclasses.fields(description)
                },
            ).signed(key)
            self._store_manifest(manifest)
            # the last moment to cancel: what was stored is removed
            self.progress.check()
            return manifest

    def _blocks(self, stream: base.Stream) -> Iterator[bytes]:
        """Yield what the engine gives, at its pace; its facts are known at the end."""
        pace = Pace(self._options.rate_limit_bytes_s, self.progress, self._clock)
        while block := stream.read(pace.most(_READ_BYTES)):
            self._data_bytes += len(block)
            self.progress.advance(len(block))
            self._uploader.check()
            pace.keep(len(block))
            yield block
        self.progress.check()
        self._facts = stream.finish()

    def _store_manifest(self, manifest: manifests.Manifest) -> None:
        """Store the manifest and read it again; raises GuestError when it is not the same."""
        content = manifest.to_json()
        for _ in range(_MANIFEST_ATTEMPTS):
            self._has_manifest = True
            self._place.put(manifests.MANIFEST_NAME, content, progress=self.progress)
            read = self._place.find_content(
                manifests.MANIFEST_NAME, most_bytes=len(content), progress=self.progress
            )
            if read is not None and bytes(read) == content:
                return
        raise exception.GuestError(
            reason="the object store does not give the manifest of the backup back as it was stored"
        )

    def clean(self) -> int:
        """Remove what was stored; return how many objects may be left."""
        names = list(self._uploader.names)
        if self._has_manifest:
            # without it nothing else is a backup
            names.insert(0, manifests.MANIFEST_NAME)
        patience_s = min(_CLEANING_PATIENCE_S, self._place.patience_s)
        for done, name in enumerate(names):
            try:
                self._place.delete(name, patience_s=patience_s)
            except exception.TroveError as e:
                LOG.warning("cannot remove %s: %s", self._place.full_name(name), e)
                return len(names) - done
        return 0


def pack(blocks: Iterable[bytes], cipher: sealing.Cipher, *, options: Options) -> Iterator[bytes]:
    """Compress and seal a stream; yield its sealed chunks."""
    compressor = compression.Compressor(level=options.compression_level, threads=options.threads)
    sealer = sealing.Sealer(cipher)
    for block in blocks:
        yield from sealer.add(compressor.add(block))
    yield from sealer.add(compressor.finish())
    yield sealer.finish()


class Pace:
    """Keeps to so many bytes a second, or to none."""

    def __init__(
        self, bytes_s: int, progress: progresses.Progress, clock: concurrency.Clock
    ) -> None:
        """Begin now; 0 is no limit."""
        self._bytes_s = bytes_s
        self._progress = progress
        self._clock = clock
        self._due = clock.monotonic()

    def most(self, bytes_: int) -> int:
        """Return how many bytes to read at once: about a tenth of a second's."""
        return min(bytes_, max(1, self._bytes_s // 10)) if self._bytes_s else bytes_

    def keep(self, bytes_: int) -> None:
        """Wait until so many bytes were due; raises Cancelled."""
        if not self._bytes_s:
            return
        now = self._clock.monotonic()
        # what was not used for lack of bytes is not caught up on
        self._due = max(self._due, now - 1) + bytes_ / self._bytes_s
        if self._due > now:
            self._progress.wait(self._due - now)


class Uploader:
    """Fills segments and stores them in order, beside whoever fills them."""

    def __init__(
        self,
        place: places.Place,
        name_of: Callable[[int], str],
        *,
        segment_bytes: int,
        halt: progresses.Progress,
    ) -> None:
        """Store segments of whole chunks by their numbers, until ``halt`` is cancelled."""
        self._place = place
        self._name_of = name_of
        self._halt = halt
        chunks = max(1, segment_bytes // sealing.SEALED_BYTES)
        self._size = chunks * sealing.SEALED_BYTES
        #: Filled again and again: memory that is given back and taken anew does not stay flat.
        self._free = [bytearray(self._size)]
        self._buffer: bytearray | None = None
        self._filled = 0
        self._executor = futures.ThreadPoolExecutor(1, thread_name_prefix="backup-upload")
        self._uploads: collections.deque[futures.Future[bytearray]] = collections.deque()
        self._segments: list[manifests.Segment] = []
        #: Names of what is, or may be, in the store.
        self.names: list[str] = []

    def add(self, sealed: bytes) -> None:
        """Take a chunk; raises what an upload raised."""
        if self._buffer is None:
            self._buffer = self._free.pop() if self._free else bytearray(self._size)
        self._buffer[self._filled : self._filled + len(sealed)] = sealed
        self._filled += len(sealed)
        self.check()
        if self._filled == self._size:
            self._submit()

    def check(self) -> None:
        """Raise what an upload raised, if there is one."""
        while self._uploads and self._uploads[0].done():
            self._collect()

    def finish(self) -> list[manifests.Segment]:
        """Return all segments once the store has them; raises what an upload raised."""
        if self._filled:
            self._submit()
        while self._uploads:
            self._collect()
        return self._segments

    def close(self) -> None:
        """Wait for the upload that runs, which ends soon when it is to halt; drop the others."""
        self._executor.shutdown(cancel_futures=True)

    def _submit(self) -> None:
        assert self._buffer is not None  # noqa: S101 (for the type checker)
        while len(self._uploads) >= _MOST_UPLOADS:
            self._collect()
        name = self._name_of(len(self.names))
        self.names.append(name)
        self._uploads.append(self._executor.submit(self._store, name, self._buffer, self._filled))
        self._buffer, self._filled = None, 0

    def _collect(self) -> None:
        self._free.append(self._uploads.popleft().result())

    def _store(self, name: str, buffer: bytearray, size: int) -> bytearray:
        with memoryview(buffer)[:size] as content:
            digest = hashlib.sha256(content).hexdigest()
            self._place.put(name, content, progress=self._halt)
        self._segments.append(manifests.Segment(name=name, size=size, sha256=digest))
        return buffer
