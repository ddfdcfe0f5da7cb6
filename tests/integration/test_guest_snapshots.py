"""Snapshots of a volume below a running engine: still for as long as it takes, and never longer."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
import threading
from typing import Any

import pytest

from tests.fixtures.engine import Guest, guest, mariadb_template, needs_mariadb, passable_directory
from tests.fixtures.syncing import no_syncing
from tests.fixtures.waiting import wait_until
from trove.common import exception
from trove.guestagent.backup import freezing
from trove.guestagent.system import stillness
from trove.rpc import payloads

__all__ = ["guest", "mariadb_template", "no_syncing"]

pytestmark = needs_mariadb

ALICE = payloads.User(name="alice", password="secret", databases=("app",))
APP = payloads.Database(name="app")
PROOF = payloads.VerifyBackupJob(restoration=payloads.Restoration(chain=(), snapshot="b1"))


def freeze(guest: Guest, freeze_id: str = "f1", *, timeout_s: float = 60.0) -> payloads.Frozen:
    request = payloads.Freeze(freeze_id=freeze_id, backup_id="b1", timeout_s=timeout_s)
    answer = guest.call("freeze", request)
    assert isinstance(answer, payloads.Frozen)
    return answer


def thaw(guest: Guest, freeze_id: str = "f1") -> payloads.Thawed:
    answer = guest.call("thaw", payloads.Thaw(freeze_id=freeze_id))
    assert isinstance(answer, payloads.Thawed)
    return answer


def is_held(guest: Guest) -> bool:
    identity = guest.engine()
    assert identity is not None
    return stillness.is_held(identity)


def connect(guest: Guest) -> Any:
    assert ALICE.password is not None
    return guest.connect("alice", ALICE.password, database="app", autocommit=True)


def read(guest: Guest) -> list[int]:
    with connect(guest) as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT number FROM journal ORDER BY number")
        return [number for (number,) in cursor.fetchall()]


class Journal(threading.Thread):
    """Writes numbers one after the other, and knows which were acknowledged."""

    def __init__(self, guest: Guest) -> None:
        super().__init__(daemon=True)
        self._guest = guest
        self._over = threading.Event()
        self.acknowledged = 0
        self.tried = 0

    def run(self) -> None:
        with connect(self._guest) as connection:
            cursor = connection.cursor()
            cursor.execute("CREATE TABLE journal (number INT PRIMARY KEY) ENGINE=InnoDB")
            cursor.execute("CREATE TABLE beside (number INT PRIMARY KEY) ENGINE=Aria")
            while not self._over.is_set():
                self.tried += 1
                cursor.execute("INSERT INTO journal VALUES (%s)", (self.tried,))
                self.acknowledged = self.tried
                cursor.execute("INSERT INTO beside VALUES (%s)", (self.tried,))

    def end(self) -> None:
        self._over.set()
        self.join(30)


@pytest.fixture
def prepared(guest: Guest) -> Guest:
    guest.start_agent()
    guest.prepare(databases=(APP,), users=(ALICE,))
    return guest


def test_a_database_that_is_written_to_comes_back_from_a_snapshot_of_its_volume(
    prepared: Guest, mariadb_template: pathlib.Path
) -> None:
    journal = Journal(prepared)
    journal.start()
    wait_until(lambda: journal.acknowledged > 100, what="a journal")
    frozen = freeze(prepared)
    assert frozen.engine_version
    assert frozen.data_bytes > 0
    assert is_held(prepared)
    before, tried = journal.acknowledged, journal.tried
    # asked for again, nothing happens
    assert freeze(prepared) == frozen
    with passable_directory() as directory, passable_directory() as apart:
        for place in (directory, apart):
            subprocess.run(
                ["cp", "-a", str(prepared.layout.mount_point), str(place / "volume")], check=True
            )
        assert thaw(prepared) == payloads.Thawed(was_frozen=True)
        # told again when the answer was lost
        assert thaw(prepared) == payloads.Thawed(was_frozen=True)
        wait_until(lambda: journal.acknowledged > tried, what="the writer to go on")
        journal.end()
        assert not (prepared.layout.volume_agent_dir / freezing.MARKER).exists()
        prepared.wait_status("HEALTHY")

        # the running database is no place for a proof
        outcome = prepared.run(PROOF)
        assert "on a server of its own" in str(outcome.error)
        assert outcome.error_code == exception.NotProven.code
        prove(apart, mariadb_template)
        other = Guest(directory=directory, template=mariadb_template)
        try:
            other.start_agent()
            sizes: dict[str, Any] = dict(other.sizes)
            wrong = payloads.Restoration(chain=(), snapshot="b2")
            outcome = other.run(payloads.PrepareJob(**sizes, restoration=wrong))
            assert "does not hold the snapshot of backup b2" in str(outcome.error)
            assert (other.layout.volume_agent_dir / freezing.MARKER).exists()
            restoration = payloads.Restoration(chain=(), snapshot="b1")
            for _ in range(2):
                other.prepare(restoration=restoration)
            other.wait_status("HEALTHY")
            # its log is its own, not the one that the former instance goes on with
            logged = (other.layout.data_dir / "mysql-bin.index").read_text()
            assert str(prepared.layout.mount_point) not in logged
            found = read(other)
            # all that was acknowledged, and at most what was on its way besides
            assert found == list(range(1, len(found) + 1))
            assert before <= len(found) <= tried
            with connect(other) as connection:
                cursor = connection.cursor()
                cursor.execute("CHECK TABLE journal, beside")
                assert {row[3] for row in cursor.fetchall()} == {"OK"}
                cursor.execute("INSERT INTO journal VALUES (1000000000)")
            names = {path.name for path in other.layout.mount_point.iterdir()}
            assert not names & {"data.restored", "data.ready", "data.new"}
            assert not (other.layout.volume_agent_dir / freezing.MARKER).exists()
            assert len(read(prepared)) == journal.acknowledged
        finally:
            other.destroy()


def prove(directory: pathlib.Path, template: pathlib.Path) -> None:
    """Have an agent prove what is on a volume; it finds another database's mark, and damage."""
    prover = Guest(directory=directory, template=template)
    try:
        prover.start_agent()
        good = prover.run(PROOF)
        assert good.succeeded, good.error
        assert dict(good.result)["findings"]["probe"] == "equal"
        assert not prover.layout.data_dir.exists()
        table = prover.layout.mount_point / "data.restored" / "app" / "journal.ibd"
        content = bytearray(table.read_bytes())
        content[3 * 16384 + 200 : 3 * 16384 + 300] = bytes(100)
        table.write_bytes(content)
        assert not prover.run(PROOF).succeeded
        marker = prover.layout.volume_agent_dir / freezing.MARKER
        document = json.loads(marker.read_text())
        marker.write_text(json.dumps({**document, "manager": "mysql"}))
        assert "a snapshot of mysql" in str(prover.run(PROOF).error)
    finally:
        prover.destroy()


