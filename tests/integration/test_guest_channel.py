"""Calls, jobs and their enemies over a real broker."""

from __future__ import annotations

import concurrent.futures
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from oslo_config import cfg

from tests.fixtures import guest_channel
from tests.fixtures.guest_channel import heartbeat
from tests.fixtures.rabbit import RabbitBroker
from tests.fixtures.waiting import wait_until
from trove.common import crypto, exception
from trove.rpc import conductor, guest, payloads, serializer, taskmanager, transport
from trove.rpc.serializer import Direction

KEY = crypto.generate_key()
#: Ends something later.
End = Callable[[Callable[[], None]], None]


@pytest.fixture
def conf(rabbit: RabbitBroker) -> cfg.ConfigOpts:
    return guest_channel.make_conf(control_url=rabbit.control_url, guest_url=rabbit.guest_url)


class ServedAgent:
    """An agent that serves on the bus and remembers its jobs."""

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        self.id = str(uuid.uuid4())
        self.jobs: list[payloads.Job] = []
        self.handlers: dict[str, Callable[[Any], payloads.Payload]] = {
            "ping": lambda _: heartbeat(sequence=7),
            "list_databases": lambda page: payloads.Databases(
                databases=(payloads.Database(name=f"first-{page.limit}"),)
            ),
        }
        self.clock = serializer.ChannelClock()
        self.endpoint = conductor.AgentEndpoint(
            self.id,
            sealer=conductor.make_agent_sealer(conf, self.id, KEY, self.clock),
            handlers=self.handlers,
            on_job=self.jobs.append,
        )
        self.server = conductor.make_agent_server(conf, self.id, self.endpoint)
        self.server.start()
        assert self.server.wait_serving(20)


@pytest.fixture(scope="module")
def end() -> Iterator[End]:
    """End what is given to it while the next tests run: a server takes a second to do so."""
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        ends: list[concurrent.futures.Future[None]] = []
        yield lambda how: ends.append(pool.submit(how))
        for each in ends:
            each.result()


@pytest.fixture
def agent(conf: cfg.ConfigOpts, end: End) -> Iterator[ServedAgent]:
    served = ServedAgent(conf)
    yield served
    end(served.server.stop)


@pytest.fixture
def client(conf: cfg.ConfigOpts, agent: ServedAgent, end: End) -> Iterator[guest.GuestClient]:
    made = guest.GuestClient(conf, {agent.id: KEY}.get)
    yield made
    end(made.close)


@pytest.fixture
def sender(conf: cfg.ConfigOpts, end: End) -> Iterator[transport.Sender]:
    """Somebody with the broker account that all agents share."""
    made = transport.Sender(conf, transport.Bus.GUEST)
    yield made
    end(made.close)


def test_a_call_goes_there_and_back(client: guest.GuestClient, agent: ServedAgent) -> None:
    assert client.call(agent.id, "ping", payloads.Empty()) == heartbeat(sequence=7)
    answer = client.call(agent.id, "list_databases", payloads.Page(limit=3))
    assert answer == payloads.Databases(databases=(payloads.Database(name="first-3"),))
    assert client.counters() == agent.endpoint.counters() == {}


def test_a_job_arrives_once_and_whole(client: guest.GuestClient, agent: ServedAgent) -> None:
    job = payloads.Job(job_id=str(uuid.uuid4()), kind="restart", payload={"a": {"b": [1]}})
    client.send_job(agent.id, job)
    wait_until(lambda: agent.jobs == [job], timeout_s=5)


def test_many_calls_at_once_get_their_own_answers(
    client: guest.GuestClient, agent: ServedAgent
) -> None:
    answers: dict[int, payloads.Payload] = {}

    def ask(limit: int) -> None:
        answers[limit] = client.call(agent.id, "list_databases", payloads.Page(limit=limit))

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {
        n: payloads.Databases(databases=(payloads.Database(name=f"first-{n}"),)) for n in range(20)
    }


