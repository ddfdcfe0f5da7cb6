"""Old proofs are renewed, the newest backups first, and never many at a time."""

from __future__ import annotations

import datetime
from typing import Any

import pytest
import sqlalchemy as sa

from tests.fixtures.control_plane import PROJECT, ControlPlane
from tests.fixtures.database import new_backup
from tests.fixtures.schedules import Refusing, Scheduling, allow_backups
from trove import states
from trove.db import backups, base, models, operations
from trove.taskmanager import proof_keeping

PASSED, FAILED = states.Verification.PASSED, states.Verification.FAILED


@pytest.fixture
def at(sqlite_database: base.Database, monkeypatch: pytest.MonkeyPatch) -> Scheduling:
    allow_backups(monkeypatch)
    sqlite_database.notifies = True
    plane = ControlPlane(sqlite_database)
    return Scheduling(plane=plane, made_by=Refusing(plane))


def ago(at: Scheduling, days: float) -> datetime.datetime:
    return at.plane.clock.now() - datetime.timedelta(days=days)


def add(
    at: Scheduling,
    instance_id: str,
    *,
    made: float,
    proven: float | None = None,
    verification: states.Verification | None = PASSED,
    **values: Any,
) -> str:
    """Add a backup that was made and last proven so many days ago."""
    version_id = at.plane.instance(instance_id).datastore_version_id
    new = new_backup(
        version_id,
        project_id=PROJECT,
        instance_id=instance_id,
        completed=ago(at, made),
        **values,
    )
    with at.plane.database.writer() as session:
        assert backups.create(session, new, now=ago(at, made))
        if proven is not None:
            backups.record_verification(
                session, new.id, verification=verification, verified=ago(at, proven)
            )
    return new.id


def renewed(
    at: Scheduling,
    keeping: proof_keeping.ProofKeeping | None = None,
    *,
    kind: str = operations.VERIFY_BACKUP,
) -> list[str]:
    """Have one look at all; return the backups whose proofs began."""
    before = len(at.hints)
    keeping = keeping or proof_keeping.ProofKeeping(at.plane.tools, hint=at.hints.extend)
    keeping.run()
    with at.plane.database.reader() as session:
        begun = [operations.get(session, each) for each in at.hints[before:]]
    assert all(each.kind == kind for each in begun)
    return [each.data["backup_id"] for each in begun]


def test_a_proof_is_renewed_before_it_is_too_old_to_count(at: Scheduling) -> None:
    old, fresh, none = (at.instance() for _ in range(3))
    add(at, old, made=20, proven=20)
    newest = add(at, old, made=10, proven=10)
    add(at, fresh, made=20, proven=3)
    add(at, none, made=3)
    assert renewed(at) == [newest]
    # it is being proven
    assert renewed(at) == []


def test_each_backup_is_proven_again_in_its_time(at: Scheduling) -> None:
    instance_id = at.instance()
    oldest = add(at, instance_id, made=80, proven=40)
    older = add(at, instance_id, made=60, proven=35)
    add(at, instance_id, made=1, proven=1)
    keeping = proof_keeping.ProofKeeping(at.plane.tools, hint=at.hints.extend)
    assert renewed(at, keeping) == [older]
    with at.plane.database.writer() as session:
        session.execute(sa.delete(models.Operation))
        now = at.plane.clock.now()
        backups.record_verification(session, older, verification=PASSED, verified=now)
    # it rests, then goes on
    assert renewed(at, keeping) == []
    at.plane.manual_clock.advance(601)
    assert renewed(at, keeping) == [oldest]
    at.plane.conf.set_override("verify_interval_days", 0.0, group="backup")
    with at.plane.database.writer() as session:
        session.execute(sa.delete(models.Operation))
        backups.record_verification(session, oldest, verification=PASSED)
    assert renewed(at) == []


def test_the_last_good_one_is_looked_for(at: Scheduling) -> None:
    instance_id = at.instance()
    before = add(at, instance_id, made=30, proven=29)
    add(at, instance_id, made=2, proven=2, verification=FAILED)
    assert renewed(at) == [before]


@pytest.mark.parametrize("policy", ["scheduled", "none"])
def test_policies(at: Scheduling, policy: str) -> None:
    at.plane.conf.set_override("verify", policy, group="backup")
    instance_id, other = at.instance(), at.instance()
    add(at, instance_id, made=60, proven=50)
    newest = add(at, instance_id, made=0.1)
    add(at, other, made=60, proven=50)
    add(at, other, made=30, proven=2)
    assert renewed(at) == ([newest] if policy == "scheduled" else [])


