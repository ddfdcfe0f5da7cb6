"""What attempts at backups left goes by itself, a bit at a time; nothing else ever does."""

from __future__ import annotations

import bisect
import datetime
import itertools
import json
import pathlib
from typing import Any

import pytest
import sqlalchemy as sa

from tests.fixtures.control_plane import PROJECT, ControlPlane
from tests.fixtures.database import add_instance, add_version, new_backup
from trove import states
from trove.common import concurrency
from trove.db import backups, base, counters, models
from trove.storage import base as storage
from trove.storage import filesystem
from trove.taskmanager import storage_sweep

CONTAINER = "box"
ATTEMPT = "a" * 16
OLD = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


class Counting(filesystem.FilesystemAccount):
    """Counts what is asked of it."""

    def __init__(self, directory: pathlib.Path) -> None:
        super().__init__(directory)
        self.deleted: list[str] = []
        self.listed = 0

    def list(self, container: str, **options: Any) -> Any:
        """List, and count what was listed."""
        found = super().list(container, **options)
        self.listed += len(found)
        return found

    def delete(self, container: str, name: str) -> bool:
        """Delete, and note it."""
        self.deleted.append(name)
        return super().delete(container, name)


class InMemory(Counting):
    """Has names only: many objects in a short while."""

    def __init__(self, directory: pathlib.Path, names: list[str]) -> None:
        super().__init__(directory)
        self.names = sorted(names)

    def list(
        self, container: str, *, prefix: str = "", marker: str = "", limit: int = 10000
    ) -> Any:
        """List, and count what was listed."""
        begin = bisect.bisect_right(self.names, marker) if marker > prefix else 0
        behind = (name for name in self.names[begin:] if name.startswith(prefix))
        found = list(itertools.islice(behind, limit))
        self.listed += len(found)
        return [
            storage.StoredObject(name=name, size_bytes=0, etag="", modified=OLD) for name in found
        ]

    def find(self, container: str, name: str) -> None:
        """Find none: there are no manifests."""

    def delete(self, container: str, name: str) -> bool:
        """Delete, and note it."""
        self.deleted.append(name)
        self.names.remove(name)
        return True


class Store(filesystem.FilesystemStore):
    """A store with one account, which may fail."""

    def __init__(self, directory: pathlib.Path) -> None:
        super().__init__(directory)
        self.directory = directory
        (directory / PROJECT).mkdir(parents=True)
        self.only: Counting = Counting(directory / PROJECT)
        self.fails = False

    def account(self, project_id: str, **options: Any) -> storage.Account:
        """Return the account."""
        if self.fails:
            raise storage.StorageError(reason="it answered 503")
        return self.only


@pytest.fixture
def store(tmp_path: pathlib.Path) -> Store:
    return Store(tmp_path)


@pytest.fixture
def plane(
    sqlite_database: base.Database, store: Store, monkeypatch: pytest.MonkeyPatch
) -> ControlPlane:
    monkeypatch.setattr(concurrency, "SETTLED_S", 0.0)
    plane = ControlPlane(sqlite_database, store=store)
    plane.manual_clock.advance(
        (concurrency.SystemClock().now() - plane.clock.now()).total_seconds()
        + storage_sweep.AGE.total_seconds()
        + 3600
    )
    # that a backup is in it has a container looked into
    register(plane, states.BackupStatus.COMPLETED)
    return plane


def register(plane: ControlPlane, status: states.BackupStatus) -> str:
    """Add a backup; return its prefix."""
    version_id = add_version(plane.database)
    instance_id = add_instance(plane.database, version_id)
    new = new_backup(
        version_id,
        instance_id=instance_id,
        project_id=PROJECT,
        account_id=PROJECT,
        container=CONTAINER,
        status=states.BackupStatus.NEW,
    )
    with plane.database.writer() as session:
        assert backups.create(session, new, now=plane.clock.now())
        session.execute(
            sa.update(models.Backup).where(models.Backup.id == new.id).values(status=status)
        )
    return f"{instance_id}/{new.id}/"


def unknown() -> str:
    """Return the prefix of a backup that nobody knows."""
    return f"{models.new_id()}/{models.new_id()}/"


def segments(prefix: str, count: int) -> list[str]:
    return [f"{prefix}{ATTEMPT}/{number:08d}" for number in range(count)]


def put(store: Store, names: list[str], *, modified: datetime.datetime = OLD) -> None:
    """Put empty objects as if at a time."""
    for name in names:
        place = store.only._place(CONTAINER, name)
        place.parent.mkdir(parents=True, exist_ok=True)
        document = {
            "name": name,
            "data": f"{place.name}.0.data",
            "size_bytes": 0,
            "etag": "",
            "modified": modified.isoformat(),
            "content_type": storage.BINARY,
            "metadata": {},
        }
        place.with_name(f"{place.name}.json").write_text(json.dumps(document))


def names(store: Store) -> list[str]:
    return [each.name for each in filesystem.FilesystemAccount.list(store.only, CONTAINER)]


