"""The conductor's process: everything is made after the fork and ended in order."""

from __future__ import annotations

import cotyledon
from oslo_config import cfg
from oslo_log import log

from trove.common import concurrency, crypto
from trove.conductor import counting, exporter, exposition, grants, heartbeats, manager
from trove.db import base, counters, guest_keys
from trove.rpc import conductor, serializer, taskmanager, transport
from trove.storage import factory as storage_factory

LOG = log.getLogger(__name__)

#: A key that was dropped works for at most this long.
KEY_MAX_AGE_S = 5.0
_REVALIDATE_INTERVAL_S = 2.0


def check(conf: cfg.ConfigOpts) -> None:
    """Raise ConfigurationError when a conductor cannot run with these options."""
    crypto.KeyRing.from_config(conf.guest.key_encryption_keys)
    base.Database.from_config(conf)
    transport.control_transport(conf)
    transport.guest_transport(conf)
    storage_factory.load(conf)
    exporter.check(conf)


class Conductor:
    """All parts of one conductor, without a process around them."""

    def __init__(self, conf: cfg.ConfigOpts, *, clock: concurrency.Clock | None = None) -> None:
        """Make the parts; raises ConfigurationError when an option is missing."""
        clock = clock or concurrency.SystemClock()
        ring = crypto.KeyRing.from_config(conf.guest.key_encryption_keys)
        self._database = base.Database.from_config(conf)
        keys = guest_keys.GuestKeys(self._database, ring, clock=clock, max_age_s=KEY_MAX_AGE_S)
        self._revalidation = concurrency.PeriodicThread(
            "guest-keys", keys.revalidate, interval_s=_REVALIDATE_INTERVAL_S
        )
        self._batcher = heartbeats.HeartbeatBatcher(
            self._database,
            flush_interval_s=conf.conductor.heartbeat_flush_interval_s,
            batch_size=conf.conductor.heartbeat_batch_size,
        )
        self._hints = taskmanager.TaskManagerClient(conf)
        self.manager = manager.ConductorManager(
            self._database,
            sealer=serializer.Sealer(
                keys.key_of,
                clock=clock,
                window_s=conf.guest.message_window_s,
                candidates=keys.candidates,
            ),
            keys=keys,
            batcher=self._batcher,
            grants=grants.Grants(self._database, storage_factory.load(conf)),
            hints=self._hints,
            clock=clock,
            window_s=conf.guest.message_window_s,
        )
        self._counting = counting.Counting(self._database, self._count)
        self._server = conductor.make_server(
            conf, self.manager.deliver, threads=conf.conductor.threads
        )

    def start(self) -> None:
        """Begin to serve, as soon as the broker is there."""
        self._revalidation.start()
        self._batcher.start()
        self._counting.start()
        self._server.start()

    def wait_serving(self, timeout_s: float) -> bool:
        """Tell whether messages are taken within ``timeout_s``."""
        return self._server.wait_serving(timeout_s)

    def stop(self) -> None:
        """Finish what is under way, store what waits, close everything."""
        self._server.stop()
        self._batcher.stop()
        self._counting.stop()
        self._revalidation.stop()
        self._hints.close()
        self._database.dispose()

    def _count(self) -> dict[counters.Key, int]:
        """Return what was counted since the start."""
        batched = self._batcher.counters()
        dropped = {**self.manager.counters(), "too_many_waiting": batched["dropped"]}
        return {
            exposition.STORED: batched["stored"],
            **{counters.Key(exposition.DROPPED, reason): n for reason, n in dropped.items()},
        }


class ConductorService(cotyledon.Service):
    """One worker of trove-conductor under cotyledon."""

    name = "trove-conductor"
    graceful_shutdown_timeout = 30

    def __init__(self, worker_id: int, conf: cfg.ConfigOpts) -> None:
        """Make the parts in the worker's own process."""
        super().__init__(worker_id)
        self._conductor = Conductor(conf)

    def run(self) -> None:
        """Begin; threads do the work."""
        self._conductor.start()
        LOG.info("conductor worker started")

    def terminate(self) -> None:
        """End gracefully."""
        self._conductor.stop()
