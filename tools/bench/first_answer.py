"""From POST to the first answer of a new instance, beside the bare engine's start.

A trove-standalone is started in a directory of its own. Each time an instance with a database and
a user is created through the REST API; the clock runs until that user has got an answer over TLS.
The floor is the engine alone: the image's template copied, the same program started, until it
answers. Builds that only tests use may have no TLS; then the answer comes without, which is said.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import pathlib
import sqlite3
import statistics
import sys
import time

import engines
import harness
import psutil
import rest

from tests.fixtures import sessions, stack
from tests.fixtures.engine import ENGINES
from trove.datastores.spec import Capability


def provision(
    client: rest.Rest, row: str, *, name: str, ca: str | None
) -> tuple[str, dict[str, float]]:
    """Make an instance and talk to it; return its id and seconds since the POST."""
    manager = ENGINES[row].manager
    engine = engines.ENGINES[manager]
    user: dict[str, object] = {"name": engines.USER, "password": engines.PASSWORD}
    content: dict[str, object] = {"users": [user]}
    if engine.has_databases:
        user["databases"] = [{"name": engines.DATABASE}]
        content["databases"] = [{"name": engines.DATABASE}]
    marks = {}
    began = time.perf_counter()
    instance_id = client.create(
        name=name, flavorRef="2", volume={"size": 1}, datastore={"type": manager}, **content
    )
    marks["POST answered"] = time.perf_counter() - began
    instance = client.wait_ready(instance_id)
    marks["ACTIVE and HEALTHY"] = time.perf_counter() - began
    engine.ask(instance["addresses"][0]["address"], ca)
    marks["first answer"] = time.perf_counter() - began
    return instance_id, marks


def authority_file(state_dir: pathlib.Path, row: str) -> str | None:
    """Return whom clients trust; None where the row's engine has no TLS."""
    return None if Capability.TLS in ENGINES[row].lacks else str(state_dir / "ca.pem")


def find_agent(state_dir: pathlib.Path, instance_id: str) -> int:
    """Return the process of an instance's agent."""
    marker = str(state_dir / "servers" / instance_id)
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            line = " ".join(process.cmdline())
            if "guestagent" in line and marker in line:
                return int(process.pid)
    raise RuntimeError(f"instance {instance_id} has no agent")


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


def _bare_start(state_dir: pathlib.Path, row: str, instance_id: str) -> float:
    """Return the seconds the engine itself takes."""
    manager = ENGINES[row].manager
    (record,) = (
        path
        for path in (state_dir / "images").glob("*/image.json")
        if json.loads(path.read_text())["manager"] == manager
    )
    return engines.time_bare_start(
        manager,
        program=pathlib.Path(json.loads(record.read_text())["program"]),
        user=ENGINES[row].user,
        template=record.parent / "template",
        server=state_dir / "servers" / instance_id,
    )


def main() -> int:
    """Measure and print."""
    parser = harness.argument_parser(__doc__)
    parser.add_argument("--repeat", type=int, default=5, help="instances (%(default)s)")
    parser.add_argument(
        "--datastore",
        default="mariadb",
        choices=[row for row in ENGINES if ENGINES[row].manager in engines.ENGINES],
        help="engine, and its version (%(default)s)",
    )
    options = parser.parse_args()
    row = options.datastore
    lacks_tls = Capability.TLS in ENGINES[row].lacks
    figures = harness.Figures(
        f"{row}: POST to first answer {'WITHOUT' if lacks_tls else 'over'} TLS,"
        f" {options.repeat} instances in turn"
    )
    running = stack.make_stack(sessions.OPTIONS)
    try:
        running.down()
        rest.without_rate_limits(running)
        running.up()
        if row != "mariadb":
            sessions.import_image(running, row, name=row)
        client = rest.Rest(running)
        ca = authority_file(running.state_dir, row)
        rounds: list[dict[str, float]] = []
        sizes: list[float] = []
        for number in range(options.repeat):
            instance_id, marks = provision(client, row, name=f"bench-{number}", ca=ca)
            sizes.append(harness.memory_mib(find_agent(running.state_dir, instance_id))[0])
            marks |= _journal(running.state_dir, instance_id)
            marks["bare engine"] = _bare_start(running.state_dir, row, instance_id)
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
    overheads = [each["first answer"] - each["bare engine"] for each in rounds]
    ratios = [each["first answer"] / each["bare engine"] for each in rounds]
    worst = max(each["first answer"] for each in rounds)
    figures.add(
        "first answer, worst", worst, "s", at_most=engines.ENGINES[ENGINES[row].manager].at_most_s
    )
    figures.add(
        "overhead over the bare engine, median", statistics.median(overheads), "s", at_most=1
    )
    figures.add("first answer, times the bare engine", statistics.median(ratios), "x")
    figures.add("agent: RSS, largest", max(sizes), "MiB", at_most=64)
    return figures.finish(options.json)


if __name__ == "__main__":
    sys.exit(main())
