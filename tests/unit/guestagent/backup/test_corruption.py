"""Whatever happens to what is stored is found when it is read, and told; nothing false is given."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.unit.guestagent.backup import making
from tests.unit.guestagent.backup.stores import PREFIX, MemoryAccount, account, memory_place
from trove.common import exception
from trove.guestagent.backup import pieces, reader, sealing, writer
from trove.guestagent.datastores import base
from trove.storage import manifests

__all__ = ["account"]

_MANIFEST = f"{PREFIX}{manifests.MANIFEST_NAME}"
_OTHER = "22222222-2222-4222-8222-222222222222"
_EPOCH = "epoch-1"


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a backup of some chunks so small that each of its bytes can be damaged."""
    monkeypatch.setattr(sealing, "SEALED_BYTES", 96)
    monkeypatch.setattr(sealing, "CHUNK_BYTES", 80)
    monkeypatch.setattr(pieces, "PART_BYTES", 200)


def _make(seed: int, *, backup_id: str = making.BACKUP) -> tuple[bytes, manifests.Manifest]:
    """Store 4 segments of up to 2 chunks each."""
    data = making.noise(570, seed=seed)
    manifest = making.store(
        making.GivenStream([data]),
        memory_place(),
        backup_id=backup_id,
        options=writer.Options(segment_bytes=192, threads=0),
    )
    assert [each.size for each in manifest.segments[:3]] == [192] * 3
    assert len(manifest.segments) == 4
    return data, manifest


@pytest.fixture
def data(account: MemoryAccount) -> bytes:
    return _make(1)[0]


def _read(
    manifest_sha256: str | None, *, key: bytes = making.KEY, backup_id: str = making.BACKUP
) -> Iterator[bytes]:
    stored = reader.open_backup(
        memory_place(), key=key, backup_id=backup_id, manifest_sha256=manifest_sha256
    )
    with stored.kept.open() as content:
        yield from iter(lambda: content.read(50), b"")


def _refuse(data: bytes, manifest_sha256: str | None, *told: str, **kwargs: object) -> None:
    """Require that reading fails, telling so, and has given nothing but what was stored."""
    reason = _refuse_pieces(data, _read(manifest_sha256, **kwargs))  # type: ignore[arg-type]
    for text in told:
        assert text in reason


def _refuse_pieces(data: bytes, pieces_: Iterator[bytes]) -> str:
    given = bytearray()

    def take_all() -> None:
        for piece in pieces_:
            given.extend(piece)

    with pytest.raises(exception.GuestError) as caught:
        take_all()
    assert data.startswith(given)
    assert len(given) < len(data)
    return str(caught.value)


def _sha256(account: MemoryAccount) -> str:
    return manifests.Manifest.from_json(account.objects[_MANIFEST]).sha256


def _segments(account: MemoryAccount) -> list[str]:
    return sorted(name for name in account.objects if name != _MANIFEST)


def test_every_flipped_bit_of_a_segment_is_found(account: MemoryAccount, data: bytes) -> None:
    sha256 = _sha256(account)
    assert b"".join(_read(sha256)) == data
    for name in _segments(account):
        content = account.objects[name]
        for place in range(len(content)):
            damaged = bytearray(content)
            damaged[place] ^= 1 << place % 8
            account.objects[name] = bytes(damaged)
            _refuse(data, sha256, name, "damaged")
        account.objects[name] = content
    assert b"".join(_read(sha256)) == data


@pytest.mark.parametrize("is_known", [True, False], ids=["known", "unknown"])
def test_every_flipped_bit_of_the_manifest_is_found(
    account: MemoryAccount, data: bytes, *, is_known: bool
) -> None:
    sha256 = _sha256(account) if is_known else None
    content = account.objects[_MANIFEST]
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        account.objects[_MANIFEST] = bytes(damaged)
        _refuse(data, sha256, _MANIFEST)
    account.objects[_MANIFEST] = content
    assert b"".join(_read(sha256)) == data


