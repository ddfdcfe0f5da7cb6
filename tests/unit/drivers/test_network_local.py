"""Addresses: one each, none lost, none twice."""

from __future__ import annotations

import json
import os
import pathlib
import socket
import threading

import pytest
from oslo_config import cfg

from trove.common import exception
from trove.drivers.network import base
from trove.drivers.network.local import LocalNetwork

PORT = 16003


def _create(driver: LocalNetwork, instance_id: str, **nic: str) -> base.Port:
    return driver.create_port(
        instance_id=instance_id, project_id="p", nic=nic, access=None, engine_port=PORT
    )


def test_an_instance_gets_one_address_however_often_it_asks(conf: cfg.ConfigOpts) -> None:
    port = _create(LocalNetwork(conf), "i1")
    assert _create(LocalNetwork(conf), "i1") == port
    assert LocalNetwork(conf).find_port("i1") == port
    assert LocalNetwork(conf).list_ports() == [port]
    assert port.address.startswith("127.50.0.")
    assert not port.address.endswith((".0", ".255"))


def test_an_address_comes_back_and_deleting_twice_does_nothing(conf: cfg.ConfigOpts) -> None:
    conf.set_override("address_pool", "127.50.0.6/32", group="local")
    driver = LocalNetwork(conf)
    first = _create(driver, "i1")
    with pytest.raises(exception.AddressPoolExhausted, match=r"127\.50\.0\.6/32"):
        _create(driver, "i2")
    driver.delete_port(first.id)
    driver.delete_port(first.id)
    assert driver.list_ports() == []
    assert driver.find_port("i1") is None
    assert _create(driver, "i2").address == "127.50.0.6"
    # the old owner's late delete does not take it away
    driver.delete_port("i1")
    assert driver.find_port("i2") is not None


def test_racing_creates_never_share_an_address(conf: cfg.ConfigOpts) -> None:
    drivers = [LocalNetwork(conf) for _ in range(8)]
    ports: list[base.Port] = []

    def work(number: int) -> None:
        # every instance is asked for by two threads
        first = (number // 2) * 30
        ports.extend(_create(drivers[number], f"i{first + i}") for i in range(30))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    by_instance = {port.instance_id: port.address for port in ports}
    assert len(ports) == 240
    assert len(by_instance) == len(set(by_instance.values())) == 120
    assert {port.address for port in drivers[0].list_ports()} == set(by_instance.values())


def test_an_address_on_which_somebody_listens_is_passed_over(conf: cfg.ConfigOpts) -> None:
    conf.set_override("address_pool", "127.50.0.8/31", group="local")
    with socket.socket() as other:
        other.bind(("127.50.0.8", PORT))
        other.listen()
        assert _create(LocalNetwork(conf), "i1").address == "127.50.0.9"


def test_a_listener_on_all_addresses_is_named_as_the_cause(conf: cfg.ConfigOpts) -> None:
    with socket.socket() as other:
        other.bind(("0.0.0.0", PORT))  # noqa: S104
        other.listen()
        with pytest.raises(exception.DriverError, match=f"0.0.0.0:{PORT}"):
            _create(LocalNetwork(conf), "i1")


def test_an_address_may_be_asked_for(conf: cfg.ConfigOpts) -> None:
    driver = LocalNetwork(conf)
    assert _create(driver, "i1", ip_address="127.50.0.77").address == "127.50.0.77"
    for wanted, message in (
        ("127.50.0.77", "in use"),
        ("127.51.0.1", "not in"),
        ("10.0.0.x", "not an IPv4"),
    ):
        with pytest.raises(exception.DriverError, match=message):
            _create(driver, "i2", ip_address=wanted)


def test_a_create_that_died_halfway_is_completed(conf: cfg.ConfigOpts) -> None:
    driver = LocalNetwork(conf)
    kept = _create(driver, "i1")
    index = pathlib.Path(conf.local.state_dir) / "ports/by-instance"
    (index / "i2").write_text(json.dumps({"instance_id": "i2", "address": kept.address}))
    (index / "i3").write_text(json.dumps({"instance_id": "i3", "address": "127.50.0.9"}))
    assert driver.find_port("i2") is None
    assert driver.find_port("i3") is None
    assert _create(driver, "i2").address != kept.address
    driver.delete_port("i3")
    assert sorted(os.listdir(index)) == ["i1", "i2"]


@pytest.mark.parametrize("pool", ["10.0.0.0/8", "nonsense", "127.0.0.1/8"])
def test_a_bad_pool_stops_the_start(conf: cfg.ConfigOpts, pool: str) -> None:
    conf.set_override("address_pool", pool, group="local")
    with pytest.raises(exception.ConfigurationError, match="address_pool"):
        LocalNetwork(conf)


@pytest.mark.parametrize("instance_id", ["../x", "", "a/b", "a" * 65, ".hidden"])
def test_ids_that_are_paths_are_refused(conf: cfg.ConfigOpts, instance_id: str) -> None:
    with pytest.raises(exception.DriverError, match="is not an id"):
        _create(LocalNetwork(conf), instance_id)
