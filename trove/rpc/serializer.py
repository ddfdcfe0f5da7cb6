"""The sealed envelope of the guest channel.

An envelope is ``{"v": 1, "i": instance id, "d": direction, "m": message id, "r": id of the message
answered (replies only), "t": sent at (Unix seconds), "c": base64 ciphertext}``. The ciphertext is
AES-256-GCM under the instance's key with all other fields as associated data; inside is JSON
``{"method": name, "payload": ...}``, or ``{"method": name, "failure": ...}``, and for messages that
are worth something for a shorter time than the window ``"valid_s"``.

Opening fails closed. What does not open, is of the wrong direction, is older than the window or
was seen before is dropped and counted by reason. **The instance that a message speaks for is the
one whose key opened it**, nothing it claims inside. A reply is accepted by the id of the message
it answers, which nobody could know before, and so needs no clock.
"""

from __future__ import annotations

import base64
import binascii
import collections
import contextlib
import dataclasses
import datetime
import enum
import json
import math
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from oslo_log import log

from trove.common import concurrency, crypto, exception

LOG = log.getLogger(__name__)

VERSION = 1
#: Largest ciphertext, before base64.
MAX_BYTES = 1024 * 1024
#: Most messages of one instance within the window; more are dropped until older ones are out.
MAX_MESSAGES_A_WINDOW = 4096
#: How far the clocks of both ends may be apart when a message was sent "before the start".
_SLACK_S = 2.0

KeyOf = Callable[[str], bytes | None]
#: The keys of an instance that may open its messages, the likeliest first.
Candidates = Callable[[str], Iterable[bytes]]


class Direction(enum.StrEnum):
    """Which way a message goes; part of what is authenticated, so none can be sent back."""

    UP = "up"
    DOWN = "down"
    UP_REPLY = "up-reply"
    DOWN_REPLY = "down-reply"


class Reason(enum.StrEnum):
    """Why a message was dropped."""

    MALFORMED = "malformed"
    OVERSIZED = "oversized"
    UNKNOWN_INSTANCE = "unknown_instance"
    WRONG_INSTANCE = "wrong_instance"
    WRONG_DIRECTION = "wrong_direction"
    FORGED = "forged"
    STALE = "stale"
    REPLAYED = "replayed"
    FLOOD = "flood"
    UNEXPECTED_REPLY = "unexpected_reply"


class Rejected(exception.TroveError):
    """A message was dropped; ``reason`` says why."""

    msg_fmt = "A message was dropped: {reason}"
    code = "trove.message_rejected"

    def __init__(self, reason: Reason) -> None:
        """Take the reason."""
        super().__init__(reason=reason.value)
        self.reason = reason


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """An authenticated message. ``payload`` is still unchecked: the sender may be hostile.

    ``key`` is the one that opened it.
    """

    instance_id: str
    message_id: str
    method: str
    payload: Any = dataclasses.field(repr=False)
    is_failure: bool = False
    valid_s: float | None = None
    key: bytes = dataclasses.field(repr=False, default=b"")


class Stale(Rejected):
    """An authentic message out of the window; ``opened`` tells whom to send the time to."""

    def __init__(self, opened: Opened) -> None:
        """Take the message."""
        super().__init__(Reason.STALE)
        self.opened = opened


