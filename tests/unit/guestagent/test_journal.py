"""The journal of jobs: done once, reported until acknowledged, no secret kept."""

from __future__ import annotations

import pathlib

import pytest

from trove.common import exception
from trove.guestagent import journal
from trove.rpc import payloads


def _job(job_id: str = "j1") -> payloads.Job:
    return payloads.Job(job_id=job_id, kind="prepare", payload={"password": "s3cret"})


def test_job_is_accepted_once(tmp_path: pathlib.Path) -> None:
    jobs = journal.Journal(tmp_path)
    assert jobs.add(_job())
    assert not jobs.add(_job())


def test_interrupted_job_is_found_by_the_next_agent(tmp_path: pathlib.Path) -> None:
    journal.Journal(tmp_path).add(_job())
    entry = journal.Journal(tmp_path).find_next()
    assert entry is not None
    assert entry.payload == {"password": "s3cret"}


def test_jobs_are_done_in_the_order_they_came(tmp_path: pathlib.Path) -> None:
    jobs = journal.Journal(tmp_path)
    for job_id in ("z", "a", "m"):
        jobs.add(_job(job_id))
    order = []
    while (entry := journal.Journal(tmp_path).find_next()) is not None:
        order.append(entry.job_id)
        jobs.succeed(entry.job_id, {})
    assert order == ["z", "a", "m"]


@pytest.mark.parametrize("succeeds", [True, False])
def test_secrets_leave_the_disk_when_the_job_ends(tmp_path: pathlib.Path, succeeds: bool) -> None:
    jobs = journal.Journal(tmp_path)
    jobs.add(_job())
    (path,) = tmp_path.iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    assert b"s3cret" in path.read_bytes()
    if succeeds:
        jobs.succeed("j1", {"engine_version": "1"})
    else:
        jobs.fail("j1", exception.GuestError(reason="no"))
    assert all(b"s3cret" not in path.read_bytes() for path in tmp_path.iterdir())


def test_secrets_are_not_in_the_repr(tmp_path: pathlib.Path) -> None:
    jobs = journal.Journal(tmp_path)
    jobs.add(_job())
    assert "s3cret" not in repr(jobs.find_next())


def test_outcome_is_unreported_until_acknowledged_across_restarts(tmp_path: pathlib.Path) -> None:
    jobs = journal.Journal(tmp_path)
    jobs.add(_job())
    jobs.fail("j1", exception.GuestError(reason="the disk is full"))
    again = journal.Journal(tmp_path)
    (entry,) = again.unreported()
    assert (entry.succeeded, entry.error, entry.error_code) == (
        False,
        "the disk is full",
        "trove.guest_error",
    )
    again.acknowledge(entry)
    assert journal.Journal(tmp_path).unreported() == []


def test_ended_job_delivered_again_is_reported_again(tmp_path: pathlib.Path) -> None:
    jobs = journal.Journal(tmp_path)
    jobs.add(_job())
    jobs.succeed("j1", {"a": 1})
    jobs.acknowledge(jobs.unreported()[0])
    assert not jobs.add(_job())
    assert [entry.result for entry in jobs.unreported()] == [{"a": 1}]
    assert jobs.find_next() is None


@pytest.mark.parametrize("job_id", ["", "../x", "a/b", "x" * 65, ".hidden", "a\0"])
def test_ids_that_are_no_file_names_are_refused(tmp_path: pathlib.Path, job_id: str) -> None:
    with pytest.raises(payloads.MalformedPayload):
        journal.Journal(tmp_path).add(_job(job_id))
    assert list(tmp_path.iterdir()) == []


def test_journal_does_not_grow_without_end(tmp_path: pathlib.Path) -> None:
    jobs = journal.Journal(tmp_path)
    for number in range(60):
        jobs.add(_job(f"j{number}"))
        jobs.succeed(f"j{number}", {})
        jobs.acknowledge(jobs.unreported()[0])
    assert len(list(tmp_path.iterdir())) == 50
    assert not jobs.add(_job("j59"))


def test_damaged_entry_is_as_if_it_never_came(tmp_path: pathlib.Path) -> None:
    (tmp_path / "j1.json").write_text("{")
    jobs = journal.Journal(tmp_path)
    assert jobs.find_next() is None
    assert jobs.add(_job())


def test_cancelled_job_is_never_done_though_it_comes_later(tmp_path: pathlib.Path) -> None:
    jobs = journal.Journal(tmp_path)
    jobs.add(_job("j1"))
    error = exception.GuestError(reason="it was cancelled")
    assert jobs.cancel("j1", error)
    assert jobs.cancel("j2", error)
    assert not jobs.add(_job("j2"))
    assert jobs.find_next() is None
    again = journal.Journal(tmp_path)
    assert [(e.job_id, e.succeeded, e.error) for e in again.unreported()] == [
        ("j1", False, "it was cancelled"),
        ("j2", False, "it was cancelled"),
    ]
    with pytest.raises(payloads.MalformedPayload):
        jobs.cancel("../x", error)


def test_job_that_ended_is_not_cancelled(tmp_path: pathlib.Path) -> None:
    jobs = journal.Journal(tmp_path)
    jobs.add(_job("j1"))
    jobs.succeed("j1", {"a": 1})
    assert not jobs.cancel("j1", exception.GuestError(reason="it was cancelled"))
    assert jobs.unreported()[0].succeeded
