"""What agents tell of archives of logs and ask for of the object store, and what becomes of it."""

from __future__ import annotations

import datetime
import pathlib
from typing import Any

import pytest
import sqlalchemy as sa

from tests.fixtures.database import new_backup
from tests.fixtures.guest_channel import heartbeat
from tests.unit.conductor.test_manager import Conductor, Guest
from trove import conf as trove_conf
from trove import states
from trove.db import backups, base, log_archives, models, operations
from trove.rpc import payloads
from trove.storage import base as storage
from trove.storage import filesystem

CONTAINER = "database_backups"


class Store(filesystem.FilesystemStore):
    """Remembers which grants were for reading only, and for what names the last was."""

    granted: list[bool]
    names: tuple[str, ...] = ()

    def grant(self, project_id: str, **options: Any) -> Any:
        self.granted.append(options["is_read_only"])
        self.names = options["names"]
        return super().grant(project_id, **options)


@pytest.fixture
def store(tmp_path: pathlib.Path) -> Store:
    conf = trove_conf.new()
    conf([], default_config_files=[])
    conf.set_override("filesystem_directory", str(tmp_path / "objects"), group="storage")
    made = Store.from_config(conf)
    assert isinstance(made, Store)
    made.granted = []
    return made


@pytest.fixture
def conductor(sqlite_database: base.Database, store: Store) -> Conductor:
    return Conductor(sqlite_database, store)


@pytest.fixture
def guest(conductor: Conductor) -> Guest:
    return Guest(conductor)


def begin_archive(conductor: Conductor, instance_id: str) -> str:
    epoch = models.new_id()
    with conductor.database.writer() as session:
        log_archives.begin(
            session,
            log_archives.NewArchive(
                epoch=epoch,
                instance_id=instance_id,
                project_id="p",
                storage_driver="filesystem",
                account_id="p",
                container=CONTAINER,
                prefix=f"{instance_id}/archive/{epoch}/",
                key_wrapped=b"wrapped",
            ),
            now=conductor.clock.now(),
        )
    return epoch


def begin_backup(
    conductor: Conductor,
    instance_id: str,
    *,
    status: states.BackupStatus = states.BackupStatus.BUILDING,
    **values: Any,
) -> str:
    backup_id = models.new_id()
    with conductor.database.writer() as session:
        version_id = session.scalar(
            sa.select(models.Instance.datastore_version_id).where(models.Instance.id == instance_id)
        )
        assert version_id is not None
        backups.create(
            session,
            new_backup(
                version_id,
                id=backup_id,
                project_id="p",
                instance_id=instance_id,
                account_id="p",
                container=CONTAINER,
                prefix=f"{instance_id}/{backup_id}/",
                status=status,
                **values,
            ),
            now=conductor.clock.now(),
        )
    return backup_id


def begin_restoration(
    conductor: Conductor,
    instance_id: str,
    *,
    kind: str = operations.RESTART_INSTANCE,
    **restoration: Any,
) -> None:
    now = conductor.clock.now()
    with conductor.database.writer() as session:
        operations.create(
            session,
            kind=kind,
            resource_id=instance_id,
            lock_key=operations.instance_lock(instance_id),
            deadline=now + datetime.timedelta(hours=1),
            now=now,
            project_id="p",
            data={"restoration": restoration},
        )


def find_archive(conductor: Conductor, epoch: str) -> log_archives.Archive:
    conductor.batcher.flush()
    with conductor.database.reader() as session:
        found = log_archives.find(session, epoch)
    assert found is not None
    return found


def tell(guest: Guest, epoch: str, sequence: int, **values: Any) -> None:
    now_s = guest.conductor.clock.now().timestamp()
    state = {"sequence": sequence, "as_of": now_s - 3, "since": now_s - 60, **values}
    wire = heartbeat(sequence=sequence).to_wire() | {"archive": {"epoch": epoch, **state}}
    assert guest.send("heartbeat", wire) is not None


def ask(guest: Guest, **request: Any) -> payloads.ObjectStorage | None:
    asked = payloads.GrantRequest(**request)
    envelope = guest.seal("grant", asked)
    seal = guest.conductor.manager.deliver(envelope)
    assert seal is not None
    sealed = seal()
    assert sealed is not None
    opened = guest.sealer.open_reply(sealed, envelope)
    answer = payloads.GrantAnswer.from_wire(opened.payload)
    assert answer.accepted
    assert answer.now_s == guest.conductor.clock.now().timestamp()
    return answer.storage


