"""Whatever job an agent dies in, and wherever: the next one ends it, once, and nothing is lost.

The engine is a program that does nothing, on a data directory of one file; its volume is a
directory that is moved. What needs a real engine is in tests/integration/test_guest_deaths.py.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import dataclasses
import functools
import hashlib
import os
import pathlib
import signal
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.fixtures.deaths import Death, dying, each_death
from tests.fixtures.engine import RecordingConductor
from tests.fixtures.waiting import wait_until
from trove import states
from trove.common import concurrency, exception
from trove.datastores import all as all_specs
from trove.datastores import spec as datastore_spec
from trove.guestagent import journal, service, state, volume
from trove.guestagent.datastores import base, server
from trove.guestagent.datastores import configuration as careful
from trove.guestagent.system import blockdevices, filesystem, process, users
from trove.rpc import payloads

assert all_specs

_TESTS = pathlib.Path(__file__).parents[2]
_VOLUME = "0f8fad5b-d9cb-469f-a165-70867728950e"
_GIB = 1 << 30
_VOLUMES = volume.DataVolume

#: Where each kind of jobs is seen to survive deaths: files below tests, and the test in them.
_UNIT = "unit/guestagent/"
_HERE = _UNIT + "test_deaths_in_jobs.py::test_a_job_ends_as_asked_wherever_the_agent_dies"
_FAULTS = (
    "integration/test_engine_faults.py"
    "::test_a_job_is_done_by_the_next_agent_when_one_dies_in_its_middle"
)
_BACKUPS = _UNIT + "test_backup_jobs.py::"
_KILLED = "integration/test_guest_backups.py::test_agents_that_are_killed_in_the_middle"
_DEATHS = "integration/test_guest_deaths.py::"
_UPGRADE = _UNIT + "test_engine_upgrade.py::"
WHERE: dict[str, tuple[str, ...]] = {
    "prepare": (
        _HERE,
        _BACKUPS + "test_new_database_is_whole_or_not_there_wherever_the_agent_dies",
    ),
    "rekey": (
        _UNIT + "test_credentials.py::test_a_crash_leaves_the_old_or_the_new",
        "integration/test_rekey.py::test_all_may_die_between_the_new_key_and_its_first_message",
    ),
    "configure": (
        _HERE,
        _FAULTS,
        _DEATHS + "test_a_configuration_is_in_force_wherever_the_agent_dies",
        _DEATHS + "test_a_refused_configuration_is_taken_back_wherever_the_agent_dies",
    ),
    "restart": (_HERE, _FAULTS),
    "stop": (_HERE, _FAULTS),
    "start": (_HERE, _FAULTS),
    "resize": (_HERE, _FAULTS),
    "grow": (_HERE,),
    "unmount": (_HERE,),
    "mount": (
        _HERE,
        _UNIT + "test_deaths_in_jobs.py::test_an_agent_told_to_end_leaves_its_job_to_the_next",
    ),
    "ssl": (
        _DEATHS + "test_tls_is_as_asked_wherever_the_agent_dies",
        _DEATHS + "test_tls_is_as_asked_when_the_engine_ended_with_the_agent",
        _DEATHS + "test_a_refused_certificate_changes_nothing_wherever_the_agent_dies",
        "integration/test_engine_faults.py"
        "::test_tls_is_as_asked_when_the_agent_dies_before_it_notes_so",
    ),
    "upgrade_agent": (
        _UNIT + "test_upgrade.py::test_installing_a_release_survives_a_death_anywhere",
        _UNIT + "test_upgrade.py::test_going_back_survives_a_death_anywhere",
    ),
    "upgrade_engine": (
        _UPGRADE + "test_the_way_forward_survives_a_death_anywhere",
        _UPGRADE + "test_the_way_back_survives_a_death_anywhere",
        _UPGRADE + "test_a_commit_survives_a_death_anywhere",
        "integration/test_engine_upgrades.py::test_an_agent_that_dies_while_the_copy_is_made_goes_on",
    ),
    "apply_modules": (_HERE,),
    "backup": (
        _BACKUPS + "test_backup_of_a_killed_agent_is_made_anew_and_leaves_nothing",
        _KILLED,
    ),
    "restore": (
        _BACKUPS + "test_restoring_in_place_survives_a_death_anywhere",
        _BACKUPS + "test_giving_up_survives_a_death_anywhere",
        _BACKUPS + "test_ending_a_restoration_survives_a_death_anywhere",
        _KILLED,
    ),
    "verify_backup": (_BACKUPS + "test_proof_of_a_killed_agent_is_done_again_and_leaves_nothing",),
    "archive": (_BACKUPS + "test_an_archive_begins_and_ends_wherever_the_agent_dies",),
}


def test_every_kind_of_jobs_has_its_deaths() -> None:
    assert set(WHERE) == set(payloads.JOBS)
    for places in WHERE.values():
        for place in places:
            path, _, name = place.partition("::")
            assert name in _functions(path), place
    # of what is said to be here there is a case
    here = {kind for kind, places in WHERE.items() if _HERE in places}
    assert here == {case.job.KIND for case in CASES.values()}


@functools.cache
def _functions(path: str) -> frozenset[str]:
    tree = ast.parse((_TESTS / path).read_text(encoding="utf-8"))
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))


# -- an engine -----


class Engine(server.Server):
    """A program that does nothing."""

    configuration_name = "engine.conf"
    headroom_bytes = 0

    def __init__(self, environment: base.Environment, told: dict[str, Any]) -> None:
        """Take what the running program knows, which outlives agents."""
        super().__init__(environment)
        self.told = told

    def check_programs(self) -> None:
        """They are there."""

    def make_data(self, work: pathlib.Path) -> None:
        work.mkdir()
        (work / "rows").write_text("made\n")

    def render_configuration(self, settings: base.Settings) -> str:
        lines = [f"memory = {settings.memory_mib}", f"disk = {settings.volume_size_gib}"]
        lines += [f"{name} = {value}" for name, value in sorted(settings.overrides.items())]
        return "\n".join(lines)

    @property
    def marker(self) -> str:
        return str(self._layout.data_dir / "rows")

    def command(self) -> process.Command:
        assert pathlib.Path(self.marker).exists()
        self.rewrite_configuration()
        self.told.clear()
        self.told.update(self.configured())
        return process.Command(
            argv=("/usr/bin/tail", "-f", self.marker),
            marker=self.marker,
            user=users.current(),
            log=self._layout.log,
            directory=self._layout.state_dir,
        )

    def configured(self) -> dict[str, str]:
        """Return what is in the configuration file."""
        lines = self._config_file.read_text().splitlines()
        return dict(line.split(" = ") for line in lines)

    def ping(self) -> str:
        return "1.0"

    def set_read_only(self, is_read_only: bool) -> None:
        """Nothing to do."""

    def explain_exit(self, return_code: int | None, log: str) -> str:
        return "ended"

    def disconnect(self) -> None:
        """Nothing to do."""


class Configuration(careful.CarefulConfiguration):
    """Everything is dynamic; "bad" is refused by the running engine alone, and last."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self._engine = engine

    def check(self, settings: base.Settings) -> None:
        """All can be started with."""

    def tell(self, old: base.Settings, new: base.Settings) -> bool:
        for name in ("limit", "bad"):
            if name in new.overrides:
                self.set(name, new.overrides[name])
        for name in old.overrides.keys() - new.overrides.keys():
            self.set(name, None)
        return False

    def set(self, name: str, value: Any) -> None:
        """Tell the engine."""
        if name == "bad":
            self._engine.told.pop("limit", None)
            raise exception.ConfigurationRefused(reason="bad")
        self._engine.told[name] = str(value)


