"""How many creates one task manager carries out, and how many threads that holds.

The task manager is the real one with its runner, sweeper, leases and reconciler over a database of
its own; the cloud, the agents and the broker are stand-ins in the same process. Each call of the
cloud takes ``--latency`` seconds, a server runs after ``--server`` and its agent says hello after
``--boot`` seconds. All creates are asked for at once. Threads that are held are counted ten times a
second: what matters is that waiting holds none.
"""

from __future__ import annotations

import collections
import heapq
import sys
import threading
import time
from collections.abc import Callable, Sequence

import dataset
import harness

from trove.common import concurrency

concurrency.use_native_threads()

from tests.fixtures.control_plane import LIMITS, ControlPlane  # noqa: E402 - after the threads
from trove import states  # noqa: E402
from trove.db import base, migrations, operation_timings, operations, quotas  # noqa: E402
from trove.drivers.compute import base as compute  # noqa: E402
from trove.taskmanager import manager  # noqa: E402

_THREADS = 64
_SAMPLE_S = 0.1


class _Alarm:
    """Calls functions at times, all in one thread."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._changed = threading.Condition()
        self._number = 0
        threading.Thread(target=self._run, daemon=True).start()

    def after(self, seconds: float, function: Callable[[], None]) -> None:
        with self._changed:
            self._number += 1
            heapq.heappush(self._due, (time.monotonic() + seconds, self._number, function))
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                left_s = self._due[0][0] - time.monotonic() if self._due else None
                if left_s is None or left_s > 0:
                    self._changed.wait(left_s)
                    continue
                _, _, function = heapq.heappop(self._due)
            function()


class _Samples:
    """How many operations are in the hands of a thread, sampled."""

    def __init__(self, count: Callable[[], int]) -> None:
        self._count = count
        self.seen: list[int] = []
        self._thread = concurrency.PeriodicThread("samples", self._look, interval_s=_SAMPLE_S)

    def _look(self) -> None:
        self.seen.append(self._count())

    def __enter__(self) -> _Samples:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._thread.stop()


def _slow_cloud(
    plane: ControlPlane, *, latency_s: float, server_s: float, boot_s: float
) -> collections.Counter[str]:
    """Have the stand-ins take their time; return what counts the calls of the compute driver."""
    alarm = _Alarm()
    calls: collections.Counter[str] = collections.Counter()
    make = plane.compute.create_server

    def create_server(spec: compute.ServerSpec) -> compute.Server:
        server = make(spec)
        instance_id = spec.instance_id
        alarm.after(
            server_s, lambda: plane.compute.set_status(instance_id, states.ServerStatus.ACTIVE)
        )
        alarm.after(server_s + boot_s, lambda: plane.guests.hello(instance_id))
        return server

    plane.compute.create_server = create_server  # type: ignore[method-assign]
    plane.compute.looks_to_build = 1_000_000
    plane.compute.look_interval_s = 5.0
    plane.volume.look_interval_s = plane.network.look_interval_s = 2.0
    for driver in (plane.compute, plane.volume, plane.network):
        driver.injector.latency_s = latency_s
    plane.compute.injector.watch = lambda method: calls.update([method])
    return calls


def _overheads(plane: ControlPlane, operation_ids: Sequence[str]) -> list[float]:
    with plane.database.reader() as session:
        return [
            operation_timings.of(operations.list_journal(session, each)).own_s
            for each in operation_ids
        ]


def main() -> int:
    """Measure and print."""
    parser = harness.argument_parser(__doc__)
    parser.add_argument("--creates", type=int, default=200, help="at once (%(default)s)")
    parser.add_argument("--latency", type=float, default=0.3, help="of a call (%(default)s s)")
    parser.add_argument("--server", type=float, default=10, help="until it runs (%(default)s s)")
    parser.add_argument("--boot", type=float, default=50, help="of a guest (%(default)s s)")
    parser.add_argument("--mariadb", action="store_true", help="MariaDB instead of SQLite")
    options = parser.parse_args()
    figures = harness.Figures(
        f"{options.creates} creates at once, {_THREADS} threads, calls of {options.latency:g} s,"
        f" servers of {options.server:g} s, boots of {options.boot:g} s,"
        f" {'MariaDB' if options.mariadb else 'SQLite'}"
    )
    with (
        harness.work_directory() as directory,
        dataset.backend(directory, use_mariadb=options.mariadb) as url,
    ):
        database = base.Database(url)
        migrations.upgrade(database)
        plane = ControlPlane(database, clock=concurrency.SystemClock(), threads=_THREADS)
        LIMITS.update({quotas.INSTANCES: -1, quotas.VOLUMES: -1})
        task_manager = manager.TaskManager(plane.tools)
        plane.guests.hint = task_manager.run_operation
        calls = _slow_cloud(
            plane, latency_s=options.latency, server_s=options.server, boot_s=options.boot
        )
        made = [plane.create() for _ in range(options.creates)]
        calls.clear()
        began = time.monotonic()
        cpu = time.process_time()
        with _Samples(lambda: task_manager.runner.threads_held) as samples:
            task_manager.start()
            while plane.active():
                harness.pause(0.5)
            took_s = time.monotonic() - began
        cpu_s = time.process_time() - cpu
        task_manager.stop()
        failed = [each for _, each in made if plane.operation(each).state.value != "SUCCEEDED"]
        figures.add("creates that failed", len(failed), "", at_most=0)
        figures.add("until the last is ready", took_s, "s")
        figures.add("creates an hour", options.creates * 3600 / took_s, "", at_least=500)
        figures.add("CPU of a create", cpu_s * 1000 / options.creates, "ms")
        figures.add("threads held, most", max(samples.seen), "", at_most=_THREADS)
        figures.add("threads held, on average", sum(samples.seen) / len(samples.seen), "")
        figures.add(
            "thread-seconds of a create", sum(samples.seen) * _SAMPLE_S / options.creates, "s"
        )
        figures.add("lists of all servers", calls["list_servers"], "", at_most=took_s / 5 + 1)
        figures.add("looks at one server, of a create", calls["find_server"] / options.creates, "")
        own = _overheads(plane, [each for _, each in made])
        for rank in (50, 99):
            figures.add(f"own overhead p{rank}", harness.percentile(own, rank), "s")
        database.dispose()
    return figures.finish(options.json)


if __name__ == "__main__":
    sys.exit(main())
