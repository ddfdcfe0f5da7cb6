"""Keeps the engine's log in an archive off the volume, piece by piece, as long as that is wanted.

What is remembered lies on the data volume, so that it outlives agent and server: the epoch, the
position up to which the log is stored, and the number of the next piece. It is replaced after a
piece was stored and before the engine may remove what is in it. An agent that dies in between puts
the piece of that number again, with the same log or more: nothing is missing and nothing is twice.

An archive never has a gap. When the engine lost some of its log, or more of it waits for the
storage than may, the archive is over: that is told until another one is asked for, and the engine
no longer keeps its log.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from oslo_log import log

from trove.common import concurrency, exception
from trove.guestagent import state
from trove.guestagent.backup import progress as progresses
from trove.guestagent.datastores import base
from trove.guestagent.system import filesystem
from trove.rpc import payloads

LOG = log.getLogger(__name__)

#: So much log is stored at once, and in one piece.
PIECE_BYTES = 16 * 1024 * 1024
#: How often the thread wakes, and how often at most it asks the engine how much log there is.
_WAKE_S = 1.0
_LOOKS_AN_INTERVAL = 6
_LONGEST_LOOK_S = 5.0
#: Longest pause between two tries while the storage fails.
_LONGEST_RETRY_S = 30.0
#: What a log may have of a volume, however much was allowed.
_MOST_OF_VOLUME = 4

#: Stores a piece under a number and returns how large it is there.
Put = Callable[[int, base.Piece], int]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What the volume remembers of an archive; times are seconds since 1970."""

    instance_id: str
    archive: payloads.LogArchive = dataclasses.field(repr=False)
    interval_s: float
    spool_bytes: int
    position: Mapping[str, Any]
    sequence: int
    since: float
    as_of: float
    stored_bytes: int = 0
    #: Why the archive has a gap; None when it has none.
    gap: str | None = None
    #: Nobody wants the archive any more, but the engine does not know yet.
    is_ending: bool = False
    #: The engine knows that its log is not wanted.
    is_released: bool = False

    @property
    def is_active(self) -> bool:
        """Tell whether log is to be added."""
        return self.gap is None and not self.is_ending

    def to_json(self) -> str:
        """Return the content of the file."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return json.dumps({**fields, "archive": self.archive.to_wire()})

    @classmethod
    def from_json(cls, text: str) -> Memory:
        """Read the content of the file; ValueError, TypeError or KeyError say it is damaged."""
        wire = json.loads(text)
        return cls(**{**wire, "archive": payloads.LogArchive.from_wire(wire["archive"])})


class Archiver:
    """The archive of one instance. Thread-safe; one at a time works on the log."""

    def __init__(
        self,
        part: base.Archive | base.Unsupported,
        *,
        instance_id: str,
        layout: state.Layout,
        make_put: Callable[[payloads.LogArchive, progresses.Progress], Put],
        is_running: Callable[[], bool],
        has_volume: Callable[[], bool],
        clock: concurrency.Clock,
        on_change: Callable[[], object] = lambda: None,
    ) -> None:
        """Take the engine's part, where to remember, what stores pieces.

        ``is_running`` tells whether the engine can be asked, ``has_volume`` whether what is
        remembered can be read.
        """
        self._part = part if isinstance(part, base.Archive) else None
        self._unsupported = part
        self._instance_id = instance_id
        self._layout = layout
        self._make_put = make_put
        self._is_running = is_running
        self._has_volume = has_volume
        self._clock = clock
        self._on_change = on_change
        #: Held by who works on the log, the thread or a job.
        self._working = threading.Lock()
        self._reading = threading.Lock()
        #: Ends what is on its way to the storage.
        self._halt = progresses.Progress()
        self._is_read = False
        self._memory: Memory | None = None
        self._put: Put | None = None
        self._pending_bytes = 0
        self._problem: str | None = None
        self._failures = 0
        self._next_look = 0.0
        self._next_ship = 0.0
        self._thread = concurrency.PeriodicThread("archive", self.tick, interval_s=_WAKE_S)

    @property
    def _path(self) -> pathlib.Path:
        return self._layout.volume_agent_dir / "archive.json"

    def start(self) -> None:
        """Begin, with what an earlier agent left."""
        if self._part is not None:
            self._thread.start()

    def close(self, timeout_s: float = 2.0) -> None:
        """End; the next agent goes on."""
        self._halt.cancel()
        if self._part is not None:
            self._thread.stop(timeout_s)

    # -- for everybody -----

    def state(self) -> payloads.ArchiveState | None:
        """Return how the archive is, None without one."""
        memory = self._memory
        if memory is None or memory.is_ending:
            return None
        return payloads.ArchiveState(
            epoch=memory.archive.epoch,
            sequence=memory.sequence,
            as_of=memory.as_of,
            since=memory.since,
            pending_bytes=self._pending_bytes,
            stored_bytes=memory.stored_bytes,
            problem=memory.gap or self._problem,
            is_lost=memory.gap is not None,
        )

    @property
    def problem(self) -> str | None:
        """What is wrong with the archive, for people."""
        memory = self._memory
        if memory is None or memory.is_ending:
            return None
        if memory.gap is not None:
            return f"The archive of the log has ended: {memory.gap}. Make a full backup."
        if self._problem is not None:
            return f"The log cannot be archived: {self._problem}"
        return None

    def mark(self) -> dict[str, Any] | None:
        """Return where the log goes on from a backup that begins after this; None: nowhere."""
        self._read()
        memory = self._memory
        if memory is None or not memory.is_active:
            return None
        return {"epoch": memory.archive.epoch, "sequence": memory.sequence}

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Have nothing read of the log meanwhile; waits for what is under way."""
        with self._working:
            yield

    # -- at the control plane's word -----

    def begin(self, job: payloads.ArchiveJob) -> dict[str, Any]:
        """Keep an archive from now on, or none; raises GuestError, NotReady."""
        with self._working:
            self._read()
            if job.archive is None:
                self._end()
                return {}
            memory = self._memory
            if memory is not None and memory.archive.epoch == job.archive.epoch:
                memory = self._continued(memory, job)
            else:
                memory = self._begun(job, job.archive)
            self._save(memory)
            self._put = None
            self._problem, self._failures, self._next_ship = None, 0, 0.0
        self._on_change()
        return {
            "epoch": memory.archive.epoch,
            "sequence": memory.sequence,
            "since": memory.since,
        }

    def _begun(self, job: payloads.ArchiveJob, archive: payloads.LogArchive) -> Memory:
        position = dict(self._unsupported.start())
        now = self._clock.now().timestamp()
        LOG.info("the log is archived from now on, epoch %s", archive.epoch)
        return Memory(
            instance_id=self._instance_id,
            archive=archive,
            interval_s=job.interval_s,
            spool_bytes=job.spool_bytes,
            position=position,
            sequence=archive.first,
            since=now,
            as_of=now,
        )

    @staticmethod
    def _continued(memory: Memory, job: payloads.ArchiveJob) -> Memory:
        if memory.gap is not None:
            raise exception.GuestError(
                reason=f"this archive has ended ({memory.gap}): another one has to begin"
            )
        return dataclasses.replace(
            memory,
            archive=job.archive or memory.archive,
            interval_s=job.interval_s,
            spool_bytes=job.spool_bytes,
            is_ending=False,
        )

    def _end(self) -> None:
        """Keep no archive; the engine is told as soon as it can be."""
        memory = self._memory
        if memory is None:
            return
        if memory.is_active and self._is_running():
            # what was written until now is still wanted
            self._try_to_ship(memory)
            memory = self._memory or memory
        self._save(dataclasses.replace(memory, is_ending=True))
        self._release_engine()

    def lose(self, gap: str) -> None:
        """Have the archive be over, with a reason; nothing when there is none, or it is over.

        For who holds the archive (:meth:`held`): what comes next is not what was archived.
        """
        self._read()
        memory = self._memory
        if memory is not None and memory.is_active:
            self._note_gap(memory, gap)

    def ship(self) -> None:
        """Store what there is of the log, if it can be done now; for who holds the archive."""
        self._read()
        if self._memory is not None and self._memory.is_active and self._is_running():
            self._try_to_ship(self._memory)

    # -- the thread -----

    def tick(self) -> None:
        """Do what is due; costs next to nothing when that is nothing."""
        if self._memory is None and self._is_read:
            return
        if not self._working.acquire(blocking=False):
            return
        try:
            before = self.problem
            self._work()
            if self.problem != before:
                self._on_change()
        finally:
            self._working.release()

    def _work(self) -> None:
        self._read()
        memory, now = self._memory, self._clock.monotonic()
        if memory is None or now < self._next_look or not self._is_running():
            return
        self._next_look = now + min(memory.interval_s / _LOOKS_AN_INTERVAL, _LONGEST_LOOK_S)
        if not memory.is_active:
            self._release_engine()
            return
        if not self._look(memory):
            return
        if now >= self._next_ship or (self._pending_bytes >= PIECE_BYTES and not self._failures):
            self._try_to_ship(memory)
        memory = self._memory or memory
        if self._failures and memory.is_active and self._pending_bytes > self._most_bytes(memory):
            self._note_gap(
                memory,
                f"{self._pending_bytes // (1024 * 1024)} MiB of it waited for the storage, which"
                f" failed: {self._problem}",
            )

    def _look(self, memory: Memory) -> bool:
        """Ask how much log waits; returns whether there is an archive to go on with."""
        if self._part is None:
            return False
        try:
            self._pending_bytes = self._part.pending_bytes(memory.position)
        except base.LogLost as e:
            self._note_gap(memory, str(e.kwargs.get("reason", e)))
            return False
        except base.NotReady:
            return False
        except exception.TroveError as e:
            self._failed(memory, e)
            return False
        return True

    def _most_bytes(self, memory: Memory) -> int:
        """Return how much log may wait: as much as was said, but not most of a small volume."""
        total_bytes = filesystem.disk_use(self._layout.mount_point).total_bytes
        return min(memory.spool_bytes, total_bytes // _MOST_OF_VOLUME)

    def _try_to_ship(self, memory: Memory) -> None:
        """Store what there is of the log; what fails is tried again later."""
        try:
            self._ship(memory)
        except base.LogLost as e:
            self._note_gap(self._memory or memory, str(e.kwargs.get("reason", e)))
        except base.NotReady:
            # the engine's own status tells
            return
        except exception.TroveError as e:
            self._failed(memory, e)
        except OSError as e:
            self._failed(
                memory,
                exception.GuestError(reason=filesystem.explain(e, "archiving the log")),
            )
        else:
            self._failures, self._problem = 0, None
            self._next_ship = self._clock.monotonic() + memory.interval_s

    def _ship(self, memory: Memory) -> None:
        """Store pieces until little is left."""
        if self._part is None:
            return
        while True:
            asked = self._clock.now().timestamp()
            piece = self._part.read(memory.position, most_bytes=PIECE_BYTES)
            if piece is None:
                # nothing was written: nothing is stored and nothing need be remembered
                self._memory = dataclasses.replace(memory, as_of=self._as_of(memory, asked))
                self._pending_bytes = 0
                return
            if self._put is None:
                self._put = self._make_put(memory.archive, self._halt)
            with piece.stream:
                stored_bytes = self._put(memory.sequence, piece)
            memory = dataclasses.replace(
                memory,
                position=dict(piece.until),
                sequence=memory.sequence + 1,
                as_of=self._as_of(memory, piece.as_of_s),
                stored_bytes=memory.stored_bytes + stored_bytes,
            )
            self._save(memory)
            try:
                self._part.release(memory.position)
            except exception.TroveError as e:
                # the next piece releases this one too
                LOG.warning("the engine keeps log that is archived: %s", e)
            self._pending_bytes = self._part.pending_bytes(memory.position)
            if self._pending_bytes < PIECE_BYTES:
                return

    def _as_of(self, memory: Memory, reached: float) -> float:
        """Return until when the archive has everything, which it has until ``reached``.

        What is remembered is to come when the clock was set back since: that is promised no more.
        """
        if memory.as_of > self._clock.now().timestamp():
            return reached
        return max(memory.as_of, reached)

    def _failed(self, memory: Memory, error: exception.TroveError) -> None:
        problem = str(error.kwargs.get("reason", error))
        if self._problem != problem:
            LOG.warning("the log cannot be archived, trying on: %s", problem)
        self._problem = problem
        self._failures += 1
        pause_s = min(2.0 ** min(self._failures - 1, 8), memory.interval_s, _LONGEST_RETRY_S)
        self._next_ship = self._clock.monotonic() + pause_s

    def _note_gap(self, memory: Memory, gap: str) -> None:
        LOG.error("the archive of the log, epoch %s, is over: %s", memory.archive.epoch, gap)
        self._save(dataclasses.replace(memory, gap=gap))
        self._pending_bytes = 0
        self._problem = None
        self._on_change()

    def _release_engine(self) -> None:
        """Tell the engine that its log is not wanted; forget an archive that nobody wants."""
        memory = self._memory
        if memory is None or self._part is None or memory.is_active:
            return
        if not memory.is_released:
            if not self._is_running():
                return
            try:
                self._part.stop()
            except exception.TroveError as e:
                LOG.warning("the engine keeps its log, though nobody wants it: %s", e)
                return
        if memory.is_ending:
            self._path.unlink(missing_ok=True)
            self._memory = None
            LOG.info("the log is not archived any more")
        elif not memory.is_released:
            self._save(dataclasses.replace(memory, is_released=True))

    # -- what the volume remembers -----

    def _read(self) -> None:
        """Read what an earlier agent left, once the volume is there."""
        with self._reading:
            if not self._is_read and self._part is not None and self._has_volume():
                self._memory, self._is_read = self._find(), True

    def _find(self) -> Memory | None:
        try:
            memory = Memory.from_json(self._path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError, payloads.MalformedPayload):
            # written as a whole, so only a broken disk does this: a full backup begins another
            LOG.error("%s is damaged: the archive of the log is forgotten", self._path)
            return None
        # a copy of another instance's volume: its archive is not ours to write to
        return memory if memory.instance_id == self._instance_id else None

    def _save(self, memory: Memory) -> None:
        self._layout.make_volume_agent_dir()
        filesystem.write_file(self._path, memory.to_json(), mode=0o600)
        self._memory = memory
