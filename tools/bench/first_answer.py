"""From POST to the first SQL answer of a new MariaDB instance, beside the bare engine's start.

A trove-standalone is started in a directory of its own. Each time an instance with a database and
a user is created through the REST API; the clock runs until that user has got an answer to SQL
over TLS. The floor is the engine alone: the image's template copied, the same program started with
the instance's own configuration, until it answers.
"""

from __future__ import annotations

import os
import pathlib
import pwd
import re
import shutil
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


def _bare_start(state_dir: pathlib.Path, instance_id: str, address: str) -> float:
    """Return the seconds the engine itself takes with an instance's configuration."""
    server, volume = state_dir / "servers" / instance_id, state_dir / "volumes" / instance_id
    (original,) = (
        path for path in server.rglob("*.cnf") if "datadir" in path.read_text(errors="replace")
    )
    (template,) = (state_dir / "images").glob("*/template")
    user = "mysql" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
    with harness.work_directory() as directory:
        text = original.read_text()
        for old, new in (
            (str(server), str(directory / "server")),
            (str(volume), str(directory / "volume")),
            (address, _BARE_ADDRESS),
        ):
            text = text.replace(old, new)
        # certificates stay where they are: the engine's user may read them there
        text = re.sub(
            rf"^(ssl.*){re.escape(str(directory / 'server'))}", rf"\1{server}", text, flags=re.M
        )
        for path in re.findall(rf"= *({re.escape(str(directory))}\S+)", text):
            wanted = pathlib.Path(path)
            (wanted if wanted.suffix == "" else wanted.parent).mkdir(parents=True, exist_ok=True)
        defaults = directory / "bare.cnf"
        defaults.write_text(text)
        socket = directory / "s"
        data = pathlib.Path(re.findall(r"^datadir *= *(\S+)", text, flags=re.M)[0])
        shutil.rmtree(data)
        for root, _, _ in os.walk(directory):
            shutil.chown(root, user)
        began = time.perf_counter()
        subprocess.run(["cp", "-a", "--reflink=auto", str(template), str(data)], check=True)
        argv = [
            shutil.which("mariadbd") or "/usr/sbin/mariadbd",
            *(f"--defaults-file={defaults}", f"--user={user}", f"--socket={socket}"),
            "--skip-grant-tables",
        ]
        with harness.process(argv, log=directory / "out.log"):
            harness.wait_for(
                lambda: _answers(unix_socket=str(socket), user="root"),
                timeout_s=60,
                what="the bare engine",
                interval_s=0.01,
            )
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
            address = (client.get_instance(instance_id) or {})["addresses"][0]["address"]
            marks["bare engine"] = _bare_start(running.state_dir, instance_id, address)
            began = time.perf_counter()
            client.delete_and_wait(instance_id)
            marks["delete, until gone"] = time.perf_counter() - began
            rounds.append(marks)
        client.close()
    finally:
        stack.destroy_stack(running)
    for name in rounds[0]:
        figures.add(f"{name}, median", statistics.median(each[name] for each in rounds), "s")
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
