"""The guest side of the guest channel, and the conductor's server.

An agent reports with :class:`ConductorClient` and is called through an :class:`AgentEndpoint`.
This module is part of the guest image: it imports nothing of the control plane.
"""

from __future__ import annotations

import socket
import uuid
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from oslo_config import cfg
from oslo_log import log

from trove.common import exception
from trove.rpc import guest, payloads, serializer, transport

LOG = log.getLogger(__name__)

TOPIC = "trove-conductor"
#: How often a heartbeat asks for the conductor's time, at least, in message windows.
_SYNCS_A_WINDOW = 3

Handler = Callable[[Any], payloads.Payload]
#: An answer to a report.
A = TypeVar("A", payloads.Ack, payloads.GrantAnswer)


def make_agent_sealer(
    conf: cfg.ConfigOpts,
    instance_id: str,
    key: bytes | Callable[[], bytes],
    clock: serializer.ChannelClock,
) -> serializer.Sealer:
    """Return the Sealer of an agent: it knows one key, and nothing from before its start.

    The key may be a function that returns the one that counts now.
    """
    get = key if callable(key) else lambda: key
    return serializer.Sealer(
        lambda wanted: get() if wanted == instance_id else None,
        clock=clock,
        window_s=conf.guest.message_window_s,
        only_since_start=True,
    )


class ConductorClient:
    """An agent's reports. Safe to use from several threads.

    The clock is set by the time in the conductor's answers; a report that was refused because the
    clock was wrong is sent once more with the time just learned.
    """

    def __init__(
        self,
        conf: cfg.ConfigOpts,
        instance_id: str,
        *,
        sealer: serializer.Sealer,
        clock: serializer.ChannelClock,
        url: str | None = None,
    ) -> None:
        """Take the options, whom we report for, and what seals and tells the time.

        ``url`` is given where it is not the configured one.
        """
        self._instance_id = instance_id
        self._sealer = sealer
        self._clock = clock
        self._timeout_s: float = conf.guest.call_timeout_s
        self._sync_interval_s = conf.guest.message_window_s / _SYNCS_A_WINDOW
        self._synced: float | None = None
        self._sender = transport.Sender(
            conf, transport.Bus.AGENT, url=url, inbox=transport.agent_inbox(instance_id)
        )

    def connect(self) -> None:
        """Begin to connect, so that the first report finds it done; returns at once."""
        self._sender.open_inbox()

    def hello(self, hello: payloads.Hello) -> payloads.Ack:
        """Report the start of the agent; raises ServiceUnavailable: try again later."""
        return self._call("hello", hello)

    def heartbeat(self, heartbeat: payloads.Heartbeat) -> None:
        """Report how the instance is; raises ServiceUnavailable: the next one will do.

        Now and then it waits for an answer, so as to keep the clock right.
        """
        if self._synced is None or self._clock.monotonic() - self._synced > self._sync_interval_s:
            self._call("heartbeat", heartbeat)
            return
        self._sender.cast(TOPIC, "deliver", envelope=self._seal("heartbeat", heartbeat))

    def job_done(self, outcome: payloads.JobOutcome) -> payloads.Ack:
        """Report how a job ended; raises ServiceUnavailable: try again until there is an Ack."""
        return self._call("job_done", outcome)

    def grant(self, request: payloads.GrantRequest) -> payloads.GrantAnswer:
        """Ask for a grant that is good again; raises ServiceUnavailable."""
        return self._ask("grant", request, payloads.GrantAnswer)

    def close(self) -> None:
        """Close all connections."""
        self._sender.close()

    def _seal(
        self, method: str, report: payloads.Payload, *, key: bytes | None = None
    ) -> dict[str, Any]:
        return self._sealer.seal(
            self._instance_id, serializer.Direction.UP, method, report.to_wire(), key=key
        )

    def _call(self, method: str, report: payloads.Payload) -> payloads.Ack:
        return self._ask(method, report, payloads.Ack)

    def _ask(self, method: str, report: payloads.Payload, answer_type: type[A]) -> A:
        for _ in range(2):
            # the key may be replaced before the answer comes
            key = self._sealer.key_of(self._instance_id)
            envelope = self._seal(method, report, key=key)
            sent = self._clock.monotonic()
            answer = self._sender.call(
                TOPIC, "deliver", timeout_s=self._timeout_s, envelope=envelope
            )
            try:
                opened = self._sealer.open_reply(answer, envelope, key=key)
                read = answer_type.from_wire(opened.payload)
            except (serializer.Rejected, payloads.MalformedPayload) as e:
                raise transport.NoAnswer(topic=TOPIC) from e
            self._synced = self._clock.monotonic()
            if read.now_s is not None:
                self._clock.adjust(read.now_s, round_trip_s=self._synced - sent)
            if read.accepted:
                return read
            LOG.info("the clock of this instance was wrong; learned the conductor's time")
        raise transport.NoAnswer(topic=TOPIC)


