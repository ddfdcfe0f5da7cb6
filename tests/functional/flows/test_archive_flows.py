"""The archive of an instance's log begins with a backup, and begins anew when it has to."""

from __future__ import annotations

import pathlib

import pytest

from tests.functional.flows.test_backup_flows import POINTS, Setup, make_setup
from trove import states
from trove.common import crypto
from trove.db import backups, base, log_archives
from trove.rpc import payloads
from trove.taskmanager.operations import create_backup

Status = states.ArchiveStatus


@pytest.fixture
def setup(
    sqlite_database: base.Database, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> Setup:
    made = make_setup(sqlite_database, tmp_path, monkeypatch)
    made.plane.conf.set_override("point_in_time", True, group="backup")
    return made


def epochs(setup: Setup) -> list[log_archives.Archive]:
    """Return the epochs of the instance, oldest first."""
    with setup.plane.database.reader() as session:
        found = log_archives.list_epochs(session, instance_id=setup.instance_id)
    return sorted(found, key=lambda each: each.created)


def jobs(setup: Setup) -> list[payloads.ArchiveJob]:
    """Return what agents were told of archives."""
    return [
        payloads.ArchiveJob.from_wire(job.payload)
        for job in setup.plane.guests.history
        if job.kind == payloads.ArchiveJob.KIND
    ]


def test_the_first_backup_begins_the_archive_and_the_next_goes_on(setup: Setup) -> None:
    setup.made()
    (archive,) = epochs(setup)
    assert archive.state is Status.ACTIVE
    (job,) = jobs(setup)
    assert job.archive is not None
    assert (job.archive.epoch, job.archive.first) == (archive.epoch, 0)
    assert job.archive.storage.prefix == f"{setup.instance_id}/archive/{archive.epoch}/"
    key = setup.plane.key_ring.unwrap(
        archive.key_wrapped or b"", purpose=f"archive:{archive.epoch}"
    )
    assert crypto.decode_key(job.archive.key) == key
    assert job.interval_s == setup.plane.conf.backup.archive_interval_s
    assert job.spool_bytes == setup.plane.conf.backup.archive_spool_mib << 20
    # before the backup: it has to know where the log goes on
    kinds = [kind for _, kind, _ in setup.plane.guests.ran]
    assert kinds.index("archive") < kinds.index("backup")
    setup.made()
    assert [each.epoch for each in epochs(setup)] == [archive.epoch]


def test_after_a_loss_the_next_backup_begins_another(setup: Setup) -> None:
    setup.made()
    with setup.plane.database.writer() as session:
        log_archives.lose(session, epochs(setup)[0].epoch, problem="x", now=setup.plane.clock.now())
    setup.plane.manual_clock.advance(5)
    setup.made()
    assert [each.state for each in epochs(setup)] == [Status.LOST, Status.ACTIVE]


def test_an_archive_that_its_agent_does_not_know_of_is_lost(setup: Setup) -> None:
    setup.made()
    # the agent is heard of, and says nothing of an archive
    setup.plane.manual_clock.advance(3600)
    setup.plane.restart(setup.instance_id)
    setup.plane.settle(setup.plane.runner())
    setup.made()
    former, archive = epochs(setup)
    assert (former.state, archive.state) == (Status.LOST, Status.ACTIVE)
    assert "does not know" in str(former.problem)


def test_a_backup_is_made_without_the_archive_that_cannot_be(setup: Setup) -> None:
    setup.plane.guests.failing["archive"] = "the binary log cannot be enabled"
    setup.made()
    (archive,) = epochs(setup)
    assert archive.state is Status.LOST
    assert "binary log" in str(archive.problem)


def test_where_no_log_is_wanted_none_is_archived(setup: Setup) -> None:
    setup.plane.conf.set_override("point_in_time", False, group="backup")
    setup.made()
    assert epochs(setup) == []
    assert jobs(setup) == []


@pytest.mark.parametrize("before", POINTS)
def test_the_beginning_of_an_archive_survives_a_crash(setup: Setup, before: bool) -> None:
    backup_id = setup.make()
    setup.crash(create_backup.FLOW, "start_archive", before=before)
    assert setup.get(backup_id).status is states.BackupStatus.COMPLETED
    (archive,) = epochs(setup)
    assert archive.state is Status.ACTIVE
    assert len({job.archive.epoch for job in jobs(setup) if job.archive}) == 1


@pytest.mark.parametrize(("policy", "rate"), [("all", 0.0), ("sampled", 1.0), ("sampled", 0.0)])
def test_a_completed_backup_is_proven_where_that_is_wanted(
    setup: Setup, policy: str, rate: float
) -> None:
    setup.plane.conf.set_override("verify", policy, group="backup")
    setup.plane.conf.set_override("verify_sample_rate", rate, group="backup")
    backup_id = setup.made()
    is_wanted = policy == "all" or rate == 1.0
    wanted = states.Verification.PASSED if is_wanted else None
    assert setup.get(backup_id).verification is wanted


def test_the_proof_ends_with_its_instance(setup: Setup) -> None:
    setup.plane.conf.set_override("verify", "all", group="backup")
    backup_id = setup.make()
    runner = setup.plane.runner()
    setup.plane.settle(
        runner,
        until=lambda: setup.get(backup_id).verification is states.Verification.RUNNING,
    )
    setup.plane.delete(setup.instance_id)
    setup.plane.settle(runner)
    with setup.plane.database.reader() as session:
        found = backups.get(session, backup_id)
    assert found.verification is not states.Verification.RUNNING
    assert found.status is states.BackupStatus.COMPLETED
