"""The keys of the guest channel: how they are replaced, looked up, unwrapped, kept for a moment.

The key that a server is made with lies in its configuration for as long as it lives, so it is good
for first contact only: a *bootstrap key*. The next key is stored before the agent is told of it.
The first message that it opens makes it the key, from which moment on the old one opens nothing.
Each key, and each account of an agent, is of a *generation* that is never used again.

A key that was dropped (its instance was deleted, its server made anew) works for at most
``max_age_s`` more; a bootstrap key is never kept, and so not for a moment. Who opens many messages
calls :meth:`GuestKeys.revalidate` more often than that, which asks for all kept keys in one
statement, and so hardly ever looks one up alone. While the database cannot be asked, kept keys run
out like all others: no answer is not a yes.
"""

from __future__ import annotations

import dataclasses
import enum
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa
from oslo_log import log
from sqlalchemy import orm

from trove.common import concurrency, crypto
from trove.db import base, models

LOG = log.getLogger(__name__)

_CHUNK = 500
#: A message that a kept key does not open has the keys read again, at most this often.
_REREAD_S = 0.2


class Standing(enum.Enum):
    """What a key is good for."""

    SETTLED = "settled"
    BOOTSTRAP = "bootstrap"
    DEAD = "dead"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """The keys of a live instance; as stored they are wrapped."""

    current: bytes = dataclasses.field(repr=False)
    next: bytes | None = dataclasses.field(repr=False)
    generation: int
    is_bootstrap: bool


def purpose(instance_id: str) -> str:
    """Return what the key of an instance is wrapped for."""
    return f"instance-key:{instance_id}"


def find_wrapped(session: orm.Session, instance_id: str) -> Keys | None:
    """Return the wrapped keys of a live instance, or None."""
    row = session.execute(
        sa.select(
            models.Instance.key_wrapped,
            models.Instance.next_key_wrapped,
            models.Instance.key_generation,
            models.Instance.is_bootstrap_key,
        ).where(models.Instance.id == instance_id, models.Instance.is_deleted.is_(False))
    ).one_or_none()
    if row is None or row.key_wrapped is None:
        return None
    return Keys(
        current=row.key_wrapped,
        next=row.next_key_wrapped,
        generation=row.key_generation,
        is_bootstrap=row.is_bootstrap_key,
    )


def unwrap(ring: crypto.KeyRing, instance_id: str, wrapped: Keys) -> Keys:
    """Return the keys themselves; raises DecryptionFailed."""
    key_purpose = purpose(instance_id)
    return dataclasses.replace(
        wrapped,
        current=ring.unwrap(wrapped.current, purpose=key_purpose),
        next=None if wrapped.next is None else ring.unwrap(wrapped.next, purpose=key_purpose),
    )


def list_generations(session: orm.Session, instance_ids: Sequence[str]) -> dict[str, int]:
    """Return the generation of the key of those of ``instance_ids`` that still have one."""
    rows = session.execute(
        sa.select(models.Instance.id, models.Instance.key_generation).where(
            models.Instance.id.in_(instance_ids),
            models.Instance.is_deleted.is_(False),
            models.Instance.key_wrapped.is_not(None),
        )
    )
    return {row.id: row.key_generation for row in rows}


def offer(session: orm.Session, instance_id: str, *, generation: int, wrapped: bytes) -> bool:
    """Store the key that is to replace a bootstrap key, unless there is one; tell whether it was.

    Once offered, it stays until it was taken: the agent may have it already.
    """
    return _change(
        session,
        instance_id,
        models.Instance.key_generation == generation,
        models.Instance.is_bootstrap_key.is_(True),
        models.Instance.next_key_wrapped.is_(None),
        next_key_wrapped=wrapped,
    )


def promote(session: orm.Session, instance_id: str, *, generation: int) -> bool:
    """Make the next key the key, once; tell whether this was the time."""
    instance = models.Instance
    return _change(
        session,
        instance_id,
        instance.key_generation == generation,
        instance.next_key_wrapped.is_not(None),
        # in this order: MySQL and MariaDB assign one after the other
        key_wrapped=instance.next_key_wrapped,
        next_key_wrapped=None,
        key_generation=generation + 1,
        is_bootstrap_key=False,
    )


def settle(session: orm.Session, instance_id: str, *, generation: int) -> bool:
    """Keep a bootstrap key for good: its agent cannot take another."""
    return _change(
        session,
        instance_id,
        models.Instance.key_generation == generation,
        models.Instance.is_bootstrap_key.is_(True),
        next_key_wrapped=None,
        is_bootstrap_key=False,
    )


def renew(session: orm.Session, instance_id: str, *, generation: int, wrapped: bytes) -> bool:
    """Replace all keys by a bootstrap key for a server that is to be made, once a generation."""
    return _change(
        session,
        instance_id,
        models.Instance.key_generation == generation,
        key_wrapped=wrapped,
        next_key_wrapped=None,
        key_generation=generation + 1,
        is_bootstrap_key=True,
    )


