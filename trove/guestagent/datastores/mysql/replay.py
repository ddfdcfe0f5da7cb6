"""Replaying an archived binary log up to a moment or a transaction.

Which transactions are replayed is decided here, from the events themselves and from the moments at
which they were written; those and no others are said to a private server. MariaDB's are given to
mariadb-binlog, which says them to a client, which proves at the end that it read everything;
MySQL's the agent says itself (:mod:`.events`).
"""

from __future__ import annotations

import abc
import bisect
import contextlib
import dataclasses
import io
import os
import pathlib
import re
import secrets
import signal
from collections.abc import Generator, Iterable, Mapping
from typing import Any, BinaryIO, Self

from oslo_log import log

from trove.common import exception
from trove.guestagent.datastores import base
from trove.guestagent.datastores.mysql import binlog, moments, ranges
from trove.guestagent.system import pipes, users

LOG = log.getLogger(__name__)

_READ_BYTES = 1024 * 1024
_DAY_S = 86400.0
_ERROR = re.compile(r"^ERROR (\d+) \((\w+)\) at line \d+: (.*)$", re.MULTILINE)
#: Errors that repeat what a statement says, which may be a password.
_REPEATING = frozenset({"1064"})


class Plan:
    """From which place on, and up to where, the log behind a backup is replayed."""

    def __init__(self, facts: Mapping[str, Any], target: base.Target) -> None:
        """Take the facts of the last backup; raises GuestError for what cannot be reached."""
        if target.name is not None:
            raise exception.GuestError(
                reason="this engine has no points with names: give a time or a position"
            )
        place = facts["binlog"]
        self.file = str(place["file"])
        self.position = int(place["position"])
        self.digest = place.get("digest")
        self.gtids = binlog.parse_gtids(str(facts.get("gtid", "")))
        self.since_s = float(facts["consistent_s"])
        self.time_s = target.time_s
        self.stop = binlog.parse_gtid(target.position) if target.position is not None else None
        if self.time_s is not None and self.time_s < float(facts["began_s"]):
            raise exception.GuestError(reason="the backup is of later than the time to restore to")
        if self.stop is not None:
            had = self.gtids.get(self.stop.domain)
            if had is not None and had.sequence > self.stop.sequence:
                raise exception.GuestError(
                    reason=f"the backup is of later than {self.stop}: it has {had}"
                )

    @classmethod
    def find(cls, recovery: base.Recovery) -> Self | None:
        """Return the plan behind a chain, None where there is no log; raises GuestError."""
        if recovery.logs is not None:
            return cls(recovery.chain[-1].facts, recovery.target)
        if recovery.target != base.Target():
            raise exception.GuestError(reason="without the log there is no point in time to go to")
        return None

    @property
    def is_reached(self) -> bool:
        """Tell whether the backup itself ends at the transaction to restore to."""
        return self.stop is not None and self.gtids.get(self.stop.domain) == self.stop


@dataclasses.dataclass(slots=True, kw_only=True)
class _Progress:
    """How far the replay has come."""

    gtids: dict[int | str, binlog.Gtid]
    last_s: float
    transactions: int = 0
    is_over: bool = False


def refusal(number: str, state: str, text: str) -> str:
    """Return why a server did not take a transaction."""
    words = "a statement is not understood" if number in _REPEATING else text[:300]
    return f"the log cannot be replayed: the database says ({number}, {state}) {words}"


class Voice(abc.ABC):
    """Says transactions to a server; a context manager."""

    @abc.abstractmethod
    def say(self, path: pathlib.Path) -> None:
        """Have all transactions of a file said; raises GuestError."""

    @abc.abstractmethod
    def finish(self) -> None:
        """Raise GuestError unless the server took all that was said."""

    @abc.abstractmethod
    def __enter__(self) -> Self:
        """Begin."""

    @abc.abstractmethod
    def __exit__(self, *exc: object) -> None:
        """End, finished or not."""


