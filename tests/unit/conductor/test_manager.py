"""What the conductor believes, stores and answers."""

from __future__ import annotations

import datetime
import json
import uuid
from typing import Any

import pytest
import sqlalchemy as sa

from tests.fixtures import guest_channel
from tests.fixtures.guest_channel import heartbeat
from trove import states
from trove.common import concurrency, crypto
from trove.conductor import grants, manager
from trove.conductor import heartbeats as batching
from trove.db import base, guest_jobs, guest_keys, heartbeats, models
from trove.rpc import payloads, serializer
from trove.rpc.serializer import Direction
from trove.storage import base as storage

RING = crypto.KeyRing([crypto.generate_key()])


def answer_to(subject: manager.ConductorManager, envelope: object) -> dict[str, Any] | None:
    seal = subject.deliver(envelope)
    return None if seal is None else seal()


class Guest:
    """An instance in the database and the sealer of its agent."""

    def __init__(self, conductor: Conductor) -> None:
        self.key = crypto.generate_key()
        self.conductor = conductor
        self.id = guest_channel.add_instance(conductor.database, RING, key=self.key)
        self.sealer = serializer.Sealer(lambda _: self.key, clock=conductor.clock, window_s=120)

    def seal(self, method: str, report: payloads.Payload | dict[str, Any]) -> dict[str, Any]:
        wire = report if isinstance(report, dict) else report.to_wire()
        return self.sealer.seal(self.id, Direction.UP, method, wire)

    def send(self, method: str, report: payloads.Payload | dict[str, Any]) -> payloads.Ack | None:
        envelope = self.seal(method, report)
        answer = answer_to(self.conductor.manager, envelope)
        if answer is None:
            return None
        return payloads.Ack.from_wire(self.sealer.open_reply(answer, envelope).payload)

    @property
    def stored(self) -> heartbeats.Report:
        self.conductor.batcher.flush()
        with self.conductor.database.reader() as session:
            report = heartbeats.find_report(session, self.id)
        assert report is not None
        return report


class Conductor:
    """A conductor's manager on a database, without a broker."""

    def __init__(self, database: base.Database, store: storage.Store | None = None) -> None:
        self.database = database
        self.clock = concurrency.ManualClock()
        self.hints = guest_channel.Hints()
        self.keys = guest_keys.GuestKeys(database, RING, clock=self.clock, max_age_s=5)
        self.batcher = batching.HeartbeatBatcher(database, flush_interval_s=60, batch_size=500)
        self.manager = manager.ConductorManager(
            database,
            sealer=serializer.Sealer(
                self.keys.key_of,
                clock=self.clock,
                window_s=120,
                candidates=self.keys.candidates,
            ),
            keys=self.keys,
            batcher=self.batcher,
            grants=grants.Grants(database, store),
            hints=self.hints,
            clock=self.clock,
            window_s=120,
        )


@pytest.fixture
def conductor(sqlite_database: base.Database) -> Conductor:
    return Conductor(sqlite_database)


@pytest.fixture
def guest(conductor: Conductor) -> Guest:
    return Guest(conductor)


@pytest.fixture
def both(database: base.Database) -> Conductor:
    """A conductor on each backend in turn."""
    return Conductor(database)


def add_operation(conductor: Conductor, instance_id: str) -> str:
    operation_id = str(uuid.uuid4())
    later = conductor.clock.now() + datetime.timedelta(hours=1)
    with conductor.database.writer() as session:
        session.add(
            models.Operation(
                id=operation_id,
                kind="create_instance",
                resource_id=instance_id,
                lock_key=f"instance:{instance_id}",
                state=states.OperationState.RUNNING,
                step="await_agent",
                wake_on="hello",
                wake_at=later,
                deadline=later,
                project_id="p",
                created=conductor.clock.now(),
                updated=conductor.clock.now(),
            )
        )
    return operation_id


def signals(conductor: Conductor, operation_id: str) -> int:
    with conductor.database.reader() as session:
        return session.scalars(
            sa.select(models.Operation.signals).where(models.Operation.id == operation_id)
        ).one()


def outcome(job_id: str, sequence: int = 1, **values: Any) -> payloads.JobOutcome:
    values.setdefault("succeeded", True)
    return payloads.JobOutcome(job_id=job_id, heartbeat=heartbeat(sequence=sequence), **values)


