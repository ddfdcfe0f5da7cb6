"""The two buses, over oslo.messaging and RabbitMQ.

* Nothing on a bus waits for the absent: queues vanish with their last consumer, and a message is
  either a hint or repeated by its sender until it is answered.
* No caller is ever blocked without end by a broker that is down: a :class:`Sender` fails within
  about a second, an :class:`RpcServer` connects in a thread of its own. They do not share
  connections, since the driver may hold one that it serves on for as long as the broker is away.
* After a broker came back everybody is connected again within about two seconds.

Only :mod:`trove.rpc` imports oslo.messaging. Its option defaults that matter here are set by
:func:`prepare`; an operator's ``[oslo_messaging_rabbit]`` section wins over them.
"""

from __future__ import annotations

import enum
import importlib
import threading
from collections.abc import Callable, Mapping
from typing import Any

import amqp
import kombu.exceptions
import oslo_messaging
import tenacity
from oslo_config import cfg
from oslo_log import log
from oslo_messaging import opts as messaging_opts

from trove.common import exception

LOG = log.getLogger(__name__)

EXCHANGE = "trove"
_NOBODY = "trove-nobody"

_RABBIT_DEFAULTS: Mapping[str, object] = {
    "amqp_auto_delete": True,
    "rabbit_retry_interval": 1,
    "rabbit_retry_backoff": 1,
    "rabbit_interval_max": 2,
    "kombu_reconnect_delay": 0.0,
    "heartbeat_timeout_threshold": 20,
    "heartbeat_rate": 3,
    # how long an answer is held for a caller whose reply queue is gone
    "kombu_missing_consumer_retry_timeout": 5,
}

#: oslo.messaging reads these groups of any configuration, yet registers them on its global one
#: alone and lists them nowhere; the second came with version 18.
_UNLISTED_OPTIONS = (
    ("oslo_messaging._metrics.client", "oslo_messaging_metrics"),
    ("oslo_messaging._tracing.client", "oslo_messaging_tracing"),
)

