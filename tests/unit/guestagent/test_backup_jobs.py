"""Backups, restorations and archives, wherever the agent dies, with an engine of text files."""

from __future__ import annotations

import base64
import contextlib
import datetime
import json
import os
import pathlib
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from unittest import mock

import pytest

from tests.fixtures import deaths
from tests.unit.guestagent.backup import making
from tests.unit.guestagent.backup.stores import MemoryAccount, account, fail
from trove import states
from trove.common import concurrency, exception
from trove.guestagent import state
from trove.guestagent import supervisor as supervisors
from trove.guestagent.backup import archiver as archivers
from trove.guestagent.backup import jobs, pieces, progress, restoring
from trove.guestagent.backup import place as places
from trove.guestagent.datastores import base, upgrade
from trove.guestagent.system import filesystem, users
from trove.rpc import payloads

__all__ = ["account"]

KEY = base64.b64encode(making.KEY).decode()
INSTANCE = "i"


class Crash(BaseException):
    """The agent died here."""


class Engine:
    """Rows in a file of the data directory, and a log of them; runs, or does not."""

    def __init__(self, layout: state.Layout) -> None:
        self.layout = layout
        self.is_running = True
        self.is_ready = True
        self.log: list[str] = []
        self.keeps_log = False
        self.released = 0
        self.lost = 0
        self.version = "1.0"
        self.streams = 0
        self.stream: Callable[[bytes], Iterator[bytes | Exception]] = lambda data: iter([data])
        self.restored: Callable[[pathlib.Path], None] = lambda work: None
        self.niceness: list[int] = []

    def write(self, row: str) -> None:
        """Add a row."""
        assert self.is_running
        path = self.layout.data_dir / "rows"
        path.write_text((path.read_text() if path.exists() else "") + row + "\n")
        self.log.append(row)

    def rows(self, directory: pathlib.Path | None = None) -> list[str]:
        """Return all rows of a data directory."""
        return ((directory or self.layout.data_dir) / "rows").read_text().splitlines()


class FakeBackup(base.Backup):
    """Copies of the file."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def estimate_bytes(self) -> int:
        return 100

    def _stream(self, rows: list[str], **facts: Any) -> base.Stream:
        self.engine.streams += 1
        data = "".join(f"{row}\n" for row in rows).encode()
        return making.GivenStream(
            self.engine.stream(data),
            facts={"version": self.engine.version, "at": len(self.engine.log), **facts},
        )

    def open_full(self) -> base.Stream:
        return self._stream(self.engine.rows())

    def open_increment(self, parent: Mapping[str, Any]) -> base.Stream:
        return self._stream(self.engine.log[parent["at"] :])

    def check(self, facts: Mapping[str, Any]) -> None:
        if facts["version"] != "1.0":
            raise exception.GuestError(reason=f"made by version {facts['version']}")

    def restore(self, recovery: base.Recovery, work: pathlib.Path) -> dict[str, Any]:
        assert not work.exists()
        work.mkdir()
        data = b"".join(making.read(kept) for kept in recovery.chain)
        at = recovery.chain[-1].facts["at"]
        for kept in recovery.logs() if recovery.logs else ():
            for entry in json.loads(making.read(kept)):
                if entry[0] >= at and entry[1] != recovery.target.position:
                    data += f"{entry[1]}\n".encode()
        (work / "rows").write_bytes(data)
        self.engine.restored(work)
        return {"rows": data.count(b"\n")}

    def verify(self, work: pathlib.Path) -> dict[str, Any]:
        self.engine.niceness.append(os.getpriority(os.PRIO_PROCESS, 0))
        if "damaged" in self.engine.rows(work):
            raise exception.GuestError(reason="a row is damaged")
        return {"check": "all", "objects": len(self.engine.rows(work))}


class FakeArchive(base.Archive):
    """The log by numbers."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def start(self) -> Mapping[str, Any]:
        self.engine.keeps_log = True
        return {"at": len(self.engine.log)}

    def _check(self, position: Mapping[str, Any]) -> None:
        if not self.engine.is_ready:
            raise base.NotReady(reason="it starts")
        if position["at"] < self.engine.lost:
            raise base.LogLost(reason="it was purged")

    def read(self, position: Mapping[str, Any], *, most_bytes: int) -> base.Piece | None:
        self._check(position)
        end = len(self.engine.log)
        if position["at"] == end:
            return None
        entries = list(enumerate(self.engine.log))[position["at"] : end]
        stream = making.GivenStream([json.dumps(entries).encode()])
        return base.Piece(until={"at": end}, as_of_s=float(end), stream=stream)

    def pending_bytes(self, position: Mapping[str, Any]) -> int:
        self._check(position)
        return sum(len(row) for row in self.engine.log[position["at"] :])

    def release(self, position: Mapping[str, Any]) -> None:
        self.engine.released = position["at"]

    def stop(self) -> None:
        self.engine.keeps_log = False


