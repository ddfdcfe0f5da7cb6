"""Backups of a real server of Oracle's MySQL, its archived log, and what is made from them."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import stat
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.fixtures import keeping
from tests.fixtures.engine import Guest, is_available, passable_directory, template_of
from tests.fixtures.shipping import Shipper
from tests.fixtures.syncing import no_syncing
from trove.common import exception
from trove.datastores import mysql
from trove.guestagent.datastores import base
from trove.guestagent.datastores.mysql import archive, dialect, dumps, private
from trove.guestagent.system import filesystem
from trove.rpc import payloads

__all__ = ["no_syncing"]

ROW = "mysql-5.6"
pytestmark = pytest.mark.skipif(
    not is_available(ROW), reason="MySQL is not installed (tools/test-engines.sh mysql-5.6)"
)
PASSWORD = "s3cret-Word"
ALICE = payloads.User(name="alice", password=PASSWORD, databases=("app", "zoo"))
#: What the test makes; a definition or a value is looked at by a query each.
TABLES = (
    "CREATE TABLE app.numbers (id INT PRIMARY KEY AUTO_INCREMENT, f FLOAT, d DOUBLE,"
    " n DECIMAL(30,10), b BIT(9), u BIGINT UNSIGNED, z FLOAT(7,2)) AUTO_INCREMENT = 100",
    "INSERT INTO app.numbers VALUES (1, 1.2345678, 1.2345678901234567, 1234567890.0123456789, 5,"
    " 18446744073709551615, 99999.11), (2, 16777217.5, -0.1, -1, 511, 0, -1.5),"
    " (99, NULL, NULL, NULL, NULL, NULL, NULL)",
    "CREATE TABLE app.texts (id INT PRIMARY KEY, s VARCHAR(100), l VARCHAR(20) CHARACTER SET"
    " latin1, j VARCHAR(20) CHARACTER SET sjis, e ENUM('a','ü'), t SET('x','y'), b VARBINARY(20),"
    " o BLOB, g GEOMETRY)",
    r"INSERT INTO app.texts VALUES (1, 'it''s\\ \n\r\t\0 \Z NULL %_ 😀', 'Grüße', 'テスト', 'ü',"
    " 'x,y', X'00FF5C27', X'', GeomFromText('POINT(1 2)')),"
    " (2, '', NULL, '', NULL, '', NULL, REPEAT(X'00', 3000), NULL), (3, 'NULL', '', NULL, 'a',"
    " NULL, '', NULL, NULL)",
    "CREATE TABLE app.times (id INT PRIMARY KEY, d DATE, t TIME(3), dt DATETIME(6), y YEAR,"
    " ts TIMESTAMP NULL)",
    "INSERT INTO app.times VALUES (1, '2024-02-29', '-838:59:59', '2024-02-29 23:59:59.999999',"
    " 2155, '2038-01-19 03:14:07')",
    "SET SESSION sql_mode = ''",
    "INSERT INTO app.times VALUES (0, '0000-00-00', '0', '0000-00-00', 0, '0000-00-00')",
    "CREATE TABLE zoo.kinds (id INT PRIMARY KEY) ENGINE = InnoDB",
    "CREATE TABLE app.kept (id INT, kind INT, FOREIGN KEY (kind) REFERENCES zoo.kinds (id))",
    "INSERT INTO zoo.kinds VALUES (7)",
    "INSERT INTO app.kept VALUES (1, 7)",
    "CREATE TABLE app.`od``d name` (`a b` INT) ENGINE = MyISAM",
    "INSERT INTO app.`od``d name` VALUES (4)",
    "CREATE TABLE app.fleeting (id INT) ENGINE = MEMORY",
    "CREATE TABLE app.partitioned (id INT) PARTITION BY HASH (id) PARTITIONS 2",
    "INSERT INTO app.partitioned VALUES (1), (2), (3)",
    "CREATE TABLE app.rows_of_many (id INT PRIMARY KEY, word VARCHAR(1000))",
    "CREATE FUNCTION app.four() RETURNS INT DETERMINISTIC RETURN 4",
    "CREATE VIEW app.a_view AS SELECT app.four() AS four, id FROM app.texts",
    "CREATE VIEW zoo.b_view AS SELECT * FROM app.a_view",
    "CREATE VIEW app.c_view AS SELECT b.id FROM zoo.b_view AS b",
    "CREATE TABLE app.gone (id INT)",
    "CREATE VIEW app.blind AS SELECT * FROM app.gone",
    "DROP TABLE app.gone",
    "CREATE TRIGGER app.louder BEFORE INSERT ON app.rows_of_many FOR EACH ROW"
    " SET NEW.word = CONCAT(NEW.word, '!')",
    "CREATE EVENT app.daily ON SCHEDULE EVERY 1 DAY DO DELETE FROM app.gone",
    "CREATE USER bob@'10.%' IDENTIFIED BY 'other'",
    "GRANT SELECT (s), UPDATE ON app.texts TO bob@'10.%'",
    "GRANT EXECUTE ON FUNCTION app.four TO bob@'10.%'",
)
LOOKS = (
    *(f"SELECT * FROM {name} ORDER BY 1" for name in ("app.texts", "app.times", "app.kept")),
    "SELECT id, f + 0e0, d, n, b, u, z + 0e0 FROM app.numbers ORDER BY 1",
    "SELECT COUNT(*), MAX(word), MIN(LENGTH(word)) FROM app.rows_of_many",
    "SELECT * FROM app.`od``d name`",
    "SELECT * FROM app.partitioned ORDER BY 1",
    "SELECT * FROM app.c_view ORDER BY 1",
    *(
        f"SHOW CREATE {what}"
        for what in (
            "DATABASE app",
            "TABLE app.numbers",
            "TABLE app.texts",
            "TABLE app.kept",
            "TABLE app.partitioned",
            "VIEW app.a_view",
            "VIEW app.c_view",
            "FUNCTION app.four",
            "TRIGGER app.louder",
            "EVENT app.daily",
        )
    ),
    "SHOW GRANTS FOR alice@'%'",
    "SHOW GRANTS FOR bob@'10.%'",
)


@pytest.fixture(scope="module")
def running() -> Iterator[Guest]:
    """Give an instance with databases and a user."""
    with passable_directory() as directory:
        guest = Guest(directory=directory, row=ROW, template=template_of(ROW))
        try:
            guest.start_agent()
            databases = (payloads.Database(name="app"), payloads.Database(name="zoo"))
            guest.prepare(databases=databases, users=(ALICE,))
            guest.wait_status("HEALTHY")
            yield guest
        finally:
            if guest.datastore is not None and isinstance(
                guest.datastore.archive, archive.BinlogArchive
            ):
                guest.datastore.archive.close()
            guest.destroy()


@contextlib.contextmanager
def _agent_session(guest: Guest) -> Iterator[Any]:
    """Give a session that may do everything."""
    assert guest.datastore is not None
    service: Any = guest.datastore.service
    with service.connector.session() as session:
        yield session


@contextlib.contextmanager
def _restored(
    guest: Guest, *, look: Callable[[pathlib.Path], None] | None = None, **recovery: Any
) -> Iterator[tuple[dict[str, Any], Any]]:
    """Give the facts of a restoration, and a session with a server on it; look at it afterwards."""
    backup = keeping.backup_of(guest)
    work = guest.layout.mount_point / "data.restored"
    try:
        facts = backup.restore(base.Recovery(**recovery), work)
        assert stat.S_IMODE(work.stat().st_mode) == 0o700
        assert {path.stat().st_uid for path in work.rglob("*")} == {work.stat().st_uid}
        assert not (work / "auto.cnf").exists()
        server = private.PrivateServer.of_instance(
            dialect.MYSQL_5_6,
            guest.environment(),
            data_dir=work,
            settings=None,
            explain=lambda _, text: text,
        )
        with server, server.connector.session() as session:
            yield facts, session
        if look is not None:
            look(work)
    finally:
        filesystem.remove_tree(work)
        assert list(guest.layout.mount_point.glob("data.restored*")) == []
        assert list(guest.layout.secret_dir.glob("*.cnf")) == []


def _looks(session: Any) -> dict[str, Any]:
    return {statement: session.execute(statement) for statement in LOOKS}


def test_a_copy_becomes_the_database_as_it_was_when_it_began(running: Guest) -> None:
    backup = keeping.backup_of(running)
    with _agent_session(running) as session:
        for statement in TABLES:
            session.execute(statement.replace("{", "{{").replace("}", "}}"))
        for start in range(0, 3000, 1000):
            rows = ", ".join(f"({start + n}, REPEAT('x', 900))" for n in range(1000))
            session.execute(f"INSERT INTO app.rows_of_many VALUES {rows}")
        before = _looks(session)
        assert backup.write_probe("of another backup")
        assert backup.write_probe("of this backup")
        place = session.execute("SHOW MASTER STATUS")[0]
        with backup.open_full() as stream:
            # what is written meanwhile is behind the backup
            session.execute("DELETE FROM app.rows_of_many WHERE id > 10")
            session.execute("UPDATE app.numbers SET d = 0")
            data = keeping.drain(stream)
            facts = stream.finish()
    assert (facts["binlog"]["file"], facts["binlog"]["position"]) == place[:2]
    assert facts["gtid"] == place[4].replace("\n", "")
    assert facts["left_out"] == ["app.blind"]
    assert facts["data_bytes"] == len(data) > backup.estimate_bytes() > 0
    assert running.environment().store.password(mysql.AGENT_USER) not in str(facts)
    assert running.environment().store.password(mysql.AGENT_USER).encode() not in data
    # as a version that does not tell gives it
    blind = b"CREATE ALGORITHM=UNDEFINED VIEW app.dazed AS SELECT * FROM app.gone"
    statements = [*dumps.Reader(keeping.MemoryContent(data)).statements(), blind]
    copied = b"".join(map(dumps.frame, statements)) + bytes(4)
    kept = keeping.kept(copied + len(statements).to_bytes(8, "big"), facts)

    def look(work: pathlib.Path) -> None:
        findings = backup.verify(work)
        assert findings["check"] == "CHECK TABLE"
        assert findings["objects"] > 35
        assert findings["probe"] == "of this backup"
        frm = work / "app" / "times.frm"
        frm.write_bytes(b"x" * frm.stat().st_size)
        with pytest.raises(exception.GuestError, match=r"damaged.*times"):
            backup.verify(work)

    with _restored(running, chain=[kept], look=look) as (told, session):
        assert told["restored_to_s"] == facts["consistent_s"]
        assert len(told["left_out"]) == 1
        assert "app.gone" in told["left_out"][0]
        after = _looks(session)
        for statement, rows in before.items():
            assert after[statement] == rows, statement
        assert session.execute("SELECT COUNT(*) FROM information_schema.TRIGGERS")[0][0] == 1


def test_what_is_cut_off_or_of_another_version_is_refused(running: Guest) -> None:
    backup = keeping.backup_of(running)
    full = keeping.keep(backup.open_full())
    data, facts = keeping.data_of(full), dict(full.facts)
    with (
        pytest.raises(exception.GuestError, match="ends too early"),
        _restored(running, chain=[keeping.kept(data[:-1], facts)]),
    ):
        pass
    for wrong in (data[:-12], data[: len(data) // 2], b"", data + b"x", bytes(4) + data[-8:]):
        content = keeping.MemoryContent(wrong)
        with pytest.raises(exception.GuestError, match=r"ends too early|goes on|not all"):
            list(dumps.Reader(content).statements())
    for changes, reason in (
        ({"manager": "mariadb"}, "not of mysql"),
        ({"format": 2}, "later release"),
        ({"engine_version": "5.6.99"}, r"of 5\.6\.99 or later"),
        ({"engine_version": "8.0.36"}, r"instance of 8\.0"),
        ({"engine_version": "none"}, "version"),
    ):
        with pytest.raises(exception.GuestError, match=reason):
            backup.check({**facts, **changes})
    backup.check({**facts, "engine_version": "5.6.2"})
    with pytest.raises(exception.GuestError, match="make a full one"):
        backup.open_increment(facts)
    with pytest.raises(exception.GuestError, match="no incremental"):
        backup.restore(base.Recovery(chain=[full, full]), running.layout.mount_point / "none")


def test_a_backup_that_cannot_be_whole_is_none(running: Guest) -> None:
    backup = keeping.backup_of(running)
    with _agent_session(running) as session:
        session.execute("CREATE TABLE IF NOT EXISTS app.rows_of_many (id INT)")
        with backup.open_full() as stream:
            session.execute("ALTER TABLE app.rows_of_many ADD COLUMN more INT")
            with pytest.raises(exception.GuestError, match="rows_of_many was changed or dropped"):
                keeping.drain(stream)
            with pytest.raises(exception.GuestError, match="not read to its end"):
                stream.finish()
        with backup.open_full() as stream:
            stream.read(100)
            stream.close()
            with pytest.raises(exception.GuestError):
                stream.finish()
        frm = running.layout.data_dir / "app" / "rows_of_many.frm"
        whole = frm.read_bytes()
        try:
            frm.write_bytes(b"x" * len(whole))
            with pytest.raises(exception.GuestError, match="rows_of_many"):
                backup.open_full()
        finally:
            frm.write_bytes(whole)
        session.execute("XA START 'sale'")
        session.execute("XA END 'sale'")
        session.execute("XA PREPARE 'sale'")
        with pytest.raises(exception.GuestError, match="prepared transactions"):
            backup.open_full()
        session.execute("XA ROLLBACK 'sale'")
    keeping.keep(backup.open_full())


@dataclasses.dataclass(frozen=True, kw_only=True)
class History:
    """A backup, the log behind it, and times and ids in it."""

    full: base.Kept
    pieces: list[base.Kept]
    #: Before the last rows, and the id of the last transaction before them.
    time_s: float
    position: str


@pytest.fixture(scope="module")
def history(running: Guest) -> History:
    """Give a backup and what was done behind it."""
    backup, log = keeping.backup_of(running), keeping.archive_of(running)
    shipper = Shipper(log)
    with _agent_session(running) as session:
        session.execute("CREATE TABLE app.journal (id INT, f FLOAT, word TEXT)")
        session.execute("INSERT INTO app.journal VALUES (0, 1.2345678, 'a'), (1, 7.7654321, 'b')")
        full = keeping.keep(backup.open_full())
        # rows without a key are found by all their values
        session.execute("DELETE FROM app.journal WHERE id = 0")
        session.execute("UPDATE app.journal SET word = CONCAT(word, X'F09F9880', X'00275C')")
        session.execute("SET SESSION time_zone = '+05:00', sql_mode = 'ANSI_QUOTES'")
        session.execute('CREATE TABLE app."late" (id INT, t TIMESTAMP DEFAULT NOW())')
        session.execute("SET SESSION sql_mode = ''")
        session.execute("INSERT INTO app.late (id) VALUES (1)")
        session.execute("FLUSH LOCAL LOGS")
        shipper.ship_all(most_bytes=500)
        session.execute("CREATE USER carol@'%' IDENTIFIED BY 'of carol'")
        session.execute("CREATE DATABASE `new``er`")
        session.execute("CREATE PROCEDURE `new``er`.p() BEGIN SELECT 'x'; END")
        session.execute("SET SESSION binlog_format = STATEMENT")
        session.execute("INSERT INTO app.late VALUES (RAND() * 1e6, NOW())")
        session.execute("SET SESSION binlog_format = ROW")
        session.execute("XA START 'x'")
        session.execute("INSERT INTO app.journal VALUES (2, 2, 'c')")
        session.execute("XA END 'x'")
        session.execute("XA COMMIT 'x' ONE PHASE")
        session.execute("CREATE DATABASE old")
        session.execute("DROP DATABASE old")
        shipper.ship_all()
        gtids = session.execute("SELECT @@GLOBAL.gtid_executed")[0][0].replace("\n", "")
        server, _, numbers = gtids.rpartition(":")
        position = f"{server}:{numbers.split('-')[-1]}"
        between_s = time.time()
        session.execute("INSERT INTO app.journal VALUES (3, 3, 'd')")
        session.execute("DROP DATABASE `new``er`")
        shipper.ship_all()
    assert len(shipper.pieces) > 3
    return History(full=full, pieces=shipper.pieces, time_s=between_s, position=position)


def test_a_database_is_brought_to_a_transaction_or_a_time(running: Guest, history: History) -> None:
    recovery: dict[str, Any] = {"chain": [history.full], "logs": lambda: iter(history.pieces)}
    with _agent_session(running) as session:
        late = session.execute("SELECT * FROM app.late ORDER BY 1")
        journal = session.execute("SELECT * FROM app.journal WHERE id < 3 ORDER BY 1")
    assert (len(late), len(journal)) == (2, 2)
    targets = (base.Target(position=history.position), base.Target(time_s=history.time_s))
    for target in targets:
        with _restored(running, **recovery, target=target) as (facts, session):
            assert session.execute("SELECT * FROM app.late ORDER BY 1") == late
            assert session.execute("SELECT * FROM app.journal ORDER BY 1") == journal
            users = session.execute("SELECT COUNT(*) FROM mysql.user WHERE User = 'carol'")
            assert users == ((1,),)
            databases = {name for (name,) in session.execute("SHOW DATABASES")}
            assert "new`er" in databases
            assert "old" not in databases
            assert facts["gtid"] == history.position
            assert facts["transactions"] > 5
    backup = keeping.backup_of(running)
    server = history.position.partition(":")[0]
    early = base.Target(position=f"{server}:1")
    with pytest.raises(exception.GuestError, match="later than"):
        backup.restore(base.Recovery(**recovery, target=early), running.layout.data_dir / "never")


def test_a_session_that_logs_what_is_not_replayed_ends_the_archive(running: Guest) -> None:
    log = keeping.archive_of(running)
    shipper = Shipper(log)
    with _agent_session(running) as session:
        session.execute("CREATE TABLE app.plain (id INT)")
        session.execute("SET SESSION binlog_format = STATEMENT, @x = 5")
        session.execute("INSERT INTO app.plain VALUES (@x)")
    assert shipper.ship()
    with pytest.raises(base.LogLost, match="not replayed"):
        shipper.ship()
