"""Operations are claimed, stepped, woken and ended by conditional updates, on every backend."""

import concurrent.futures
import datetime
from typing import Any

import pytest

from tests.fixtures.database import NOW
from trove import states
from trove.common import exception
from trove.db import base, operations

State = states.OperationState


def at(seconds: float) -> datetime.datetime:
    return NOW + datetime.timedelta(seconds=seconds)


def make(database: base.Database, resource_id: str = "r", **values: Any) -> str:
    arguments: dict[str, Any] = {
        "kind": operations.RESTART_INSTANCE,
        "resource_id": resource_id,
        "lock_key": operations.instance_lock(resource_id),
        "deadline": at(300),
        "now": NOW,
        "project_id": "p",
    } | values
    with database.writer() as session:
        return operations.create(session, **arguments)


def claim(
    database: base.Database, operation_id: str, *, owner: str = "me", seconds: float = 0
) -> operations.Operation | None:
    with database.writer() as session:
        return operations.claim(session, operation_id, owner=owner, now=at(seconds), lease_s=30)


def must_claim(database: base.Database, operation_id: str, **kwargs: Any) -> operations.Operation:
    operation = claim(database, operation_id, **kwargs)
    assert operation is not None
    return operation


def read(database: base.Database, operation_id: str) -> operations.Operation:
    with database.reader() as session:
        return operations.get(session, operation_id)


def due(database: base.Database, seconds: float = 0) -> list[str]:
    with database.reader() as session:
        return list(operations.due(session, now=at(seconds), limit=100))


def test_a_new_operation_is_due_and_begins_at_its_kinds_first_step(database: base.Database) -> None:
    operation_id = make(database, data={"a": [1]}, secret_wrapped=b"\x00s")
    operation = read(database, operation_id)
    assert operation.step == "restart_engine"
    assert operation.state is State.PENDING
    assert operation.data == {"a": [1]}
    assert operation.secret_wrapped == b"\x00s"
    assert due(database) == [operation_id]


def test_one_lock_key_admits_one_operation_and_the_transaction_goes_on(
    database: base.Database,
) -> None:
    first = make(database)
    with database.writer() as session:
        with pytest.raises(exception.Conflict):
            operations.create(
                session,
                kind=operations.RESTART_INSTANCE,
                resource_id="r",
                lock_key=operations.instance_lock("r"),
                deadline=at(300),
                now=NOW,
                project_id="p",
            )
        operations.journal(session, first, step="x", event="waiting", now=NOW)
    with database.reader() as session:
        assert [entry.step for entry in operations.list_journal(session, first)] == ["x"]
        assert len(operations.list_operations(session)) == 1


def test_an_ended_operation_gives_its_lock_and_secrets_back(database: base.Database) -> None:
    first = make(database, secret_wrapped=b"s")
    operation = must_claim(database, first)
    with database.writer() as session:
        assert operations.finish(session, operation, state=State.SUCCEEDED, now=NOW)
    ended = read(database, first)
    assert (ended.lock_key, ended.secret_wrapped, ended.progress) == (None, None, 100)
    assert due(database, 1000) == []
    assert make(database) != first


def test_of_many_claims_one_wins(database: base.Database) -> None:
    operation_id = make(database)

    @base.retry_on_conflict
    def attempt(number: int) -> bool:
        return claim(database, operation_id, owner=f"runner-{number}") is not None

    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        assert sum(pool.map(attempt, range(200))) == 1


def test_a_lock_taken_at_once_by_many_is_taken_by_one(database: base.Database) -> None:
    @base.retry_on_conflict
    def attempt(_: int) -> bool:
        try:
            make(database)
        except exception.Conflict:
            return False
        return True

    with concurrent.futures.ThreadPoolExecutor(10) as pool:
        assert sum(pool.map(attempt, range(50))) == 1


def test_a_claim_lasts_as_long_as_its_lease_is_renewed(database: base.Database) -> None:
    operation_id = make(database)
    must_claim(database, operation_id)
    assert claim(database, operation_id, owner="other", seconds=29) is None
    with database.writer() as session:
        assert operations.renew(session, ["me", "gone"], now=at(29), lease_s=30) == 1
    assert claim(database, operation_id, owner="other", seconds=58) is None
    assert due(database, 58) == []
    assert due(database, 60) == [operation_id]
    assert claim(database, operation_id, owner="other", seconds=60) is not None