class Replayer:
    """Replays pieces of a log."""

    def __init__(self, voice: Voice, *, user: users.SystemUser, directory: pathlib.Path) -> None:
        """Take what says them, and a directory for pieces."""
        self._voice = voice
        self._user = user
        self._directory = directory

    def replay(self, plan: Plan, pieces: Iterable[base.Kept]) -> dict[str, Any]:
        """Replay what the plan says; return where that ended. Raises GuestError."""
        progress = _Progress(gtids=dict(plan.gtids), last_s=plan.since_s, is_over=plan.is_reached)
        with self._voice as voice:
            end = self._replay_all(plan, pieces, progress)
            voice.finish()
        if plan.stop is not None and not progress.is_over:
            raise exception.GuestError(reason=f"the log does not have {plan.stop}")
        restored_to_s = plan.time_s
        if restored_to_s is None:
            restored_to_s = progress.last_s if plan.stop is not None else end
        gtid = ",".join(str(each) for _, each in sorted(progress.gtids.items()))
        LOG.info("%d transactions of the log were replayed", progress.transactions)
        return {
            "restored_to_s": restored_to_s,
            "gtid": gtid,
            "transactions": progress.transactions,
        }

    def _replay_all(self, plan: Plan, pieces: Iterable[base.Kept], progress: _Progress) -> float:
        """Replay pieces until the plan's end; returns up to when they went."""
        former: ranges.Position | None = None
        has_begun = False
        end_s = plan.since_s
        try:
            for kept in pieces:
                contents = ranges.contents_of(kept.facts)
                if former is not None and contents.start != former:
                    raise exception.GuestError(
                        reason=f"there is a gap in the log, behind {former.file} {former.offset}"
                    )
                former = contents.end
                if not has_begun:
                    self._check_beginning(plan, contents)
                has_begun = True
                if progress.is_over:
                    break
                self._replay_piece(plan, kept, contents, progress)
                end_s = max(end_s, float(kept.facts.get("as_of_s", contents.read_s)))
        finally:
            if isinstance(pieces, Generator):
                pieces.close()
        if not has_begun and plan.stop is not None and not plan.is_reached:
            raise exception.GuestError(reason="there is no log behind the backup")
        return end_s

    @staticmethod
    def _check_beginning(plan: Plan, contents: ranges.Contents) -> None:
        start = contents.start
        first = (binlog.number_of(start.file), start.offset)
        if first > (binlog.number_of(plan.file), plan.position):
            raise exception.GuestError(
                reason=f"the log begins at {start.file} {start.offset}, behind the backup, which"
                f" ends at {plan.file} {plan.position}"
            )

    def _replay_piece(
        self,
        plan: Plan,
        kept: base.Kept,
        contents: ranges.Contents,
        progress: _Progress,
    ) -> None:
        """Unpack a piece, cut it, and have it replayed; nothing of it is left behind."""
        files: list[pathlib.Path] = []
        try:
            with kept.open() as content:
                reader = _Exactly(content)
                for each in contents.ranges:
                    path = self._directory / each.file
                    files.append(path)
                    self._unpack(reader, path, each)
                written = moments.unpack(reader.take(contents.moments_bytes))
                reader.end()
            for number, each in enumerate(contents.ranges):
                if progress.is_over:
                    break
                times = _Times(
                    [moment for which, moment in written if which == number], contents.read_s
                )
                if self._cut(plan, files[number], each, times, progress):
                    self._voice.say(files[number])
        finally:
            for path in files:
                path.unlink(missing_ok=True)

    def _unpack(self, reader: _Exactly, path: pathlib.Path, each: ranges.Range) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with open(descriptor, "wb") as stream:
            if not self._user.is_current:
                os.fchown(descriptor, self._user.uid, self._user.gid)
            left = each.head_bytes + each.end - each.start
            while left:
                data = reader.take(min(left, _READ_BYTES))
                stream.write(data)
                left -= len(data)

    def _cut(
        self,
        plan: Plan,
        path: pathlib.Path,
        each: ranges.Range,
        times: _Times,
        progress: _Progress,
    ) -> bool:
        """Leave in a file what is to be replayed; tells whether that is anything."""
        number, planned = binlog.number_of(each.file), binlog.number_of(plan.file)
        start = each.start
        if number < planned or (number == planned and each.end <= plan.position):
            return False
        if number == planned:
            start = max(start, plan.position)
            if plan.digest is not None and plan.digest != each.digest:
                raise exception.GuestError(
                    reason=f"the log is not the one behind the backup: {each.file} was begun anew"
                )
        origin = each.start - each.head_bytes
        count = 0
        end = start
        with open(path, "r+b") as stream:
            head = binlog.read_head(stream)
            if head.end != each.head_bytes:
                raise exception.GuestError(reason=f"the piece of {each.file} is damaged")
            scanner = binlog.Scanner(stream, origin=origin)
            for group in scanner.groups(start, each.end):
                if count == 0 and group.start != start and number == planned:
                    # the backup's place is between two transactions
                    start = group.start
                time_s = times.of(group)
                if plan.time_s is not None and time_s > plan.time_s:
                    progress.is_over = True
                    break
                count += 1
                end = group.end
                progress.last_s = time_s
                if group.gtid.domain != "":
                    progress.gtids[group.gtid.domain] = group.gtid
                if group.gtid == plan.stop:
                    progress.is_over = True
                    break
            else:
                if scanner.end != each.end:
                    raise exception.GuestError(
                        reason=f"the log is damaged in {each.file} at {scanner.end}"
                    )
            progress.transactions += count
            if count:
                _move(stream, start - origin, end - origin, each.head_bytes)
        return count > 0


