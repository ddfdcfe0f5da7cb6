"""The two buses, over oslo.messaging and RabbitMQ.

* Nothing on a bus waits for the absent: queues vanish with their last consumer, and a message is
  either a hint or repeated by its sender until it is answered.
* No caller is ever blocked without end by a broker that is down: a :class:`Sender` fails within
  about a second, an :class:`RpcServer` connects in a thread of its own. They do not share
  connections, since the driver may hold one that it serves on for as long as the broker is away.
* After a broker came back everybody is connected again within about two seconds.
* An answer is a message to the caller's own topic, not the driver's kind of reply. That one holds a
  thread of the server for as long as the caller's queue is missing, so that whoever may send to a
  server could stop it with made-up addresses; and it refuses a queue for a minute that was once
  missing for too long, as all are after an outage of the broker.
* On the guest bus agents send to one exchange and listen on another, both of them the broker's own:
  an account may be allowed to write to the first, which leads to control processes alone, and to
  read its own topics of the second, and needs no right to declare or remove what others use. With
  one exchange for both, or one that it may declare, it would reach other agents in roundabout ways
  (bindings between exchanges, alternate exchanges, dead letters).

Only :mod:`trove.rpc` imports oslo.messaging. Its option defaults that matter here are set by
:func:`prepare`; an operator's ``[oslo_messaging_rabbit]`` section wins over them.
"""

from __future__ import annotations

import contextlib
import enum
import functools
import importlib
import queue
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from typing import Any

import amqp
import kombu.exceptions
import oslo_messaging
import stevedore
import tenacity
from oslo_config import cfg
from oslo_log import log
from oslo_messaging import opts as messaging_opts

from trove.common import exception

LOG = log.getLogger(__name__)

#: Not that of notifications, which other services declare in their own way, on the same broker:
#: one that vanishes with its last queue cannot be declared as one that stays.
CONTROL_EXCHANGE = "trove-rpc"
#: From agents to control processes. Nobody declares this one or the next: kombu leaves alone what
#: begins with "amq.".
UP_EXCHANGE = "amq.direct"
#: From control processes to agents; a topic exchange, so that rights can be given by topic.
DOWN_EXCHANGE = "amq.topic"
_ANSWER_PREFIX = "answer."
_AMQP_PORT, _AMQPS_PORT = 5672, 5671
#: Where control processes get their answers.
CONTROL_INBOX = f"{_ANSWER_PREFIX}control"
#: Where oslo.messaging looks for parts of its own.
_PLUGINS = ("oslo.messaging.drivers", "oslo.messaging.executors")

_RABBIT_DEFAULTS: Mapping[str, object] = {
    "amqp_auto_delete": True,
    "rabbit_retry_interval": 1,
    "rabbit_retry_backoff": 1,
    "rabbit_interval_max": 2,
    "kombu_reconnect_delay": 0.0,
    # of queues that nobody sends to, which the driver makes for every server: by default they stay
    # for half an hour after their instance
    "rabbit_transient_queues_ttl": 60,
    "heartbeat_timeout_threshold": 20,
    # half of 20 / 6 s is also how long an idle connection takes to notice that it is to close
    "heartbeat_rate": 6,
    # nobody here asks for the driver's kind of reply: whoever does holds no thread
    "kombu_missing_consumer_retry_timeout": 0,
}

#: oslo.messaging reads these groups of any configuration, yet registers them on its global one
#: alone and lists them nowhere; the second came with version 18.
_UNLISTED_OPTIONS = (
    ("oslo_messaging._metrics.client", "oslo_messaging_metrics"),
    ("oslo_messaging._tracing.client", "oslo_messaging_tracing"),
)

#: What sending fails with while the broker is away.
SEND_ERRORS = (
    oslo_messaging.MessageDeliveryFailure,
    kombu.exceptions.OperationalError,
    amqp.AMQPError,
    OSError,
)
#: Between tries to serve, when the broker is there but refuses us.
_REFUSED_RETRY_S = 5.0


class NoAnswer(exception.ServiceUnavailable):
    """Nobody listens on the topic, or whoever does did not answer in time."""

    msg_fmt = "No answer from {topic}."
    code = "trove.no_answer"


class Bus(enum.StrEnum):
    """Which of the two buses; of the guest bus, which end: that of control processes, or AGENT."""

    CONTROL = "control"
    GUEST = "guest"
    AGENT = "agent"


