"""A log is published line for line, once, whatever ends the agent and whenever it does."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable

import pytest

from trove.common import concurrency, exception
from trove.guestagent.logs import publisher, stream
from trove.rpc import payloads
from trove.storage import base as storage
from trove.storage.filesystem import FilesystemAccount, FilesystemStore

_BOX = "box"
_PREFIX = "i/mariadb-general/"


class Killed(BaseException):
    """The agent is ended here."""


@dataclasses.dataclass(kw_only=True)
class Log:
    """A log that a test writes, and agents that come and go on it."""

    directory: pathlib.Path
    object_bytes: int = 100
    clock: concurrency.ManualClock = dataclasses.field(default_factory=concurrency.ManualClock)
    can_reopen: bool = True

    def __post_init__(self) -> None:
        """Begin with the first agent."""
        self.store = FilesystemStore(self.directory / "store")
        self.active = self.directory / "a.log"
        self.written = b""
        self.restart()

    def restart(self, on_step: Callable[[str], None] = lambda step: None) -> None:
        """Have another agent."""
        self.stream = stream.Stream(self.active, self.directory / "pieces", reopen=self._reopen)
        self.publisher = publisher.Publisher(
            "general",
            self.stream,
            clock=self.clock,
            object_bytes=self.object_bytes,
            on_step=on_step,
        )

    def _reopen(self) -> None:
        if not self.can_reopen:
            raise exception.GuestError(reason="nobody answers")

    def write(self, text: str | bytes) -> None:
        """Append to the active file."""
        content = text.encode() if isinstance(text, str) else text
        with open(self.active, "ab") as file:
            file.write(content)
        self.written += content

    def where(self, project: str = "p") -> payloads.LogStorage:
        """Return where it is published."""
        grant = dict(self.store.grant(project, container="c", prefix="p"))
        return payloads.LogStorage(
            kind="filesystem", account=project, container=_BOX, prefix=_PREFIX, grant=grant
        )

    def account(self, project: str = "p") -> storage.Account:
        """Return the account of a project."""
        return self.store.account(project)

    def publish(self, project: str = "p", *, seconds: float = 1.0) -> None:
        """Publish."""
        until_s = self.clock.monotonic() + seconds
        self.publisher.publish(self.account(project), self.where(project), until_s)

    def published(self, project: str = "p") -> bytes:
        """Return what a client reads."""
        found, account = b"", self.account(project)
        objects = account.list(_BOX, prefix=_PREFIX)
        for each in sorted(objects, key=lambda each: each.modified):
            _, content = account.open(_BOX, each.name)
            with content:
                found += content.read()
        return found


@pytest.fixture
def log(tmp_path: pathlib.Path) -> Log:
    return Log(directory=tmp_path)


def _lines(first: int, last: int) -> str:
    return "".join(f"line {number:05d}\n" for number in range(first, last))


class _Signed(FilesystemAccount):
    """Has signed URLs for some objects, as it says itself."""

    names: tuple[str, ...] = ()

    def reaches(self, container: str, name: str) -> bool:
        return name in self.names

    def find(self, container: str, name: str) -> storage.StoredObject | None:
        assert name in (*self.names, "i/mariadb-general_metafile")
        return super().find(container, name)


def test_where_objects_are_signed_one_after_the_other_is_asked_for(log: Log) -> None:
    account = _Signed(log.directory / "store" / "p")
    where = log.where()

    def publish() -> str | None:
        return log.publisher.publish(account, where, log.clock.monotonic() + 1)

    log.write(_lines(0, 20))
    asked = []
    while wanted := publish():
        asked.append(wanted)
        account.names = (wanted,)
    assert log.published() == log.written
    assert asked == [each.name for each in account.list(_BOX, prefix=_PREFIX)]
    assert account.find(_BOX, storage.metafile(_PREFIX)) is not None

    def end(step: str) -> None:
        if step == "stored":
            raise Killed

    log.write(_lines(20, 25))
    log.restart(end)
    account.names = (publish() or "",)
    with pytest.raises(Killed):
        publish()
    # what was on its way is looked for before anything else
    log.restart()
    (stored,), account.names = account.names, ()
    assert publish() == stored
    account.names = (stored,)
    assert publish() is None
    assert log.published() == log.written


def test_all_whole_lines_are_published_and_the_beginning_of_one_is_not(log: Log) -> None:
    log.write(_lines(0, 50) + "begun")
    log.publish()
    assert log.published() == _lines(0, 50).encode()
    record = log.stream.record
    assert (record.published_bytes, log.stream.pending_bytes()) == (50 * 11, 5)
    log.write(" and ended\n")
    log.publish()
    assert log.published() == log.written
    assert log.stream.pending_bytes() == 0
    assert all(each.size_bytes <= 100 for each in log.account().list(_BOX, prefix=_PREFIX))
    counts = [int(each.metadata["lines"]) for each in log.account().list(_BOX, prefix=_PREFIX)]
    assert sum(counts) == 51


@pytest.mark.parametrize("step", ["noted", "stored", "published"])
@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("is_shown", [True, False])
def test_agent_killed_at_any_step_loses_and_doubles_nothing(
    log: Log, step: str, number: int, is_shown: bool
) -> None:
    seen: list[str] = []

    def kill(at: str) -> None:
        seen.append(at)
        if seen.count(step) == number:
            raise Killed

    log.write(_lines(0, 60))
    log.restart(kill)
    with pytest.raises(Killed):
        log.publish()
    log.restart()
    log.write(_lines(60, 100))
    if is_shown:
        log.publisher.catch_up(log.account(), log.where())
        assert log.stream.record.published_bytes == len(log.published()) or step == "noted"
        assert log.stream.record.published_bytes + log.stream.pending_bytes() == 100 * 11
    log.publish()
    assert log.published() == log.written
    assert log.stream.record.published_bytes == 100 * 11
    assert log.stream.pending_bytes() == 0


@pytest.mark.parametrize("step", ["discarding", "deleted"])
def test_agent_killed_while_it_discards_goes_on_with_it(log: Log, step: str) -> None:
    def kill(at: str) -> None:
        if at == step:
            raise Killed

    log.write(_lines(0, 60))
    log.publish()
    log.restart(kill)
    with pytest.raises(Killed):
        log.publisher.discard(log.account(), log.where(), 99)
    log.restart()
    log.publisher.catch_up(log.account(), log.where())
    assert log.published() == b""
    assert log.account().list(_BOX) == []
    assert (log.stream.record.published_bytes, log.stream.record.account) == (0, None)
    log.publish()
    assert log.published() == log.written


def test_publishing_ends_in_time_and_goes_on_with_the_next_request(log: Log) -> None:
    log.write(_lines(0, 60))
    log.publish(seconds=0)
    assert log.published() == _lines(0, 9).encode()
    assert log.stream.pending_bytes() == 51 * 11
    while log.stream.pending_bytes():
        log.publish(seconds=0)
    assert log.published() == log.written


def test_log_that_grows_while_it_is_published_does_not_keep_the_request(log: Log) -> None:
    log.restart(lambda step: log.write(_lines(0, 1)))
    log.write(_lines(0, 20))
    log.publish()
    assert 20 * 11 <= len(log.published()) <= 20 * 11 + log.object_bytes
    log.restart()
    log.publish()
    assert log.published() == log.written


def test_pieces_are_published_in_order_and_go_when_they_are(log: Log) -> None:
    for number in range(5):
        log.write(_lines(number * 10, number * 10 + 10))
        log.stream.cut()
    log.write(_lines(50, 55))
    assert len(log.stream.pieces()) == 6
    log.publish()
    log.stream.forget_published()
    assert [piece.path for piece in log.stream.pieces()] == [log.active]
    log.restart()
    log.write(_lines(55, 60))
    log.publish()
    assert log.published() == log.written
    assert log.stream.record.dropped_bytes == 0


def test_line_without_end_is_published_once_nobody_can_end_it(log: Log) -> None:
    log.write("no end")
    log.publish()
    assert log.published() == b""
    log.stream.cut()
    log.publish()
    assert log.published() == b"no end"


def test_writer_that_nobody_reaches_goes_on_in_the_piece_and_no_line_is_lost(log: Log) -> None:
    log.can_reopen = False
    log.write(_lines(0, 10) + "half")
    log.stream.cut()
    (piece,) = log.stream.pieces()
    log.publish()
    assert log.published() == _lines(0, 10).encode()
    # the writer still has the piece open
    with open(piece.path, "ab") as file:
        file.write(b" and half\n")
    log.written += b" and half\n"
    log.stream.cut()
    log.restart()
    log.can_reopen = True
    log.stream.tend(stream.Bounds(total_bytes=10_000, piece_bytes=10_000))
    log.write(_lines(10, 20))
    log.publish()
    assert log.published() == log.written


def test_what_is_dropped_is_counted_once_and_told_with_the_next_object(log: Log) -> None:
    bounds = stream.Bounds(total_bytes=400, piece_bytes=100)
    log.write(_lines(0, 10))
    log.publish()
    for number in range(1, 20):
        log.write(_lines(number * 10, number * 10 + 10))
        log.stream.tend(bounds)
        log.restart()
    record = log.stream.record
    kept = sum(piece.size for piece in log.stream.pieces())
    assert kept <= 400
    assert record.dropped_bytes == record.unseen_bytes == len(log.written) - 110 - kept
    log.publish()
    assert log.published() == log.written[:110] + log.written[-kept:]
    dropped = [int(e.metadata["dropped"]) for e in log.account().list(_BOX, prefix=_PREFIX)]
    assert [number for number in dropped if number] == [record.dropped_bytes]
    assert record.unseen_bytes == 0


def test_one_enormous_piece_is_shortened_to_whole_lines_of_its_end(log: Log) -> None:
    log.write(_lines(0, 1000))
    log.stream.tend(stream.Bounds(total_bytes=1000, piece_bytes=100))
    log.publish()
    text = log.published().decode()
    assert log.written.decode().endswith(text)
    assert text.startswith("line ")
    assert 300 < len(text) <= 1000
    assert log.stream.record.dropped_bytes == len(log.written) - len(text)


def test_agent_that_ends_while_it_shortens_a_piece_counts_it_once(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.write(_lines(0, 1000))
    log.stream.cut()

    def kill(self: object, *args: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(stream.Stream, "_drop", kill)
        with pytest.raises(Killed):
            log.stream.tend(stream.Bounds(total_bytes=1000, piece_bytes=100))
    log.restart()
    assert sum(piece.size for piece in log.stream.pieces()) == len(log.written)
    log.stream.tend(stream.Bounds(total_bytes=1000, piece_bytes=100))
    kept = sum(piece.size for piece in log.stream.pieces())
    assert log.stream.record.dropped_bytes == len(log.written) - kept


def test_object_stored_before_its_lines_were_dropped_is_not_counted_as_lost(log: Log) -> None:
    def kill(step: str) -> None:
        if step == "stored":
            raise Killed

    log.write(_lines(0, 9))
    log.stream.cut()
    log.restart(kill)
    with pytest.raises(Killed):
        log.publish()
    log.restart()
    log.stream.tend(stream.Bounds(total_bytes=0, piece_bytes=1000))
    assert log.stream.record.dropped_bytes == 99
    log.publish()
    assert log.stream.record.dropped_bytes == 0
    assert log.published() == log.written


def test_file_that_somebody_cut_is_told_from_one_that_grew(log: Log) -> None:
    log.write(_lines(0, 50))
    log.publish()
    log.write(_lines(50, 60))
    assert log.stream.pending_bytes() == 110
    log.active.write_bytes(b"new\n")
    assert log.stream.pending_bytes() == 4
    assert log.stream.record.dropped_bytes == 110
    log.publish()
    assert log.published() == _lines(0, 50).encode() + b"new\n"


def test_bytes_that_are_no_text_are_published_as_text_that_tells_them(log: Log) -> None:
    log.write(b"caf\xc3\xa9 \xff\x00\xe9\n")
    log.publish()
    assert log.published().decode() == "café \\xff\x00\\xe9\n"
    assert log.stream.record.published_bytes == len(log.written)


def test_line_longer_than_an_object_is_parted_between_characters(log: Log) -> None:
    log.write("é" * 333 + "\n" + "x" + "\U0001f600" * 100 + "\n")
    log.publish()
    assert log.published() == log.written


def test_other_account_gets_all_that_is_kept_and_the_first_one_keeps_its_own(log: Log) -> None:
    log.write(_lines(0, 20))
    log.publish("p")
    log.publish("q")
    assert log.published("p") == log.published("q") == log.written


def test_damaged_record_costs_the_count_and_no_object(log: Log) -> None:
    log.write(_lines(0, 20))
    log.publish()
    before = log.published()
    (log.directory / "pieces" / "record.json").write_text("{")
    log.restart()
    log.publish()
    assert log.published() == before + log.written


def test_the_name_of_the_metafile_is_not_below_the_prefix(log: Log) -> None:
    log.write(_lines(0, 2))
    log.publish()
    (found,) = [e for e in log.account().list(_BOX) if not e.name.startswith(_PREFIX)]
    assert found.name == storage.metafile(_PREFIX) == "i/mariadb-general_metafile"
