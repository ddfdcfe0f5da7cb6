"""Load the configured drivers by entry point, once, at start."""

from __future__ import annotations

import dataclasses
from typing import Any

from oslo_config import cfg
from stevedore import driver, extension
from stevedore import exception as stevedore_exception

from trove.common import exception
from trove.drivers.broker import base as broker
from trove.drivers.compute import base as compute
from trove.drivers.dns import base as dns
from trove.drivers.image import base as image
from trove.drivers.network import base as network
from trove.drivers.secrets import base as secrets
from trove.drivers.volume import base as volume


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Drivers:
    """One driver of each kind."""

    compute: compute.ComputeDriver
    volume: volume.VolumeDriver
    network: network.NetworkDriver
    image: image.ImageDriver
    secrets: secrets.SecretsDriver
    broker: broker.BrokerDriver
    dns: dns.DnsDriver = dataclasses.field(default_factory=dns.NoDns)


def _load(kind: str, interface: type, conf: cfg.ConfigOpts) -> Any:
    """Return the configured driver of a kind; raises ConfigurationError."""
    option = f"{kind}_driver"
    name = conf.taskmanager[option]
    namespace = f"trove.drivers.{kind}"
    try:
        plugin = driver.DriverManager(
            namespace, name, invoke_on_load=True, invoke_args=(conf,)
        ).driver
    except stevedore_exception.NoMatches:
        known = sorted(extension.ExtensionManager(namespace).entry_points_names())
        raise exception.ConfigurationError(
            reason=f"[taskmanager] {option} = {name}: there is no such driver;"
            f" {', '.join(known) or 'none'} can be chosen"
        ) from None
    if not isinstance(plugin, interface):
        raise exception.ConfigurationError(
            reason=f"[taskmanager] {option} = {name}: it is no {interface.__name__}"
        )
    return plugin


def load_compute(conf: cfg.ConfigOpts) -> compute.ComputeDriver:
    """Load the compute driver alone."""
    plugin: compute.ComputeDriver = _load("compute", compute.ComputeDriver, conf)
    return plugin


def load_volume(conf: cfg.ConfigOpts) -> volume.VolumeDriver:
    """Load the volume driver alone."""
    plugin: volume.VolumeDriver = _load("volume", volume.VolumeDriver, conf)
    return plugin


def load_network(conf: cfg.ConfigOpts) -> network.NetworkDriver:
    """Load the network driver alone."""
    plugin: network.NetworkDriver = _load("network", network.NetworkDriver, conf)
    return plugin


def load_image(conf: cfg.ConfigOpts) -> image.ImageDriver:
    """Load the image driver alone."""
    plugin: image.ImageDriver = _load("image", image.ImageDriver, conf)
    return plugin


def load_secrets(conf: cfg.ConfigOpts) -> secrets.SecretsDriver:
    """Load the secrets driver alone."""
    plugin: secrets.SecretsDriver = _load("secrets", secrets.SecretsDriver, conf)
    return plugin


def load_broker(conf: cfg.ConfigOpts) -> broker.BrokerDriver:
    """Load the broker driver alone."""
    plugin: broker.BrokerDriver = _load("broker", broker.BrokerDriver, conf)
    return plugin


def resolve_keys(conf: cfg.ConfigOpts) -> None:
    """Read those of ``[guest] key_encryption_keys`` that a key manager keeps.

    Called once at the start of a process. Raises ConfigurationError, DriverError.
    """
    if any(":" in value for value in conf.guest.key_encryption_keys):
        from trove.drivers.secrets import barbican

        barbican.resolve_keys(conf)


def load(conf: cfg.ConfigOpts) -> Drivers:
    """Load all configured drivers; raises ConfigurationError naming the option that is wrong."""
    return Drivers(
        compute=load_compute(conf),
        volume=load_volume(conf),
        network=load_network(conf),
        image=load_image(conf),
        secrets=load_secrets(conf),
        broker=load_broker(conf),
        dns=_load("dns", dns.DnsDriver, conf) if conf.taskmanager.dns_driver else dns.NoDns(),
    )
