"""The migrations lead to the schema that the models describe, on every backend."""

import pathlib
from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from alembic import autogenerate, migration

from tests.fixtures.database import MariaDb
from trove.db import base, migrations, models


@pytest.fixture(params=["sqlite", "mariadb"])
def empty(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Iterator[base.Database]:
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'empty.db'}"
    else:
        server: MariaDb = request.getfixturevalue("mariadb_server")
        url = server.url(server.create_database())
    database = base.Database(url)
    yield database
    database.dispose()


def test_empty_database_has_no_version(empty: base.Database) -> None:
    assert migrations.current_version(empty) is None


def test_upgrade_reaches_the_newest_version_and_may_be_repeated(empty: base.Database) -> None:
    migrations.upgrade(empty)
    assert migrations.current_version(empty) == migrations.head_version()
    before = set(sa.inspect(empty.engine).get_table_names())
    migrations.upgrade(empty)
    assert set(sa.inspect(empty.engine).get_table_names()) == before
    assert migrations.current_version(empty) == migrations.head_version()


def test_migrated_schema_equals_the_models(empty: base.Database) -> None:
    migrations.upgrade(empty)
    with empty.engine.connect() as connection:
        context = migration.MigrationContext.configure(connection, opts={"compare_type": True})
        assert autogenerate.compare_metadata(context, models.Base.metadata) == []


def test_models_make_the_migrated_schema_column_for_column(empty: base.Database) -> None:
    # the comparison of autogenerate does not see lengths of all types, nor collations
    def describe() -> dict[str, list[tuple[str, str, bool]]]:
        inspector = sa.inspect(empty.engine)
        return {
            table: sorted(
                (c["name"], str(c["type"].compile(empty.engine.dialect)), c["nullable"])
                for c in inspector.get_columns(table)
            )
            for table in models.Base.metadata.tables
        }

    migrations.upgrade(empty)
    migrated = describe()
    models.Base.metadata.drop_all(empty.engine)
    models.Base.metadata.create_all(empty.engine)
    assert describe() == migrated
