"""Notifications through a real RabbitMQ: a consumer gets each of them, whatever dies meanwhile."""

import json
import pathlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import kombu
import pytest
from oslo_config import cfg

from tests.fixtures import guest_channel, project
from tests.fixtures import notifications as notified
from tests.fixtures.control_plane import ControlPlane
from tests.fixtures.rabbit import RabbitBroker
from tests.fixtures.waiting import wait_until
from trove.common import exception
from trove.db import base
from trove.rpc import notifier, taskmanager, transport

TOPIC = "meter"

#: A task manager's part that sends, as a process that can be killed.
SENDER = """
import sys
from tests.conftest import concurrency
from tests.integration import test_notifications as here
here.send_for_ever(sys.argv[1], sys.argv[2])
"""


def make_conf(url: str) -> cfg.ConfigOpts:
    conf = cfg.ConfigOpts()
    conf([], default_config_files=[], default_config_dirs=[])
    transport.prepare(conf)
    notifier.is_enabled(conf)
    conf.set_override("transport_url", url)
    conf.set_override("driver", ["messagingv2"], group="oslo_messaging_notifications")
    conf.set_override("topics", [TOPIC], group="oslo_messaging_notifications")
    return conf


def send_for_ever(url: str, path: str) -> None:
    """Send what waits in a database, and say so, until killed."""
    database = base.Database(f"sqlite:///{path}")
    plane = ControlPlane(database)
    outbox = plane.outbox(notifier.Notifier(make_conf(url)))
    plane.manual_clock.advance(float(sys.argv[3]))
    while True:
        outbox.run()


class Consumer:
    """Takes what is in the queue of a topic, as ceilometer would."""

    def __init__(self, url: str) -> None:
        self._connection = kombu.Connection(url.replace("rabbit://", "amqp://"))
        self._channel = self._connection.channel()
        # what consumers of notifications declare by default
        exchange = kombu.Exchange("trove", type="topic", durable=False)
        kombu.Queue(f"{TOPIC}.info", exchange, f"{TOPIC}.info", durable=False)(
            self._channel
        ).declare()
        self.numbers: list[int] = []
        self.ids: list[str] = []

    def drain(self) -> None:
        while (message := self._channel.basic_get(f"{TOPIC}.info", no_ack=True)) is not None:
            told: dict[str, Any] = json.loads(json.loads(message.body)["oslo.message"])
            self.numbers.append(told["payload"]["number"])
            self.ids.append(told["message_id"])

    def close(self) -> None:
        self._connection.release()


@pytest.fixture
def consumer(rabbit: RabbitBroker) -> Iterator[Consumer]:
    made = Consumer(rabbit.control_url)
    yield made
    made.close()


def test_what_waits_while_the_broker_is_away_arrives_in_order(
    rabbit: RabbitBroker, sqlite_database: base.Database
) -> None:
    outbox = ControlPlane(sqlite_database).outbox(notifier.Notifier(make_conf(rabbit.control_url)))
    notified.fill(sqlite_database, 20)
    rabbit.stop()
    try:
        with pytest.raises(exception.MessagingUnavailable):
            outbox.run()
        assert len(notified.waiting(sqlite_database)) == 20
    finally:
        rabbit.start()
    consumer = Consumer(rabbit.control_url)

    def is_sent() -> bool:
        try:
            outbox.run()
        except exception.MessagingUnavailable:
            return False
        return True

    wait_until(is_sent, timeout_s=30, what="the broker to take notifications")
    consumer.drain()
    consumer.close()
    # the first may have come twice: that the broker was gone may be seen only afterwards
    assert list(dict.fromkeys(consumer.numbers)) == list(range(20))
    assert notified.waiting(sqlite_database) == []


def test_hints_get_through_beside_notifications_on_one_broker(
    consumer: Consumer, rabbit: RabbitBroker, sqlite_database: base.Database
) -> None:
    outbox = ControlPlane(sqlite_database).outbox(notifier.Notifier(make_conf(rabbit.control_url)))
    notified.fill(sqlite_database, 1)
    outbox.run()
    conf = guest_channel.make_conf(control_url=rabbit.control_url, guest_url=rabbit.guest_url)
    hints, seen = taskmanager.TaskManagerClient(conf), []
    server = taskmanager.make_server(conf, seen.append)
    server.start()
    try:
        assert server.wait_serving(20)
        hints.run_operation("operation-1")
        wait_until(lambda: seen == ["operation-1"], timeout_s=10, what="the hint")
    finally:
        server.stop()
        hints.close()
    consumer.drain()
    assert consumer.numbers == [0]


def test_a_killed_sender_loses_none(
    consumer: Consumer, rabbit: RabbitBroker, sqlite_database: base.Database, tmp_path: pathlib.Path
) -> None:
    notified.fill(sqlite_database, 400)
    path = str(sqlite_database.engine.url.database)

    def start(elapsed_s: int) -> subprocess.Popen[bytes]:
        argv = ["-W", "ignore", "-c", SENDER, rabbit.control_url, path, str(elapsed_s)]
        with (tmp_path / "log").open("ab") as log:
            return subprocess.Popen([sys.executable, *argv], cwd=project.ROOT, stderr=log)

    first = start(0)
    try:
        wait_until(lambda: consumer.drain() or len(consumer.numbers) > 150, timeout_s=60)
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    # the lease of who was killed has run out
    second = start(100)
    try:
        wait_until(lambda: not notified.waiting(sqlite_database), timeout_s=60)
    finally:
        second.kill()
        second.wait()
    consumer.drain()
    assert set(consumer.numbers) == set(range(400))
    assert len(set(consumer.ids)) == 400
    firsts = list(dict.fromkeys(consumer.numbers))
    assert firsts == sorted(firsts)
