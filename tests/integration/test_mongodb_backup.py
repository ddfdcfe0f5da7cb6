"""Backups of MongoDB on a real server: dumped, restored, replayed to any moment, refused."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import pathlib
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import bson
import pymongo
import pytest
from pymongo.client_session import ClientSession

from tests.fixtures import keeping
from tests.fixtures.engine import Guest, is_available
from tests.fixtures.lateness import Lateness
from tests.fixtures.probes import Session
from tests.fixtures.probes_mongodb import MongodbSession, agent_of
from tests.fixtures.rows import Subject, running
from tests.fixtures.waiting import wait_until
from trove.common import exception
from trove.guestagent.datastores import base
from trove.guestagent.datastores.mongodb import archive, backup, dumps, oplog
from trove.guestagent.system import filesystem, process
from trove.rpc import payloads

pytestmark = pytest.mark.skipif(
    not is_available("mongodb"), reason="MongoDB is not installed (tools/test-engines.sh mongodb)"
)

#: Moments that a journal is restored to; more by hand.
TARGETS = int(os.environ.get("TROVE_TEST_RESTORE_TARGETS", "2"))
_PIECE_BYTES = 20_000
Client = pymongo.MongoClient[dict[str, Any]]


@pytest.fixture(scope="module")
def subject() -> Iterator[Subject]:
    """Give a running instance with TLS, and a user."""
    with running("mongodb") as made:
        made.tenant_user()
        # tools have to show the agent's certificate then
        made.apply_tls(made.tls("mtls"))
        yield made


@pytest.fixture
def part(subject: Subject) -> Iterator[backup.MongodbBackup]:
    """Give what makes backups; nothing is left of a restore."""
    assert subject.guest.datastore is not None
    found = subject.guest.datastore.backup
    assert isinstance(found, backup.MongodbBackup)
    try:
        found._find_tool("mongodump")
    except exception.GuestError as e:
        pytest.skip(str(e))
    yield found
    filesystem.remove_tree(work_of(subject))


@pytest.fixture
def log(subject: Subject) -> archive.MongodbArchive:
    """Give what reads the oplog."""
    assert subject.guest.datastore is not None
    found = subject.guest.datastore.archive
    assert isinstance(found, archive.MongodbArchive)
    return found


def login(subject: Subject, name: str = "joe") -> contextlib.AbstractContextManager[Session]:
    """Log in with a certificate."""
    client = subject.client_of(subject.tenant)
    ca = subject.tenant.pem
    return subject.login(name, "secret", ca=ca, client=client, database="shop")


def work_of(subject: Subject) -> pathlib.Path:
    return subject.guest.layout.mount_point / "data.new"


def restore(
    subject: Subject, part: backup.MongodbBackup, recovery: base.Recovery
) -> dict[str, Any]:
    filesystem.remove_tree(work_of(subject))
    return part.restore(recovery, work_of(subject))


class Observed(backup.MongodbBackup):
    """Lets a test look at what was restored before the server that did it ends."""

    seen: Any = None
    look: Callable[[Client], Any]

    def _restore(self, recovery: base.Recovery, replay: Any, listening: pathlib.Path) -> None:
        super()._restore(recovery, replay, listening)
        with Client(backup._uri(listening)) as client:
            self.seen = type(self).look(client)


class ObservedRows(Observed):
    """Counts the rows of a journal."""

    look = staticmethod(lambda client: rows_of(client))


class ObservedKinds(Observed):
    """Looks at everything."""

    look = staticmethod(lambda client: look(client))


class ObservedNames(Observed):
    """Counts the documents of two collections."""

    look = staticmethod(
        lambda client: [client.shop[name].count_documents({}) for name in ("made", "target")]
    )


def observing(subject: Subject, part: backup.MongodbBackup, kind: type[Observed]) -> Observed:
    return kind(part._server, subject.guest.environment(), part._retention)


def ship(log: archive.MongodbArchive, position: Any) -> tuple[list[base.Kept], Any, float]:
    """Keep all of the oplog behind a position; returns pieces, position and until when."""
    pieces: list[base.Kept] = []
    as_of_s = 0.0
    while piece := log.read(position, most_bytes=_PIECE_BYTES):
        assert piece.as_of_s >= as_of_s
        as_of_s = piece.as_of_s
        pieces.append(keeping.keep(piece.stream))
        position = piece.until
    return pieces, position, as_of_s


def recovery(
    full: base.Kept, pieces: list[base.Kept] | None = None, **target: Any
) -> base.Recovery:
    logs = None if pieces is None else lambda: iter(pieces)
    return base.Recovery(chain=[full], logs=logs, target=base.Target(**target))


def swap(subject: Subject, directory: pathlib.Path, *, aside: str) -> None:
    """Have the server run on another directory; what it ran on goes aside."""
    data = subject.guest.layout.data_dir
    assert subject.guest.run(payloads.StopJob()).succeeded
    data.rename(data.with_name(aside))
    directory.rename(data)
    outcome = subject.guest.run(payloads.StartJob())
    assert outcome.succeeded, outcome.error


# -- a database of every kind of thing -----


def fill(client: Client) -> None:
    shop = client.shop
    shop.plain.insert_many([{"i": i, "text": "x" * 50} for i in range(500)])
    shop.plain.create_index("i", unique=True, name="by_i")
    shop.plain.create_index("text", partialFilterExpression={"i": {"$gt": 100}})
    shop.create_collection("capped", capped=True, size=4096)
    shop.capped.insert_one({"a": 1})
    shop.create_collection("strict", validator={"a": {"$type": "int"}})
    shop.strict.insert_one({"a": 1})
    # as older rules let it in
    shop.command("insert", "strict", documents=[{"a": "no"}], bypassDocumentValidation=True)
    shop.command("create", "view", viewOn="plain", pipeline=[{"$match": {"i": 1}}])
    shop.create_collection("weather", timeseries={"timeField": "t"})
    now = bson.datetime_ms.DatetimeMS(1_700_000_000_000).as_datetime()
    shop.weather.insert_many([{"t": now, "v": v} for v in range(10)])
    client.admin.command("createRole", "looker", privileges=[], roles=["readAnyDatabase"])
    client.admin.command(
        "createUser", "by_hand", pwd="secret", roles=["looker"], mechanisms=["SCRAM-SHA-256"]
    )


def look(client: Client) -> dict[str, Any]:
    """Return what there is in the tenant's database."""
    shop = client.shop
    names = sorted(each["name"] for each in shop.list_collections())
    return {
        "names": names,
        "options": {
            each["name"]: each.get("options", {}).keys() for each in shop.list_collections()
        },
        "indexes": {
            name: sorted(index["name"] for index in shop[name].list_indexes())
            for name in ("plain", "capped", "strict", "late")
            if name in names
        },
        "documents": {
            name: sorted(map(str, shop[name].find()))
            for name in names
            if not name.startswith("system.")
        },
    }


