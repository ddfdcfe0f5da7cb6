"""What the broker account of one agent is good for, and what it is not, on a real broker."""

from __future__ import annotations

import dataclasses
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import amqp
import pytest
from oslo_config import cfg

from tests.fixtures import guest_channel
from tests.fixtures.guest_channel import heartbeat
from tests.fixtures.rabbit import ManagedBroker
from tests.fixtures.rabbit_thief import ATTEMPTS, Aim, Attempts, Thief, connect, publish
from tests.fixtures.waiting import wait_until
from trove.common import crypto
from trove.drivers.broker import rabbitmq
from trove.guestagent import channel, credentials
from trove.rpc import conductor, guest, payloads, serializer, transport


@dataclasses.dataclass(kw_only=True)
class Agent:
    """An agent on an account of its own."""

    id: str
    key: bytes
    url: str
    wire: channel.Channel
    jobs: list[payloads.Job]

    @property
    def inbox(self) -> str:
        """The topic that the agent gets answers on."""
        inbox = self.wire._ends.client._sender.open_inbox()
        assert inbox.wait_open(20)
        return inbox._topic


class Bus:
    """Both ends of a guest bus whose agents have accounts of their own."""

    def __init__(self, broker: ManagedBroker, tmp_path: Any) -> None:
        self.conf: cfg.ConfigOpts = guest_channel.make_conf(guest_url=broker.guest_url)
        broker.configure(self.conf)
        self.driver = rabbitmq.RabbitManagement(self.conf)
        self.keys: dict[str, bytes] = {}
        self.reports: list[serializer.Opened] = []
        clock = serializer.ChannelClock()
        self.sealer = serializer.Sealer(self.keys.get, clock=clock, window_s=120)
        self.server = conductor.make_server(self.conf, self._deliver, threads=2)
        self.server.start()
        self.client = guest.GuestClient(self.conf, self.keys.get)
        self.client._sender.open_inbox()
        self._tmp_path = tmp_path
        self.one, self.other = self.agent(), self.agent()
        assert self.server.wait_serving(20)
        for each in (self.one, self.other):
            assert each.wire._ends.server is not None
            assert each.wire._ends.server.wait_serving(20)

    def _deliver(self, envelope: object = None) -> Callable[[], dict[str, Any]] | None:
        try:
            opened = self.sealer.open(envelope, serializer.Direction.UP)
        except serializer.Rejected:
            return None
        self.reports.append(opened)
        ack = payloads.Ack(now_s=time.time())
        return lambda: self.sealer.seal(
            opened.instance_id,
            serializer.Direction.UP_REPLY,
            opened.method,
            ack.to_wire(),
            in_reply_to=opened.message_id,
        )

    def agent(self) -> Agent:
        """Make an agent that serves."""
        instance_id, key = str(uuid.uuid4()), crypto.generate_key()
        self.keys[instance_id] = key
        url = self.driver.ensure_account(instance_id, 0, crypto.generate_password())
        jobs: list[payloads.Job] = []
        bootstrap = credentials.Credentials(key=key, transport_url=url)
        kept = credentials.CredentialFile(self._tmp_path / f"{instance_id}.json", bootstrap)
        wire = channel.Channel(self.conf, instance_id, kept)
        wire.listen({"ping": lambda _: heartbeat()}, jobs.append)
        return Agent(id=instance_id, key=key, url=url, wire=wire, jobs=jobs)

    def close(self) -> None:
        """End everything, side by side."""
        ends = [self.server.stop, self.client.close]
        ends += [each.wire._ends.close for each in (self.one, self.other)]
        threads = [threading.Thread(target=end) for end in ends]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for each in (self.one, self.other):
            self.driver.remove_accounts(each.id)


@pytest.fixture(scope="module")
def bus(managed_rabbit: ManagedBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bus]:
    made = Bus(managed_rabbit, tmp_path_factory.mktemp("agents"))
    yield made
    made.close()


@pytest.fixture
def thief(bus: Bus) -> Iterator[Thief]:
    """Somebody with the account of one agent, and with much knowledge of the others."""
    made = Thief(bus.one.url)
    yield made
    made.close()


def test_an_agent_does_all_its_work_with_its_own_account(bus: Bus) -> None:
    for agent in (bus.one, bus.other):
        ack = agent.wire.hello(payloads.Hello(heartbeat=heartbeat()))
        assert ack.accepted
        assert bus.client.call(agent.id, "ping", payloads.Empty()) == heartbeat()
        bus.client.send_job(agent.id, payloads.Job(job_id="j", kind="restart"))
        wait_until(lambda jobs=agent.jobs: jobs, timeout_s=5)