class ChannelClock(concurrency.Clock):
    """An agent's idea of the control plane's time: monotonic seconds and a learned offset.

    It begins with the machine's wall clock. After the first :meth:`adjust` the wall clock may jump
    as it likes.
    """

    def __init__(
        self,
        *,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take where to read the two clocks."""
        self._monotonic = monotonic
        self._offset_s = wall() - monotonic()

    def adjust(self, now_s: float, *, round_trip_s: float) -> None:
        """Learn that it was ``now_s`` (Unix) in the middle of a round trip that ended just now."""
        self._offset_s = now_s + round_trip_s / 2 - self._monotonic()

    def now(self) -> datetime.datetime:
        """Return the control plane's time, UTC-aware."""
        return datetime.datetime.fromtimestamp(self._monotonic() + self._offset_s, datetime.UTC)

    def monotonic(self) -> float:
        """Return seconds from an arbitrary start, never going back."""
        return self._monotonic()


class Sealer:
    """Seals and opens envelopes; counts what it drops. Safe to use from several threads."""

    def __init__(
        self,
        key_of: KeyOf,
        *,
        clock: concurrency.Clock,
        window_s: float,
        only_since_start: bool = False,
        candidates: Candidates | None = None,
    ) -> None:
        """Take the keys' source, a clock and the window.

        ``candidates`` is where several keys of an instance may open its messages.
        ``only_since_start`` drops what was sent before this Sealer was made: it cannot know
        whether it was seen by an earlier process (an agent's protection after its restart).
        """
        self._key_of = key_of
        self._candidates = candidates or self._only_candidate
        self._clock = clock
        self._window_s = window_s
        self._started = clock.monotonic() if only_since_start else None
        self._lock = threading.Lock()
        self._seen: dict[str, collections.OrderedDict[str, float]] = {}
        self._next_sweep = clock.monotonic() + window_s
        self._counters: collections.Counter[str] = collections.Counter()

    def __repr__(self) -> str:
        """Show nothing of the keys."""
        return "<Sealer>"

    def _only_candidate(self, instance_id: str) -> Iterable[bytes]:
        key = self._key_of(instance_id)
        return () if key is None else (key,)

    def key_of(self, instance_id: str) -> bytes:
        """Return the key that messages are sealed with now; raises InstanceNotFound."""
        key = self._key_of(instance_id)
        if key is None:
            raise exception.InstanceNotFound(instance_id=instance_id)
        return key

    def counters(self) -> dict[str, int]:
        """Return how many messages were dropped, by reason."""
        with self._lock:
            return dict(self._counters)

    def count(self, reason: str, instance_id: str) -> None:
        """Count a message dropped for ``reason``; logs the first and then ever more rarely."""
        with self._lock:
            self._counters[reason] += 1
            count = self._counters[reason]
        if str(count).strip("0") == "1":
            LOG.warning(
                "dropped a message of the guest channel: %s (%d so far), instance %s",
                reason,
                count,
                instance_id,
            )

    # -- sealing -----

    def seal(
        self,
        instance_id: str,
        direction: Direction,
        method: str,
        payload: Mapping[str, Any],
        *,
        in_reply_to: str | None = None,
        is_failure: bool = False,
        valid_s: float | None = None,
        key: bytes | None = None,
    ) -> dict[str, Any]:
        """Return the envelope of a message; raises InstanceNotFound when there is no key.

        ``valid_s`` is how long it makes sense to act upon it: as long as the caller waits. ``key``
        is given where it must be the one of another message.
        """
        key = key or self.key_of(instance_id)
        envelope: dict[str, Any] = {
            "v": VERSION,
            "i": instance_id,
            "d": direction.value,
            "m": str(uuid.uuid4()),
            "t": self._clock.now().timestamp(),
        }
        if in_reply_to is not None:
            envelope["r"] = in_reply_to
        body: dict[str, Any] = {"method": method, "failure" if is_failure else "payload": payload}
        if valid_s is not None:
            body["valid_s"] = valid_s
        ciphertext = crypto.encrypt(
            key, json.dumps(body).encode(), associated_data=_associated_data(envelope)
        )
        if len(ciphertext) > MAX_BYTES:
            raise exception.ValidationFailed(reason="the message to or from the guest is too large")
        return envelope | {"c": base64.b64encode(ciphertext).decode("ascii")}

    # -- opening -----

    def open(
        self, envelope: object, direction: Direction, *, instance_id: str | None = None
    ) -> Opened:
        """Return what is in an envelope of ``direction``, of ``instance_id`` if that is given.

        Raises Stale for an authentic message out of the window, Rejected for all else; both are
        counted.
        """
        try:
            opened, sent_at = self._decrypt(envelope, direction, instance_id=instance_id)
            if self._is_stale(sent_at, valid_s=opened.valid_s):
                raise Stale(opened)
            self._remember(opened)
        except Rejected as e:
            self.count(e.reason.value, _claimed_instance(envelope))
            raise
        return opened

    def open_reply(
        self, envelope: object, request: Mapping[str, Any], *, key: bytes | None = None
    ) -> Opened:
        """Return what is in the reply to the envelope ``request``; raises Rejected, counted.

        ``key`` is the one that the request was sealed with, where that may have changed since.
        """
        direction = Direction.UP_REPLY if request["d"] == Direction.UP else Direction.DOWN_REPLY
        try:
            opened, _ = self._decrypt(envelope, direction, instance_id=request["i"], key=key)
            if not isinstance(envelope, dict) or envelope.get("r") != request["m"]:
                raise Rejected(Reason.UNEXPECTED_REPLY)
        except Rejected as e:
            self.count(e.reason.value, str(request["i"]))
            raise
        return opened

    def _decrypt(
        self,
        envelope: object,
        direction: Direction,
        *,
        instance_id: str | None,
        key: bytes | None = None,
    ) -> tuple[Opened, float]:
        if not isinstance(envelope, dict):
            raise Rejected(Reason.MALFORMED)
        claimed, sent_at = envelope.get("i"), envelope.get("t")
        if envelope.get("v") != VERSION or not isinstance(sent_at, float):
            raise Rejected(Reason.MALFORMED)
        if not math.isfinite(sent_at) or not all(
            isinstance(envelope.get(name), str) and len(envelope[name]) <= 36 for name in "im"
        ):
            raise Rejected(Reason.MALFORMED)
        if not isinstance(envelope.get("r", ""), str) or len(envelope.get("r", "")) > 36:
            raise Rejected(Reason.MALFORMED)
        if envelope.get("d") != direction.value:
            raise Rejected(Reason.WRONG_DIRECTION)
        if instance_id is not None and claimed != instance_id:
            raise Rejected(Reason.WRONG_INSTANCE)
        ciphertext = _decode(envelope.get("c"))
        candidates = self._candidates(str(claimed)) if key is None else (key,)
        key, plaintext = _open_with(candidates, ciphertext, _associated_data(envelope))
        body = _parse(plaintext)
        is_failure = "failure" in body
        opened = Opened(
            instance_id=str(claimed),
            message_id=envelope["m"],
            method=body["method"],
            payload=body["failure"] if is_failure else body.get("payload"),
            is_failure=is_failure,
            valid_s=body.get("valid_s"),
            key=key,
        )
        return opened, sent_at

    def _is_stale(self, sent_at: float, *, valid_s: float | None) -> bool:
        age_s = self._clock.now().timestamp() - sent_at
        if abs(age_s) > self._window_s or (valid_s is not None and age_s > valid_s):
            return True
        if self._started is None:
            return False
        return age_s > self._clock.monotonic() - self._started + _SLACK_S

    def _remember(self, opened: Opened) -> None:
        """Refuse what was seen already; memory is bounded for each instance."""
        now = self._clock.monotonic()
        # a message may be dated a window ahead, so that it can be replayed for two
        horizon = now - 2 * self._window_s
        with self._lock:
            if now >= self._next_sweep:
                self._next_sweep = now + self._window_s
                for instance_id in [i for i, ids in self._seen.items() if _last(ids) < horizon]:
                    del self._seen[instance_id]
            seen = self._seen.setdefault(opened.instance_id, collections.OrderedDict())
            while seen and next(iter(seen.values())) < horizon:
                seen.popitem(last=False)
            if opened.message_id in seen:
                raise Rejected(Reason.REPLAYED)
            if len(seen) >= MAX_MESSAGES_A_WINDOW:
                raise Rejected(Reason.FLOOD)
            seen[opened.message_id] = now


def _last(ids: collections.OrderedDict[str, float]) -> float:
    return next(reversed(ids.values()), 0.0)


def _associated_data(envelope: Mapping[str, Any]) -> bytes:
    """Return the authenticated fields; JSON keeps them apart from each other."""
    return json.dumps([envelope.get(name) for name in "vidmrt"]).encode()


def _open_with(
    candidates: Iterable[bytes], ciphertext: bytes, associated_data: bytes
) -> tuple[bytes, bytes]:
    """Return the key that opens a message and what is in it; raises Rejected."""
    reason = Reason.UNKNOWN_INSTANCE
    for key in candidates:
        reason = Reason.FORGED
        with contextlib.suppress(crypto.DecryptionFailed):
            return key, crypto.decrypt(key, ciphertext, associated_data=associated_data)
    raise Rejected(reason)


def _decode(text: object) -> bytes:
    if not isinstance(text, str):
        raise Rejected(Reason.MALFORMED)
    if len(text) > MAX_BYTES * 4 // 3 + 4:
        raise Rejected(Reason.OVERSIZED)
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Rejected(Reason.MALFORMED) from None


def _parse(plaintext: bytes) -> dict[str, Any]:
    try:
        body = json.loads(plaintext, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise Rejected(Reason.MALFORMED) from None
    if not isinstance(body, dict) or not isinstance(body.get("method"), str):
        raise Rejected(Reason.MALFORMED)
    if not isinstance(body.get("valid_s"), float | int | None):
        raise Rejected(Reason.MALFORMED)
    return body


def _refuse_constant(name: str) -> None:
    """Refuse NaN and infinities: no JSON, and no database stores them."""
    raise ValueError(name)


def _claimed_instance(envelope: object) -> str:
    """Return what may be logged of a message that nobody vouches for."""
    claimed = envelope.get("i") if isinstance(envelope, dict) else None
    try:
        return str(uuid.UUID(claimed)) if isinstance(claimed, str) else "?"
    except ValueError:
        return "?"