def test_a_restored_server_has_everything_and_is_the_primary_of_a_new_set(
    subject: Subject, part: backup.MongodbBackup, log: archive.MongodbArchive
) -> None:
    guest = subject.guest
    with agent_of(guest) as client:
        fill(client)
        expected = look(client)
        identity = client.admin.command("replSetGetConfig")["config"]["settings"]["replicaSetId"]
    position = log.start()
    assert part.estimate_bytes() > 500 * 50
    with part.open_full() as stream:
        key = guest.environment().store.password("mongodb-key").encode()
        pid = stream._output.pid
        assert key not in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
        full = keeping.keep(stream)
    assert not (guest.layout.secret_dir / "mongodump.json").exists()
    assert key.decode() not in str(full.facts)
    assert full.facts["version"].startswith("6.")

    # what came later is in the log alone: a transaction in several entries, an index that is built
    with (
        login(subject) as session,
        contextlib.ExitStack() as opened,
    ):
        assert isinstance(session, MongodbSession)
        shop = session.client.shop
        large = opened.enter_context(session.client.start_session())

        def in_several_entries(within: ClientSession) -> None:
            for number in range(3):
                document = {"_id": number, "large": bytes(6 * 1024 * 1024)}
                shop.late.insert_one(document, session=within)
            shop.plain.delete_many({"i": {"$lt": 10}}, session=within)

        with agent_of(guest) as client:
            # there must be room for it
            name = "wiredTigerEngineRuntimeConfig"
            client.admin.command({"setParameter": 1, name: "cache_size=1G"})
        large.with_transaction(in_several_entries)
        with opened.enter_context(session.client.start_session()) as given_up:
            given_up.start_transaction()
            shop.late.insert_one({"_id": "never"}, session=given_up)
            given_up.abort_transaction()
        shop.plain.create_index("text", name="late_index")
        shop.plain.drop_index("by_i")
        shop.plain.update_many({"i": {"$gt": 490}}, {"$set": {"text": "changed"}})
        shop.capped.rename("renamed")
        shop.strict.drop()
    pieces, position, _ = ship(log, position)
    assert any(b"partialTxn" in keeping.data_of(piece) for piece in pieces)
    with agent_of(guest) as client:
        changed = look(client)
    subject.change("joe", new_password="another")

    observed = observing(subject, part, ObservedKinds)
    facts = restore(subject, observed, recovery(full, pieces))
    assert facts["position"] == position["time"]
    assert observed.seen == changed
    found = part.verify(work_of(subject))
    assert found["check"] == "validate"
    assert found["objects"] > 6
    restore(subject, part, recovery(full))
    swap(subject, work_of(subject), aside="data.former")
    with agent_of(guest) as client:
        assert look(client) == expected
        config = client.admin.command("replSetGetConfig")["config"]
        assert config["settings"]["replicaSetId"] != identity
        assert client.admin.command("hello")["isWritablePrimary"]
    with login(subject) as session:
        session.write("kept")
        assert session.read() == "kept"
    with login(subject, "by_hand") as session:
        # it may look at everything
        assert session.read() == "kept"
    # its log is another one
    with pytest.raises(base.LogLost):
        log.read(position, most_bytes=_PIECE_BYTES)
    with pytest.raises(base.LogLost):
        log.pending_bytes(position)
    filesystem.remove_tree(guest.layout.data_dir.with_name("data.former"))