#: Bus -> exchange that is sent to, exchange that is listened on.
_EXCHANGES: Mapping[Bus, tuple[str, str]] = {
    Bus.CONTROL: (CONTROL_EXCHANGE, CONTROL_EXCHANGE),
    Bus.GUEST: (DOWN_EXCHANGE, UP_EXCHANGE),
    Bus.AGENT: (UP_EXCHANGE, DOWN_EXCHANGE),
}


def agent_inbox(instance_id: str) -> str:
    """Return where the agent of an instance gets its answers; a name of its own follows."""
    return f"{_ANSWER_PREFIX}{instance_id}"


@functools.cache
def _options() -> Sequence[tuple[str | None, Sequence[cfg.Opt]]]:
    """Return the options of oslo.messaging that a RabbitMQ transport reads, by group."""
    groups = [
        (group, options)
        for group, options in messaging_opts.list_opts()
        if group in (None, "oslo_messaging_rabbit")
    ]
    for module_name, group in _UNLISTED_OPTIONS:
        try:
            module = importlib.import_module(module_name)
        except ImportError:
            continue
        groups.append((group, getattr(module, group)))
    return groups


@functools.cache
def _find_plugins() -> None:
    """Have stevedore take drivers and executors from oslo.messaging's own metadata.

    Left alone it reads the metadata of every package that is installed, which costs a process a
    quarter of a second of CPU wherever its cache cannot be used: at the first boot of a guest, say.
    """
    try:
        own = metadata.distribution("oslo.messaging").entry_points
    except metadata.PackageNotFoundError:
        return
    for namespace in _PLUGINS:
        found = list(own.select(group=namespace))
        if found:
            stevedore.ExtensionManager.ENTRY_POINT_CACHE.setdefault(namespace, found)


def register_options(conf: cfg.ConfigOpts) -> None:
    """Register oslo.messaging's options on ``conf``, with its own defaults."""
    _find_plugins()
    for group, options in _options():
        conf.register_opts(options, group=group)


def prepare(conf: cfg.ConfigOpts) -> None:
    """Register oslo.messaging's options on ``conf`` and set our defaults; may be called again."""
    register_options(conf)
    for name, value in _RABBIT_DEFAULTS.items():
        conf.set_default(name, value, group="oslo_messaging_rabbit")
    if conf.oslo_messaging_rabbit.rabbit_quorum_queue:
        # the broker refuses quorum queues that vanish with their reader
        conf.set_default("amqp_auto_delete", False, group="oslo_messaging_rabbit")


def control_transport(conf: cfg.ConfigOpts) -> oslo_messaging.RPCTransport:
    """Return a transport on ``[DEFAULT] transport_url``; connects on first use."""
    prepare(conf)
    if not conf.transport_url or conf.transport_url == "rabbit://":
        raise exception.ConfigurationError(reason="[DEFAULT] transport_url is not set")
    return oslo_messaging.get_rpc_transport(conf)


def guest_transport(conf: cfg.ConfigOpts, url: str | None = None) -> oslo_messaging.RPCTransport:
    """Return a transport on ``[guest] transport_url``, or ``url``; connects on first use."""
    prepare(conf)
    url = url or conf.guest.transport_url
    if not url:
        raise exception.ConfigurationError(reason="[guest] transport_url is not set")
    return oslo_messaging.get_rpc_transport(conf, url=url)


def _transport(
    conf: cfg.ConfigOpts, bus: Bus, url: str | None = None
) -> oslo_messaging.RPCTransport:
    return control_transport(conf) if bus is Bus.CONTROL else guest_transport(conf, url)


def guest_vhost(conf: cfg.ConfigOpts) -> str:
    """Return the virtual host of the guest bus."""
    prepare(conf)
    url = oslo_messaging.TransportURL.parse(conf, conf.guest.transport_url)
    return url.virtual_host or "/"


def guest_url(conf: cfg.ConfigOpts, *, username: str, password: str) -> str:
    """Return ``[guest] transport_url`` with another account, a secret."""
    prepare(conf)
    url = oslo_messaging.TransportURL.parse(conf, conf.guest.transport_url)
    for host in url.hosts:
        host.username, host.password = username, password
    return str(url)


