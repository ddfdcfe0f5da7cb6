"""Operations that ended long ago are forgotten, but for the last ones of each live instance."""

import datetime

import sqlalchemy as sa

from tests.fixtures.control_plane import ControlPlane
from tests.fixtures.database import NOW, add_instance, add_version
from trove import states
from trove.db import base, guest_jobs, models, operation_pruning, operations

State = states.OperationState
BEFORE = NOW - datetime.timedelta(days=90)


def add(
    database: base.Database, resource_id: str, *, days: float, state: State = State.SUCCEEDED
) -> str:
    """Add an operation that ended so many days ago, with its journal and a job."""
    then = NOW - datetime.timedelta(days=days)
    with database.writer() as session:
        operation_id = operations.create(
            session,
            kind=operations.RESTART_INSTANCE,
            resource_id=resource_id,
            lock_key=None,
            deadline=then,
            now=then,
            project_id="p",
        )
        session.execute(
            sa.update(models.Operation)
            .where(models.Operation.id == operation_id)
            .values(state=state)
        )
        operations.journal(session, operation_id, step="x", event="done", now=then)
    return operation_id


def add_job(database: base.Database, instance_id: str, operation_id: str) -> None:
    with database.writer() as session:
        guest_jobs.ensure(
            session,
            models.new_id(),
            instance_id=instance_id,
            operation_id=operation_id,
            kind="restart",
            now=NOW,
        )


def walk(database: base.Database, *, limit: int = 7) -> int:
    """Go through all; return in how many pieces."""
    mark: operation_pruning.Mark | None = operation_pruning.FIRST
    pieces = 0
    while mark is not None:
        with database.writer() as session:
            mark = operation_pruning.prune(session, mark, before=BEFORE, limit=limit)
        pieces += 1
        assert pieces < 100
    return pieces


def count(database: base.Database, model: type[models.Base]) -> int:
    with database.reader() as session:
        return session.scalar(sa.select(sa.func.count()).select_from(model)) or 0


def left(database: base.Database) -> set[str]:
    with database.reader() as session:
        return set(session.scalars(sa.select(models.Operation.id)))


def test_what_ended_long_ago_goes_with_its_journal_and_jobs(database: base.Database) -> None:
    version_id = add_version(database)
    gone = add_instance(database, version_id)
    with database.writer() as session:
        session.execute(sa.update(models.Instance).values(is_deleted=True))
    old = [
        add(database, gone, days=100 + n, state=state)
        for n, state in enumerate([State.SUCCEEDED, State.FAILED, State.CANCELLED] * 5)
    ]
    for operation_id in old:
        add_job(database, gone, operation_id)
    kept = {
        add(database, gone, days=80),
        # it may be old: it is not over
        add(database, gone, days=200, state=State.RUNNING),
    }
    assert walk(database, limit=4) > 3
    assert left(database) == kept
    assert count(database, models.GuestJob) == 0
    assert count(database, models.OperationStep) == len(kept)


def test_the_last_ones_of_a_live_instance_are_kept(database: base.Database) -> None:
    instance_id = add_instance(database, add_version(database))
    all_of_it = [add(database, instance_id, days=300 - n) for n in range(30)]
    walk(database)
    assert left(database) == set(all_of_it[-operation_pruning.KEPT :])
    walk(database)
    assert len(left(database)) == operation_pruning.KEPT


def test_a_task_manager_forgets_a_piece_in_each_run_and_rests_then(
    sqlite_database: base.Database,
) -> None:
    plane = ControlPlane(sqlite_database)
    plane.manual_clock.advance((NOW - plane.clock.now()).total_seconds())
    instance_id, _ = plane.create()
    plane.settle(plane.runner())
    plane.delete(instance_id)
    plane.settle(plane.runner())
    housekeeping = plane.housekeeping()
    housekeeping.run()
    assert len(left(sqlite_database)) == 2
    plane.manual_clock.advance(91 * 86400)
    for _ in range(12):
        housekeeping.run()
        plane.manual_clock.advance(600)
    assert left(sqlite_database) == set()
    assert plane.instance(instance_id).is_deleted
