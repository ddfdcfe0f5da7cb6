"""What is understood of MariaDB's formats: streams of copies, the binary log, and its times."""

from __future__ import annotations

import io
import pathlib
import random
import struct
import threading
import time
import zlib
from collections.abc import Iterator

import pytest

from tests.fixtures.waiting import wait_until
from trove.common import exception
from trove.guestagent.datastores.mysql import binlog, copies, mbstream, moments, ranges, replay
from trove.guestagent.system import watches

FORMAT, QUERY, XID, ROTATE, STOP = 15, 2, 16, 4, 3
CHECKPOINT, GTID, GTID_LIST, ENCRYPTION, TABLE_MAP = 161, 162, 163, 164, 19


# -- streams of copies -----


def chunk(path: str, payload: bytes | None, *, flags: int = 0) -> bytes:
    """Return a chunk; without a payload the end of a file."""
    name = path.encode()
    kind = b"E" if payload is None else b"P"
    head = struct.pack("<8sBcI", b"XBSTCK01", flags, kind, len(name)) + name
    if payload is None:
        return head
    return head + struct.pack("<QQI", len(payload), 0, zlib.crc32(payload)) + payload


WHOLE = b"".join(
    (
        chunk("ibdata1", b"x" * 1000),
        chunk("info", b"some"),
        chunk("ibdata1", b"y" * 10),
        chunk("info", b"thing"),
        chunk("info", None),
        chunk("ibdata1", None),
    )
)


@pytest.mark.parametrize("size", [1, 7, 64, 10_000])
def test_a_stream_is_followed_whatever_it_is_cut_into(size: int) -> None:
    follower = mbstream.Follower(kept=("info",))
    for start in range(0, len(WHOLE), size):
        follower.feed(WHOLE[start : start + size])
    follower.finish(required=("info", "ibdata1"))
    assert follower.files == {"info": b"something"}


def test_a_stream_that_ends_anywhere_else_is_noticed() -> None:
    for end in range(len(WHOLE)):
        follower = mbstream.Follower()
        follower.feed(WHOLE[:end])
        with pytest.raises(exception.GuestError):
            follower.finish(required=("info", "ibdata1"))


@pytest.mark.parametrize(
    "data",
    [
        b"XBSTCK02" + WHOLE[8:],
        chunk("../outside", b"x"),
        chunk("/etc/outside", b"x"),
        chunk("a/../../outside", b"x"),
        chunk("x" * 5000, b"x"),
        WHOLE + chunk("info", b"again"),
        WHOLE[:9] + b"Z" + WHOLE[10:],
    ],
)
def test_what_is_no_such_stream_or_leads_elsewhere_is_refused(data: bytes) -> None:
    with pytest.raises(exception.GuestError):
        mbstream.Follower().feed(data)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("", "did not say why"),
        ("[00] 2026-01-01 10:00:00 Connecting\n[00] FATAL ERROR: no disk", "FATAL ERROR: no disk"),
        (
            "Was only able to copy log from 1 to 2, not 3; try increasing innodb_log_file_size",
            "redo",
        ),
        ("one\ntwo\nthree", "two / three"),
    ],
)
def test_tools_are_quoted_with_what_they_complain_of(said: str, told: str) -> None:
    assert told in copies.explain("mariabackup", said)


# -- the binary log -----


class Log:
    """A file of the binary log, made by hand."""

    def __init__(self, *, begun: int = 1000, state: bytes = b"\1") -> None:
        """Begin it."""
        self.data = bytearray(b"\xfebin")
        self.add(FORMAT, b"\4\0" + b"11.4".ljust(50, b"\0") + bytes(43), time_s=begun)
        self.head_end = len(self.data)
        self.add(GTID_LIST, state)

    def add(self, kind: int, body: bytes, *, time_s: int = 2000, flags: int = 0) -> Log:
        """Append an event."""
        size = 19 + len(body) + 4
        end = len(self.data) + size
        header = struct.pack("<IBIIIH", time_s, kind, 7, size, end, flags)
        self.data += header + body + bytes(4)
        return self

    def begin(self, sequence: int, *, is_standalone: bool = False, time_s: int = 2000) -> Log:
        """Append the beginning of a transaction."""
        body = struct.pack("<QIB", sequence, 0, is_standalone) + bytes(6)
        return self.add(GTID, body, time_s=time_s)

    def say(self, text: bytes) -> Log:
        """Append a statement."""
        return self.add(QUERY, struct.pack("<IIBHH", 1, 0, 3, 0, 2) + b"\0\0" + b"app\0" + text)

    def row(self) -> Log:
        """Append a change of rows."""
        return self.add(TABLE_MAP, b"rows" * 10)

    def commit(self) -> Log:
        """Append the end of a transaction."""
        return self.add(XID, bytes(8))

    def groups(self, *, start: int | None = None, end: int | None = None) -> list[int]:
        """Return the numbers of the transactions in it."""
        self.scanner = binlog.Scanner(io.BytesIO(self.data))
        found = self.scanner.groups(
            self.head_end if start is None else start, len(self.data) if end is None else end
        )
        return [group.gtid.sequence for group in found]