class FakeSupervisor:
    """The engine as the supervisor tells of it."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.layout = engine.layout

    def snapshot(self) -> supervisors.Snapshot:
        status = states.ServiceStatus.HEALTHY if self.engine.is_running else "SHUTDOWN"
        return supervisors.Snapshot(status=states.ServiceStatus(status), version="1.0")

    def ensure_running(self, timeout_s: float) -> None:
        if "no start" in self.engine.rows():
            raise exception.GuestError(reason="it crashed at once")
        self.engine.is_running = True

    def ensure_stopped(self, timeout_s: float) -> None:
        self.engine.is_running = False


class FakeService:
    """Installs what is given."""

    def install(self, job: payloads.PrepareJob, *, restore: Callable[[], object]) -> None:
        restore()


class World:
    """A volume and a store, and agents that come and go."""

    def __init__(self, directory: pathlib.Path, account: MemoryAccount) -> None:
        self.account = account
        self.layout = state.Layout(
            state_dir=directory / "state",
            mount_point=directory / "volume",
            engine_user=users.engine_user("nobody"),
        )
        self.layout.mount_point.mkdir()
        self.layout.make_state()
        self.layout.data_dir.mkdir()
        self.engine = Engine(self.layout)
        self.clock = concurrency.ManualClock()
        self.grants: list[payloads.GrantRequest] = []
        self.instance_id = INSTANCE
        self.agent()

    def agent(self) -> None:
        """Have another agent, that knows what was written down only."""
        supervisor: Any = FakeSupervisor(self.engine)
        storage = jobs.Storage(self._grant, clock=concurrency.SystemClock())
        self.archiver = archivers.Archiver(
            FakeArchive(self.engine),
            instance_id=self.instance_id,
            layout=self.layout,
            make_put=storage.make_put,
            is_running=lambda: self.engine.is_running,
            has_volume=lambda: True,
            clock=self.clock,
        )
        datastore: Any = types.SimpleNamespace(
            spec=types.SimpleNamespace(manager="textdb"),
            backup=FakeBackup(self.engine),
            service=FakeService(),
        )
        self.jobs = jobs.Backups(
            datastore,
            supervisor,
            store=state.Store(self.layout),
            transition=upgrade.Transition(
                base.Unsupported("textdb", "upgrade"), layout=self.layout, stop=lambda: None
            ),
            archiver=self.archiver,
            storage=storage,
            clock=concurrency.SystemClock(),
        )

    def _grant(self, request: payloads.GrantRequest) -> payloads.GrantAnswer:
        self.grants.append(request)
        return payloads.GrantAnswer()

    def storage(self, prefix: str) -> payloads.ObjectStorage:
        return payloads.ObjectStorage(
            kind="memory", account="p", container="backups", prefix=f"i/{prefix}/", grant={}
        )

    def job(self, backup_id: str, **changes: Any) -> payloads.BackupJob:
        return payloads.BackupJob(
            **{
                "backup_id": backup_id,
                "storage": self.storage(backup_id),
                "key": KEY,
                "wrapped_key": "a2V5",
                "segment_bytes": 1 << 20,
                **changes,
            }
        )

    def stored(self, backup_id: str, result: Mapping[str, Any]) -> payloads.StoredBackup:
        return payloads.StoredBackup(
            backup_id=backup_id,
            storage=self.storage(backup_id),
            key=KEY,
            manifest_sha256=result["manifest_sha256"],
        )

    def back_up(self, backup_id: str, **changes: Any) -> payloads.StoredBackup:
        return self.stored(backup_id, self.jobs.backup(self.job(backup_id, **changes)))

    def log(self, **changes: Any) -> payloads.LogArchive:
        return payloads.LogArchive(
            **{"epoch": "e", "storage": self.storage("archive/e"), "key": KEY, **changes}
        )

    def archive(self, **changes: Any) -> dict[str, Any]:
        job = {"archive": self.log(), "interval_s": 30.0, **changes}
        return self.archiver.begin(payloads.ArchiveJob(**job))

    def tick(self, seconds: float = 30.0) -> None:
        self.clock.advance(seconds)
        self.archiver.tick()

    def restore(
        self, *chain: payloads.StoredBackup, job_id: str = "r1", **changes: Any
    ) -> dict[str, Any]:
        restoration = payloads.Restoration(chain=chain, **changes)
        job = payloads.RestoreJob(phase="restore", restoration=restoration)
        return self.jobs.restore(job, job_id=job_id)

    def install(self, *chain: payloads.StoredBackup, **changes: Any) -> None:
        restoration = payloads.Restoration(chain=chain, **changes)
        self.jobs.install(payloads.PrepareJob(memory_mib=256, vcpus=1), restoration)

    def empty(self) -> None:
        """Have no database."""
        filesystem.remove_tree(self.layout.data_dir)

    def names(self) -> set[str]:
        return {path.name for path in self.layout.mount_point.iterdir()}

    def objects(self, prefix: str) -> list[str]:
        return sorted(name for name in self.account.objects if name.startswith(f"i/{prefix}/"))


@pytest.fixture
def world(tmp_path: pathlib.Path, account: MemoryAccount, monkeypatch: pytest.MonkeyPatch) -> World:
    # not what is to be shown here, and slow on a busy disk
    monkeypatch.setattr(filesystem, "sync_file_system", lambda path: None)
    made = World(tmp_path, account)
    for row in ("a", "b"):
        made.engine.write(row)
    return made


def _dying(monkeypatch: pytest.MonkeyPatch, die_at: int) -> None:
    """Have the agent die at one of all changes of a name, before or after it."""
    done = 0

    def dying(real: Callable[..., None]) -> Callable[..., None]:
        def change(source: object, target: object, **options: object) -> None:
            nonlocal done
            for is_done in (False, True):
                done += 1
                if done == die_at:
                    raise Crash
                if not is_done:
                    real(source, target, **options)

        return change

    monkeypatch.setattr(os, "rename", dying(os.rename))
    monkeypatch.setattr(os, "replace", dying(os.replace))


@contextlib.contextmanager
def _death(die_at: int) -> Iterator[None]:
    """Have the agent die in what is done, at a change of a name."""
    with pytest.MonkeyPatch.context() as patch:
        _dying(patch, die_at)
        with pytest.raises(Crash):
            yield


# -- backups -----


def test_backup_tells_what_the_control_plane_keeps_of_it(world: World) -> None:
    world.archive()
    world.engine.write("c")
    world.tick()
    result = world.jobs.backup(world.job("b1", about={"name": "daily"}))
    manifest = json.loads(world.account.objects["i/b1/manifest.json"])
    assert result == {
        "manifest_sha256": result["manifest_sha256"],
        "stored_bytes": manifest["stored_bytes"],
        "data_bytes": len("a\nb\nc\n"),
        "facts": {"version": "1.0", "at": 3},
        "archive": {"epoch": "e", "sequence": 1},
        "engine_version": "1.0",
    }
    assert (manifest["kind"], manifest["manager"]) == ("full", "textdb")
    assert manifest["about"] == {"name": "daily"}
    assert world.jobs.progress is None


def test_backup_without_an_archive_says_so(world: World) -> None:
    assert world.jobs.backup(world.job("b1"))["archive"] is None


def test_log_goes_on_from_before_the_stream_began(world: World) -> None:
    world.archive()

    def slow(data: bytes) -> Iterator[bytes]:
        world.engine.write("during")
        world.tick()
        yield data

    world.engine.stream = slow
    assert world.jobs.backup(world.job("b1"))["archive"] == {"epoch": "e", "sequence": 0}
    state_ = world.archiver.state()
    assert state_ is not None
    assert state_.sequence == 1


def test_backup_of_a_killed_agent_is_made_anew_and_leaves_nothing(world: World) -> None:
    world.jobs.backup(world.job("b1"))
    # killed before the manifest was stored, with three segments
    former = state.Store(world.layout).find("backup")
    assert former is not None
    del world.account.objects["i/b1/manifest.json"]
    for number in range(3):
        world.account.objects[f"i/b1/{former['attempt']}/{number:08d}"] = b"x"
    world.agent()
    stored = world.back_up("b1")
    names = world.objects("b1")
    assert len(names) == 2
    assert not any(former["attempt"] in name for name in names)
    world.restore(stored)


def test_backup_that_was_complete_when_the_agent_was_killed_is_not_made_again(
    world: World,
) -> None:
    result = world.jobs.backup(world.job("b1"))
    world.engine.write("c")
    world.agent()
    assert world.jobs.backup(world.job("b1")) == result
    assert world.engine.streams == 1


def test_manifest_of_another_key_is_not_taken_for_the_backup(world: World) -> None:
    world.jobs.backup(world.job("b1"))
    world.agent()
    other = base64.b64encode(b"o" * 32).decode()
    world.jobs.backup(world.job("b1", key=other))
    assert world.engine.streams == 2


@pytest.mark.parametrize("blocks", [0, 3])
def test_engine_that_fails_has_the_backup_fail_with_the_reason(world: World, blocks: int) -> None:
    world.engine.stream = lambda data: iter([*[making.noise(1 << 20)] * blocks, making.failing()])
    with pytest.raises(exception.GuestError, match="mariabackup ended with 1"):
        world.jobs.backup(world.job("b1"))
    assert world.objects("b1") == []
    world.engine.stream = lambda data: iter([data])
    world.restore(world.back_up("b2"))


def test_cancelled_backup_ends_at_once_and_leaves_nothing(world: World) -> None:
    def endless(data: bytes) -> Iterator[bytes]:
        for number in range(10_000):
            if number == 2:
                done = world.jobs.progress
                assert done is not None
                assert (done.done_bytes, done.total_bytes) == (2 << 20, 2 << 20)
                world.jobs.cancel()
            yield making.noise(1 << 20)

    world.engine.stream = endless
    with pytest.raises(progress.Cancelled) as caught:
        world.jobs.backup(world.job("b1"))
    assert caught.value.kwargs["reason"] == "it was cancelled"
    assert world.objects("b1") == []
    assert world.jobs.progress is None


def test_an_agent_that_ends_begins_nothing(world: World) -> None:
    world.jobs.close()
    with pytest.raises(progress.Cancelled):
        world.jobs.backup(world.job("b1"))
    assert world.objects("b1") == []


# -- what is refused -----


def _refusals(world: World) -> Iterator[tuple[str, str, Callable[[], object]]]:
    full = world.back_up("full")
    world.engine.write("c")
    increment = world.back_up("inc", parent=full)
    world.engine.write("d")
    second = world.back_up("inc2", parent=increment)
    other = world.back_up("other")
    objects = dict(world.account.objects)
    segment = next(name for name in world.objects("full") if "manifest" not in name)

    def damage() -> None:
        world.account.objects[segment] = objects[segment][:-1] + b"?"

    def leave_out() -> None:
        del world.account.objects[segment]

    def replace(old: payloads.StoredBackup, **changes: Any) -> payloads.StoredBackup:
        return payloads.StoredBackup.from_wire({**old.to_wire(), **changes})

    def case(*chain: payloads.StoredBackup, before: Callable[[], None] = lambda: None, **more: Any):
        def run(do: Callable[..., object]) -> None:
            world.account.objects = dict(objects)
            before()
            do(*chain, **more)

        return run

    wrong_key = base64.b64encode(b"w" * 32).decode()
    yield "empty chain", "does not begin with a full", case()
    yield "increment first", "does not begin with a full", case(increment)
    yield "gap", "inc2 does not build on full", case(full, second)
    yield "two full ones", "other does not build on full", case(full, other)
    yield "other id", "of backup full, not of x", case(replace(full, backup_id="x"))
    yield "other manifest", "not the manifest", case(replace(full, manifest_sha256="0" * 64))
    yield "wrong key", "not the key", case(replace(full, key=wrong_key))
    yield "flipped bit", "is damaged", case(full, before=damage)
    yield "missing segment", "is missing", case(full, before=leave_out)
    yield "no log", "has no log behind it", case(full, target_time=1.0)
    yield "other epoch", "does not go on from backup full", case(full, archive=world.log())


def test_what_does_not_fit_is_refused_and_nothing_is_touched(world: World) -> None:
    for name, words, run in _refusals(world):
        rows = world.engine.rows()
        with pytest.raises(exception.GuestError, match=words):
            run(world.restore)
        assert world.engine.is_running, name
        assert world.engine.rows() == rows, name
        assert world.names() <= {"data", "agent"}, name


def test_what_does_not_fit_makes_no_new_database(world: World) -> None:
    refusals = list(_refusals(world))
    world.empty()
    for name, words, run in refusals:
        with pytest.raises(exception.GuestError, match=words):
            run(world.install)
        assert world.names() <= {"agent"}, name


def test_backup_of_another_engine_or_version_is_refused(world: World) -> None:
    world.engine.version = "2.0"
    stored = world.back_up("b1")
    with pytest.raises(exception.GuestError, match="made by version 2"):
        world.restore(stored)
    world.jobs._restorer._manager = "otherdb"
    with pytest.raises(exception.GuestError, match="is one of textdb, and this is otherdb"):
        world.restore(stored)
    assert world.engine.is_running


def test_volume_without_space_refuses_before_the_engine_is_stopped(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = world.back_up("b1")
    full = filesystem.DiskUse(used_bytes=2**30, total_bytes=2**30, available_bytes=2**20)
    monkeypatch.setattr(filesystem, "disk_use", lambda path: full)
    stops: list[float] = []
    monkeypatch.setattr(FakeSupervisor, "ensure_stopped", lambda self, s: stops.append(s))
    with pytest.raises(exception.GuestError, match=r"1 MiB left.*resize it"):
        world.restore(stored)
    assert not stops


def test_gap_in_the_log_is_found_before_anything_is_restored(world: World) -> None:
    world.archive()
    stored = world.back_up("b1")
    for row in ("c", "d", "e"):
        world.engine.write(row)
        world.tick()
    del world.account.objects["i/archive/e/000000000001"]
    world.engine.restored = lambda work: pytest.fail("it was restored")
    with pytest.raises(exception.GuestError, match=r"piece 1 .* is missing"):
        world.restore(stored, archive=world.log(last=2))
    assert world.engine.rows() == ["a", "b", "c", "d", "e"]


# -- new databases -----


def test_new_database_has_the_rows_of_chain_and_log(world: World) -> None:
    world.archive()
    full = world.back_up("full")
    world.engine.write("c")
    world.tick()
    increment = world.back_up("inc", parent=full)
    for row in ("d", "e"):
        world.engine.write(row)
        world.tick()
    world.empty()
    world.install(full, increment, archive=world.log(last=2), target_position="e")
    assert world.engine.rows() == ["a", "b", "c", "d"]


def test_log_without_a_known_end_is_replayed_as_far_as_it_goes(world: World) -> None:
    world.archive()
    stored = world.back_up("b1")
    for row in ("c", "d"):
        world.engine.write(row)
        world.tick()
    world.empty()
    world.install(stored, archive=world.log())
    assert world.engine.rows() == ["a", "b", "c", "d"]


def test_database_that_is_there_is_not_overwritten(world: World) -> None:
    stored = world.back_up("b1")
    world.engine.write("c")
    with pytest.raises(exception.GuestError, match="nothing was overwritten"):
        world.install(stored)
    assert world.engine.rows() == ["a", "b", "c"]


@pytest.mark.parametrize("die_at", range(1, 5))
def test_new_database_is_whole_or_not_there_wherever_the_agent_dies(
    world: World, die_at: int
) -> None:
    stored = world.back_up("b1")
    world.empty()
    with _death(die_at):
        world.install(stored)
    assert "data" not in world.names() or world.engine.rows() == ["a", "b"]
    world.agent()
    world.install(stored)
    assert world.engine.rows() == ["a", "b"]
    # and once more, when the outcome was not noted
    world.engine.write("written since")
    world.agent()
    world.install(stored)
    assert world.engine.rows() == ["a", "b", "written since"]
    assert world.names() == {"data", "agent"}


def test_restoring_that_fails_makes_no_database(world: World) -> None:
    stored = world.back_up("b1")
    world.empty()

    def fail_late(work: pathlib.Path) -> None:
        raise exception.GuestError(reason="the log cannot be replayed")

    world.engine.restored = fail_late
    with pytest.raises(exception.GuestError, match="cannot be replayed"):
        world.install(stored)
    assert world.names() <= {"agent"}


def test_restoring_that_makes_nothing_is_a_failure(world: World) -> None:
    stored = world.back_up("b1")
    world.empty()
    world.engine.restored = filesystem.remove_tree
    with pytest.raises(exception.GuestError, match="made no database"):
        world.install(stored)
    assert world.names() <= {"agent"}


# -- in place -----


def _commit(world: World) -> None:
    world.jobs.restore(payloads.RestoreJob(phase="commit"), job_id="c")


def _revert(world: World) -> None:
    world.jobs.restore(payloads.RestoreJob(phase="revert"), job_id="v")


def test_restored_database_takes_the_place_of_the_former_which_is_kept(world: World) -> None:
    stored = world.back_up("b1")
    world.engine.write("c")
    assert world.restore(stored) == {"facts": {"rows": 2}, "engine_version": "1.0"}
    assert world.engine.is_running
    assert world.engine.rows() == ["a", "b"]
    assert world.engine.rows(world.layout.replaced_data_dir) == ["a", "b", "c"]
    _commit(world)
    _commit(world)
    assert world.names() == {"data", "agent"}
    _revert(world)
    assert world.engine.rows() == ["a", "b"]
    # and once more, the same
    world.engine.write("d")
    world.restore(stored, job_id="r2")
    assert world.engine.rows() == ["a", "b"]


def test_former_database_comes_back(world: World) -> None:
    stored = world.back_up("b1")
    world.engine.write("c")
    world.restore(stored)
    world.engine.write("lost")
    _revert(world)
    assert world.engine.is_running
    assert world.engine.rows() == ["a", "b", "c"]
    assert world.names() == {"data", "agent"}
    _revert(world)
    assert world.engine.rows() == ["a", "b", "c"]


def test_restoration_whose_end_nobody_told_ends_with_the_next(world: World) -> None:
    stored = world.back_up("b1")
    world.engine.write("c")
    world.restore(stored)
    world.engine.write("since")
    # the same backup, but another restoration
    world.restore(stored, job_id="r2")
    assert world.engine.rows() == ["a", "b"]
    assert world.engine.rows(world.layout.replaced_data_dir) == ["a", "b", "since"]


def test_restoration_that_was_left_in_the_middle_is_taken_back_by_the_next(world: World) -> None:
    stored = world.back_up("b1")
    world.engine.write("c")
    # after the first of the two renames
    with _death(4):
        world.restore(stored)
    assert "data" not in world.names()
    world.agent()
    world.restore(stored, job_id="r2")
    assert world.engine.rows() == ["a", "b"]
    assert world.engine.rows(world.layout.replaced_data_dir) == ["a", "b", "c"]


def test_kept_database_of_which_nothing_is_known_is_not_replaced(world: World) -> None:
    stored = world.back_up("b1")
    world.layout.replaced_data_dir.mkdir()
    with pytest.raises(exception.GuestError, match="the operator look at the volume"):
        world.restore(stored)
    assert world.engine.is_running
    assert world.engine.rows() == ["a", "b"]


def test_taking_back_what_did_not_begin_has_the_engine_run(world: World) -> None:
    stored = world.back_up("b1")
    world.engine.restored = lambda work: _die()
    with pytest.raises(Crash):
        world.restore(stored)
    assert not world.engine.is_running
    world.agent()
    _revert(world)
    assert world.engine.is_running
    assert world.names() <= {"data", "agent"}


def test_database_that_does_not_run_restored_is_as_it_was(world: World) -> None:
    world.engine.write("no start")
    stored = world.back_up("b1")
    (world.layout.data_dir / "rows").write_text("now\n")
    with pytest.raises(exception.GuestError, match=r"crashed at once; the database is as it was"):
        world.restore(stored)
    assert world.engine.is_running
    assert world.engine.rows() == ["now"]
    assert world.names() == {"data", "agent"}


def test_failure_in_the_middle_has_the_former_database_run_again(world: World) -> None:
    stored = world.back_up("b1")
    seen: list[bool] = []

    def fail_late(work: pathlib.Path) -> None:
        seen.append(world.engine.is_running)
        raise exception.GuestError(reason="the log cannot be replayed")

    world.engine.restored = fail_late
    with pytest.raises(exception.GuestError, match="cannot be replayed"):
        world.restore(stored)
    assert seen == [False]
    assert world.engine.is_running
    assert world.names() <= {"data", "agent"}


@pytest.mark.parametrize("die_at", range(1, 13))
def test_restoring_in_place_survives_a_death_anywhere(world: World, die_at: int) -> None:
    world.archive()
    stored = world.back_up("b1")
    world.engine.write("c")
    with _death(die_at):
        world.restore(stored)
    world.agent()
    assert world.restore(stored)["facts"] == {"rows": 2}
    assert world.engine.is_running
    assert world.engine.rows() == ["a", "b"]
    assert world.engine.rows(world.layout.replaced_data_dir) == ["a", "b", "c"]
    archive = world.archiver.state()
    assert archive is not None
    assert archive.is_lost
    _revert(world)
    assert world.engine.rows() == ["a", "b", "c"]
    assert world.names() == {"data", "agent"}


@pytest.mark.parametrize("die_at", range(1, 7))
def test_giving_up_survives_a_death_anywhere(world: World, die_at: int) -> None:
    world.engine.write("no start")
    stored = world.back_up("b1")
    (world.layout.data_dir / "rows").write_text("now\n")
    starts: list[Callable[[], None]] = []
    real = FakeSupervisor.ensure_running

    def start(self: FakeSupervisor, timeout_s: float) -> None:
        while starts:
            starts.pop()()
        real(self, timeout_s)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FakeSupervisor, "ensure_running", start)
        # the agent dies while it has the former database again
        starts.append(lambda: _dying(patch, die_at))
        with pytest.raises(Crash):
            world.restore(stored)
    world.agent()
    with pytest.raises(exception.GuestError, match=r"crashed at once; the database is as it was"):
        world.restore(stored)
    assert world.engine.is_running
    assert world.engine.rows() == ["now"]
    assert world.names() == {"data", "agent"}


@pytest.mark.parametrize(
    ("phase", "die_at"),
    [*((_commit, n) for n in range(1, 3)), *((_revert, n) for n in range(1, 7))],
)
def test_ending_a_restoration_survives_a_death_anywhere(
    world: World, die_at: int, phase: Callable[[World], None]
) -> None:
    stored = world.back_up("b1")
    world.engine.write("c")
    world.restore(stored)
    with _death(die_at):
        phase(world)
    world.agent()
    phase(world)
    assert world.engine.is_running
    assert world.engine.rows() == (["a", "b"] if phase is _commit else ["a", "b", "c"])
    assert world.names() == {"data", "agent"}


def test_server_made_anew_in_the_middle_has_the_former_database(world: World) -> None:
    stored = world.back_up("b1")
    world.engine.write("c")
    # after the first of the two renames
    with _death(4):
        world.restore(stored)
    assert "data" not in world.names()
    world.agent()
    world.jobs.settle()
    assert world.engine.rows() == ["a", "b", "c"]
    assert world.names() == {"data", "agent"}


# -- proofs -----


def test_proof_says_what_was_looked_at_and_leaves_nothing(world: World) -> None:
    stored = world.back_up("b1")
    world.engine.write("c")
    before = os.getpriority(os.PRIO_PROCESS, 0)
    restoration = payloads.Restoration(chain=(stored,))
    result = world.jobs.verify(payloads.VerifyBackupJob(restoration=restoration))
    assert result == {"findings": {"check": "all", "objects": 2}, "facts": {"rows": 2}}
    assert world.engine.rows() == ["a", "b", "c"]
    assert world.names() <= {"data", "agent"}
    assert world.engine.niceness == [max(before, 15)]
    assert os.getpriority(os.PRIO_PROCESS, 0) == before


def test_damage_is_told_by_the_proof(world: World) -> None:
    world.engine.write("damaged")
    restoration = payloads.Restoration(chain=(world.back_up("b1"),))
    (world.layout.mount_point / "data.verify").mkdir()
    with pytest.raises(exception.GuestError, match="a row is damaged"):
        world.jobs.verify(payloads.VerifyBackupJob(restoration=restoration))
    assert world.names() <= {"data", "agent"}


def test_a_sound_database_that_is_not_the_one_that_was_backed_up_is_told(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    marks: list[str] = []

    def write_probe(part: FakeBackup, mark: str) -> bool:
        marks.append(mark)
        return True

    def verify(part: FakeBackup, work: pathlib.Path) -> dict[str, Any]:
        return {"check": "all", "probe": marks[-1]}

    monkeypatch.setattr(FakeBackup, "write_probe", write_probe)
    monkeypatch.setattr(FakeBackup, "verify", verify)
    first = world.back_up("b1")
    job = payloads.VerifyBackupJob(restoration=payloads.Restoration(chain=(first,)))
    assert world.jobs.verify(job)["findings"] == {"check": "all", "probe": "equal"}
    # as if what is stored of the first were of the second
    second = world.back_up("b2", parent=first)
    assert marks[0] != marks[1]
    with pytest.raises(exception.GuestError, match="not the one that was backed up"):
        world.jobs.verify(job)
    job = payloads.VerifyBackupJob(restoration=payloads.Restoration(chain=(first, second)))
    assert world.jobs.verify(job)["findings"] == {"check": "all", "probe": "equal"}


def test_a_database_that_takes_no_probe_is_backed_up(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_probe(part: FakeBackup, mark: str) -> bool:
        raise exception.GuestError(reason="the disk is full")

    monkeypatch.setattr(FakeBackup, "write_probe", write_probe)
    job = payloads.VerifyBackupJob(restoration=payloads.Restoration(chain=(world.back_up("b1"),)))
    assert world.jobs.verify(job)["findings"] == {"check": "all", "objects": 2}


def test_store_or_volume_that_fails_proves_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    restoration = payloads.Restoration(chain=(world.back_up("b1"),))
    job = payloads.VerifyBackupJob(restoration=restoration)
    full = filesystem.DiskUse(used_bytes=2**30, total_bytes=2**30, available_bytes=2**20)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(filesystem, "disk_use", lambda path: full)
        with pytest.raises(exception.NotProvable, match="1 MiB left"):
            world.jobs.verify(job)
    missing = exception.ProgramMissing(reason="the program check is missing")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(restoring.Restorer, "check", mock.Mock(side_effect=missing))
        with pytest.raises(exception.NotProvable, match="the program check is missing"):
            world.jobs.verify(job)
    monkeypatch.setattr(
        places.Place.__init__,
        "__kwdefaults__",
        {**places.Place.__init__.__kwdefaults__, "patience_s": 0.0},
    )
    world.account.before = fail(None, "open")
    with pytest.raises(exception.NotProven, match="it answered 503"):
        world.jobs.verify(job)
    world.account.before = lambda action, name: None
    del world.account.objects["i/b1/manifest.json"]
    with pytest.raises(exception.GuestError, match=r"manifest\.json is missing") as caught:
        world.jobs.verify(job)
    assert not isinstance(caught.value, exception.NotProven)
    assert world.names() <= {"data", "agent"}


@pytest.mark.parametrize("part", ["restore", "verify"])
def test_what_fails_for_want_of_space_is_no_bad_backup(
    world: World, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    restoration = payloads.Restoration(chain=(world.back_up("b1"),))
    proof = payloads.VerifyBackupJob(restoration=restoration)
    free = {"bytes": 2**30}

    def disk_use(path: pathlib.Path) -> filesystem.DiskUse:
        return filesystem.DiskUse(used_bytes=0, total_bytes=2**30, available_bytes=free["bytes"])

    def fail_with(left_bytes: int) -> Callable[..., Any]:
        def stop(*_: object) -> Any:
            free["bytes"] = left_bytes
            raise exception.GuestError(reason="a page is damaged")

        return stop

    monkeypatch.setattr(filesystem, "disk_use", disk_use)
    with monkeypatch.context() as patch:
        patch.setattr(FakeBackup, part, fail_with(2**20))
        with pytest.raises(exception.NotProven, match=r"got full .* 1 MiB left: a page is"):
            world.jobs.verify(proof)
        free["bytes"] = 2**30
        patch.setattr(FakeBackup, part, fail_with(2**29))
        with pytest.raises(exception.GuestError, match="a page is damaged") as caught:
            world.jobs.verify(proof)
        assert not isinstance(caught.value, exception.NotProven)
    assert world.names() <= {"data", "agent"}


def test_proof_of_a_killed_agent_is_done_again_and_leaves_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    restoration = payloads.Restoration(chain=(world.back_up("b1"),))
    job = payloads.VerifyBackupJob(restoration=restoration)

    def die(*_: object) -> None:
        raise Crash

    for part in ("restore", "verify"):
        with monkeypatch.context() as patch:
            patch.setattr(FakeBackup, part, die)
            # whoever was killed clears nothing away
            patch.setattr(filesystem, "remove_tree", lambda path: None)
            with pytest.raises(Crash):
                world.jobs.verify(job)
        (world.layout.mount_point / "data.verify").mkdir(exist_ok=True)
        world.agent()
        assert world.jobs.verify(job)["findings"] == {"check": "all", "objects": 2}
        assert world.engine.rows() == ["a", "b"]
        assert world.names() <= {"data", "agent"}


# -- the archive -----


@pytest.mark.parametrize("when", ["begin", "end"])
@pytest.mark.parametrize("die_at", [1, 2])
def test_an_archive_begins_and_ends_wherever_the_agent_dies(
    world: World, when: str, die_at: int
) -> None:
    def do() -> None:
        if when == "begin":
            world.archive()
        else:
            world.archiver.begin(payloads.ArchiveJob(archive=None))

    if when == "end":
        world.archive()
        world.engine.write("c")
    acts = ((FakeArchive, "start"), (FakeArchive, "stop"))
    with deaths.dying(die_at, *acts), pytest.raises(deaths.Death):
        do()
    world.agent()
    do()
    world.engine.write("d")
    world.clock.advance(60.0)
    world.tick()
    # each row of the time of the archive, and once
    assert _archived(world) == [[2, "d" if when == "begin" else "c"]]
    assert world.engine.keeps_log == (when == "begin")
    assert (world.archiver.state() is not None) == (when == "begin")


def _archived(world: World) -> list[list[Any]]:
    """Return what is in the pieces of the archive, in order."""
    place = jobs.Storage(world._grant, clock=world.clock).open(
        payloads.GrantRequest(epoch="e"), world.log().storage
    )
    kept = pieces.iterate(place, 0, None, key=making.KEY, epoch="e")
    return [entry for piece in kept for entry in json.loads(making.read(piece))]


def _state(world: World) -> payloads.ArchiveState:
    found = world.archiver.state()
    assert found is not None
    return found


def test_log_is_stored_in_pieces_and_released_afterwards(world: World) -> None:
    assert world.archive() == {
        "epoch": "e",
        "sequence": 0,
        "since": world.clock.now().timestamp(),
    }
    for row in ("c", "d"):
        world.engine.write(row)
        world.tick()
    assert _archived(world) == [[2, "c"], [3, "d"]]
    assert world.engine.released == 4
    found = _state(world)
    assert (found.sequence, found.pending_bytes) == (2, 0)
    assert found.stored_bytes == sum(
        len(content) for name, content in world.account.objects.items() if "archive" in name
    )


def test_idle_engine_has_nothing_stored_and_is_up_to_date(world: World) -> None:
    world.archive()
    writes: list[object] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(filesystem, "write_file", lambda *a, **k: writes.append(a))
        for _ in range(10):
            world.tick()
    assert not writes
    assert world.objects("archive") == []
    assert _state(world).as_of == world.clock.now().timestamp()


def test_an_archive_promises_no_time_that_the_clock_did_not_reach(world: World) -> None:
    world.archive()
    now = world.clock.now()
    # set to another day by mistake, and back; then something is written
    for row in ("", "c"):
        world.clock._now = now + datetime.timedelta(days=1)
        world.tick()
        world.clock._now = now
        if row:
            world.engine.write(row)
        world.tick()
        assert _state(world).as_of <= world.clock.now().timestamp()


def test_much_log_is_stored_at_once_and_little_waits(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.archive(interval_s=60.0)
    world.tick()
    world.engine.write("c")
    world.tick(10.0)
    assert _state(world).pending_bytes == 1
    assert world.objects("archive") == []
    monkeypatch.setattr(archivers, "PIECE_BYTES", 10)
    world.engine.write("d" * 10)
    world.tick(10.0)
    assert len(_archived(world)) == 2


@pytest.mark.parametrize("after_put", [False, True])
def test_death_between_storing_and_remembering_neither_loses_nor_doubles(
    world: World, after_put: bool
) -> None:
    world.archive()
    world.engine.write("c")
    if after_put:
        with _death(1):
            world.tick()
    else:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(world.account, "before", lambda action, name: _die())
            with pytest.raises(Crash):
                world.tick()
    world.agent()
    world.engine.write("d")
    world.tick()
    world.engine.write("e")
    world.tick()
    assert _archived(world) == [[2, "c"], [3, "d"], [4, "e"]]
    assert _state(world).sequence == 2


def _die() -> None:
    raise Crash


def test_storage_that_fails_is_told_and_tried_again(world: World) -> None:
    world.archive()
    world.engine.write("c")
    world.account.before = fail(None, "put")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jobs, "_ARCHIVE_PATIENCE_S", 0.0)
        world.agent()
        world.tick()
        assert "503" in (_state(world).problem or "")
        assert (world.archiver.problem or "").startswith("The log cannot be archived")
        assert not _state(world).is_lost
        world.account.before = lambda action, name: None
        # sooner than after an interval
        world.tick(6.0)
    assert _archived(world) == [[2, "c"]]
    assert world.archiver.problem is None
    assert _state(world).problem is None


def test_log_that_waits_for_too_long_is_given_up_and_told(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "_ARCHIVE_PATIENCE_S", 0.0)
    world.archive(spool_bytes=20)
    world.account.before = fail(None, "put")
    world.engine.write("c" * 10)
    world.tick()
    assert not _state(world).is_lost
    world.engine.write("d" * 11)
    world.tick()
    assert _state(world).is_lost
    assert "waited for the storage" in (_state(world).problem or "")
    assert "Make a full backup" in (world.archiver.problem or "")
    # the engine need not keep its log, and backups have none behind them
    world.tick()
    assert not world.engine.keeps_log
    assert world.archiver.mark() is None
    world.account.before = lambda action, name: None
    world.agent()
    world.tick()
    assert _state(world).is_lost
    assert world.objects("archive") == []
    with pytest.raises(exception.GuestError, match="another one has to begin"):
        world.archive()
    world.archive(archive=world.log(epoch="e2", storage=world.storage("archive/e2")))
    assert world.archiver.mark() == {"epoch": "e2", "sequence": 0}
    assert world.engine.keeps_log


def test_lost_log_ends_the_archive(world: World) -> None:
    world.archive()
    world.engine.write("c")
    world.tick()
    world.engine.write("d")
    world.engine.lost = 4
    world.tick()
    assert _state(world).is_lost
    assert _state(world).problem == "it was purged"
    assert _archived(world) == [[2, "c"]]


def test_engine_that_restarts_is_waited_for(world: World) -> None:
    world.archive()
    world.engine.write("c")
    world.engine.is_ready = False
    world.tick()
    assert world.archiver.problem is None
    world.engine.is_ready, world.engine.is_running = True, False
    world.tick()
    world.engine.is_running = True
    world.tick()
    assert _archived(world) == [[2, "c"]]


def test_volume_of_another_instance_brings_no_archive(world: World) -> None:
    world.archive()
    world.engine.write("c")
    world.instance_id = "copy"
    world.agent()
    world.tick()
    assert world.archiver.state() is None
    assert world.objects("archive") == []


def test_archive_ends_when_nobody_wants_it(world: World) -> None:
    world.archive()
    world.engine.write("c")
    assert world.archiver.begin(payloads.ArchiveJob()) == {}
    assert _archived(world) == [[2, "c"]]
    assert world.archiver.state() is None
    assert not world.engine.keeps_log
    world.agent()
    world.tick()
    assert world.archiver.state() is None


def test_engine_that_is_down_is_told_later_that_its_log_is_not_wanted(world: World) -> None:
    world.archive()
    world.engine.is_running = False
    world.archiver.begin(payloads.ArchiveJob())
    assert world.archiver.state() is None
    assert world.engine.keeps_log
    world.engine.is_running = True
    world.agent()
    world.tick()
    assert not world.engine.keeps_log
    assert not (world.layout.volume_agent_dir / "archive.json").exists()


def test_restored_database_has_another_log(world: World) -> None:
    world.archive()
    stored = world.back_up("b1")
    world.engine.write("c")
    world.restore(stored)
    # what was written until then is in the archive that ended
    assert _archived(world) == [[2, "c"]]
    assert _state(world).is_lost
    assert "restored" in (_state(world).problem or "")
    world.engine.write("d")
    world.tick()
    assert _archived(world) == [[2, "c"]]


def test_engine_without_point_in_time_recovery_says_so(world: World) -> None:
    archiver = archivers.Archiver(
        base.Unsupported("textdb", "point in time recovery"),
        instance_id="i",
        layout=world.layout,
        make_put=lambda archive, halt: pytest.fail("it was used"),
        is_running=lambda: True,
        has_volume=lambda: True,
        clock=world.clock,
    )
    with pytest.raises(exception.NotImplementedByEngine):
        archiver.begin(payloads.ArchiveJob(archive=world.log()))
    archiver.begin(payloads.ArchiveJob())
    archiver.tick()
    archiver.lose("x")
    assert archiver.state() is None
    assert archiver.mark() is None
