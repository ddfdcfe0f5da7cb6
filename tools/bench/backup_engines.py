"""What ``backup.py`` has to know of each engine: data of a size, a copy as a stream, its way back.

The data are those of a shop: rows with keys, times, words of a vocabulary in which few are frequent
(Zipf), and a token of random digits. gzip makes about a third of it, as of what people keep; filler
as in pgbench, which vanishes, would flatter everybody.
"""

from __future__ import annotations

import abc
import contextlib
import os
import pathlib
import pwd
import random
import shutil
import subprocess
from collections.abc import Iterator, Sequence

import harness

_ROWS_AT_ONCE = 20_000
_VOCABULARY = 20_000
_TEXT_BYTES = 24 * 2**20


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


def as_user(user: str, *argv: object) -> list[str]:
    """Return a command line that runs as a user."""
    words = [str(word) for word in argv]
    if os.getuid() != 0:
        return words
    entry = pwd.getpwnam(user)
    ids = [f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--clear-groups"]
    return ["setpriv", *ids, "--", *words]


class Engine(abc.ABC):
    """A server of our own with data in it, below a directory."""

    name: str
    user: str
    #: What people use, and is compared with.
    rival: str

    def __init__(self, directory: pathlib.Path) -> None:
        """Make the directory of the user."""
        self.directory = directory / self.name
        self.directory.mkdir(mode=0o755)
        self.give(self.directory)

    @classmethod
    @abc.abstractmethod
    def is_installed(cls) -> bool:
        """Tell whether it can be measured here."""

    @abc.abstractmethod
    def make(self) -> None:
        """Make the data directory."""

    @abc.abstractmethod
    def server(self, data: pathlib.Path) -> list[str]:
        """Return the command of the server on a data directory."""

    @abc.abstractmethod
    def count(self, data: pathlib.Path) -> int:
        """Return how many rows there are; raises unless the server answers."""

    @abc.abstractmethod
    def fill(self, size_mib: int) -> None:
        """Store the rows and have them on the disk."""

    @abc.abstractmethod
    def rival_command(self, target: pathlib.Path) -> str:
        """Return the shell's line that makes a compressed copy."""

    @abc.abstractmethod
    def stream(self) -> list[str]:
        """Return the command that writes a copy to its output."""

    @abc.abstractmethod
    def unpack(self, data: pathlib.Path) -> list[str]:
        """Return the command that makes a data directory of a copy at its input."""

    @abc.abstractmethod
    def prepare(self, data: pathlib.Path) -> list[str] | None:
        """Return the command that is needed before the server starts on it."""

    @property
    def data(self) -> pathlib.Path:
        """The data directory."""
        return self.directory / "data"

    def give(self, path: pathlib.Path) -> None:
        """Let something belong to the engine's user."""
        if os.getuid() == 0:
            shutil.chown(path, self.user, pwd.getpwnam(self.user).pw_gid)

    def empty(self, name: str) -> pathlib.Path:
        """Return a new directory of the user."""
        path = self.directory / name
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(mode=0o700)
        self.give(path)
        return path

    @contextlib.contextmanager
    def running(self, data: pathlib.Path) -> Iterator[None]:
        """Have the server answer on a data directory."""
        log = self.directory / "server.log"
        with harness.process(self.server(data), log=log) as server:

            def answers() -> bool:
                if server.poll() is not None:
                    raise RuntimeError(f"the server ended: {log.read_text()[-2000:]}")
                with contextlib.suppress(Exception):
                    return self.count(data) >= 0
                return False

            harness.wait_for(answers, timeout_s=120, what=f"{self.name} answers", interval_s=0.02)
            yield

    def run(self, argv: Sequence[str]) -> None:
        """Run a program; raises with what it said."""
        done = subprocess.run(argv, capture_output=True, text=True, cwd=self.directory)
        if done.returncode != 0:
            raise RuntimeError(f"{argv[-3:]}: {done.stdout[-2000:]}{done.stderr[-2000:]}")


class Postgresql(Engine):
    """PostgreSQL 15, all its durability on."""

    name, user = "postgresql", "postgres"
    rival = "pg_basebackup -Ft -z"
    bin = pathlib.Path("/usr/lib/postgresql/15/bin")

    @classmethod
    def is_installed(cls) -> bool:
        """Tell whether it can be measured here."""
        return (cls.bin / "pg_basebackup").exists()

    def make(self) -> None:
        """Make the data directory."""
        self.run(as_user(self.user, self.bin / "initdb", "-A", "trust", "-D", self.data))
        (self.data / "postgresql.auto.conf").write_text(
            "listen_addresses = ''\nshared_buffers = '256MB'\nmax_wal_size = '4GB'\n"
        )

    def server(self, data: pathlib.Path) -> list[str]:
        """Return the command of the server."""
        return as_user(self.user, self.bin / "postgres", "-D", data, "-k", self.directory)

    def _connect(self) -> object:
        import psycopg

        return psycopg.connect(f"host={self.directory} user=postgres dbname=postgres")

    def count(self, data: pathlib.Path) -> int:
        """Return how many rows there are."""
        with self._connect() as connection:  # type: ignore[attr-defined]
            found = connection.execute("SELECT to_regclass('orders')").fetchone()
            if found[0] is None:
                return 0
            # the whole table would be read
            return int(connection.execute("SELECT max(id) FROM orders").fetchone()[0] or 0)

    def fill(self, size_mib: int) -> None:
        """Store the rows."""
        with self._connect() as connection:  # type: ignore[attr-defined]
            connection.execute(
                "CREATE TABLE orders (id bigint PRIMARY KEY, customer int, created timestamptz,"
                " email text, state text, amount numeric(10, 2), token text, note text)"
            )
            with connection.cursor().copy("COPY orders FROM STDIN") as copy:
                for batch in rows(size_mib):
                    copy.write("\n".join(batch) + "\n")
            connection.execute("CREATE INDEX ON orders (customer)")
        with self._connect() as connection:  # type: ignore[attr-defined]
            connection.autocommit = True
            connection.execute("VACUUM ANALYZE orders")
            # a copy takes the log along: let it be that of a quiet moment
            connection.execute("CHECKPOINT")
            connection.execute("SELECT pg_switch_wal()")
            connection.execute("CHECKPOINT")

    def _copy(self, *argv: object) -> list[str]:
        return as_user(
            self.user,
            self.bin / "pg_basebackup",
            *("-h", self.directory, "-U", "postgres", "-c", "fast", "-X", "fetch", "-Ft"),
            *argv,
        )

    def rival_command(self, target: pathlib.Path) -> str:
        """Return the line that makes a compressed copy."""
        return " ".join(self._copy("-z", "-D", target))

    def stream(self) -> list[str]:
        """Return the command that writes a copy."""
        return self._copy("-D", "-")

    def unpack(self, data: pathlib.Path) -> list[str]:
        """Return the command that makes a data directory of a copy."""
        return as_user(self.user, "tar", "-x", "-f", "-", "-C", data)

    def prepare(self, data: pathlib.Path) -> list[str] | None:
        """Replaying is done by the server."""
        return None


class Mariadb(Engine):
    """MariaDB, all its durability on."""

    name, user = "mariadb", "mysql"
    rival = "mariabackup | gzip"

    @classmethod
    def is_installed(cls) -> bool:
        """Tell whether it can be measured here."""
        return all(map(shutil.which, ("mariadbd", "mariabackup", "mbstream")))

    def _options(self, data: pathlib.Path) -> pathlib.Path:
        path = self.directory / f"{data.name}.cnf"
        path.write_text(
            f"[mysqld]\nuser={self.user}\ndatadir={data}\nskip-networking\n"
            f"socket={self.directory}/sock\npid-file={self.directory}/pid\n"
            "innodb-buffer-pool-size=256M\ninnodb-log-file-size=96M\n"
        )
        return path

    def make(self) -> None:
        """Make the data directory."""
        options = self._options(self.empty("data"))
        self.run(
            as_user(
                self.user,
                "mariadb-install-db",
                f"--defaults-file={options}",
                "--auth-root-authentication-method=socket",
                f"--auth-root-socket-user={self.user}",
                "--skip-test-db",
            )
        )

    def server(self, data: pathlib.Path) -> list[str]:
        """Return the command of the server."""
        return as_user(self.user, "mariadbd", f"--defaults-file={self._options(data)}")

    def _connect(self) -> object:
        import pymysql

        return pymysql.connect(unix_socket=f"{self.directory}/sock", user="root", local_infile=True)

    def _ask(self, sql: str) -> int:
        with self._connect() as connection, connection.cursor() as cursor:  # type: ignore[attr-defined]
            cursor.execute(sql)
            found = cursor.fetchone()
            return int(found[0] or 0) if found else 0

    def count(self, data: pathlib.Path) -> int:
        """Return how many rows there are."""
        has_table = "SELECT count(*) FROM information_schema.tables WHERE table_schema = 'shop'"
        return self._ask("SELECT max(id) FROM shop.orders") if self._ask(has_table) else 0

    def fill(self, size_mib: int) -> None:
        """Store the rows."""
        self._ask("CREATE DATABASE shop")
        self._ask(
            "CREATE TABLE shop.orders (id bigint PRIMARY KEY, customer int, created datetime,"
            " email varchar(80), state varchar(10), amount decimal(10, 2), token char(32),"
            " note varchar(500), KEY (customer)) ENGINE = InnoDB CHARACTER SET latin1"
        )
        path = self.directory / "rows"
        for batch in rows(size_mib):
            path.write_text("\n".join(batch) + "\n")
            path.chmod(0o644)
            with self._connect() as connection, connection.cursor() as cursor:  # type: ignore[attr-defined]
                cursor.execute(f"LOAD DATA LOCAL INFILE '{path}' INTO TABLE shop.orders")
                connection.commit()
        path.unlink()

    def _copy(self) -> list[str]:
        return as_user(
            self.user,
            "mariabackup",
            f"--defaults-file={self._options(self.data)}",
            "--backup",
            f"--user={self.user}",
            f"--socket={self.directory}/sock",
            "--stream=xbstream",
            f"--target-dir={self.directory}",
        )

    def rival_command(self, target: pathlib.Path) -> str:
        """Return the line that makes a compressed copy."""
        return f"{' '.join(self._copy())} 2>/dev/null | gzip > {target}/copy.gz"

    def stream(self) -> list[str]:
        """Return the command that writes a copy."""
        return self._copy()

    def unpack(self, data: pathlib.Path) -> list[str]:
        """Return the command that makes a data directory of a copy."""
        return as_user(self.user, "mbstream", "-x", "-C", data)

    def prepare(self, data: pathlib.Path) -> list[str] | None:
        """Return the command that replays the log of the copy."""
        return as_user(self.user, "mariabackup", "--prepare", f"--target-dir={data}")


ALL: Sequence[type[Engine]] = (Postgresql, Mariadb)
