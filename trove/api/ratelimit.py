"""How many requests a project may send: windows of a minute, one a method, for all workers.

A worker takes requests' worth of a window from the SQL backend ahead of time (see
:mod:`trove.db.rate_windows`) and admits requests of that without asking again. What it takes grows
with what it used in this window, and shrinks with what is left of it: all workers together never
admit more than the limit, and what a worker may hold unused, when the rest of the window is used
up elsewhere, is at most a 25th part of the limit and at most what it admitted itself.

While the backend is away each worker counts alone: requests then fail by themselves, or need no
backend.
"""

from __future__ import annotations

import dataclasses
import datetime
import threading
from collections.abc import Mapping, Sequence

from oslo_config import cfg
from oslo_log import log

from trove.common import concurrency, exception
from trove.db import base, rate_windows

LOG = log.getLogger(__name__)

#: A worker holds at most this part of a limit.
_PARTS_OF_LIMIT = 25
#: It takes at most this part of what is left.
_PARTS_OF_REST = 8
#: Tries to take something while others take from the same window.
_MOST_TRIES = 10
#: Seconds without asking a backend that was away.
_PAUSE_S = 10.0
#: Windows after which a silent project's row is removed.
_KEPT_WINDOWS = 60


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RateWindow:
    """What is left of a project's window for one method."""

    method: str
    value: int
    remaining: int
    next_available: datetime.datetime


@dataclasses.dataclass(slots=True)
class _Bucket:
    """What this worker holds of a window; changed under its lock."""

    window: int = -1
    #: Taken from the backend and not used yet.
    tokens: int = 0
    #: Taken from the backend altogether.
    leased: int = 0
    #: Nothing is left at the backend.
    is_spent: bool = False
    #: Admitted without the backend.
    alone: int = 0
    lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)

    def begin(self, window: int) -> None:
        """Forget the last window."""
        self.window, self.tokens, self.leased = window, 0, 0
        self.is_spent, self.alone = False, 0


class RateLimiter:
    """Counts the requests of each project."""

    def __init__(
        self, conf: cfg.ConfigOpts, *, database: base.Database, clock: concurrency.Clock
    ) -> None:
        """Read the rates of the [api] group; zero means any number of requests."""
        rates = {
            "GET": conf.api.http_get_rate,
            "POST": conf.api.http_post_rate,
            "PUT": conf.api.http_put_rate,
            "DELETE": conf.api.http_delete_rate,
        }
        self._limits: Mapping[str, int] = {name: rate for name, rate in rates.items() if rate}
        self._database = database
        self._clock = clock
        self._buckets: dict[tuple[str, str], _Bucket] = {}
        self._window = -1
        self._lock = threading.Lock()
        self._away_until: float | None = None

    def check(self, method: str, project_id: str) -> None:
        """Count a request; raises RateLimited when the project has sent too many."""
        limit = self._limits.get(method)
        if limit is None:
            return
        now = self._clock.now()
        window = rate_windows.window_of(now)
        bucket = self._bucket(project_id, method, window)
        with bucket.lock:
            if not window <= bucket.window <= window + 1:
                bucket.begin(window)
            if not bucket.tokens and not bucket.is_spent:
                self._refill(bucket, project_id, method, limit)
            if bucket.tokens:
                bucket.tokens -= 1
                return
            ends_at = _end_of(bucket.window)
        raise exception.RateLimited(
            retry_after_s=max(1, round((ends_at - now).total_seconds())),
            details=f"Only {limit} {method} request(s) can be made every minute.",
        )

    def describe(self, project_id: str) -> Sequence[RateWindow]:
        """Return the windows of a project, as all workers together have used them."""
        window = rate_windows.window_of(self._clock.now())
        with self._database.reader() as session:
            taken = rate_windows.get_taken(session, project_id, window=window)
        return [
            RateWindow(
                method=method,
                value=limit,
                remaining=max(0, limit - taken.get(method, 0))
                + self._held(project_id, method, window),
                next_available=_end_of(window),
            )
            for method, limit in self._limits.items()
        ]

    def _held(self, project_id: str, method: str, window: int) -> int:
        """Return what this worker has taken of a window, or of a later one, and not used yet."""
        bucket = self._bucket(project_id, method, window)
        with bucket.lock:
            return bucket.tokens if bucket.window >= window else 0

    def prune(self) -> None:
        """Remove what the backend remembers of projects that have been silent for an hour."""
        before = rate_windows.window_of(self._clock.now()) - _KEPT_WINDOWS
        try:
            with self._database.writer() as session:
                rate_windows.prune(session, before=before)
        except rate_windows.UNAVAILABLE as e:
            LOG.debug("rate limits: old windows are removed later: %s", type(e).__name__)

    def _bucket(self, project_id: str, method: str, window: int) -> _Bucket:
        if window != self._window:
            with self._lock:
                self._window = window
                self._buckets = {
                    key: bucket
                    for key, bucket in self._buckets.items()
                    if bucket.window >= window - 1
                }
        key = (project_id, method)
        bucket = self._buckets.get(key)
        if bucket is None:
            with self._lock:
                bucket = self._buckets.setdefault(key, _Bucket(window))
        return bucket

    def _refill(self, bucket: _Bucket, project_id: str, method: str, limit: int) -> None:
        """Put into a bucket what can be had, if anything."""
        lease = self._take(bucket, project_id, method, limit)
        if lease is None:
            if bucket.alone < limit:
                bucket.alone += 1
                bucket.tokens = 1
            return
        if lease.window != bucket.window:
            bucket.begin(lease.window)
        bucket.tokens = lease.granted
        bucket.leased += lease.granted
        bucket.is_spent = not lease.granted

    def _take(
        self, bucket: _Bucket, project_id: str, method: str, limit: int
    ) -> rate_windows.Lease | None:
        """Return what the backend gives, or None while it is away."""
        now = self._clock.monotonic()
        if self._away_until is not None and now < self._away_until:
            return None

        def share(left: int) -> int:
            most = min(bucket.leased, limit // _PARTS_OF_LIMIT, left // _PARTS_OF_REST)
            return max(1, most)

        @base.retry_on_conflict
        def attempt() -> rate_windows.Lease | None:
            with self._database.writer() as session:
                return rate_windows.take(
                    session, project_id, method, window=bucket.window, limit=limit, share=share
                )

        try:
            for _ in range(_MOST_TRIES):
                lease = attempt()
                if lease is not None:
                    self._away_until = None
                    return lease
        except rate_windows.UNAVAILABLE as e:
            LOG.warning(
                "rate limits: the SQL backend is away (%s); this worker counts alone",
                type(e).__name__,
            )
            self._away_until = now + _PAUSE_S
            return None
        return rate_windows.Lease(window=bucket.window, granted=0)


def _end_of(window: int) -> datetime.datetime:
    seconds = (window + 1) * rate_windows.WINDOW_S
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC)