def find_job(conductor: Conductor, job_id: str) -> guest_jobs.GuestJob:
    with conductor.database.reader() as session:
        job = guest_jobs.find(session, job_id)
    assert job is not None
    return job


def test_the_figures_of_an_engine_are_stored_with_its_heartbeat(both: Conductor) -> None:
    guest = Guest(both)
    figures: dict[str, float] = {"connections": 7.0, "uptime_seconds": 12.5}
    guest.send("hello", payloads.Hello(heartbeat=heartbeat(metrics=figures)))
    assert json.loads(guest.stored.metrics or "") == figures
    guest.send("heartbeat", heartbeat(sequence=2, metrics={"connections": 8}))
    assert json.loads(guest.stored.metrics or "") == {"connections": 8}
    # an engine that is down counts nothing
    guest.send("heartbeat", heartbeat(sequence=3))
    assert guest.stored.metrics is None
    assert both.manager.counters() == {}


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        ({"latest_gossip": 1}, "unknown_metric"),
        ({"' OR 1=1": 1}, "unknown_metric"),
        ({"replicas": -1}, "bad_metric"),
        ({"replicas": 10**400}, "bad_metric"),
        ({"replicas": 2**63}, "bad_metric"),
        ({"replicas": True}, "bad_metric"),
        ({"replicas": "7"}, "bad_metric"),
        ({"replicas": None}, "bad_metric"),
        ({"replicas": [1]}, "bad_metric"),
        ({"replicas": {"$gt": 1}}, "bad_metric"),
    ],
    ids=repr,
)
def test_what_is_no_figure_is_dropped_and_counted_and_the_rest_counts(
    conductor: Conductor, guest: Guest, sent: dict[str, Any], reason: str
) -> None:
    wire = heartbeat().to_wire() | {"metrics": {"connections": 1, **sent}}
    assert guest.send("heartbeat", wire) == payloads.Ack(now_s=conductor.clock.now().timestamp())
    assert json.loads(guest.stored.metrics or "") == {"connections": 1}
    assert conductor.manager.counters() == {reason: 1}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_in_json_is_no_message(
    conductor: Conductor, guest: Guest, value: float
) -> None:
    assert guest.send("heartbeat", heartbeat(metrics={"replicas": value})) is None
    assert guest.stored.order == (0, 0)
    assert conductor.manager.counters() == {"malformed": 1}


def test_too_many_figures_are_none(conductor: Conductor, guest: Guest) -> None:
    many = {f"m{number}": 1 for number in range(1000)} | {"connections": 1}
    guest.send("heartbeat", heartbeat().to_wire() | {"metrics": many})
    assert guest.stored.metrics is None
    assert guest.stored.order == (1, 1)
    assert conductor.manager.counters() == {"too_many_metrics": 1}


def test_hello_is_stored_answered_with_the_time_and_wakes_who_waits(both: Conductor) -> None:
    guest = Guest(both)
    operation_id = add_operation(both, guest.id)
    ack = guest.send("hello", payloads.Hello(heartbeat=heartbeat(), csr_pem="-----CSR"))
    assert ack == payloads.Ack(now_s=both.clock.now().timestamp(), accepted=True)
    assert guest.stored.service_status is states.ServiceStatus.RUNNING
    with both.database.reader() as session:
        assert heartbeats.find_csr(session, guest.id) == "-----CSR"
    assert signals(both, operation_id) == 1
    assert both.hints.operation_ids == [operation_id]


def test_an_older_hello_changes_nothing(conductor: Conductor, guest: Guest) -> None:
    guest.send("hello", payloads.Hello(heartbeat=heartbeat(2, 1), csr_pem="new"))
    guest.send("hello", payloads.Hello(heartbeat=heartbeat(1, 9), csr_pem="old"))
    assert guest.stored.order == (2, 1)
    with conductor.database.reader() as session:
        assert heartbeats.find_csr(session, guest.id) == "new"


def test_a_heartbeat_is_received_by_the_conductors_clock(
    conductor: Conductor, guest: Guest
) -> None:
    guest.send("heartbeat", heartbeat(disk_used_bytes=5))
    conductor.clock.advance(7)
    assert guest.stored.received == conductor.clock.now() - datetime.timedelta(seconds=7)
    assert guest.stored.disk_used_bytes == 5
    assert conductor.hints.operation_ids == []


