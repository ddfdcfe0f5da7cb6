"""Snapshots of the volume below every engine, which is written to all the time."""

from __future__ import annotations

import pathlib
import subprocess
import threading

import pytest

from tests.fixtures.engine import Guest, passable_directory, template_of
from tests.fixtures.rows import Subject, params, running
from tests.fixtures.syncing import no_syncing
from tests.fixtures.waiting import wait_until
from trove.rpc import payloads

__all__ = ["no_syncing"]

#: One version of each engine; of MariaDB the integration tests show more.
ROWS = params(["postgresql-18", "redis", "mongodb", "mysql-5.6"])


class Writer(threading.Thread):
    """Writes one number after the other, and knows which was acknowledged last."""

    def __init__(self, subject: Subject, database: str | None) -> None:
        super().__init__(daemon=True)
        self._subject = subject
        self._database = database
        self._over = threading.Event()
        self.tried = self.acknowledged = 0

    def run(self) -> None:
        with self._subject.login("joe", "secret", database=self._database) as session:
            while not self._over.is_set():
                self.tried += 1
                session.write(str(self.tried))
                self.acknowledged = self.tried

    def end(self) -> None:
        self._over.set()
        self.join(30)
        assert not self.is_alive()


def prove(row: str, directory: pathlib.Path) -> None:
    """Have an agent prove what is on a volume, and find what is damaged then."""
    directory.chmod(0o755)
    prover = Guest(directory=directory, row=row, template=template_of(row))
    job = payloads.VerifyBackupJob(
        restoration=payloads.Restoration(chain=(), snapshot="b"),
    )
    try:
        prover.start_agent()
        outcome = prover.run(job)
        assert outcome.succeeded, outcome.error
        findings = dict(outcome.result)["findings"]
        assert findings["objects"] > 0
        assert findings.get("probe") in (None, "equal")
        assert not (prover.layout.data_dir).exists()
    finally:
        prover.destroy()


@pytest.mark.parametrize("row", ROWS)
def test_a_database_comes_back_as_it_stood_still(row: str) -> None:
    with running(row) as subject, passable_directory() as directory:
        guest = subject.guest
        database = subject.tenant_user()
        writer = Writer(subject, database)
        writer.start()
        wait_until(lambda: writer.acknowledged > 20, what="writes")
        guest.call("freeze", payloads.Freeze(freeze_id="f", backup_id="b", timeout_s=60.0))
        least, most = writer.acknowledged, writer.tried
        copies = [directory / "volume", directory / "proof" / "volume"]
        for copied in copies:
            copied.parent.mkdir(exist_ok=True)
            subprocess.run(["cp", "-a", guest.layout.mount_point, copied], check=True)
        assert guest.call("thaw", payloads.Thaw(freeze_id="f")).was_frozen
        wait_until(lambda: writer.acknowledged > most, what="the writer to go on")
        writer.end()

        prove(row, directory / "proof")
        other = Guest(directory=directory, row=row, template=template_of(row))
        try:
            other.start_agent()
            copy = Subject(guest=other, probe=subject.probe, authority=subject.authority)
            copy.prepare(restoration=payloads.Restoration(chain=(), snapshot="b"))
            other.wait_status("HEALTHY")
            with copy.login("joe", "secret", database=database) as session:
                assert least <= int(str(session.read())) <= most
                session.write("goes on")
                assert session.read() == "goes on"
            assert {path.name for path in other.layout.mount_point.iterdir()} >= {"data", "agent"}
            assert not (other.layout.mount_point / "data.restored").exists()
        finally:
            other.destroy()
