"""The control plane's way to the agents: short calls and jobs, sealed for one instance each.

The agent of instance X listens on the topic ``guest.X`` of the guest bus and has one method,
``deliver(envelope)``.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from typing import Any

from oslo_config import cfg
from oslo_log import log

from trove.common import concurrency, exception
from trove.rpc import payloads, serializer, transport

LOG = log.getLogger(__name__)

#: Method under which a job is sent to an agent.
JOB_METHOD = "job"
#: Most characters of a guest's text that are shown to people.
_MAX_TEXT = 500


def topic(instance_id: str) -> str:
    """Return the topic that the agent of an instance listens on."""
    return f"guest.{instance_id}"


class GuestApi(abc.ABC):
    """Calls and jobs to the agent of an instance."""

    @abc.abstractmethod
    def call(
        self,
        instance_id: str,
        method: str,
        request: payloads.Payload,
        *,
        timeout_s: float | None = None,
    ) -> payloads.Payload:
        """Make a short call of :data:`trove.rpc.payloads.CALLS` and return its answer.

        Raises GuestTimeout when no answer that opens comes in time, MessagingUnavailable when the
        broker is down, and for a Failure the exception of its code (AlreadyExists,
        DatabaseNotFound, UserNotFound; everything else GuestError).
        """

    @abc.abstractmethod
    def send_job(self, instance_id: str, job: payloads.Job) -> None:
        """Send a job; its outcome comes back as a report to the conductor.

        Raises MessagingUnavailable when the broker is down. That the message was sent does not
        mean that it arrives: senders send again until there is an outcome.
        """


class GuestClient(GuestApi):
    """The real thing, on the guest bus."""

    def __init__(self, conf: cfg.ConfigOpts, key_of: serializer.KeyOf) -> None:
        """Take the options and where the keys of instances come from; connects on first use."""
        self._timeout_s: float = conf.guest.call_timeout_s
        self._sender = transport.Sender(conf, transport.Bus.GUEST)
        self._sealer = serializer.Sealer(
            key_of, clock=concurrency.SystemClock(), window_s=conf.guest.message_window_s
        )

    def call(
        self,
        instance_id: str,
        method: str,
        request: payloads.Payload,
        *,
        timeout_s: float | None = None,
    ) -> payloads.Payload:
        """Make a short call and return its answer; see :meth:`GuestApi.call` for the errors.

        An instance that has no key (any more) is InstanceNotFound.
        """
        request_type, answer_type = payloads.CALLS[method]
        if not isinstance(request, request_type):
            raise TypeError(f"{method} takes a {request_type.__name__}")
        if timeout_s is None:
            timeout_s = self._timeout_s
        # what is told to have timed out must not be done later by an agent that was asleep
        key = self._sealer.key_of(instance_id)
        envelope = self._sealer.seal(
            instance_id,
            serializer.Direction.DOWN,
            method,
            request.to_wire(),
            valid_s=timeout_s,
            key=key,
        )
        try:
            answer = self._sender.call(
                topic(instance_id), "deliver", timeout_s=timeout_s, envelope=envelope
            )
            opened = self._sealer.open_reply(answer, envelope, key=key)
            if opened.is_failure:
                raise _error_of(payloads.Failure.from_wire(opened.payload))
            return answer_type.from_wire(opened.payload)
        except (transport.NoAnswer, serializer.Rejected, payloads.MalformedPayload) as e:
            raise exception.GuestTimeout(instance_id=instance_id) from e

    def send_job(self, instance_id: str, job: payloads.Job) -> None:
        """Send a job; see :meth:`GuestApi.send_job`. That nobody listens is no error."""
        envelope = self._sealer.seal(
            instance_id, serializer.Direction.DOWN, JOB_METHOD, job.to_wire()
        )
        try:
            self._sender.cast(topic(instance_id), "deliver", envelope=envelope)
        except transport.NoAnswer:
            LOG.info("job %s not sent: the agent of %s is not connected", job.job_id, instance_id)

    def counters(self) -> dict[str, int]:
        """Return how many answers were dropped, by reason."""
        return self._sealer.counters()

    def close(self) -> None:
        """Close all connections."""
        self._sender.close()


def _text(value: object) -> str:
    """Return what a guest said, short and printable: it may be hostile."""
    return "".join(c if c.isprintable() else " " for c in str(value)[:_MAX_TEXT])


#: How a Failure becomes an exception; only the named arguments are taken from the guest.
_ERRORS: Mapping[str, Callable[[Mapping[str, Any]], exception.TroveError]] = {
    exception.AlreadyExists.code: lambda arguments: exception.AlreadyExists(
        kind=_text(arguments["kind"]), name=_text(arguments["name"])
    ),
    exception.DatabaseNotFound.code: lambda arguments: exception.DatabaseNotFound(
        name=_text(arguments["name"])
    ),
    exception.UserNotFound.code: lambda arguments: exception.UserNotFound(
        name=_text(arguments["name"]), host=_text(arguments.get("host", "%"))
    ),
}


def _error_of(failure: payloads.Failure) -> exception.TroveError:
    """Return the exception that stands for a guest's failure."""
    try:
        return _ERRORS[failure.code](failure.arguments)
    except KeyError:
        return exception.GuestError(
            reason=_text(failure.arguments.get("reason") or failure.message)
        )