@pytest.mark.parametrize(
    ("raised", "expected", "text"),
    [
        (
            exception.AlreadyExists(kind="database", name="d"),
            exception.AlreadyExists,
            'A database with the name "d" already exists.',
        ),
        (exception.DatabaseNotFound(name="d"), exception.DatabaseNotFound, "Database d cannot"),
        (exception.UserNotFound(name="u", host="%"), exception.UserNotFound, "User u@% cannot"),
        (exception.GuestError(reason="no space"), exception.GuestError, "no space"),
        (exception.Conflict(reason="busy"), exception.GuestError, "busy"),
        (RuntimeError("/secret/path and s3cret"), exception.GuestError, "internal error"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_errors_come_back_as_what_they_were(
    client: guest.GuestClient,
    agent: ServedAgent,
    raised: Exception,
    expected: type[Exception],
    text: str,
) -> None:
    def fail(_: object) -> payloads.Payload:
        raise raised

    agent.handlers["ping"] = fail
    with pytest.raises(exception.TroveError) as caught:
        client.call(agent.id, "ping", payloads.Empty())
    assert type(caught.value) is expected
    assert text in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_what_an_agent_cannot_do_is_a_guest_error(
    client: guest.GuestClient, agent: ServedAgent
) -> None:
    with pytest.raises(exception.GuestError, match="cannot do disable_root"):
        client.call(agent.id, "disable_root", payloads.Empty())


def test_a_slow_agent_is_a_timeout_and_the_next_call_works(
    client: guest.GuestClient, agent: ServedAgent
) -> None:
    release = threading.Event()

    def slow(_: object) -> payloads.Payload:
        release.wait(10)
        return heartbeat()

    agent.handlers["ping"] = slow
    with pytest.raises(exception.GuestTimeout):
        client.call(agent.id, "ping", payloads.Empty(), timeout_s=0.5)
    release.set()
    assert client.call(agent.id, "list_databases", payloads.Page(limit=1))


def test_an_absent_agent_is_told_at_once_and_leaves_nothing_on_the_broker(
    conf: cfg.ConfigOpts, client: guest.GuestClient, sender: transport.Sender
) -> None:
    absent = ServedAgent(conf)
    asker = guest.GuestClient(conf, lambda _: KEY)
    assert asker.call(absent.id, "ping", payloads.Empty())
    absent.server.stop()
    with pytest.raises(exception.GuestTimeout):
        asker.call(absent.id, "ping", payloads.Empty(), timeout_s=60)
    asker.send_job(absent.id, payloads.Job(job_id="j", kind="restart"))
    asker.close()
    # nobody keeps the job for it: a queue without its agent is gone
    with pytest.raises(transport.NoAnswer):
        sender.cast(guest.topic(absent.id), "deliver", envelope={})


def test_an_instance_without_key_is_not_called(client: guest.GuestClient) -> None:
    with pytest.raises(exception.InstanceNotFound):
        client.call(str(uuid.uuid4()), "ping", payloads.Empty())


def envelope_of(agent: ServedAgent, *, key: bytes = KEY, age_s: float = 0.0) -> dict[str, Any]:
    """Seal a job for the agent as the control plane would, or almost."""
    clock = serializer.ChannelClock(wall=lambda: time.time() - age_s)
    sealer = serializer.Sealer(lambda _: key, clock=clock, window_s=120)
    job = payloads.Job(job_id=str(uuid.uuid4()), kind="restart")
    return sealer.seal(agent.id, Direction.DOWN, guest.JOB_METHOD, job.to_wire())


def test_an_agent_drops_what_the_control_plane_did_not_send_now(
    conf: cfg.ConfigOpts, agent: ServedAgent, sender: transport.Sender
) -> None:
    other = ServedAgent(conf)
    good = envelope_of(agent)
    hostile: list[tuple[object, str]] = [
        (envelope_of(agent, key=crypto.generate_key()), "forged"),
        (envelope_of(agent) | {"i": other.id}, "wrong_instance"),
        (envelope_of(other), "wrong_instance"),
        (envelope_of(agent, age_s=600), "stale"),
        (envelope_of(agent, age_s=60), "stale"),
        ({"method": "job", "payload": {"job_id": "j", "kind": "stop"}}, "malformed"),
        (envelope_of(agent) | {"c": "A" * (2 * serializer.MAX_BYTES)}, "oversized"),
        (envelope_of(agent) | {"d": "up"}, "wrong_direction"),
        (None, "malformed"),
    ]
    expected: dict[str, int] = {}
    for envelope, reason in hostile:
        assert sender.call(guest.topic(agent.id), "deliver", timeout_s=5, envelope=envelope) is None
        expected[reason] = expected.get(reason, 0) + 1
    assert agent.endpoint.counters() == expected
    assert agent.jobs == []
    for _ in range(2):
        sender.call(guest.topic(agent.id), "deliver", timeout_s=5, envelope=good)
    assert len(agent.jobs) == 1
    assert agent.endpoint.counters() == expected | {"replayed": 1}
    other.server.stop()


def test_other_methods_and_arguments_reach_nothing(
    agent: ServedAgent, sender: transport.Sender, client: guest.GuestClient
) -> None:
    assert sender.open_inbox().wait_open(20)
    for method in ("__init__", "__class__", "counters", "_dispatch", "nothing"):
        with pytest.raises(transport.NoAnswer):
            sender.call(guest.topic(agent.id), method, timeout_s=0.2)
    assert agent.jobs == []
    assert client.call(agent.id, "ping", payloads.Empty())


def test_a_lie_about_where_the_answer_goes_costs_nothing(
    agent: ServedAgent, sender: transport.Sender, client: guest.GuestClient
) -> None:
    for address in (["answer.nobody", "x"], [guest.topic(agent.id), "x"], "x", [1], {}, [None, []]):
        for _ in range(10):
            sender.cast(guest.topic(agent.id), "deliver", envelope=None, answer_to=address)
    assert client.call(agent.id, "ping", payloads.Empty(), timeout_s=3)
    wait_until(lambda: agent.endpoint.counters() == {"malformed": 60}, timeout_s=5)


def test_the_agents_account_does_not_reach_the_control_bus(rabbit: RabbitBroker) -> None:
    vhost_of_control = rabbit.guest_url.rsplit("/", 1)[0] + "/"
    conf = guest_channel.make_conf(control_url=vhost_of_control)
    hints = taskmanager.TaskManagerClient(conf)
    hints.run_operation("dropped without an error")
    with pytest.raises(exception.MessagingUnavailable):
        hints._sender.cast(taskmanager.TOPIC, "run_operation", operation_id="x")
    hints.close()


def test_a_hint_arrives_and_one_for_nobody_is_dropped(conf: cfg.ConfigOpts) -> None:
    hints = taskmanager.TaskManagerClient(conf)
    hints.run_operation("nobody is there")
    seen: list[str] = []
    server = taskmanager.make_server(conf, seen.append)
    server.start()
    assert server.wait_serving(20)
    hints.run_operation("operation-1")
    wait_until(lambda: seen == ["operation-1"], timeout_s=5)
    server.stop()
    hints.close()


def test_without_a_broker_everything_fails_fast_and_a_hint_is_dropped(
    rabbit: RabbitBroker,
) -> None:
    nowhere = "rabbit://u:p@127.0.0.1:1/"
    conf = guest_channel.make_conf(control_url=nowhere, guest_url=nowhere)
    instance_id = str(uuid.uuid4())
    client = guest.GuestClient(conf, {instance_id: KEY}.get)
    clock = serializer.ChannelClock()
    began = clock.monotonic()
    for _ in range(2):
        with pytest.raises(exception.MessagingUnavailable):
            client.call(instance_id, "ping", payloads.Empty())
        with pytest.raises(exception.MessagingUnavailable):
            client.send_job(instance_id, payloads.Job(job_id="j", kind="restart"))
    taskmanager.TaskManagerClient(conf).run_operation("x")
    assert clock.monotonic() - began < 6


def test_calls_work_again_soon_after_the_broker_was_killed(
    rabbit: RabbitBroker, agent: ServedAgent, client: guest.GuestClient
) -> None:
    assert client.call(agent.id, "ping", payloads.Empty())
    rabbit.kill()
    try:
        with pytest.raises(exception.ServiceUnavailable):
            client.call(agent.id, "ping", payloads.Empty())
    finally:
        rabbit.start()

    def works() -> bool:
        try:
            return bool(client.call(agent.id, "ping", payloads.Empty(), timeout_s=1))
        except exception.ServiceUnavailable:
            return False

    wait_until(works, timeout_s=10, what="a call after the broker's restart")


def test_a_server_that_the_broker_refuses_keeps_trying_and_can_be_stopped(
    rabbit: RabbitBroker, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = rabbit.control_url.replace("rabbit://trove:", "rabbit://trove:wrong")
    server = taskmanager.make_server(guest_channel.make_conf(control_url=wrong), print)
    server.start()
    wait_until(lambda: "refuses to let us serve" in caplog.text, timeout_s=10)
    assert not server.wait_serving(0)
    server.stop()
    assert "wrong" not in caplog.text
