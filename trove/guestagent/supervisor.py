"""Keeps the engine in the wanted state: starts, watches, restarts, stops, adopts it.

One thread acts on the process; others say what they want and wait. What is wanted is on disk, so
that a restart of agent or machine goes on with it. There is never a second engine on a data
directory: before a start the machine is searched for one that an earlier agent left.

An engine runs well when it answers and, as long as it may, writes. Before its disk is full it takes
no writes of its tenants any more, and says so.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import os
import select
import signal
import threading
from collections.abc import Callable

from oslo_log import log

from trove import states
from trove.common import concurrency, exception
from trove.guestagent import disk_guard, state, volume
from trove.guestagent.datastores import base
from trove.guestagent.system import filesystem, memory, process

LOG = log.getLogger(__name__)

#: Pings that must fail in a row before a running engine counts as blocked.
_FAILED_PINGS_TO_BLOCK = 3
#: Seconds between pings while an engine starts: at first, and at most.
_START_PING_S = (0.01, 0.5)
#: Growth from one to the next: an answer is noticed a twentieth of the time after it could come.
_START_PING_GROWTH = 1.05
#: Starts that may fail before somebody who waits is told.
_FAILED_STARTS_TO_REPORT = 3
_MAX_LOG_BYTES = 8 * 1024 * 1024
_LOG_CHECK_INTERVAL_S = 30.0
#: How often a running engine must prove that it writes.
_PROOF_INTERVAL_S = 30.0
_OUT_OF_MEMORY = (
    "The database was killed because memory ran out; it starts again by itself. Resize the instance"
    " to a larger flavor, or have it use less memory."
)


class Wanted(enum.StrEnum):
    """What shall be."""

    RUNNING = "running"
    STOPPED = "stopped"


class Phase(enum.StrEnum):
    """What is."""

    STOPPED = "stopped"
    STARTING = "starting"
    RUNNING = "running"
    BLOCKED = "blocked"
    STOPPING = "stopping"
    CRASHED = "crashed"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The engine at a moment; ``message`` tells people what is wrong."""

    status: states.ServiceStatus
    version: str | None = None
    message: str | None = None


class BackOff:
    """How long to wait before the next start: doubled by each failure, forgotten when stable."""

    def __init__(
        self,
        clock: concurrency.Clock,
        *,
        first_s: float = 0.5,
        longest_s: float = 60.0,
        stable_s: float = 60.0,
    ) -> None:
        """Take the delays, and after how long a running engine counts as stable."""
        self._clock = clock
        self._first_s = first_s
        self._longest_s = longest_s
        self._stable_s = stable_s
        self._failures = 0
        self._next_start = clock.monotonic()
        self._started: float | None = None

    def remaining_s(self) -> float:
        """Return how long to wait still; 0 when the engine may be started."""
        return max(0.0, self._next_start - self._clock.monotonic())

    def started(self) -> None:
        """Note that the engine was started."""
        self._started = self._clock.monotonic()

    def failed(self) -> None:
        """Note that the start failed or the engine ended by itself."""
        now = self._clock.monotonic()
        if self._started is not None and now - self._started >= self._stable_s:
            self._failures = 0
        self._started = None
        delay_s = min(self._longest_s, self._first_s * 2.0 ** min(self._failures, 32))
        self._failures += 1
        self._next_start = now + delay_s

    def reset(self) -> None:
        """Forget all failures: somebody asked for a start."""
        self._failures = 0
        self._next_start = self._clock.monotonic()


