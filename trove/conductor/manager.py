"""What the conductor does with the reports of agents.

A guest may be hostile: what it reports changes its own heartbeat row and the outcomes of its own
jobs and nothing else. Texts are cut, numbers are checked, a status that only the control plane may
set is refused. The instance is the one whose key opened the message. With the key that its server
was made with an agent can say hello and report the job that replaces that key, nothing else counts.

Reports are stored before they are acknowledged; hints to the taskmanager go out after the commit.
"""

from __future__ import annotations

import datetime
import functools
import json
from collections.abc import Callable, Mapping
from typing import Any

from oslo_log import log

from trove import states
from trove.common import concurrency
from trove.conductor import archives, figures
from trove.conductor import grants as granting
from trove.conductor import heartbeats as batching
from trove.db import base, guest_jobs, guest_keys, heartbeats, operations
from trove.rpc import payloads, serializer, taskmanager
from trove.storage import base as storage

LOG = log.getLogger(__name__)

#: What an agent may say of its service; the rest is for the control plane to say.
REPORTABLE = frozenset(states.ServiceStatus) - {
    states.ServiceStatus.DELETED,
    states.ServiceStatus.FAILED_TIMEOUT_GUESTAGENT,
    states.ServiceStatus.PROMOTING,
    states.ServiceStatus.EJECTING,
}

#: What a bootstrap key is good for; the rest is acknowledged and forgotten.
_FIRST_CONTACT = frozenset({"hello", "job_done"})

MAX_CSR_CHARS = 16 * 1024
MAX_RESULT_CHARS = 64 * 1024
MAX_TEXT_CHARS = 4000
MAX_VERSION_CHARS = 64
_MAX_INT32 = 2**31 - 1
_MAX_INT64 = 2**63 - 1


class Refused(Exception):
    """A report has a value that no honest agent sends; the text is the counter's name."""


