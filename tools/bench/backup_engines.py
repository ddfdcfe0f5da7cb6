"""What ``backup.py`` has to know of each engine: how to fill it, and what people back it up with.

The data are those of a shop: rows with keys, times, words of a vocabulary in which few are frequent
(Zipf), and a token of random digits. gzip makes two fifths of it, as of what people keep; filler
as in pgbench, which vanishes, would flatter everybody. Servers are those of an agent, with all
their durability on.
"""

from __future__ import annotations

import abc
import contextlib
import pathlib
import random
from collections.abc import Iterator, Sequence
from typing import Any

import harness  # noqa: F401 - makes the source tree importable

from trove.common import concurrency

concurrency.use_native_threads()

from tests.fixtures import engine as fixture  # noqa: E402
from trove.datastores import postgresql  # noqa: E402
from trove.rpc import payloads  # noqa: E402

_ROWS_AT_ONCE = 20_000
_VOCABULARY = 20_000
_TEXT_BYTES = 24 * 2**20
_USER = payloads.User(name="ann", password="ann-password-0", databases=("shop",))


def rows(size_mib: int) -> Iterator[list[str]]:
    """Yield batches of rows, tab-separated, always the same: about ``size_mib`` in an engine."""
    source = random.Random(20)
    letters = "etaoinshrdlucmfwypvbgkjqxz"
    weights = [1 / (n + 2) for n in range(len(letters))]
    words = [
        "".join(source.choices(letters, weights, k=source.randint(2, 10)))
        for _ in range(_VOCABULARY)
    ]
    frequent = [1 / (n + 3) for n in range(_VOCABULARY)]
    # slices of one text, so long that a compressor's window hardly ever sees one twice
    text = " ".join(source.choices(words, frequent, k=_TEXT_BYTES // 6))
    states = ["new", "paid", "sent", "done", "returned"]
    row, left = 0, size_mib * 2**20
    while left > 0:
        batch = []
        for _ in range(_ROWS_AT_ONCE):
            row += 1
            start = source.randrange(len(text) - 400)
            note = text[start : start + source.randrange(40, 400)]
            batch.append(
                f"{row}\t{source.randrange(100_000)}\t2026-{row % 12 + 1:02d}-{row % 28 + 1:02d}"
                f" {row % 24:02d}:{row % 60:02d}:{source.randrange(60):02d}"
                f"\tuser{source.randrange(500_000)}@example.com\t{states[source.randrange(5)]}"
                f"\t{source.randrange(1_000_000) / 100:.2f}\t{source.randbytes(16).hex()}\t{note}"
            )
        # what a row costs an engine besides its text, with its indexes
        left -= sum(map(len, batch)) + 90 * len(batch)
        yield batch


class Engine(abc.ABC):
    """An instance of our own with data in it, below a directory."""

    name: str
    #: A key of the fixture's engines.
    row: str
    #: What people use, and is compared with.
    usual: str

    def __init__(self, directory: pathlib.Path) -> None:
        """Use a directory that every user may enter."""
        self.directory = directory
        self.guest = fixture.Guest(directory=directory, row=self.row)

    @classmethod
    def is_installed(cls) -> bool:
        """Tell whether it can be measured here."""
        return fixture.is_available(cls.row)

    def start(self) -> None:
        """Have the engine run, with an empty database."""
        self.guest.template = fixture.template_of(self.row)
        self.guest.start_agent()
        self.guest.prepare(
            databases=(payloads.Database(name="shop"),), users=(_USER,), memory_mib=1024
        )
        self.guest.wait_status("HEALTHY")

    @property
    def restored(self) -> pathlib.Path:
        """Where a data directory is restored to."""
        return self.guest.layout.data_dir.with_name("data.restored")

    def task(self) -> dict[str, Any]:
        """Return what another process makes the same instance from."""
        guest = self.guest
        return {
            "engine": self.name,
            "guest": str(guest.directory),
            "address": guest.address,
            "instance_id": guest.instance_id,
        }

    @staticmethod
    def of_task(task: dict[str, Any]) -> Engine:
        """Return the instance of another process; its agent is there."""
        (found,) = (each for each in ALL if each.name == task["engine"])
        engine = found(pathlib.Path(task["guest"]))
        engine.guest.address = task["address"]
        engine.guest.instance_id = task["instance_id"]
        engine.guest.datastore = engine.guest.row_engine.maker(engine.guest.environment())
        return engine

    def put_in_place(self) -> None:
        """Have the restored directory in the place of the data, the engine stopped."""
        data = self.guest.layout.data_dir
        if self.restored.exists():
            assert self.guest.agent is not None
            self.guest.agent.supervisor.ensure_stopped(120)
            data.rename(data.with_name("data.former"))
            self.restored.rename(data)

    def settle(self) -> None:
        """Have everything in its place: all copies are of the same files, with hardly any log."""
        assert self.guest.agent is not None
        self.guest.agent.supervisor.ensure_stopped(300)
        self.run()

    def run(self) -> None:
        """Have the engine accept connections."""
        assert self.guest.agent is not None
        self.guest.agent.supervisor.ensure_running(300)
        self.count()

    @abc.abstractmethod
    def count(self) -> int:
        """Return how many rows there are; raises unless the server answers."""

    @abc.abstractmethod
    def fill(self, size_mib: int) -> None:
        """Store the rows and have them on the disk."""

    def usual_command(self, target: pathlib.Path) -> list[str] | None:
        """Return the command that makes a compressed copy; None: gzip at the agent's stream."""
        return None


class Postgresql(Engine):
    """PostgreSQL 15."""

    name, row = "postgresql", "postgresql-15"
    usual = "pg_basebackup -Ft -z"

    def _connect(self) -> Any:
        import psycopg

        return psycopg.connect(
            host=self.guest.address,
            user=_USER.name,
            password=_USER.password,
            dbname="shop",
            sslmode="disable",
            gssencmode="disable",
            autocommit=True,
        )

    def count(self) -> int:
        """Return how many rows there are."""
        with self._connect() as connection:
            # the whole table would be read
            return int(connection.execute("SELECT max(id) FROM public.orders").fetchone()[0] or 0)

    def fill(self, size_mib: int) -> None:
        """Store the rows."""
        with self._connect() as connection:
            connection.execute(
                "CREATE TABLE public.orders (id bigint PRIMARY KEY, customer int, created"
                " timestamptz, email text, state text, amount numeric(10, 2), token text,"
                " note text)"
            )
            with connection.cursor().copy("COPY public.orders FROM STDIN") as copy:
                for batch in rows(size_mib):
                    copy.write("\n".join(batch) + "\n")
            connection.execute("CREATE INDEX ON public.orders (customer)")
            connection.execute("VACUUM ANALYZE public.orders")

    def _server(self) -> list[str]:
        run_dir = self.guest.environment().store.run_dir()
        return ["-h", str(run_dir), "-p", str(self.guest.port), "-U", postgresql.AGENT_USER]

    def usual_command(self, target: pathlib.Path) -> list[str] | None:
        """Return the command that makes a compressed copy."""
        program = f"{self.guest.row_engine.find_basedir()}/bin/pg_basebackup"
        how = ["-Ft", "-z", "-X", "fetch", "-c", "fast", "-D", str(target)]
        return [program, *self._server(), *how]


class Mariadb(Engine):
    """MariaDB."""

    name, row = "mariadb", "mariadb"
    usual = "mariabackup | gzip"

    def _connect(self) -> Any:
        assert _USER.password is not None
        return self.guest.connect(_USER.name, _USER.password, local_infile=True, database="shop")

    def count(self) -> int:
        """Return how many rows there are."""
        with contextlib.closing(self._connect()) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT max(id) FROM orders")
            return int(cursor.fetchone()[0] or 0)

    def fill(self, size_mib: int) -> None:
        """Store the rows."""
        with contextlib.closing(self._connect()) as connection, connection.cursor() as cursor:
            cursor.execute(
                "CREATE TABLE orders (id bigint PRIMARY KEY, customer int, created datetime,"
                " email varchar(80), state varchar(10), amount decimal(10, 2), token char(32),"
                " note varchar(500), KEY (customer)) ENGINE = InnoDB CHARACTER SET latin1"
            )
            for batch in rows(size_mib):
                values = [line.split("\t") for line in batch]
                cursor.executemany(
                    "INSERT INTO orders VALUES (%s, %s, %s, %s, %s, %s, %s, %s)", values
                )
                connection.commit()


ALL: Sequence[type[Engine]] = (Postgresql, Mariadb)
