"""An operator whose broker has quorum queues by rule can have ours be such, too."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import amqp
import pytest
from oslo_config import cfg

from tests.fixtures.rabbit import RabbitBroker
from trove import conf as trove_conf
from trove.rpc import transport


def make_conf(rabbit: RabbitBroker, **options: bool) -> cfg.ConfigOpts:
    conf = trove_conf.new()
    conf([], default_config_files=[])
    transport.prepare(conf)
    conf.set_override("transport_url", rabbit.control_url)
    for name, value in options.items():
        conf.set_override(name, value, group="oslo_messaging_rabbit")
    return conf


@contextlib.contextmanager
def open_channel(rabbit: RabbitBroker) -> Iterator[amqp.Channel]:
    access = rabbit.access
    connection = amqp.Connection(
        host=f"{access.host}:{access.port}", userid="trove", password=access.control_password
    )
    connection.connect()
    with connection:
        yield connection.channel()


def answer_of(conf: cfg.ConfigOpts, topic: str) -> str:
    """Serve a topic, call it, and send it a cast."""
    casts = threading.Event()
    server = transport.RpcServer(
        conf,
        transport.Bus.CONTROL,
        topic=topic,
        server="one",
        methods={"echo": lambda text: text, "note": lambda: casts.set()},
        threads=1,
    )
    sender = transport.Sender(conf, transport.Bus.CONTROL)
    server.start()
    try:
        assert server.wait_serving(20)
        answer: str = sender.call(topic, "echo", timeout_s=10, text="hello")
        sender.cast(topic, "note")
        assert casts.wait(10)
    finally:
        sender.close()
        server.stop()
    return answer


def test_calls_and_casts_go_over_quorum_queues(
    rabbit: RabbitBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    # exchanges of the other kind may exist on the shared broker
    monkeypatch.setitem(transport._EXCHANGES, transport.Bus.CONTROL, ("quorum-rpc", "quorum-rpc"))
    conf = make_conf(rabbit, rabbit_quorum_queue=True)
    assert answer_of(conf, "quorum-test") == "hello"
    refused = pytest.raises(amqp.PreconditionFailed, match="x-queue-type")
    with open_channel(rabbit) as channel, refused:
        channel.queue_declare("quorum-test", durable=True, auto_delete=False)
    with open_channel(rabbit) as channel:
        channel.queue_delete("quorum-test")
