"""The control plane's way to the agents: short calls and jobs, sealed for one instance each."""

from __future__ import annotations

import abc

from trove.rpc import payloads


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