def test_transactions_are_found_with_their_ends() -> None:
    log = Log().begin(1).row().commit()
    first_end = len(log.data)
    log.begin(2, is_standalone=True).say(b"CREATE TABLE t (i INT)").add(CHECKPOINT, b"x")
    log.begin(3).row().row().say(b"COMMIT").add(ROTATE, b"mysql-bin.000002")
    assert log.groups() == [1, 2, 3]
    assert log.scanner.end == len(log.data)
    assert log.groups(start=first_end) == [2, 3]
    assert log.groups(end=first_end) == [1]


def test_what_a_crash_left_of_a_transaction_does_not_count() -> None:
    log = Log().begin(1).row().commit()
    whole = len(log.data)
    log.begin(2).say(b"SAVEPOINT x").row().row().commit()
    for end in range(whole, len(log.data)):
        assert log.groups(end=end) == [1]
        assert log.scanner.end == whole
    assert log.groups() == [1, 2]
    # a statement in a transaction is not its end
    log = Log().begin(1).row().say(b"SAVEPOINT x")
    assert log.groups() == []
    assert log.scanner.end < len(log.data)


def test_a_damaged_log_is_noticed() -> None:
    log = Log().begin(1).row().commit().begin(2).row().commit()
    for offset in (9, 13):
        damaged = Log().begin(1).row().commit().begin(2).row().commit()
        damaged.data[log.head_end + offset] ^= 0x40
        with pytest.raises(binlog.Damaged):
            damaged.groups()
    with pytest.raises(binlog.Damaged):
        binlog.read_head(io.BytesIO(b"no log at all"))
    encrypted = Log()
    del encrypted.data[encrypted.head_end :]
    encrypted.add(ENCRYPTION, bytes(17))
    with pytest.raises(binlog.Damaged, match="encrypted"):
        binlog.read_head(io.BytesIO(encrypted.data))


def test_a_file_is_told_from_another_of_its_name_and_not_from_itself() -> None:
    log = Log().begin(1).row().commit()
    head = binlog.read_head(io.BytesIO(log.data))
    assert head.end == log.head_end
    in_use = bytearray(log.data)
    in_use[4 + 17] |= 1
    assert binlog.read_head(io.BytesIO(in_use)) == head
    for other in (Log(begun=1001), Log(state=b"\2")):
        assert binlog.read_head(io.BytesIO(other.data)).digest != head.digest


def test_ids_of_transactions_are_read_strictly() -> None:
    assert str(binlog.parse_gtid("0-105-14")) == "0-105-14"
    assert binlog.parse_gtids("0-1-5,1-2-7") == {0: binlog.Gtid(0, 1, 5), 1: binlog.Gtid(1, 2, 7)}
    assert binlog.parse_gtids("") == {}
    for text in ("", "0-1", "0-1-2-3", "a-b-c", "0-1-2; DROP", "0-1-2\n0-1-3"):
        with pytest.raises(exception.GuestError):
            binlog.parse_gtid(text)


def test_facts_of_pieces_come_back_as_they_were_or_are_refused() -> None:
    position = ranges.Position(file="mysql-bin.000001", offset=4, digest="a", tail="b")
    part = ranges.Range(file=position.file, digest="a", head_bytes=256, start=4, end=9)
    contents = ranges.Contents(
        ranges=(part,), start=position, end=position, moments_bytes=3, read_s=1.5
    )
    facts = contents.to_facts()
    assert ranges.contents_of(facts) == contents
    for broken in ({**facts, "format": 2}, {**facts, "ranges": [{}]}, {**facts, "end": None}):
        with pytest.raises(exception.GuestError):
            ranges.contents_of(broken)


# -- moments -----


def group(end: int, time_s: int) -> binlog.Group:
    """Return a transaction that ends somewhere."""
    return binlog.Group(gtid=binlog.Gtid(0, 1, end), start=end - 10, end=end, time_s=time_s)


def test_the_time_of_a_transaction_is_that_of_its_write_or_its_whole_second() -> None:
    written = [
        moments.Moment(100, 10_250_000, False),
        moments.Moment(200, 20_500_000, False),
        # from here on nobody watched for a while
        moments.Moment(400, 40_000_000, True),
        moments.Moment(500, 41_125_000, False),
    ]
    times = replay._Times(written, 60.0)
    # what a session says is the time does not count where somebody watched
    assert times.of(group(100, 4_000_000_000)) == 10.25
    assert times.of(group(150, 0)) == 20.5
    assert times.of(group(200, 20)) == 20.5
    assert times.of(group(300, 30)) == pytest.approx(31)
    # nor can it be later than when somebody looked again, or earlier than what was before
    assert times.of(group(350, 4_000_000_000)) == 40.0
    assert times.of(group(400, 0)) == 40.0
    assert times.of(group(500, 41)) == 41.125
    assert times.of(group(600, 4_000_000_000)) == 60.0