class Supervisor:
    """The engine of this instance."""

    def __init__(
        self,
        service: base.Service,
        *,
        layout: state.Layout,
        store: state.Store,
        clock: concurrency.Clock,
        probe_interval_s: float,
        on_change: Callable[[], object] = lambda: None,
        data_volume: volume.DataVolume | None = None,
    ) -> None:
        """Take the collaborators; ``on_change`` is called after each change of the snapshot."""
        self._volume = data_volume
        self._service = service
        self.layout = layout
        self._store = store
        self._clock = clock
        self._probe_interval_s = probe_interval_s
        self._on_change = on_change
        self._back_off = BackOff(clock)
        self._changed = threading.Condition()
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._thread = threading.Thread(target=self._loop, name="supervisor", daemon=True)
        self._closing = False
        self._powering_off = False
        self._restart_asked = False
        self._is_paused = False
        self._wanted = Wanted((store.find("engine") or {}).get("wanted", Wanted.STOPPED))
        self._phase = Phase.STOPPED
        self._process: process.Process | None = None
        self._version: str | None = None
        self._message: str | None = None
        self._failed_pings = 0
        self._failed_starts = 0
        self._ready_count = 0
        self._log_offset = 0
        self._start_ping_s = _START_PING_S[0]
        self._kill_at = 0.0
        self._killed = False
        self._next_log_check = 0.0
        self._next_ping = 0.0
        self._next_proof = 0.0
        self._next_word = 0.0
        self._guard = disk_guard.DiskGuard(layout.mount_point, store)
        self._guard_words: str | None = None
        self._memory_mark: memory.Mark | None = None

    # -- for everybody -----

    def start(self) -> None:
        """Adopt a running engine, look at it once, and begin to supervise."""
        self._adopt()
        self._step()
        self._thread.start()

    def close(self) -> None:
        """End supervision; the engine keeps running."""
        with self._changed:
            self._closing = True
        self._wake()
        if self._thread.is_alive():
            self._thread.join(10.0)
        self._service.disconnect()
        if self._process is not None:
            self._process.close()
            self._process = None

    def snapshot(self) -> Snapshot:
        """Return how the engine is."""
        with self._changed:
            return Snapshot(status=self._status(), version=self._version, message=self._words())

    def _words(self) -> str | None:
        """Return what is wrong, for people."""
        if self._phase is Phase.RUNNING and self._guard.is_read_only:
            return self._guard_words
        return self._message

    def ensure_running(self, timeout_s: float) -> None:
        """Have the engine running and answering; raises GuestError."""
        self._require_installed()
        with self._changed:
            self._want(Wanted.RUNNING)
            self._back_off.reset()
            self._failed_starts = 0
        self._await_ready(timeout_s, after=0)

    def ensure_stopped(self, timeout_s: float) -> None:
        """Stop the engine cleanly and keep it stopped; raises GuestError."""
        with self._changed:
            self._want(Wanted.STOPPED)
        self._await_stopped(timeout_s)

    def ask_to_stop(self) -> None:
        """Have the engine stopped, without waiting for it; whoever waits for a start gives up."""
        with self._changed:
            self._want(Wanted.STOPPED)
        self._wake()

    def restart(self, timeout_s: float) -> None:
        """Stop the engine, if it runs, and have it running again; raises GuestError."""
        self._require_installed()
        with self._changed:
            self._want(Wanted.RUNNING)
            self._restart_asked = True
            self._back_off.reset()
            self._failed_starts = 0
            before = self._ready_count
        self._await_ready(timeout_s, after=before + 1)

    @property
    def is_answering(self) -> bool:
        """Tell whether the engine runs and answers."""
        return self._phase is Phase.RUNNING

    def find_engine(self) -> process.Identity | None:
        """Return the engine's process, whether this agent or an earlier one started it."""
        known = process.read_pid_file(self.layout.pid_file)
        if (
            known is not None
            and process.is_alive(known)
            and process.has_argument(known.pid, self._service.marker)
        ):
            return known
        return process.find_by_argument(self._service.marker)

    def pause(self) -> None:
        """Ask the engine nothing: it is going to stand still."""
        self._is_paused = True

    def resume(self) -> None:
        """Look at the engine again."""
        if self._is_paused:
            self._is_paused = False
            self._failed_pings = 0
            self._next_ping = 0.0
            self._wake()

    def power_off(self, timeout_s: float) -> None:
        """Stop the engine cleanly for a shutdown of the machine: it starts again after it."""
        with self._changed:
            self._powering_off = True
        self._await_stopped(timeout_s)

    def _require_installed(self) -> None:
        if not self._service.is_installed():
            raise exception.GuestError(reason="there is no database on this instance yet")

    # -- waiting -----

    def _await_ready(self, timeout_s: float, *, after: int) -> None:
        self._wake()
        with self._changed:
            done = self._changed.wait_for(
                lambda: (
                    (
                        self._phase is Phase.RUNNING
                        and self._ready_count >= after
                        and not self._restart_asked
                    )
                    or self._failed_starts >= _FAILED_STARTS_TO_REPORT
                    or self._wanted is not Wanted.RUNNING
                    or self._closing
                ),
                timeout_s,
            )
            if self._phase is Phase.RUNNING and not self._restart_asked:
                return
            reason = self._message or "it was asked to stop meanwhile"
            if not done:
                reason = f"the database did not answer within {timeout_s:.0f} s"
        raise exception.GuestError(reason=reason)

    def _await_stopped(self, timeout_s: float) -> None:
        self._wake()
        with self._changed:
            if not self._changed.wait_for(lambda: self._process is None, timeout_s):
                raise exception.GuestError(
                    reason=f"the database did not stop within {timeout_s:.0f} s"
                )

    def _want(self, wanted: Wanted) -> None:
        if wanted is not self._wanted or self._store.find("engine") is None:
            try:
                self._store.save("engine", {"wanted": str(wanted)})
            except OSError:
                # a full disk must not keep anybody from stopping the engine
                LOG.warning("what is wanted of the engine was not remembered", exc_info=True)
        self._wanted = wanted

    def _wake(self) -> None:
        os.eventfd_write(self._wake_fd, 1)

    # -- the thread -----

    def _loop(self) -> None:
        while not self._closing:
            try:
                self._wait(self._next_look_s())
                if not self._closing:
                    self._step()
            except Exception:
                LOG.exception("supervision failed; going on")
                self._wait(self._probe_interval_s)

    def _wait(self, timeout_s: float) -> None:
        poller = select.poll()
        poller.register(self._wake_fd, select.POLLIN)
        if self._process is not None:
            poller.register(self._process.fileno(), select.POLLIN)
        poller.poll(timeout_s * 1000)
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake_fd)

    def _next_look_s(self) -> float:
        if self._phase is Phase.STARTING:
            self._start_ping_s = min(self._start_ping_s * _START_PING_GROWTH, _START_PING_S[1])
            return self._start_ping_s
        if self._phase is Phase.STOPPING:
            return max(0.0, self._kill_at - self._clock.monotonic())
        if self._phase is Phase.CRASHED:
            longest_s = self._probe_interval_s if self._guard.is_low else 60.0
            return min(self._back_off.remaining_s(), longest_s)
        if self._process is None:
            return 60.0
        return self._guard.look_again_s(self._probe_interval_s)

    def _step(self) -> None:
        """Look at the engine once and do the next thing."""
        before = (self._status(), self._version, self._words())
        self._look_at_disk()
        with self._changed:
            wanted = Wanted.STOPPED if self._powering_off else self._wanted
            restart = self._restart_asked
        if self._process is not None and self._process.has_ended():
            self._ended()
        if self._process is not None:
            if wanted is Wanted.STOPPED or restart or self._phase is Phase.STOPPING:
                self._stop()
            else:
                self._look()
        elif wanted is Wanted.RUNNING:
            if (
                self._back_off.remaining_s() == 0
                and self._has_volume()
                and self._service.is_installed()
            ):
                self._start()
        else:
            self._set(Phase.STOPPED, message=None)
        with self._changed:
            self._changed.notify_all()
            after = (self._status(), self._version, self._words())
        if after != before:
            LOG.info("the engine is %s%s", after[0], f": {after[2]}" if after[2] else "")
            self._on_change()

    def _look_at_disk(self) -> None:
        if self._volume is not None and not self._volume.is_ready:
            return
        was_low = self._guard.is_low
        self._guard.look()
        if was_low and not self._guard.is_low and self._phase is Phase.CRASHED:
            # that may be all that it lacked
            self._back_off.reset()

    def _has_volume(self) -> bool:
        """Have the data volume mounted, without waiting for it; without it nothing is started."""
        if self._volume is None or self._volume.is_ready:
            return True
        try:
            self._volume.ensure(is_patient=False)
        except exception.GuestError as e:
            self._failed(str(e.kwargs["reason"]))
            return False
        return True

    def _is_installed(self) -> bool:
        """Tell whether there is a database, of which nothing is seen while its volume is away."""
        if self._volume is not None and not self._volume.is_ready:
            return self._store.find("engine") is not None
        return self._service.is_installed()

    def _adopt(self) -> None:
        identity = self.find_engine()
        if identity is None:
            return
        try:
            self._process = process.Process(identity)
        except ProcessLookupError:
            return
        self._remember_process()
        self._note_start()
        self._set(Phase.STARTING, message=None)
        LOG.info("adopted the running engine, process %d", identity.pid)

    def _start(self) -> None:
        with self._changed:
            self._restart_asked = False
        self._adopt()
        if self._process is not None:
            return
        try:
            command = self._service.command()
            self._log_offset = self.layout.log.stat().st_size if self.layout.log.exists() else 0
            self._process = process.spawn(command)
        except exception.TroveError as e:
            self._failed(str(e.kwargs.get("reason", e)))
            return
        except OSError as e:
            self._failed(filesystem.explain(e, "starting the engine"))
            return
        self._remember_process()
        self._note_start()
        self._start_ping_s = _START_PING_S[0]
        self._set(Phase.STARTING, message=self._message)

    def _note_start(self) -> None:
        assert self._process is not None  # noqa: S101 (for the type checker)
        self._back_off.started()
        self._guard.engine_started()
        self._memory_mark = memory.mark(self._process.identity.pid)
        self._next_word = 0.0
        self._next_proof = self._clock.monotonic() + self._probe_interval_s

    def _remember_process(self) -> None:
        assert self._process is not None  # noqa: S101 (for the type checker)
        try:
            process.write_pid_file(self.layout.pid_file, self._process.identity)
        except OSError:
            # not fatal: a later agent finds the process by its command line
            LOG.warning("the engine's pid file could not be written", exc_info=True)

    def _look(self) -> None:
        """Ping the engine, tell it of its disk, have it prove that it writes; bound its log."""
        if self._is_paused:
            return
        now = self._clock.monotonic()
        is_known = self._phase in (Phase.RUNNING, Phase.BLOCKED)
        must_tell = self._guard.must_tell and now >= self._next_word
        if is_known and not must_tell and now < self._next_ping:
            return
        self._next_ping = now + self._probe_interval_s
        try:
            version = self._service.ping()
            if must_tell:
                self._tell_of_disk()
            elif is_known and now >= self._next_proof and not self._guard.is_low:
                self._service.prove_write()
                self._next_proof = now + _PROOF_INTERVAL_S
        except base.NotReady as e:
            self._failed_pings += 1
            if self._phase is Phase.RUNNING and self._failed_pings >= _FAILED_PINGS_TO_BLOCK:
                self._set(Phase.BLOCKED, message=str(e))
            return
        self._failed_pings = 0
        if self._phase is not Phase.RUNNING:
            with self._changed:
                self._version = version
                self._failed_starts = 0
                self._ready_count += 1
                self._set(Phase.RUNNING, message=None)
        if now >= self._next_log_check:
            self._next_log_check = now + _LOG_CHECK_INTERVAL_S
            filesystem.bound_log(self.layout.log, max_bytes=_MAX_LOG_BYTES)

    def release_writes(self) -> None:
        """Have an engine that was held back take writes again, unless its disk is nearly full.

        Raises GuestError, NotReady.
        """
        self._service.set_read_only(False)
        self._guard.told_otherwise()
        self._wake()

    def _tell_of_disk(self) -> None:
        """Have the engine take no writes while the disk is nearly full; raises NotReady."""
        self._next_word = self._clock.monotonic() + self._probe_interval_s
        self._guard.will_tell()
        try:
            self._service.set_read_only(self._guard.is_low)
        except exception.GuestError as e:
            # told again soon; until then it is as it was
            LOG.warning(
                "the engine could not be told that %s: %s",
                "the disk is nearly full" if self._guard.is_low else "there is space again",
                e,
            )
            return
        self._guard.told()
        self._guard_words = self._guard.describe() if self._guard.is_low else None
        self._next_proof = 0.0

    def _stop(self) -> None:
        """Ask the engine to end; kill it when it does not."""
        assert self._process is not None  # noqa: S101 (for the type checker)
        if self._phase is not Phase.STOPPING:
            self._service.disconnect()
            self._kill_at = self._clock.monotonic() + self._service.stop_timeout_s
            self._killed = False
            self._process.signal(self._service.stop_signal)
            self._set(Phase.STOPPING, message=None)
        elif self._clock.monotonic() >= self._kill_at and not self._killed:
            LOG.warning("the engine did not stop cleanly in time; killing it")
            self._killed = True
            self._kill_at += self._service.stop_timeout_s
            self._process.signal(signal.SIGKILL)

    def _ended(self) -> None:
        """Note that the engine's process is gone."""
        assert self._process is not None  # noqa: S101 (for the type checker)
        return_code, identity = self._process.return_code, self._process.identity
        self._process.close()
        self._service.disconnect()
        with self._changed:
            self._process = None
            self._failed_pings = 0
        self.layout.pid_file.unlink(missing_ok=True)
        if self._phase is Phase.STOPPING:
            self._set(Phase.STOPPED, message=None)
            return
        self._failed(self._explain(return_code, identity))

    def _explain(self, return_code: int | None, identity: process.Identity) -> str:
        """Return why the engine ended: what the machine lacks, else what the engine says."""
        # how a process ended that an earlier agent started is not known
        is_killed = return_code in (None, -signal.SIGKILL)
        if is_killed and memory.was_killed(identity, self._memory_mark):
            return _OUT_OF_MEMORY
        self._guard.look()
        if self._guard.is_full:
            return self._guard.describe_end()
        text = filesystem.read_tail(self.layout.log, since=self._log_offset)
        return self._service.explain_exit(return_code, text)

    def _failed(self, message: str) -> None:
        self._back_off.failed()
        with self._changed:
            self._failed_starts += 1
            self._set(Phase.CRASHED, message=message)

    def _set(self, phase: Phase, *, message: str | None) -> None:
        with self._changed:
            self._phase = phase
            self._message = message

    def _status(self) -> states.ServiceStatus:
        match self._phase:
            case Phase.RUNNING:
                if self._guard.is_read_only:
                    return states.ServiceStatus.BLOCKED
                return states.ServiceStatus.HEALTHY
            case Phase.BLOCKED:
                return states.ServiceStatus.BLOCKED
            case Phase.CRASHED:
                return states.ServiceStatus.CRASHED
            case Phase.STARTING:
                return states.ServiceStatus.RESTARTING
            case Phase.STOPPING:
                if self._wanted is Wanted.RUNNING and not self._powering_off:
                    return states.ServiceStatus.RESTARTING
                return states.ServiceStatus.SHUTDOWN
            case Phase.STOPPED:
                if not self._is_installed():
                    return states.ServiceStatus.NEW
                if self._wanted is Wanted.RUNNING and not self._powering_off:
                    return states.ServiceStatus.RESTARTING
                return states.ServiceStatus.SHUTDOWN
