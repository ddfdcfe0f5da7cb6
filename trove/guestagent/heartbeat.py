"""Reports to the conductor: hello, heartbeats, outcomes of jobs.

One thread. Hello comes first and is repeated until acknowledged; outcomes are repeated until
acknowledged, after an outage of the broker or a restart of the agent too; heartbeats are sent at
jittered intervals and at once when something changed. (boot, sequence) orders all reports.
"""

from __future__ import annotations

import abc
import random
import threading
from collections.abc import Callable

from oslo_log import log

from trove.common import concurrency, exception
from trove.guestagent import journal as journals
from trove.rpc import payloads

LOG = log.getLogger(__name__)

#: Seconds before a report that failed is tried again: first and longest.
_RETRY_S = (0.2, 10.0)
_JITTER = 0.2
#: Its own: whoever seeds or watches Python's shared one is not disturbed by this thread.
_RANDOM = random.Random()  # noqa: S311 (no secret)
#: Shortest time between two heartbeats, however much changes.
_SHORTEST_GAP_S = 0.05


class Conductor(abc.ABC):
    """The control plane, as an agent reports to it.

    Methods raise ServiceUnavailable (MessagingUnavailable, GuestTimeout) when nobody answered.
    """

    @abc.abstractmethod
    def hello(self, hello: payloads.Hello) -> payloads.Ack:
        """Report a start of the agent."""

    @abc.abstractmethod
    def heartbeat(self, heartbeat: payloads.Heartbeat) -> None:
        """Report how the instance is; may be lost."""

    @abc.abstractmethod
    def job_done(self, outcome: payloads.JobOutcome) -> payloads.Ack:
        """Report how a job ended."""

    def grant(self, request: payloads.GrantRequest) -> payloads.GrantAnswer:
        """Ask for a grant that is good again; none is given by a control plane without backups."""
        return payloads.GrantAnswer()

    def rekey(self, job: payloads.RekeyJob) -> None:
        """Use another key and account from now on, remembered durably; raises GuestError."""
        raise exception.UnknownJob(reason="this agent cannot change its key")


class Reporter:
    """Sends reports, from a thread of its own."""

    def __init__(
        self,
        conductor: Conductor,
        journal: journals.Journal,
        *,
        clock: concurrency.Clock,
        interval_s: float,
        make_heartbeat: Callable[[int], payloads.Heartbeat],
        make_csr: Callable[[], str | None],
        on_hello: Callable[[], object] = lambda: None,
    ) -> None:
        """Take the collaborators; ``make_heartbeat`` is given the sequence number.

        ``on_hello`` is called when hello has been acknowledged.
        """
        self._on_hello = on_hello
        self._conductor = conductor
        self._journal = journal
        self._clock = clock
        self._interval_s = interval_s
        self._make_heartbeat = make_heartbeat
        self._make_csr = make_csr
        self._changed = threading.Condition()
        self._poked = True
        self._closing = False
        self._last_words = False
        self._sequence = 0
        self._said_hello = False
        self._retry_s = _RETRY_S[0]
        self._next_heartbeat = 0.0
        self._outage = False
        self._thread = threading.Thread(target=self._loop, name="reporter", daemon=True)

    def start(self) -> None:
        """Begin: hello is sent at once."""
        self._thread.start()

    def poke(self) -> None:
        """Report now: something changed."""
        with self._changed:
            self._poked = True
            self._changed.notify_all()

    def close(self, *, last_words: bool = False, timeout_s: float = 3.0) -> None:
        """End; with ``last_words`` one more heartbeat is tried within ``timeout_s``."""
        with self._changed:
            self._poked = self._poked or last_words
            self._last_words = last_words
            self._closing = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    @property
    def said_hello(self) -> bool:
        """Tell whether the control plane knows of this start of the agent."""
        return self._said_hello

    def next_heartbeat(self) -> payloads.Heartbeat:
        """Return how the instance is, with a sequence number of its own."""
        with self._changed:
            self._sequence += 1
            sequence = self._sequence
        return self._make_heartbeat(sequence)

    def _loop(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._poked or self._closing, self._pause_s())
                self._poked = False
                if self._closing and not (self._last_words and self._said_hello):
                    return
            try:
                self._report()
                self._retry_s = _RETRY_S[0]
                self._note_outage(None)
            except exception.TroveError as e:
                self._note_outage(e)
                self._wait_to_retry()
            except Exception:
                LOG.exception("reporting failed; going on")
                self._wait_to_retry()
            if self._closing:
                return

    def _pause_s(self) -> float:
        return max(_SHORTEST_GAP_S, self._next_heartbeat - self._clock.monotonic())

    def _wait_to_retry(self) -> None:
        """Wait out an error; a change does not shorten this, or a storm would follow an outage."""
        with self._changed:
            self._changed.wait_for(lambda: self._closing, self._jittered(self._retry_s))
            self._poked = True
        self._retry_s = min(_RETRY_S[1], self._retry_s * 2)

    def _report(self) -> None:
        if not self._said_hello:
            ack = self._conductor.hello(
                payloads.Hello(heartbeat=self.next_heartbeat(), csr_pem=self._make_csr())
            )
            if not ack.accepted:
                raise exception.ServiceUnavailable(reason="the control plane did not accept hello")
            self._said_hello = True
            self._on_hello()
            self._plan_heartbeat()
        outcomes = self._journal.unreported()
        for entry in outcomes:
            self._report_outcome(entry)
        if not outcomes or self._clock.monotonic() >= self._next_heartbeat:
            self._conductor.heartbeat(self.next_heartbeat())
        self._plan_heartbeat()

    def _report_outcome(self, entry: journals.Entry) -> None:
        ack = self._conductor.job_done(
            payloads.JobOutcome(
                job_id=entry.job_id,
                succeeded=entry.succeeded,
                heartbeat=self.next_heartbeat(),
                result=entry.result,
                error=entry.error,
                error_code=entry.error_code,
            )
        )
        if not ack.accepted:
            LOG.warning("the control plane does not want the outcome of job %s", entry.job_id)
        self._journal.acknowledge(entry)

    def _plan_heartbeat(self) -> None:
        self._next_heartbeat = self._clock.monotonic() + self._jittered(self._interval_s)

    @staticmethod
    def _jittered(seconds: float) -> float:
        return seconds * _RANDOM.uniform(1 - _JITTER, 1 + _JITTER)

    def _note_outage(self, error: exception.TroveError | None) -> None:
        if error is not None and not self._outage:
            LOG.warning("the control plane cannot be reached, trying on: %s", error)
        if error is None and self._outage:
            LOG.info("the control plane can be reached again")
        self._outage = error is not None
