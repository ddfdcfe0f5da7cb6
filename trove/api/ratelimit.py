"""How many requests a project may send: fixed windows of a minute, one a method, per process."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping, Sequence

import limits
from limits import storage, strategies
from oslo_config import cfg

from trove.common import exception


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RateWindow:
    """What is left of a project's window for one method."""

    method: str
    value: int
    remaining: int
    next_available: datetime.datetime


class RateLimiter:
    """Counts the requests of each project."""

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        """Read the rates of the [api] group; zero means any number of requests."""
        rates = {
            "GET": conf.api.http_get_rate,
            "POST": conf.api.http_post_rate,
            "PUT": conf.api.http_put_rate,
            "DELETE": conf.api.http_delete_rate,
        }
        self._items: Mapping[str, limits.RateLimitItem] = {
            method: limits.RateLimitItemPerMinute(rate) for method, rate in rates.items() if rate
        }
        self._windows = strategies.FixedWindowRateLimiter(storage.MemoryStorage())

    def check(self, method: str, project_id: str) -> None:
        """Count a request; raises RateLimited when the project has sent too many."""
        item = self._items.get(method)
        if item is None or self._windows.hit(item, method, project_id):
            return
        reset = self._windows.get_window_stats(item, method, project_id).reset_time
        left_s = reset - datetime.datetime.now(datetime.UTC).timestamp()
        raise exception.RateLimited(
            retry_after_s=max(1, round(left_s)),
            details=f"Only {item.amount} {method} request(s) can be made every minute.",
        )

    def describe(self, project_id: str) -> Sequence[RateWindow]:
        """Return the windows of a project."""
        windows = []
        for method, item in self._items.items():
            stats = self._windows.get_window_stats(item, method, project_id)
            windows.append(
                RateWindow(
                    method=method,
                    value=item.amount,
                    remaining=max(0, stats.remaining),
                    next_available=datetime.datetime.fromtimestamp(stats.reset_time, datetime.UTC),
                )
            )
        return windows