def test_nobody_comes_and_the_engine_goes_on_by_itself(prepared: Guest) -> None:
    freeze(prepared, timeout_s=1.0)
    assert is_held(prepared)
    wait_until(lambda: not is_held(prepared), timeout_s=20, what="the watchdog")
    wait_until(lambda: is_writable(prepared), what="the database to answer")
    # the word comes too late, however often
    for _ in range(2):
        late = thaw(prepared)
        assert (late.was_frozen, late.reason) == (False, "it went on by itself after 1 s")
    assert thaw(prepared, "f0").reason == "its agent knows nothing of it"
    # and another one can be made
    freeze(prepared, "f2")
    assert thaw(prepared, "f2").was_frozen


def is_writable(guest: Guest) -> bool:
    with connect(guest) as connection:
        cursor = connection.cursor()
        cursor.execute("CREATE OR REPLACE TABLE proof (number INT)")
    return True


def test_a_job_waits_until_the_engine_goes_on_and_a_stop_does_not(prepared: Guest) -> None:
    freeze(prepared)
    job_id = prepared.send(payloads.RestartJob())
    assert prepared.agent is not None
    assert prepared.agent.manager.current_job_id is None
    assert prepared.conductor.outcome_of(job_id) is None
    with pytest.raises(exception.GuestError, match="another snapshot"):
        freeze(prepared, "f2")
    assert thaw(prepared).was_frozen
    wait_until(lambda: prepared.conductor.outcome_of(job_id), what="the restart")

    freeze(prepared, "f3")
    assert prepared.run(payloads.StopJob()).succeeded
    assert thaw(prepared, "f3").reason == "the database was to be stopped"
    with pytest.raises(exception.GuestError, match="does not run"):
        freeze(prepared, "f4")


def test_the_next_agent_has_the_engine_go_on(prepared: Guest) -> None:
    # after one that ends
    freeze(prepared)
    prepared.stop_agent()
    assert not is_held(prepared)

    # after one that is killed
    child = subprocess.Popen(
        [
            sys.executable,
            "-c",
            _FREEZES,
            prepared.directory,
            prepared.address,
            prepared.instance_id,
        ],
        stdout=subprocess.PIPE,
        cwd=pathlib.Path(__file__).parents[2],
    )
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"it stands still\n"
        child.kill()
    assert is_held(prepared)
    prepared.start_agent()
    assert not is_held(prepared)
    assert thaw(prepared, "f1").reason == "its agent knows nothing of it"
    assert thaw(prepared, "f2").reason == "the agent was restarted"
    prepared.wait_status("HEALTHY")
    assert is_writable(prepared)


#: An agent of a prepared instance, as a process of its own.
_FREEZES = """
import sys, pathlib, threading
from tests.fixtures.engine import Guest
from tests.fixtures.waiting import wait_until
from trove.guestagent.system import filesystem
from trove.rpc import payloads
filesystem.sync_file_system = lambda path: None
directory, address, instance_id = sys.argv[1:]
guest = Guest(directory=pathlib.Path(directory), address=address, instance_id=instance_id)
agent = guest.start_agent()
wait_until(lambda: agent.supervisor.is_answering, what="the engine to be adopted")
guest.call("freeze", payloads.Freeze(freeze_id="f2", backup_id="b1", timeout_s=60))
print("it stands still", flush=True)
threading.Event().wait()
"""