# -- to a moment -----


@dataclasses.dataclass(kw_only=True)
class Journal:
    """Rows written one after the other, each in a transaction with a sum, and when."""

    client: Client
    rows: list[tuple[float, float, bson.Timestamp]] = dataclasses.field(default_factory=list)
    stopping: threading.Event = dataclasses.field(default_factory=threading.Event)
    lateness: Lateness = dataclasses.field(default_factory=Lateness)

    def write(self) -> None:
        """Write rows until told to stop."""
        shop = self.client.shop
        shop.sums.replace_one({"_id": 1}, {"_id": 1, "rows": 0}, upsert=True)
        shop.journal.insert_one({"_id": -1})
        while not self.stopping.wait(0.004):
            number = len(self.rows)
            with self.client.start_session() as session:
                begin = time.time()
                with session.start_transaction():
                    shop.journal.insert_one({"_id": number}, session=session)
                    shop.sums.update_one({"_id": 1}, {"$inc": {"rows": 1}}, session=session)
            end = time.time()
            # sessions do not tell of a set that is young; nobody else writes
            told = self.client.admin.command("hello")["lastWrite"]["opTime"]["ts"]
            self.rows.append((begin, end, told))

    def bounds(self, moment: float) -> tuple[int, int]:
        """Return how many rows there were at least, and at most, at a moment."""
        # what the server takes for the time, a thread of its own looks up every 10 ms
        slack_s = 0.011 + self.lateness.most_s
        least = sum(1 for _, end, _ in self.rows if end < moment - slack_s)
        most = sum(1 for begin, _, _ in self.rows if begin < moment + slack_s)
        return least, most


