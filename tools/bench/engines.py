"""What ``first_answer.py`` has to know of each engine: a client, and the start of the bare engine.

The floor of a family is its program alone, started on a copy of the template that instances are
made from. MariaDB has the configuration of the instance that it is held against; the others have
what an instance's configuration costs at a start (memory, TLS has none), the rest by default.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import os
import pathlib
import pwd
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Any

import harness

BARE_ADDRESS = "127.200.0.1"
PASSWORD = "Bench-0-secret"
USER = DATABASE = "bench"
_MIB = 2**20


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Bare:
    """Where the bare engine runs: its own directory, its program, the user it runs as."""

    directory: pathlib.Path
    program: pathlib.Path
    user: str
    #: Configuration directory of the instance it is compared with.
    server: pathlib.Path

    @property
    def data(self) -> pathlib.Path:
        """The copy of the template."""
        return self.directory / "data"

    def as_user(self, *argv: object) -> list[str]:
        """Return a command line that runs as the engine's user."""
        words = [str(word) for word in argv]
        if os.getuid() != 0:
            return words
        entry = pwd.getpwnam(self.user)
        ids = [f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--clear-groups"]
        return ["setpriv", *ids, "--", *words]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """One family."""

    #: Ask as the user over TLS (plain without ``ca``); raises unless there is an answer.
    ask: Callable[[str, str | None], None]
    #: Returns the command of the bare engine, what it needs being made.
    start: Callable[[Bare], Sequence[str]]
    #: Tells whether the bare engine answers.
    answers: Callable[[Bare], bool]
    has_databases: bool = True
    #: Goal for the time from POST to the first answer.
    at_most_s: float = 3


def _ask_mariadb(address: str, ca: str | None) -> None:
    pymysql = importlib.import_module("pymysql")
    tls = {"ssl_ca": ca, "ssl_verify_cert": True, "ssl_verify_identity": True} if ca else {}
    with (
        pymysql.connect(
            host=address, user=USER, password=PASSWORD, database=DATABASE, connect_timeout=5, **tls
        ) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute("SELECT 1")
        assert cursor.fetchall() == ((1,),)


def _start_mariadb(bare: Bare) -> Sequence[str]:
    (configuration,) = (
        path for path in bare.server.rglob("*.cnf") if "datadir" in path.read_text(errors="replace")
    )
    directory = bare.directory
    for name in ("tmp", "files"):
        (directory / name).mkdir()
        shutil.chown(directory / name, bare.user)
    init_file = directory / "init.sql"
    init_file.write_text(f"CREATE USER bench@localhost IDENTIFIED BY '{PASSWORD}';\n")
    # of an option that stands twice the last one counts
    own = {
        "datadir": bare.data,
        "tmpdir": directory / "tmp",
        "secure-file-priv": directory / "files",
        "socket": directory / "s",
        "pid-file": directory / "pid",
        "init-file": init_file,
        "log-bin": bare.data / "mysql-bin",
        "log-bin-index": bare.data / "mysql-bin.index",
        "relay-log": bare.data / "relay-bin",
        "bind-address": BARE_ADDRESS,
        "report-host": BARE_ADDRESS,
    }
    defaults = directory / "bare.cnf"
    lines = [f"{name} = {value}" for name, value in own.items()]
    defaults.write_text("\n".join([configuration.read_text(), "[mysqld]", *lines, ""]))
    return [str(bare.program), f"--defaults-file={defaults}", f"--user={bare.user}"]


def _mariadb_answers(bare: Bare) -> bool:
    pymysql = importlib.import_module("pymysql")
    try:
        with pymysql.connect(
            unix_socket=str(bare.directory / "s"), user=USER, password=PASSWORD, connect_timeout=5
        ):
            return True
    except pymysql.err.OperationalError:
        return False


def _ask_postgresql(address: str, ca: str | None) -> None:
    psycopg = importlib.import_module("psycopg")
    tls = {"sslmode": "verify-full", "sslrootcert": ca} if ca else {"sslmode": "disable"}
    with psycopg.connect(
        host=address, user=USER, password=PASSWORD, dbname=DATABASE, connect_timeout=5, **tls
    ) as connection:
        assert connection.execute("SELECT 1").fetchall() == [(1,)]


def _start_postgresql(bare: Bare) -> Sequence[str]:
    hba = bare.directory / "hba.conf"
    hba.write_text("local all all trust\n")
    settings = {
        "listen_addresses": BARE_ADDRESS,
        "unix_socket_directories": bare.directory,
        "hba_file": hba,
        "shared_buffers": "128MB",
    }
    configuration = bare.directory / "postgresql.conf"
    lines = [f"{name} = '{value}'" for name, value in settings.items()]
    configuration.write_text("\n".join([*lines, ""]))
    return bare.as_user(bare.program, "-D", bare.data, "-c", f"config_file={configuration}")


def _postgresql_answers(bare: Bare) -> bool:
    psycopg = importlib.import_module("psycopg")
    try:
        with psycopg.connect(host=str(bare.directory), user="nobody", dbname="postgres"):
            return True
    except psycopg.OperationalError as e:
        # whoever asks: it is the engine that refuses him
        return "does not exist" in str(e) and "role" in str(e)


def _ask_redis(address: str, ca: str | None) -> None:
    redis = importlib.import_module("redis")
    tls = {"ssl": True, "ssl_ca_certs": ca, "ssl_check_hostname": True} if ca else {}
    with redis.Redis(
        host=address, port=6380 if ca else 6379, username=USER, password=PASSWORD, **tls
    ) as client:
        assert client.ping()


def _start_redis(bare: Bare) -> Sequence[str]:
    bare.data.mkdir(exist_ok=True)
    shutil.chown(bare.data, bare.user)
    return bare.as_user(
        *(bare.program, "--bind", BARE_ADDRESS, "--port", "6379", "--dir", bare.data),
        *("--protected-mode", "no"),
    )


def _redis_answers(bare: Bare) -> bool:
    redis = importlib.import_module("redis")
    try:
        with redis.Redis(host=BARE_ADDRESS, socket_timeout=5) as client:
            return bool(client.ping())
    except redis.exceptions.ConnectionError:
        return False


def _mongodb_client(address: str, **options: Any) -> Any:
    pymongo = importlib.import_module("pymongo")
    return pymongo.MongoClient(
        address, directConnection=True, serverSelectionTimeoutMS=5000, **options
    )


def _ask_mongodb(address: str, ca: str | None) -> None:
    options = {"tls": True, "tlsCAFile": ca} if ca else {}
    with _mongodb_client(address, username=USER, password=PASSWORD, **options) as client:
        assert client[DATABASE].command("ping")["ok"] == 1


def _start_mongodb(bare: Bare) -> Sequence[str]:
    bare.data.mkdir(exist_ok=True)
    shutil.chown(bare.data, bare.user)
    return bare.as_user(
        *(bare.program, "--dbpath", bare.data, "--bind_ip", BARE_ADDRESS),
        *("--nounixsocket", "--wiredTigerCacheSizeGB", "0.25"),
    )


def _mongodb_answers(bare: Bare) -> bool:
    pymongo = importlib.import_module("pymongo")
    try:
        with _mongodb_client(BARE_ADDRESS) as client:
            return bool(client.admin.command("hello")["ok"])
    except pymongo.errors.PyMongoError:
        return False


_REDIS = Engine(
    ask=_ask_redis,
    start=_start_redis,
    answers=_redis_answers,
    has_databases=False,
    at_most_s=1.5,
)

#: By datastore manager.
ENGINES: dict[str, Engine] = {
    "mariadb": Engine(ask=_ask_mariadb, start=_start_mariadb, answers=_mariadb_answers),
    "postgresql": Engine(ask=_ask_postgresql, start=_start_postgresql, answers=_postgresql_answers),
    "redis": _REDIS,
    "valkey": _REDIS,
    "mongodb": Engine(ask=_ask_mongodb, start=_start_mongodb, answers=_mongodb_answers),
}


def time_bare_start(
    manager: str, *, program: pathlib.Path, user: str, template: pathlib.Path, server: pathlib.Path
) -> float:
    """Return the seconds the engine itself takes: its template copied, started, answering."""
    engine = ENGINES[manager]
    if os.getuid() != 0:
        user = pwd.getpwuid(os.getuid()).pw_name
    with harness.work_directory() as directory:
        shutil.chown(directory, user)
        bare = Bare(directory=directory, program=program, user=user, server=server)
        log = directory / "out.log"
        began = time.perf_counter()
        subprocess.run(["cp", "-a", "--reflink=auto", str(template), str(bare.data)], check=True)
        argv = engine.start(bare)
        with harness.process(argv, log=log) as process:

            def answers() -> bool:
                if process.poll() is not None:
                    raise RuntimeError(f"the bare engine ended: {log.read_text()[-2000:]}")
                with contextlib.suppress(OSError):
                    return engine.answers(bare)
                return False

            harness.wait_for(answers, timeout_s=60, what="the bare engine", interval_s=0.01)
            return time.perf_counter() - began
