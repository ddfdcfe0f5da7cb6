"""The write-ahead log as bytes: positions, the files it lies in, ranges of it.

A position (LSN) is a number of bytes since the beginning of a cluster. A range that was read is
proven page by page to be of the place that it is taken for: a file that the server has given
another name meanwhile is told from it.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
import struct
from collections.abc import Callable, Mapping, MutableSequence
from typing import Any

from trove.common import exception
from trove.guestagent.datastores import base
from trove.guestagent.datastores.postgresql import connection

#: XLOG_BLCKSZ of every package.
PAGE_BYTES = 8192
_LONG_HEADER_BYTES = 40
_SHORT_HEADER_BYTES = 24
#: xlp_magic, xlp_info, xlp_tli, xlp_pageaddr (access/xlog_internal.h).
_PAGE = struct.Struct("=HHIQ")
_LSN = re.compile(r"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})\Z")
_SEGMENT_NAME = re.compile(r"[0-9A-F]{24}\Z")

#: File in the data directory that tells one history of data from another: servers that are made
#: from one template are alike in everything else.
INCARNATION = "trove.incarnation"


def parse(text: str) -> int:
    """Return a position from how the server writes it, such as 0/3000148; raises GuestError."""
    found = _LSN.match(text.strip())
    if found is None:
        raise exception.GuestError(
            reason="a position of PostgreSQL is an LSN, such as 0/3000148 (pg_current_wal_lsn())"
        )
    return int(found[1], 16) << 32 | int(found[2], 16)


def show(lsn: int) -> str:
    """Return a position as the server writes it."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def is_segment(name: str) -> bool:
    """Tell whether a file's name is that of a segment of the log."""
    return _SEGMENT_NAME.match(name) is not None


def segment_name(timeline: int, lsn: int, segment_bytes: int) -> str:
    """Return the name of the file that a position is in."""
    number, each = lsn // segment_bytes, (1 << 32) // segment_bytes
    return f"{timeline:08X}{number // each:08X}{number % each:08X}"


def segment_start(name: str, segment_bytes: int) -> int:
    """Return the position that a file of the log begins with."""
    return int(name[8:16], 16) * (1 << 32) + int(name[16:24], 16) * segment_bytes


def bare(lsn: int, segment_bytes: int) -> int:
    """Return a position without the header of the page that it may be right behind.

    Where the next record goes and where the last one ends differ by that.
    """
    page = lsn - lsn % PAGE_BYTES
    header = _SHORT_HEADER_BYTES if page % segment_bytes else _LONG_HEADER_BYTES
    return page if lsn - page <= header else lsn


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """Where a running server is in its log, all of it on the disk.

    What was committed until ``time_s`` is before ``lsn``, which is between two records.
    """

    time_s: float
    lsn: int
    timeline: int
    segment_bytes: int


def moment(session: connection.Session, *, own: MutableSequence[int] | None = None) -> Moment:
    """Return where the server is; what it has not written yet it writes. Raises GuestError.

    ``own`` is given the number of the transaction that this may take.
    """
    row = session.execute(
        "SELECT pg_is_in_recovery(), extract(epoch FROM clock_timestamp())::float8,"
        " (SELECT setting::int8 FROM pg_settings WHERE name = 'wal_segment_size')"
    )[0]
    if row[0]:
        raise exception.GuestError(reason="this database is a replica: ask the one it is of")
    time_s, segment_bytes = float(row[1]), int(row[2])
    # in this order: a commit of before the time is before the place
    ((inserted, name),) = session.execute(
        "SELECT i::text, pg_walfile_name(i) FROM pg_current_wal_insert_lsn() AS i"
    )
    lsn = bare(parse(inserted), segment_bytes)
    if flushed(session) < lsn:
        # a commit of our own writes those that were not waited for
        ((_, number),) = session.execute(
            "SELECT pg_logical_emit_message(true, 'trove', '')::text, pg_current_xact_id()::text"
        )
        if own is not None:
            own.append(int(number))
        if flushed(session) < lsn:
            raise exception.GuestError(reason="the database does not write its log to the disk")
    return Moment(
        # whoever was about to commit had looked at the clock already
        time_s=time_s - _COMMIT_S,
        lsn=lsn,
        timeline=int(name[:8], 16),
        segment_bytes=segment_bytes,
    )


#: How long it takes at most from the time of a commit to its place in the log.
_COMMIT_S = 0.1


def flushed(session: connection.Session) -> int:
    """Return up to where the log is on the disk."""
    return parse(session.execute("SELECT pg_current_wal_flush_lsn()::text")[0][0])


def _gone(lsn: int) -> exception.GuestError:
    return exception.GuestError(
        reason=f"the log does not have {show(lsn)} any more: make a full backup"
    )


class Range(base.Stream):
    """A range of a running server's log, out of its files."""

    def __init__(
        self,
        directory: pathlib.Path,
        *,
        first: int,
        end: int,
        timeline: int,
        segment_bytes: int,
        facts: Mapping[str, Any],
        check: Callable[[], None],
    ) -> None:
        """Take the range and its facts; ``check`` raises once the server may have removed it."""
        self._directory = directory
        self._next = first
        self._end = end
        self._timeline = timeline
        self._segment_bytes = segment_bytes
        self._facts = dict(facts)
        self._check = check
        self._file: tuple[str, int] | None = None
        self._ended_segment: int | None = None

    def read(self, most: int) -> bytes:
        """Return some of the range, of one file at a time."""
        if self._next >= self._end:
            return b""
        name = segment_name(self._timeline, self._next, self._segment_bytes)
        within = self._next % self._segment_bytes
        size = min(most, self._end - self._next, self._segment_bytes - within)
        data = os.pread(self._open(name), size, within)
        if not data:
            raise exception.GuestError(reason=f"the file {name} of the log is short")
        self._prove(data)
        self._next += len(data)
        return data

    def _open(self, name: str) -> int:
        if self._file is None or self._file[0] != name:
            self.close()
            try:
                descriptor = os.open(self._directory / name, os.O_RDONLY | os.O_NOFOLLOW)
            except FileNotFoundError:
                raise exception.GuestError(
                    reason=f"the file {name} of the log is gone: make a full backup"
                ) from None
            self._file = (name, descriptor)
        return self._file[1]

    def _prove(self, data: bytes) -> None:
        """Raise GuestError unless every page that begins in the data is where it says."""
        first = -self._next % PAGE_BYTES
        for offset in range(first, len(data) - _PAGE.size + 1, PAGE_BYTES):
            lsn = self._next + offset
            segment = lsn // self._segment_bytes
            page = data[offset : offset + _PAGE.size]
            if not any(page):
                # nothing more was written to a file that the server went on from before its end
                self._ended_segment = segment
                continue
            _, _, timeline, address = _PAGE.unpack(page)
            if address != lsn or timeline > self._timeline or segment == self._ended_segment:
                raise _gone(lsn)

    def finish(self) -> dict[str, Any]:
        """Return the facts, once the server is known to have kept the range meanwhile."""
        if self._next < self._end:
            raise exception.GuestError(reason="the log was not read to its end")
        segment, within = divmod(self._end, self._segment_bytes)
        if self._facts["is_whole"] and within and segment == self._ended_segment:
            # the server is in the middle of this file, so it has no end before
            raise _gone(self._end)
        self._check()
        return self._facts

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            os.close(self._file[1])
            self._file = None
