"""The state of an archive, as an agent tells it: checked, so that every value fits its column.

A guest may be hostile: what it tells counts for its own active epoch only
(:mod:`trove.db.log_archives`), and here its texts are cut, its numbers bounded, and a time that
runs ahead of this service's clock is not believed. What is no state of an archive at all is
dropped; the rest of the heartbeat counts all the same.
"""

from __future__ import annotations

import datetime

from trove.db import log_archives
from trove.rpc import payloads

#: Reasons, as they are counted.
BAD_VALUE = "bad_archive"
AHEAD = "archive_ahead"

_MAX_TEXT_CHARS = 1000
_ID_CHARS = 36
_LARGEST = 2**63 - 1
#: Seconds since 1970 of the year 9000.
_LAST_TIME_S = 221_845_392_000.0


def check(
    instance_id: str, state: payloads.ArchiveState, *, now: datetime.datetime, window_s: float
) -> tuple[log_archives.Report | None, str | None]:
    """Return what is to be stored, if anything, and the reason why some of it is not.

    An archive that is said to reach further than this clock and the message window reaches until
    now: whatever was committed by then is in it all the more.
    """
    is_good = (
        0 < len(state.epoch) <= _ID_CHARS
        and 0 <= state.sequence <= _LARGEST
        and 0 <= state.since <= _LAST_TIME_S
        and 0 <= state.as_of <= _LAST_TIME_S
    )
    if not is_good:
        return None, BAD_VALUE
    as_of, reason = _time(state.as_of), None
    if as_of > now + datetime.timedelta(seconds=window_s):
        as_of, reason = now, AHEAD
    report = log_archives.Report(
        instance_id=instance_id,
        epoch=_text(state.epoch),
        sequence=state.sequence,
        since=min(_time(state.since), as_of),
        as_of=as_of,
        pending_bytes=min(max(state.pending_bytes, 0), _LARGEST),
        stored_bytes=min(max(state.stored_bytes, 0), _LARGEST),
        problem=None if state.problem is None else _text(state.problem),
        is_lost=state.is_lost,
        reported=now,
    )
    return report, reason


def _time(seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC)


def _text(value: str) -> str:
    """Return a text that its column can hold: cut, without NUL and lone surrogates."""
    cut = value[:_MAX_TEXT_CHARS].replace("\0", "")
    return cut.encode("utf-8", "replace").decode("utf-8")