def test_moments_are_packed_and_unpacked() -> None:
    found = [(0, moments.Moment(1, 2, False)), (3, moments.Moment(2**40, 2**50, True))]
    assert moments.unpack(moments.pack(found)) == found
    assert moments.unpack(b"") == []


@pytest.fixture
def watched(tmp_path: pathlib.Path) -> Iterator[tuple[moments.Moments, pathlib.Path]]:
    """Give moments of a directory with a log."""
    (tmp_path / "mysql-bin.000001").write_bytes(b"x" * 10)
    made = moments.Moments(tmp_path)
    made.ensure_watching()
    wait_until(lambda: made.within(1, 0, 10), what="the first moment")
    yield made, tmp_path
    made.close()


def test_growing_files_are_noticed_one_after_the_other(
    watched: tuple[moments.Moments, pathlib.Path],
) -> None:
    made, directory = watched
    assert made.within(1, 0, 10)[0].is_late
    for number in (1, 2, 3):
        path = directory / binlog.name_of(number)
        for size in (20, 30):
            with path.open("ab") as stream:
                stream.write(b"x" * (size - path.stat().st_size))
            wait_until(lambda n=number, s=size: made.within(n, s - 1, s), what="a moment")
        (moment,) = made.within(number, 29, 30)
        assert moment.offset == 30
        assert not moment.is_late
        age_us = path.stat().st_mtime_ns // 1000 - moment.time_us
        assert abs(age_us) < 50_000
    made.forget(3)
    assert made.within(2, 0, 30) == []
    # a write that makes nothing longer is none
    with (directory / binlog.name_of(3)).open("r+b") as stream:
        stream.write(b"y")
    assert len(made.within(3, 29, 100)) == 1


def test_nothing_is_told_to_be_written_before_it_was(
    watched: tuple[moments.Moments, pathlib.Path],
) -> None:
    made, directory = watched
    path = directory / binlog.name_of(1)
    for size in range(11, 61):
        # what follows at once has a time of its own
        threading.Event().wait(random.uniform(0.005, 0.01))
        began_us = time.time_ns() // 1000
        with path.open("ab") as stream:
            stream.write(b"x")
        (moment,) = made.within(1, size - 1, size)
        assert moment.time_us >= began_us


def test_who_asks_does_not_depend_on_who_watches(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mysql-bin.000001"
    path.write_bytes(b"x" * 10)
    made = moments.Moments(tmp_path)

    def fall_asleep(watcher: watches.Watcher, end: threading.Event) -> None:
        made._begin(watcher, 1, is_late=True)
        end.wait()

    monkeypatch.setattr(made, "_watch", fall_asleep)
    made.ensure_watching()
    wait_until(lambda: made.within(1, 0, 10), what="the first moment")
    for size in (20, 30):
        with path.open("ab") as stream:
            stream.write(b"x" * 10)
        (moment,) = made.within(1, size - 10, size)
        assert (moment.offset, moment.is_late) == (size, False)
    made.close()


def test_many_moments_are_thinned_and_the_last_is_kept() -> None:
    file = moments._File()
    count = moments._MOST + 2
    for number in range(1, count):
        file.add(number, number, is_late=number == 1)
    assert len(file.offsets) <= moments._MOST
    assert file.offsets[-1] == count - 1
    assert file.within(0, 1)[0].is_late


def test_a_busy_log_is_looked_at_so_many_times_a_second() -> None:
    pace = moments._Pace()
    seen = [pace.is_exceeded() for _ in range(400)]
    assert seen[0] is False
    assert seen[-1] is True
    assert seen.count(False) < 300


def test_watchers_tell_what_changed_and_wait_no_longer_than_asked(tmp_path: pathlib.Path) -> None:
    with watches.Watcher() as watcher:
        directory = watcher.add(tmp_path, watches.CREATED)
        assert watcher.wait(0.01) == []
        made = threading.Thread(target=(tmp_path / "made").touch)
        made.start()
        assert watcher.wait(10) == [watches.Change(directory, "made")]
        made.join()
        file = watcher.add(tmp_path / "made", watches.MODIFIED)
        (tmp_path / "made").write_text("x")
        assert watches.Change(file, "") in watcher.wait(10)
        with pytest.raises(FileNotFoundError):
            watcher.add(tmp_path / "missing", watches.MODIFIED)
        watcher.remove(file)
