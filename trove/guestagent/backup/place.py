"""The objects of one backup or archive in the store: by name, patiently, with grants that are good.

A transfer that fails is tried again, with a new grant, until the store has failed for
``patience_s``. What a failed transfer left is replaced by the next: objects appear whole. What the
store says of an object is compared with what was sent: a store that says it has it and has not is
one that failed.

Some stores sign each object. What is stored or read is numbered, so that the objects which follow
are asked for together with the one that is wanted: the more of them, the more often one asks.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import tenacity
from oslo_log import log

from trove.common import concurrency, exception
from trove.guestagent.backup import progress as progresses
from trove.rpc import payloads
from trove.storage import base, contents, factory

LOG = log.getLogger(__name__)

#: Seconds for which a store may fail before the work ends; the engine is held back meanwhile.
PATIENCE_S = 900.0
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0
#: A grant is renewed when less than this part of its time is left, and not more often than so.
_RENEW_PART = 0.25
_RENEW_PAUSE_S = 5.0
_PIECE_BYTES = 256 * 1024
#: How many objects are asked for at once, at first and at most.
_FEWEST_NAMES = 4
_MOST_NAMES = 64
_NUMBERED = re.compile(r"(.*?)([0-9]+)")

#: Gives a grant that is good now, None when there is none. Takes the names that are wanted next,
#: without the prefix.
Renew = Callable[[Sequence[str]], payloads.ObjectStorage | None]
_T = TypeVar("_T")


class StorageFailed(exception.GuestError):
    """The store failed for longer than one was patient."""


class Place:
    """Objects whose names begin with the prefix of a grant; the names here are without it.

    May be used by several threads. All methods raise GuestError when the store failed for too long,
    and Cancelled.
    """

    def __init__(
        self,
        storage: payloads.ObjectStorage,
        *,
        renew: Renew | None = None,
        clock: concurrency.Clock | None = None,
        patience_s: float = PATIENCE_S,
        first_pause_s: float = _FIRST_PAUSE_S,
    ) -> None:
        """Take a grant and what renews it."""
        self._clock = clock or concurrency.SystemClock()
        self._renew = renew
        self.patience_s = patience_s
        self._first_pause_s = first_pause_s
        self._lock = threading.Lock()
        self._since = self._clock.monotonic()
        self._storage = storage
        self._account: base.Account | None = None
        self._names_at_once = _FEWEST_NAMES

    def full_name(self, name: str) -> str:
        """Return what people find an object by."""
        return f"{self._storage.container}/{self._storage.prefix}{name}"

    def put(
        self,
        name: str,
        content: bytes | bytearray | memoryview,
        *,
        progress: progresses.Progress | None = None,
    ) -> base.StoredObject:
        """Store an object, replacing one of this name; return what the store says of it."""
        with memoryview(content) as view:
            return self._put(name, view, progress)

    def _put(
        self, name: str, view: memoryview, progress: progresses.Progress | None
    ) -> base.StoredObject:
        whole = contents.Whole(view, check=(progress or progresses.Progress()).check)

        def put(account: base.Account, container: str, full: str) -> base.StoredObject:
            try:
                stored = account.put(container, full, whole)
            except base.ObjectNotFound:
                raise base.StorageError(
                    reason="it said that it stored the object, and does not have it"
                ) from None
            if (stored.size_bytes, stored.etag) != (whole.size_bytes, whole.etag):
                raise base.StorageError(
                    reason=f"{whole.size_bytes} bytes with the MD5 {whole.etag} were sent, it has"
                    f" {stored.size_bytes} with {stored.etag[:64]}"
                )
            return stored

        return self._patiently("store", name, put, progress=progress)

    def find(
        self, name: str, *, progress: progresses.Progress | None = None
    ) -> base.StoredObject | None:
        """Return what the store says of an object, None when there is none."""
        return self._patiently(
            "look for",
            name,
            lambda account, container, full: account.find(container, full),
            progress=progress,
        )

    def find_content(
        self, name: str, *, most_bytes: int, progress: progresses.Progress | None = None
    ) -> bytearray | None:
        """Return the content of an object, None when there is none.

        Raises GuestError for one that is larger than ``most_bytes``.
        """

        def read(account: base.Account, container: str, full: str) -> bytearray | None:
            try:
                stored, stream = account.open(container, full)
            except base.ObjectNotFound:
                return None
            with stream:
                if stored.size_bytes > most_bytes:
                    raise exception.GuestError(
                        reason=f"object {self.full_name(name)} has {stored.size_bytes} bytes,"
                        f" more than the {most_bytes} that can be in it"
                    )
                content = bytearray()
                while piece := stream.read(_PIECE_BYTES):
                    content += piece
                    if progress is not None:
                        progress.check()
                    if len(content) > most_bytes:
                        break
            if len(content) != stored.size_bytes:
                raise base.StorageError(
                    reason=f"{len(content)} bytes came of the {stored.size_bytes} there are"
                )
            return content

        return self._patiently("read", name, read, progress=progress)

    def get(
        self, name: str, *, most_bytes: int, progress: progresses.Progress | None = None
    ) -> bytearray:
        """Return the content of an object; raises GuestError when there is none."""
        content = self.find_content(name, most_bytes=most_bytes, progress=progress)
        if content is None:
            raise exception.GuestError(reason=f"object {self.full_name(name)} is missing")
        return content

    def delete(self, name: str, *, patience_s: float | None = None) -> bool:
        """Delete an object; returns whether there was one."""
        return self._patiently(
            "delete",
            name,
            lambda account, container, full: account.delete(container, full),
            patience_s=patience_s,
        )

    def _patiently(
        self,
        action: str,
        name: str,
        call: Callable[[base.Account, str, str], _T],
        *,
        progress: progresses.Progress | None = None,
        patience_s: float | None = None,
    ) -> _T:
        """Call until it succeeds, or the store has failed for too long."""
        began = self._clock.monotonic()
        most_s = self.patience_s if patience_s is None else patience_s

        def attempt() -> _T:
            if progress is not None:
                progress.check()
            storage, account = self._open(name)
            return call(account, storage.container, storage.prefix + name)

        def prepare(state: tenacity.RetryCallState) -> None:
            error = state.outcome.exception() if state.outcome else None
            # of many failures, fewer and fewer are told
            if state.attempt_number.bit_count() == 1:
                LOG.warning("trying again to %s %s: %s", action, self.full_name(name), error)
            self._renew_grant(name, since_s=_RENEW_PAUSE_S)

        pause = tenacity.wait_random_exponential(
            multiplier=self._first_pause_s, max=_LONGEST_PAUSE_S
        )

        def left_s() -> float:
            return began + most_s - self._clock.monotonic()

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(base.StorageError),
            stop=lambda state: left_s() <= 0,
            wait=lambda state: min(pause(state), max(0.0, left_s())),
            sleep=(progress or progresses.Progress()).wait,
            before_sleep=prepare,
            reraise=True,
        )
        try:
            return retrying(attempt)
        except base.StorageError as e:
            raise StorageFailed(
                reason=f"the object store has failed for {most_s:.0f} s to {action}"
                f" {self.full_name(name)}: {e.kwargs.get('reason', e)}"
            ) from e

    def _open(self, name: str) -> tuple[payloads.ObjectStorage, base.Account]:
        """Return the account by a grant that is good for a while; raises StorageError."""
        valid_s = self._storage.valid_s
        if valid_s is not None:
            self._renew_grant(name, since_s=valid_s * (1 - _RENEW_PART))
        with self._lock:
            account = self._get_account()
            if not account.reaches(self._storage.container, self._storage.prefix + name):
                self._ask_for(name)
                self._names_at_once = min(2 * self._names_at_once, _MOST_NAMES)
                account = self._get_account()
                if not account.reaches(self._storage.container, self._storage.prefix + name):
                    raise base.StorageError(reason="there is no signed URL for it")
            return self._storage, account

    def _get_account(self) -> base.Account:
        if self._account is None:
            self._account = factory.open_grant(self._storage.kind, self._storage.grant)
        return self._account

    def _renew_grant(self, name: str, *, since_s: float) -> None:
        """Have a new grant, when the one there is was asked for that long ago."""
        with self._lock:
            if self._clock.monotonic() - self._since >= since_s:
                self._ask_for(name)

    def _ask_for(self, name: str) -> None:
        """Have a new grant for an object and those that follow it, if there is one."""
        if self._renew is None:
            return
        now = self._clock.monotonic()
        try:
            renewed = self._renew([name, *_following(name, self._names_at_once - 1)])
        except exception.TroveError as e:
            LOG.warning("no new grant for %s: %s", self.full_name(name), e)
            return
        if renewed is not None:
            self._since, self._storage, self._account = now, renewed, None


def _following(name: str, count: int) -> Iterator[str]:
    """Yield the names that follow one that ends with a number."""
    found = _NUMBERED.fullmatch(name)
    if found is not None:
        stem, digits = found.groups()
        for number in range(int(digits) + 1, int(digits) + 1 + count):
            yield f"{stem}{number:0{len(digits)}d}"
