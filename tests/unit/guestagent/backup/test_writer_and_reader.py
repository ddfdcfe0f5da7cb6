"""A backup from stream to objects and back: complete, or none."""

from __future__ import annotations

import pathlib

import pytest

from tests.unit.guestagent.backup import making
from trove import states
from trove.guestagent.backup import reader, sealing, writer
from trove.storage import manifests

_CHUNK = sealing.CHUNK_BYTES


@pytest.mark.parametrize(
    "size", [0, 1, 1000, _CHUNK - 1, _CHUNK, _CHUNK + 1, 3 * _CHUNK, 5 * _CHUNK + 17]
)
def test_what_was_stored_comes_back(tmp_path: pathlib.Path, size: int) -> None:
    data = making.noise(size)
    place = making.make_place(tmp_path)
    manifest = making.store(data, place)
    assert manifest.data_bytes == size
    assert manifest.stored_bytes == sum(each.size for each in manifest.segments)
    assert making.restore(place, manifest.sha256) == data


@pytest.mark.parametrize("threads", [None, 0, 1, 2, 4])
@pytest.mark.parametrize("level", [1, 19])
def test_levels_and_threads_give_the_same_data(
    tmp_path: pathlib.Path, threads: int | None, level: int
) -> None:
    data = b"".join(making.noise(10_000, seed=seed % 7) for seed in range(100))
    place = making.make_place(tmp_path)
    options = writer.Options(compression_level=level, threads=threads)
    manifest = making.store(data, place, options=options)
    assert manifest.stored_bytes < 200_000
    assert making.restore(place, manifest.sha256) == data


def test_manifest_tells_what_the_backup_is(tmp_path: pathlib.Path) -> None:
    place = making.make_place(tmp_path)
    written = making.store(b"a" * 10_000_000, place)
    stored = reader.open_backup(
        place, key=making.KEY, backup_id=making.BACKUP, manifest_sha256=written.sha256
    )
    manifest = stored.manifest
    assert manifest == written
    assert manifest.kind is states.BackupKind.FULL
    assert stored.kept.facts == manifest.facts == making.FACTS
    assert manifest.archive == manifests.ArchiveStart(epoch="e", sequence=3)
    assert manifest.began <= manifest.completed
    assert manifest.data_bytes == 10_000_000
    assert manifest.stored_bytes < 100_000
    assert len(manifest.segments) == 1


def test_segments_are_whole_chunks_of_the_size_that_was_asked_for(tmp_path: pathlib.Path) -> None:
    place = making.make_place(tmp_path)
    options = writer.Options(segment_bytes=2 * sealing.SEALED_BYTES + 5)
    manifest = making.store(making.noise(5 * _CHUNK), place, options=options)
    *whole, last = manifest.segments
    assert {each.size for each in whole} == {2 * sealing.SEALED_BYTES}
    assert last.size <= 2 * sealing.SEALED_BYTES