class Accounts:
    """Names in the data directory."""

    def __init__(self, layout: state.Layout) -> None:
        self._layout = layout

    def ensure_databases(self, databases: tuple[payloads.Database, ...]) -> None:
        for database in databases:
            (self._layout.data_dir / f"database-{database.name}").touch()

    def ensure_users(self, wanted: tuple[payloads.User, ...]) -> None:
        for user in wanted:
            (self._layout.data_dir / f"user-{user.name}").touch()


class World:
    """An instance with its volume, and agents that come and go."""

    def __init__(self, root: pathlib.Path) -> None:
        self.layout = state.Layout(
            state_dir=root / "state", mount_point=root / "volume", engine_user=users.current()
        )
        self.layout.make_state()
        self.disk = root / "disk"
        (self.disk / "lost+found").mkdir(parents=True)
        self.size_bytes = _GIB
        self.grown_bytes = _GIB
        self.told: dict[str, Any] = {}
        self.engine: Engine | None = None
        self.current: service.Agent | None = None
        self.mounts = types.SimpleNamespace(mount=self.mount, unmount=self.unmount)
        signature = types.SimpleNamespace(kind=blockdevices.FILE_SYSTEM)
        self.devices = types.SimpleNamespace(
            FILE_SYSTEM=blockdevices.FILE_SYSTEM,
            find_signature=lambda device: signature,
            check_file_system=lambda device: None,
            size_bytes=lambda device: self.size_bytes,
            grow_file_system=self.grow,
        )

    def agent(self) -> service.Agent:
        """Have another agent; the one before died."""
        self.end()
        store = state.Store(self.layout)
        environment = base.Environment(
            instance_id="i",
            layout=self.layout,
            store=store,
            bind_address="127.0.0.1",
            port=1,
            basedir=None,
            template_dir=None,
            volume_id=_VOLUME,
        )
        self.engine = Engine(environment, self.told)
        accounts: Any = Accounts(self.layout)
        none = base.Unsupported("none", "this")
        datastore = base.Datastore(
            spec=datastore_spec.registry()["mariadb"],
            service=self.engine,
            accounts=accounts,
            root=none,
            tls=none,
            config=Configuration(self.engine),
            backup=none,
            archive=none,
            replication=none,
            cluster=none,
            logs=none,
            metrics=none,
            queries=none,
            upgrade=none,
        )
        self.current = service.Agent(
            datastore,
            environment,
            RecordingConductor(),
            clock=concurrency.SystemClock(),
            heartbeat_interval_s=60.0,
            probe_interval_s=0.1,
        )
        # as an agent does at its start, but in this thread
        with contextlib.suppress(exception.GuestError):
            self.current._volume.ensure()
        self.current.supervisor.start()
        return self.current

    def end(self) -> None:
        """End the agent; the engine stays."""
        if self.current is not None:
            self.current.close()
            self.current = None

    def destroy(self) -> None:
        """End agent and engine."""
        identity = process.read_pid_file(self.layout.pid_file)
        self.end()
        if identity is not None:
            os.kill(identity.pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(identity.pid, 0)

    def run(self, job: Any, *, job_id: str, die_at: int = 0) -> journal.Entry | None:
        """Have an agent do a job that is delivered, perhaps again; None when it died."""
        agent = self.agent()
        wire = payloads.Job(job_id=job_id, kind=job.KIND, payload=job.to_wire())
        if not die_at:
            agent.manager.on_job(wire)
            agent.manager._do_next()
            return self.outcome(job_id)
        words = [
            (Configuration, "set"),
            *((Accounts, f"ensure_{n}") for n in ("databases", "users")),
        ]
        volumes = [(self.mounts, "mount"), (self.mounts, "unmount")]
        with dying(die_at, *words, *volumes, (self.devices, "grow_file_system")):
            try:
                agent.manager.on_job(wire)
                agent.manager._do_next()
            except Death:
                return None
        return self.outcome(job_id)

    def outcome(self, job_id: str) -> journal.Entry:
        """Return the one outcome of a job, which the control plane acknowledges."""
        assert self.current is not None
        (entry,) = self.current.journal.unreported()
        assert entry.job_id == job_id
        self.current.journal.acknowledge(entry)
        assert self.current.journal.find_next() is None
        return entry

    def done(self, job: Any, job_id: str) -> None:
        entry = self.run(job, job_id=job_id)
        assert entry is not None
        assert entry.succeeded, entry.error

    @property
    def rows(self) -> pathlib.Path:
        """The data, wherever the volume is."""
        return (self.layout.mount_point if self.is_mounted else self.disk) / "data" / "rows"

    @property
    def is_mounted(self) -> bool:
        return (self.layout.mount_point / "lost+found").is_dir()

    def mount(self, device: pathlib.Path, target: pathlib.Path, **options: Any) -> None:
        target.rmdir()
        os.rename(self.disk, target)

    def unmount(self, target: pathlib.Path) -> None:
        os.rename(target, self.disk)
        target.mkdir()

    def grow(self, device: pathlib.Path) -> None:
        self.grown_bytes = self.size_bytes


@pytest.fixture
def make(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], World]]:
    """Return what makes instances; one at a time."""
    # not what is to be shown here, and slow on a busy disk
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(filesystem, "sync_file_system", lambda path: None)
    monkeypatch.setattr(pathlib.Path, "is_mount", lambda path: (path / "lost+found").is_dir())
    made: list[World] = []

    def another() -> World:
        if made:
            made.pop().destroy()
        world = World(tmp_path / f"{len(list(tmp_path.iterdir()))}")
        made.append(world)
        monkeypatch.setattr(volume, "mounts", world.mounts)
        monkeypatch.setattr(volume, "blockdevices", world.devices)
        find = functools.partial(_VOLUMES, find_device=lambda _: world.disk, patience_s=0.0)
        monkeypatch.setattr(volume, "DataVolume", find)
        return world

    yield another
    if made:
        made.pop().destroy()


