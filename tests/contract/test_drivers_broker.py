"""What every driver of broker accounts does."""

from __future__ import annotations

import dataclasses
import urllib.parse
import uuid
from collections.abc import Callable

import amqp
import pytest

from tests.fixtures import guest_channel
from tests.fixtures.rabbit import ManagedBroker
from tests.fixtures.waiting import wait_until
from trove.common import crypto
from trove.drivers.broker.base import BrokerDriver
from trove.drivers.broker.fake import FakeBroker
from trove.drivers.broker.rabbitmq import RabbitManagement
from trove.drivers.broker.shared import SharedAccount


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subject:
    """A driver, whether it makes accounts, and whether the broker takes a login with a URL."""

    driver: BrokerDriver
    makes_accounts: bool
    accepts: Callable[[str], bool]


def _connect(url: str) -> amqp.Connection:
    parts = urllib.parse.urlsplit(url)
    return amqp.Connection(
        host=f"{parts.hostname}:{parts.port}",
        userid=parts.username,
        password=parts.password,
        virtual_host=parts.path[1:],
        connect_timeout=5,
    )


def accepts(url: str) -> bool:
    """Tell whether the broker takes an account."""
    connection = _connect(url)
    try:
        connection.connect()
    except (OSError, amqp.AMQPError):
        return False
    connection.close()
    return True


@pytest.fixture
def fake() -> Subject:
    driver = FakeBroker()
    known = driver.accounts.items()

    def is_known(url: str) -> bool:
        parts = urllib.parse.urlsplit(url)
        return any(
            (f"trove-guest-{owner}-{generation}", password) == (parts.username, parts.password)
            for (owner, generation), password in known
        )

    return Subject(driver=driver, makes_accounts=True, accepts=is_known)


@pytest.fixture
def shared() -> Subject:
    url = "rabbit://agents:s3cret@broker:5672/guests"
    driver = SharedAccount(guest_channel.make_conf(guest_url=url))
    return Subject(driver=driver, makes_accounts=False, accepts=lambda given: given == url)


@pytest.fixture
def rabbitmq(managed_rabbit: ManagedBroker) -> Subject:
    conf = guest_channel.make_conf(guest_url=managed_rabbit.guest_url)
    managed_rabbit.configure(conf)
    return Subject(driver=RabbitManagement(conf), makes_accounts=True, accepts=accepts)


@pytest.fixture(params=["fake", "shared", "rabbitmq"])
def subject(request: pytest.FixtureRequest) -> Subject:
    return request.getfixturevalue(request.param)


def test_an_account_can_be_used_and_made_again(subject: Subject) -> None:
    instance_id = str(uuid.uuid4())
    password = crypto.generate_password()
    url = subject.driver.ensure_account(instance_id, 0, password)
    assert subject.driver.ensure_account(instance_id, 0, password) == url
    assert subject.accepts(url)
    assert (instance_id in subject.driver.list_owners()) is subject.makes_accounts


def test_generations_have_accounts_of_their_own(subject: Subject) -> None:
    instance_id = str(uuid.uuid4())
    first, second = (
        subject.driver.ensure_account(instance_id, generation, crypto.generate_password())
        for generation in (3, 4)
    )
    assert (first != second) is subject.makes_accounts
    subject.driver.remove_accounts(instance_id, keep=4)
    assert subject.accepts(second)
    assert subject.accepts(first) is not subject.makes_accounts
    assert (instance_id in subject.driver.list_owners()) is subject.makes_accounts
    subject.driver.remove_accounts(instance_id)
    assert subject.accepts(second) is not subject.makes_accounts
    assert instance_id not in subject.driver.list_owners()


def test_what_is_gone_can_be_removed_again_and_others_stay(subject: Subject) -> None:
    one, other = str(uuid.uuid4()), str(uuid.uuid4())
    urls = [subject.driver.ensure_account(each, 0, "p" * 32) for each in (one, other)]
    for _ in range(2):
        subject.driver.remove_accounts(one)
    assert subject.accepts(urls[1])


def test_a_driver_made_anew_knows_the_accounts(rabbitmq: Subject) -> None:
    instance_id = str(uuid.uuid4())
    rabbitmq.driver.ensure_account(instance_id, 0, "p" * 32)
    again = RabbitManagement(rabbitmq.driver._conf)
    assert instance_id in again.list_owners()
    again.remove_accounts(instance_id)
    assert instance_id not in rabbitmq.driver.list_owners()


def test_queues_and_exchanges_go_with_the_last_account(rabbitmq: Subject) -> None:
    one, other = (str(uuid.uuid4()) for _ in range(2))
    for each in (one, other):
        connection = _connect(rabbitmq.driver.ensure_account(each, 0, "p" * 32))
        connection.connect()
        for name in (f"guest.{each}", f"answer.{each}.a_fanout_b"):
            connection.channel().queue_declare(name, auto_delete=False)
        connection.channel().exchange_declare(f"guest.{each}_x", "fanout", auto_delete=False)
        connection.close()
    rabbitmq.driver.ensure_account(one, 1, "q" * 32)
    rabbitmq.driver.remove_accounts(one, keep=1)
    assert _left(rabbitmq, one) == 3
    rabbitmq.driver.remove_accounts(one)
    wait_until(lambda: not _left(rabbitmq, one), timeout_s=5)
    assert _left(rabbitmq, other) == 3
    rabbitmq.driver.remove_accounts(other)


def _left(rabbitmq: Subject, instance_id: str) -> int:
    listed = [
        item["name"]
        for kind in ("queues", "exchanges")
        for item in rabbitmq.driver._ask("GET", f"{kind}/{rabbitmq.driver._quoted_vhost}")
    ]
    return sum(instance_id in name for name in listed)
