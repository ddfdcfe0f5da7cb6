"""Prove what the buses do before they connect."""

from __future__ import annotations

from importlib import metadata

import pytest
import stevedore

from trove import conf as trove_conf
from trove.rpc import transport

NAMESPACES = ("oslo.messaging.drivers", "oslo.messaging.executors")


def test_drivers_and_executors_are_those_that_are_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stevedore.ExtensionManager, "ENTRY_POINT_CACHE", {})
    transport._find_plugins.cache_clear()
    transport.prepare(trove_conf.new())
    known = stevedore.ExtensionManager.ENTRY_POINT_CACHE
    for namespace in NAMESPACES:
        assert known[namespace]
        assert set(known[namespace]) == set(metadata.entry_points(group=namespace))


def test_a_bus_is_made_without_reading_the_metadata_of_all_packages(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stevedore.ExtensionManager, "ENTRY_POINT_CACHE", {})
    transport._find_plugins.cache_clear()
    conf = trove_conf.new()
    conf([], project="trove", default_config_files=[])
    conf.set_override("transport_url", "rabbit://127.0.0.1:1/", group="guest")
    transport.guest_transport(conf).cleanup()
    assert set(stevedore.ExtensionManager.ENTRY_POINT_CACHE) == set(NAMESPACES)


def test_two_configurations_share_no_values() -> None:
    first, second = trove_conf.new(), trove_conf.new()
    for conf in (first, second):
        transport.prepare(conf)
        conf([], project="trove", default_config_files=[])
    first.set_override("rabbit_qos_prefetch_count", 7, group="oslo_messaging_rabbit")
    first.set_default("heartbeat_rate", 3, group="oslo_messaging_rabbit")
    assert second.oslo_messaging_rabbit.rabbit_qos_prefetch_count == 0
    assert second.oslo_messaging_rabbit.heartbeat_rate == 6
    assert first.oslo_messaging_rabbit.amqp_auto_delete is True


def test_queues_of_the_absent_are_gone_within_a_minute() -> None:
    conf = trove_conf.new()
    transport.prepare(conf)
    conf([], project="trove", default_config_files=[])
    assert conf.oslo_messaging_rabbit.amqp_auto_delete
    assert conf.oslo_messaging_rabbit.rabbit_transient_queues_ttl == 60


def test_preparing_twice_changes_nothing() -> None:
    conf = trove_conf.new()
    transport.prepare(conf)
    conf([], project="trove", default_config_files=[])
    before = dict(conf.oslo_messaging_rabbit.items())
    transport.prepare(conf)
    assert dict(conf.oslo_messaging_rabbit.items()) == before


@pytest.mark.parametrize("answer_to", [None, ["answer.x", "1"]])
def test_an_answer_is_made_only_for_who_asks(answer_to: object) -> None:
    made: list[str] = []
    sent: list[object] = []

    def make() -> dict[str, str]:
        made.append("answer")
        return {"for": "you"}

    serve = transport._exposed(lambda: make, lambda address, answer: sent.append((address, answer)))
    serve({}, answer_to=answer_to)
    assert made == ([] if answer_to is None else ["answer"])
    assert sent == ([] if answer_to is None else [(answer_to, {"for": "you"})])
