"""Lists of other services that are kept in memory, so that no request waits for these.

A thread of its own refreshes such a list. While the other service is away the last known list
stays; only when there has never been one is it an error to ask. Where asking costs no service
anything, as with drivers whose lists are options, there is no thread and nothing is remembered.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from oslo_log import log

from trove.common import concurrency, exception

LOG = log.getLogger(__name__)

#: Seconds between refreshes, and between tries while the list is not known or not to be had.
REFRESH_S = 30.0
_RETRY_S = 5.0

_Item = TypeVar("_Item")


class Remembered(Generic[_Item]):
    """One list; ``what`` is its name in the plural, as in "flavors"."""

    def __init__(
        self,
        what: str,
        read: Callable[[], Sequence[_Item]],
        *,
        is_remote: bool,
        clock: concurrency.Clock,
    ) -> None:
        """Take what asks the other service; ``is_remote`` tells whether that costs anything."""
        self._what = what
        self._read = read
        self._is_remote = is_remote
        self._clock = clock
        self._lock = threading.Lock()
        self._items: Sequence[_Item] | None = None
        self._read_at: float | None = None
        self._is_failing = False
        self._thread: concurrency.PeriodicThread | None = None
        self._thread_pid: int | None = None

    def get(self) -> Sequence[_Item]:
        """Return the list as it was last known; raises ServiceUnavailable when it never was."""
        if not self._is_remote:
            return self._ask()
        self.start()
        items = self._items
        if items is None:
            raise exception.ServiceUnavailable(
                reason=f"the {self._what} are not known yet, for the service that has them has not"
                " answered so far: try again later; the operator finds the cause in the log"
            )
        return items

    def start(self) -> None:
        """Have the list refreshed from now on, in whichever process this is; may be repeated.

        A thread does not live on in a process that was forked.
        """
        if not self._is_remote or self._thread_pid == os.getpid():
            return
        with self._lock:
            if self._thread_pid != os.getpid():
                self._thread = concurrency.PeriodicThread(
                    f"refresh {self._what}", self.refresh, interval_s=_RETRY_S
                )
                self._thread.start()
                self._thread_pid = os.getpid()

    def stop(self) -> None:
        """End the refreshing."""
        if self._thread is not None and self._thread_pid == os.getpid():
            self._thread.stop()

    def refresh(self) -> None:
        """Ask the other service, if the list is due; a failure is told once."""
        now = self._clock.monotonic()
        if self._read_at is not None and now - self._read_at < REFRESH_S:
            return
        try:
            self._items = self._read()
        except exception.DriverError as e:
            if not self._is_failing:
                LOG.error("the %s cannot be listed, the last known ones stay: %s", self._what, e)
            self._is_failing = True
            return
        if self._is_failing:
            LOG.info("the %s are listed again", self._what)
        self._is_failing = False
        self._read_at = now

    def _ask(self) -> Sequence[_Item]:
        try:
            return self._read()
        except exception.DriverError as e:
            LOG.error("the %s cannot be listed: %s", self._what, e)
            raise exception.ServiceUnavailable(
                reason=f"the {self._what} cannot be listed"
            ) from None