class AgentEndpoint:
    """Opens what the control plane sends, runs the handler of a call, seals the answer.

    ``handlers`` has a function for each method of :data:`trove.rpc.payloads.CALLS` that the agent
    can do; a TroveError of it becomes a Failure. ``on_job`` must return at once: it queues.
    """

    def __init__(
        self,
        instance_id: str,
        *,
        sealer: serializer.Sealer,
        handlers: Mapping[str, Handler],
        on_job: Callable[[payloads.Job], None],
    ) -> None:
        """Take whom we are, what opens and seals, and what to do."""
        self._instance_id = instance_id
        self._sealer = sealer
        self._handlers = handlers
        self._on_job = on_job

    def deliver(self, envelope: object = None) -> dict[str, Any] | None:
        """Take an envelope; returns the sealed answer, None for jobs and for what is dropped."""
        try:
            opened = self._sealer.open(
                envelope, serializer.Direction.DOWN, instance_id=self._instance_id
            )
        except serializer.Rejected:
            return None
        try:
            answer = self._dispatch(opened)
        except payloads.MalformedPayload as e:
            self._sealer.count("malformed_payload", self._instance_id)
            answer = _failure(exception.GuestError(reason=e.message))
        except exception.TroveError as e:
            answer = _failure(e)
        except Exception:
            LOG.exception("call %s failed", opened.method)
            answer = _failure(exception.GuestError(reason="internal error of the guest agent"))
        if answer is None:
            return None
        return self._sealer.seal(
            self._instance_id,
            serializer.Direction.DOWN_REPLY,
            opened.method,
            answer.to_wire(),
            in_reply_to=opened.message_id,
            is_failure=isinstance(answer, payloads.Failure),
            key=opened.key,
        )

    def counters(self) -> dict[str, int]:
        """Return how many messages were dropped, by reason."""
        return self._sealer.counters()

    def _dispatch(self, opened: serializer.Opened) -> payloads.Payload | None:
        if opened.method == guest.JOB_METHOD:
            job = payloads.Job.from_wire(opened.payload)
            self._on_job(job)
            return None
        types = payloads.CALLS.get(opened.method)
        handler = self._handlers.get(opened.method)
        if types is None or handler is None:
            return _failure(
                exception.GuestError(reason=f"this agent cannot do {opened.method[:64]}")
            )
        request_type, answer_type = types
        answer = handler(request_type.from_wire(opened.payload))
        if not isinstance(answer, answer_type):
            raise TypeError(f"{opened.method} must answer with {answer_type.__name__}")
        return answer


def _failure(error: exception.TroveError) -> payloads.Failure:
    """Return the Failure of an error; arguments are only those that JSON can carry."""
    arguments = {
        name: value
        for name, value in error.kwargs.items()
        if value is None or isinstance(value, str | int | float | bool)
    }
    return payloads.Failure(code=error.code, message=error.message, arguments=arguments)


def make_agent_server(
    conf: cfg.ConfigOpts,
    instance_id: str,
    endpoint: AgentEndpoint,
    *,
    threads: int = 4,
    url: str | None = None,
) -> transport.RpcServer:
    """Return the server of the agent of an instance, not started."""
    return transport.RpcServer(
        conf,
        transport.Bus.AGENT,
        topic=guest.topic(instance_id),
        server=instance_id,
        methods={"deliver": endpoint.deliver},
        threads=threads,
        url=url,
        may_answer=lambda topic, answer: topic.startswith(f"{transport.CONTROL_INBOX}."),
    )


def _may_answer(topic: str, answer: dict[str, Any] | None) -> bool:
    """Tell whether an answer may go to a topic: what is sealed for an agent goes to that one."""
    if answer is None:
        return not topic.startswith(f"{transport.CONTROL_INBOX}.")
    return topic.startswith(f"{transport.agent_inbox(answer['i'])}.")


def make_server(
    conf: cfg.ConfigOpts,
    deliver: Callable[..., Callable[[], dict[str, Any] | None] | None],
    *,
    threads: int,
) -> transport.RpcServer:
    """Return the server of a conductor process, not started.

    ``deliver`` is given an envelope and returns what makes the answer, if there is one.
    """
    return transport.RpcServer(
        conf,
        transport.Bus.GUEST,
        topic=TOPIC,
        server=f"{socket.gethostname()}-{uuid.uuid4()}",
        methods={"deliver": deliver},
        threads=threads,
        may_answer=_may_answer,
    )
