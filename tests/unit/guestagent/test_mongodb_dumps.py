"""What backups of MongoDB are as bytes, and what is made of them for mongorestore."""

from __future__ import annotations

import datetime
import io
import json
import struct
from collections.abc import Iterator

import bson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fixtures import keeping
from trove.common import exception
from trove.guestagent.datastores import base
from trove.guestagent.datastores.mongodb import backup, dumps, oplog

_TERMINATOR = b"\xff\xff\xff\xff"


def block(name: str, *documents: bytes, is_end: bool = False) -> bytes:
    head = bson.encode({"db": "shop", "collection": name, "EOF": is_end, "CRC": bson.Int64(7)})
    return head + b"".join(documents) + _TERMINATOR


def archive(*names: str, last: bytes = b"") -> bytes:
    """Return an archive as mongodump makes it."""
    prelude = [bson.encode({"version": "0.1"})]
    prelude += [bson.encode({"db": "shop", "collection": name}) for name in names]
    blocks = [block(name, bson.encode({"name": name})) + block(name, is_end=True) for name in names]
    return struct.pack("<I", 0x8199E26D) + b"".join(prelude) + _TERMINATOR + b"".join(blocks) + last


def entry(seconds: int, number: int, *, op: str = "i") -> bytes:
    wall = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return bson.encode(
        {"op": op, "ns": "shop.a", "o": {}, "ts": bson.Timestamp(seconds, number), "t": 1}
        | {"wall": wall}
    )


def parts(data: bytes, size: int) -> Iterator[bytes]:
    for place in range(0, len(data), size):
        yield data[place : place + size]


def keep(stream: io.BytesIO, data: bytes) -> None:
    stream.write(data)


def framed(*frames: tuple[bytes, bytes], told: dict[str, int] | None = None) -> bytes:
    sizes = {
        kind: sum(len(data) for each, data in frames if each == kind)
        for kind in (dumps.ARCHIVE, dumps.OPLOG)
    }
    end = dumps.summary(sizes[dumps.ARCHIVE], sizes[dumps.OPLOG]) if told is None else told
    return (
        dumps.MAGIC
        + b"".join(dumps.frame(*each) for each in frames)
        + dumps.frame(dumps.END, json.dumps(end).encode())
    )


@settings(max_examples=25)
@given(size=st.integers(1, 400))
def test_a_whole_archive_is_told_from_all_others(size: int) -> None:
    whole = archive("a", "b", "c")

    def is_whole(data: bytes) -> bool:
        watch = dumps.Watch()
        for part in parts(data, size):
            watch.see(part)
        return watch.is_whole()

    assert is_whole(whole)
    assert not is_whole(whole[:-1])
    assert not is_whole(whole[: len(whole) - size])
    # one collection was not dumped, its blocks are not there
    assert not is_whole(whole[: whole.index(block("c", bson.encode({"name": "c"})))])
    assert not is_whole(archive("a", "b", last=b"more"))


def test_what_is_no_archive_is_refused_at_once() -> None:
    with pytest.raises(exception.GuestError, match="no archive"):
        dumps.Watch().see(b"Failed: no luck\n")


@settings(max_examples=25)
@given(size=st.integers(1, 400))
def test_the_oplog_stands_behind_the_archive_with_its_checksum(size: int) -> None:
    made = io.BytesIO()
    writer = dumps.Writer(lambda data: keep(made, data))
    for part in parts(archive("a", "b"), size):
        writer.archive(part)
    entries = [entry(100, 1), entry(100, 2)]
    for each in entries:
        writer.entry(each)
    writer.end()
    found = made.getvalue()
    name = {"db": "", "collection": "oplog"}
    listed = bson.encode({**name, "metadata": "", "size": 0, "type": ""})
    assert found.count(listed) == 1
    rest = archive("a", "b").partition(_TERMINATOR)[2]
    begin = bson.encode({**name, "EOF": False, "CRC": bson.Int64(0)})
    assert found.partition(listed + _TERMINATOR)[2].startswith(rest + begin + b"".join(entries))
    checksum = dumps._Checksum()
    checksum.add(b"".join(entries))
    end = bson.decode(_last(found))
    assert end == {**name, "EOF": True, "CRC": end["CRC"]}
    assert end["CRC"] % (1 << 64) == checksum.value


