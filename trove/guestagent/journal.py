"""The journal of jobs: what was asked of this agent, how it ended, who knows about it.

One file a job, replaced as a whole. A job is known by its id: it is done once, and its outcome is
reported until the control plane has acknowledged it. The payload, which may hold secrets, is
dropped when the job has ended.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import pathlib
import re
import threading
from typing import Any

from trove.common import exception
from trove.guestagent.system import filesystem
from trove.rpc import payloads

_JOB_ID = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")
#: Ended and acknowledged jobs that are kept, to know them when they are delivered again.
_KEPT_JOBS = 50


class JobState(enum.StrEnum):
    """Where a job stands; the order is the only one possible."""

    QUEUED = "queued"
    ENDED = "ended"
    ACKNOWLEDGED = "acknowledged"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A job in the journal; ``number`` is the order in which jobs came."""

    job_id: str
    kind: str
    number: int
    state: JobState = JobState.QUEUED
    payload: dict[str, Any] = dataclasses.field(repr=False, default_factory=dict)
    succeeded: bool = False
    result: dict[str, Any] = dataclasses.field(default_factory=dict)
    error: str | None = None
    error_code: str | None = None


class Journal:
    """All jobs this agent knows of; safe for use by several threads."""

    def __init__(self, directory: pathlib.Path) -> None:
        """Read the journal of an existing directory."""
        self._directory = directory
        self._lock = threading.Lock()
        self._entries: dict[str, Entry] = {}
        for path in directory.glob("*.json"):
            entry = self._read(path)
            if entry is not None:
                self._entries[entry.job_id] = entry

    @staticmethod
    def _read(path: pathlib.Path) -> Entry | None:
        try:
            wire = json.loads(path.read_text(encoding="utf-8"))
            return Entry(**{**wire, "state": JobState(wire["state"])})
        except (ValueError, TypeError, KeyError):
            # written as a whole, so only a broken disk does this; the job will be sent again
            return None

    def add(self, job: payloads.Job) -> bool:
        """Accept a job; returns whether it is to be done.

        A job that has ended is not done again: its outcome becomes unacknowledged, so that it is
        reported once more. Raises MalformedPayload for an id that cannot be a file's name.
        """
        if not _JOB_ID.match(job.job_id):
            raise payloads.MalformedPayload(type="Job", reason="job_id is not an id")
        with self._lock:
            known = self._entries.get(job.job_id)
            if known is not None:
                if known.state is JobState.ACKNOWLEDGED:
                    self._put(dataclasses.replace(known, state=JobState.ENDED))
                return False
            number = self._next_number()
            self._put(
                Entry(job_id=job.job_id, kind=job.kind, number=number, payload=dict(job.payload))
            )
            return True

    def find_next(self) -> Entry | None:
        """Return the oldest job that has not ended; one interrupted by a crash is among them."""
        with self._lock:
            queued = [e for e in self._entries.values() if e.state is JobState.QUEUED]
            return min(queued, key=lambda entry: entry.number, default=None)

    def succeed(self, job_id: str, result: dict[str, Any]) -> None:
        """Note that a job ended well."""
        with self._lock:
            self._end(job_id, succeeded=True, result=result)

    def fail(self, job_id: str, error: exception.TroveError) -> None:
        """Note that a job failed, with the words and the code of an error."""
        with self._lock:
            self._end(job_id, succeeded=False, error=_words(error), error_code=error.code)

    def cancel(self, job_id: str, error: exception.TroveError) -> bool:
        """Have a job never be done that was not begun, also one that has yet to come.

        Returns whether that is so; a job that ended is as it was.
        """
        with self._lock:
            known = self._entries.get(job_id)
            if known is not None and known.state is not JobState.QUEUED:
                return False
            if not _JOB_ID.match(job_id):
                raise payloads.MalformedPayload(type="JobRef", reason="job_id is not an id")
            entry = known or Entry(job_id=job_id, kind="", number=self._next_number())
            self._put(_ended(entry, succeeded=False, error=_words(error), error_code=error.code))
            return True

    def _next_number(self) -> int:
        return max((entry.number for entry in self._entries.values()), default=0) + 1

    def _end(self, job_id: str, **outcome: Any) -> None:
        self._put(_ended(self._entries[job_id], **outcome))

    def unreported(self) -> list[Entry]:
        """Return the ended jobs whose outcome nobody has acknowledged, oldest first."""
        with self._lock:
            ended = [e for e in self._entries.values() if e.state is JobState.ENDED]
            return sorted(ended, key=lambda entry: entry.number)

    def acknowledge(self, entry: Entry) -> None:
        """Note that the control plane knows the outcome of a job; forgets the oldest jobs."""
        with self._lock:
            if self._entries.get(entry.job_id) == entry:
                self._put(dataclasses.replace(entry, state=JobState.ACKNOWLEDGED))
            done = [e for e in self._entries.values() if e.state is JobState.ACKNOWLEDGED]
            for old in sorted(done, key=lambda e: e.number)[:-_KEPT_JOBS]:
                del self._entries[old.job_id]
                self._path(old.job_id).unlink(missing_ok=True)

    def _path(self, job_id: str) -> pathlib.Path:
        return self._directory / f"{job_id}.json"

    def _put(self, entry: Entry) -> None:
        filesystem.write_file(
            self._path(entry.job_id), json.dumps(dataclasses.asdict(entry)), mode=0o600
        )
        self._entries[entry.job_id] = entry


def _words(error: exception.TroveError) -> str:
    return str(error.kwargs.get("reason", error))


def _ended(entry: Entry, **outcome: Any) -> Entry:
    return dataclasses.replace(entry, state=JobState.ENDED, payload={}, **outcome)