class ConductorManager:
    """Opens envelopes, stores what they say, wakes the operations that wait for it."""

    def __init__(
        self,
        database: base.Database,
        *,
        sealer: serializer.Sealer,
        keys: guest_keys.GuestKeys,
        batcher: batching.HeartbeatBatcher,
        grants: granting.Grants,
        hints: taskmanager.TaskManagerApi,
        clock: concurrency.Clock,
        window_s: float,
    ) -> None:
        """Take the collaborators; none is started or stopped here.

        ``window_s`` is how far the clocks of guests may be off.
        """
        self._database = database
        self._sealer = sealer
        self._keys = keys
        self._batcher = batcher
        self._grants = grants
        self._hints = hints
        self._clock = clock
        self._window_s = window_s
        self._reports: Mapping[str, Callable[[str, Any], payloads.GrantAnswer | None]] = {
            "hello": self._hello,
            "heartbeat": self._heartbeat,
            "job_done": self._job_done,
            "grant": self._grant,
        }

    def deliver(self, envelope: object = None) -> Callable[[], dict[str, Any] | None] | None:
        """Take an envelope; returns what seals the Ack, or None for what was dropped or failed.

        Most messages are heartbeats whose sender asks for no answer: none is sealed for them.

        A message that is authentic but out of the window is answered with the time and not
        accepted, so that an agent with a wrong clock can set it and send again.
        """
        try:
            opened = self._sealer.open(envelope, serializer.Direction.UP)
            standing = self._keys.admit(opened.instance_id, opened.key)
        except serializer.Stale as e:
            return functools.partial(self._ack, e.opened, accepted=False)
        except serializer.Rejected:
            return None
        except base.DatabaseError as e:
            LOG.error("a message could not be opened: the SQL backend fails (%s)", type(e).__name__)
            return None
        except Exception:
            LOG.exception("a message could not be opened")
            return None
        if standing is guest_keys.Standing.DEAD:
            self._sealer.count("dead_key", opened.instance_id)
            return None
        if standing is guest_keys.Standing.BOOTSTRAP and opened.method not in _FIRST_CONTACT:
            return functools.partial(self._ack, opened, accepted=True)
        try:
            answer = self._dispatch(opened)
        except payloads.MalformedPayload:
            self._sealer.count("malformed_payload", opened.instance_id)
            return None
        except Refused as e:
            self._sealer.count(str(e), opened.instance_id)
            return None
        except storage.StorageError as e:
            # as well
            LOG.error("no grant for instance %s: %s", opened.instance_id, e.message)
            return None
        except base.DatabaseError as e:
            # a guest sends again what matters until it is acknowledged
            LOG.error(
                "report %s of instance %s not stored: the SQL backend fails (%s)",
                opened.method,
                opened.instance_id,
                type(e).__name__,
            )
            return None
        except Exception:
            LOG.exception("report %s of instance %s failed", opened.method, opened.instance_id)
            return None
        if answer is not None:
            return functools.partial(self._seal, opened, answer)
        return functools.partial(self._ack, opened, accepted=True)

    def counters(self) -> dict[str, int]:
        """Return how many messages were dropped, by reason."""
        return self._sealer.counters()

    def _dispatch(self, opened: serializer.Opened) -> payloads.GrantAnswer | None:
        report = self._reports.get(opened.method)
        if report is None:
            raise Refused("unknown_method")
        request_type, _ = payloads.REPORTS[opened.method]
        return report(opened.instance_id, request_type.from_wire(opened.payload))

    def _ack(self, opened: serializer.Opened, *, accepted: bool) -> dict[str, Any] | None:
        ack = payloads.Ack(now_s=self._clock.now().timestamp(), accepted=accepted)
        return self._seal(opened, ack)

    def _seal(
        self, opened: serializer.Opened, answer: payloads.Ack | payloads.GrantAnswer
    ) -> dict[str, Any] | None:
        try:
            return self._sealer.seal(
                opened.instance_id,
                serializer.Direction.UP_REPLY,
                opened.method,
                answer.to_wire(),
                in_reply_to=opened.message_id,
                key=opened.key,
            )
        except Exception:
            LOG.exception("no answer for instance %s", opened.instance_id)
            return None

    # -- reports -----

    def _report(self, instance_id: str, heartbeat: payloads.Heartbeat) -> heartbeats.Report:
        metrics, dropped = figures.pack(heartbeat.metrics)
        for reason in dropped:
            self._sealer.count(reason, instance_id)
        return check_heartbeat(instance_id, heartbeat, metrics=metrics, now=self._clock.now())

    def _hello(self, instance_id: str, hello: payloads.Hello) -> None:
        report = self._report(instance_id, hello.heartbeat)
        csr_pem = hello.csr_pem
        if csr_pem is not None and len(csr_pem) > MAX_CSR_CHARS:
            raise Refused("oversized_csr")
        with self._database.writer() as session:
            is_newer = heartbeats.store(session, [report]) > 0
            if is_newer and csr_pem is not None:
                heartbeats.set_csr(session, instance_id, _text(csr_pem, MAX_CSR_CHARS) or "")
            woken = operations.signal(
                session, resource_id=instance_id, event="hello", now=report.received
            )
        LOG.info("agent of instance %s is there, boot %d", instance_id, report.boot)
        self._hint(woken)

    def _heartbeat(self, instance_id: str, heartbeat: payloads.Heartbeat) -> None:
        report = self._report(instance_id, heartbeat)
        archive = None
        if heartbeat.archive is not None:
            archive, reason = archives.check(
                instance_id, heartbeat.archive, now=report.received, window_s=self._window_s
            )
            if reason is not None:
                self._sealer.count(reason, instance_id)
        self._batcher.put(report, archive)

    def _grant(self, instance_id: str, request: payloads.GrantRequest) -> payloads.GrantAnswer:
        found = self._grants.find(instance_id, request)
        if found is None:
            self._sealer.count(granting.REFUSED, instance_id)
        return payloads.GrantAnswer(storage=found, now_s=self._clock.now().timestamp())

    def _job_done(self, instance_id: str, outcome: payloads.JobOutcome) -> None:
        """Store an outcome once; a repeated report is acknowledged like the first."""
        report = self._report(instance_id, outcome.heartbeat)
        job_id = _text(outcome.job_id, 36) or ""
        with self._database.writer() as session:
            is_news = guest_jobs.record_outcome(
                session,
                job_id,
                instance_id=instance_id,
                succeeded=outcome.succeeded,
                result=self._result(instance_id, outcome),
                error=_text(outcome.error, MAX_TEXT_CHARS),
                error_code=_text(outcome.error_code, MAX_VERSION_CHARS),
                now=report.received,
            )
            heartbeats.store(session, [report])
            woken = []
            if is_news:
                woken = operations.signal(
                    session,
                    resource_id=instance_id,
                    event=f"job:{job_id}",
                    now=report.received,
                )
            else:
                self._count_foreign(session, instance_id, job_id)
        if is_news:
            LOG.info(
                "job %s of instance %s %s",
                job_id,
                instance_id,
                "succeeded" if outcome.succeeded else "failed",
            )
        self._hint(woken)

    def _count_foreign(self, session: Any, instance_id: str, job_id: str) -> None:
        """Count an outcome that is not a repeat, but of a job that is not this instance's."""
        job = guest_jobs.find(session, job_id)
        if job is None or job.instance_id != instance_id:
            self._sealer.count("foreign_job", instance_id)

    def _result(self, instance_id: str, outcome: payloads.JobOutcome) -> dict[str, Any]:
        # ASCII only, so what cannot be stored as UTF-8 is found here and not by the database
        if len(json.dumps(outcome.result)) > MAX_RESULT_CHARS:
            self._sealer.count("oversized_result", instance_id)
            return {}
        return outcome.result

    def _hint(self, operation_ids: list[str]) -> None:
        for operation_id in operation_ids:
            self._hints.run_operation(operation_id)


