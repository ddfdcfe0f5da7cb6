"""Upgrades on real engines: an agent of one image goes, one of another image goes on.

Of MariaDB there is one version here: others are simulated by their number, as
:mod:`tests.fixtures.other_versions` says. PostgreSQL's versions are real.
"""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Iterator

import psycopg
import pymysql
import pytest

from tests.fixtures import engine as engines
from tests.fixtures import test_engines
from tests.fixtures.engine import Guest, needs_mariadb, passable_directory
from tests.fixtures.other_versions import make_mariadb
from trove.guestagent.datastores import upgrade
from trove.guestagent.datastores.postgresql import template as family_template
from trove.guestagent.system import process
from trove.rpc import payloads

PASSWORD = "s3cret-Word"


@dataclasses.dataclass(kw_only=True)
class Instance:
    """A data volume, and guests that come and go with it."""

    directory: pathlib.Path
    row: str
    template: pathlib.Path
    guests: list[Guest] = dataclasses.field(default_factory=list)

    @property
    def volume(self) -> pathlib.Path:
        return self.directory / "volume"

    def boot(self, row: str | None = None, *, basedir: pathlib.Path | None = None) -> Guest:
        """Have a new server's agent take over the volume; the one before must be gone."""
        directory = self.directory / f"server-{len(self.guests)}"
        directory.mkdir(mode=0o755)
        known: dict[str, str] = {}
        if self.guests:
            known = {"address": self.guests[0].address, "instance_id": self.guests[0].instance_id}
        guest = Guest(
            directory=directory,
            row=row or self.row,
            template=self.template,
            basedir=None if basedir is None else str(basedir),
            mount_point=self.volume,
            **known,
        )
        self.guests.append(guest)
        guest.start_agent()
        return guest

    def names(self) -> set[str]:
        return {path.name for path in self.volume.iterdir() if path.name.startswith("data")}


def replace(instance: Instance, guest: Guest, row: str | None = None, **options: object) -> Guest:
    """Stop the engine cleanly and go on in a new server."""
    stopped = guest.run(payloads.StopJob())
    assert stopped.succeeded, stopped.error
    guest.destroy()
    return instance.boot(row, **options)


def phase(guest: Guest, name: str, version: str) -> payloads.JobOutcome:
    return guest.run(payloads.UpgradeEngineJob(phase=name, version=version), timeout_s=120)


def prepared(guest: Guest, version: str) -> str:
    return str(guest.prepare(engine_version=version).result["engine_version"])


@contextlib.contextmanager
def _instance(row: str) -> Iterator[Instance]:
    with passable_directory() as directory:
        made = Instance(directory=directory, row=row, template=engines.template_of(row))
        made.volume.mkdir(mode=0o755)
        try:
            yield made
        finally:
            for guest in made.guests:
                guest.destroy()


# -- MariaDB -----


@pytest.fixture
def mariadb() -> Iterator[Instance]:
    with _instance("mariadb") as made:
        yield made


