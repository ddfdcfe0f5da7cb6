"""The keys of the guest channel: looked up, unwrapped, kept for a moment.

A key that was dropped (its instance was deleted) works for at most ``max_age_s`` more. Who opens
many messages calls :meth:`GuestKeys.revalidate` more often than that, which asks for all kept keys
in one statement, and so hardly ever looks one up alone. While the database cannot be asked, kept
keys run out like all others: no answer is not a yes.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import sqlalchemy as sa
from oslo_log import log
from sqlalchemy import orm

from trove.common import concurrency, crypto
from trove.db import base, models

LOG = log.getLogger(__name__)

_CHUNK = 500


def purpose(instance_id: str) -> str:
    """Return what the key of an instance is wrapped for."""
    return f"instance-key:{instance_id}"


def find_wrapped(session: orm.Session, instance_id: str) -> bytes | None:
    """Return the wrapped key of a live instance, or None."""
    return session.scalar(
        sa.select(models.Instance.key_wrapped).where(
            models.Instance.id == instance_id, models.Instance.is_deleted.is_(False)
        )
    )


def list_live(session: orm.Session, instance_ids: Sequence[str]) -> set[str]:
    """Return those of ``instance_ids`` that still have a key."""
    return set(
        session.scalars(
            sa.select(models.Instance.id).where(
                models.Instance.id.in_(instance_ids),
                models.Instance.is_deleted.is_(False),
                models.Instance.key_wrapped.is_not(None),
            )
        )
    )


class GuestKeys:
    """``key_of`` for a Sealer of the control plane; safe to use from several threads."""

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
        #: id -> (key, when it was last seen to be valid); unknown ids are not kept.
        self._kept: dict[str, tuple[bytes, float]] = {}

    def __repr__(self) -> str:
        """Show no key."""
        return f"<GuestKeys: {len(self._kept)} kept>"

    def key_of(self, instance_id: str) -> bytes | None:
        """Return the key of a live instance, or None; raises oslo.db's errors."""
        now = self._clock.monotonic()
        kept = self._kept.get(instance_id)
        if kept is not None and now - kept[1] <= self._max_age_s:
            return kept[0]
        with self._database.reader() as session:
            wrapped = find_wrapped(session, instance_id)
        key = None
        if wrapped is not None:
            try:
                key = self._ring.unwrap(wrapped, purpose=purpose(instance_id))
            except crypto.DecryptionFailed:
                LOG.error("the key of instance %s cannot be unwrapped", instance_id)
        with self._lock:
            if key is None:
                self._kept.pop(instance_id, None)
            else:
                if len(self._kept) >= self._max_keys and instance_id not in self._kept:
                    self._kept.pop(next(iter(self._kept)))
                self._kept[instance_id] = (key, now)
        return key

    def revalidate(self) -> None:
        """Ask for all kept keys at once, and forget those that are gone."""
        now = self._clock.monotonic()
        with self._lock:
            kept = list(self._kept)
        for start in range(0, len(kept), _CHUNK):
            chunk = kept[start : start + _CHUNK]
            with self._database.reader() as session:
                live = list_live(session, chunk)
            with self._lock:
                for instance_id in chunk:
                    if instance_id not in live:
                        self._kept.pop(instance_id, None)
                    elif instance_id in self._kept:
                        self._kept[instance_id] = (self._kept[instance_id][0], now)