@pytest.mark.parametrize("make", ATTEMPTS)
def test_a_stolen_account_is_refused_everything_else(
    bus: Bus, thief: Thief, make: Callable[[Aim], Attempts]
) -> None:
    aim = Aim(
        own=bus.one.id,
        victim=bus.other.id,
        victim_inbox=bus.other.inbox,
        control_inbox=bus.client._sender.open_inbox()._topic,
    )
    allowed = [name for name, attempt in make(aim).items() if not thief.is_refused(attempt)]
    assert allowed == []
    assert bus.client.call(bus.other.id, "ping", payloads.Empty()) == heartbeat()


def test_a_stolen_account_sees_nobody(bus: Bus, managed_rabbit: ManagedBroker) -> None:
    """The management API is not for agents, nor is another virtual host."""
    account = bus.one.url.split("//")[1].split("@")[0]
    own = guest_channel.make_conf(guest_url=bus.one.url)
    url = f"http://{account}@127.0.0.1:{managed_rabbit.management_port}"
    own.set_override("management_url", url, group="guest")
    with pytest.raises(rabbitmq.exception.DriverError, match="tag administrator"):
        rabbitmq.RabbitManagement(own).list_owners()
    with pytest.raises(amqp.AMQPError):
        connect(bus.one.url.rpartition("/")[0] + "/")


def most(limit: int, make: Callable[[], Any]) -> list[Any]:
    """Make as many as there may be; fails when there is no end at the limit."""
    made: list[Any] = []
    while len(made) <= limit:
        try:
            made.append(make())
        except (amqp.AMQPError, OSError):
            return made
    pytest.fail(f"more than {limit}")


def test_a_flood_of_connections_and_channels_ends_at_a_limit(bus: Bus) -> None:
    instance_id = str(uuid.uuid4())
    url = bus.driver.ensure_account(instance_id, 0, crypto.generate_password())
    held = most(rabbitmq.LIMITS["max-connections"], lambda: connect(url))
    assert most(rabbitmq.LIMITS["max-channels"], held[0].channel)
    # to remove an account is to end all that
    bus.driver.remove_accounts(instance_id)
    for connection in held[1:]:
        with pytest.raises((amqp.AMQPError, OSError)):
            connection.drain_events(timeout=5)
    with pytest.raises(amqp.AMQPError):
        connect(url)


def test_a_flood_of_messages_is_dropped_beyond_a_bound(bus: Bus, thief: Thief) -> None:
    """What lies in a queue of the thief's own, or of the conductors', is bounded in bytes."""
    name = f"{guest.topic(bus.one.id)}_flood"
    own = thief.connection.channel()
    own.queue_declare(name, auto_delete=False)
    own.exchange_declare(f"{name}_x", "fanout", auto_delete=True)
    own.queue_bind(name, f"{name}_x", "")
    bound = rabbitmq.GUEST_QUEUE_BYTES
    body = "x" * (1024 * 1024)
    for _ in range(bound // len(body) + 4):
        publish(f"{name}_x", "", body)(own)
    count = own.queue_declare(name, passive=True).message_count
    assert count <= bound // len(body)
    own.queue_delete(name)
    assert bus.client.call(bus.other.id, "ping", payloads.Empty()) == heartbeat()


def test_what_a_thief_sends_up_does_not_open_and_is_answered_to_nobody(bus: Bus) -> None:
    """A sealed envelope speaks for the instance whose key made it, whatever account sent it."""
    sender = transport.Sender(
        bus.conf,
        transport.Bus.AGENT,
        url=bus.one.url,
        inbox=transport.agent_inbox(bus.one.id),
    )
    clock = serializer.ChannelClock()
    report = heartbeat().to_wire()
    wrong = serializer.Sealer(lambda _: bus.one.key, clock=clock, window_s=120)
    count = len(bus.reports)
    forged = wrong.seal(bus.other.id, serializer.Direction.UP, "heartbeat", report)
    plain = {"i": bus.other.id, "method": "heartbeat", "payload": report}
    for envelope in (forged, plain, None, "x"):
        sender.cast(conductor.TOPIC, "deliver", envelope=envelope)
    # an honest envelope whose answer is to go to somebody else
    for address in (bus.other.inbox, bus.client._sender.open_inbox()._topic):
        honest = wrong.seal(bus.one.id, serializer.Direction.UP, "heartbeat", report)
        sender.cast(conductor.TOPIC, "deliver", envelope=honest, answer_to=[address, "1"])
    wait_until(lambda: len(bus.reports) == count + 2, timeout_s=5)
    assert {each.instance_id for each in bus.reports[count:]} == {bus.one.id}
    dropped = bus.sealer.counters()
    assert (dropped["forged"], dropped["malformed"]) == (1, 3)
    assert bus.client.call(bus.other.id, "ping", payloads.Empty()) == heartbeat()
    assert bus.client.counters() == {}
    sender.close()
