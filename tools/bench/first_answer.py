"""From POST to the first SQL answer of a new MariaDB instance, beside the bare engine's start.

A trove-standalone is started in a directory of its own. Each time an instance with a database and
a user is created through the REST API; the clock runs until that user has got an answer to SQL
over TLS. The floor is the engine alone: the image's template copied, the same program started with
the instance's own configuration, until it answers.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import pathlib
import pwd
import shutil
import sqlite3
import statistics
import subprocess
import sys
import time

import harness
import pymysql
import rest

from tests.fixtures import stack

_BARE_ADDRESS = "127.200.0.1"
_PASSWORD = "Bench-0-secret"


def _ask(**where: object) -> None:
    connection = pymysql.connect(connect_timeout=5, **where)  # type: ignore[call-overload]
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        assert cursor.fetchall() == ((1,),)


def _answers(**where: object) -> bool:
    try:
        _ask(**where)
    except pymysql.err.OperationalError:
        return False
    return True


def _provision(client: rest.Rest, name: str, ca: pathlib.Path) -> tuple[str, dict[str, float]]:
    """Make an instance and talk to it; return its id and seconds since the POST."""
    marks = {}
    began = time.perf_counter()
    instance_id = client.create(
        name=name,
        flavorRef="2",
        volume={"size": 1},
        databases=[{"name": "bench"}],
        users=[{"name": "bench", "password": _PASSWORD, "databases": [{"name": "bench"}]}],
    )
    marks["POST answered"] = time.perf_counter() - began
    instance = client.wait_ready(instance_id)
    marks["ACTIVE and HEALTHY"] = time.perf_counter() - began
    _ask(
        host=instance["addresses"][0]["address"],
        user="bench",
        password=_PASSWORD,
        database="bench",
        ssl_ca=str(ca),
        ssl_verify_cert=True,
        ssl_verify_identity=True,
    )
    marks["first SQL answer"] = time.perf_counter() - began
    return instance_id, marks


def _journal(state_dir: pathlib.Path, instance_id: str) -> dict[str, float]:
    """Return when each step of the create was done, in seconds since the operation was made."""
    with contextlib.closing(sqlite3.connect(state_dir / "trove.db")) as connection:
        rows = connection.execute(
            "SELECT s.step, s.event, s.created, o.created FROM operation_steps s JOIN operations o"
            " ON o.id = s.operation_id WHERE o.resource_id = ? AND o.kind = 'create_instance'"
            " ORDER BY s.id",
            (instance_id,),
        ).fetchall()
    parse = datetime.datetime.fromisoformat
    return {
        f"step {step} done": (parse(at) - parse(began)).total_seconds()
        for step, event, at, began in rows
        if event == "done"
    }


def _bare_start(state_dir: pathlib.Path, instance_id: str) -> float:
    """Return the seconds the engine itself takes with an instance's configuration."""
    (configuration,) = (
        path
        for path in (state_dir / "servers" / instance_id).rglob("*.cnf")
        if "datadir" in path.read_text(errors="replace")
    )
    (template,) = (state_dir / "images").glob("*/template")
    user = "mysql" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
    with harness.work_directory() as directory:
        for name in ("tmp", "files"):
            (directory / name).mkdir()
            shutil.chown(directory / name, user)
        shutil.chown(directory, user)
        data, socket = directory / "data", directory / "s"
        init_file = directory / "init.sql"
        init_file.write_text(f"CREATE USER bench@localhost IDENTIFIED BY '{_PASSWORD}';\n")
        # of an option that stands twice the last one counts
        own = {
            "datadir": data,
            "tmpdir": directory / "tmp",
            "secure-file-priv": directory / "files",
            "socket": socket,
            "pid-file": directory / "pid",
            "init-file": init_file,
            "log-bin": data / "mysql-bin",
            "log-bin-index": data / "mysql-bin.index",
            "relay-log": data / "relay-bin",
            "bind-address": _BARE_ADDRESS,
            "report-host": _BARE_ADDRESS,
        }
        defaults = directory / "bare.cnf"
        lines = [f"{name} = {value}" for name, value in own.items()]
        defaults.write_text("\n".join([configuration.read_text(), "[mysqld]", *lines, ""]))
        argv = [
            shutil.which("mariadbd") or "/usr/sbin/mariadbd",
            *(f"--defaults-file={defaults}", f"--user={user}"),
        ]
        log = directory / "out.log"
        began = time.perf_counter()
        subprocess.run(["cp", "-a", "--reflink=auto", str(template), str(data)], check=True)
        with harness.process(argv, log=log) as engine:

            def answers() -> bool:
                if engine.poll() is not None:
                    raise RuntimeError(f"the bare engine ended: {log.read_text()[-2000:]}")
                return _answers(unix_socket=str(socket), user="bench", password=_PASSWORD)

            harness.wait_for(answers, timeout_s=60, what="the bare engine", interval_s=0.01)
            return time.perf_counter() - began


def main() -> int:
    """Measure and print."""
    parser = harness.argument_parser(__doc__)
    parser.add_argument("--repeat", type=int, default=5, help="instances (%(default)s)")
    options = parser.parse_args()
    figures = harness.Figures(f"POST to first SQL answer, {options.repeat} instances in turn")
    running = stack.make_stack()
    try:
        running.down()
        rest.without_rate_limits(running)
        running.up()
        client = rest.Rest(running)
        ca = next(running.state_dir.rglob("ca.pem"))
        rounds: list[dict[str, float]] = []
        for number in range(options.repeat):
            instance_id, marks = _provision(client, f"bench-{number}", ca)
            marks |= _journal(running.state_dir, instance_id)
            marks["bare engine"] = _bare_start(running.state_dir, instance_id)
            began = time.perf_counter()
            client.delete_and_wait(instance_id)
            marks["delete, until gone"] = time.perf_counter() - began
            rounds.append(marks)
        client.close()
    finally:
        stack.destroy_stack(running)
    for name in rounds[0]:
        middle = statistics.median(each[name] for each in rounds if name in each)
        figures.add(f"{name}, median", middle, "s")
    overheads = [each["first SQL answer"] - each["bare engine"] for each in rounds]
    ratios = [each["first SQL answer"] / each["bare engine"] for each in rounds]
    worst = max(each["first SQL answer"] for each in rounds)
    figures.add("first SQL answer, worst", worst, "s", at_most=3)
    figures.add(
        "overhead over the bare engine, median", statistics.median(overheads), "s", at_most=1
    )
    figures.add("first SQL answer, times the bare engine", statistics.median(ratios), "x")
    return figures.finish(options.json)


if __name__ == "__main__":
    sys.exit(main())