def rows_of(client: Client) -> int:
    """Return how many rows of a journal there are: the first ones, and the sum is right."""
    found = [each["_id"] for each in client.shop.journal.find({"_id": {"$gte": 0}}).sort("_id")]
    assert found == list(range(len(found)))
    kept = client.shop.sums.find_one({"_id": 1})
    assert kept is not None
    assert kept["rows"] == len(found)
    return len(found)


def test_a_journal_is_restored_to_any_moment(
    subject: Subject, part: backup.MongodbBackup, log: archive.MongodbArchive
) -> None:
    position = log.start()
    with login(subject) as session:
        assert isinstance(session, MongodbSession)
        journal = Journal(client=session.client)
        thread = threading.Thread(target=journal.write)
        thread.start()
        journal.lateness.__enter__()
        try:
            wait_until(lambda: len(journal.rows) > 20)
            full = keeping.keep(part.open_full())
            behind = len(journal.rows)
            wait_until(lambda: len(journal.rows) > behind + 60)
            first, position, _ = ship(log, position)
            wait_until(lambda: len(journal.rows) > behind + 150)
        finally:
            journal.stopping.set()
            thread.join()
            journal.lateness.__exit__()
    second, position, as_of_s = ship(log, position)
    assert as_of_s >= journal.rows[-1][1]
    pieces = first + second
    assert len(pieces) > 1
    assert log.pending_bytes(position) < 1000

    observed = observing(subject, part, ObservedRows)
    facts = restore(subject, observed, recovery(full))
    assert facts["restored_to_s"] == full.facts["until_s"]
    least, most = journal.bounds(full.facts["until_s"])
    assert least <= observed.seen <= most
    chosen = random.Random(str(journal.rows[0][0]))
    for _ in range(TARGETS):
        moment = chosen.uniform(full.facts["until_s"] + 0.001, journal.rows[-1][1])
        facts = restore(subject, observed, recovery(full, pieces, time_s=moment))
        assert facts["restored_to_s"] <= moment
        least, most = journal.bounds(moment)
        assert least <= observed.seen <= most
    number = chosen.randrange(behind + 1, len(journal.rows))
    named = str(oplog.OpTime.of(journal.rows[number][2]))
    facts = restore(subject, observed, recovery(full, pieces, position=named))
    assert facts["position"] == named
    assert observed.seen == number + 1


# -- the oplog -----


def kept_hours(client: Client) -> float:
    """Return for how long the server keeps its oplog at least."""
    status = client.admin.command("serverStatus")["oplogTruncation"]
    return float(status.get("oplogMinRetentionHours", 0.0))


def test_an_idle_server_gives_no_pieces(
    subject: Subject, log: archive.MongodbArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    position = log.start()
    with agent_of(subject.guest) as client:
        assert kept_hours(client) == 1.0
        for _ in range(3):
            client.admin.command({"appendOplogNote": 1, "data": {"nothing": 1}})
            assert log.read(position, most_bytes=_PIECE_BYTES) is None
        # nothing is read twice
        assert log._seen is not None
        client.shop.plain.insert_one({"i": -1})
        piece = log.read(position, most_bytes=_PIECE_BYTES)
        assert piece is not None
        stored = keeping.keep(piece.stream)
        assert stored.facts["entries"] == 4
        assert stored.facts["from"] == position["time"]
        # but what has been idle for long does not fall out of the oplog
        client.admin.command({"appendOplogNote": 1, "data": {"nothing": 1}})
        monkeypatch.setattr(archive, "_IDLE_S", -1.0)
        assert log.read(piece.until, most_bytes=_PIECE_BYTES) is not None
        log.stop()
        assert kept_hours(client) == 0.0


def test_a_log_with_a_gap_or_of_another_history_is_lost(log: archive.MongodbArchive) -> None:
    position = log.start()
    for wrong in (
        {**position, "time": "1:1"},
        {**position, "term": 77},
        {**position, "time": "4000000000:1"},
    ):
        with pytest.raises(base.LogLost):
            log.read(wrong, most_bytes=_PIECE_BYTES)
        if wrong["term"] == position["term"]:
            with pytest.raises(base.LogLost):
                log.pending_bytes(wrong)
    with pytest.raises(exception.GuestError, match="no time of an oplog"):
        log.read({"time": "x", "term": 1}, most_bytes=1)


# -- what goes wrong -----


def script(subject: Subject, text: str) -> pathlib.Path:
    """Make a program in the place of a tool; ``$real`` is the tool."""
    path = subject.guest.directory / "tool"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("exit 0", "end of its archive"),
        ('"$real" "$@" | head -c 3000', "end of its archive"),
        ('"$real" "$@" | head -c -20', "end of its archive"),
        ('"$real" "$@"; echo "Failed: no luck" >&2; exit 1', "code 1: Failed: no luck"),
        ("kill -9 $$", "code -9"),
        ("echo nonsense and more", "no archive"),
    ],
)
def test_a_dump_that_did_not_do_all_of_it_is_none(
    subject: Subject,
    part: backup.MongodbBackup,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    words: str,
) -> None:
    real = part._find_tool("mongodump")
    tool = script(subject, f"real={real}\n{text}")
    monkeypatch.setattr(part, "_find_tool", lambda name: tool)
    with pytest.raises(exception.GuestError, match=words):
        keeping.keep(part.open_full())
    assert not (subject.guest.layout.secret_dir / "mongodump.json").exists()