def rows_of(guest: Guest) -> list[tuple[object, ...]]:
    with contextlib.closing(_connect(guest)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT id, word, @@version FROM shop.words ORDER BY id")
        return [row[:2] for row in cursor.fetchall()]


def _connect(guest: Guest) -> pymysql.connections.Connection:
    return guest.connect("joe", PASSWORD, database="shop", autocommit=True)


def filled(instance: Instance) -> Guest:
    guest = instance.boot()
    guest.prepare(
        databases=(payloads.Database(name="shop"),),
        users=(payloads.User(name="joe", password=PASSWORD, databases=("shop",)),),
    )
    with contextlib.closing(_connect(guest)) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE words (id INT PRIMARY KEY AUTO_INCREMENT, word TEXT)")
        cursor.executemany("INSERT INTO words (word) VALUES (%s)", [("é",), ("two",), ("three",)])
    return guest


def write(guest: Guest) -> None:
    with contextlib.closing(_connect(guest)) as connection, connection.cursor() as cursor:
        cursor.execute("INSERT INTO words (word) VALUES ('new')")


@needs_mariadb
def test_a_later_release_of_mariadb_goes_on_with_the_data(mariadb: Instance) -> None:
    guest = filled(mariadb)
    rows = rows_of(guest)
    checked = phase(guest, "check", "10.11.99")
    assert checked.succeeded, checked.error
    refused = phase(guest, "check", "10.6")
    assert "is older than" in str(refused.error)
    basedir = make_mariadb(mariadb.directory, "10.11.99")
    guest = replace(mariadb, guest, basedir=basedir)
    assert phase(guest, "begin", "10.11.99").succeeded
    assert prepared(guest, "10.11.99") == "10.11.99"
    assert rows_of(guest) == rows
    write(guest)
    assert phase(guest, "commit", "10.11.99").succeeded
    assert mariadb.names() == {"data"}
    assert (mariadb.volume / "data" / "mysql_upgrade_info").exists()


@needs_mariadb
def test_a_release_of_mariadb_that_does_not_start_is_left_for_the_old_one(
    mariadb: Instance,
) -> None:
    guest = filled(mariadb)
    rows = rows_of(guest)
    old = str(guest.wait_status("HEALTHY").engine_version)
    basedir = make_mariadb(mariadb.directory, "10.11.99", runs=False)
    guest = replace(mariadb, guest, basedir=basedir)
    assert phase(guest, "begin", "10.11.99").succeeded
    failed = guest.run(
        payloads.PrepareJob(memory_mib=256, vcpus=1, engine_version="10.11.99"), timeout_s=60
    )
    assert not failed.succeeded
    assert "this build is broken" in str(failed.error)
    guest = replace(mariadb, guest)
    assert prepared(guest, old) == old
    assert rows_of(guest) == rows
    assert mariadb.names() == {"data"}


@needs_mariadb
def test_another_series_of_mariadb_is_given_up_without_a_trace(mariadb: Instance) -> None:
    guest = filled(mariadb)
    rows = rows_of(guest)
    old = str(guest.wait_status("HEALTHY").engine_version)
    guest = replace(mariadb, guest, basedir=make_mariadb(mariadb.directory, "11.8.1"))
    assert phase(guest, "begin", "11.8").succeeded
    assert prepared(guest, "11.8") == "11.8.1"
    assert mariadb.names() == {"data", "data.before"}
    write(guest)
    assert len(rows_of(guest)) == len(rows) + 1
    # the control plane could not go on: its record still has the old version
    guest = replace(mariadb, guest)
    assert prepared(guest, old) == old
    assert rows_of(guest) == rows
    assert mariadb.names() == {"data"}


@needs_mariadb
def test_an_agent_that_dies_while_the_copy_is_made_goes_on(
    mariadb: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest = filled(mariadb)
    rows = rows_of(guest)
    guest = replace(mariadb, guest, basedir=make_mariadb(mariadb.directory, "11.8.1"))
    with monkeypatch.context() as patch:
        # half a copy, and nobody who takes it away
        patch.setattr(upgrade.Kept, "_rename", _die)
        assert not phase(guest, "begin", "11.8.1").succeeded
    assert mariadb.names() == {"data", "data.next"}
    guest.stop_agent()
    guest.start_agent()
    assert prepared(guest, "11.8.1") == "11.8.1"
    assert rows_of(guest) == rows
    assert phase(guest, "commit", "11.8.1").succeeded
    assert mariadb.names() == {"data"}


def _die(*arguments: object) -> None:
    raise RuntimeError


# -- PostgreSQL -----

_POSTGRESQL = ("postgresql-15", "postgresql-18")
needs_both = pytest.mark.skipif(
    not all(row in engines.ENGINES and engines.is_available(row) for row in _POSTGRESQL),
    reason="PostgreSQL 15 or 18 is not installed (tools/test-engines.sh)",
)


@pytest.fixture
def postgresql() -> Iterator[Instance]:
    with _instance("postgresql-15") as made:
        yield made


def _admin(guest: Guest, database: str = "shop") -> psycopg.Connection:
    # as the agent does: over the socket, as the superuser of its own
    return psycopg.connect(
        host=str(guest.environment().store.run_dir()),
        port=guest.port,
        user="os_admin",
        dbname=database,
        autocommit=True,
    )


_FILL = (
    "CREATE TABLE words (id serial PRIMARY KEY, word text, at timestamptz DEFAULT now())",
    "CREATE INDEX ON words (lower(word))",
    "INSERT INTO words (word) SELECT 'wörd ' || n FROM generate_series(1, 2000) AS n",
    "CREATE VIEW latest AS SELECT * FROM words ORDER BY at DESC LIMIT 3",
    "CREATE FUNCTION twice(n int) RETURNS int LANGUAGE sql AS 'SELECT 2 * n'",
    "SELECT lo_from_bytea(0, 'large object')",
)


#: Versions write the text of a view in other words.
_DATA = "--data-only"


def filled_postgresql(instance: Instance) -> Guest:
    guest = instance.boot()
    guest.prepare(
        databases=(payloads.Database(name="shop"),),
        users=(payloads.User(name="joe", password=PASSWORD, databases=("shop",)),),
    )
    with contextlib.closing(_tenant(guest)) as connection:
        for statement in _FILL:
            connection.execute(statement.encode())
    return guest


def _tenant(guest: Guest) -> psycopg.Connection:
    return psycopg.connect(
        host=guest.address,
        port=guest.port,
        user="joe",
        password=PASSWORD,
        dbname="shop",
        autocommit=True,
    )


def dump(guest: Guest, *options: str) -> str:
    """Return everything that tenants have, written by one program whatever the server is."""
    program = f"{test_engines.find('postgresql-18')}/bin/pg_dump"
    done = process.run(
        [
            *(program, "-h", str(guest.environment().store.run_dir()), "-p", str(guest.port)),
            *("-U", "os_admin", "--large-objects", *options, "shop"),
        ],
        timeout_s=60,
    )
    assert done.return_code == 0, done.output
    kept = [
        line
        for line in done.output.splitlines()
        if not line.startswith(("-- Dumped from", "\\restrict", "\\unrestrict"))
    ]
    return "\n".join(kept)


def digest(directory: pathlib.Path) -> dict[str, bytes]:
    """Return what is in all files."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


@needs_both
def test_postgresql_15_becomes_18_and_15_again(
    postgresql: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest = filled_postgresql(postgresql)
    before, data = dump(guest), dump(guest, _DATA)
    assert "wörd 2000" in data
    old = str(guest.wait_status("HEALTHY").engine_version)
    checked = phase(guest, "check", "18")
    assert checked.succeeded, checked.error
    guest = replace(postgresql, guest, "postgresql-18")
    files = digest(postgresql.volume / "data")
    with monkeypatch.context() as patch:
        # what pg_upgrade itself finds wrong: the new data are not like the old ones
        patch.setattr(family_template, "initialize_arguments", _unlike)
        failed = phase(guest, "begin", "18")
        assert "pg_upgrade failed" in str(failed.error)
    assert digest(postgresql.volume / "data") == files
    with monkeypatch.context() as patch:
        # the agent dies when the old data have another name and the new ones not theirs yet
        patch.setattr(upgrade.Kept, "_rename", _dying(upgrade.Kept._rename))
        assert not phase(guest, "begin", "18").succeeded
    assert postgresql.names() == {"data.before", "data.next", "data.source"}
    assert digest(postgresql.volume / "data.before") == files
    assert prepared(guest, "18").startswith("18.")
    assert dump(guest, _DATA) == data
    with contextlib.closing(_tenant(guest)) as connection:
        connection.execute("INSERT INTO words (word) VALUES ('new')")
    assert postgresql.names() == {"data", "data.before"}
    assert digest(postgresql.volume / "data.before") == files
    # the control plane could not go on: its record still has the old version
    guest = replace(postgresql, guest, "postgresql-15")
    assert prepared(guest, "15") == old
    assert dump(guest) == before
    assert postgresql.names() == {"data"}


def _unlike(data: pathlib.Path) -> list[str]:
    return ["-D", str(data), "-U", "os_admin", "-A", "peer", "--no-data-checksums"]


def _dying(rename: Callable[..., None]) -> Callable[..., None]:
    """Die between the first rename and the second."""
    done: list[object] = []

    def change(*arguments: object) -> None:
        if done:
            raise RuntimeError
        rename(*arguments)
        done.append(arguments)

    return change
