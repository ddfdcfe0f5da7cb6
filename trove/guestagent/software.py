"""Which release of the agent runs: that of the image, or one that was installed beside it.

``<state directory>/agent/software`` holds a directory for each release that was installed, and the
link ``current``. The agent of the image is always the one that is started; it hands its process
over to the current release, with its number, its arguments and its output. A release that was
installed just now is on trial until the control plane has answered its hello: a process that
watches the trial, and outlives the agent, goes back to the release before when that takes too long
or the agent ends.

Nothing but the standard library is imported, since all this happens at the very start of an agent.
"""

from __future__ import annotations

import configparser
import contextlib
import dataclasses
import fcntl
import itertools
import json
import os
import pathlib
import select
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

#: What runs when the image's agent was not started as a module.
_MODULE = "trove.cmd.guestagent"
#: How the image's agent was started, for those that it handed over to.
_ORIGIN = "TROVE_GUESTAGENT_ORIGIN"
#: Where who started the agent looks which process it is; set by the local driver.
PID_FILE = "TROVE_GUESTAGENT_PID_FILE"
_DEFAULT_STATE_DIR = "/var/lib/trove-guestagent"
#: Starts that a release on trial gets: the machine may go down in between.
_MOST_STARTS = 3
_LOOK_S = 0.2
_GRACE_S = 10.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A release that has not proved itself; ``before`` is None for the image's."""

    release: str
    before: str | None
    limit_s: float
    starts: int = 0


class Software:
    """The releases of one guest."""

    def __init__(self, state_dir: pathlib.Path) -> None:
        """Use the agent's part of a state directory; nothing is made."""
        self.root = state_dir.absolute() / "agent" / "software"
        self.releases = self.root / "releases"
        self._link = self.root / "current"
        self._trial = self.root / "trial.json"
        self._failed = self.root / "failed.json"
        self._paused = self.root / "paused"

    def find_current(self) -> str | None:
        """Return the current release, None for the image's."""
        try:
            name = os.path.basename(os.readlink(self._link))
        except OSError:
            return None
        return name if self.python(name).exists() else None

    def python(self, release: str) -> pathlib.Path:
        """Return the interpreter of a release."""
        return self.releases / release / "bin" / "python"

    def find_own(self) -> str | None:
        """Return which of the releases this process runs, None for the image's."""
        own = pathlib.Path(sys.prefix)
        return own.name if own.parent == self.releases else None

    def begin_trial(self, release: str, *, limit_s: float) -> None:
        """Make a release the current one, on trial; durable when it returns."""
        trial = Trial(release=release, before=self.find_current(), limit_s=limit_s)
        self._write_trial(trial)
        self._failed.unlink(missing_ok=True)
        self._point_to(release)

    def find_trial(self) -> Trial | None:
        """Return the release on trial, None without one."""
        return _read_trial(self._trial)

    def confirm(self) -> bool:
        """End the trial of the release that runs; False when there was none."""
        trial = self.find_trial()
        if trial is None or trial.release != self.find_own():
            return False
        try:
            self._trial.unlink()
        except FileNotFoundError:
            return False
        return True

    def pause(self) -> None:
        """Note that the agent ends because it was told to: a trial goes on with its next start."""
        if self.find_trial() is not None:
            self._paused.touch()

    def is_paused(self) -> bool:
        """Tell whether the agent ended because it was told to."""
        return self._paused.exists()

    def go_back(self, trial: Trial) -> bool:
        """Make the release before the current one; False when the trial ended well meanwhile."""
        try:
            self._trial.rename(self._failed)
        except FileNotFoundError:
            return False
        self._point_to(trial.before)
        return True

    def _point_to(self, release: str | None) -> None:
        if release is None:
            self._link.unlink(missing_ok=True)
        else:
            new = self.root / ".current.new"
            new.unlink(missing_ok=True)
            new.symlink_to(pathlib.PurePath("releases", release))
            new.replace(self._link)
        _sync(self.root)

    def _write_trial(self, trial: Trial) -> None:
        new = self.root / ".trial.new"
        with new.open("w", encoding="utf-8") as file:
            json.dump(dataclasses.asdict(trial), file)
            file.flush()
            os.fsync(file.fileno())
        new.replace(self._trial)
        _sync(self.root)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold off others that hand over or watch."""
        descriptor = os.open(self.root / "lock", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    # -- at the start of an agent -----

    def hand_over(self) -> None:
        """Go on as the current release; returns when this is it."""
        if not self.root.is_dir() or self.find_own() is not None:
            return
        with self.locked():
            trial = self._count_start()
        current = self.find_current()
        if current is None:
            return
        origin = [sys.executable, *sys.orig_argv[1:]]
        os.environ[_ORIGIN] = json.dumps(origin)
        if trial is not None:
            _watch_apart(self, trial, origin)
        python = str(self.python(current))
        argv = [python, "-I", "-m", _module_of(sys.orig_argv), *sys.argv[1:]]
        os.execve(python, argv, os.environ)  # noqa: S606

    def _count_start(self) -> Trial | None:
        """Return the trial that goes on with this start; one that had its chances ends here."""
        self._paused.unlink(missing_ok=True)
        trial = self.find_trial()
        if trial is None:
            failed = _read_trial(self._failed)
            if failed is not None and failed.release == self.find_current():
                # going back ended half way
                self._point_to(failed.before)
            return None
        if trial.release != self.find_current():
            # ended between two steps of beginning or going back
            self._trial.unlink(missing_ok=True)
            return None
        if trial.starts >= _MOST_STARTS:
            self.go_back(trial)
            return None
        trial = dataclasses.replace(trial, starts=trial.starts + 1)
        self._write_trial(trial)
        return trial


def _read_trial(path: pathlib.Path) -> Trial | None:
    try:
        return Trial(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _origin() -> list[str]:
    """Return how the image's agent was started."""
    known = json.loads(os.environ.get(_ORIGIN) or "null")
    return list(known) if known else [sys.executable, *sys.orig_argv[1:]]


