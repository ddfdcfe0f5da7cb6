"""Backup jobs of a real agent with a real MariaDB: there and back, and agents that are killed."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import secrets
import subprocess
import sys
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from tests.fixtures.engine import Guest, guest, mariadb_template, needs_mariadb, passable_directory
from tests.fixtures.project import environment_with_entry_points
from tests.fixtures.shelf import Shelf
from tests.fixtures.syncing import no_syncing
from tests.fixtures.waiting import wait_until
from trove.common import crypto
from trove.guestagent.datastores import mysql as family
from trove.guestagent.system import filesystem
from trove.rpc import payloads

__all__ = ["guest", "mariadb_template", "no_syncing"]

pytestmark = needs_mariadb

ALICE = payloads.User(name="alice", password="secret", databases=("app",))
APP = payloads.Database(name="app")


@pytest.fixture
def shelf(tmp_path: pathlib.Path) -> Shelf:
    return Shelf(tmp_path / "store")


def _run(guest: Guest, job: Any) -> dict[str, Any]:
    outcome = guest.run(job)
    assert outcome.succeeded, outcome.error
    return outcome.result


def _write(guest: Guest, *values: str) -> None:
    assert ALICE.password is not None
    with guest.connect("alice", ALICE.password, database="app", autocommit=True) as connection:
        cursor = connection.cursor()
        cursor.execute("CREATE TABLE IF NOT EXISTS t (value LONGBLOB)")
        for value in values:
            cursor.execute("INSERT INTO t VALUES (%s)", (value,))


def _read(guest: Guest) -> list[str]:
    assert ALICE.password is not None
    with guest.connect("alice", ALICE.password, database="app") as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT value FROM t WHERE LENGTH(value) < 100")
        return [value.decode() for (value,) in cursor.fetchall()]


def _archive_state(guest: Guest) -> payloads.ArchiveState:
    last = guest.conductor.last
    assert last is not None
    assert last.archive is not None
    return last.archive


def test_database_goes_there_and_back(
    guest: Guest, shelf: Shelf, mariadb_template: pathlib.Path
) -> None:
    guest.start_agent()
    guest.prepare(databases=(APP,), users=(ALICE,))
    _write(guest, "full")
    begun = _run(guest, payloads.ArchiveJob(archive=shelf.log("e1"), interval_s=0.3))
    assert begun["sequence"] == 0
    result = _run(guest, shelf.job("b1"))
    assert result["archive"] == {"epoch": "e1", "sequence": 0}
    full = shelf.stored("b1", result)
    _write(guest, "increment")
    increment = shelf.stored("b2", _run(guest, shelf.job("b2", parent=full)))
    _write(guest, "log")
    wait_until(lambda: _archive_state(guest).sequence > 0, what="the log to be archived")
    before = _archive_state(guest)
    assert before.problem is None
    assert not before.is_lost

    # a proof beside the running engine
    proof = payloads.Restoration(chain=(full, increment), archive=shelf.log("e1"))
    verified = _run(guest, payloads.VerifyBackupJob(restoration=proof))
    assert verified["findings"]
    marked = payloads.Restoration(chain=(full, increment))
    verified = _run(guest, payloads.VerifyBackupJob(restoration=marked))
    assert verified["findings"]["probe"] == "equal"
    assert not (guest.layout.mount_point / "data.verify").exists()

    # another instance, by the chain and the log
    wait_until(lambda: _archive_state(guest).pending_bytes == 0)
    with passable_directory() as directory:
        other = Guest(directory=directory, template=mariadb_template)
        try:
            other.start_agent()
            other.prepare(restoration=proof)
            other.wait_status("HEALTHY")
            assert _read(other) == ["full", "increment", "log"]
            _write(other, "goes on")
            names = {path.name for path in other.layout.mount_point.iterdir()}
            assert not names & {"data.restored", "data.ready", "data.new"}
        finally:
            other.destroy()

    # in place: to the full one, and back to what was
    restoration = payloads.Restoration(chain=(full,))
    _run(guest, payloads.RestoreJob(phase="restore", restoration=restoration))
    assert _read(guest) == ["full"]
    assert "restored" in (guest.wait_status("HEALTHY").message or "")
    assert _archive_state(guest).is_lost
    _run(guest, payloads.RestoreJob(phase="revert"))
    assert _read(guest) == ["full", "increment", "log"]
    _run(guest, payloads.RestoreJob(phase="restore", restoration=restoration))
    _run(guest, payloads.RestoreJob(phase="commit"))
    assert _read(guest) == ["full"]
    assert not guest.layout.replaced_data_dir.exists()
    # another archive begins
    _run(guest, payloads.ArchiveJob(archive=shelf.log("e2"), interval_s=0.3))
    _write(guest, "new log")
    wait_until(lambda: _archive_state(guest).sequence > 0, what="the log to be archived")


def test_backup_ends_soon_when_it_is_cancelled_and_goes_on_with_the_next_agent(
    guest: Guest, shelf: Shelf
) -> None:
    guest.start_agent()
    guest.prepare(databases=(APP,), users=(ALICE,))
    job_id = guest.send(shelf.job("b1", rate_limit_bytes_s=1 << 20))

    def look() -> payloads.Heartbeat | None:
        last = guest.conductor.last
        return last if last is not None and last.job_done_bytes else None

    seen = wait_until(look, what="progress in a heartbeat")
    assert seen is not None
    assert seen.job_id == job_id
    assert seen.job_total_bytes is not None
    assert seen.job_progress_percent is not None
    guest.call("cancel_job", payloads.JobRef(job_id=job_id))
    outcome = wait_until(lambda: guest.conductor.outcome_of(job_id), timeout_s=10.0)
    assert outcome is not None
    assert (outcome.error, outcome.error_code) == ("it was cancelled", "trove.cancelled")
    assert shelf.names("b1") == []
    guest.wait_status("HEALTHY")

    # an agent that is ended leaves its job to the next one
    job_id = guest.send(shelf.job("b2", rate_limit_bytes_s=4 << 20))
    agent = guest.agent
    assert agent is not None
    wait_until(
        lambda: agent.manager.progress is not None and agent.manager.progress.done_bytes,
        interval_s=0.01,
        what="progress",
    )
    guest.stop_agent()
    assert guest.conductor.outcome_of(job_id) is None
    guest.start_agent()
    outcome = wait_until(lambda: guest.conductor.outcome_of(job_id), timeout_s=60.0)
    assert outcome is not None
    assert outcome.succeeded, outcome.error


# -- agents that are killed -----


@dataclasses.dataclass
class Killable:
    """An agent as a process of its own, that nobody talks to: jobs lie in its journal."""

    guest: Guest
    config: pathlib.Path
    environment: dict[str, str]
    child: subprocess.Popen[bytes] | None = None
    number: int = 100

    def start(self) -> None:
        self.child = subprocess.Popen(
            [sys.executable, "-m", "trove.cmd.guestagent", "--config-file", str(self.config)],
            env=self.environment,
        )

    def kill(self) -> None:
        if self.child is not None:
            self.child.kill()
            self.child.wait()
            self.child = None

    def _path(self, job_id: str) -> pathlib.Path:
        return self.guest.layout.jobs_dir / f"{job_id}.json"

    def give(self, job: Any) -> str:
        """Have the next agent find a job."""
        job_id = str(uuid.uuid4())
        self.number += 1
        entry = {
            "job_id": job_id,
            "kind": job.KIND,
            "number": self.number,
            "state": "queued",
            "payload": job.to_wire(),
        }
        filesystem.write_file(self._path(job_id), json.dumps(entry), mode=0o600)
        return job_id

    def await_outcome(self, job_id: str) -> dict[str, Any]:
        def look() -> dict[str, Any] | None:
            entry = json.loads(self._path(job_id).read_text())
            return entry if entry["state"] != "queued" else None

        entry = wait_until(look, timeout_s=60.0, what="the outcome of the job")
        assert entry is not None
        assert entry["succeeded"], entry["error"]
        result: dict[str, Any] = entry["result"]
        return result


@pytest.fixture
def killable(guest: Guest, tmp_path: pathlib.Path) -> Iterator[Killable]:
    """A prepared instance whose agent is a process."""
    guest.start_agent()
    guest.prepare(databases=(APP,), users=(ALICE,))
    _write(guest, "row", *(secrets.token_hex(1 << 20) for _ in range(8)))
    guest.stop_agent()
    key_file = guest.directory / "instance.key"
    key_file.write_text(crypto.encode_key(crypto.generate_key()))
    key_file.chmod(0o600)
    config = guest.directory / "guest.conf"
    config.write_text(
        f"""[DEFAULT]
