"""The task manager's process: everything is made after the fork and ended in order."""

from __future__ import annotations

import cotyledon
from oslo_config import cfg
from oslo_log import log

from trove.common import concurrency, crypto
from trove.db import base, guest_keys
from trove.drivers import factory
from trove.rpc import guest, notifier, taskmanager, transport
from trove.storage import factory as storage_factory
from trove.taskmanager import manager
from trove.taskmanager.operations import engine

LOG = log.getLogger(__name__)

#: Keys are not kept: operations replace them, and send few messages.
_KEY_MAX_AGE_S = 0.0


def check(conf: cfg.ConfigOpts) -> None:
    """Raise ConfigurationError when a task manager cannot run with these options."""
    check_backends(conf)
    factory.load(conf)


def check_backends(conf: cfg.ConfigOpts) -> None:
    """Raise ConfigurationError for what is wrong with options beside those of drivers."""
    crypto.KeyRing.from_config(conf.guest.key_encryption_keys)
    base.Database.from_config(conf)
    transport.control_transport(conf)
    transport.guest_transport(conf)
    made = notifier.make(conf)
    if made is not None:
        made.close()
    storage_factory.load(conf)


class Backends:
    """What runs operations in a process: database, guest bus, object store; and drivers."""

    def __init__(
        self,
        conf: cfg.ConfigOpts,
        *,
        drivers: factory.Drivers | None = None,
        clock: concurrency.Clock | None = None,
    ) -> None:
        """Make them, with the configured drivers unless others are given."""
        clock = clock or concurrency.SystemClock()
        ring = crypto.KeyRing.from_config(conf.guest.key_encryption_keys)
        self._database = base.Database.from_config(conf)
        self.notifier = notifier.make(conf)
        self._database.notifies = self.notifier is not None
        keys = guest_keys.GuestKeys(self._database, ring, clock=clock, max_age_s=_KEY_MAX_AGE_S)
        self._guests = guest.GuestClient(conf, keys.key_of)
        self.tools = engine.Tools(
            conf=conf,
            database=self._database,
            drivers=drivers or factory.load(conf),
            guests=self._guests,
            key_ring=ring,
            clock=clock,
            store=storage_factory.load(conf),
        )

    def close(self) -> None:
        """Close everything."""
        self._guests.close()
        if self.notifier is not None:
            self.notifier.close()
        self._database.dispose()


class Parts:
    """All parts of one task manager, without a process around them."""

    def __init__(
        self,
        conf: cfg.ConfigOpts,
        *,
        drivers: factory.Drivers | None = None,
        clock: concurrency.Clock | None = None,
    ) -> None:
        """Make the parts, with the configured drivers unless others are given."""
        self._backends = Backends(conf, drivers=drivers, clock=clock)
        self.manager = manager.TaskManager(self._backends.tools, notifier=self._backends.notifier)
        self._server = taskmanager.make_server(conf, self.manager.run_operation)

    def start(self) -> None:
        """Begin to work; hints are taken as soon as the broker is there."""
        self.manager.start()
        self._server.start()

    def wait_serving(self, timeout_s: float) -> bool:
        """Tell whether hints are taken within ``timeout_s``."""
        return self._server.wait_serving(timeout_s)

    def stop(self) -> None:
        """Let the steps in work end and close everything."""
        self._server.stop()
        self.manager.stop()
        self._backends.close()


class TaskManagerService(cotyledon.Service):
    """One worker of trove-taskmanager under cotyledon."""

    name = "trove-taskmanager"
    graceful_shutdown_timeout = 60

    def __init__(self, worker_id: int, conf: cfg.ConfigOpts) -> None:
        """Make the parts in the worker's own process."""
        super().__init__(worker_id)
        self._parts = Parts(conf)

    def run(self) -> None:
        """Begin; threads do the work."""
        self._parts.start()
        LOG.info("task manager worker started")

    def terminate(self) -> None:
        """End gracefully."""
        self._parts.stop()
