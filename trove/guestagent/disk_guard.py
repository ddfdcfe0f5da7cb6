"""Keeps an engine from filling its disk to the last byte, which some do not survive.

A part of the volume is kept in reserve: a 40th, 16 to 256 MiB. An engine that comes near it takes
no more writes of its tenants, until there is twice as much space. What was written since the last
look is expected to be written until the next one as well.
"""

from __future__ import annotations

import pathlib

from oslo_log import log

from trove.guestagent import state
from trove.guestagent.system import filesystem

LOG = log.getLogger(__name__)

_MIB = 1024 * 1024
_DOCUMENT = "disk_guard"
#: How often the disk is looked at while it is filling up.
_WATCHFUL_S = 0.25


def reserve_bytes(total_bytes: int) -> int:
    """Return how much of a volume is kept in reserve."""
    return max(16 * _MIB, min(total_bytes // 40, 256 * _MIB))


class DiskGuard:
    """How full the volume is, and whether the running engine knows of it."""

    def __init__(self, mount_point: pathlib.Path, store: state.Store) -> None:
        """Remember what an earlier agent told the engine."""
        self._mount_point = mount_point
        self._store = store
        #: Whether there is so little space that the engine shall take no writes.
        self.is_low = False
        #: Whether there is so little that an engine may not even start.
        self.is_full = False
        self.available_bytes = 0
        self._reserve_bytes = 0
        #: What the engine was told; None when that is not known.
        self._told: bool | None = None
        self.engine_started()

    def look(self) -> None:
        """Look at the disk; what cannot be seen is as it was."""
        try:
            disk = filesystem.disk_use(self._mount_point)
        except OSError:
            return
        spent_bytes = max(0, self.available_bytes - disk.available_bytes)
        self.available_bytes = disk.available_bytes
        self._reserve_bytes = reserve_bytes(disk.total_bytes)
        ahead_bytes = disk.available_bytes - spent_bytes
        limit_bytes = self._reserve_bytes * (2 if self.is_low else 1)
        self.is_low = ahead_bytes < limit_bytes
        self.is_full = disk.available_bytes < self._reserve_bytes // 4

    def look_again_s(self, longest_s: float) -> float:
        """Return when to look again: soon while there is little space left."""
        is_filling = self.is_low or self.available_bytes < 6 * self._reserve_bytes
        return min(longest_s, _WATCHFUL_S) if is_filling else longest_s

    def engine_started(self) -> None:
        """Note that an engine started, or was found running: it may not know what the last did."""
        told = (self._store.find(_DOCUMENT) or {}).get("is_read_only", False)
        self._told = None if told else False

    @property
    def must_tell(self) -> bool:
        """Tell whether the engine has to be told that it shall take writes, or none."""
        return self._told is not self.is_low

    @property
    def is_read_only(self) -> bool:
        """Tell whether the engine takes no writes of the tenants."""
        return self._told is True

    def will_tell(self) -> None:
        """Note that the engine is about to be told: whoever comes after may not know the end."""
        if self.is_low:
            self._remember(is_read_only=True)
        self._told = None

    def told(self) -> None:
        """Note that the engine knows."""
        self._told = self.is_low
        if not self.is_low:
            self._remember(is_read_only=False)

    def told_otherwise(self) -> None:
        """Note that somebody else told the engine to take writes, for a reason of its own."""
        if self.is_low:
            self._told = None

    def _remember(self, *, is_read_only: bool) -> None:
        try:
            self._store.save(_DOCUMENT, {"is_read_only": is_read_only})
        except OSError:
            # the disk of the agent may be full as well; the next start asks the engine again
            LOG.warning("what the engine was told of its disk was not remembered", exc_info=True)

    def describe(self) -> str:
        """Return what is wrong with a running engine, for people."""
        return (
            f"The disk is nearly full: {self._left()}, so the database takes no writes. Resize the"
            " volume; the database goes on by itself when there is space."
        )

    def describe_end(self) -> str:
        """Return why an engine ended for which there was no space, for people."""
        return (
            f"The disk is full: {self._left()}. Resize the volume, or delete files on it; the"
            " database starts by itself when there is space."
        )

    def _left(self) -> str:
        return f"{self.available_bytes // _MIB} MiB are left"