def _last(data: bytes) -> bytes:
    """Return the last document of an archive."""
    size = len(bson.encode({"db": "", "collection": "oplog", "EOF": True, "CRC": bson.Int64(0)}))
    return data[-size - len(_TERMINATOR) : -len(_TERMINATOR)]


def test_the_checksum_is_the_one_of_archives() -> None:
    # of "123456789", by the catalogue of parametrised CRC algorithms (CRC-64/XZ)
    checksum = dumps._Checksum()
    checksum.add(b"1234")
    checksum.add(b"56789")
    assert checksum.value == 0x995DC9BBDF1939FA


@pytest.mark.parametrize("cut", [1, 5, 30, 60])
def test_frames_that_are_cut_off_are_told(cut: int) -> None:
    data = framed((dumps.ARCHIVE, b"abc"), (dumps.OPLOG, entry(1, 1)))
    assert len(list(dumps.frames(io.BytesIO(data).read))) == 2
    with pytest.raises(exception.GuestError):
        list(dumps.frames(io.BytesIO(data[:-cut]).read))


def test_frames_that_are_missing_or_too_many_are_told() -> None:
    frames = ((dumps.ARCHIVE, b"abc"), (dumps.OPLOG, entry(1, 1)))
    for wrong in (
        framed(*frames[:1], told=dumps.summary(3, len(entry(1, 1)))),
        framed(*frames) + b"x",
        framed((b"X", b"abc")),
        b"TROVERDB" + framed(*frames)[8:],
    ):
        with pytest.raises(exception.GuestError):
            list(dumps.frames(io.BytesIO(wrong).read))


@settings(max_examples=25)
@given(size=st.integers(1, 200), count=st.integers(0, 10))
def test_entries_are_read_in_whatever_parts_they_come(size: int, count: int) -> None:
    entries = [entry(100, number) for number in range(count)]
    data = b"".join(entries)
    stream = io.BytesIO(data)
    assert list(oplog.documents(lambda _: stream.read(size))) == entries
    assert list(oplog.split(data)) == entries
    if data:
        stream = io.BytesIO(data[:-1])
        with pytest.raises(exception.GuestError, match="cut off"):
            list(oplog.documents(lambda _: stream.read(size)))
        with pytest.raises(exception.GuestError):
            list(oplog.split(data[:-1]))


def test_times_are_in_order_of_seconds_and_numbers() -> None:
    times = [oplog.OpTime.parse(text) for text in ("9:10", "10:2", "10:10")]
    assert times[0] < times[1] < times[2]
    assert [str(each) for each in times] == ["9:10", "10:2", "10:10"]
    assert oplog.OpTime.of(times[1].timestamp) == times[1]
    for wrong in ("", "1", "1:", ":1", "-1:1", "1:2:3", "x:1", "1" * 20 + ":11", None):
        with pytest.raises(exception.GuestError):
            oplog.OpTime.parse(wrong)


def test_an_entry_tells_when_it_was_and_whether_it_says_anything() -> None:
    found = oplog.read_entry(entry(1_700_000_000, 3))
    assert (str(found.time), found.term, found.wall_s) == ("1700000000:3", 1, 1_700_000_000.0)
    assert not found.is_noop
    assert oplog.read_entry(entry(1, 1, op="n")).is_noop
    with pytest.raises(exception.GuestError, match="makes no sense"):
        oplog.read_entry(bson.encode({"op": "i"}))


# -- what is replayed -----


def full(*entries: bytes, start: str = "100:1", until: str = "100:3", **facts: object) -> base.Kept:
    """Return a backup with these entries of the oplog."""
    data = framed((dumps.ARCHIVE, archive("a")), (dumps.OPLOG, b"".join(entries)))
    known = {"engine": "mongodb", "from": start, "until": until, "until_s": 100.0}
    return keeping.kept(data, {**known, **facts})