def test_what_is_cut_off_or_longer_is_found(account: MemoryAccount, data: bytes) -> None:
    sha256 = _sha256(account)
    for name, content in list(account.objects.items()):
        for size in range(0, len(content), 7):
            account.objects[name] = content[:size]
            _refuse(data, sha256, name)
        account.objects[name] = content + b"\0"
        _refuse(data, sha256, name)
        account.objects[name] = content


def test_what_is_missing_is_found(account: MemoryAccount, data: bytes) -> None:
    sha256 = _sha256(account)
    for name in list(account.objects):
        content = account.objects.pop(name)
        _refuse(data, sha256, name, "missing")
        account.objects[name] = content


def test_segments_in_another_order_are_found(account: MemoryAccount, data: bytes) -> None:
    sha256 = _sha256(account)
    names = _segments(account)
    for first in names:
        for second in names:
            if first != second:
                contents = account.objects.copy()
                account.objects[first] = contents[second]
                _refuse(data, sha256, first)
                account.objects.update(contents)


def test_segments_of_another_attempt_or_backup_are_found(
    account: MemoryAccount, data: bytes
) -> None:
    kept = account.objects.copy()
    sha256 = _sha256(account)
    names = _segments(account)
    for seed, backup_id in ((1, making.BACKUP), (2, making.BACKUP), (1, _OTHER)):
        account.objects.clear()
        _make(seed, backup_id=backup_id)
        others = account.objects.copy()
        segments = _segments(account)
        for number, name in enumerate(names):
            account.objects.clear()
            account.objects |= kept | {name: others[segments[number]]}
            _refuse(data, sha256, name, "damaged")
        # another manifest, whole and by the same key, is not the one that is known
        account.objects |= kept | {_MANIFEST: others[_MANIFEST]}
        _refuse(data, sha256, _MANIFEST)
        if backup_id != making.BACKUP:
            _refuse(data, None, _MANIFEST, _OTHER)


def test_manifest_that_names_segments_otherwise_cannot_be_made_without_the_key(
    account: MemoryAccount, data: bytes
) -> None:
    manifest = manifests.Manifest.from_json(account.objects[_MANIFEST])
    names = _segments(account)
    # who can write to the store alone, and knows how manifests are made
    account.objects[names[0]] = b"\0" * 192
    forged = manifests.Manifest.from_json(
        account.objects[_MANIFEST].replace(
            manifest.segments[0].sha256.encode(),
            b"%064x" % 0,
        )
    )
    account.objects[_MANIFEST] = forged.signed(b"x" * 32).to_json()
    _refuse(data, None, _MANIFEST, "key")


@pytest.mark.parametrize(
    "change",
    [
        lambda first, second, *rest: (first[96:] + first[:96], second, *rest),
        lambda first, second, *rest: (second, first, *rest),
        lambda first, second, *rest: (first[:96], second, *rest),
        lambda first, second, *rest: (first + second[:96], second, *rest),
        lambda first, second, *rest: (bytes([first[0] ^ 1]) + first[1:], second, *rest),
        lambda first, second, *rest: (second, *rest),
        lambda *all_: all_[:-1],
        lambda *all_: (*all_, all_[-1]),
        lambda *all_: (*all_, b""),
    ],
    ids=[
        "chunks exchanged",
        "segments exchanged",
        "chunk left out",
        "chunk twice",
        "flipped",
        "first left out",
        "last left out",
        "last twice",
        "empty one behind the last",
    ],
)
def test_the_seals_alone_tell_what_no_digest_told(
    account: MemoryAccount, data: bytes, change: Callable[..., tuple[bytes, ...]]
) -> None:
    manifest = manifests.Manifest.from_json(account.objects[_MANIFEST])
    contents = change(*(account.objects[name] for name in _segments(account)))
    cipher = sealing.Cipher(making.KEY, f"backup:{making.BACKUP}:{manifest.attempt}")
    sealed = reader.SealedContent(_Given(contents), cipher, data_bytes=manifest.data_bytes)
    _refuse_pieces(data, _pieces_of(sealed))


def _pieces_of(sealed: base.Content) -> Iterator[bytes]:
    with sealed as content:
        yield from iter(lambda: content.read(50), b"")


