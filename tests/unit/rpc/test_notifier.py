"""Notifications through oslo.messaging: by the drivers and to the topics that options say."""

import datetime
import logging
from typing import Any

import oslo_messaging
import pytest
from oslo_config import cfg

from trove import conf as trove_conf
from trove.common import exception
from trove.rpc import notifier, transport

GROUP = "oslo_messaging_notifications"
MESSAGE = notifier.Message(
    message_id="11111111-2222-3333-4444-555555555555",
    event_type="dbaas.database_create.end",
    priority="info",
    payload={"dbname": "shop"},
    created=datetime.datetime(2026, 5, 1, 12, tzinfo=datetime.UTC),
)


def make_conf(drivers: list[str] | None, **options: Any) -> cfg.ConfigOpts:
    conf = trove_conf.new()
    conf([], default_config_files=[], default_config_dirs=[])
    # as in every process: our own buses are prepared first
    transport.prepare(conf)
    conf.set_override("transport_url", "fake:/")
    notifier.is_enabled(conf)
    if drivers is not None:
        conf.set_override("driver", drivers, group=GROUP)
    for name, value in options.items():
        conf.set_override(name, value, group=GROUP)
    return conf


@pytest.mark.parametrize(
    ("drivers", "is_on"),
    [
        (None, False),
        ([], False),
        (["noop"], False),
        (["noop", "log"], True),
        (["messagingv2"], True),
    ],
)
def test_only_a_driver_that_does_something_turns_notifications_on(
    drivers: list[str] | None, is_on: bool
) -> None:
    conf = make_conf(drivers)
    assert notifier.is_enabled(conf) is is_on
    made = notifier.make(conf)
    assert (made is not None) is is_on
    if made is not None:
        made.close()


def test_the_log_driver_writes_what_was_told(caplog: pytest.LogCaptureFixture) -> None:
    made = notifier.Notifier(make_conf(["log"]))
    with caplog.at_level(logging.INFO, logger="oslo.messaging.notification"):
        made.send(MESSAGE)
    made.close()
    assert "shop" in caplog.text
    assert MESSAGE.message_id in caplog.text


def test_a_driver_that_does_not_exist_is_told_at_the_start() -> None:
    with pytest.raises(exception.ConfigurationError, match="pigeon"):
        notifier.make(make_conf(["log", "pigeon"]))


def test_a_message_that_cannot_be_sent_is_an_error_of_the_sender(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = notifier.Notifier(make_conf(["messagingv2"]))

    def down(*arguments: Any, **options: Any) -> None:
        raise oslo_messaging.MessageDeliveryFailure("no broker")

    monkeypatch.setattr(made._transport, "_send_notification", down)
    with pytest.raises(exception.MessagingUnavailable):
        made.send(MESSAGE)
    made.close()


def test_the_defaults_of_our_own_buses_do_not_hold_for_notifications() -> None:
    conf = make_conf(["messagingv2"], topics=["meter"])
    assert conf.oslo_messaging_rabbit.amqp_auto_delete is True
    conf.set_override("ssl", True, group="oslo_messaging_rabbit")
    own = notifier._as_operators_set(conf)
    assert own.oslo_messaging_rabbit.amqp_auto_delete is False
    assert own.oslo_messaging_rabbit.ssl is True
    assert own.oslo_messaging_notifications.topics == ["meter"]
    assert own.transport_url == "fake:/"
    assert own.control_exchange == "trove"