# -- jobs -----


def _module(number: int, contents: str) -> payloads.Module:
    data = contents.encode()
    return payloads.Module(
        id=f"{number:08d}-0000-0000-0000-000000000000",
        type="new_relic_license",
        name=f"m{number}",
        md5=hashlib.md5(data, usedforsecurity=False).hexdigest(),
        contents=base64.b64encode(data).decode(),
        tenant="p",
        datastore="d",
        datastore_version="1",
    )


_PREPARE = payloads.PrepareJob(
    memory_mib=256,
    vcpus=1,
    volume_size_gib=1,
    databases=(payloads.Database(name="app"),),
    users=(payloads.User(name="alice", password="x"),),
    modules=(_module(1, "license_key=firstfirst"),),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """A job, what is before it, and how everything is after it."""

    job: Any
    before: tuple[Any, ...] = (_PREPARE,)
    status: str = "HEALTHY"
    #: Of the configuration of the engine, and of what the running engine knows.
    configured: dict[str, str] = dataclasses.field(default_factory=dict)
    told: dict[str, str] | None = None
    error_code: str | None = None
    least_acts: int = 2
    is_mounted: bool = True
    grown_gib: int = 1
    licence: str = "firstfirst"


_MADE = {"memory": "256", "disk": "1"}
_LIMIT = payloads.ConfigureJob(memory_mib=256, vcpus=1, volume_size_gib=1, overrides={"limit": 5})
CASES: dict[str, Case] = {
    "prepare": Case(job=_PREPARE, before=(), least_acts=10),
    "configure": Case(
        job=_LIMIT,
        configured={"limit": "5"},
        told={**_MADE, "limit": "5"},
        least_acts=5,
    ),
    "configure refused": Case(
        job=dataclasses.replace(_LIMIT, overrides={"limit": 7, "bad": 1}),
        told=_MADE,
        error_code="trove.configuration_refused",
        least_acts=6,
    ),
    "restart": Case(job=payloads.RestartJob()),
    "stop": Case(job=payloads.StopJob(), status="SHUTDOWN", least_acts=4),
    "start": Case(job=payloads.StartJob(), before=(_PREPARE, payloads.StopJob()), least_acts=4),
    "resize": Case(
        job=payloads.ResizeJob(memory_mib=512, vcpus=2),
        configured={"memory": "512"},
        told={"memory": "512", "disk": "1"},
        least_acts=5,
    ),
    "grow": Case(
        job=payloads.GrowJob(volume_size_gib=2),
        configured={"disk": "2"},
        told=_MADE,
        grown_gib=2,
        least_acts=4,
    ),
    "unmount": Case(job=payloads.UnmountJob(), status="SHUTDOWN", is_mounted=False, least_acts=6),
    "mount": Case(
        job=payloads.MountJob(volume_id=_VOLUME, volume_size_gib=2),
        before=(_PREPARE, payloads.UnmountJob()),
        configured={"disk": "2"},
        told={"memory": "256", "disk": "2"},
        grown_gib=2,
        least_acts=8,
    ),
    "modules": Case(
        job=payloads.ModulesJob(
            modules=(_module(1, "license_key=secondsecond"), _module(2, "license_key=x")),
        ),
        least_acts=4,
        licence="secondsecond",
    ),
}


def _check(world: World, case: Case, entry: journal.Entry) -> None:
    """Check the outcome, the health word, the data and what the engine was told."""
    assert entry.error_code == case.error_code, entry.error
    agent, engine = world.current, world.engine
    assert agent is not None
    assert engine is not None
    wanted = states.ServiceStatus(case.status)
    wait_until(lambda: agent.supervisor.snapshot().status is wanted, what=case.status)
    assert agent.manager.snapshot().status is wanted
    assert world.rows.read_text() in ("made\n", "made\nrow\n")
    assert (world.rows.read_text() == "made\nrow\n") == bool(case.before)
    assert {path.name for path in world.rows.parent.iterdir()} == {
        *("rows", "database-app", "user-alice")
    }
    assert world.is_mounted == case.is_mounted
    assert world.grown_bytes == case.grown_gib * _GIB
    assert engine.configured() == {**_MADE, **case.configured}
    assert engine.find_former_settings() is None
    if case.told is not None:
        assert world.told == case.told
    is_running = process.find_by_argument(engine.marker) is not None
    assert is_running == (case.status == "HEALTHY")
    remembered = state.Store(world.layout).find("engine")
    assert remembered == {"wanted": "running" if is_running else "stopped"}
    left = [path.name for path in world.layout.agent_dir.rglob(".*")]
    assert left == []
    if not case.is_mounted:
        return
    assert {path.name for path in world.layout.mount_point.iterdir()} <= {
        *("data", "agent", "tmp", "files", "lost+found")
    }
    modules = world.layout.volume_agent_dir / "modules"
    first = agent.manager.handlers["list_modules"](payloads.ModuleQuery())
    assert isinstance(first, payloads.ModuleResults)
    known = {module.name: module.status for module in first.modules}
    assert known == (
        {"m1": "OK", "m2": "ERROR"} if case.job.KIND == "apply_modules" else {"m1": "OK"}
    )
    text = (modules / first.modules[0].id / "newrelic.cfg").read_text()
    assert text == f"license_key={case.licence}\n"


@pytest.mark.parametrize("name", CASES)
def test_a_job_ends_as_asked_wherever_the_agent_dies(make: Callable[[], World], name: str) -> None:
    case = CASES[name]

    def once(die_at: int) -> bool:
        world = make()
        for number, job in enumerate(case.before):
            world.done(job, f"before-{number}")
            if number == 0:
                with world.rows.open("a") as stream:
                    stream.write("row\n")
        # what an agent finds that is asked to take or to grow
        world.size_bytes = case.grown_gib * _GIB
        entry = world.run(case.job, job_id="j", die_at=die_at)
        has_died = entry is None
        if entry is None:
            entry = world.run(case.job, job_id="j")
        assert entry is not None
        _check(world, case, entry)
        return has_died

    assert each_death(once) >= case.least_acts


def test_an_agent_told_to_end_leaves_its_job_to_the_next(
    make: Callable[[], World], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make()
    world.done(_PREPARE, "before")
    world.done(payloads.UnmountJob(), "unmount")
    device, waiting = world.disk, threading.Event()

    def look(volume_id: str) -> pathlib.Path | None:
        waiting.set()
        return None

    find = functools.partial(_VOLUMES, find_device=look, patience_s=60.0)
    with monkeypatch.context() as patch:
        patch.setattr(volume, "DataVolume", find)
        agent = world.agent()
        job = payloads.MountJob(volume_id=_VOLUME, volume_size_gib=1)
        agent.manager.on_job(payloads.Job(job_id="j", kind=job.KIND, payload=job.to_wire()))
        agent.manager.start()
        assert waiting.wait(10.0)
        world.end()
    left = journal.Journal(world.layout.jobs_dir).find_next()
    assert left is not None
    assert left.job_id == "j"
    assert device == world.disk
    world.done(job, "j")
    assert world.is_mounted