def piece(*times: tuple[int, int], start: str) -> base.Kept:
    """Return a piece of the shipped log."""
    last = f"{times[-1][0]}:{times[-1][1]}"
    data = b"".join(entry(*each) for each in times)
    return keeping.kept(data, {"from": start, "until": last})


FULL = full(entry(100, 2), entry(100, 3))
#: The first begins before the backup, as what was being shipped then does.
PIECES = [
    piece((99, 9), (100, 1), (100, 2), start="99:8"),
    piece((100, 3), (101, 1), (102, 1), start="100:2"),
    piece((103, 1), (103, 2), start="102:1"),
]


def replayed(
    stored: base.Kept = FULL, pieces: list[base.Kept] | None = None, **target: object
) -> list[str]:
    """Return the times of the entries that mongorestore is given."""
    logs = None if pieces is None else lambda: iter(pieces)
    recovery = base.Recovery(chain=[stored], logs=logs, target=base.Target(**target))  # type: ignore[arg-type]
    replay = backup._begin_replay(recovery)
    made = io.BytesIO()
    found: list[str] = []

    class Noting(dumps.Writer):
        def entry(self, data: bytes) -> None:
            found.append(str(oplog.read_entry(data).time))
            super().entry(data)

    backup._feed(recovery, replay, Noting(lambda data: keep(made, data)))
    assert str(replay.last) == (found[-1] if found else "100:1")
    return found


def test_a_backup_alone_is_replayed_to_its_end() -> None:
    assert replayed() == ["100:2", "100:3"]
    assert replayed(full(until="100:1")) == []


def test_each_entry_of_the_log_is_replayed_once_up_to_the_target() -> None:
    own = ["100:2", "100:3"]
    assert replayed(FULL, PIECES) == [*own, "101:1", "102:1", "103:1", "103:2"]
    assert replayed(FULL, PIECES, time_s=102.5) == [*own, "101:1", "102:1"]
    assert replayed(FULL, PIECES, time_s=100.5) == own
    assert replayed(FULL, PIECES, time_s=999.0) == [*own, "101:1", "102:1", "103:1", "103:2"]
    assert replayed(FULL, PIECES, position="103:1") == [*own, "101:1", "102:1", "103:1"]
    assert replayed(FULL, PIECES, position="100:3") == own


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ({"time_s": 99.0}, "older one"),
        ({"position": "100:2"}, "older one"),
        ({"position": "101:x"}, "no time of an oplog"),
        ({"position": "101:2"}, "no entry at 101:2"),
        ({"position": "104:1"}, "no entry at 104:1"),
        ({"name": "before"}, "no points with names"),
    ],
)
def test_a_target_that_is_not_there_is_refused(target: dict[str, object], words: str) -> None:
    with pytest.raises(exception.GuestError, match=words):
        replayed(FULL, PIECES, **target)


def test_a_target_without_a_log_is_refused() -> None:
    with pytest.raises(exception.GuestError, match="no log"):
        replayed(FULL, None, time_s=101.0)


def test_a_log_that_is_not_whole_is_refused() -> None:
    for wrong, words in (
        ([PIECES[0], PIECES[2]], "gap between 100:3 and 102:1"),
        ([PIECES[2]], "gap"),
        ([PIECES[1], piece((103, 2), start="103:1")], "gap between 102:1 and 103:1"),
        ([keeping.kept(keeping.data_of(PIECES[1])[:-1], dict(PIECES[1].facts))], "cut off"),
        ([keeping.kept(keeping.data_of(PIECES[2]), dict(PIECES[1].facts))], "damaged"),
    ):
        with pytest.raises(exception.GuestError, match=words):
            replayed(FULL, wrong)
    with pytest.raises(exception.GuestError, match="ends at 100:2"):
        replayed(full(entry(100, 2)))
