"""Backups on bad days: engines and stores that fail, people who change their minds."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.unit.guestagent.backup import making
from tests.unit.guestagent.backup.stores import (
    PREFIX,
    MemoryAccount,
    account,
    fail,
    memory_place,
    memory_storage,
)
from trove.common import concurrency, exception
from trove.guestagent.backup import pieces, sealing, writer
from trove.guestagent.backup import place as places
from trove.guestagent.backup.progress import Cancelled, Progress
from trove.guestagent.datastores import base
from trove.rpc import payloads
from trove.storage import base as storage
from trove.storage import manifests

__all__ = ["account"]

_CHUNK = sealing.CHUNK_BYTES
_MANIFEST = f"{PREFIX}{manifests.MANIFEST_NAME}"
_DATA = making.noise(4 * _CHUNK)


# -- the engine -----


@pytest.mark.parametrize(
    "stream",
    [
        lambda: making.GivenStream([making.failing()]),
        lambda: making.GivenStream([_DATA, making.failing()]),
        lambda: making.GivenStream([_DATA], facts=making.failing()),
        lambda: making.GivenStream([], facts=making.failing()),
    ],
    ids=["at once", "in the middle", "at the end", "without a byte"],
)
def test_engine_that_failed_has_no_backup(
    account: MemoryAccount, stream: Callable[[], base.Stream]
) -> None:
    with pytest.raises(exception.GuestError, match="mariabackup ended with 1: no space left"):
        making.store(stream(), memory_place())
    assert account.objects == {}


def test_what_cannot_be_described_is_no_backup(account: MemoryAccount) -> None:
    def describe(facts: object) -> writer.Description:
        raise making.failing()

    with pytest.raises(exception.GuestError, match="no space left"):
        making.store(_DATA, memory_place(), describe=describe)
    assert account.objects == {}


# -- the store -----


def test_store_that_fails_now_and_then_is_asked_again(account: MemoryAccount) -> None:
    account.before = fail(7, "put", "open", "find", "delete")
    manifest = making.store(_DATA, memory_place(patience_s=60))
    account.before = fail(7, "open")
    assert making.restore(memory_place(patience_s=60), manifest.sha256) == _DATA


def test_store_that_keeps_failing_ends_the_backup(account: MemoryAccount) -> None:
    failed = fail(None, "put")
    account.before = lambda action, name: (
        failed(action, name) if name.endswith("00000003") else None
    )
    with pytest.raises(exception.GuestError, match=r"00000003: it answered 503") as caught:
        making.store(_DATA, memory_place(patience_s=0.05))
    assert "are left" not in str(caught.value)
    assert account.objects == {}


def test_what_a_failed_backup_leaves_is_told(account: MemoryAccount) -> None:
    account.before = fail(None, "delete")
    stream = making.GivenStream([_DATA, making.failing()])
    with pytest.raises(exception.GuestError) as caught:
        making.store(stream, memory_place())
    # the last chunks were still to be stored
    left = len(account.objects)
    assert left > 0
    assert "no space left" in str(caught.value)
    assert f"below backups/{PREFIX}" in str(caught.value)
    assert "objects that it stored" in str(caught.value)


@pytest.mark.parametrize(
    "lie",
    [
        lambda stored: dataclasses.replace(stored, etag="0" * 32),
        lambda stored: dataclasses.replace(stored, size_bytes=stored.size_bytes - 1),
    ],
    ids=["digest", "size"],
)
@pytest.mark.parametrize("liar", ["00000001", manifests.MANIFEST_NAME])
def test_store_must_have_what_was_sent(
    account: MemoryAccount,
    lie: Callable[[storage.StoredObject], storage.StoredObject],
    liar: str,
) -> None:
    account.say = lambda stored: lie(stored) if stored.name.endswith(liar) else stored
    with pytest.raises(exception.GuestError, match=liar):
        making.store(_DATA, memory_place())
    assert account.objects == {}
    lies = iter([True, True])
    account.say = lambda stored: (
        lie(stored) if stored.name.endswith(liar) and next(lies, False) else stored
    )
    manifest = making.store(_DATA, memory_place(patience_s=60))
    assert making.restore(memory_place(), manifest.sha256) == _DATA


@pytest.mark.parametrize(
    "keep",
    [lambda content: None, lambda content: content[:-1] + b" ", lambda content: content[:-1]],
    ids=["not kept", "damaged", "cut off"],
)
def test_manifest_that_reads_otherwise_is_no_manifest(
    account: MemoryAccount, keep: Callable[[bytes], bytes | None]
) -> None:
    account.keep = lambda name, content: keep(content) if name == _MANIFEST else content
    with pytest.raises(exception.GuestError, match="manifest"):
        making.store(_DATA, memory_place())
    assert account.objects == {}


def test_manifest_is_stored_last(account: MemoryAccount) -> None:
    put: list[str] = []
    account.before = lambda action, name: put.append(name) if action == "put" else None
    manifest = making.store(_DATA, memory_place())
    assert put == [
        *(PREFIX + each.name for each in manifest.segments),
        _MANIFEST,
    ]


def test_engine_is_held_back_while_the_store_is_away(account: MemoryAccount) -> None:
    """It is neither read into memory nor lost."""
    is_away = threading.Event()
    is_back = threading.Event()
    given = 0

    def blocks() -> Iterator[bytes]:
        nonlocal given
        for start in range(0, 20 * _CHUNK, _CHUNK):
            given = start
            yield making.noise(_CHUNK, seed=start)

    def before(action: str, name: str) -> None:
        if name.endswith("00000002"):
            is_away.set()
            is_back.wait(20)

    account.before = before
    progress = Progress(20 * _CHUNK)
    results: list[manifests.Manifest] = []
    thread = threading.Thread(
        target=lambda: results.append(
            making.store(
                making.GivenStream(blocks()),
                memory_place(),
                options=writer.Options(segment_bytes=sealing.SEALED_BYTES, threads=0),
                progress=progress,
            )
        )
    )
    thread.start()
    try:
        assert is_away.wait(20)
        seen = -1
        # it goes on until all that may wait does
        while seen != (seen := progress.done_bytes):
            threading.Event().wait(0.2)
        # two segments stored, two on their way, one being filled and sealed
        assert progress.done_bytes <= 8 * _CHUNK
        assert given <= 8 * _CHUNK
    finally:
        is_back.set()
        thread.join(20)
    assert making.restore(memory_place(), results[0].sha256) == b"".join(
        making.noise(_CHUNK, seed=start) for start in range(0, 20 * _CHUNK, _CHUNK)
    )


# -- grants -----


def _expire(account: MemoryAccount, good: int) -> None:
    """Let the store know the grant of a number only."""

    def before(action: str, name: str) -> None:
        if account.opened[-1]["number"] < good:
            raise storage.StorageError(reason="the signed URL has expired")

    account.before = before


def test_grant_that_is_refused_is_renewed(account: MemoryAccount) -> None:
    clock = concurrency.ManualClock()
    clock.advance(1)
    asked: list[Any] = []

    def renew(names: Any) -> payloads.ObjectStorage:
        asked.append(names)
        return memory_storage(len(asked))

    place = places.Place(
        memory_storage(), renew=renew, clock=clock, patience_s=60, first_pause_s=0.001
    )
    _expire(account, 1)
    clock.advance(10)
    place.put("a", b"content")
    assert asked == [["a"]]
    _expire(account, 2)
    clock.advance(10)
    assert place.get("a", most_bytes=100) == b"content"
    assert len(asked) == 2


def test_grant_is_renewed_before_it_expires(account: MemoryAccount) -> None:
    clock = concurrency.ManualClock()
    asked: list[Any] = []

    def renew(names: Any) -> payloads.ObjectStorage | None:
        asked.append(clock.monotonic())
        # the control plane is away once
        return None if len(asked) == 1 else memory_storage(len(asked), valid_s=100)

    place = places.Place(memory_storage(valid_s=100), renew=renew, clock=clock)
    for _ in range(30):
        place.put("a", b"content")
        clock.advance(10)
    assert asked == [80, 90, 170, 250]
    assert [each["number"] for each in account.opened] == [0, 2, 3, 4]


def test_control_plane_that_is_away_does_not_end_what_goes_on(account: MemoryAccount) -> None:
    clock = concurrency.ManualClock()

    def renew(names: Any) -> payloads.ObjectStorage:
        raise exception.ServiceUnavailable(reason="nobody answers")

    place = places.Place(memory_storage(valid_s=1), renew=renew, clock=clock)
    clock.advance(10)
    assert place.put("a", b"content").size_bytes == 7


# -- cancelling -----


class _Hanging(making.GivenStream):
    """Gives some data and then nothing until it is closed."""

    def __init__(self, data: bytes) -> None:
        super().__init__([data])
        self.is_hanging = threading.Event()
        self._is_closed = threading.Event()

    def read(self, most: int) -> bytes:
        data = super().read(most)
        if not data:
            self.is_hanging.set()
            assert self._is_closed.wait(20)
            raise ValueError("read of closed file")
        return data

    def close(self) -> None:
        super().close()
        self._is_closed.set()


def _cancel_when(is_time: threading.Event, progress: Progress) -> threading.Thread:
    def cancel() -> None:
        if is_time.wait(20):
            progress.cancel("by its owner")

    thread = threading.Thread(target=cancel)
    thread.start()
    return thread


def test_cancel_ends_an_engine_that_hangs(account: MemoryAccount) -> None:
    progress, stream = Progress(), _Hanging(_DATA)
    thread = _cancel_when(stream.is_hanging, progress)
    with pytest.raises(Cancelled, match="by its owner"):
        making.store(stream, memory_place(), progress=progress)
    thread.join(20)
    assert stream.closed == 1
    assert account.objects == {}


def test_cancel_ends_waiting_for_a_store(account: MemoryAccount) -> None:
    progress, is_failing = Progress(), threading.Event()
    failed = fail(None, "put")

    def before(action: str, name: str) -> None:
        if name.endswith("00000001"):
            is_failing.set()
            failed(action, name)

    account.before = before
    place = places.Place(memory_storage(), patience_s=3600, first_pause_s=600)
    thread = _cancel_when(is_failing, progress)
    with pytest.raises(Cancelled, match="by its owner"):
        making.store(_DATA, place, progress=progress)
    thread.join(20)
    assert account.objects == {}


def test_engine_that_failed_does_not_wait_for_a_store(account: MemoryAccount) -> None:
    is_failing = threading.Event()
    failed = fail(None, "put")

    def before(action: str, name: str) -> None:
        is_failing.set()
        failed(action, name)

    def blocks() -> Iterator[bytes | Exception]:
        yield _DATA[: 2 * _CHUNK]
        assert is_failing.wait(20)
        yield making.failing()

    account.before = before
    place = places.Place(memory_storage(), patience_s=3600, first_pause_s=600)
    with pytest.raises(exception.GuestError, match="no space left"):
        making.store(making.GivenStream(blocks()), place)


def test_cancel_ends_waiting_for_the_rate(account: MemoryAccount) -> None:
    progress, is_slow = Progress(), threading.Event()
    thread = _cancel_when(is_slow, progress)

    def blocks() -> Iterator[bytes]:
        yield b"a" * 10
        is_slow.set()
        yield b"a" * 100_000

    with pytest.raises(Cancelled):
        making.store(
            making.GivenStream(blocks()),
            memory_place(),
            options=writer.Options(rate_limit_bytes_s=1000),
            progress=progress,
        )
    thread.join(20)


@pytest.mark.parametrize("moment", range(14))
def test_cancel_at_any_moment_leaves_nothing(account: MemoryAccount, moment: int) -> None:
    """At every call of the store that is made while a backup is."""
    progress = Progress()
    calls: list[str] = []

    def before(action: str, name: str) -> None:
        if len(calls) == moment and action != "delete":
            progress.cancel()
        calls.append(action)

    account.before = before
    # one for each segment, the manifest, reading it
    if moment < 7:
        with pytest.raises(Cancelled):
            making.store(_DATA, memory_place(), progress=progress)
        assert account.objects == {}
        assert progress.percent is None
    else:
        manifest = making.store(_DATA, memory_place(), progress=progress)
        assert progress.percent == 100
        assert making.restore(memory_place(), manifest.sha256) == _DATA


def test_restore_is_cancelled(account: MemoryAccount) -> None:
    manifest = making.store(_DATA, memory_place())
    progress = Progress(manifest.data_bytes)
    account.before = lambda action, name: progress.cancel() if name.endswith("00000003") else None
    with pytest.raises(Cancelled):
        making.restore(memory_place(), manifest.sha256, progress=progress)


# -- pieces of a log -----


def test_piece_whose_stream_failed_is_not_there(account: MemoryAccount) -> None:
    for stream in (
        making.GivenStream([making.noise(20 * 1024 * 1024), making.failing()]),
        making.GivenStream([b"some"], facts=making.failing()),
    ):
        piece = base.Piece(until={}, as_of_s=1.0, stream=stream)
        with pytest.raises(exception.GuestError, match="no space left"):
            pieces.put(memory_place(), 4, piece, key=making.KEY, epoch="e")
    assert account.objects == {}


def test_piece_that_failed_leaves_the_former_one(account: MemoryAccount) -> None:
    def put(content: bytes) -> int:
        piece = base.Piece(until={}, as_of_s=1.0, stream=making.GivenStream([content]))
        return pieces.put(memory_place(), 4, piece, key=making.KEY, epoch="e")

    assert put(b"first") == sum(map(len, account.objects.values()))
    account.before = fail(None, "put")
    with pytest.raises(exception.GuestError, match="503"):
        put(b"second")
    (kept,) = pieces.iterate(memory_place(), 4, None, key=making.KEY, epoch="e")
    assert making.read(kept) == b"first"
    account.before = lambda action, name: None
    put(b"second")
    (again,) = pieces.iterate(memory_place(), 4, None, key=making.KEY, epoch="e")
    assert making.read(again) == b"second"
    with pytest.raises(exception.GuestError, match="piece 5"):
        list(pieces.iterate(memory_place(), 4, 5, key=making.KEY, epoch="e"))
