"""Whom a guest may talk to, from its guest.conf."""

from __future__ import annotations

import ipaddress

import pytest

from trove.guestagent.boot import endpoints, errors


def _conf(url: str, **options: object) -> endpoints.GuestConf:
    lines = "".join(f"{name} = {value}\n" for name, value in options.items())
    return endpoints.parse_conf(
        f"[guest]\ntransport_url = {url}\n[guestagent]\ninstance_id = i\n{lines}"
    )


def _pairs(conf: endpoints.GuestConf) -> list[tuple[str, int]]:
    return [(str(address), port) for address, port in conf.addresses()]


def test_all_brokers_of_the_url_count() -> None:
    conf = _conf("rabbit://u:p@10.0.0.1:5672,u:p@10.0.0.2,u:p@[fd00::1]:5673//trove")
    assert _pairs(conf) == [("10.0.0.1", 5672), ("10.0.0.2", 5672), ("fd00::1", 5673)]


def test_port_of_a_broker_with_tls() -> None:
    assert _pairs(_conf("rabbit://u:p@10.0.0.1/trove?ssl=1")) == [("10.0.0.1", 5671)]


def test_object_storage_by_url_and_by_name() -> None:
    conf = _conf(
        "rabbit://u:p@bus.example/trove",
        endpoints="https://10.0.0.9/v1,http://store.example:8080",
        hosts="bus.example:10.0.0.1,Store.example:fd00::9",
    )
    assert _pairs(conf) == [("10.0.0.1", 5672), ("10.0.0.9", 443), ("fd00::9", 8080)]


def test_name_without_an_address_is_told() -> None:
    with pytest.raises(errors.BootError, match=r"bus\.example"):
        _conf("rabbit://u:p@bus.example/trove").addresses()


def test_what_is_wrong_is_told_without_the_password() -> None:
    for text in ("", "[guest]\ntransport_url = rabbit://u:secret@h:x/\n[guestagent]\n"):
        with pytest.raises(errors.BootError) as told:
            endpoints.parse_conf(text)
        assert "secret" not in str(told.value)


def test_other_options_are_read() -> None:
    conf = _conf("rabbit://u:p@10.0.0.1/", first_boot=1001, bind_address="192.168.0.4", port=3307)
    assert (conf.first_boot, conf.bind_address, conf.port) == (1001, "192.168.0.4", 3307)
    assert conf.addresses() == [(ipaddress.ip_address("10.0.0.1"), 5672)]
