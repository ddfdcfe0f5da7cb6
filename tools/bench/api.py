"""Requests a second and CPU core, SQL statements a request and latency of the API's reads.

The WSGI application of trove-api runs in its own process behind its own HTTP server, over a
database filled with instances. The guest bus and the task manager are dead: whatever touches them
raises. Figures are also given as a ratio to ``GET /`` (the version document, no SQL) of the same
run, which does not depend on the machine.
"""

from __future__ import annotations

import http.client
import json
import pathlib
import subprocess
import sys
import threading
import time

import dataset
import harness

LIST_20 = f"/v1.0/{dataset.PROJECT}/instances?limit=20"
LIST_100 = f"/v1.0/{dataset.PROJECT}/instances?limit=100"
#: Lists that are sorted or filtered: name of the figure -> query.
CHOSEN = {
    "newest": "sort_key=created",
    "by name": "sort_key=name",
    "by update, filtered by datastore": "sort_key=updated&datastore=mariadb",
    "of a status": "status=ACTIVE",
    "of a status that none has": "status=RESIZE",
    "of a tag": f"tags={dataset.TAG}",
    "of a tag, by name": f"tags={dataset.TAG}&sort_key=name",
    "of a name": "name=instance-7",
}
HEADERS = {
    "X-Project-Id": dataset.PROJECT,
    "X-User-Id": "bench",
    "X-Roles": "member,reader",
    "Accept": "application/json",
}


class Client:
    """One connection to the server."""

    def __init__(self, port: int) -> None:
        """Connect on first use."""
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)

    def get(self, path: str) -> bytes:
        """Return the body of a GET; raises AssertionError unless it is 200."""
        self._connection.request("GET", path, headers=HEADERS)
        answer = self._connection.getresponse()
        body = answer.read()
        assert answer.status == 200, (path, answer.status, body[:300])
        return body

    def control(self, command: str) -> dict[str, float]:
        """Ask the measuring part of the server process."""
        document: dict[str, float] = json.loads(self.get(f"/_bench/{command}"))
        return document

    def close(self) -> None:
        """Disconnect."""
        self._connection.close()


def _statements(client: Client, path: str) -> int:
    """Return the SQL statements of one request, caches filled."""
    for _ in range(5):
        client.get(path)
    client.control("count-on")
    client.get(path)
    counted = int(client.control("count-off")["statements"])
    assert counted, "a read without SQL: the counter does not see the application's engine"
    return counted


def _closed_loop(client: Client, path: str, seconds: float) -> tuple[float, list[float]]:
    """Send one request after the other; return (requests a server CPU second, latencies)."""
    for _ in range(50):
        client.get(path)
    latencies = []
    before = client.control("cpu")["seconds"]
    end = time.perf_counter() + seconds
    while (began := time.perf_counter()) < end:
        client.get(path)
        latencies.append(time.perf_counter() - began)
    return len(latencies) / (client.control("cpu")["seconds"] - before), latencies


def _open_loop(port: int, path: str, *, rate: float, seconds: float) -> list[float]:
    """Send at a fixed rate whatever the answers do; latencies count from the due time."""
    latencies: list[float] = []
    began = time.perf_counter() + 0.2
    due = [began + number / rate for number in range(int(rate * seconds))]
    lock = threading.Lock()

    def work() -> None:
        client = Client(port)
        while True:
            with lock:
                if not due:
                    break
                at = due.pop(0)
            harness.pause(max(0.0, at - time.perf_counter()))
            client.get(path)
            latencies.append(time.perf_counter() - at)
        client.close()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return latencies


def _measure(figures: harness.Figures, port: int, instance_id: str, seconds: float) -> None:
    client = Client(port)
    show = f"/v1.0/{dataset.PROJECT}/instances/{instance_id}"
    assert len(json.loads(client.get(LIST_20))["instances"]) == 20
    assert json.loads(client.get(show))["instance"]["id"] == instance_id
    for name, path in (("list of 20", LIST_20), ("list of 100", LIST_100), ("show", show)):
        goal = 4 if "list" in name else None
        figures.add(f"{name}: SQL statements", _statements(client, path), "", at_most=goal)
    baseline, _ = _closed_loop(client, "/", seconds)
    figures.add("version document: requests", baseline, "/CPU s")
    for name, path, goal in (
        ("list of 20", LIST_20, 300),
        ("list of 100", LIST_100, None),
        ("show", show, 500),
    ):
        rate, latencies = _closed_loop(client, path, seconds)
        figures.add(f"{name}: requests", rate, "/CPU s", at_least=goal)
        figures.add(f"{name}: CPU, times a version document", baseline / rate, "x")
        for rank in (50, 99):
            milliseconds = harness.percentile(latencies, rank) * 1000
            figures.add(f"{name}: latency p{rank}, one client", milliseconds, "ms")
    for name, query in CHOSEN.items():
        path = f"{LIST_20}&{query}"
        figures.add(f"list of 20 {name}: SQL statements", _statements(client, path), "", at_most=4)
        _, latencies = _closed_loop(client, path, seconds / 5)
        figures.add(
            f"list of 20 {name}: latency p50, one client",
            harness.percentile(latencies, 50) * 1000,
            "ms",
        )
    for name, path, goal in (("list of 100", LIST_100, 50), ("show", show, 20)):
        latencies = _open_loop(port, path, rate=100, seconds=seconds)
        milliseconds = harness.percentile(latencies, 99) * 1000
        figures.add(f"{name}: latency p99 at 100 requests/s", milliseconds, "ms", at_most=goal)
    client.close()


def main() -> int:
    """Measure and print."""
    parser = harness.argument_parser(__doc__)
    parser.add_argument("--rows", type=int, default=1000, help="instances (%(default)s)")
    parser.add_argument("--mariadb", action="store_true", help="MariaDB instead of SQLite")
    parser.add_argument(
        "--seconds", type=float, default=5, help="length of each measurement (%(default)s)"
    )
    options = parser.parse_args()
    backend_name = "MariaDB" if options.mariadb else "SQLite"
    figures = harness.Figures(f"API reads, {options.rows} instances in {backend_name}")
    with (
        harness.work_directory() as directory,
        dataset.backend(directory, use_mariadb=options.mariadb) as url,
    ):
        data = dataset.fill(url, options.rows)
        config = directory / "trove.conf"
        config.write_text(_CONFIGURATION.format(url=url, directory=directory))
        server = str(pathlib.Path(__file__).with_name("api_server.py"))
        argv = [sys.executable, server, str(config)]
        log = directory / "api.log"
        with harness.process(argv, log=log, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                sys.exit(f"the server did not start:\n{log.read_text()}")
            try:
                _measure(figures, int(line), data.instance_ids[options.rows // 2], options.seconds)
            except AssertionError:
                print(log.read_text()[-5000:], file=sys.stderr)
                raise
    return figures.finish(options.json)


_CONFIGURATION = """\
[database]
connection = {url}
[api]
bind_port = 0
auth_strategy = noauth
http_get_rate = 0
[local]
state_dir = {directory}
[taskmanager]
compute_driver = local
volume_driver = local
network_driver = local
image_driver = local
"""

if __name__ == "__main__":
    sys.exit(main())
