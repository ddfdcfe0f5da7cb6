"""Reports: hello first, everything until acknowledged, in order."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

import pytest

from tests.fixtures.engine import RecordingConductor
from tests.fixtures.waiting import wait_until
from trove.common import concurrency
from trove.guestagent import heartbeat, journal
from trove.rpc import payloads


def _heartbeat(sequence: int) -> payloads.Heartbeat:
    return payloads.Heartbeat(boot=1, sequence=sequence, service_status="HEALTHY")


@pytest.fixture
def conductor() -> RecordingConductor:
    return RecordingConductor()


@pytest.fixture
def jobs(tmp_path: pathlib.Path) -> journal.Journal:
    return journal.Journal(tmp_path)


@pytest.fixture
def reporter(conductor: RecordingConductor, jobs: journal.Journal) -> Iterator[heartbeat.Reporter]:
    made = heartbeat.Reporter(
        conductor,
        jobs,
        clock=concurrency.SystemClock(),
        interval_s=3600.0,
        make_heartbeat=_heartbeat,
        make_csr=lambda: "csr",
    )
    yield made
    made.close()


def test_hello_comes_first_with_the_certificate_request(
    reporter: heartbeat.Reporter, conductor: RecordingConductor
) -> None:
    reporter.start()
    wait_until(lambda: conductor.heartbeats)
    assert [hello.csr_pem for hello in conductor.hellos] == ["csr"]
    assert conductor.hellos[0].heartbeat.sequence < conductor.heartbeats[0].sequence
    assert reporter.said_hello


def test_hello_is_repeated_until_it_is_acknowledged(
    reporter: heartbeat.Reporter, conductor: RecordingConductor
) -> None:
    conductor.is_down = True
    reporter.start()
    reporter.poke()
    assert not reporter.said_hello
    conductor.is_down = False
    wait_until(lambda: conductor.hellos)
    wait_until(lambda: reporter.said_hello)
    assert len(conductor.hellos) == 1


def test_change_is_reported_at_once(
    reporter: heartbeat.Reporter, conductor: RecordingConductor
) -> None:
    reporter.start()
    wait_until(lambda: conductor.heartbeats)
    before = len(conductor.heartbeats)
    reporter.poke()
    wait_until(lambda: len(conductor.heartbeats) > before, timeout_s=5)


def test_outcome_waits_out_an_outage(
    reporter: heartbeat.Reporter, conductor: RecordingConductor, jobs: journal.Journal
) -> None:
    reporter.start()
    wait_until(lambda: conductor.heartbeats)
    conductor.is_down = True
    jobs.add(payloads.Job(job_id="j1", kind="restart"))
    jobs.succeed("j1", {"engine_version": "1"})
    reporter.poke()
    assert jobs.unreported()
    conductor.is_down = False
    outcome = wait_until(lambda: conductor.outcome_of("j1"))
    assert outcome
    assert outcome.result == {"engine_version": "1"}
    wait_until(lambda: not jobs.unreported())


def test_sequence_numbers_only_grow(
    reporter: heartbeat.Reporter, conductor: RecordingConductor
) -> None:
    reporter.start()
    for count in range(3):
        wait_until(lambda count=count: len(conductor.heartbeats) > count)  # type: ignore[misc]
        reporter.poke()
    numbers = [report.sequence for report in conductor.heartbeats]
    assert numbers == sorted(set(numbers))


def test_last_words_are_said(reporter: heartbeat.Reporter, conductor: RecordingConductor) -> None:
    reporter.start()
    wait_until(lambda: conductor.heartbeats)
    before = len(conductor.heartbeats)
    reporter.close(last_words=True)
    assert len(conductor.heartbeats) == before + 1
