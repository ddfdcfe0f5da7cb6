"""The verifier's process: a task manager of one kind of operation, on drivers of this host."""

from __future__ import annotations

import os

import cotyledon
from oslo_config import cfg
from oslo_log import log

from trove.common import concurrency, exception
from trove.drivers import factory
from trove.drivers.compute import users
from trove.drivers.compute.local import LocalCompute
from trove.drivers.image.local import LocalImage
from trove.drivers.network.egress import Egress, Endpoint
from trove.drivers.network.local import LocalNetwork
from trove.drivers.volume.local import LocalVolume
from trove.rpc import transport
from trove.taskmanager import service, verifier
from trove.taskmanager.operations import engine

LOG = log.getLogger(__name__)

#: How often it is looked whether what proofs may reach has another address.
_RESOLVE_INTERVAL_S = 60.0


def prepare(conf: cfg.ConfigOpts) -> None:
    """Have the local drivers of this process be the verifier's, and make its directory.

    Raises ConfigurationError when a verifier cannot run with these options.
    """
    options = conf.verifier
    user = users.find(options.user)
    state_dir = verifier.prepare_directory(conf, group=None if user is None else user.gid)
    for name, value in (
        ("state_dir", str(state_dir)),
        ("use_cgroups", options.use_cgroups),
        ("max_processes", options.max_processes),
        ("max_cpus", options.cpus),
        ("agent_user", options.user),
    ):
        conf.set_override(name, value, group="local")
    if user is None and os.geteuid() == 0:
        LOG.warning(
            "proofs run as users of their engines, with nothing else between them and this host:"
            " set [verifier] user"
        )
    service.check_backends(conf)
    find_engines(conf)
    LocalCompute(conf).check_agent()
    egress = make_egress(conf)
    if egress is not None:
        engine.tell_troubles("limiting whom proofs reach", egress.enforce)


def make_egress(conf: cfg.ConfigOpts) -> Egress | None:
    """Return what limits whom proofs reach; None where they are not limited."""
    user = users.find(conf.verifier.user)
    if user is None or not conf.verifier.use_firewall:
        LOG.warning("proofs reach all that this host does: set [verifier] user, and use_firewall")
        return None
    brokers = [Endpoint(host=host, port=port) for host, port in transport.guest_hosts(conf)]
    others = [Endpoint.parse(each) for each in conf.guestagent.endpoints]
    return Egress(user.uid, [*brokers, *others])


def find_engines(conf: cfg.ConfigOpts) -> verifier.Engines:
    """Return the engines of this host; raises ConfigurationError when there is none."""
    engines = verifier.find_engines(conf)
    if not engines:
        raise exception.ConfigurationError(
            reason="no engine is installed on this host: install those whose backups it is to"
            " prove, or name them in [verifier] engines"
        )
    return engines


def make_drivers(conf: cfg.ConfigOpts) -> factory.Drivers:
    """Return drivers that make directories and processes of this host.

    Keys of the guest bus are given out as by every task manager. Proofs use no network driver, no
    certificates and no names.
    """
    return factory.Drivers(
        compute=LocalCompute(conf),
        volume=LocalVolume(conf),
        network=LocalNetwork(conf),
        image=LocalImage(conf),
        secrets=factory.load_secrets(conf),
        broker=factory.load_broker(conf),
    )


class Parts:
    """All parts of one verifier, without a process around them."""

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        """Make the parts; ``conf`` was prepared."""
        engines = find_engines(conf)
        drivers = make_drivers(conf)
        LocalImage(conf).remember(engines)
        versions = {manager: [each for _, each in found] for manager, found in engines.items()}
        told = [f"{manager} {each}" for manager, found in versions.items() for each in found]
        LOG.info("backups can be proven here of: %s", ", ".join(told))
        egress = make_egress(conf)
        self._limiting = None
        if egress is not None:
            self._limiting = concurrency.PeriodicThread(
                "egress",
                lambda: engine.tell_troubles("limiting whom proofs reach", egress.enforce),
                interval_s=_RESOLVE_INTERVAL_S,
            )
        self._backends = service.Backends(conf, drivers=drivers)
        self.verifier = verifier.Verifier(
            self._backends.tools, name=verifier.host_name(conf), engines=versions
        )

    def start(self) -> None:
        """Begin to work."""
        if self._limiting is not None:
            self._limiting.start()
        self.verifier.start()

    def stop(self) -> None:
        """Let the steps in work end and close everything."""
        self.verifier.stop()
        if self._limiting is not None:
            self._limiting.stop()
        self._backends.close()


class VerifierService(cotyledon.Service):
    """The worker of trove-verifier under cotyledon."""

    name = "trove-verifier"
    graceful_shutdown_timeout = 60

    def __init__(self, worker_id: int, conf: cfg.ConfigOpts) -> None:
        """Make the parts in the worker's own process."""
        super().__init__(worker_id)
        self._parts = Parts(conf)

    def run(self) -> None:
        """Begin; threads do the work."""
        self._parts.start()
        LOG.info("verifier started")

    def terminate(self) -> None:
        """End gracefully."""
        self._parts.stop()