def test_a_lost_claim_writes_nothing(database: base.Database) -> None:
    operation_id = make(database)
    mine = must_claim(database, operation_id)
    must_claim(database, operation_id, owner="other", seconds=40)
    before = read(database, operation_id)
    with database.writer() as session:
        now = at(41)
        assert (
            operations.save_step(session, mine, step="finish", data={}, now=now, lease_s=30) is None
        )
        assert not operations.wait(session, mine, event="e", wake_at=now, data={}, now=now)
        assert not operations.retry(session, mine, error="e", wake_at=now, data={}, now=now)
        assert operations.begin_undo(session, mine, step="x", error="", data={}, now=now) is None
        assert not operations.finish(session, mine, state=State.FAILED, now=now)
        assert operations.reread(session, mine) is None
        assert operations.renew(session, ["me"], now=now, lease_s=30) == 0
    assert read(database, operation_id) == before


def test_a_step_is_saved_once(database: base.Database) -> None:
    operation = must_claim(database, make(database))
    with database.writer() as session:
        saved = operations.save_step(
            session, operation, step="finish", data={"n": 1}, now=NOW, lease_s=30
        )
        again = operations.save_step(
            session, operation, step="finish", data={"n": 2}, now=NOW, lease_s=30
        )
    assert saved is not None
    assert (saved.step, saved.data, saved.owner) == ("finish", {"n": 1}, "me")
    assert again is None


def test_a_wait_ends_by_its_time(database: base.Database) -> None:
    operation = must_claim(database, make(database))
    with database.writer() as session:
        assert operations.wait(
            session, operation, event="hello", wake_at=at(10), data={"x": 1}, now=NOW
        )
    assert due(database, 9) == []
    assert claim(database, operation.id, owner="early", seconds=9) is None
    assert due(database, 10) == [operation.id]
    assert must_claim(database, operation.id, owner="b", seconds=10).wake_on == "hello"


def test_a_wait_ends_by_a_signal(database: base.Database) -> None:
    operation = must_claim(database, make(database))
    with database.writer() as session:
        operations.wait(session, operation, event="hello", wake_at=at(10), data={}, now=NOW)
    with database.writer() as session:
        assert operations.signal(session, resource_id="r", event="hello", now=at(1)) == [
            operation.id
        ]
        assert operations.signal(session, resource_id="other", event="hello", now=at(1)) == []
    assert due(database, 1) == [operation.id]


def test_a_signal_between_look_and_wait_is_not_lost(database: base.Database) -> None:
    operation = must_claim(database, make(database))
    with database.writer() as session:
        operations.signal(session, resource_id="r", event="hello", now=NOW)
    with database.writer() as session:
        assert not operations.wait(
            session, operation, event="hello", wake_at=at(10), data={}, now=NOW
        )
        fresh = operations.reread(session, operation)
        assert fresh is not None
        assert operations.wait(session, fresh, event="hello", wake_at=at(10), data={}, now=NOW)


def test_a_signal_does_not_shorten_the_pause_after_an_error(database: base.Database) -> None:
    operation = must_claim(database, make(database))
    with database.writer() as session:
        assert operations.retry(session, operation, error="down", wake_at=at(8), data={}, now=NOW)
        operations.signal(session, resource_id="r", event="hello", now=at(1))
    assert due(database, 7) == []
    retried = must_claim(database, operation.id, owner="b", seconds=8)
    assert (retried.attempts, retried.error, retried.signals) == (1, "down", 1)


def test_cancelling_wakes_and_supersede_overrides_undo(database: base.Database) -> None:
    operation = must_claim(database, make(database))
    deletion = make(database, lock_key=operations.delete_lock("r"))
    with database.writer() as session:
        operations.wait(session, operation, event="e", wake_at=at(100), data={}, now=NOW)
    with database.writer() as session:
        cancel = {"resource_id": "r", "exclude_id": deletion, "now": at(1)}
        for mode, asked in (("undo", 1), ("undo", 0), ("supersede", 1), ("undo", 0)):
            assert len(operations.request_cancel(session, mode=mode, **cancel)) == asked
    assert read(database, operation.id).cancel == "supersede"
    assert read(database, deletion).cancel is None
    assert set(due(database, 1)) == {operation.id, deletion}


def test_has_active_looks_at_others_only(database: base.Database) -> None:
    operation_id = make(database)
    with database.reader() as session:
        assert operations.has_active(session, resource_id="r")
        assert not operations.has_active(session, resource_id="r", exclude_id=operation_id)
        assert not operations.has_active(session, resource_id="other")
        assert operations.list_active_resources(session) == {"r"}
