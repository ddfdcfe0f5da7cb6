"""What every network driver does."""

import ipaddress
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.contract.conftest import ENGINE_PORT, Cloud
from tests.fixtures.waiting import wait_until
from trove.common import exception
from trove.drivers.network.base import Port

EVERYBODY = {"is_public": False, "allowed_cidrs": ["0.0.0.0/0", "::/0"]}


@pytest.fixture
def new_id(cloud: Cloud) -> Iterator[Callable[[], str]]:
    """Give ids of instances, and remove what is left of them at the end."""
    made: list[str] = []

    def make() -> str:
        made.append(str(uuid.uuid4()))
        return made[-1]

    yield make
    for each in made:
        wait_until(lambda each=each: cloud.network.remove_all(each), timeout_s=60)


@pytest.fixture
def instance_id(new_id: Callable[[], str]) -> str:
    return new_id()


def make_port(cloud: Cloud, instance_id: str, access: Any = None) -> Port:
    return cloud.network.create_port(
        instance_id=instance_id,
        project_id="p",
        nic=None,
        access=access,
        engine_port=ENGINE_PORT,
    )


def ports_of(cloud: Cloud, *instance_ids: str) -> list[Port]:
    return [port for port in cloud.network.list_ports() if port.instance_id in instance_ids]


def test_an_unknown_instance_has_no_port(cloud: Cloud, instance_id: str) -> None:
    assert cloud.network.find_port(instance_id) is None
    assert ports_of(cloud, instance_id) == []
    assert instance_id not in cloud.network.list_owners()


def test_access_makes_a_port_public_and_private(cloud: Cloud, instance_id: str) -> None:
    port = make_port(cloud, instance_id)
    assert not port.is_public
    for is_public in (True, True, False):
        changed = cloud.network.update_access(
            port.id,
            access={**EVERYBODY, "is_public": is_public},
            engine_port=ENGINE_PORT,
        )
        assert (changed.id, changed.address, changed.is_public) == (
            port.id,
            port.address,
            is_public,
        )
        assert cloud.again().network.find_port(instance_id) == changed
    cloud.network.refresh()
    cloud.network.delete_port(port.id)
    assert not make_port(cloud, instance_id).is_public


def test_a_port_is_made_with_its_access(cloud: Cloud, instance_id: str) -> None:
    access = {"is_public": True, "allowed_cidrs": ["0.0.0.0/0"]}
    port = make_port(cloud, instance_id, access)
    assert cloud.again().network.find_port(instance_id) == port
    assert ports_of(cloud, instance_id) == [port]
    assert port.is_public


def test_a_port_that_is_gone_has_no_access(cloud: Cloud, instance_id: str) -> None:
    with pytest.raises(exception.DriverError):
        cloud.network.update_access(instance_id, access=EVERYBODY, engine_port=ENGINE_PORT)


def test_an_instance_gets_one_port_however_often_it_is_asked_for(
    cloud: Cloud, instance_id: str
) -> None:
    port = make_port(cloud, instance_id)
    assert port.instance_id == instance_id
    ipaddress.ip_address(port.address)
    again = make_port(cloud.again(), instance_id, EVERYBODY)
    assert (again.id, again.address) == (port.id, port.address)
    assert cloud.again().network.find_port(instance_id) == port
    assert ports_of(cloud, instance_id) == [port]


def test_ports_have_addresses_of_their_own(cloud: Cloud, new_id: Callable[[], str]) -> None:
    ports = [make_port(cloud, new_id()) for _ in range(3)]
    assert len({port.address for port in ports}) == len({port.id for port in ports}) == 3


def test_a_deleted_port_is_gone_and_may_be_deleted_again(
    cloud: Cloud, new_id: Callable[[], str]
) -> None:
    ids = [new_id(), new_id()]
    port, other = make_port(cloud, ids[0]), make_port(cloud, ids[1])
    for _ in range(2):
        cloud.network.delete_port(port.id)
        assert cloud.network.find_port(ids[0]) is None
    assert ports_of(cloud, *ids) == [other]


def test_an_instance_has_one_port_to_the_guest_bus_at_most(cloud: Cloud, instance_id: str) -> None:
    port_id = cloud.network.create_management_port(instance_id=instance_id)
    again = cloud.again().network.create_management_port(instance_id=instance_id)
    assert again == port_id
    # it is not the engine's
    assert cloud.network.find_port(instance_id) is None
    port = make_port(cloud, instance_id)
    assert port.id != port_id
    assert cloud.again().network.find_port(instance_id) == port
    assert (instance_id in cloud.network.list_owners()) is True


def test_everything_of_an_instance_is_removed_and_may_be_removed_again(
    cloud: Cloud, new_id: Callable[[], str]
) -> None:
    instance_id, other_id = new_id(), new_id()
    make_port(cloud, instance_id, {**EVERYBODY, "is_public": True})
    cloud.network.create_management_port(instance_id=instance_id)
    other = make_port(cloud, other_id)
    assert {instance_id, other_id} <= set(cloud.network.list_owners())
    wait_until(lambda: cloud.network.remove_all(instance_id), timeout_s=60)
    assert cloud.network.remove_all(instance_id)
    assert instance_id not in cloud.again().network.list_owners()
    assert ports_of(cloud, instance_id, other_id) == [other]