def test_an_outcome_is_stored_with_its_heartbeat_and_wakes_the_operation(both: Conductor) -> None:
    guest = Guest(both)
    operation_id, job_id = (
        add_operation(both, guest.id),
        guest_channel.add_job(both.database, guest.id),
    )
    ack = guest.send(
        "job_done",
        outcome(job_id, succeeded=False, result={"k": [1]}, error="no", error_code="trove.x"),
    )
    assert ack is not None
    assert ack.accepted
    job = find_job(both, job_id)
    assert (job.succeeded, job.result, job.error, job.error_code) == (
        False,
        {"k": [1]},
        "no",
        "trove.x",
    )
    assert guest.stored.order == (1, 1)
    assert both.hints.operation_ids == [operation_id]


def test_a_repeated_outcome_is_acknowledged_and_changes_nothing(
    conductor: Conductor, guest: Guest
) -> None:
    operation_id = add_operation(conductor, guest.id)
    job_id = guest_channel.add_job(conductor.database, guest.id)
    guest.send("job_done", outcome(job_id, result={"n": 1}))
    ack = guest.send("job_done", outcome(job_id, 2, succeeded=False, result={"n": 2}))
    assert ack is not None
    assert ack.accepted
    assert find_job(conductor, job_id).result == {"n": 1}
    assert signals(conductor, operation_id) == 1
    assert conductor.manager.counters() == {}


def test_a_guest_cannot_end_the_job_of_another(conductor: Conductor, guest: Guest) -> None:
    other = Guest(conductor)
    operation_id = add_operation(conductor, other.id)
    job_id = guest_channel.add_job(conductor.database, other.id)
    guest.send("job_done", outcome(job_id))
    assert find_job(conductor, job_id).succeeded is None
    assert signals(conductor, operation_id) == 0
    assert conductor.manager.counters() == {"foreign_job": 1}


def test_a_report_sealed_with_the_key_of_x_cannot_claim_to_be_of_y(
    conductor: Conductor, guest: Guest
) -> None:
    other = Guest(conductor)
    assert conductor.manager.deliver(guest.seal("heartbeat", heartbeat()) | {"i": other.id}) is None
    assert other.stored.order == guest.stored.order == (0, 0)
    assert conductor.manager.counters() == {"forged": 1}


def test_a_replayed_report_is_dropped_without_answer(conductor: Conductor, guest: Guest) -> None:
    envelope = guest.seal("heartbeat", heartbeat())
    assert answer_to(conductor.manager, envelope) is not None
    assert answer_to(conductor.manager, envelope) is None
    assert conductor.manager.counters() == {"replayed": 1}


def test_a_stale_report_is_not_stored_but_answered_with_the_time(
    conductor: Conductor, guest: Guest
) -> None:
    envelope = guest.seal("hello", payloads.Hello(heartbeat=heartbeat()))
    conductor.clock.advance(1000)
    answer = answer_to(conductor.manager, envelope)
    ack = payloads.Ack.from_wire(guest.sealer.open_reply(answer, envelope).payload)
    assert ack == payloads.Ack(now_s=conductor.clock.now().timestamp(), accepted=False)
    assert guest.stored.order == (0, 0)
    assert conductor.manager.counters() == {"stale": 1}


@pytest.mark.parametrize("plain", [None, 1, "x", [], {}, {"method": "hello", "payload": {}}])
def test_plain_messages_are_dropped(conductor: Conductor, plain: object) -> None:
    assert conductor.manager.deliver(plain) is None
    assert conductor.manager.counters() == {"malformed": 1}


