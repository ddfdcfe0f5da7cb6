"""What the accounts' driver asks of the management API, and says when that refuses."""

from __future__ import annotations

import re
import uuid

import pytest

from tests.fixtures import guest_channel
from trove.common import exception
from trove.drivers.broker import passwords, rabbitmq

URL = "http://admin:s3cr%2Ft@127.0.0.1:1/prefix/"


def driver(url: str = URL) -> rabbitmq.RabbitManagement:
    conf = guest_channel.make_conf(guest_url="rabbit://u:p@h1:5672,u:p@h2:5672/guests?ssl=1")
    conf.set_override("management_url", url, group="guest")
    return rabbitmq.RabbitManagement(conf)


@pytest.mark.parametrize("url", ["", "broker:15671", "ftp://u:p@b/", "https://broker:15671"])
def test_an_incomplete_url_is_told_at_the_start(url: str) -> None:
    with pytest.raises(exception.ConfigurationError, match="management_url"):
        driver(url)


def test_a_broker_that_cannot_be_reached_is_asked_again() -> None:
    with pytest.raises(exception.DriverUnavailable) as caught:
        driver().remove_accounts(str(uuid.uuid4()))
    assert "s3cr" not in str(caught.value)
    assert "s3cr" not in repr(driver())


@pytest.mark.parametrize(
    ("status", "retryable", "told"),
    [(401, False, "administrator"), (404, False, "virtual host"), (500, True, "500")],
)
def test_a_refusal_says_what_helps(status: int, retryable: bool, told: str) -> None:
    error = rabbitmq._refused("PUT users", status)
    assert error.retryable is retryable
    assert told in str(error)


@pytest.mark.parametrize("instance_id", ["", "x", "a" * 35 + ".", "../" * 12])
def test_an_id_that_is_none_makes_no_account(instance_id: str) -> None:
    with pytest.raises(exception.DriverError, match="no instance has such an id"):
        driver().ensure_account(instance_id, 0, "p")


def test_rights_are_words_for_one_instance() -> None:
    one, other = str(uuid.uuid4()), str(uuid.uuid4())
    rights = rabbitmq._rights_of(one)
    configure = re.compile(rights["permissions"]["configure"])
    for name in (f"guest.{one}", f"guest.{one}.{one}", f"guest.{one}_fanout_ab", f"answer.{one}.a"):
        assert configure.search(name)
    for name in (f"guest.{other}", f"guest.{one}0", f"xguest.{one}", "amq.topic", "amq.direct", ""):
        assert not configure.search(name)
    topics = re.compile(rights["topic-permissions"]["read"])
    assert topics.search(f"guest.{one}")
    assert topics.search(f"answer.{one}.{other}")
    for topic in ("#", f"guest.{one}.#", f"guest.{one}.*", f"answer.{one}.*", f"guest.{other}"):
        assert not topics.search(topic)
    assert not re.search(rights["topic-permissions"]["write"], f"guest.{one}")


def test_passwords_are_salted() -> None:
    assert passwords.password_hash("p") != passwords.password_hash("p")
