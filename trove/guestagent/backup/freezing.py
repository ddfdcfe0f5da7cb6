"""An engine that stands still while its volume is snapshot, and goes on by itself in any case.

What makes the files of one volume a database again is made sure of twice: the engine is asked to
begin no transaction's end (:meth:`trove.guestagent.datastores.base.Backup.quiesce`), which costs
nobody a recovery, and all of its processes are stopped, so that nothing is written at all; then
the file system's cache is written to the volume. So a snapshot is consistent that is a copy made
file by file, and one of a device; the file system itself need not be frozen, and the agent, which
writes to it too, cannot lock itself out.

Three things end it: the control plane's word, a watchdog after a time that it was given, and the
start of another agent, whatever became of this one. The latter two are told to who comes with the
word: what was snapshot meanwhile is not to be trusted. The database of an agent that does not come
back stands still.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import secrets
import threading
from collections.abc import Callable
from typing import Any

from oslo_log import log

from trove.common import concurrency, exception
from trove.guestagent import state
from trove.guestagent import supervisor as supervisors
from trove.guestagent.backup import probes
from trove.guestagent.datastores import base
from trove.guestagent.system import filesystem, process, stillness
from trove.rpc import payloads

LOG = log.getLogger(__name__)

_DOCUMENT = "freeze"
#: File on the volume, in the agent's directory there: says what a snapshot of it holds.
MARKER = "snapshot.json"
FORMAT = 1
#: Longest the processes of an engine may take to stop.
_HOLD_TIMEOUT_S = 10.0

_FROZEN, _THAWED, _BROKEN = "frozen", "thawed", "broken"


@dataclasses.dataclass(slots=True, kw_only=True)
class _Held:
    """One time that the engine stands still."""

    request: payloads.Freeze
    since_s: float
    timer: threading.Timer
    opened: contextlib.ExitStack = dataclasses.field(default_factory=contextlib.ExitStack)
    engine: process.Identity | None = None
    #: Set before the engine goes on without having been asked to.
    is_over: threading.Event = dataclasses.field(default_factory=threading.Event)
    answer: payloads.Frozen | None = None


class Freezer:
    """Has one engine stand still, and go on."""

    def __init__(
        self,
        datastore: base.Datastore,
        supervisor: supervisors.Supervisor,
        *,
        store: state.Store,
        clock: concurrency.Clock,
        on_change: Callable[[], object] = lambda: None,
    ) -> None:
        """Take the collaborators; ``on_change`` is called when the engine goes on."""
        self._manager = datastore.spec.manager
        self._part = datastore.backup
        self._supervisor = supervisor
        self._layout = supervisor.layout
        self._store = store
        self._clock = clock
        self._on_change = on_change
        self._lock = threading.RLock()
        self._held: _Held | None = None

    @property
    def is_frozen(self) -> bool:
        """Tell whether the engine stands still, or is about to."""
        return self._held is not None

    def recover(self) -> None:
        """Have the engine go on that an earlier agent was killed over; before all else."""
        found = self._store.find(_DOCUMENT) or {}
        if found.get("state") != _FROZEN:
            return
        engine = self._supervisor.find_engine()
        if engine is not None:
            stillness.let_go(engine)
        LOG.warning("the database stood still when the agent ended: it goes on")
        self._remember(found.get("freeze_id"), _BROKEN, "the agent was restarted")

    # -- at the control plane's word -----

    def freeze(self, request: payloads.Freeze) -> payloads.Frozen:
        """Have the engine stand still; once more for the same id is harmless. Raises GuestError."""
        with self._lock:
            held = self._held
            if held is not None and held.request.freeze_id == request.freeze_id and held.answer:
                return held.answer
            if held is not None:
                raise exception.GuestError(reason="another snapshot is being made of the volume")
            held = _Held(
                request=request,
                since_s=self._clock.monotonic(),
                timer=threading.Timer(request.timeout_s, self._expire, (request,)),
            )
            held.timer.daemon = True
            # first of all: whatever happens from here on, the next agent knows
            self._store.save(_DOCUMENT, {"freeze_id": request.freeze_id, "state": _FROZEN})
            self._held = held
            held.timer.start()
            try:
                held.answer = self._hold(held)
            except BaseException as e:
                self._release(held, _BROKEN, f"it failed ({type(e).__name__})")
                if isinstance(e, OSError):
                    reason = filesystem.explain(e, "having the database stand still")
                    raise exception.GuestError(reason=reason) from e
                raise
            LOG.info("the database stands still for a snapshot of its volume")
            return held.answer

    def thaw(self, request: payloads.Thaw) -> payloads.Thawed:
        """Have the engine go on; tell whether it stood still all the time until now."""
        with self._lock:
            held = self._held
            if held is None or held.request.freeze_id != request.freeze_id:
                return self._describe_former(request.freeze_id)
            stood = held.engine is not None and stillness.is_held(held.engine)
            frozen_s = self._clock.monotonic() - held.since_s
            is_late = held.is_over.is_set() or frozen_s >= held.request.timeout_s
            if stood and not is_late:
                self._release(held, _THAWED, None)
                LOG.info("the database goes on after %.1f s", frozen_s)
                return payloads.Thawed(was_frozen=True)
            reason = _late(held) if is_late else "the database ended, or somebody had it go on"
            self._release(held, _BROKEN, reason)
            return payloads.Thawed(was_frozen=False, reason=reason)

    def give_up(self, reason: str) -> None:
        """Have the engine go on because something else is to be done with it."""
        held = self._held
        if held is not None:
            self._break(held, reason)

    # -- inside -----

    def _hold(self, held: _Held) -> payloads.Frozen:
        mount_point, request = self._layout.mount_point, held.request
        running = self._supervisor.snapshot()
        engine = self._supervisor.find_engine()
        if engine is None or not self._supervisor.is_answering:
            raise exception.GuestError(
                reason="the database does not run: a snapshot is made of one that does"
            )
        marks = self._write_probe()
        # what has been written so far goes to the volume while the engine runs
        filesystem.sync_file_system(mount_point)
        self._supervisor.pause()
        facts = {**held.opened.enter_context(self._part.quiesce()), **marks}
        self._check(held)
        self._write_marker(request.backup_id, str(running.version or ""), facts)
        held.engine = engine
        stillness.hold(engine, timeout_s=_HOLD_TIMEOUT_S, clock=self._clock)
        self._check(held)
        filesystem.sync_file_system(mount_point)
        self._check(held)
        return payloads.Frozen(
            engine_version=running.version,
            data_bytes=filesystem.tree_bytes(self._layout.data_dir),
            at_s=self._clock.now().timestamp(),
            facts=dict(facts),
        )

    def _write_probe(self) -> dict[str, str]:
        """Mark the database; return what tells of it, nothing of one that takes no mark."""
        mark = secrets.token_hex(8)
        try:
            return {probes.KEY: mark} if self._part.write_probe(mark) else {}
        except exception.TroveError as e:
            LOG.warning("the snapshot has no probe: %s", e)
            return {}

    @staticmethod
    def _check(held: _Held) -> None:
        if held.is_over.is_set():
            raise exception.GuestError(reason=_late(held))

    def _write_marker(self, backup_id: str, version: str, facts: Any) -> None:
        document = {
            "format": FORMAT,
            "backup_id": backup_id,
            "manager": self._manager,
            "engine_version": version,
            "facts": dict(facts),
        }
        self._layout.make_volume_agent_dir()
        path = self._layout.volume_agent_dir / MARKER
        filesystem.write_file(path, json.dumps(document), mode=0o600)

    def _expire(self, request: payloads.Freeze) -> None:
        held = self._held
        if held is not None and held.request is request:
            self._break(held, _late(held))
            LOG.warning("nobody had the database go on after a snapshot: it did so by itself")

    def _break(self, held: _Held, reason: str) -> None:
        """Have the engine go on whoever holds the lock, and then tidy up."""
        held.is_over.set()
        if held.engine is not None:
            stillness.let_go(held.engine)
        with self._lock:
            if self._held is held:
                self._release(held, _BROKEN, reason)

    def _release(self, held: _Held, outcome: str, reason: str | None) -> None:
        held.timer.cancel()
        if held.engine is not None:
            stillness.let_go(held.engine)
        try:
            held.opened.close()
        except exception.TroveError as e:
            # the end of its connection ends it too
            LOG.warning("the database was not told that it may go on: %s", e)
        self._supervisor.resume()
        with contextlib.suppress(OSError):
            (self._layout.volume_agent_dir / MARKER).unlink(missing_ok=True)
        self._held = None
        self._remember(held.request.freeze_id, outcome, reason)
        self._on_change()

    def _remember(self, freeze_id: object, outcome: str, reason: str | None) -> None:
        try:
            self._store.save(
                _DOCUMENT, {"freeze_id": freeze_id, "state": outcome, "reason": reason}
            )
        except OSError:
            # what is not known to have gone well counts as not
            LOG.warning("how a snapshot went was not remembered", exc_info=True)

    def _describe_former(self, freeze_id: str) -> payloads.Thawed:
        found = self._store.find(_DOCUMENT) or {}
        if found.get("freeze_id") != freeze_id:
            return payloads.Thawed(was_frozen=False, reason="its agent knows nothing of it")
        if found.get("state") == _THAWED:
            return payloads.Thawed(was_frozen=True)
        return payloads.Thawed(was_frozen=False, reason=str(found.get("reason") or "it failed"))


def _late(held: _Held) -> str:
    return f"it went on by itself after {held.request.timeout_s:.0f} s"