class ToolVoice(Voice):
    """The server's own programs: one reads the log, the other is a client of the server."""

    def __init__(
        self,
        *,
        reader: str,
        client: str,
        options: pathlib.Path,
        user: users.SystemUser,
        directory: pathlib.Path,
    ) -> None:
        """Take the programs, the client's options and a directory for what they say."""
        self._reader = reader
        self._client = client
        self._options = options
        self._user = user
        self._directory = directory
        self._answers: BinaryIO = io.BytesIO()
        self._program: pipes.Program | None = None

    def __enter__(self) -> Self:
        """Start the client."""
        argv = [self._client, f"--defaults-file={self._options}", "--binary-mode", "--batch"]
        argv.append("--skip-column-names")
        self._answers = open(self._directory / "answers", "w+b")
        try:
            self._program = pipes.Program(
                argv,
                user=self._user,
                messages=self._directory / "client.log",
                directory=self._directory,
                is_written_to=True,
                output=self._answers.fileno(),
            )
        except BaseException:
            self._answers.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        """End the client."""
        self._running().close()
        self._answers.close()

    def _running(self) -> pipes.Program:
        assert self._program is not None  # noqa: S101
        return self._program

    def say(self, path: pathlib.Path) -> None:
        """Have the transactions of a file said to the client."""
        client = self._running()
        argv = [
            self._reader,
            "--no-defaults",
            "--verify-binlog-checksum",
            "--skip-gtid-strict-mode",
            # comments with the text of statements
            "--skip-annotate-row-events",
            str(path),
        ]
        messages = self._directory / "reader.log"
        messages.unlink(missing_ok=True)
        with pipes.Program(
            argv,
            user=self._user,
            messages=messages,
            directory=self._directory,
            environment={"TMPDIR": str(self._directory)},
            output=client.input,
        ) as reader:
            return_code = reader.wait(_DAY_S)
            said = reader.said()
        if return_code == -signal.SIGPIPE:
            # nobody read on
            client.wait(_DAY_S)
        refused = client.has_ended()
        if return_code != 0 and not refused:
            raise exception.GuestError(
                reason=f"the log cannot be read: {' '.join(said.split())[-300:]}"
            )
        if refused:
            raise exception.GuestError(reason=self._refusal(client))

    def finish(self) -> None:
        """Have the client prove that it read everything to the end."""
        client, answers = self._running(), self._answers
        proof = secrets.token_hex(16)
        with contextlib.suppress(BrokenPipeError):
            client.write(f"\nSELECT '{proof}';\n".encode())
        client.end_input()
        return_code = client.wait(_DAY_S)
        size_bytes = answers.seek(0, os.SEEK_END)
        answers.seek(max(0, size_bytes - _READ_BYTES))
        if return_code != 0 or proof.encode() not in answers.read().split():
            raise exception.GuestError(reason=self._refusal(client))

    @staticmethod
    def _refusal(client: pipes.Program) -> str:
        """Return why the server did not take a transaction."""
        found = _ERROR.findall(client.said())
        if not found:
            return "the log could not be replayed to its end"
        number, state, text = found[-1]
        return refusal(number, state, text)


def _move(stream: BinaryIO, start: int, end: int, target: int) -> None:
    """Have the bytes of a file between two offsets at another, smaller one, and then its end."""
    while start < end:
        stream.seek(start)
        data = stream.read(min(_READ_BYTES, end - start))
        stream.seek(target)
        stream.write(data)
        start += len(data)
        target += len(data)
    stream.truncate(target)


class _Exactly:
    """Reads content in the sizes that are asked for."""

    def __init__(self, content: base.Content) -> None:
        self._content = content
        self._buffer = b""

    def take(self, count: int) -> bytes:
        """Return so many bytes; raises GuestError when there are fewer."""
        parts = [self._buffer[:count]]
        self._buffer = self._buffer[count:]
        have = len(parts[0])
        while have < count:
            data = self._content.read(max(count - have, 1))
            if not data:
                raise exception.GuestError(reason="a piece of the log ends too early")
            parts.append(data[: count - have])
            self._buffer = data[count - have :]
            have += len(parts[-1])
        return b"".join(parts)

    def end(self) -> None:
        """Raise GuestError unless everything was read; checks what the storage has at the end."""
        if self._buffer or self._content.read(1):
            raise exception.GuestError(reason="a piece of the log does not end where it should")


class _Times:
    """When transactions of a range were written."""

    def __init__(self, written: list[moments.Moment], read_s: float) -> None:
        self._written = written
        self._offsets = [moment.offset for moment in written]
        self._read_s = read_s
        self._last_s = 0.0

    def of(self, group: binlog.Group) -> float:
        """Return when a transaction was written; where nobody looked, when its second was over."""
        index = bisect.bisect_left(self._offsets, group.end)
        before_s = self._written[index - 1].time_us / 1e6 if index else self._last_s
        if index < len(self._written) and not self._written[index].is_late:
            time_s = self._written[index].time_us / 1e6
        else:
            latest_s = self._read_s
            if index < len(self._written):
                latest_s = self._written[index].time_us / 1e6
            time_s = min(max(group.time_s + 0.999999, before_s), max(latest_s, before_s))
        # the order of the log is that of the commits
        self._last_s = max(self._last_s, time_s)
        return self._last_s