def guest_hosts(conf: cfg.ConfigOpts) -> list[tuple[str, int]]:
    """Return name or address and port of the brokers of the guest bus."""
    prepare(conf)
    url = oslo_messaging.TransportURL.parse(conf, conf.guest.transport_url)
    is_tls = str(url.query.get("ssl", "")).lower() in ("1", "true")
    port = _AMQPS_PORT if is_tls else _AMQP_PORT
    return [(host.hostname, host.port or port) for host in url.hosts if host.hostname]


class Sender:
    """Casts and calls on one bus; safe to use from several threads.

    Make it after a fork, never before.
    """

    def __init__(
        self,
        conf: cfg.ConfigOpts,
        bus: Bus,
        *,
        url: str | None = None,
        inbox: str = CONTROL_INBOX,
    ) -> None:
        """Prepare; connects on first use, to ``url`` if it is not the configured one.

        Answers come to a topic below ``inbox``.
        """
        self._conf = conf
        self._bus = bus
        self._url = url
        self._inbox_name = inbox
        self._transport = _transport(conf, bus, url)
        self._client = oslo_messaging.get_rpc_client(
            self._transport,
            oslo_messaging.Target(exchange=_EXCHANGES[bus][0]),
            # the driver's own retries sleep between tries: cast tries once more, at once
            retry=0,
            transport_options=oslo_messaging.TransportOptions(at_least_once=True),
        )
        self._lock = threading.Lock()
        self._inbox: _Inbox | None = None

    def cast(self, topic: str, method: str, /, **arguments: Any) -> None:
        """Send without waiting for an answer.

        Raises NoAnswer when nobody listens on the topic, MessagingUnavailable when the broker is
        down.
        """
        client = self._client.prepare(topic=topic)
        try:
            # the first try may only find out that its connection is an old one
            for attempt in tenacity.Retrying(
                stop=tenacity.stop_after_attempt(2),
                retry=tenacity.retry_if_exception_type(SEND_ERRORS),
                reraise=True,
            ):
                with attempt:
                    client.cast({}, method, **arguments)
        except SEND_ERRORS as e:
            LOG.warning("message to %s not sent: %s", topic, type(e).__name__)
            raise exception.MessagingUnavailable() from e
        except oslo_messaging.MessageUndeliverable as e:
            raise NoAnswer(topic=topic) from e

    def call(self, topic: str, method: str, /, *, timeout_s: float, **arguments: Any) -> Any:
        """Send and return the answer.

        Raises NoAnswer when nobody listens or no answer comes within ``timeout_s``,
        MessagingUnavailable when the broker is down.
        """
        inbox = self.open_inbox()
        if not inbox.wait_open(min(timeout_s, 2.0)):
            raise exception.MessagingUnavailable()
        with inbox.expect() as (address, answer):
            self.cast(topic, method, answer_to=address, **arguments)
            try:
                return answer.get(timeout=timeout_s)
            except queue.Empty:
                raise NoAnswer(topic=topic) from None

    def open_inbox(self) -> _Inbox:
        """Begin to connect for the answers of calls, before the first call does; return at once."""
        with self._lock:
            if self._inbox is None:
                self._inbox = _Inbox(self._conf, self._bus, self._inbox_name, url=self._url)
            return self._inbox

    def close(self) -> None:
        """Close all connections."""
        if self._inbox is not None:
            self._inbox.close()
        self._transport.cleanup()


class _Inbox:
    """The topic on which one Sender gets its answers; opens in a thread."""

    def __init__(self, conf: cfg.ConfigOpts, bus: Bus, below: str, *, url: str | None) -> None:
        name = str(uuid.uuid4())
        self._topic = f"{below}.{name}"
        self._waiting: dict[str, queue.SimpleQueue[Any]] = {}
        self._server = RpcServer(
            conf,
            bus,
            topic=self._topic,
            server=name,
            methods={"answer": self._take},
            threads=1,
            url=url,
        )
        self._server.start()

    def wait_open(self, timeout_s: float) -> bool:
        return self._server.wait_serving(timeout_s)

    def close(self) -> None:
        self._server.stop()

    @contextlib.contextmanager
    def expect(self) -> Iterator[tuple[list[str], queue.SimpleQueue[Any]]]:
        """Give an address for one answer and where it will be."""
        call_id = str(uuid.uuid4())
        answer: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._waiting[call_id] = answer
        try:
            yield [self._topic, call_id], answer
        finally:
            del self._waiting[call_id]

    def _take(self, call_id: object = None, answer: object = None) -> None:
        waiting = self._waiting.get(call_id) if isinstance(call_id, str) else None
        if waiting is not None:
            waiting.put(answer)