def test_a_dump_that_nobody_reads_ends(subject: Subject, part: backup.MongodbBackup) -> None:
    with part.open_full() as stream:
        stream.read(10)
        pid = stream._output.pid
        with agent_of(subject.guest) as client:
            assert kept_hours(client) == 72.0
        with pytest.raises(exception.GuestError, match="not read to its end"):
            stream.finish()
    assert process.identify(pid) is None
    with agent_of(subject.guest) as client:
        assert kept_hours(client) < 72.0


def test_a_collection_is_not_renamed_while_it_is_dumped(
    subject: Subject, part: backup.MongodbBackup
) -> None:
    with agent_of(subject.guest) as client:
        shop = client.shop
        shop.source.insert_many([{"i": i} for i in range(10)])
        with part.open_full() as stream:
            shop.source.rename("target")
            with pytest.raises(exception.GuestError, match="was renamed"):
                keeping.drain(stream)
        # one that was made meanwhile as a whole may be
        with part.open_full() as stream:
            shop.target.aggregate([{"$out": "made"}])
            full = keeping.keep(stream)
        observed = observing(subject, part, ObservedNames)
        restore(subject, observed, recovery(full))
        assert observed.seen == [10, 10]


class ObservedNumbers(Observed):
    """Looks at the first documents of a large collection."""

    look = staticmethod(
        lambda client: [each["n"] for each in client.shop.large.find({"_id": {"$lt": 5}})]
    )


def test_what_changes_under_the_hands_of_a_dump_is_restored_as_it_was_at_its_end(
    subject: Subject, part: backup.MongodbBackup
) -> None:
    with agent_of(subject.guest) as client:
        large = client.shop.large
        # more than mongodump and the pipe hold
        value = os.urandom(10_000)
        large.insert_many([{"_id": i, "n": 0, "value": value} for i in range(3000)])
        with part.open_full() as stream:
            begun = b""
            while begun.count(value) < 20:
                begun += stream.read(1 << 20)
            for number in range(5):
                large.delete_one({"_id": number})
                large.insert_one({"_id": number, "n": 1, "value": value})
            data = begun + keeping.drain(stream)
            full = keeping.kept(data, stream.finish())
        large.drop()
    # each of them is there twice, and a third time in the oplog
    frames = list(dumps.frames(io.BytesIO(data).read))
    for kind, times in ((dumps.ARCHIVE, 3005), (dumps.OPLOG, 5)):
        assert b"".join(each for found, each in frames if found == kind).count(value) == times
    observed = observing(subject, part, ObservedNumbers)
    restore(subject, observed, recovery(full))
    assert observed.seen == [1, 1, 1, 1, 1]


