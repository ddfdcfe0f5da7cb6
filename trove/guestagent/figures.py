"""The figures of the engine, read for heartbeats in a thread of their own.

A heartbeat waits for them for a moment at most: an engine that hangs costs a heartbeat its figures,
never its time. There is at most one reading at a time.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping

from oslo_log import log

from trove.common import concurrency, exception
from trove.guestagent.datastores import base

LOG = log.getLogger(__name__)

#: Longest a heartbeat waits.
_PATIENCE_S = 0.25
#: Figures of this age are new enough: changes are reported in quick succession.
_FRESH_S = 0.5


class Figures:
    """What the engine counts, for heartbeats."""

    def __init__(self, metrics: base.Metrics | base.Unsupported, *, clock: concurrency.Clock):
        """Take what reads them; nothing is read before it is asked for."""
        self._metrics = metrics
        self._clock = clock
        self._changed = threading.Condition()
        self._asked = False
        self._closing = False
        self._thread: threading.Thread | None = None
        self._values: Mapping[str, float] = {}
        self._read_at: float | None = None
        self._fails = False

    def read(self) -> dict[str, float]:
        """Return the figures of now, none when they are not to be had at once."""
        if not isinstance(self._metrics, base.Metrics):
            return {}
        with self._changed:
            if self._closing:
                return {}
            # for one that hangs already nobody waits again
            if not self._is_fresh() and not self._asked:
                self._ask()
                self._changed.wait_for(lambda: not self._asked or self._closing, _PATIENCE_S)
            return dict(self._values) if self._is_fresh() else {}

    def close(self) -> None:
        """End; a reading that hangs is left behind."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()

    def _is_fresh(self) -> bool:
        return self._read_at is not None and self._clock.monotonic() - self._read_at < _FRESH_S

    def _ask(self) -> None:
        self._asked = True
        if self._thread is None:
            self._thread = threading.Thread(target=self._loop, name="figures", daemon=True)
            self._thread.start()
        self._changed.notify_all()

    def _loop(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._asked or self._closing)
                if self._closing:
                    return
            values = self._try_read()
            with self._changed:
                self._asked = False
                self._values = values
                self._read_at = self._clock.monotonic()
                self._changed.notify_all()

    def _try_read(self) -> Mapping[str, float]:
        assert isinstance(self._metrics, base.Metrics)  # noqa: S101 (for the type checker)
        try:
            values = self._metrics.read()
        except base.NotReady:
            return {}
        except exception.TroveError as e:
            if not self._fails:
                LOG.warning("the engine's figures cannot be read: %s", e)
            self._fails = True
            return {}
        except Exception:
            # a heartbeat matters more than what an engine counts
            if not self._fails:
                LOG.exception("the engine's figures cannot be read")
            self._fails = True
            return {}
        self._fails = False
        # the channel carries no other numbers: one of them would cost the whole heartbeat
        return {name: value for name, value in values.items() if math.isfinite(value)}
