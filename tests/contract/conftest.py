"""Every implementation of the drivers, for the suites that all of them pass.

An implementation is a fixture that gives a :class:`Cloud`; ``cloud`` gives all of them in turn.
"""

from __future__ import annotations

import dataclasses
import datetime
import pathlib
import uuid
from collections.abc import Callable, Iterator

import pytest
from oslo_config import cfg

from tests.fixtures.cloud import StandInCloud
from tests.fixtures.cloud.fixtures import (
    cloud_conf,
    count_hosts,
    make_real_conf,
    real_cloud_name,
    standin_servers,
    standins,
)
from tests.fixtures.local import IMAGE_ID, agent_conf, conf, short_dir
from tests.fixtures.waiting import wait_until
from trove.common import crypto
from trove.drivers import factory
from trove.drivers.compute.base import ComputeDriver, ServerSpec
from trove.drivers.compute.fake import FakeCompute
from trove.drivers.compute.local import LocalCompute
from trove.drivers.compute.nova import NovaCompute
from trove.drivers.image.base import ImageDriver
from trove.drivers.image.fake import FakeImage
from trove.drivers.image.glance import GlanceImage
from trove.drivers.image.local import LocalImage
from trove.drivers.network.base import NetworkDriver
from trove.drivers.network.fake import FakeNetwork
from trove.drivers.network.local import LocalNetwork
from trove.drivers.network.neutron import NeutronNetwork
from trove.drivers.secrets.base import SecretsDriver
from trove.drivers.secrets.fake import FakeSecrets
from trove.drivers.secrets.local import LocalSecrets, generate_ca
from trove.drivers.volume.base import Volume, VolumeDriver
from trove.drivers.volume.cinder import CinderVolume
from trove.drivers.volume.fake import FakeVolume
from trove.drivers.volume.local import LocalVolume

__all__ = ["agent_conf", "cloud_conf", "conf", "short_dir", "standin_servers", "standins"]

ENGINE_PORT = 33060


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Cloud:
    """One implementation of every driver; ``again`` makes it anew, as a second process would."""

    compute: ComputeDriver
    volume: VolumeDriver
    network: NetworkDriver
    image: ImageDriver
    secrets: SecretsDriver
    again: Callable[[], Cloud]
    image_id: str = IMAGE_ID
    #: How much slower it is than what is only made believe.
    patience: int = 1
    #: Whether there is more than one host to run servers.
    has_hosts: bool = True
    #: The instances that ``new_spec`` made things for.
    made: list[str] = dataclasses.field(default_factory=list)

    def settled(self, instance_id: str) -> Volume | None:
        """Return the volume of an instance when nothing is being done to it any more."""
        found: list[Volume | None] = []

        def is_settled() -> bool:
            found.append(self.volume.find_volume(instance_id))
            return found[-1] is None or found[-1].status in ("available", "in-use", "error")

        wait_until(is_settled, timeout_s=60)
        return found[-1]

    def new_spec(self) -> ServerSpec:
        """Return a server to make, with its ports and volume made."""
        instance_id = str(uuid.uuid4())
        self.made.append(instance_id)
        port = self.network.create_port(
            instance_id=instance_id,
            project_id="p",
            nic=None,
            access=None,
            engine_port=ENGINE_PORT,
        )
        volume = self.volume.create_volume(
            instance_id=instance_id, size_gib=1, volume_type=None, project_id="p"
        )
        self.settled(instance_id)
        return ServerSpec(
            instance_id=instance_id,
            name="db",
            project_id="p",
            flavor=self.compute.list_flavors()[0],
            image_id=self.image_id,
            datastore_manager="mariadb",
            port_id=port.id,
            management_port_id=self.network.create_management_port(instance_id=instance_id),
            address=port.address,
            volume_id=volume.id,
            files={"guest.conf": "[guestagent]\n", "instance.key": "a2V5"},
        )


@pytest.fixture
def fake_cloud() -> Cloud:
    """Give the fakes; they live in this process, so a second one sees the same objects."""
    compute = FakeCompute()
    compute.looks_to_build = compute.looks_to_delete = 2
    made = Cloud(
        compute=compute,
        volume=FakeVolume(),
        network=FakeNetwork(),
        image=FakeImage(),
        secrets=FakeSecrets(),
        again=lambda: made,
    )
    return made


