"""The way to the backend: real UTF-8, no password in repr, aware times only."""

import datetime
import pathlib

import pytest
import sqlalchemy as sa
from oslo_config import cfg

from trove import conf as trove_conf
from trove import states
from trove.common import exception
from trove.db import base, models


@pytest.fixture
def conf() -> cfg.ConfigOpts:
    made = trove_conf.new()
    made([], default_config_files=[])
    return made


def test_a_missing_connection_is_a_configuration_error(conf: cfg.ConfigOpts) -> None:
    with pytest.raises(exception.ConfigurationError, match="connection is not set"):
        base.Database.from_config(conf)


def test_the_password_is_in_no_repr(conf: cfg.ConfigOpts) -> None:
    conf.set_override("connection", "mysql+pymysql://u:hunter2@127.0.0.1/t", group="database")
    assert "hunter2" not in repr(base.Database.from_config(conf))


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("mysql+pymysql://u:p%40@h/t", "mysql+pymysql://u:p%40@h/t?charset=utf8mb4"),
        ("mysql+pymysql://u@h/t?charset=latin1", "mysql+pymysql://u@h/t?charset=latin1"),
        ("sqlite:////tmp/x.db", "sqlite:////tmp/x.db"),
    ],
)
def test_servers_are_spoken_to_in_real_utf8(given: str, used: str) -> None:
    assert base._with_charset(given) == used


def test_naive_times_are_refused() -> None:
    naive = datetime.datetime(2026, 1, 1)  # noqa: DTZ001 - what is tested
    with pytest.raises(ValueError, match="naive"):
        models.UtcDateTime().process_bind_param(naive, None)  # type: ignore[arg-type]


def test_times_of_other_zones_are_stored_as_utc() -> None:
    zone = datetime.timezone(datetime.timedelta(hours=2))
    stored = models.UtcDateTime().process_bind_param(
        datetime.datetime(2026, 1, 1, 1, tzinfo=zone),
        None,  # type: ignore[arg-type]
    )
    assert stored == datetime.datetime(2025, 12, 31, 23)  # noqa: DTZ001


def test_an_enum_column_refuses_what_is_no_member() -> None:
    column = models.EnumString(states.TaskStatus)
    with pytest.raises(ValueError, match="DANCING"):
        column.process_bind_param("DANCING", None)  # type: ignore[arg-type]


def test_a_full_disk_is_told_apart_and_is_a_database_error(tmp_path: pathlib.Path) -> None:
    database = base.Database(f"sqlite:///{tmp_path / 'small.db'}")
    with database.writer() as session:
        session.execute(sa.text("CREATE TABLE t (text TEXT)"))
    limit = "PRAGMA max_page_count = 1"
    insert = sa.text("INSERT INTO t VALUES (:text)")
    with pytest.raises(base.DatabaseError) as caught, database.writer() as session:  # noqa: PT012
        session.execute(sa.text(limit))
        session.execute(insert, {"text": "x" * 100_000})
    assert isinstance(caught.value, base.BackendFailed)
    assert caught.value.is_full
    with pytest.raises(base.BackendFailed) as other, database.reader() as session:
        session.execute(sa.text("this is no statement"))
    assert not other.value.is_full
    database.dispose()
