"""The schema's history (alembic) and its use: upgrade, current and newest version.

Migrations only go forward and are safe to repeat. The newest schema equals
:mod:`trove.db.models`; a test compares them on every backend.
"""

from __future__ import annotations

import pathlib

from alembic import command, config, migration, script

from trove.db import base


def _config() -> config.Config:
    alembic_config = config.Config()
    alembic_config.set_main_option("script_location", str(pathlib.Path(__file__).parent))
    alembic_config.set_main_option("path_separator", "os")
    return alembic_config


def head_version() -> str:
    """Return the version that this code needs."""
    head = script.ScriptDirectory.from_config(_config()).get_current_head()
    if head is None:
        raise RuntimeError("the package holds no migrations")
    return head


def current_version(database: base.Database) -> str | None:
    """Return the version of a database; None when it holds no schema of this service."""
    with database.engine.connect() as connection:
        return migration.MigrationContext.configure(connection).get_current_revision()


def upgrade(database: base.Database) -> None:
    """Bring a database to the newest version; does nothing when it is there already."""
    alembic_config = _config()
    with database.engine.begin() as connection:
        alembic_config.attributes["connection"] = connection
        command.upgrade(alembic_config, "head")
