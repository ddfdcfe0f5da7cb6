"""What an agent weighs with each engine, some heartbeats after its instance was prepared.

A trove-standalone is started in a directory of its own; an instance of each engine is created
through the REST API and left alone for a while. RSS counts the pages of libraries that processes
share in each of them; what is the agent's alone, and who holds it, is told beside it.
"""

from __future__ import annotations

import collections
import pathlib
import re
import sys

import engines
import first_answer
import harness
import rest

from tests.fixtures import sessions, stack
from tests.fixtures.engine import ENGINES

_ROWS = ("mariadb", "postgresql-15", "redis", "mongodb")
_MAPPING = re.compile(r"[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ \d+\s*(.*)")


def _held(pid: int) -> dict[str, float]:
    """Return the MiB of RSS by what holds them: Python's arenas, the C heap, stacks, files."""
    held: collections.Counter[str] = collections.Counter()
    holder = ""
    for line in pathlib.Path(f"/proc/{pid}/smaps").read_text().splitlines():
        mapping = _MAPPING.fullmatch(line)
        if mapping:
            name = mapping.group(1)
            holder = name.rsplit("/", 1)[-1] if name else "anonymous memory"
            holder = "stack of the main thread" if holder == "[stack]" else holder
        elif line.startswith("Rss:"):
            held[holder] += int(line.split()[1])
    return {name: kib / 1024 for name, kib in held.most_common()}


def main() -> int:
    """Measure and print."""
    parser = harness.argument_parser(__doc__)
    parser.add_argument(
        "--datastore",
        action="append",
        choices=[row for row in ENGINES if ENGINES[row].manager in engines.ENGINES],
        help="engine, and its version; may be given again (the four families)",
    )
    parser.add_argument(
        "--rest", type=float, default=12, help="seconds before it is weighed (%(default)s)"
    )
    parser.add_argument("--holders", type=int, default=3, help="largest holders (%(default)s)")
    options = parser.parse_args()
    figures = harness.Figures(f"memory of an agent {options.rest:g} s after it was prepared")
    running = stack.make_stack(sessions.OPTIONS)
    try:
        running.down()
        rest.without_rate_limits(running)
        running.up()
        for row in options.datastore or _ROWS:
            if row != "mariadb":
                sessions.import_image(running, row, name=row)
            # a connection that rests for long is closed by the server
            client = rest.Rest(running)
            instance_id, _ = first_answer.provision(
                client,
                row,
                name=f"bench-{row}",
                ca=first_answer.authority_file(running.state_dir, row),
            )
            client.close()
            harness.pause(options.rest)
            pid = first_answer.find_agent(running.state_dir, instance_id)
            rss, pss = harness.memory_mib(pid)
            figures.add(f"{row}: RSS", rss, "MiB", at_most=64)
            figures.add(f"{row}: PSS", pss, "MiB")
            for name, size in list(_held(pid).items())[: options.holders]:
                figures.add(f"{row}: {name}", size, "MiB")
            client = rest.Rest(running)
            client.delete_and_wait(instance_id)
            client.close()
    finally:
        stack.destroy_stack(running)
    return figures.finish(options.json)


if __name__ == "__main__":
    sys.exit(main())
