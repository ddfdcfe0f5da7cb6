"""How soon a create is answered, and that a quota holds when many ask for its last units at once.

The WSGI application of trove-api runs in its own process behind its own HTTP server, over a
database that already holds instances. Nobody carries the operations out: what is measured is the
request. First creates come at a fixed rate; then 200 come at the same time for a project that may
have 33 instances.
"""

from __future__ import annotations

import collections
import http.client
import json
import pathlib
import subprocess
import sys
import threading
import time
from typing import Any

import dataset
import harness

_RACERS = 200
_LIMIT = 33
_CREATE = {"instance": {"name": "bench", "flavorRef": "1", "volume": {"size": 1}}}


def _request(
    port: int, method: str, path: str, body: object = None, *, project: str = "new"
) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    headers = {
        "X-Project-Id": project,
        "X-User-Id": "bench",
        "X-Roles": "admin,member,reader",
        "Content-Type": "application/json",
    }
    connection.request(
        method, f"/v1.0/{project}{path}", None if body is None else json.dumps(body), headers
    )
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    return answer.status, json.loads(text) if text else None


def _set_quota(port: int, project: str, **limits: int) -> None:
    status, _ = _request(port, "PUT", f"/mgmt/quotas/{project}", {"quotas": limits})
    assert status == 200, status


def _at_a_rate(port: int, *, rate: float, seconds: float) -> list[float]:
    """Send creates when they are due, whatever the answers do; latencies count from then."""
    latencies: list[float] = []
    began = time.perf_counter() + 0.2
    due = [began + number / rate for number in range(int(rate * seconds))]
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                if not due:
                    return
                at = due.pop(0)
            harness.pause(max(0.0, at - time.perf_counter()))
            status, document = _request(port, "POST", "/instances", _CREATE)
            assert status == 200, document
            latencies.append(time.perf_counter() - at)

    _run([threading.Thread(target=work) for _ in range(8)])
    return latencies


def _race(port: int) -> tuple[collections.Counter[int], int]:
    """Create all at once; return how many got which answer, and the usage afterwards."""
    statuses: collections.Counter[int] = collections.Counter()
    start = threading.Barrier(_RACERS)

    def work() -> None:
        start.wait()
        status, _ = _request(port, "POST", "/instances", _CREATE, project="race")
        statuses[status] += 1

    _run([threading.Thread(target=work) for _ in range(_RACERS)])
    _, document = _request(port, "GET", "/mgmt/quotas/race", project="race")
    (usage,) = (each["in_use"] for each in document["quotas"] if each["resource"] == "instances")
    return statuses, usage


def _run(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def main() -> int:
    """Measure and print."""
    parser = harness.argument_parser(__doc__)
    parser.add_argument("--rows", type=int, default=1000, help="instances (%(default)s)")
    parser.add_argument("--mariadb", action="store_true", help="MariaDB instead of SQLite")
    parser.add_argument("--rate", type=float, default=20, help="creates a second (%(default)s)")
    parser.add_argument("--seconds", type=float, default=10, help="for so long (%(default)s)")
    options = parser.parse_args()
    backend_name = "MariaDB" if options.mariadb else "SQLite"
    figures = harness.Figures(f"Creates, {options.rows} instances in {backend_name}")
    with (
        harness.work_directory() as directory,
        dataset.backend(directory, use_mariadb=options.mariadb) as url,
    ):
        dataset.fill(url, options.rows)
        config = directory / "trove.conf"
        config.write_text(_CONFIGURATION.format(url=url, directory=directory))
        server = str(pathlib.Path(__file__).with_name("api_server.py"))
        argv = [sys.executable, server, str(config), "--changes"]
        log = directory / "api.log"
        with harness.process(argv, log=log, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            port = int(process.stdout.readline())
            _set_quota(port, "new", instances=-1, volumes=-1)
            _set_quota(port, "race", instances=_LIMIT, volumes=-1)
            latencies = _at_a_rate(port, rate=options.rate, seconds=options.seconds)
            for rank, goal in ((50, None), (99, 100)):
                figures.add(
                    f"create: latency p{rank} at {options.rate:g}/s",
                    harness.percentile(latencies, rank) * 1000,
                    "ms",
                    at_most=goal,
                )
            statuses, usage = _race(port)
            figures.add("racing creates accepted", statuses[200], "", at_most=_LIMIT)
            figures.add("racing creates accepted", statuses[200], "", at_least=_LIMIT)
            others = sum(statuses.values()) - statuses[200] - statuses[413]
            figures.add("racing creates neither accepted nor over quota", others, "", at_most=0)
            figures.add("instances charged after the race", usage, "", at_most=_LIMIT)
    return figures.finish(options.json)


_CONFIGURATION = """\
[database]
connection = {url}
[api]
bind_port = 0
auth_strategy = noauth
http_get_rate = 0
http_post_rate = 0
http_put_rate = 0
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
