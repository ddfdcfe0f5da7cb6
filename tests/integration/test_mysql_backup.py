"""Backups of a real MariaDB, its archived log, and the databases that are made from them.

Restored databases are looked into with a private server, on a socket; one is put in place and
started as it would be on an instance.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import pathlib
import random
import signal
import stat
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pymysql
import pytest

from tests.fixtures import keeping
from tests.fixtures.engine import (
    Authority,
    Guest,
    mariadb_template,
    needs_mariadb,
    passable_directory,
)
from tests.fixtures.lateness import Lateness
from tests.fixtures.shipping import Shipper
from tests.fixtures.waiting import wait_until
from trove.common import exception
from trove.datastores import mysql
from trove.guestagent.datastores import base
from trove.guestagent.datastores.mysql import archive, binlog, dialect, private
from trove.guestagent.system import filesystem, process
from trove.rpc import payloads

__all__ = ["mariadb_template"]

pytestmark = [
    needs_mariadb,
    pytest.mark.skipif(
        process.find_program("mariabackup", basedir=None) is None,
        reason="mariabackup is not installed (apt install mariadb-backup)",
    ),
]

PASSWORD = "s3cret-Word"
ALICE = payloads.User(name="alice", password=PASSWORD, databases=("app",))
#: How exact times are: agent, server and test share two CPUs with others.
SLACK_S = 0.02
#: Times to restore to; tools that try many more set it.
TARGETS = int(os.environ.get("TROVE_TEST_RESTORE_TARGETS", "4"))


@contextlib.contextmanager
def _prepared(template: pathlib.Path) -> Iterator[Guest]:
    with passable_directory() as directory:
        guest = Guest(directory=directory, template=template)
        try:
            guest.start_agent()
            assert guest.datastore is not None
            authority = Authority()
            request = guest.datastore.service.certificate_request() or ""
            guest.prepare(
                databases=(payloads.Database(name="app"),),
                users=(ALICE,),
                certificate_pem=authority.sign(request, address=guest.address),
                ca_pem=authority.pem,
            )
            guest.wait_status("HEALTHY")
            yield guest
        finally:
            if guest.datastore is not None:
                part = guest.datastore.archive
                assert isinstance(part, archive.BinlogArchive)
                part.close()
            guest.destroy()


@pytest.fixture(scope="module")
def running(mariadb_template: pathlib.Path) -> Iterator[Guest]:
    """Give an instance of the smallest size with a database and a user."""
    with _prepared(mariadb_template) as guest:
        yield guest


def _cursor(guest: Guest, user: str = "alice", password: str = PASSWORD) -> Any:
    return guest.connect(user, password, database="app", autocommit=True).cursor()


@contextlib.contextmanager
def _work(guest: Guest) -> Iterator[pathlib.Path]:
    """Give the path of a directory to restore to, which is not there yet."""
    work = guest.layout.mount_point / "data.restored"
    try:
        yield work
    finally:
        filesystem.remove_tree(work)
        left = [path.name for path in guest.layout.mount_point.glob("data.restored*")]
        assert left == []
        assert list(guest.layout.secret_dir.glob("*.cnf")) == []
        assert list(guest.layout.agent_dir.glob("*.log")) == []


def _server(guest: Guest, work: pathlib.Path) -> private.PrivateServer:
    return private.PrivateServer(
        dialect.MARIADB,
        guest.environment(),
        data_dir=work,
        redo_log_mib=16,
        memory_mib=16,
        explain=lambda _, text: text,
    )


@contextlib.contextmanager
def _served(guest: Guest, work: pathlib.Path) -> Iterator[Any]:
    """Give a session with a server on a restored database."""
    with _server(guest, work) as server:
        with server.connector.session() as session:
            yield session
        server.stop()


# -- copies -----


def test_a_full_copy_and_two_increments_become_the_database_as_it_was(running: Guest) -> None:
    backup = keeping.backup_of(running)
    cursor = _cursor(running)
    cursor.execute("CREATE TABLE chain (id INT PRIMARY KEY, word TEXT)")
    cursor.execute("CREATE TABLE plain (id INT) ENGINE = MyISAM")
    # what is no fault of a backup
    cursor.execute("CREATE TABLE gone (id INT)")
    cursor.execute("CREATE VIEW blind AS SELECT * FROM gone")
    cursor.execute("DROP TABLE gone")
    cursor.execute("CREATE TABLE fleeting (id INT) ENGINE = MEMORY")
    cursor.execute("CREATE TABLE listed (id INT NOT NULL) ENGINE = CSV")
    cursor.execute("CREATE SEQUENCE numbers")
    chain: list[base.Kept] = []
    for number in range(3):
        cursor.execute("INSERT INTO chain VALUES (%s, REPEAT('x', 5000))", (number,))
        cursor.execute("INSERT INTO plain VALUES (%s)", (number,))
        stream = backup.open_increment(chain[-1].facts) if chain else backup.open_full()
        chain.append(keeping.keep(stream))
    estimate = backup.estimate_bytes()
    assert 0.7 < estimate / chain[0].facts["data_bytes"] < 1.4
    assert [kept.facts["kind"] for kept in chain] == ["full", "increment", "increment"]
    assert chain[2].facts["from_lsn"] == chain[1].facts["to_lsn"]
    assert chain[0].facts["engine_version"].startswith("10.")
    assert running.datastore is not None
    for secret in (running.environment().store.password(mysql.AGENT_USER), "s3cret"):
        assert secret not in str([dict(kept.facts) for kept in chain])
    for count in (1, 3):
        with _work(running) as work:
            facts = backup.restore(base.Recovery(chain=chain[:count]), work)
            assert facts["restored_to_s"] == chain[count - 1].facts["consistent_s"]
            assert stat.S_IMODE(work.stat().st_mode) == 0o700
            assert {path.stat().st_uid for path in work.rglob("*")} == {work.stat().st_uid}
            assert not list(work.glob("xtrabackup*"))
            if count == 3:
                findings = backup.verify(work)
                assert findings["check"] == "mariadb-check"
                assert findings["objects"] > 25
            with _served(running, work) as session:
                ids = tuple((number,) for number in range(count))
                assert session.execute("SELECT id FROM app.chain ORDER BY id") == ids
                assert session.execute("SELECT id FROM app.plain ORDER BY id") == ids


def test_a_parent_of_another_history_is_refused(running: Guest) -> None:
    backup = keeping.backup_of(running)
    facts = {
        "history": (running.layout.data_dir / ".trove-history").read_text()
        if (running.layout.data_dir / ".trove-history").exists()
        else "",
        "engine_version": _version(running),
        "to_lsn": 1,
    }
    for wrong, reason in (
        ({"history": "another"}, "another database"),
        ({"engine_version": "10.11.1"}, "10.11.1"),
        ({"to_lsn": 1 << 60}, "later state"),
        ({"to_lsn": None}, "position"),
    ):
        with pytest.raises(exception.GuestError, match=f"{reason}.*make a full backup"):
            backup.open_increment({**facts, **wrong})


def _version(guest: Guest) -> str:
    assert guest.datastore is not None
    return guest.datastore.service.ping()


def _copied(guest: Guest, tool: str, script: str) -> base.Stream:
    """Begin a copy with a program in the place of mariabackup."""
    assert guest.datastore is not None
    basedir = guest.directory / tool
    (basedir / "bin").mkdir(parents=True, exist_ok=True)
    program = basedir / "bin" / "mariabackup"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    server = process.find_program("mariadbd", basedir=None)
    assert server is not None
    if not (basedir / "bin" / "mariadbd").exists():
        (basedir / "bin" / "mariadbd").symlink_to(server)
    guest.directory.chmod(0o755)
    environment = dataclasses.replace(guest.environment(), basedir=str(basedir))
    made = guest.row_engine.maker(environment)
    assert isinstance(made.backup, base.Backup)
    return made.backup.open_full()


@pytest.mark.parametrize(
    ("tool", "script", "reason"),
    [
        ("nothing", "exit 0", "did not say why"),
        ("code", 'exec mariabackup "$@" --no-such-option', "no-such-option"),
        ("quiet", 'mariabackup "$@" 2>/dev/null', "did not say why"),
        ("liar", 'mariabackup "$@" >/dev/null; echo "completed OK!" >&2', "ended too early"),
        ("short", 'mariabackup "$@" | head -c 9000000; echo "completed OK!" >&2', "in the middle"),
        ("other", 'mariabackup "$@" | tr X Y', "damaged"),
        ("late", 'mariabackup "$@"; exit 3', "code 3"),
    ],
)
def test_a_tool_that_fails_or_lies_makes_no_backup(
    running: Guest, tool: str, script: str, reason: str
) -> None:
    stream = _copied(running, tool, script)
    with pytest.raises(exception.GuestError, match=reason):
        keeping.keep(stream)
    assert list(running.layout.secret_dir.glob("*.cnf")) == []
    assert list(running.layout.agent_dir.glob("backup-*")) == []


def _tool(guest: Guest) -> process.Identity:
    """Return the running mariabackup of an instance, and of no other."""
    (options,) = guest.layout.secret_dir.glob("backup-*.cnf")
    found = process.find_by_argument(f"--defaults-file={options}")
    assert found is not None
    return found


def test_a_tool_that_is_killed_makes_no_backup_and_closing_ends_it(running: Guest) -> None:
    backup = keeping.backup_of(running)
    with backup.open_full() as stream:
        stream.read(1000)
        tool = _tool(running)
        # the password is not on its command line, nor in its environment
        for name in ("cmdline", "environ"):
            shown = pathlib.Path(f"/proc/{tool.pid}/{name}").read_bytes()
            assert running.environment().store.password(mysql.AGENT_USER).encode() not in shown
        os.kill(tool.pid, signal.SIGKILL)
        with contextlib.suppress(exception.GuestError):
            keeping.drain(stream)
        with pytest.raises(exception.GuestError):
            stream.finish()
    with backup.open_full() as stream:
        stream.read(1000)
        tool = _tool(running)
        with pytest.raises(exception.GuestError, match="not read to its end"):
            stream.finish()
    assert not process.is_alive(tool)


def test_what_cannot_be_restored_is_refused_and_leaves_nothing(running: Guest) -> None:
    backup = keeping.backup_of(running)
    full = keeping.keep(backup.open_full())
    data = keeping.data_of(full)
    facts = dict(full.facts)
    for changed, reason in (
        ({"manager": "postgresql"}, "not of mariadb"),
        ({"engine_version": "11.4.2"}, "instance of 11.4"),
        ({"kind": "increment"}, "not full"),
        ({"format": 2}, "later release"),
    ):
        recovery = base.Recovery(chain=[keeping.kept(data, {**facts, **changed})])
        with _work(running) as work, pytest.raises(exception.GuestError, match=reason):
            backup.restore(recovery, work)
    stranger = keeping.kept(data, {**facts, "kind": "increment", "from_lsn": 3})
    with _work(running) as work, pytest.raises(exception.GuestError, match="does not follow"):
        backup.restore(base.Recovery(chain=[full, stranger]), work)
    for cut in (data[:-200], data[: len(data) // 2], b""):
        with _work(running) as work, pytest.raises(exception.GuestError):
            backup.restore(base.Recovery(chain=[keeping.kept(cut, facts)]), work)


def test_a_server_that_a_killed_agent_left_is_ended(running: Guest) -> None:
    backup = keeping.backup_of(running)
    full = keeping.keep(backup.open_full())
    with _work(running) as work:
        backup.restore(base.Recovery(chain=[full]), work)
        left = _server(running, work)
        left.start()
        option = f"--defaults-file={running.layout.engine_dir / 'private.cnf'}"
        former = process.find_by_argument(option)
        assert former is not None
        # not on the network, not of root
        shown = pathlib.Path(f"/proc/{former.pid}/status").read_text()
        assert f"Uid:\t{running.layout.engine_user.uid}\t" in shown
        # the engine of the instance comes first
        assert os.getpriority(os.PRIO_PROCESS, former.pid) == 10
        assert pathlib.Path(f"/proc/{former.pid}/oom_score_adj").read_text() == "500\n"
        with _served(running, work) as session:
            assert not process.is_alive(former)
            assert session.execute("SELECT @@skip_networking, @@log_bin") == ((1, 0),)
        left.close()


def test_a_damaged_table_does_not_pass_the_check(running: Guest) -> None:
    backup = keeping.backup_of(running)
    cursor = _cursor(running)
    cursor.execute("CREATE TABLE damaged (id INT PRIMARY KEY, word TEXT)")
    for number in range(200):
        cursor.execute("INSERT INTO damaged VALUES (%s, REPEAT('x', 4000))", (number,))
    full = keeping.keep(backup.open_full())
    with _work(running) as work:
        backup.restore(base.Recovery(chain=[full]), work)
        with open(work / "app" / "damaged.ibd", "r+b") as stream:
            stream.seek(16384 * 12 + 5000)
            stream.write(b"\xff" * 64)
        with pytest.raises(exception.GuestError, match="damaged"):
            backup.verify(work)
    cursor.execute("DROP TABLE damaged")


# -- the log -----


class Journal:
    """Rows that are committed one after the other, and when."""

    def __init__(self, guest: Guest, table: str, *, seed: int) -> None:
        """Make the table."""
        self._cursor = _cursor(guest)
        self._table = table
        self._random = random.Random(seed)
        self._pause = threading.Event()
        #: Number, before it was asked for, after it was answered.
        self.rows: list[tuple[int, float, float]] = []
        self._cursor.execute(f"CREATE TABLE {table} (id INT PRIMARY KEY, word TEXT)")

    def write(self, count: int) -> None:
        """Commit rows with short pauses."""
        for _ in range(count):
            number, before_s = len(self.rows), time.time()
            self._cursor.execute(f"INSERT INTO {self._table} VALUES (%s, 'x')", (number,))
            self.rows.append((number, before_s, time.time()))
            self._pause.wait(self._random.uniform(0, 0.03))

    def count(self, *, begun_s: float = math.inf, committed_s: float = math.inf) -> int:
        """Return how many rows were asked for, and answered, by certain times."""
        return sum(before <= begun_s and after <= committed_s for _, before, after in self.rows)


@dataclasses.dataclass(frozen=True, kw_only=True)
class History:
    """A backup, the log behind it, and what was written meanwhile."""

    guest: Guest
    full: base.Kept
    pieces: Sequence[base.Kept]
    journal: Journal
    seed: int
    #: How far the time of a transaction may be off: that of an idle machine, and what this one was.
    slack_s: float

    def restore(self, work: pathlib.Path, **target: Any) -> dict[str, Any]:
        """Restore to a target."""
        backup = keeping.backup_of(self.guest)
        return backup.restore(
            base.Recovery(
                chain=[self.full],
                logs=lambda: iter(self.pieces),
                target=base.Target(**target),
            ),
            work,
        )


@pytest.fixture(scope="module")
def history(running: Guest) -> History:
    """Give a backup in the middle of writes, and pieces of the log cut anywhere."""
    backup, log = keeping.backup_of(running), keeping.archive_of(running)
    seed = random.SystemRandom().randrange(2**32)
    journal = Journal(running, "journal", seed=seed)
    shipper = Shipper(log)
    with Lateness() as lateness:
        journal.write(10)
        writer = threading.Thread(target=journal.write, args=(40,))
        writer.start()
        full = keeping.keep(backup.open_full())
        writer.join()
        for _ in range(3):
            journal.write(25)
            shipper.ship_all(most_bytes=3000)
    assert len(shipper.pieces) > 6
    return History(
        guest=running,
        full=full,
        pieces=shipper.pieces,
        journal=journal,
        seed=seed,
        slack_s=SLACK_S + 2 * lateness.most_s,
    )


def _ids(guest: Guest, work: pathlib.Path) -> list[int]:
    with _served(guest, work) as session:
        rows = session.execute("SELECT id FROM app.journal ORDER BY id")
    return [int(number) for (number,) in rows]


def test_random_times_give_exactly_the_rows_of_a_journal(history: History) -> None:
    rows = history.journal.rows
    chance = random.Random(history.seed)
    earliest_s = float(history.full.facts["consistent_s"])
    for _ in range(TARGETS):
        time_s = chance.uniform(earliest_s, rows[-1][2] + 0.01)
        with _work(history.guest) as work:
            facts = history.restore(work, time_s=time_s)
            found = _ids(history.guest, work)
        sure = history.journal.count(committed_s=time_s - history.slack_s)
        possible = history.journal.count(begun_s=time_s + history.slack_s)
        told = f"seed {history.seed}, time {time_s}, {sure} to {possible} rows"
        assert found == list(range(len(found))), told
        assert sure <= len(found) <= possible, told
        assert facts["restored_to_s"] == time_s


def test_a_transaction_is_the_last_one_to_be_replayed(history: History) -> None:
    _, server, begin = map(int, history.full.facts["gtid"].split("-"))
    last = begin + 30
    with _work(history.guest) as work:
        facts = history.restore(work, position=f"0-{server}-{last}")
        assert (work / "mysql-bin.state").read_text() == f"0-{server}-{last}\n"
        found = _ids(history.guest, work)
    assert facts["transactions"] == 30
    # of the journal's rows the table itself was the first transaction
    assert len(found) == found[-1] + 1
    assert found[-1] - facts["transactions"] < len(history.journal.rows)
    with _work(history.guest) as work:
        history.restore(work)
        assert _ids(history.guest, work) == [number for number, _, _ in history.journal.rows]
    for position, reason in (
        (f"0-{server}-{begin - 1}", "later than"),
        (f"0-{server}-{last + 10**6}", "does not have"),
        ("ten past four", "no position"),
    ):
        with _work(history.guest) as work, pytest.raises(exception.GuestError, match=reason):
            history.restore(work, position=position)
    with _work(history.guest) as work, pytest.raises(exception.GuestError, match="names"):
        history.restore(work, name="before the sale")
    with _work(history.guest) as work, pytest.raises(exception.GuestError, match="later than"):
        history.restore(work, time_s=float(history.full.facts["began_s"]) - 1)


def _of_another_log(piece: base.Kept) -> base.Kept:
    """Return a piece as it would be after RESET MASTER."""
    parts = [{**part, "digest": "another"} for part in piece.facts["ranges"]]
    return dataclasses.replace(piece, facts={**piece.facts, "ranges": parts})


def test_a_log_with_a_gap_or_damage_is_refused(history: History) -> None:
    pieces = list(history.pieces)
    middle = len(pieces) // 2
    data = bytearray(keeping.data_of(pieces[middle]))
    data[len(data) // 2] ^= 0x10
    for broken, reason in (
        (pieces[:middle] + pieces[middle + 1 :], "gap"),
        (pieces[-2:], "behind the backup"),
        (
            [*pieces[:middle], keeping.kept(bytes(data), dict(pieces[middle].facts))],
            "damaged|cannot be re",
        ),
        ([_of_another_log(piece) for piece in pieces], "begun anew"),
    ):
        changed = dataclasses.replace(history, pieces=broken)
        with _work(history.guest) as work, pytest.raises(exception.GuestError, match=reason):
            changed.restore(work)


def test_reading_the_log_of_an_idle_server_costs_nothing(running: Guest) -> None:
    log = keeping.archive_of(running)
    shipper = Shipper(log)
    assert not shipper.ship()
    before = _questions(running)
    # of this thread alone: the machine may be busy
    began = time.thread_time()
    for _ in range(100):
        assert not shipper.ship()
        assert log.pending_bytes(shipper.position) == 0
    assert (time.thread_time() - began) / 100 < 0.001
    assert _questions(running) - before <= 3


def _questions(guest: Guest) -> int:
    """Return how many statements of this kind the server was asked."""
    assert guest.datastore is not None
    with guest.datastore.service.connector.session() as session:  # type: ignore[attr-defined]
        rows = session.execute("SHOW GLOBAL STATUS LIKE 'Com_show_binlog_status'")
        rows = rows or session.execute("SHOW GLOBAL STATUS LIKE 'Com_show_master_status'")
    return int(rows[0][1])


def test_who_removes_the_log_or_begins_it_anew_is_noticed(running: Guest) -> None:
    log = keeping.archive_of(running)
    assert running.datastore is not None
    root = running.datastore.root
    assert isinstance(root, base.Root)
    root.enable("Root-s3cret")
    cursor, admin = _cursor(running), _cursor(running, "root", "Root-s3cret")
    cursor.execute("CREATE TABLE lost (id INT)")
    # users without root may not write past the log
    for statement in ("SET SESSION sql_log_bin = 0", "RESET MASTER", "PURGE BINARY LOGS TO 'x'"):
        with pytest.raises(pymysql.err.OperationalError):
            cursor.execute(statement)

    def purge() -> None:
        admin.execute("FLUSH BINARY LOGS")
        admin.execute("FLUSH BINARY LOGS")
        admin.execute("SHOW MASTER STATUS")
        newest = admin.fetchall()[0][0]
        former = running.layout.data_dir / binlog.name_of(binlog.number_of(newest) - 1)

        def is_gone() -> bool:
            # the server does not while it could need the file after a crash
            admin.execute("PURGE BINARY LOGS TO %s", (newest,))
            return not former.exists()

        wait_until(is_gone, what="the end of the former files")

    def reset() -> None:
        admin.execute("RESET MASTER")

    def reset_and_write() -> None:
        admin.execute("RESET MASTER")
        for _ in range(3):
            admin.execute("INSERT INTO lost VALUES (1)")

    for lose in (purge, reset, reset_and_write):
        shipper = Shipper(log)
        cursor.execute("INSERT INTO lost VALUES (0)")
        # a file that nothing was written to is known by the second in which it was made
        made = running.layout.data_dir / shipper.position["file"]
        wait_until(lambda made=made: time.time() >= int(made.stat().st_mtime) + 1)
        lose()
        with pytest.raises(base.LogLost):
            pytest.fail(f"{lose.__name__}: {shipper.ship()}")
        with contextlib.suppress(base.LogLost):
            log.pending_bytes(shipper.position)
    # of a new epoch nothing is missing
    shipper = Shipper(log)
    cursor.execute("INSERT INTO lost VALUES (0)")
    assert shipper.ship()
    root.disable()


def test_the_server_keeps_its_log_until_it_was_read_and_no_longer(running: Guest) -> None:
    log = keeping.archive_of(running)
    assert running.datastore is not None
    connector = running.datastore.service.connector  # type: ignore[attr-defined]

    def expiry() -> tuple[int, bool]:
        text = (running.layout.engine_dir / "my.cnf").read_text()
        with connector.session() as session:
            days = int(session.execute("SELECT @@GLOBAL.expire_logs_days")[0][0])
        return days, "expire-logs-days = 0" in text

    def files() -> int:
        return len(list(running.layout.data_dir.glob("mysql-bin.0*")))

    shipper = Shipper(log)
    assert expiry() == (0, True)
    with connector.session() as session:
        for number in range(3):
            _cursor(running).execute(f"CREATE TABLE flushed{number} (id INT)")
            session.execute("FLUSH BINARY LOGS")
    assert files() >= 4
    # several files in one piece
    assert shipper.ship()
    assert len(shipper.pieces[0].facts["ranges"]) >= 4
    wait_until(lambda: (log.release(shipper.position), files() == 1)[1], what="removed files")
    assert not shipper.ship()
    with connector.session() as session:
        session.execute("FLUSH BINARY LOGS")
    # what waited may be what fills the disk
    wait_until(lambda: (log.stop(), files() == 1)[1], what="the end of the log")
    assert expiry() == (1, False)


# -- a whole life -----


def test_what_happened_is_replayed_and_the_database_starts_as_an_instance(
    mariadb_template: pathlib.Path,
) -> None:
    with _prepared(mariadb_template) as guest:
        backup, log = keeping.backup_of(guest), keeping.archive_of(guest)
        shipper = Shipper(log)
        full = keeping.keep(backup.open_full())
        _live(guest, shipper)
        expected = _everything(guest)
        last = shipper.position
        with _prepared(mariadb_template) as other:
            _start_restored(other, [full], shipper.pieces)
            assert _everything(other) == expected
            # its transactions go on, and so does nothing of the other's log
            _cursor(other).execute("INSERT INTO events VALUES (500, 'new')")
            theirs = keeping.archive_of(other)
            with pytest.raises(base.LogLost):
                theirs.read(last, most_bytes=1 << 20)
            increment_of_other = pytest.raises(exception.GuestError, match="another database")
            their_backup = keeping.backup_of(other)
            with increment_of_other:
                their_backup.open_increment(full.facts)


def _live(guest: Guest, shipper: Shipper) -> None:
    """Do what databases do, and crash twice."""
    assert guest.datastore is not None
    root = guest.datastore.root
    assert isinstance(root, base.Root)
    root.enable("Root-s3cret")
    cursor, admin = _cursor(guest), _cursor(guest, "root", "Root-s3cret")
    cursor.execute("CREATE TABLE events (id INT PRIMARY KEY, word LONGTEXT)")
    # a transaction that is prepared in one piece and committed in another
    for statement in ("XA START 'x'", "INSERT INTO events VALUES (1, 'xa')", "XA END 'x'"):
        cursor.execute(statement)
    cursor.execute("XA PREPARE 'x'")
    shipper.ship()
    _cursor(guest).execute("INSERT INTO events VALUES (2, 'between')")
    cursor.execute("XA COMMIT 'x'")
    shipper.ship()
    # larger than a piece is to be
    cursor.execute("INSERT INTO events VALUES (3, REPEAT('q', 3000000))")
    cursor.execute("CREATE TABLE others (id INT) ENGINE = MyISAM")
    cursor.execute("BEGIN")
    cursor.execute("INSERT INTO events VALUES (4, 'x')")
    cursor.execute("INSERT INTO others VALUES (4)")
    cursor.execute("ROLLBACK")
    admin.execute(
        "CREATE TRIGGER twice BEFORE INSERT ON others FOR EACH ROW SET NEW.id = NEW.id * 2"
    )
    cursor.execute("INSERT INTO others VALUES (21)")
    cursor.execute("CREATE TABLE copied AS SELECT * FROM events")
    # a session that lies about the time
    cursor.execute("SET timestamp = 4000000000")
    cursor.execute("INSERT INTO events VALUES (5, 'later')")
    cursor.execute("SET timestamp = DEFAULT")
    admin.execute("CREATE USER carol IDENTIFIED BY 'Carol-s3cret'")
    admin.execute("GRANT SELECT ON app.* TO carol")
    admin.execute(
        "CREATE EVENT often ON SCHEDULE EVERY 1 SECOND DO INSERT INTO app.events VALUES (0, '')"
    )
    # the account that the replay itself uses
    admin.execute("DROP USER os_admin@localhost")
    admin.execute("ALTER TABLE events ADD COLUMN extra INT DEFAULT 7, ALGORITHM = COPY")
    admin.execute("ALTER TABLE events DROP COLUMN extra")
    writer = threading.Thread(target=_write_until_it_ends, args=(guest,))
    writer.start()
    wait_until(lambda: _count(guest) > 20, what="rows before the crash")
    identity = guest.engine()
    assert identity is not None
    os.kill(identity.pid, signal.SIGKILL)
    writer.join()
    wait_until(lambda: guest.engine() not in (None, identity), what="the engine's restart")
    wait_until(lambda: _try_write(guest), what="writes after the crash")
    shipper.ship_all(most_bytes=1 << 20)


def _write_until_it_ends(guest: Guest) -> None:
    with contextlib.suppress(pymysql.err.MySQLError):
        cursor = _cursor(guest)
        for number in range(1000, 10**6):
            cursor.execute("INSERT INTO events VALUES (%s, REPEAT('w', 5000))", (number,))


def _count(guest: Guest) -> int:
    with guest.connect("alice", "s3cret-Word", database="app") as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT COUNT(*) FROM events WHERE id >= 1000")
        return int(cursor.fetchall()[0][0])


def _try_write(guest: Guest) -> bool:
    try:
        _cursor(guest).execute("INSERT INTO events VALUES (6, 'after the crash')")
    except pymysql.err.MySQLError:
        return False
    return True


def _everything(guest: Guest) -> list[Any]:
    with guest.connect("root", "Root-s3cret", database="app") as connection:
        cursor = connection.cursor()
        found = []
        for statement in (
            "SELECT * FROM events ORDER BY id",
            "SELECT * FROM others ORDER BY id",
            "SELECT * FROM copied ORDER BY id",
            "SELECT User, Host FROM mysql.user ORDER BY 1, 2",
            "SHOW GRANTS FOR carol",
            "SHOW TRIGGERS",
            "SELECT @@GLOBAL.gtid_binlog_state",
        ):
            cursor.execute(statement)
            found.append(cursor.fetchall())
        return found


def _start_restored(guest: Guest, chain: list[base.Kept], pieces: list[base.Kept]) -> None:
    """Put a restored database in the place of an instance's own, and start it."""
    backup = keeping.backup_of(guest)
    assert guest.agent is not None
    assert guest.datastore is not None
    work = guest.layout.mount_point / "data.restored"
    backup.restore(base.Recovery(chain=chain, logs=lambda: iter(pieces)), work)
    guest.agent.supervisor.power_off(30)
    guest.stop_agent()
    filesystem.remove_tree(guest.layout.data_dir)
    work.rename(guest.layout.data_dir)
    guest.start_agent()
    guest.wait_status("HEALTHY")
    # the agent's account has its own password here, and clients may use TLS
    assert guest.datastore.service.ping()
    with guest.connect("alice", "s3cret-Word", ssl={"check_hostname": False}) as connection:
        cursor = connection.cursor()
        cursor.execute("SHOW STATUS LIKE 'Ssl_cipher'")
        assert cursor.fetchall()[0][1]


def test_positions_of_no_log_are_refused(running: Guest) -> None:
    log = keeping.archive_of(running)
    with pytest.raises(exception.GuestError, match="no position"):
        log.read({"file": "mysql-bin.000001"}, most_bytes=1)
    with pytest.raises(exception.GuestError, match="no file"):
        log.pending_bytes({"file": "../my.cnf", "offset": 0, "digest": "", "tail": ""})
    assert binlog.name_of(binlog.number_of("mysql-bin.1000000")) == "mysql-bin.1000000"
