"""Backups of every engine as the agent's jobs make, prove and restore them, with a store."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest

from tests.fixtures.engine import Guest, passable_directory, template_of
from tests.fixtures.rows import Subject, params, running
from tests.fixtures.shelf import Shelf
from tests.fixtures.syncing import no_syncing
from tests.fixtures.waiting import wait_until
from trove.datastores.spec import Capability
from trove.rpc import payloads

__all__ = ["no_syncing"]

#: One version of each engine; of MariaDB and MySQL the integration tests show more.
ROWS = params(["postgresql-18", "redis", "mongodb"])


def _run(guest: Guest, job: Any) -> dict[str, Any]:
    outcome = guest.run(job, timeout_s=120.0)
    assert outcome.succeeded, outcome.error
    return outcome.result


def _write(subject: Subject, value: str, database: str | None) -> None:
    with subject.login("joe", "secret", database=database) as session:
        session.write(value)


def _read(subject: Subject, database: str | None) -> str | None:
    with subject.login("joe", "secret", database=database) as session:
        return session.read()


def _archive(guest: Guest) -> payloads.ArchiveState:
    last = guest.conductor.last
    assert last is not None
    assert last.archive is not None
    assert last.archive.problem is None
    return last.archive


@pytest.mark.parametrize("row", ROWS)
def test_database_goes_there_and_back(row: str, tmp_path: pathlib.Path) -> None:
    shelf = Shelf(tmp_path / "store")
    with running(row) as subject:
        guest = subject.guest
        database = subject.tenant_user()
        has_log = subject.can(Capability.POINT_IN_TIME)
        if has_log:
            _run(guest, payloads.ArchiveJob(archive=shelf.log("e1"), interval_s=0.3))
        _write(subject, "full", database)
        full = shelf.stored("b1", _run(guest, shelf.job("b1")))
        chain = (full,)
        expected = "full"
        if subject.can(Capability.INCREMENTS):
            _write(subject, "increment", database)
            chain = (full, shelf.stored("b2", _run(guest, shelf.job("b2", parent=full))))
            expected = "increment"
        if has_log:
            before = _archive(guest).sequence
            _write(subject, "log", database)
            wait_until(lambda: _archive(guest).sequence > before, what="the log to be archived")
            expected = "log"
        restoration = payloads.Restoration(
            chain=chain, archive=shelf.log("e1") if has_log else None
        )
        proof = payloads.VerifyBackupJob(restoration=payloads.Restoration(chain=(full,)))
        verified = _run(guest, proof)
        has_probe = row.startswith(("mariadb", "mysql", "postgresql"))
        assert verified["findings"].get("probe") == ("equal" if has_probe else None)

        with passable_directory() as directory:
            other = Guest(directory=directory, row=row, template=template_of(row))
            try:
                other.start_agent()
                # as on a server that is made for a proof: nothing is prepared
                assert _run(other, proof)["findings"] == verified["findings"]
                copy = Subject(guest=other, probe=subject.probe, authority=subject.authority)
                copy.prepare(restoration=restoration)
                other.wait_status("HEALTHY")
                assert _read(copy, database) == expected
                _write(copy, "goes on", database)
            finally:
                other.destroy()

        _write(subject, "now", database)
        in_place = payloads.Restoration(chain=(full,))
        _run(guest, payloads.RestoreJob(phase="restore", restoration=in_place))
        assert _read(subject, database) == "full"
