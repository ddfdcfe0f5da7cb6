"""What the service costs at rest: cold start, memory of each process, CPU of an idle agent.

A trove-standalone is started in a directory of its own (its first start makes keys, certificates
and the broker's files; the cold start that is measured is the second), then an instance is made.
RSS counts shared pages in every process, PSS shares them out: the sum of PSS is what is really
used.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time

import harness
import psutil
import rest

from tests.fixtures import stack

_PARTS = ("api", "conductor", "taskmanager")


def _processes(running: stack.Stack) -> dict[str, list[psutil.Process]]:
    """Return what runs for this stack, by what it is."""
    status = json.loads(
        running.standalone("status", "--state-dir", str(running.state_dir), "--json")
    )
    found = {
        role: [psutil.Process(pid) for pid in pids] for role, pids in status["processes"].items()
    }
    marker = str(running.state_dir / "servers")
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            line = " ".join(process.cmdline())
            for part in ("guestagent", "mariadbd"):
                if part in line and marker in line:
                    found.setdefault(part, []).append(process)
    return found


def _cpu_seconds(processes: list[psutil.Process]) -> float:
    return sum(harness.cpu_seconds(process.pid) for process in processes)


def main() -> int:
    """Measure and print."""
    parser = harness.argument_parser(__doc__)
    parser.add_argument(
        "--window", type=float, default=30, help="seconds of idleness watched (%(default)s)"
    )
    options = parser.parse_args()
    figures = harness.Figures("footprint of one machine's service")
    running = stack.make_stack()
    try:
        running.down()
        rest.without_rate_limits(running)
        began = time.perf_counter()
        running.up()
        figures.add("cold start of the control plane", time.perf_counter() - began, "s", at_most=5)
        client = rest.Rest(running)
        instance_id = client.create(name="bench", flavorRef="2", volume={"size": 1})
        client.wait_ready(instance_id)
        found = _processes(running)
        together = [0.0, 0.0]
        for part in (*_PARTS, "supervisor", "broker", "guestagent", "mariadbd"):
            sizes = [harness.memory_mib(process.pid) for process in found[part]]
            rss, pss = (sum(size) for size in zip(*sizes, strict=True))
            count = len(sizes)
            goal = 64 if part == "guestagent" else None
            figures.add(f"{part}: RSS of {count} process(es)", rss, "MiB", at_most=goal)
            figures.add(f"{part}: PSS", pss, "MiB")
            if part in _PARTS:
                together = [together[0] + rss, together[1] + pss]
        figures.add("api + conductor + taskmanager: RSS", together[0], "MiB", at_most=300)
        figures.add("api + conductor + taskmanager: PSS", together[1], "MiB")
        before = {part: _cpu_seconds(found[part]) for part in ("guestagent", *_PARTS)}
        harness.pause(options.window)
        for part, seconds in before.items():
            share = (_cpu_seconds(found[part]) - seconds) / options.window * 100
            goal = 0.2 if part == "guestagent" else None
            figures.add(f"{part}: idle CPU", share, "% of a core", at_most=goal)
        client.delete_and_wait(instance_id)
        client.close()
    finally:
        stack.destroy_stack(running)
    return figures.finish(options.json)


if __name__ == "__main__":
    sys.exit(main())