def test_what_an_agent_tells_of_its_archive_is_stored_with_its_heartbeat(
    database: base.Database,
) -> None:
    conductor = Conductor(database)
    guest = Guest(conductor)
    epoch = begin_archive(conductor, guest.id)
    now = conductor.clock.now()
    tell(guest, epoch, 4, pending_bytes=7, stored_bytes=10, problem="the storage is slow")
    found = find_archive(conductor, epoch)
    assert guest.stored.order == (1, 4)
    assert (found.next_sequence, found.pending_bytes, found.stored_bytes) == (4, 7, 10)
    assert found.as_of == now - datetime.timedelta(seconds=3)
    assert found.since == now - datetime.timedelta(seconds=60)
    assert (found.problem, found.reported) == ("the storage is slow", now)
    # nothing is told of it by the next one: it stays
    guest.send("heartbeat", heartbeat(sequence=5))
    assert find_archive(conductor, epoch) == found
    assert conductor.manager.counters() == {}


def test_heartbeats_without_an_archive_cost_no_statement_more(
    conductor: Conductor, guest: Guest
) -> None:
    epoch = begin_archive(conductor, guest.id)
    statements: list[str] = []
    engine = conductor.database.engine
    sa.event.listen(
        engine,
        "before_cursor_execute",
        lambda connection, cursor, statement, *rest: statements.append(statement),
    )
    guest.send("heartbeat", heartbeat(sequence=1))
    conductor.batcher.flush()
    assert not [each for each in statements if "archives" in each]
    others = [Guest(conductor) for _ in range(3)]
    statements.clear()
    tell(guest, epoch, 2)
    for other in others:
        tell(other, epoch, 2)
    conductor.batcher.flush()
    assert len([each for each in statements if "archives" in each]) == 1


def test_a_lost_log_ends_the_epoch(conductor: Conductor, guest: Guest) -> None:
    epoch = begin_archive(conductor, guest.id)
    tell(guest, epoch, 2, is_lost=True, problem="the spool was full\0")
    found = find_archive(conductor, epoch)
    assert (found.state, found.problem) == (states.ArchiveStatus.LOST, "the spool was full")
    assert ask(guest, epoch=epoch) is None


def test_the_log_of_a_database_that_another_one_replaces_is_not_lost(
    conductor: Conductor, guest: Guest
) -> None:
    epoch = begin_archive(conductor, guest.id)
    begin_restoration(conductor, guest.id, kind=operations.RESTORE_INSTANCE)
    tell(guest, epoch, 2, is_lost=True, problem="the database was restored")
    assert find_archive(conductor, epoch).state is states.ArchiveStatus.CLOSED


def test_an_archive_does_not_reach_beyond_our_own_clock(conductor: Conductor, guest: Guest) -> None:
    epoch = begin_archive(conductor, guest.id)
    now = conductor.clock.now()
    tell(guest, epoch, 1, as_of=now.timestamp() + 100)
    assert find_archive(conductor, epoch).as_of == now + datetime.timedelta(seconds=100)
    assert conductor.manager.counters() == {}
    conductor.clock.advance(3600)
    later = conductor.clock.now()
    tell(guest, epoch, 2, as_of=later.timestamp() + 100_000, since=later.timestamp() + 99_999)
    assert find_archive(conductor, epoch).as_of == later
    assert conductor.manager.counters() == {"archive_ahead": 1}


@pytest.mark.parametrize(
    "values",
    [
        {"epoch": ""},
        {"epoch": "x" * 37},
        {"sequence": -1},
        {"sequence": 2**63},
        {"as_of": -1.0},
        {"as_of": 1e300},
        {"since": 1e18},
    ],
    ids=repr,
)
def test_what_is_no_state_of_an_archive_is_dropped_and_the_heartbeat_counts(
    conductor: Conductor, guest: Guest, values: dict[str, Any]
) -> None:
    epoch = begin_archive(conductor, guest.id)
    before = find_archive(conductor, epoch)
    state = {"epoch": epoch, "sequence": 1, "as_of": 1.0, "since": 1.0, **values}
    guest.send("heartbeat", heartbeat().to_wire() | {"archive": state})
    assert guest.stored.order == (1, 1)
    assert find_archive(conductor, epoch) == before
    assert conductor.manager.counters() == {"bad_archive": 1}


def test_nobody_changes_the_archive_of_another(conductor: Conductor, guest: Guest) -> None:
    epoch = begin_archive(conductor, Guest(conductor).id)
    before = find_archive(conductor, epoch)
    tell(guest, epoch, 9, is_lost=True)
    assert find_archive(conductor, epoch) == before