def test_what_cannot_be_proven_is_left_alone(at: Scheduling) -> None:
    stopped, gone, busy = at.instance(), at.instance(), at.instance()
    for each in (stopped, gone, busy):
        add(at, each, made=20)
    add(at, at.instance(), made=20, status=states.BackupStatus.FAILED)
    with at.plane.database.writer() as session:
        for instance_id, values in (
            (stopped, {"server_status": states.ServerStatus.SHUTOFF}),
            (gone, {"is_deleted": True}),
            (busy, {"task": states.TaskStatus.RESIZING}),
        ):
            session.execute(
                sa.update(models.Instance).where(models.Instance.id == instance_id).values(**values)
            )
    assert renewed(at) == []


def test_snapshots_are_proven_apart_and_make_up_for_no_other_backup(at: Scheduling) -> None:
    kind = states.BackupKind.SNAPSHOT
    instance_id, gone = at.instance(), at.instance()
    stored = add(at, instance_id, made=20, proven=20)
    add(at, instance_id, made=3, proven=3, kind=kind)
    assert renewed(at) == [stored]
    snapshot = add(at, gone, made=20, proven=20, kind=kind)
    with at.plane.database.writer() as session:
        session.execute(
            sa.update(models.Instance).where(models.Instance.id == gone).values(is_deleted=True)
        )
    # its instance is gone, and is not needed
    assert renewed(at, kind=operations.VERIFY_ON_SERVER) == [snapshot]


def test_what_nobody_could_prove_is_tried_again_after_a_day(at: Scheduling) -> None:
    add(at, at.instance(), made=20, proven=20)
    (first,) = renewed(at)
    plane = at.plane
    with plane.database.writer() as session:
        session.execute(
            sa.update(models.Operation).values(
                state=states.OperationState.FAILED, lock_key=None, updated=plane.clock.now()
            )
        )
        backups.record_verification(session, first, verification=PASSED)
    assert renewed(at) == []
    plane.manual_clock.advance(86401)
    assert renewed(at) == [first]


def test_no_more_at_once_than_the_operator_allows(at: Scheduling) -> None:
    at.plane.conf.set_override("verify_at_once", 2, group="backup")
    made = {add(at, at.instance(), made=20) for _ in range(5)}
    keeping = proof_keeping.ProofKeeping(at.plane.tools, hint=at.hints.extend)
    seen: set[str] = set()
    for _ in range(3):
        begun = renewed(at, keeping)
        assert len(begun) <= 2
        assert renewed(at, keeping) == []
        seen |= set(begun)
        with at.plane.database.writer() as session:
            session.execute(sa.delete(models.Operation))
    assert seen == made


def test_twenty_thousand_backups_are_looked_at_by_an_index(at: Scheduling) -> None:
    template = at.instance()
    for _ in range(20):
        add(at, template, made=3, proven=3)
    instances, rows = (sa.inspect(kind).local_table for kind in (models.Instance, models.Backup))
    numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000)"
    copied = {"id": "printf('%08d', i)", "instance_id": "printf('%08d', i)"}
    with at.plane.database.writer() as session:
        for table, ids in ((instances, copied), (rows, copied | {"id": "backups.id || i"})):
            names = [column.name for column in table.columns]
            values = ", ".join(ids.get(name, f"{table.name}.{name}") for name in names)
            session.execute(
                sa.text(
                    f"INSERT INTO {table.name} ({', '.join(names)})"
                    f" {numbers} SELECT {values} FROM {table.name}, n"
                )
            )
    keeping = proof_keeping.ProofKeeping(at.plane.tools, hint=at.hints.extend)
    statements: list[tuple[str, Any]] = []
    with at.plane.database.reader() as session:
        sa.event.listen(
            session.get_bind(),
            "before_cursor_execute",
            lambda *args: statements.append((args[2], args[3])),
        )
    for number in range(6):
        assert renewed(at, keeping) == [], number
    # six pages of at most two hundred instances, four statements each, then it rests
    selects = [each for each in statements if each[0].startswith("SELECT")]
    assert len(selects) == 24
    with at.plane.database.reader() as session:
        for sql, values in selects:
            plan = session.connection().exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", values)
            for step in plan:
                assert step.detail.startswith("USE TEMP") or "USING" in step.detail, step.detail