def test_damage_is_told_by_checksums(subject: Subject, part: backup.MongodbBackup) -> None:
    with agent_of(subject.guest) as client:
        client.shop.values.insert_many([{"value": "v" * 100} for _ in range(200)])
        with part.open_full() as stream:
            client.shop.values.insert_one({"value": "meanwhile"})
            full = keeping.keep(stream)
    data = keeping.data_of(full)
    # in the middle of a value, where only the checksum of the collection tells
    place = data.index(b"v" * 100) + 50
    wrong = data[:place] + b"w" + data[place + 1 :]
    # it fails or stands still, as it comes
    with pytest.raises(exception.GuestError, match=r"in the archive|demultiplexing archive"):
        restore(subject, part, recovery(keeping.kept(wrong, dict(full.facts))))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "cat >/dev/null; echo 'demux finishing when there are still outs (1)' >&2",
            "found damage",
        ),
        ("", "did nothing for 2 s"),
    ],
)
def test_a_mongorestore_that_stands_still_is_ended(
    subject: Subject,
    part: backup.MongodbBackup,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    words: str,
) -> None:
    full = keeping.keep(part.open_full())
    tool = script(subject, f"{text}\nexec sleep 100")
    monkeypatch.setattr(part, "_find_tool", lambda name: tool)
    monkeypatch.setattr(backup, "_STALL_S", 2.0)
    with pytest.raises(exception.GuestError, match=words):
        restore(subject, part, recovery(full))


def test_a_damaged_file_is_found_by_verifying(subject: Subject, part: backup.MongodbBackup) -> None:
    with agent_of(subject.guest) as client:
        client.shop.values.insert_many([{"value": os.urandom(500)} for _ in range(200)])
    full = keeping.keep(part.open_full())
    restore(subject, part, recovery(full))
    # what an agent that was killed left is in nobody's way
    with (
        pytest.raises(exception.GuestError, match="did not end cleanly"),
        part._alone(work_of(subject), is_beside=True),
    ):
        part.restore(recovery(full), work_of(subject))
    largest = max(work_of(subject).glob("collection-*.wt"), key=lambda path: path.stat().st_size)
    with largest.open("r+b") as stream:
        stream.seek(largest.stat().st_size // 2)
        stream.write(b"damage" * 20)
    with pytest.raises(exception.GuestError):
        part.verify(work_of(subject))


def test_what_does_not_belong_here_is_refused(subject: Subject, part: backup.MongodbBackup) -> None:
    good = {"engine": "mongodb", "version": part.version()}
    part.check(good)
    for changes, words in (
        ({"engine": "mariadb"}, "one of mariadb"),
        ({"version": "5.0.4"}, "upgrade that"),
        ({"version": "7.0.1"}, "7.0.1"),
    ):
        with pytest.raises(exception.GuestError, match=words):
            part.check({**good, **changes})
    with pytest.raises(exception.GuestError, match="make a full one"):
        part.open_increment(good)


def test_the_log_goes_on_where_it_was_after_the_server_was_killed(
    subject: Subject, log: archive.MongodbArchive
) -> None:
    guest = subject.guest
    position = log.start()
    with agent_of(guest) as client:
        client.shop.killed.insert_many([{"i": i} for i in range(50)])
    pieces, position, _ = ship(log, position)
    with agent_of(guest) as client:
        client.shop.killed.insert_one({"i": "not shipped"})
    identity = guest.engine()
    assert identity is not None
    os.kill(identity.pid, signal.SIGKILL)
    wait_until(lambda: not process.is_alive(identity))
    # the supervisor has it again
    wait_until(lambda: guest.engine() not in (None, identity), timeout_s=30)
    wait_until(lambda: _writes(guest), timeout_s=30)
    more, position, _ = ship(log, position)
    found = b"".join(keeping.data_of(piece) for piece in more)
    assert b"since" in found
    assert more[0].facts["from"] == pieces[-1].facts["until"]
    with agent_of(guest) as client:
        # and it is told again what to keep
        assert kept_hours(client) == 1.0


def _writes(guest: Guest) -> bool:
    with contextlib.suppress(exception.GuestError), agent_of(guest) as client:
        client.shop.killed.insert_one({"i": "since"})
        return True
    return False