class _Given:
    """Segments that nobody checked."""

    def __init__(self, contents: tuple[bytes, ...]) -> None:
        self._contents = contents

    def __enter__(self) -> _Given:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def __iter__(self) -> Iterator[reader.Fetched]:
        for number, content in enumerate(self._contents):
            yield reader.Fetched(
                label=f"segment {number}",
                content=memoryview(content),
                is_last=number == len(self._contents) - 1,
            )


def test_wrong_key_is_told(account: MemoryAccount, data: bytes) -> None:
    _refuse(data, _sha256(account), "key", key=b"x" * 32)
    _refuse(data, None, "key", key=b"x" * 32)


def test_damage_on_the_way_is_fetched_again(account: MemoryAccount, data: bytes) -> None:
    name = _segments(account)[1]
    content = account.objects[name]
    account.objects[name] = content[:-1] + bytes([content[-1] ^ 1])
    reads = []

    def heal(action: str, asked: str) -> None:
        if (action, asked) == ("open", name):
            reads.append(asked)
            if len(reads) == 2:
                account.objects[name] = content

    account.before = heal
    assert b"".join(_read(_sha256(account))) == data
    assert len(reads) == 2


# -- pieces of a log -----


def _put_pieces(sizes: list[int]) -> list[bytes]:
    contents = [making.noise(size, seed=size) for size in sizes]
    for sequence, content in enumerate(contents):
        piece = base.Piece(
            until={"at": sequence},
            as_of_s=float(sequence),
            stream=making.GivenStream([content]),
        )
        pieces.put(memory_place(), sequence, piece, key=making.KEY, epoch=_EPOCH)
    return contents


def _read_pieces(
    last: int | None, *, first: int = 0, key: bytes = making.KEY, epoch: str = _EPOCH
) -> list[bytes]:
    found = pieces.iterate(memory_place(), first, last, key=key, epoch=epoch)
    return [making.read(each, most=50) for each in found]


def test_every_damage_to_a_piece_is_found(account: MemoryAccount) -> None:
    contents = _put_pieces([60, 300])
    assert _read_pieces(1) == contents
    # the first is one object, the second has parts
    assert len(account.objects) > 3
    for name, content in list(account.objects.items()):
        number = int(name.removeprefix(PREFIX)[:12])

        def refuse(number: int = number) -> None:
            with pytest.raises(exception.GuestError, match=f"piece {number} of the log"):
                _read_pieces(number, first=number)

        for place in range(len(content)):
            damaged = bytearray(content)
            damaged[place] ^= 1 << place % 8
            account.objects[name] = bytes(damaged)
            refuse()
        for size in range(0, len(content), 7):
            account.objects[name] = content[:size]
            refuse()
        account.objects[name] = content
    assert _read_pieces(1) == contents


def test_exchanged_pieces_and_those_of_other_epochs_are_found(account: MemoryAccount) -> None:
    _put_pieces([60, 61])
    first, second = (f"{PREFIX}{pieces.piece_name(number)}" for number in (0, 1))
    account.objects[first], account.objects[second] = (
        account.objects[second],
        account.objects[first],
    )
    with pytest.raises(exception.GuestError, match="piece 0 of the log"):
        _read_pieces(1)
    _put_pieces([60, 61])
    with pytest.raises(exception.GuestError, match="key"):
        _read_pieces(1, key=b"x" * 32)
    with pytest.raises(exception.GuestError, match="piece 0 of the log"):
        _read_pieces(1, epoch="epoch-2")


def test_missing_piece_is_told_unless_it_may_be_the_end(account: MemoryAccount) -> None:
    contents = _put_pieces([60, 61, 62])
    del account.objects[f"{PREFIX}{pieces.piece_name(1)}"]
    with pytest.raises(exception.GuestError, match="piece 1 of the log"):
        _read_pieces(2)
    assert _read_pieces(None) == contents[:1]


def test_missing_part_of_a_piece_is_told(account: MemoryAccount) -> None:
    _put_pieces([500])
    for name in [each for each in account.objects if "-" in each.removeprefix(PREFIX)]:
        content = account.objects.pop(name)
        with pytest.raises(exception.GuestError, match=r"part of piece 0 of the log.*missing"):
            _read_pieces(0)
        account.objects[name] = content