def sweep_all(plane: ControlPlane, sweep: storage_sweep.StorageSweep | None = None) -> None:
    """Have passes until it rests."""
    sweep = sweep or storage_sweep.StorageSweep(plane.tools)
    for _ in range(200):
        sweep.run()
        if sweep._places is None:
            return
    raise AssertionError("it goes on for ever")


def test_nothing_goes_while_the_clock_may_be_wrong(
    plane: ControlPlane, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(concurrency, "SETTLED_S", 3600.0)
    put(store, segments(unknown(), 1))
    sweep = storage_sweep.StorageSweep(plane.tools)
    sweep.run()
    assert len(names(store)) == 1
    plane.manual_clock.advance(3601)
    # it went a year too far, and nobody noticed yet
    plane.manual_clock.set_forward(365 * 86400)
    sweep.run()
    assert len(names(store)) == 1
    plane.manual_clock.set_forward(-365 * 86400)
    sweep.run()
    plane.manual_clock.advance(3601)
    sweep.run()
    assert not names(store)


def test_what_nobody_has_goes_and_all_else_stays(plane: ControlPlane, store: Store) -> None:
    made, failed, nobodys = (
        register(plane, states.BackupStatus.BUILDING),
        register(plane, states.BackupStatus.FAILED),
        unknown(),
    )
    complete, recent, foreign = unknown(), unknown(), unknown()
    now = plane.clock.now()
    gone = segments(failed, 3) + segments(nobodys, 2)
    kept = [
        *segments(made, 2),
        # another service's, which goes on or is complete
        *segments(complete, 2),
        f"{complete}manifest.json",
        *segments(recent, 2),
        # not ours at all
        *segments(foreign, 2),
        f"{foreign}holidays.jpg",
        f"{models.new_id()}/archive/{models.new_id()}/000000000000",
        "notes.txt",
    ]
    put(store, gone + kept)
    put(store, segments(recent, 3)[2:], modified=now - datetime.timedelta(hours=47))
    kept += segments(recent, 3)[2:]
    sweep_all(plane)
    assert names(store) == sorted(kept)
    assert sorted(store.only.deleted) == sorted(gone)
    with plane.database.reader() as session:
        assert dict(counters.read(session))[storage_sweep.REMOVED] == len(gone)


def test_a_pass_is_bounded_among_twenty_thousand_objects(plane: ControlPlane, store: Store) -> None:
    kept = [name for _ in range(3) for name in segments(_complete(plane), 6500)]
    gone = [name for prefix in (unknown(), unknown()) for name in segments(prefix, 250)]
    store.only = InMemory(store.directory, kept + gone)
    sweep = storage_sweep.StorageSweep(plane.tools)
    passes = 0
    while not passes or sweep._places is not None:
        listed, deleted = store.only.listed, len(store.only.deleted)
        sweep.run()
        passes += 1
        # a page, and what is below a prefix that nobody has
        assert store.only.listed - listed <= 1000 + 2 * 250
        assert len(store.only.deleted) - deleted <= 200
        assert passes < 40
    assert sorted(store.only.deleted) == sorted(gone)
    # of a backup that is registered one page is read, not all
    assert store.only.listed < 10000


def _complete(plane: ControlPlane) -> str:
    return register(plane, states.BackupStatus.COMPLETED)


def test_one_sweeps_and_then_rests(plane: ControlPlane, store: Store) -> None:
    one, other = (storage_sweep.StorageSweep(plane.tools) for _ in range(2))
    put(store, segments(unknown(), 220))
    one.run()
    assert len(store.only.deleted) == 200
    other.run()
    assert len(store.only.deleted) == 200
    sweep_all(plane, one)
    assert names(store) == []
    for hours in (1, 12):
        plane.manual_clock.advance(hours * 3600)
        put(store, segments(unknown(), 1))
        for each in (one, other, storage_sweep.StorageSweep(plane.tools)):
            each.run()
    assert len(names(store)) == 2
    plane.manual_clock.advance(12 * 3600)
    # whoever is first; the other one has died
    sweep_all(plane, other)
    assert names(store) == []


def test_who_dies_is_replaced(plane: ControlPlane, store: Store) -> None:
    put(store, segments(unknown(), 220))
    storage_sweep.StorageSweep(plane.tools).run()
    other = storage_sweep.StorageSweep(plane.tools)
    plane.manual_clock.advance(601)
    sweep_all(plane, other)
    assert names(store) == []


def test_a_store_that_fails_has_the_next_container_looked_at(
    plane: ControlPlane, store: Store
) -> None:
    put(store, segments(unknown(), 1))
    store.fails = True
    sweep = storage_sweep.StorageSweep(plane.tools)
    sweep_all(plane, sweep)
    store.fails = False
    plane.manual_clock.advance(25 * 3600)
    sweep_all(plane, sweep)
    assert names(store) == []


def test_nothing_is_swept_where_the_operator_wants_none(plane: ControlPlane, store: Store) -> None:
    plane.conf.set_override("sweep_interval_hours", 0.0, group="backup")
    put(store, segments(unknown(), 1))
    sweep_all(plane)
    assert store.only.listed == 0
