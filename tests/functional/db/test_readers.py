"""Readers of a server: no transactions, connections of their own that survive its restart."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from oslo_db import exception as db_exception

from tests.fixtures.database import MariaDb, add_instance, add_version
from trove.db import base, instance_views, models, packed_columns


def connection_id(database: base.Database) -> int:
    with database.reader() as session:
        return int(session.scalar(sa.text("SELECT CONNECTION_ID()")) or 0)


def test_each_statement_of_a_reader_sees_what_was_committed_before(
    mariadb_database: base.Database,
) -> None:
    version_id = add_version(mariadb_database)
    count = sa.select(sa.func.count()).select_from(models.Instance)
    with mariadb_database.reader() as session:
        assert session.scalar(count) == 0
        add_instance(mariadb_database, version_id)
        assert session.scalar(count) == 1


def test_a_reader_keeps_no_transaction_and_asks_nothing_but_its_query(
    mariadb_database: base.Database,
) -> None:
    connection_id(mariadb_database)
    with mariadb_database.reader() as session:
        before = int(session.execute(sa.text("SHOW STATUS LIKE 'Questions'")).one()[1])
    for _ in range(10):
        with mariadb_database.reader() as session:
            session.scalar(sa.text("SELECT 1"))
    with mariadb_database.reader() as session:
        after = int(session.execute(sa.text("SHOW STATUS LIKE 'Questions'")).one()[1])
    assert after - before == 11


def test_a_reader_cannot_write(database: base.Database) -> None:
    add_version(database)
    with pytest.raises(base.DatabaseError), database.reader() as session:
        session.execute(sa.delete(models.DatastoreVersion))
    with database.reader() as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(models.DatastoreVersion)) == 1


def test_a_connection_that_died_at_rest_is_replaced(
    mariadb_database: base.Database, mariadb_server: MariaDb, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "_TRUSTED_S", 0.0)
    first = connection_id(mariadb_database)
    mariadb_server.execute(f"KILL {first}")
    assert connection_id(mariadb_database) != first


def test_a_connection_that_died_just_now_fails_once_with_a_known_error(
    mariadb_database: base.Database, mariadb_server: MariaDb, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "_TRUSTED_S", 60.0)
    first = connection_id(mariadb_database)
    mariadb_server.execute(f"KILL {first}")
    with pytest.raises(db_exception.DBConnectionError):
        connection_id(mariadb_database)
    assert connection_id(mariadb_database) != first


def test_a_summary_says_the_same_as_the_whole_view(database: base.Database) -> None:
    version_id = add_version(database)
    for _ in range(3):
        add_instance(database, version_id)
    with database.reader() as session:
        summaries, _ = instance_views.list_views(
            session,
            instance_views.PackedSummary,
            project_id="project",
            limit=10,
            marker=None,
        )
        views, _ = instance_views.list_views(
            session, instance_views.InstanceView, project_id="project", limit=10, marker=None
        )
    assert len(summaries) == 3
    for packed, view in zip(summaries, views, strict=True):
        assert packed.created == packed_columns.written(view.created)
        summary = packed.unpack()
        assert summary._asdict() == {name: getattr(view, name) for name in summary._fields}


def test_a_page_is_read_without_its_neighbours(mariadb_database: base.Database) -> None:
    version_id = add_version(mariadb_database)
    for _ in range(200):
        add_instance(mariadb_database, version_id)
    counters = sa.text("SHOW STATUS LIKE 'Handler_read%'")
    with mariadb_database.reader() as session:
        before = sum(int(row[1]) for row in session.execute(counters))
        views, has_more = instance_views.list_views(
            session, instance_views.PackedSummary, project_id="project", limit=10, marker=None
        )
        after = sum(int(row[1]) for row in session.execute(counters))
    assert (len(views), has_more) == (10, True)
    assert [view.id for view in views] == sorted(view.id for view in views)
    assert after - before < 200