def test_the_backup_that_is_being_made_may_be_written(
    conductor: Conductor, guest: Guest, store: Store
) -> None:
    parent_id = begin_backup(conductor, guest.id, status=states.BackupStatus.COMPLETED)
    backup_id = begin_backup(conductor, guest.id, parent_id=parent_id)
    found = ask(guest, backup_id=backup_id, names=("manifest.json",))
    assert found is not None
    assert (found.kind, found.account, found.container) == ("filesystem", "p", CONTAINER)
    assert found.prefix == f"{guest.id}/{backup_id}/"
    assert "directory" in found.grant
    # what it builds on may be read
    assert store.names == ("manifest.json",)
    assert ask(guest, backup_id=parent_id) is not None
    assert store.granted == [False, True]
    with conductor.database.writer() as session:
        assert backups.change_status(
            session,
            backup_id,
            expect=backups.RUNNING,
            to=states.BackupStatus.FAILED,
            now=conductor.clock.now(),
        )
    assert ask(guest, backup_id=backup_id) is None
    assert ask(guest, backup_id=parent_id) is None


def test_the_active_archive_may_be_written(
    conductor: Conductor, guest: Guest, store: Store
) -> None:
    epoch = begin_archive(conductor, guest.id)
    found = ask(guest, epoch=epoch)
    assert found is not None
    assert found.prefix == f"{guest.id}/archive/{epoch}/"
    assert store.granted == [False]
    with conductor.database.writer() as session:
        log_archives.close_active(session, guest.id, now=conductor.clock.now())
    assert ask(guest, epoch=epoch) is None


def test_a_restoration_reads_what_it_needs_and_nothing_else(
    sqlite_database: base.Database, store: Store
) -> None:
    conductor = Conductor(sqlite_database, store)
    guest, source = Guest(conductor), Guest(conductor)
    epoch = begin_archive(conductor, source.id)
    chain = [
        begin_backup(conductor, source.id, status=states.BackupStatus.COMPLETED) for _ in range(2)
    ]
    other = begin_backup(conductor, source.id, status=states.BackupStatus.COMPLETED)
    assert ask(guest, backup_id=chain[0]) is None
    begin_restoration(conductor, guest.id, chain=chain, epoch=epoch)
    for backup_id in chain:
        assert ask(guest, backup_id=backup_id) is not None
    assert ask(guest, epoch=epoch) is not None
    assert store.granted == [True] * 3
    assert ask(guest, backup_id=other) is None
    assert ask(guest, epoch=begin_archive(conductor, Guest(conductor).id)) is None
    # it is the restored one that reads, and only while it is restored
    assert ask(source, backup_id=chain[0]) is None
    with conductor.database.writer() as session:
        session.execute(sa.update(models.Operation).values(state=states.OperationState.SUCCEEDED))
    assert ask(guest, backup_id=chain[0]) is None


def test_whatever_else_is_asked_for_is_refused_and_counted(
    conductor: Conductor, guest: Guest
) -> None:
    victim = Guest(conductor)
    backup_id = begin_backup(conductor, victim.id)
    epoch = begin_archive(conductor, victim.id)
    own = begin_archive(conductor, guest.id)
    for request in (
        {"backup_id": backup_id},
        {"epoch": epoch},
        {},
        {"backup_id": ""},
        {"backup_id": "' OR 1=1 --"},
        {"epoch": "../" * 500},
        {"backup_id": backup_id, "epoch": own},
    ):
        assert ask(guest, **request) is None
    assert conductor.manager.counters() == {"refused_grant": 7}


def test_without_an_object_store_there_is_nothing_to_grant(sqlite_database: base.Database) -> None:
    conductor = Conductor(sqlite_database)
    guest = Guest(conductor)
    assert ask(guest, epoch=begin_archive(conductor, guest.id)) is None


def test_a_store_that_fails_is_asked_again_by_the_agent(
    sqlite_database: base.Database,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    conductor = Conductor(sqlite_database, store)
    guest = Guest(conductor)
    epoch = begin_archive(conductor, guest.id)

    def fail(*args: Any, **kwargs: Any) -> Any:
        raise storage.StorageError(reason="it is down")

    monkeypatch.setattr(store, "grant", fail)
    envelope = guest.seal("grant", payloads.GrantRequest(epoch=epoch))
    assert conductor.manager.deliver(envelope) is None
    monkeypatch.undo()
    assert ask(guest, epoch=epoch) is not None