class RpcServer:
    """Serves functions on a topic of one bus with native threads.

    ``methods`` are called with the arguments of a message; whatever they return is the answer if
    one is asked for, and a function that they return is then called to make it. They take any
    argument, and must not raise. Answers go where ``may_answer(topic, answer)`` allows it.
    """

    def __init__(
        self,
        conf: cfg.ConfigOpts,
        bus: Bus,
        *,
        topic: str,
        server: str,
        methods: Mapping[str, Callable[..., Any]],
        threads: int,
        url: str | None = None,
        may_answer: Callable[[str, Any], bool] = lambda topic, answer: True,
    ) -> None:
        """Prepare; ``start`` begins. ``server`` is this process's own name on the topic."""
        self._topic = topic
        self._threads = threads
        self._may_answer = may_answer
        self._target = oslo_messaging.Target(
            exchange=_EXCHANGES[bus][1], topic=topic, server=server
        )
        self._endpoint = _Endpoint(methods, self._answer)
        self._answers = Sender(conf, bus, url=url)
        self._transport = _transport(conf, bus, url)
        self._server: oslo_messaging.RPCServer | None = None
        self._is_serving = threading.Event()
        self._is_stopped = threading.Event()
        self._thread = threading.Thread(target=self._start, name=f"serve-{topic}", daemon=True)

    def start(self) -> None:
        """Begin, in a thread: connecting lasts until the broker is there."""
        self._thread.start()

    def wait_serving(self, timeout_s: float) -> bool:
        """Tell whether the server takes messages within ``timeout_s``."""
        return self._is_serving.wait(timeout_s)

    def stop(self) -> None:
        """End: take no new message, finish those under way, close the connections."""
        self._is_stopped.set()
        if self._server is None:
            # still looking for a broker: there is nothing to finish, and the thread is a daemon
            return
        self._server.stop()
        self._server.wait()
        self._transport.cleanup()
        self._answers.close()

    def _answer(self, address: object, answer: Any) -> None:
        """Send an answer; who asked and went away, or lied about the address, gets none."""
        match address:
            case [str(topic), str(call_id)] if topic.startswith(_ANSWER_PREFIX):
                if not self._may_answer(topic, answer):
                    LOG.info("an answer of %s was asked for somebody else", self._topic)
                    return
                try:
                    self._answers.cast(topic, "answer", call_id=call_id, answer=answer)
                except exception.ServiceUnavailable as e:
                    LOG.info("an answer of %s was not sent: %s", self._topic, e.code)

    def _start(self) -> None:
        """Serve; the driver waits for a broker that is down, we for one that refuses us."""
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(SEND_ERRORS),
            wait=tenacity.wait_fixed(_REFUSED_RETRY_S),
            sleep=tenacity.sleep_using_event(self._is_stopped),
            before_sleep=lambda state: LOG.error(
                "the broker refuses to let us serve %s: %s",
                self._topic,
                type(state.outcome.exception()).__name__ if state.outcome else "?",
            ),
            stop=tenacity.stop_when_event_set(self._is_stopped),
        )
        try:
            retrying(self._serve)
        except tenacity.RetryError:
            return
        self._is_serving.set()
        LOG.info("serving %s", self._topic)

    def _serve(self) -> None:
        # a server that could not start cannot be started again
        server = oslo_messaging.get_rpc_server(
            self._transport,
            self._target,
            [self._endpoint],
            access_policy=oslo_messaging.ExplicitRPCAccessPolicy,
        )
        server.start(override_pool_size=self._threads)
        self._server = server


class _Endpoint:
    """What oslo.messaging dispatches to: the given functions and nothing else."""

    def __init__(
        self,
        methods: Mapping[str, Callable[..., Any]],
        answer: Callable[[object, Any], None],
    ) -> None:
        for name, function in methods.items():
            setattr(self, name, _exposed(function, answer))


def _exposed(
    function: Callable[..., Any], send_answer: Callable[[object, Any], None]
) -> Callable[..., Any]:
    @oslo_messaging.expose
    def serve(context: Mapping[str, Any], answer_to: object = None, **arguments: Any) -> None:
        answer = function(**arguments)
        if answer_to is not None:
            send_answer(answer_to, answer() if callable(answer) else answer)

    return serve
