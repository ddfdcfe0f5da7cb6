"""Backups of PostgreSQL, restored to moments of its log, on the real servers."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import random
import signal
import time
from collections.abc import Iterator, Mapping
from typing import Any

import psycopg
import pytest

from tests.fixtures import keeping
from tests.fixtures.engine import Authority, Guest, is_available, passable_directory
from tests.fixtures.engine import template_of as template_of_row
from tests.fixtures.probes_postgresql import PostgresqlProbe
from tests.fixtures.waiting import wait_until
from trove.common import exception
from trove.datastores import spec as datastore_spec
from trove.guestagent.datastores import base
from trove.guestagent.datastores.postgresql import connection, copies, private, service, slots
from trove.guestagent.system import filesystem
from trove.rpc import payloads

_QUICK = {"fsync": False}
_MOST_BYTES = 1 << 20
#: Moments that a journal is restored to, where it is not as many as are told below.
TARGETS = int(os.environ.get("TROVE_TEST_RESTORE_TARGETS", "0"))


@contextlib.contextmanager
def running(row: str, **changes: Any) -> Iterator[Guest]:
    if not is_available(row):
        pytest.skip(f"{row} is not installed")
    with passable_directory() as directory:
        guest = Guest(directory=directory, row=row, template=template_of_row(row))
        try:
            guest.start_agent()
            guest.prepare(overrides=_QUICK, **changes)
            guest.wait_status("HEALTHY")
            yield guest
        finally:
            guest.destroy()


@pytest.fixture(scope="module")
def older() -> Iterator[Guest]:
    """A version whose increments are log."""
    with running("postgresql-15") as made:
        yield made


@pytest.fixture(scope="module")
def newer() -> Iterator[Guest]:
    """A version with increments of its own."""
    with running("postgresql-18") as made:
        yield made


@pytest.fixture(params=["older", "newer"])
def guest(request: pytest.FixtureRequest) -> Guest:
    found: Guest = request.getfixturevalue(request.param)
    return found


def execute(guest: Guest, statement: str, *values: object) -> Any:
    return PostgresqlProbe.execute(guest, statement, *values)


def connector_of(guest: Guest) -> connection.Connector:
    assert guest.datastore is not None
    assert isinstance(guest.datastore.service, service.PostgresqlService)
    return guest.datastore.service.connector


@contextlib.contextmanager
def tenant(
    guest: Guest, user: str, password: str, *, database: str = "shop", **options: Any
) -> Iterator[psycopg.Connection[Any]]:
    connected = psycopg.connect(
        host=guest.address,
        port=guest.port,
        user=user,
        password=password,
        dbname=database,
        gssencmode="disable",
        autocommit=True,
        **{"sslmode": "disable", **options},
    )
    with contextlib.closing(connected):
        yield connected


@contextlib.contextmanager
def transaction(guest: Guest) -> Iterator[connection.Session]:
    with connector_of(guest).session() as session:
        session.execute("BEGIN")
        yield session
        session.execute("COMMIT")


def secure(guest: Guest) -> dict[str, str]:
    """Give an instance a certificate, where its build does TLS; returns how to connect."""
    if datastore_spec.Capability.TLS in guest.row_engine.lacks:
        return {}
    assert guest.datastore is not None
    request = guest.datastore.service.certificate_request()
    assert request is not None
    authority = Authority()
    guest.prepare(
        overrides=_QUICK,
        certificate_pem=authority.sign(request, address=guest.address),
        ca_pem=authority.pem,
    )
    ca = guest.directory / "ca.pem"
    ca.write_text(authority.pem)
    return {"sslmode": "verify-full", "sslrootcert": str(ca)}


def make_journal(guest: Guest) -> None:
    execute(guest, "DROP TABLE IF EXISTS public.journal")
    execute(guest, "CREATE TABLE public.journal (id int PRIMARY KEY, said text)")


def note(guest: Guest, number: int, *, size: int = 10) -> None:
    execute(guest, "INSERT INTO public.journal VALUES (%s, repeat('x', %s))", number, size)


def program_of(guest: Guest) -> pathlib.Path:
    basedir = guest.row_engine.find_basedir()
    assert basedir is not None
    return pathlib.Path(basedir) / "bin/postgres"


@contextlib.contextmanager
def restored(
    guest: Guest, recovery: base.Recovery, *, facts: dict[str, Any] | None = None
) -> Iterator[private.PrivateServer]:
    """Restore beside the running server and look in."""
    work = guest.layout.mount_point / "data.restored"
    found = keeping.backup_of(guest).restore(recovery, work)
    if facts is not None:
        facts.update(found)
    try:
        with private.running(
            program=program_of(guest), data=work, owner=guest.layout.engine_user
        ) as server:
            server.await_ready()
            yield server
    finally:
        filesystem.remove_tree(work)


def journal_of(server: private.PrivateServer) -> list[int]:
    with server.connector.session() as session:
        return [row[0] for row in session.execute("SELECT id FROM public.journal ORDER BY id")]


def journal_at(guest: Guest, recovery: base.Recovery) -> list[int]:
    with restored(guest, recovery) as server:
        return journal_of(server)


@dataclasses.dataclass
class Shipped:
    """An archive in the memory of the test."""

    guest: Guest
    position: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    pieces: list[base.Kept] = dataclasses.field(default_factory=list)
    as_of_s: float = 0.0

    def start(self) -> Shipped:
        self.position = keeping.archive_of(self.guest).start()
        return self

    def ship(self, *, most_bytes: int = _MOST_BYTES) -> int:
        before = len(self.pieces)
        while True:
            asked = time.time()
            piece = keeping.archive_of(self.guest).read(self.position, most_bytes=most_bytes)
            if piece is None:
                self.as_of_s = asked
                break
            self.pieces.append(keeping.keep(piece.stream))
            self.position, self.as_of_s = piece.until, piece.as_of_s
        keeping.archive_of(self.guest).release(self.position)
        return len(self.pieces) - before

    def logs(self) -> Iterator[base.Kept]:
        return iter(self.pieces)


def refused(guest: Guest, recovery: base.Recovery) -> str:
    work = guest.layout.mount_point / "data.restored"
    with pytest.raises(exception.GuestError) as e:
        keeping.backup_of(guest).restore(recovery, work)
    assert not work.exists()
    assert not list(guest.layout.mount_point.glob("data.restored*"))
    return str(e.value)


def chain_of(guest: Guest) -> list[base.Kept]:
    """A full copy, which has row 1, and two increments with one row each."""
    backup = keeping.backup_of(guest)
    make_journal(guest)
    note(guest, 1)
    chain = [keeping.keep(backup.open_full())]
    for number in (2, 3):
        note(guest, number, size=100_000)
        chain.append(keeping.keep(backup.open_increment(chain[-1].facts)))
    note(guest, 4)
    return chain


# -- copies -----


def test_a_full_copy_and_increments_of_it_hold_what_was_there(guest: Guest) -> None:
    chain = chain_of(guest)
    full = len(keeping.data_of(chain[0]))
    assert full > keeping.backup_of(guest).estimate_bytes() // 2
    for kept in chain[1:]:
        assert len(keeping.data_of(kept)) < full / 2
    facts: dict[str, Any] = {}
    with restored(guest, base.Recovery(chain=chain), facts=facts) as server:
        assert journal_of(server) == [1, 2, 3]
    assert abs(facts["restored_to_s"] - time.time()) < 300


def test_a_copy_is_checked_and_damage_is_found(newer: Guest) -> None:
    guest = newer
    make_journal(guest)
    for number in range(20):
        note(guest, number, size=1000)
    ((relation,),) = execute(guest, "SELECT pg_relation_filepath('public.journal')")
    full = keeping.keep(keeping.backup_of(guest).open_full())
    work = guest.layout.mount_point / "data.restored"
    backup = keeping.backup_of(guest)
    try:
        backup.restore(base.Recovery(chain=[full]), work)
        findings = backup.verify(work)
        assert findings["check"] == "pg_checksums, pg_amcheck"
        assert findings["objects"] > 300
        assert findings["blocks"] > 1000
        with open(work / relation, "r+b") as stream:
            stream.seek(5000)
            stream.write(b"damage")
        with pytest.raises(exception.GuestError, match="1 pages of the database are damaged"):
            backup.verify(work)
        with private.running(
            program=program_of(guest), data=work, owner=guest.layout.engine_user
        ) as left:
            left.await_ready()
            # as the next agent does with what a killed one left
            private.end_former(work)
            with pytest.raises(private.Ended):
                left.await_ready()
    finally:
        filesystem.remove_tree(work)


def test_a_damaged_copy_is_refused(older: Guest) -> None:
    make_journal(older)
    full = keeping.keep(keeping.backup_of(older).open_full())
    data = bytearray(keeping.data_of(full))
    data[len(data) // 2] ^= 1
    assert "is not what was copied" in refused(
        older, base.Recovery(chain=[keeping.kept(bytes(data), dict(full.facts))])
    )


def test_what_cannot_be_restored_here_is_refused(guest: Guest) -> None:
    chain = chain_of(guest)
    backup = keeping.backup_of(guest)
    first, second, third = chain
    for facts in (
        {**first.facts, "manager": "mariadb"},
        {**first.facts, "format": 99},
        {**first.facts, "major": 14, "engine_version": "14.1"},
    ):
        with pytest.raises(exception.GuestError):
            backup.check(facts)
    assert "does not begin" in refused(guest, base.Recovery(chain=[second, third]))
    assert "another parent" in refused(guest, base.Recovery(chain=[first, third]))
    another = keeping.kept(b"", {**second.facts, "incarnation": "0" * 32})
    assert "another history" in refused(guest, base.Recovery(chain=[first, another]))


def test_increments_start_from_a_copy_of_this_history_alone(guest: Guest) -> None:
    chain = chain_of(guest)
    backup = keeping.backup_of(guest)
    facts = chain[0].facts
    for changes in (
        {"incarnation": "0" * 32},
        {"timeline": 7},
        {"major": 14},
        {"manager": "redis"},
    ):
        with pytest.raises(exception.GuestError, match="make a full backup"):
            backup.open_increment({**facts, **changes})
    if facts["major"] < copies.FIRST_WITH_INCREMENTS:
        # the log since then is let go of once an increment was made of a later one
        execute(guest, "SELECT pg_switch_wal()")
        note(guest, 5)
        execute(guest, "SELECT pg_switch_wal()")
        fourth = keeping.keep(backup.open_increment(chain[-1].facts))
        keeping.keep(backup.open_increment(fourth.facts))
        facts = {**facts, "resume_lsn": "0/400000"}
    else:
        facts = {**facts, "id": "unknown"}
    with pytest.raises(exception.GuestError, match="make a full backup"):
        backup.open_increment(facts)


def test_a_nearly_full_disk_keeps_no_log_for_increments(older: Guest) -> None:
    chain = chain_of(older)
    assert older.datastore is not None
    older.datastore.service.set_read_only(True)
    try:
        with pytest.raises(exception.GuestError, match="make a full backup"):
            keeping.backup_of(older).open_increment(chain[-1].facts)
        full = keeping.keep(keeping.backup_of(older).open_full())
    finally:
        older.datastore.service.set_read_only(False)
    keeping.keep(keeping.backup_of(older).open_increment(full.facts))


def test_a_killed_tool_fails_the_copy(guest: Guest) -> None:
    stream = keeping.backup_of(guest).open_full()
    assert isinstance(stream, copies.BaseBackup)
    with stream:
        assert stream.read(1000)
        os.kill(stream.pid, signal.SIGKILL)
        with contextlib.suppress(exception.GuestError):
            keeping.drain(stream)
        with pytest.raises(exception.GuestError, match="pg_basebackup failed with code -9"):
            stream.finish()
    assert not execute(guest, "SELECT 1 FROM pg_replication_slots WHERE temporary")
    kept = list((guest.layout.volume_agent_dir / "manifests").glob("*.part"))
    assert not kept


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        ('"{tool}" "$@" | head -c 8000000; exit 0', "ends too early"),
        (
            'for each; do shift; case $each in --manifest*) ;; *) set -- "$@" "$each";; esac; done;'
            ' "{tool}" "$@" --no-manifest; exit 0',
            "has no complete manifest",
        ),
        ('"{tool}" "$@"; exit 3', "failed with code 3"),
        ("exit 0", "ends too early"),
    ],
)
def test_a_tool_that_lies_fails_the_copy(older: Guest, script: str, problem: str) -> None:
    with passable_directory() as directory:
        (directory / "bin").mkdir()
        tools = program_of(older).parent
        for name in ("postgres", "pg_controldata"):
            (directory / "bin" / name).symlink_to(tools / name)
        fake = directory / "bin" / copies.PROGRAM
        fake.write_text("#!/bin/sh\n" + script.format(tool=tools / copies.PROGRAM) + "\n")
        fake.chmod(0o755)
        assert older.datastore is not None
        environment = dataclasses.replace(older.environment(), basedir=str(directory))
        copier = copies.Copier(environment, connector_of(older))
        with copier.open_full() as stream:
            keeping.drain(stream)
            with pytest.raises(exception.GuestError, match=problem):
                stream.finish()


# -- the log -----


@pytest.mark.parametrize(("row", "trials"), [("older", TARGETS or 5), ("newer", TARGETS or 3)])
def test_any_moment_of_a_journal_comes_back(
    request: pytest.FixtureRequest, row: str, trials: int
) -> None:
    guest: Guest = request.getfixturevalue(row)
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    make_journal(guest)
    shipped = Shipped(guest).start()
    chain = [keeping.keep(keeping.backup_of(guest).open_full())]
    committed: list[tuple[float, float]] = []
    begins = [0]
    for number in range(100):
        before = time.time()
        note(guest, number, size=chance.choice((10, 1000, 200_000)))
        committed.append((before, time.time()))
        if chance.random() < 0.2:
            shipped.ship(most_bytes=chance.choice((70_000, 1 << 20)))
        if number == 40:
            chain.append(keeping.keep(keeping.backup_of(guest).open_increment(chain[0].facts)))
            begins.append(number + 1)
    shipped.ship()
    assert shipped.as_of_s > committed[-1][1]
    for trial in range(trials):
        which = chance.randrange(2) if trial else 1
        first = begins[which]
        # between the acknowledged commit of a row and the beginning of the next one
        last = chance.randrange(first, 100) if trial else 99
        later = committed[last + 1][0] if last < 99 else shipped.as_of_s
        moment = chance.uniform(committed[last][1], later)
        recovery = base.Recovery(
            chain=chain[: which + 1], logs=shipped.logs, target=base.Target(time_s=moment)
        )
        found = journal_at(guest, recovery)
        assert found == list(range(last + 1)), f"seed {seed}, trial {trial}"


def test_the_log_is_restored_to_names_positions_and_its_end(guest: Guest) -> None:
    make_journal(guest)
    shipped = Shipped(guest).start()
    full = keeping.keep(keeping.backup_of(guest).open_full())
    early = execute(guest, "SELECT pg_current_wal_lsn()::text")[0][0]
    note(guest, 1)
    guest.call("create_databases", payloads.Databases(databases=(payloads.Database(name="shop"),)))
    user = payloads.User(name="joe", password="joe-pw", databases=("shop",))
    guest.call("create_users", payloads.Users(users=(user,)))
    with tenant(guest, "joe", "joe-pw", database="postgres") as session:
        session.execute("SELECT trove_points.mark('before the import')")
        shipped.ship()
        # that alone is something to archive
        assert shipped.ship() == 0
        session.execute("SELECT trove_points.mark('once more')")
        assert shipped.ship() == 1
    note(guest, 2)
    lsn = execute(guest, "SELECT pg_current_wal_lsn()::text")[0][0]
    note(guest, 3)
    shipped.ship()

    def at(**target: Any) -> base.Recovery:
        return base.Recovery(chain=[full], logs=shipped.logs, target=base.Target(**target))

    assert journal_at(guest, at(name="before the import")) == [1]
    # nothing was written since: all that there is
    assert journal_at(guest, at(time_s=time.time())) == [1, 2, 3]
    if full.facts["major"] >= copies.FIRST_WITH_INCREMENTS:
        # what is refused, and how, is the same
        return
    assert journal_at(guest, at(position=lsn)) == [1, 2]
    assert "no restore point" in refused(guest, at(name="never"))
    assert "the log ends at" in refused(guest, at(position="F/0"))
    assert "before the end of the backup" in refused(guest, at(position=early.split("/")[0] + "/1"))
    assert "is an LSN" in refused(guest, at(position="yesterday"))
    assert "one target" in refused(guest, at(position=lsn, name="x"))
    assert "no log" in refused(
        guest, base.Recovery(chain=[full], target=base.Target(time_s=time.time()))
    )


def test_a_log_that_is_not_whole_is_refused(older: Guest) -> None:
    make_journal(older)
    shipped = Shipped(older).start()
    full = keeping.keep(keeping.backup_of(older).open_full())
    for number in range(12):
        note(older, number, size=900_000)
        note(older, number + 100, size=10)
        shipped.ship()
    pieces = list(shipped.pieces)
    middle = len(pieces) // 2

    def given(changed: list[base.Kept]) -> base.Recovery:
        return base.Recovery(chain=[full], logs=lambda: iter(changed))

    assert len(journal_at(older, given(pieces))) == 24
    # the engine itself takes this for the end of the log
    data = bytearray(keeping.data_of(pieces[middle]))
    data[len(data) // 2 : len(data) // 2 + 64] = bytes(64)
    damaged = keeping.kept(bytes(data), dict(pieces[middle].facts))
    assert "the log is damaged" in refused(
        older, given([*pieces[:middle], damaged, *pieces[middle + 1 :]])
    )

    # what the storage finds damaged while it is replayed is told in its words
    def broken() -> Iterator[base.Kept]:
        yield from pieces[:middle]
        raise exception.GuestError(reason="piece 7 is damaged")

    assert "piece 7 is damaged" in refused(older, base.Recovery(chain=[full], logs=broken))


def test_an_idle_server_gives_nothing_to_archive(guest: Guest) -> None:
    make_journal(guest)
    shipped = Shipped(guest).start()
    note(guest, 1)
    shipped.ship()
    archive = keeping.archive_of(guest)
    assert guest.datastore is not None
    for _ in range(3):
        guest.datastore.service.prove_write()
        assert archive.read(shipped.position, most_bytes=_MOST_BYTES) is None
    assert archive.pending_bytes(shipped.position) > 0
    with transaction(guest) as session:
        session.execute("INSERT INTO public.journal VALUES (2, '')")
        # what runs while the log is read may commit later
        note(guest, 3)
        assert shipped.ship() == 1
    assert shipped.ship() == 1


def test_a_lost_log_is_told(guest: Guest) -> None:
    make_journal(guest)
    archive = keeping.archive_of(guest)
    position = archive.start()
    note(guest, 1)
    with pytest.raises(base.LogLost, match="restored"):
        archive.read({**position, "incarnation": "0" * 32}, most_bytes=_MOST_BYTES)
    with pytest.raises(base.LogLost, match="history"):
        archive.read({**position, "timeline": 9}, most_bytes=_MOST_BYTES)
    execute(guest, "ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'")
    connector_of(guest).reload()
    for _ in range(4):
        note(guest, random.randrange(1 << 30))
        execute(guest, "SELECT pg_switch_wal()")

    def is_lost() -> bool:
        # newer servers keep what they have not summarized yet
        execute(guest, "CHECKPOINT")
        with connector_of(guest).session() as session:
            slot = slots.find(session, slots.ARCHIVE)
        return slot is not None and slot.lsn is None

    wait_until(is_lost)
    execute(guest, "ALTER SYSTEM RESET max_slot_wal_keep_size")
    connector_of(guest).reload()
    with pytest.raises(base.LogLost, match="than the database keeps"):
        archive.pending_bytes(position)
    archive.stop()
    archive.stop()
    with pytest.raises(base.LogLost, match="no longer keeps"):
        archive.read(position, most_bytes=_MOST_BYTES)
    shipped = Shipped(guest).start()
    note(guest, 2)
    assert shipped.ship() >= 1


# -- tenants -----


def test_no_tenant_copies_the_server_or_touches_its_log(guest: Guest) -> None:
    keeping.archive_of(guest).start()
    guest.call("enable_root", payloads.EnableRoot(password="r"))
    try:
        with tenant(guest, "postgres", "r", database="postgres") as session:
            for statement in (
                f"SELECT pg_drop_replication_slot('{slots.ARCHIVE}')",
                f"SELECT pg_replication_slot_advance('{slots.ARCHIVE}', pg_current_wal_lsn())",
                "SELECT pg_create_physical_replication_slot('mine', true)",
                "SELECT pg_create_logical_replication_slot('mine', 'test_decoding')",
                "CREATE ROLE copier LOGIN REPLICATION",
                "ALTER ROLE CURRENT_USER REPLICATION",
                "SELECT pg_read_binary_file('pg_wal/' || pg_walfile_name(pg_current_wal_lsn()))",
                "SELECT pg_switch_wal()",
                "SELECT pg_create_restore_point('x')",
                "CREATE EXTENSION pg_walinspect",
                "CREATE TABLESPACE mine LOCATION '/tmp'",
                "ALTER SYSTEM SET max_slot_wal_keep_size = 0",
                "CREATE SUBSCRIPTION s CONNECTION 'host=127.0.0.1' PUBLICATION p",
            ):
                with pytest.raises(psycopg.Error) as e:
                    session.execute(statement)
                assert e.value.sqlstate in ("42501", "0A000", "58P01", "42704"), statement
        for database in ("postgres", "replication"):
            with pytest.raises(
                psycopg.OperationalError, match=r"pg_hba|permission denied|must be superuser"
            ):
                psycopg.connect(
                    host=guest.address,
                    user="postgres",
                    password="r",
                    dbname=database,
                    replication="true" if database == "postgres" else "database",  # type: ignore[arg-type]
                )
    finally:
        guest.call("disable_root", payloads.Empty())
    assert execute(guest, "SELECT 1 FROM pg_replication_slots WHERE slot_name = %s", slots.ARCHIVE)


# -- the service on what was restored -----


@pytest.mark.parametrize("row", ["postgresql-15", "postgresql-18"])
def test_a_restored_database_runs_with_its_accounts_and_begins_anew(row: str) -> None:
    with running(row) as guest:
        assert guest.agent is not None
        secured = secure(guest)
        guest.call(
            "create_databases", payloads.Databases(databases=(payloads.Database(name="shop"),))
        )
        user = payloads.User(name="joe", password="joe-pw", databases=("shop",))
        guest.call("create_users", payloads.Users(users=(user,)))
        with tenant(guest, "joe", "joe-pw") as session:
            session.execute("CREATE TABLE kept AS SELECT 1 AS id")
        shipped = Shipped(guest).start()
        full = keeping.keep(keeping.backup_of(guest).open_full())
        with tenant(guest, "joe", "joe-pw") as session:
            session.execute("INSERT INTO kept VALUES (2)")
            moment = time.time()
            session.execute("DROP TABLE kept")
        shipped.ship()
        guest.agent.supervisor.power_off(60)
        guest.stop_agent()
        work = guest.layout.mount_point / "data.restored"
        keeping.backup_of(guest).restore(
            base.Recovery(chain=[full], logs=shipped.logs, target=base.Target(time_s=moment)),
            work,
        )
        filesystem.remove_tree(guest.layout.data_dir)
        work.rename(guest.layout.data_dir)
        guest.start_agent()
        guest.wait_status("HEALTHY")
        with tenant(guest, "joe", "joe-pw", **secured) as session:
            assert session.execute("SELECT id FROM kept ORDER BY id").fetchall() == [(1,), (2,)]
        users = guest.call("list_users", payloads.Page(limit=10)).users
        assert [(each.name, each.databases) for each in users] == [("joe", ("shop",))]
        # it is another history: what belongs to the former one is not mixed with it
        with pytest.raises(base.LogLost):
            keeping.archive_of(guest).read(shipped.position, most_bytes=_MOST_BYTES)
        with pytest.raises(exception.GuestError, match="make a full backup"):
            keeping.backup_of(guest).open_increment(full.facts)
        again = keeping.keep(keeping.backup_of(guest).open_full())
        assert again.facts["incarnation"] != full.facts["incarnation"]
        assert again.facts["timeline"] == full.facts["timeline"] + 1
        keeping.keep(keeping.backup_of(guest).open_increment(again.facts))