@pytest.fixture
def local_cloud(agent_conf: cfg.ConfigOpts, tmp_path: pathlib.Path) -> Cloud:
    """Give the local drivers, with an agent that is quick to start."""
    files = (tmp_path / "ca.pem", tmp_path / "ca-key.pem")
    generate_ca(*files, now=datetime.datetime.now(datetime.UTC))
    agent_conf.set_override("ca_certificate_file", str(files[0]), group="tls")
    agent_conf.set_override("ca_key_file", str(files[1]), group="tls")
    key = crypto.encode_key(crypto.generate_key())
    agent_conf.set_override("key_encryption_keys", [key], group="guest")

    def make() -> Cloud:
        return Cloud(
            compute=LocalCompute(agent_conf),
            volume=LocalVolume(agent_conf),
            network=LocalNetwork(agent_conf),
            image=LocalImage(agent_conf),
            secrets=LocalSecrets(agent_conf),
            again=make,
        )

    return make()


@pytest.fixture
def standin_cloud(cloud_conf: cfg.ConfigOpts, standins: StandInCloud) -> Cloud:
    """Give the drivers of cloud services, on stand-ins of these; fakes of what has none yet."""
    neutron = standins.find("network")
    connected = neutron.add_connected("project")
    management_id = neutron.add_network("172.16.0.0/24", project_id="operator")
    cloud_conf.set_override("default_network", connected.network_id, group="neutron")
    cloud_conf.set_override("management_network", management_id, group="neutron")
    cloud_conf.set_override("transport_url", "rabbit://u:p@172.16.0.2/guests", group="guest")
    secrets = FakeSecrets()

    def make() -> Cloud:
        return Cloud(
            compute=NovaCompute(cloud_conf),
            volume=CinderVolume(cloud_conf),
            network=NeutronNetwork(cloud_conf),
            image=GlanceImage(cloud_conf),
            secrets=secrets,
            again=make,
        )

    return make()


@pytest.fixture
def real_cloud(tmp_path: pathlib.Path) -> Iterator[Cloud]:
    """Give the drivers of cloud services on the cloud that TROVE_TEST_CLOUD names."""
    name = real_cloud_name()
    if name is None:
        pytest.skip("TROVE_TEST_CLOUD names no cloud of clouds.yaml")
    conf, image_id = make_real_conf(name, tmp_path)
    has_hosts = count_hosts(name) > 1
    made: list[str] = []

    def make() -> Cloud:
        drivers = factory.load(conf)
        return Cloud(
            compute=drivers.compute,
            volume=drivers.volume,
            network=drivers.network,
            image=drivers.image,
            secrets=drivers.secrets,
            again=make,
            image_id=image_id,
            patience=10,
            has_hosts=has_hosts,
            made=made,
        )

    yield make()
    for instance_id in made:
        _remove(make(), instance_id)


def _remove(cloud: Cloud, instance_id: str) -> None:
    """Remove what a test left in a cloud that others use too."""

    def is_gone() -> bool:
        server = cloud.compute.find_server(instance_id)
        if server is not None:
            cloud.compute.delete_server(server.id)
        return server is None

    wait_until(is_gone, timeout_s=120, interval_s=2)
    volume = cloud.settled(instance_id)
    if volume is not None:
        cloud.volume.delete_volume(volume.id)
    wait_until(lambda: cloud.network.remove_all(instance_id), timeout_s=60, interval_s=1)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Have every test run on every implementation, on a real cloud where one is named."""
    if "cloud" in metafunc.fixturenames:
        names = ["fake_cloud", "local_cloud", "standin_cloud"]
        metafunc.parametrize(
            "cloud", [*names, "real_cloud"] if real_cloud_name() else names, indirect=True
        )


@pytest.fixture
def cloud(request: pytest.FixtureRequest) -> Cloud:
    """Give every implementation in turn."""
    return request.getfixturevalue(request.param)
