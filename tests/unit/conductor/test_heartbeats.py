"""Heartbeats are stored together, newest first, and only for instances that exist."""

from __future__ import annotations

import datetime
import threading
from typing import Any

import pytest
import sqlalchemy as sa
from oslo_db import exception as db_exception

from tests.fixtures import guest_channel, waiting
from trove import states
from trove.common import crypto
from trove.conductor import heartbeats as batching
from trove.db import base, heartbeats

RING = crypto.KeyRing([crypto.generate_key()])
NOW = datetime.datetime(2026, 5, 4, 3, 2, 1, 123456, tzinfo=datetime.UTC)


def add_instance(database: base.Database) -> str:
    return guest_channel.add_instance(database, RING, key=crypto.generate_key())


def report(instance_id: str, boot: int = 1, sequence: int = 1, **values: Any) -> heartbeats.Report:
    values.setdefault("service_status", states.ServiceStatus.RUNNING)
    values.setdefault("received", NOW)
    return heartbeats.Report(instance_id=instance_id, boot=boot, sequence=sequence, **values)


def stored(database: base.Database, instance_id: str) -> heartbeats.Report:
    with database.reader() as session:
        found = heartbeats.find_report(session, instance_id)
    assert found is not None
    return found


def batcher(database: base.Database, **options: Any) -> batching.HeartbeatBatcher:
    return batching.HeartbeatBatcher(
        database, **({"flush_interval_s": 60, "batch_size": 500} | options)
    )


def test_every_value_of_a_report_is_stored_as_it_is(database: base.Database) -> None:
    full = report(
        add_instance(database),
        boot=2**31 - 1,
        sequence=2**63 - 1,
        engine_version="10.11.6-MariaDB",
        agent_version="1.0",
        disk_used_bytes=2**62,
        disk_total_bytes=2**63 - 1,
        job_id="11111111-1111-4111-8111-111111111111",
        job_progress_percent=42,
        job_done_bytes=2**41,
        job_total_bytes=2**42,
        message="Größe \U0001f600 'quoted' \\ \"x\" $[0]\nline",
        metrics='{"connections": 3, "uptime_seconds": 1.5, "commands_total": 9007199254740993}',
    )
    with database.writer() as session:
        assert heartbeats.store(session, [full]) == 1
    assert stored(database, full.instance_id) == full


def test_a_value_that_is_not_reported_any_more_becomes_null(database: base.Database) -> None:
    instance_id = add_instance(database)
    with database.writer() as session:
        heartbeats.store(session, [report(instance_id, message="busy", disk_used_bytes=1)])
        heartbeats.store(session, [report(instance_id, sequence=2)])
    assert stored(database, instance_id) == report(instance_id, sequence=2)


def test_only_newer_reports_are_stored(database: base.Database) -> None:
    instance_id = add_instance(database)
    outcomes = []
    for boot, sequence in [(2, 5), (2, 5), (2, 4), (1, 99), (2, 6), (3, 1)]:
        with database.writer() as session:
            outcomes.append(heartbeats.store(session, [report(instance_id, boot, sequence)]))
    assert outcomes == [1, 0, 0, 0, 1, 1]
    assert stored(database, instance_id).order == (3, 1)


def test_many_reports_are_few_statements_and_unknown_instances_change_nothing(
    database: base.Database,
) -> None:
    ids = [add_instance(database) for _ in range(30)]
    with database.writer() as session:
        heartbeats.store(session, [report(i, sequence=6) for i in ids])
    statements: list[str] = []
    sa.event.listen(
        database.engine,
        "before_cursor_execute",
        lambda _c, _cur, statement, *_: statements.append(statement),
    )
    strangers = [report(f"{n:08d}-1111-4111-8111-111111111111") for n in range(5)]
    with database.writer() as session:
        count = heartbeats.store(session, [report(i, sequence=7) for i in ids] + strangers)
    assert count == 30
    # the reports, and a look for changes of status
    assert len([s for s in statements if "instance_heartbeats" in s]) == 2
    assert {stored(database, i).sequence for i in ids} == {7}
    with database.reader() as session:
        assert heartbeats.find_report(session, strangers[0].instance_id) is None