def _change(
    session: orm.Session, instance_id: str, *conditions: sa.ColumnElement[bool], **values: Any
) -> bool:
    changed = session.execute(
        sa.update(models.Instance)
        .where(
            models.Instance.id == instance_id,
            models.Instance.is_deleted.is_(False),
            models.Instance.key_wrapped.is_not(None),
            *conditions,
        )
        .ordered_values(
            *((getattr(models.Instance, name), value) for name, value in values.items())
        )
        .execution_options(synchronize_session=False)
    )
    return bool(changed.rowcount)  # type: ignore[attr-defined]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    """Keys, when they were read, and when they were last known to be valid."""

    keys: Keys
    read: float
    valid: float


class GuestKeys:
    """The keys for a Sealer of the control plane; safe to use from several threads."""

    def __init__(
        self,
        database: base.Database,
        ring: crypto.KeyRing,
        *,
        clock: concurrency.Clock,
        max_age_s: float = 5.0,
        max_keys: int = 50_000,
    ) -> None:
        """Take where keys are, what unwraps them, and how long and how many to keep."""
        self._database = database
        self._ring = ring
        self._clock = clock
        self._max_age_s = max_age_s
        self._max_keys = max_keys
        self._lock = threading.Lock()
        #: Unknown ids are not kept.
        self._kept: dict[str, _Kept] = {}

    def __repr__(self) -> str:
        """Show no key."""
        return f"<GuestKeys: {len(self._kept)} kept>"

    def key_of(self, instance_id: str) -> bytes | None:
        """Return the key of a live instance to seal with, or None; raises oslo.db's errors."""
        kept = self._find_kept(instance_id)
        keys = self._read(instance_id) if kept is None else kept.keys
        return None if keys is None else keys.current

    def candidates(self, instance_id: str) -> Iterator[bytes]:
        """Give the keys that may open a message of an instance; raises oslo.db's errors.

        Whoever opened one of them asks :meth:`admit`.
        """
        kept = self._find_kept(instance_id)
        if kept is not None:
            yield kept.keys.current
            if self._clock.monotonic() - kept.read < _REREAD_S:
                return
        keys = self._read(instance_id)
        if keys is None:
            return
        if kept is None or keys.current != kept.keys.current:
            yield keys.current
        if keys.next is not None:
            yield keys.next

    def admit(self, instance_id: str, key: bytes) -> Standing:
        """Tell what the key is good for that just opened a message; raises oslo.db's errors.

        It becomes the key if it is the next one.
        """
        kept = self._kept.get(instance_id)
        keys = self._read(instance_id) if kept is None else kept.keys
        if keys is not None and key == keys.next:
            with self._database.writer() as session:
                if promote(session, instance_id, generation=keys.generation):
                    LOG.info("instance %s: its first key is replaced", instance_id)
            # by now it is the key, whoever was first, or the server was made anew
            keys = self._read(instance_id)
        if keys is None or key != keys.current:
            return Standing.DEAD
        return Standing.BOOTSTRAP if keys.is_bootstrap else Standing.SETTLED

    def revalidate(self) -> None:
        """Ask for all kept keys at once, and forget those that are gone or replaced."""
        now = self._clock.monotonic()
        with self._lock:
            kept = list(self._kept)
        for start in range(0, len(kept), _CHUNK):
            chunk = kept[start : start + _CHUNK]
            with self._database.reader() as session:
                live = list_generations(session, chunk)
            with self._lock:
                for instance_id in chunk:
                    known = self._kept.get(instance_id)
                    if known is None:
                        continue
                    if known.keys.generation != live.get(instance_id):
                        del self._kept[instance_id]
                    else:
                        self._kept[instance_id] = dataclasses.replace(known, valid=now)

    def _find_kept(self, instance_id: str) -> _Kept | None:
        """Return what is kept and need not be read again."""
        kept = self._kept.get(instance_id)
        if kept is None or kept.keys.is_bootstrap:
            return None
        return kept if self._clock.monotonic() - kept.valid < self._max_age_s else None

    def _read(self, instance_id: str) -> Keys | None:
        now = self._clock.monotonic()
        with self._database.reader() as session:
            wrapped = find_wrapped(session, instance_id)
        keys = None
        if wrapped is not None:
            try:
                keys = unwrap(self._ring, instance_id, wrapped)
            except crypto.DecryptionFailed:
                LOG.error("the key of instance %s cannot be unwrapped", instance_id)
        with self._lock:
            if keys is None:
                self._kept.pop(instance_id, None)
            else:
                if len(self._kept) >= self._max_keys and instance_id not in self._kept:
                    self._kept.pop(next(iter(self._kept)))
                self._kept[instance_id] = _Kept(keys=keys, read=now, valid=now)
        return keys