_SEND_ERRORS = (
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
    """Which of the two buses."""

    CONTROL = "control"
    GUEST = "guest"


def prepare(conf: cfg.ConfigOpts) -> None:
    """Register oslo.messaging's options on ``conf`` and set our defaults; may be called again."""
    for group, options in messaging_opts.list_opts():
        if group in (None, "oslo_messaging_rabbit"):
            conf.register_opts(options, group=group)
    for module_name, group in _UNLISTED_OPTIONS:
        try:
            module = importlib.import_module(module_name)
        except ImportError:
            continue
        conf.register_opts(getattr(module, group), group=group)
    for name, value in _RABBIT_DEFAULTS.items():
        conf.set_default(name, value, group="oslo_messaging_rabbit")


def control_transport(conf: cfg.ConfigOpts) -> oslo_messaging.RPCTransport:
    """Return a transport on ``[DEFAULT] transport_url``; connects on first use."""
    prepare(conf)
    if not conf.transport_url or conf.transport_url == "rabbit://":
        raise exception.ConfigurationError(reason="[DEFAULT] transport_url is not set")
    return oslo_messaging.get_rpc_transport(conf)


def guest_transport(conf: cfg.ConfigOpts) -> oslo_messaging.RPCTransport:
    """Return a transport on ``[guest] transport_url``; connects on first use."""
    prepare(conf)
    if not conf.guest.transport_url:
        raise exception.ConfigurationError(reason="[guest] transport_url is not set")
    return oslo_messaging.get_rpc_transport(conf, url=conf.guest.transport_url)


def _transport(conf: cfg.ConfigOpts, bus: Bus) -> oslo_messaging.RPCTransport:
    return control_transport(conf) if bus is Bus.CONTROL else guest_transport(conf)


class Sender:
    """Casts and calls on one bus; safe to use from several threads.

    Make it after a fork, never before.
    """

    def __init__(self, conf: cfg.ConfigOpts, bus: Bus) -> None:
        """Prepare; connects on first use."""
        self._transport = _transport(conf, bus)
        self._client = oslo_messaging.get_rpc_client(
            self._transport,
            oslo_messaging.Target(exchange=EXCHANGE),
            # the driver's own retries sleep between tries: _patiently tries once more, at once
            retry=0,
            transport_options=oslo_messaging.TransportOptions(at_least_once=True),
        )
        self._reply_queue = _ReplyQueue(self._client)

    def cast(self, topic: str, method: str, /, **arguments: Any) -> None:
        """Send without waiting for an answer.

        Raises NoAnswer when nobody listens on the topic, MessagingUnavailable when the broker is
        down.
        """
        client = self._client.prepare(topic=topic)
        self._patiently(topic, lambda: client.cast({}, method, **arguments))

    def call(self, topic: str, method: str, /, *, timeout_s: float, **arguments: Any) -> Any:
        """Send and return the answer.

        Raises NoAnswer when nobody listens or no answer comes within ``timeout_s``,
        MessagingUnavailable when the broker is down.
        """
        if not self._reply_queue.wait(min(timeout_s, 2.0)):
            raise exception.MessagingUnavailable()
        client = self._client.prepare(topic=topic, timeout=timeout_s)
        return self._patiently(topic, lambda: client.call({}, method, **arguments))

    def close(self) -> None:
        """Close all connections."""
        self._transport.cleanup()

    @staticmethod
    def _patiently(topic: str, send: Callable[[], Any]) -> Any:
        """Try twice: the first try may only find out that its connection is an old one."""
        try:
            for attempt in tenacity.Retrying(
                stop=tenacity.stop_after_attempt(2),
                retry=tenacity.retry_if_exception_type(_SEND_ERRORS),
                reraise=True,
            ):
                with attempt:
                    return send()
        except _SEND_ERRORS as e:
            LOG.warning("message to %s not sent: %s", topic, type(e).__name__)
            raise exception.MessagingUnavailable() from e
        except (oslo_messaging.MessagingTimeout, oslo_messaging.MessageUndeliverable) as e:
            raise NoAnswer(topic=topic) from e
        except oslo_messaging.RemoteError as e:
            # our endpoints do not raise; what is on the other side is not ours
            LOG.warning("endpoint of %s failed: %s", topic, e.exc_type)
            raise NoAnswer(topic=topic) from e
        raise AssertionError("not reached")


class _ReplyQueue:
    """Opens the queue for answers in a thread, where the driver may wait for the broker.

    The driver makes that queue within the first call and tries for ever while the broker is down.
    So the first call is one to nobody, whose end shows that the queue exists.
    """

    def __init__(self, client: oslo_messaging.RPCClient) -> None:
        self._client = client
        self._is_open = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def wait(self, timeout_s: float) -> bool:
        """Tell whether the queue is open within ``timeout_s``."""
        if self._is_open.is_set():
            return True
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._open, name="reply-queue", daemon=True)
                self._thread.start()
        return self._is_open.wait(timeout_s)

    def _open(self) -> None:
        try:
            self._client.prepare(topic=_NOBODY, timeout=10).call({}, "nothing")
        except (oslo_messaging.MessageUndeliverable, oslo_messaging.MessagingTimeout):
            self._is_open.set()
        except _SEND_ERRORS as e:
            LOG.info("queue for answers not opened yet: %s", type(e).__name__)


class RpcServer:
    """Serves functions on a topic of one bus with native threads.

    ``methods`` are called with the arguments of a message; whatever they return is the answer.
    They must not raise: the driver would send a traceback to the caller.
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
    ) -> None:
        """Prepare; ``start`` begins. ``server`` is this process's own name on the topic."""
        self._topic = topic
        self._threads = threads
        self._target = oslo_messaging.Target(exchange=EXCHANGE, topic=topic, server=server)
        self._endpoint = _Endpoint(methods)
        self._transport = _transport(conf, bus)
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

    def _start(self) -> None:
        """Serve; the driver waits for a broker that is down, we for one that refuses us."""
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(_SEND_ERRORS),
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

    def __init__(self, methods: Mapping[str, Callable[..., Any]]) -> None:
        for name, function in methods.items():
            setattr(self, name, _exposed(function))


def _exposed(function: Callable[..., Any]) -> Callable[..., Any]:
    @oslo_messaging.expose
    def answer(context: Mapping[str, Any], **arguments: Any) -> Any:
        return function(**arguments)

    return answer
