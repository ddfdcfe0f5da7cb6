"""How long it takes to tell Prometheus of many instances, and how much memory.

A document of all figures is made from a backend full of instances whose agents report everything
that there is a name for; the samples that the Prometheus library would quote one by one are
compared with a page of them.
"""

from __future__ import annotations

import datetime
import json
import os
import sys
import time

import dataset
import harness
import sqlalchemy as sa
from prometheus_client import core, generate_latest, registry

from trove.conductor import exposition
from trove.datastores import metrics
from trove.db import base, models


class _One(registry.Collector):
    def __init__(self, family: core.Metric) -> None:
        self._family = family

    def collect(self) -> list[core.Metric]:
        return [self._family]


def _library_seconds(samples: int) -> float:
    """Return the CPU time that the library takes for so many samples with our labels."""
    family = core.GaugeMetricFamily("x", "x", labels=("project", "instance", "datastore"))
    for number in range(samples):
        family.add_metric((dataset.PROJECT, f"{number:036d}", "mariadb"), float(number))
    began = time.process_time()
    generate_latest(_One(family))
    return time.process_time() - began


def main() -> int:
    """Measure and print."""
    parser = harness.argument_parser(__doc__)
    parser.add_argument("--instances", type=int, default=20000, help="(%(default)s)")
    parser.add_argument("--mariadb", action="store_true", help="read from MariaDB, not SQLite")
    options = parser.parse_args()
    figures = harness.Figures(f"figures of {options.instances} instances for Prometheus")
    with (
        harness.work_directory() as directory,
        dataset.backend(directory, use_mariadb=options.mariadb) as url,
    ):
        dataset.fill(url, options.instances)
        database = base.Database(url)
        values = {name: 1234567.0 * number for number, name in enumerate(metrics.METRICS, 1)}
        with database.writer() as session:
            session.execute(sa.update(models.InstanceHeartbeat).values(metrics=json.dumps(values)))
        now = datetime.datetime.now(datetime.UTC)
        before_mib, _ = harness.memory_mib(os.getpid())
        wall, cpu = time.monotonic(), time.process_time()
        document = exposition.render(database, now=now, expiry=datetime.timedelta(seconds=90))
        wall, cpu = time.monotonic() - wall, time.process_time() - cpu
        after_mib, _ = harness.memory_mib(os.getpid())
        database.dispose()
    text_bytes = samples = 0
    for piece in exposition.decompress(document):
        text_bytes += len(piece)
        samples += piece.count(b"\n")
    figures.add("made in", wall, "s")
    figures.add("CPU of it", cpu, "s")
    figures.add("samples", samples, "")
    figures.add("text", text_bytes / 2**20, "MiB")
    figures.add("compressed", len(document) / 2**20, "MiB")
    figures.add("compressed, an instance", len(document) / options.instances, "bytes")
    figures.add("memory that it took", after_mib - before_mib, "MiB")
    figures.add("by the library alone, CPU", _library_seconds(20000) * samples / 20000, "s")
    return figures.finish(options.json)


if __name__ == "__main__":
    sys.exit(main())