def base_prefix() -> pathlib.Path:
    """Return where the image's agent is installed: its virtual environment."""
    return pathlib.Path(_origin()[0]).parent.parent


def hand_over(args: Sequence[str]) -> None:
    """Go on as the current release of the guest whose configuration a command line names."""
    Software(state_dir_of(args)).hand_over()


def _module_of(argv: Sequence[str]) -> str:
    """Return the main module that a command line of Python's runs: the image chooses it."""
    options = list(argv[1:])
    if "-m" in options:
        return options[options.index("-m") + 1]
    return _MODULE


def restart() -> NoReturn:
    """Begin anew with the agent of the image, in this very process."""
    origin = _origin()
    os.execve(origin[0], origin, os.environ)  # noqa: S606


def state_dir_of(args: Sequence[str]) -> pathlib.Path:
    """Return the state directory that the configuration files on a command line name."""
    found = _DEFAULT_STATE_DIR
    for name, file in itertools.pairwise(args):
        if name == "--config-file":
            parser = configparser.RawConfigParser(strict=False)
            with contextlib.suppress(OSError, configparser.Error, UnicodeDecodeError):
                parser.read(file, encoding="utf-8")
                found = parser.get("guestagent", "state_dir", fallback=found)
    return pathlib.Path(found.replace("$$", "$"))


# -- the process that watches a trial -----


def _watch_apart(software: Software, trial: Trial, origin: Sequence[str]) -> None:
    """Have a process of its own watch this one, which goes on as the release on trial."""
    agent = os.getpid()
    descriptor = os.pidfd_open(agent)
    child = os.fork()
    if child:
        os.close(descriptor)
        os.waitpid(child, 0)
        return
    try:
        os.setsid()
        # a signal for the agent is none for this process
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        if os.fork() == 0:
            with software.locked():
                is_back = _watch(software, trial, descriptor)
            if is_back and "INVOCATION_ID" not in os.environ:
                # nobody else starts it again
                _write_pid_file()
                os.execve(origin[0], list(origin), os.environ)  # noqa: S606
    finally:
        os._exit(0)


def _watch(software: Software, trial: Trial, agent: int) -> bool:
    """Wait for the end of a trial; True when it ended badly and the agent has ended."""
    deadline = time.monotonic() + trial.limit_s
    has_ended = False
    while not has_ended and time.monotonic() < deadline:
        if software.find_trial() is None:
            return False
        has_ended = _has_ended(agent, _LOOK_S)
    if has_ended and software.is_paused():
        return False
    if not software.go_back(trial):
        return False
    for number in (signal.SIGTERM, signal.SIGKILL):
        if not has_ended:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(agent, number)
            has_ended = _has_ended(agent, _GRACE_S)
    return True


def _has_ended(agent: int, within_s: float) -> bool:
    return bool(select.select([agent], [], [], within_s)[0])


def _write_pid_file() -> None:
    """Tell who started the agent that this process is it from now on."""
    path = os.environ.get(PID_FILE)
    if not path:
        return
    stat = pathlib.Path("/proc/self/stat").read_text(encoding="utf-8", errors="replace")
    boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
    record: dict[str, Any] = {
        "pid": os.getpid(),
        "start_ticks": int(stat.rpartition(")")[2].split()[19]),
        "boot": boot.strip(),
    }
    new = pathlib.Path(f"{path}.back")
    new.write_text(json.dumps(record), encoding="utf-8")
    new.replace(path)


def _sync(directory: pathlib.Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