def check_heartbeat(
    instance_id: str,
    heartbeat: payloads.Heartbeat,
    *,
    metrics: str | None,
    now: datetime.datetime,
) -> heartbeats.Report:
    """Return the report with values that fit; raises Refused for what no honest agent sends.

    ``metrics`` are its figures, checked.
    """
    try:
        status = states.ServiceStatus(heartbeat.service_status)
    except ValueError:
        raise Refused("unknown_status") from None
    if status not in REPORTABLE:
        raise Refused("reserved_status")
    if not (0 <= heartbeat.boot <= _MAX_INT32 and 0 <= heartbeat.sequence <= _MAX_INT64):
        raise Refused("bad_order")
    progress = _number(heartbeat.job_progress_percent, 100)
    return heartbeats.Report(
        instance_id=instance_id,
        boot=heartbeat.boot,
        sequence=heartbeat.sequence,
        service_status=status,
        received=now,
        engine_version=_text(heartbeat.engine_version, MAX_VERSION_CHARS),
        agent_version=_text(heartbeat.agent_version, MAX_VERSION_CHARS),
        disk_used_bytes=_number(heartbeat.disk_used_bytes, _MAX_INT64),
        disk_total_bytes=_number(heartbeat.disk_total_bytes, _MAX_INT64),
        job_id=_text(heartbeat.job_id, 36),
        job_progress_percent=progress,
        job_done_bytes=_number(heartbeat.job_done_bytes, _MAX_INT64),
        job_total_bytes=_number(heartbeat.job_total_bytes, _MAX_INT64),
        message=_text(heartbeat.message, MAX_TEXT_CHARS),
        metrics=metrics,
    )


def _number(value: int | None, maximum: int) -> int | None:
    """Return a number that its column can hold."""
    return None if value is None else min(max(value, 0), maximum)


def _text(value: str | None, maximum: int) -> str | None:
    """Return a text that its column can hold: cut, without NUL and lone surrogates."""
    if value is None:
        return None
    return value[:maximum].replace("\0", "").encode("utf-8", "replace").decode("utf-8")