log_file = {guest.directory}/agent.log
[guest]
transport_url = rabbit://nobody:nothing@{guest.address}:1/
[guestagent]
instance_id = {guest.instance_id}
key_file = {key_file}
datastore_manager = mariadb
state_dir = {guest.layout.state_dir}
mount_point = {guest.layout.mount_point}
bind_address = {guest.address}
template_dir = {guest.template}
"""
    )
    environment = environment_with_entry_points(tmp_path / "installed")
    made = Killable(guest=guest, config=config, environment=environment)
    try:
        yield made
    finally:
        made.kill()
        guest.datastore = guest.datastore or family.make_mariadb(guest.environment())


def test_agents_that_are_killed_in_the_middle(killable: Killable, shelf: Shelf) -> None:
    guest = killable.guest
    # a backup: what the killed one stored is removed
    job_id = killable.give(shelf.job("b1", rate_limit_bytes_s=8 << 20))
    killable.start()
    wait_until(lambda: len(shelf.names("b1")) >= 2, interval_s=0.01, what="two segments")
    killable.kill()
    left = shelf.names("b1")
    assert not any(name.endswith("manifest.json") for name in left)
    killable.start()
    stored = shelf.stored("b1", killable.await_outcome(job_id))
    assert not set(left) & set(shelf.names("b1"))
    _write(guest, "later")

    # restoring in place: the next agent begins anew, the former database is kept
    killable.kill()
    restoration = payloads.Restoration(chain=(stored,))
    job_id = killable.give(payloads.RestoreJob(phase="restore", restoration=restoration))
    killable.start()
    work = guest.layout.mount_point / "data.restored"
    wait_until(work.exists, interval_s=0.002, what="restoring to begin")
    killable.kill()
    assert guest.layout.data_dir.is_dir()
    assert not guest.layout.replaced_data_dir.exists()
    killable.start()
    killable.await_outcome(job_id)
    assert _read(guest) == ["row"]
    assert guest.layout.replaced_data_dir.is_dir()

    killable.kill()
    job_id = killable.give(payloads.RestoreJob(phase="revert"))
    killable.start()
    killable.await_outcome(job_id)
    assert _read(guest) == ["row", "later"]
    assert not guest.layout.replaced_data_dir.exists()
    assert os.listdir(guest.layout.mount_point).count("data") == 1
