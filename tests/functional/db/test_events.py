"""The events feed in the database: numbers without gaps, and readers that miss nothing."""

import datetime
import threading

import pytest
import sqlalchemy as sa

from tests.fixtures.database import NOW, add_instance, add_version
from trove import states
from trove.db import base, events, heartbeats, models


def append(session: object, number: int, *, project: str = "p", resource: str = "r") -> None:
    events.append(
        session,  # type: ignore[arg-type]
        project,
        type=f"instance.x{number}",
        resource_id=resource,
        now=NOW + datetime.timedelta(seconds=number),
    )


def read(
    database: base.Database, *, after: int | None = None, limit: int = 1000, **wanted: object
) -> events.Page:
    with database.reader() as session:
        return events.list_page(
            session,
            "p",
            wanted=events.Filter(**wanted),  # type: ignore[arg-type]
            after=after,
            limit=limit,
        )


def fill(database: base.Database, count: int, **options: str) -> None:
    with database.writer() as session:
        for number in range(1, count + 1):
            append(session, number, **options)


def sequences(page: events.Page) -> list[int]:
    return [event.sequence for event in page.events]


def test_events_are_numbered_from_one_for_each_project(database: base.Database) -> None:
    with database.writer() as session:
        append(session, 1)
        append(session, 1, project="q")
        append(session, 2)
    fill(database, 1)
    page = read(database)
    assert sequences(page) == [1, 2, 3]
    assert [event.type for event in page.events] == ["instance.x1", "instance.x2", "instance.x1"]
    assert (page.next_sequence, page.has_more, page.has_gap) == (3, False, False)


def test_a_transaction_that_fails_leaves_no_event_and_no_gap(database: base.Database) -> None:
    def fail() -> None:
        with database.writer() as session:
            append(session, 1)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    fill(database, 1)
    assert sequences(read(database)) == [1]


def test_a_reader_beside_many_writers_sees_every_event_once_in_order(
    database: base.Database,
) -> None:
    writers, each = 6, 15
    done = threading.Event()
    seen: list[int] = []

    @base.retry_on_conflict
    def write(number: int) -> None:
        with database.writer() as session:
            append(session, number)

    def write_all() -> None:
        for number in range(each):
            write(number)

    def follow() -> None:
        after = 0
        while True:
            is_last = done.is_set()
            page = read(database, after=after, limit=7)
            seen.extend(sequences(page))
            after = page.next_sequence
            if is_last and not page.has_more:
                return

    threads = [threading.Thread(target=write_all) for _ in range(writers)]
    reader = threading.Thread(target=follow)
    for thread in [*threads, reader]:
        thread.start()
    for thread in threads:
        thread.join()
    done.set()
    reader.join()
    assert seen == list(range(1, writers * each + 1))


def test_events_of_two_projects_in_crossing_order_do_not_lock_each_other_out(
    mariadb_database: base.Database,
) -> None:
    both = threading.Barrier(2, timeout=30)

    def write(first: str, second: str) -> None:
        with mariadb_database.writer() as session:
            append(session, 1, project=first)
            both.wait()
            append(session, 2, project=second)

    threads = [threading.Thread(target=write, args=pair) for pair in (("p", "q"), ("q", "p"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sequences(read(mariadb_database)) == [1, 2]


@pytest.mark.parametrize(("count", "more"), [(0, False), (2, False), (3, False), (4, True)])
def test_a_page_tells_whether_there_are_more(
    sqlite_database: base.Database, count: int, more: bool
) -> None:
    fill(sqlite_database, count)
    page = read(sqlite_database, limit=3)
    assert len(page.events) == min(count, 3)
    assert page.has_more is more
    assert page.next_sequence == min(count, 3)


def test_events_are_found_by_resource_type_and_time(database: base.Database) -> None:
    fill(database, 3)
    fill(database, 2, resource="other")
    assert sequences(read(database, resource_id="other")) == [4, 5]
    assert sequences(read(database, type_prefix="instance")) == [1, 2, 3, 4, 5]
    assert sequences(read(database, type_prefix="instance.x2")) == [2, 5]
    assert sequences(read(database, type_prefix="inst")) == []
    assert sequences(read(database, type_prefix="instance_x2")) == []
    since = NOW + datetime.timedelta(seconds=3)
    assert sequences(read(database, since=since)) == [3]
    # who looks for something that is not there goes on behind all that was looked at
    assert read(database, resource_id="nobody").next_sequence == 5


def test_who_comes_too_late_is_told_of_the_gap(database: base.Database) -> None:
    fill(database, 5)
    before = NOW + datetime.timedelta(seconds=4)
    with database.writer() as session:
        assert events.prune(session, before=before, limit=2) == 2
        assert events.prune(session, before=before, limit=2) == 1
        assert events.prune(session, before=before, limit=2) == 0
    assert sequences(read(database)) == [4, 5]
    assert not read(database).has_gap
    assert read(database, after=2).has_gap
    assert sequences(read(database, after=2)) == [4, 5]
    assert not read(database, after=3).has_gap
    # all are gone
    with database.writer() as session:
        events.prune(session, before=NOW + datetime.timedelta(days=1), limit=10)
    assert read(database, after=4).has_gap
    assert not read(database, after=5).has_gap
    assert read(database, after=4).next_sequence == 5


def test_a_place_beyond_the_last_event_is_a_gap_and_starts_anew(database: base.Database) -> None:
    fill(database, 2)
    page = read(database, after=9)
    assert page.has_gap
    assert sequences(page) == [1, 2]


def test_a_change_of_service_status_is_an_event_and_a_heartbeat_is_none(
    database: base.Database,
) -> None:
    version = add_version(database)
    ids = [add_instance(database, version) for _ in range(3)]
    gone = ids[2]
    with database.writer() as session:
        session.execute(
            sa.update(models.Instance).where(models.Instance.id == gone).values(is_deleted=True)
        )

    def report(sequence: int, status: states.ServiceStatus) -> None:
        reports = [
            heartbeats.Report(
                instance_id=instance_id,
                boot=1,
                sequence=sequence,
                service_status=status,
                received=NOW,
            )
            for instance_id in ids
        ]
        with database.writer() as session:
            heartbeats.store(session, reports)

    report(1, states.ServiceStatus.HEALTHY)
    report(2, states.ServiceStatus.HEALTHY)
    report(4, states.ServiceStatus.SHUTDOWN)
    # an old one changes nothing
    report(3, states.ServiceStatus.HEALTHY)
    with database.reader() as session:
        page = events.list_page(
            session, "project", wanted=events.Filter(resource_id=ids[0]), after=None, limit=10
        )
        assert session.scalar(sa.select(sa.func.count()).select_from(models.Event)) == 4
        changed = sa.select(models.InstanceHeartbeat.changed_from).distinct()
        assert list(session.scalars(changed)) == [None]
    assert [event.payload for event in page.events] == [
        {"from": "NEW", "to": "HEALTHY"},
        {"from": "HEALTHY", "to": "SHUTDOWN"},
    ]
    assert {event.type for event in page.events} == {heartbeats.STATUS_CHANGED}
