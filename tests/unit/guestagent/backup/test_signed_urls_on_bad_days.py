"""Backups in a real Swift and a real S3 by signed URLs; a proxy before them has bad days."""

from __future__ import annotations

import dataclasses
import pathlib
import uuid
from collections.abc import Iterator, Sequence

import pytest

from tests.fixtures import s3
from tests.fixtures.ceph import ceph, is_wanted
from tests.fixtures.faulty_proxy import Fault, FaultyProxy
from tests.fixtures.swift import Swift, swift
from tests.unit.guestagent.backup import making
from trove.common import exception
from trove.guestagent.backup import pieces, sealing, writer
from trove.guestagent.backup import place as places
from trove.guestagent.datastores import base
from trove.rpc import payloads
from trove.storage import base as storage
from trove.storage import grants, manifests

__all__ = ["ceph", "swift"]

_BOX = "database_backups"
_DATA = making.noise(3 * sealing.CHUNK_BYTES)
_PREFIX = f"i/{making.BACKUP}/"


class _Granted:
    """A place by signed URLs that lead to the proxy."""

    def __init__(self, store: storage.Store, proxy: FaultyProxy) -> None:
        self.store, self.proxy, self.project = store, proxy, uuid.uuid4().hex
        self.asked: list[Sequence[str]] = []

    def renew(self, names: Sequence[str]) -> payloads.ObjectStorage:
        self.asked.append(names)
        made = grants.make(self.store, self.project, container=_BOX, prefix=_PREFIX, names=names)
        return dataclasses.replace(made, grant={**made.grant, "url": self.proxy.url}, valid_s=None)

    def place(self, *, patience_s: float = 60) -> places.Place:
        return places.Place(
            self.renew([]), renew=self.renew, patience_s=patience_s, first_pause_s=0.001
        )

    def names(self) -> list[str]:
        return [each.name for each in self.store.account(self.project).list(_BOX)]


@pytest.fixture(params=["swift", "s3", *(["ceph"] if is_wanted() else [])])
def granted(
    request: pytest.FixtureRequest, swift: Swift, tmp_path: pathlib.Path
) -> Iterator[_Granted]:
    served: Swift | s3.Endpoint = swift
    store: storage.Store
    if request.param == "swift":
        store = swift.make_store(tmp_path)
    else:
        served = swift.s3 if request.param == "s3" else request.getfixturevalue("ceph")
        store = s3.make_store(served, tmp_path)
    with FaultyProxy(served.url) as proxy:
        yield _Granted(store, proxy)


def test_backup_of_some_segments_comes_back(granted: _Granted) -> None:
    data = making.noise(20 * 1024 * 1024)
    manifest = making.store(data, granted.place(), options=writer.Options())
    assert [each.size >> 20 for each in manifest.segments] == [8, 8, 4]
    assert granted.names() == sorted(
        _PREFIX + name for name in [*(each.name for each in manifest.segments), "manifest.json"]
    )
    assert making.restore(granted.place(), manifest.sha256) == data
    if granted.store.kind == "s3":
        # the place, its first names, the manifest: what follows is not asked for one by one
        number = [f"{manifest.attempt}/{number:08d}" for number in range(4)]
        assert granted.asked[:3] == [[], number, [manifests.MANIFEST_NAME]]
        assert len(granted.asked) == 6


def test_bad_days_that_end_cost_nothing_but_time(granted: _Granted) -> None:
    """Each request meets its row of faults, and goes through in the end."""
    faults: list[tuple[str, str, list[str | int]]] = [
        ("PUT", "00000000", [500, 503, 507, 413]),
        ("PUT", "00000001", [401, "drop", "cut", "slow"]),
        ("PUT", "00000002", ["swallow", "lie", "flip"]),
        ("PUT", manifests.MANIFEST_NAME, [500, "drop", "swallow", "flip"]),
        ("HEAD", "00000001", [500, "drop", "lie"]),
        ("HEAD", manifests.MANIFEST_NAME, [401, "drop", "lie"]),
        ("GET", "00000001", [500, 401, "drop", "cut", "slow"]),
        ("GET", manifests.MANIFEST_NAME, [500, "drop", "cut", "flip"]),
    ]
    granted.proxy.faults = [
        Fault(method=method, action=action, name=name)
        for method, name, actions in faults
        for action in actions
    ]
    manifest = making.store(_DATA, granted.place())
    assert making.restore(granted.place(), manifest.sha256) == _DATA
    # all of it happened
    assert {fault.times for fault in granted.proxy.faults} == {0}


@pytest.mark.parametrize(
    ("name", "action"),
    [
        ("00000001", 507),
        ("00000001", "drop"),
        ("00000001", "swallow"),
        ("00000001", "lie"),
        (manifests.MANIFEST_NAME, "flip"),
    ],
)
def test_bad_days_that_do_not_end_leave_no_backup(
    granted: _Granted, action: str | int, name: str
) -> None:
    granted.proxy.faults = [Fault(method="PUT", action=action, name=name, times=None)]
    with pytest.raises(exception.GuestError, match=name):
        making.store(_DATA, granted.place(patience_s=0.2))
    assert granted.names() == []


def test_flipped_bit_on_the_way_back_is_fetched_again(granted: _Granted) -> None:
    manifest = making.store(_DATA, granted.place())
    granted.proxy.faults = [Fault(method="GET", action="flip", name="00000001")]
    assert making.restore(granted.place(), manifest.sha256) == _DATA
    granted.proxy.faults = [Fault(method="GET", action="flip", name="00000001", times=None)]
    with pytest.raises(exception.GuestError, match=r"segment 2 of 4 .*00000001\) is damaged"):
        making.restore(granted.place(patience_s=0), manifest.sha256)


def test_piece_of_a_log_comes_back(granted: _Granted) -> None:
    granted.proxy.faults = [Fault(method="PUT", action=503, times=2)]
    data = making.noise(9 * 1024 * 1024)
    piece = base.Piece(until={}, as_of_s=1.0, stream=making.GivenStream([data]))
    pieces.put(granted.place(), 0, piece, key=making.KEY, epoch="e")
    (kept,) = pieces.iterate(granted.place(), 0, None, key=making.KEY, epoch="e")
    assert making.read(kept) == data
