"""Pieces of a log: one object each, or parts; complete, in order, the epoch's own."""

from __future__ import annotations

import pathlib

from tests.unit.guestagent.backup import making
from trove.guestagent.backup import pieces
from trove.guestagent.backup import place as places
from trove.guestagent.datastores import base

_EPOCH = "e1"


def _put(place: places.Place, sequence: int, data: bytes, **kwargs: object) -> int:
    piece = base.Piece(
        until={"lsn": sequence},
        as_of_s=1000.0 + sequence,
        stream=making.GivenStream(making.blocks_of(data), facts={"from": sequence}),
    )
    return pieces.put(place, sequence, piece, key=making.KEY, epoch=_EPOCH)


def test_pieces_come_back_in_order(tmp_path: pathlib.Path) -> None:
    place = making.make_place(tmp_path, prefix="i/archive/e1/")
    data = [making.noise(size, seed=size) for size in (0, 10, 100_000, 9_000_000, 20_000_000)]
    for sequence, each in enumerate(data, start=7):
        assert _put(place, sequence, each) >= len(each)
    found = list(pieces.iterate(place, 7, None, key=making.KEY, epoch=_EPOCH))
    assert [each.facts for each in found] == [
        {"from": n, "until": {"lsn": n}, "as_of_s": 1000.0 + n} for n in range(7, 12)
    ]
    assert [making.read(each) for each in found] == data
    again = pieces.iterate(place, 8, 9, key=making.KEY, epoch=_EPOCH)
    assert [making.read(each) for each in again] == data[1:3]
