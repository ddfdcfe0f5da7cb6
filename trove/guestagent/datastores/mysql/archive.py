"""The binary log of a running server, read from its files while it grows.

What is read goes up to where the server says that everything is written and synced, and is cut
between two transactions. Nothing is rotated, and of an idle server one file's status is read. The
server removes what was read when it is told so, and nothing by itself. Whoever removes the log
before, or begins it anew, is noticed: a position knows the file it is in by how that begins, and by
what is before it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

from oslo_log import log

from trove.common import exception
from trove.guestagent import state
from trove.guestagent.datastores import base
from trove.guestagent.datastores.mysql import binlog, connection, moments, ranges
from trove.guestagent.datastores.mysql import dialect as dialects
from trove.guestagent.system import filesystem

LOG = log.getLogger(__name__)

#: What the agent remembers: whether the server keeps its log until it is told otherwise.
DOCUMENT = "log_archive"
#: Days that the server keeps a log nobody else wants.
EXPIRE_DAYS = 1
_TAIL_BYTES = 256


def is_kept(store: state.Store) -> bool:
    """Tell whether the server is to keep its log until it was read."""
    return bool((store.find(DOCUMENT) or {}).get("is_kept"))


class PieceStream(base.Stream):
    """Parts of files one after the other, then some bytes."""

    def __init__(
        self,
        contents: ranges.Contents,
        parts: list[tuple[BinaryIO, ranges.Range, bytes]],
        *,
        last: bytes,
    ) -> None:
        """Take the ranges of open files, each with what is to be before it."""
        self._contents = contents
        self._parts = parts
        self._index = 0
        self._offset = -1
        self._head = b""
        self._last = last
        self._is_over = False

    def read(self, most: int) -> bytes:
        """Return the next bytes."""
        while self._index < len(self._parts):
            stream, part, head = self._parts[self._index]
            if self._offset < 0:
                self._head, self._offset = head, part.start
            if self._head:
                data, self._head = self._head[:most], self._head[most:]
                return data
            data = os.pread(stream.fileno(), min(most, part.end - self._offset), self._offset)
            if data:
                self._offset += len(data)
                return data
            if self._offset < part.end:
                raise exception.GuestError(reason=f"{part.file} became shorter while it was read")
            self._index, self._offset = self._index + 1, -1
        data, self._last = self._last[:most], self._last[most:]
        self._is_over = not data
        return data

    def finish(self) -> dict[str, Any]:
        """Return what the piece is made of."""
        if not self._is_over:
            raise exception.GuestError(reason="the piece of the log was not read to its end")
        return self._contents.to_facts()

    def close(self) -> None:
        """Close the files."""
        for stream, _, _ in self._parts:
            stream.close()


@dataclasses.dataclass(slots=True, kw_only=True)
class _Cut:
    """Ranges that were found, and the files they are of."""

    parts: list[tuple[BinaryIO, ranges.Range, bytes]] = dataclasses.field(default_factory=list)
    size_bytes: int = 0
    #: When the last transaction began, by its own account.
    time_s: float = 0.0
    is_full: bool = False
    has_transactions: bool = False

    def close(self) -> None:
        """Close the files."""
        for stream, _, _ in self.parts:
            stream.close()


class BinlogArchive(base.Archive):
    """The binary log."""

    def __init__(
        self,
        dialect: dialects.Dialect,
        *,
        connector: connection.Connector,
        kept: connection.KeptConnection,
        data_dir: pathlib.Path,
        store: state.Store,
        rewrite_configuration: Callable[[], None],
    ) -> None:
        """Take the server, and what writes its configuration anew."""
        self._dialect = dialect
        self._connector = connector
        self._kept = kept
        self._data_dir = data_dir
        self._store = store
        self._rewrite_configuration = rewrite_configuration
        self._moments = moments.Moments(data_dir)
        #: Position behind which nothing was found, the newest file then, and how that was.
        self._idle: tuple[Mapping[str, Any], str, tuple[int, int, int]] | None = None

    # -- beginning and ending -----

    def start(self) -> Mapping[str, Any]:
        """Have the server remove nothing by itself, and return where its log is."""
        self._keep(True)
        self._moments.close()
        self._idle = None
        file, offset = self._end()
        self._moments.ensure_watching()
        return dataclasses.asdict(self._position(file, offset))

    def stop(self) -> None:
        """Have the server remove its log: what there is now, and after a while what comes."""
        self._moments.close()
        self._idle = None
        self._keep(False)
        # what waited for a storage out of reach may be what fills the disk
        file, _ = self._end()
        self._purge(file)

    def close(self) -> None:
        """Watch the log no longer; the server goes on as it does."""
        self._moments.close()

    def _keep(self, is_kept: bool) -> None:
        with self._kept.session() as session:
            if session.execute("SELECT @@GLOBAL.log_bin")[0][0] != 1:
                raise exception.GuestError(reason="the server writes no binary log")
            self._store.save(DOCUMENT, {"is_kept": is_kept})
            self._rewrite_configuration()
            option, day = self._dialect.log_expiry
            session.execute(
                f"SET GLOBAL {option} = {{expiry}}", expiry=0 if is_kept else day * EXPIRE_DAYS
            )

    # -- positions -----

    def _path(self, file: str) -> pathlib.Path:
        binlog.number_of(file)
        return self._data_dir / file

    def _end(self) -> tuple[str, int]:
        """Return up to where the log is written and synced, between two transactions."""
        with self._kept.session() as session:
            status = connection.log_status(session)
        if status is None:
            raise exception.GuestError(reason="the server writes no binary log")
        return status

    def _position(self, file: str, offset: int) -> ranges.Position:
        try:
            with open(self._path(file), "rb") as stream:
                return _position_in(stream, file, offset)
        except OSError as e:
            raise exception.GuestError(
                reason=filesystem.explain(e, "reading the binary log")
            ) from None

    def _open_file(self, file: str) -> BinaryIO:
        try:
            return self._path(file).open("rb")
        except FileNotFoundError:
            raise base.LogLost(reason=f"{file} was removed before it was archived") from None

    def _open(self, position: ranges.Position) -> BinaryIO:
        """Open the file of a position; raises LogLost unless it is as it was."""
        stream = self._open_file(position.file)
        try:
            now = _position_in(stream, position.file, position.offset)
        except exception.GuestError as e:
            stream.close()
            raise base.LogLost(reason=str(e.kwargs["reason"])) from None
        except BaseException:
            stream.close()
            raise
        if now != position:
            stream.close()
            raise base.LogLost(reason="the binary log was begun anew (RESET MASTER)")
        return stream

    # -- reading -----

    def read(self, position: Mapping[str, Any], *, most_bytes: int) -> base.Piece | None:
        """Return what was written since."""
        self._moments.ensure_watching()
        if self._is_idle(position):
            return None
        if not is_kept(self._store):
            # the agent's own files are new, the volume is not
            self._keep(True)
        start = _parse(position)
        as_of_s = time.time()
        file, offset = self._end()
        read_s = time.time()
        cut = _Cut()
        try:
            self._cut(cut, start, last=(binlog.number_of(file), offset), most_bytes=most_bytes)
            if cut.has_transactions:
                return self._piece(cut, start, as_of_s=as_of_s, read_s=read_s)
        except OSError as e:
            cut.close()
            raise exception.GuestError(
                reason=filesystem.explain(e, "reading the binary log")
            ) from None
        except BaseException:
            cut.close()
            raise
        cut.close()
        status = self._status(file)
        if status is not None and status[1] == offset:
            self._idle = (dict(position), file, status)
        return None

    def _status(self, file: str) -> tuple[int, int, int] | None:
        try:
            status = self._path(file).stat()
        except FileNotFoundError:
            return None
        return status.st_ino, status.st_size, status.st_mtime_ns

    def _is_idle(self, position: Mapping[str, Any]) -> bool:
        """Tell whether the newest file is as it was when there was nothing behind the position."""
        if self._idle is None or self._idle[0] != position:
            return False
        _, newest, status = self._idle
        # after a crash nothing in a file says that there is another one
        following = self._status(binlog.name_of(binlog.number_of(newest) + 1))
        return following is None and self._status(newest) == status

    def _cut(
        self, cut: _Cut, start: ranges.Position, *, last: tuple[int, int], most_bytes: int
    ) -> None:
        """Find the transactions from a position on, in one file after the other."""
        number, begin = binlog.number_of(start.file), start.offset
        stream = self._open(start)
        while True:
            try:
                head = binlog.read_head(stream)
            except BaseException:
                stream.close()
                raise
            begin = max(begin, head.end)
            is_newest = number == last[0]
            end = last[1] if is_newest else os.fstat(stream.fileno()).st_size
            if number > last[0] or (is_newest and begin > end):
                stream.close()
                raise base.LogLost(reason="the binary log was begun anew (RESET MASTER)")
            self._cut_file(cut, stream, head, number, (begin, end), most_bytes=most_bytes)
            if is_newest or cut.is_full:
                return
            number, begin = number + 1, 0
            stream = self._open_file(binlog.name_of(number))

    @staticmethod
    def _cut_file(
        cut: _Cut,
        stream: BinaryIO,
        head: binlog.Head,
        number: int,
        span: tuple[int, int],
        *,
        most_bytes: int,
    ) -> None:
        """Find the whole transactions of a file; what a crash left at its end does not count."""
        begin, end = span
        found = begin
        scanner = binlog.Scanner(stream)
        try:
            for group in scanner.groups(begin, end):
                if group.is_refused:
                    if not cut.has_transactions:
                        raise base.LogLost(
                            reason="a session asked for logging in a form that is not replayed"
                            " (statements with files or variables)"
                        )
                    cut.is_full = True
                    break
                found = group.end
                cut.has_transactions = True
                cut.time_s = max(cut.time_s, float(group.time_s))
                if cut.size_bytes + found - begin >= most_bytes:
                    cut.is_full = found < end
                    break
            else:
                found = scanner.end
        except BaseException:
            stream.close()
            raise
        if found == begin:
            stream.close()
            return
        cut.size_bytes += found - begin
        part = ranges.Range(
            file=binlog.name_of(number),
            digest=head.digest,
            head_bytes=head.end,
            start=begin,
            end=found,
        )
        cut.parts.append((stream, part, head.data))

    def _piece(
        self, cut: _Cut, start: ranges.Position, *, as_of_s: float, read_s: float
    ) -> base.Piece | None:
        stream, part, _ = cut.parts[-1]
        end = _position_in(stream, part.file, part.end)
        written = []
        for number, (_, each, _) in enumerate(cut.parts):
            of_file = binlog.number_of(each.file)
            self._moments.forget(binlog.number_of(start.file))
            written += [
                (number, moment) for moment in self._moments.within(of_file, each.start, each.end)
            ]
        if cut.is_full:
            # the rest is of later than what is known of this
            known = [m.time_us / 1e6 for _, m in written[-2:] if m.offset <= part.end]
            as_of_s = min(as_of_s, max([cut.time_s, *known]))
        packed = moments.pack(written)
        contents = ranges.Contents(
            ranges=tuple(each for _, each, _ in cut.parts),
            start=start,
            end=end,
            moments_bytes=len(packed),
            read_s=read_s,
        )
        return base.Piece(
            until=dataclasses.asdict(end),
            as_of_s=as_of_s,
            stream=PieceStream(contents, cut.parts, last=packed),
        )

    # -- what waits, and what need not be kept -----

    def pending_bytes(self, position: Mapping[str, Any]) -> int:
        """Return how much longer the files are."""
        start = _parse(position)
        status = self._status(start.file)
        if status is None or status[1] < start.offset:
            raise base.LogLost(reason=f"{start.file} was removed before it was archived")
        pending = status[1] - start.offset
        number = binlog.number_of(start.file) + 1
        while (status := self._status(binlog.name_of(number))) is not None:
            pending += status[1]
            number += 1
        return pending

    def release(self, position: Mapping[str, Any]) -> None:
        """Have the server remove the files before the one of a position."""
        self._purge(_parse(position).file)

    def _purge(self, file: str) -> None:
        if self._status(binlog.name_of(binlog.number_of(file) - 1)) is None:
            return
        with self._connector.session() as session:
            session.execute("PURGE BINARY LOGS TO {file}", file=file)


def _parse(position: Mapping[str, Any]) -> ranges.Position:
    try:
        return ranges.Position(**position)
    except TypeError:
        raise exception.GuestError(reason="this is no position in a binary log") from None


def _position_in(stream: BinaryIO, file: str, offset: int) -> ranges.Position:
    """Return the position at an offset of a file; raises GuestError when it is shorter."""
    if os.fstat(stream.fileno()).st_size < offset:
        raise exception.GuestError(reason=f"{file} is shorter than it was")
    head = binlog.read_head(stream)
    begin = max(offset - _TAIL_BYTES, head.end)
    tail = os.pread(stream.fileno(), max(0, offset - begin), begin)
    return ranges.Position(
        file=file,
        offset=offset,
        digest=head.digest,
        tail=hashlib.sha256(tail).hexdigest()[:32],
    )