def test_the_newest_of_an_instance_wins_within_a_batch(sqlite_database: base.Database) -> None:
    instance_id = add_instance(sqlite_database)
    subject = batcher(sqlite_database)
    for boot, sequence in [(1, 3), (2, 1), (1, 9), (2, 3), (2, 2)]:
        subject.put(report(instance_id, boot, sequence))
    subject.flush()
    assert stored(sqlite_database, instance_id).order == (2, 3)
    assert subject.counters() == {"stored": 1, "dropped": 0}


def test_a_full_batch_does_not_wait_for_the_interval(sqlite_database: base.Database) -> None:
    ids = [add_instance(sqlite_database) for _ in range(4)]
    subject = batcher(sqlite_database, batch_size=4)
    subject.start()
    try:
        for instance_id in ids:
            subject.put(report(instance_id))
        waiting.wait_until(lambda: subject.counters()["stored"] == 4, timeout_s=10)
    finally:
        subject.stop()


def test_what_comes_while_others_are_stored_waits_for_its_turn(
    sqlite_database: base.Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [add_instance(sqlite_database) for _ in range(5)]
    subject = batcher(sqlite_database, batch_size=2)
    late, sizes = ids[3:], []
    store = heartbeats.store

    def store_and_report(session: Any, reports: Any) -> int:
        sizes.append(len(reports))
        if late:
            subject.put(report(late.pop()))
        return store(session, reports)

    monkeypatch.setattr(heartbeats, "store", store_and_report)
    for instance_id in ids[:3]:
        subject.put(report(instance_id))
    subject.flush()
    assert sizes == [2, 1]
    assert all(stored(sqlite_database, i).sequence == 1 for i in ids[:3])
    subject.flush()
    assert all(stored(sqlite_database, i).sequence == 1 for i in ids)


def test_what_waits_at_the_end_is_stored(sqlite_database: base.Database) -> None:
    instance_id = add_instance(sqlite_database)
    subject = batcher(sqlite_database)
    subject.start()
    subject.put(report(instance_id))
    subject.stop()
    assert stored(sqlite_database, instance_id).sequence == 1


def test_while_the_database_is_down_the_newest_are_kept_and_stored_later(
    sqlite_database: base.Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [add_instance(sqlite_database) for _ in range(3)]
    subject = batcher(sqlite_database, max_waiting=3)

    def fail(*_: object) -> int:
        # newer ones arrive while the statement is under way
        subject.put(report(ids[0], sequence=3))
        raise db_exception.DBConnectionError()

    for instance_id in ids:
        subject.put(report(instance_id, sequence=2))
    with monkeypatch.context() as patch:
        patch.setattr(heartbeats, "store", fail)
        with pytest.raises(db_exception.DBConnectionError):
            subject.flush()
    subject.put(report("99999999-1111-4111-8111-111111111111"))
    subject.flush()
    assert [stored(sqlite_database, i).sequence for i in ids] == [3, 2, 2]
    assert subject.counters() == {"stored": 3, "dropped": 1}


def test_a_report_that_the_database_refuses_does_not_stop_the_others(
    mariadb_database: base.Database,
) -> None:
    good, bad = add_instance(mariadb_database), add_instance(mariadb_database)
    subject = batcher(mariadb_database)
    # the conductor checks values; this one went round it
    subject.put(report(bad, boot=2**40))
    subject.put(report(good))
    subject.flush()
    assert stored(mariadb_database, good).sequence == 1


def test_writers_in_parallel_store_the_newest(mariadb_database: base.Database) -> None:
    ids = [add_instance(mariadb_database) for _ in range(20)]
    subjects = [batcher(mariadb_database) for _ in range(4)]
    errors: list[BaseException] = []

    def work(subject: batching.HeartbeatBatcher, offset: int) -> None:
        try:
            for round_number in range(10):
                for instance_id in ids if offset % 2 else reversed(ids):
                    subject.put(report(instance_id, sequence=1 + round_number * 4 + offset))
                subject.flush()
        except BaseException as e:  # noqa: BLE001 - handed to the test's thread
            errors.append(e)

    threads = [
        threading.Thread(target=work, args=(subject, n)) for n, subject in enumerate(subjects)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert {stored(mariadb_database, i).sequence for i in ids} == {40}