@pytest.mark.parametrize(
    ("method", "report", "reason"),
    [
        ("heartbeat", {}, "malformed_payload"),
        (
            "heartbeat",
            {"boot": 1, "sequence": "1", "service_status": "RUNNING"},
            "malformed_payload",
        ),
        ("delete_everything", {}, "unknown_method"),
        ("heartbeat", heartbeat(service_status="FANTASTIC"), "unknown_status"),
        ("heartbeat", heartbeat(service_status="DELETED"), "reserved_status"),
        ("heartbeat", heartbeat(service_status="PROMOTING"), "reserved_status"),
        ("heartbeat", heartbeat(service_status="FAILED_TIMEOUT_GUESTAGENT"), "reserved_status"),
        ("heartbeat", heartbeat(boot=-1), "bad_order"),
        ("heartbeat", heartbeat(boot=2**31), "bad_order"),
        ("heartbeat", heartbeat(sequence=2**63), "bad_order"),
        ("hello", payloads.Hello(heartbeat=heartbeat(), csr_pem="x" * 16385), "oversized_csr"),
    ],
)
def test_what_no_honest_agent_sends_is_dropped_and_counted(
    conductor: Conductor,
    guest: Guest,
    method: str,
    report: payloads.Payload | dict[str, Any],
    reason: str,
) -> None:
    assert guest.send(method, report) is None
    assert guest.stored.order == (0, 0)
    assert conductor.manager.counters() == {reason: 1}


def test_texts_and_numbers_are_made_to_fit(both: Conductor) -> None:
    guest = Guest(both)
    job_id = guest_channel.add_job(both.database, guest.id)
    nasty = "a\0b\ud800c" + "x" * 100_000
    report = heartbeat(
        engine_version=nasty,
        agent_version=nasty,
        job_id=nasty,
        message=nasty,
        disk_used_bytes=-5,
        disk_total_bytes=2**70,
        job_progress_percent=1000,
    )
    guest.send(
        "job_done",
        payloads.JobOutcome(
            job_id=job_id,
            succeeded=False,
            heartbeat=report,
            result={"big": "x" * 70_000},
            error=nasty,
            error_code=nasty,
        ),
    )
    stored, job = guest.stored, find_job(both, job_id)
    assert stored.message is not None
    assert stored.message.startswith("ab?cx")
    assert len(stored.message) < 4001
    assert (stored.disk_used_bytes, stored.disk_total_bytes) == (0, 2**63 - 1)
    assert stored.job_progress_percent == 100
    assert job.error is not None
    assert len(job.error) < 4001
    assert job.result == {}
    assert both.manager.counters() == {"oversized_result": 1}


def test_a_job_id_that_no_database_can_store_does_no_harm(both: Conductor) -> None:
    guest = Guest(both)
    assert guest.send("job_done", outcome("\ud800" * 1000)) is not None
    assert both.manager.counters() == {"foreign_job": 1}


def test_the_key_of_a_deleted_instance_stops_working(conductor: Conductor, guest: Guest) -> None:
    assert guest.send("heartbeat", heartbeat(sequence=1)) is not None
    with conductor.database.writer() as session:
        session.execute(
            sa.update(models.Instance)
            .where(models.Instance.id == guest.id)
            .values(is_deleted=True, key_wrapped=None)
        )
    conductor.clock.advance(5.1)
    assert guest.send("heartbeat", heartbeat(sequence=2)) is None
    assert conductor.manager.counters() == {"unknown_instance": 1}


def test_a_look_at_all_keys_keeps_the_live_and_forgets_the_others(
    conductor: Conductor, guest: Guest
) -> None:
    other = Guest(conductor)
    guest.send("heartbeat", heartbeat())
    other.send("heartbeat", heartbeat())
    with conductor.database.writer() as session:
        session.execute(
            sa.update(models.Instance)
            .where(models.Instance.id == guest.id)
            .values(is_deleted=True, key_wrapped=None)
        )
    conductor.clock.advance(4)
    conductor.keys.revalidate()
    assert conductor.keys.key_of(guest.id) is None
    conductor.clock.advance(4)
    statements: list[str] = []
    sa.event.listen(
        conductor.database.engine,
        "before_cursor_execute",
        lambda _c, _cur, statement, *_: statements.append(statement),
    )
    assert conductor.keys.key_of(other.id) == other.key
    assert statements == []


def test_when_a_report_cannot_be_stored_there_is_no_ack(
    conductor: Conductor, guest: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = guest_channel.add_job(conductor.database, guest.id)

    def fail(*_: object, **__: object) -> bool:
        raise RuntimeError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(heartbeats, "store", fail)
        assert guest.send("job_done", outcome(job_id)) is None
    assert find_job(conductor, job_id).succeeded is None
    assert guest.send("job_done", outcome(job_id)) is not None
    assert find_job(conductor, job_id).succeeded is True
