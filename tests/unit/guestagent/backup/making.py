"""Streams of no engine, places in a directory, and backups of the one in the other."""

from __future__ import annotations

import pathlib
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from trove import states
from trove.common import exception
from trove.guestagent.backup import place as places
from trove.guestagent.backup import reader, sealing, writer
from trove.guestagent.datastores import base
from trove.rpc import payloads
from trove.storage import manifests
from trove.storage.filesystem import FilesystemStore

KEY = b"k" * 32
BACKUP = "11111111-1111-4111-8111-111111111111"
FACTS = {"lsn": "0/1000028", "timeline": 1}
#: One chunk a segment, which comes as soon as there is data for it.
SMALL = writer.Options(segment_bytes=sealing.SEALED_BYTES, threads=0)


class GivenStream(base.Stream):
    """Gives blocks; where one is an error, raises it."""

    def __init__(
        self,
        blocks: Iterable[bytes | Exception],
        *,
        facts: Mapping[str, Any] | Exception = FACTS,
    ) -> None:
        self._blocks = iter(blocks)
        self._facts = facts
        self._rest = b""
        self._is_over = False
        self.closed = 0

    def read(self, most: int) -> bytes:
        while not self._rest and not self._is_over:
            block = next(self._blocks, None)
            if isinstance(block, Exception):
                raise block
            self._is_over = block is None
            self._rest = block or b""
        piece, self._rest = self._rest[:most], self._rest[most:]
        return piece

    def finish(self) -> dict[str, Any]:
        assert self._is_over, "the stream was not read to its end"
        if isinstance(self._facts, Exception):
            raise self._facts
        return dict(self._facts)

    def close(self) -> None:
        self.closed += 1


def noise(size: int, *, seed: int = 0) -> bytes:
    """Return bytes that cannot be compressed, always the same."""
    return random.Random(seed).randbytes(size)


def blocks_of(data: bytes, size: int = 300_000) -> Iterator[bytes]:
    """Yield data in blocks."""
    for start in range(0, len(data), size):
        yield data[start : start + size]


def make_storage(
    directory: pathlib.Path, *, prefix: str = f"instance/{BACKUP}/"
) -> payloads.ObjectStorage:
    """Return a grant for a directory."""
    grant = FilesystemStore(directory).grant("p", container="backups", prefix=prefix)
    return payloads.ObjectStorage(
        kind="filesystem", account="p", container="backups", prefix=prefix, grant=dict(grant)
    )


def make_place(
    directory: pathlib.Path, *, prefix: str = f"instance/{BACKUP}/", patience_s: float = 0.0
) -> places.Place:
    """Return a place in a directory, whose store is given no second chance."""
    storage = make_storage(directory, prefix=prefix)
    return places.Place(storage, patience_s=patience_s, first_pause_s=0.01)


def describe(facts: Mapping[str, Any]) -> writer.Description:
    """Describe any backup."""
    return writer.Description(
        kind=states.BackupKind.FULL,
        manager="mariadb",
        engine_version="10.11.19",
        wrapped_key="a2V5",
        archive=manifests.ArchiveStart(epoch="e", sequence=3),
        about={"instance_id": "i"},
    )


def store(
    stream: base.Stream | bytes,
    place: places.Place,
    *,
    key: bytes = KEY,
    backup_id: str = BACKUP,
    describe: Callable[[Mapping[str, Any]], writer.Description] = describe,
    options: writer.Options = SMALL,
    **kwargs: Any,
) -> manifests.Manifest:
    """Store a stream, or bytes."""
    if isinstance(stream, bytes):
        stream = GivenStream(blocks_of(stream))
    return writer.store(
        stream, place, key=key, backup_id=backup_id, describe=describe, options=options, **kwargs
    )


def restore(
    place: places.Place,
    manifest_sha256: str | None = None,
    *,
    key: bytes = KEY,
    backup_id: str = BACKUP,
    most: int = 777_777,
    **kwargs: Any,
) -> bytes:
    """Return all bytes of a backup."""
    stored = reader.open_backup(
        place, key=key, backup_id=backup_id, manifest_sha256=manifest_sha256, **kwargs
    )
    return read(stored.kept, most=most)


def read(kept: base.Kept, *, most: int = 777_777) -> bytes:
    """Return all bytes of something that is stored."""
    with kept.open() as content:
        return b"".join(iter(lambda: content.read(most), b""))


def failing() -> exception.GuestError:
    """Return what an engine's tool says."""
    return exception.GuestError(reason="mariabackup ended with 1: no space left")
