"""How many heartbeats a conductor stores in a second of its CPU.

A private RabbitMQ node, a real conductor process and as many agents as asked for, each with its own
key. After a first round that fills caches, the conductor is frozen, all agents send their
heartbeats, and the conductor is let go: what is measured is the conductor alone, from the broker's
queue to the rows. Each instance sends at most one heartbeat a round, so that none of a batch is
superseded by another. Each round is sent twice, with the figures that an engine counts and without.
"""

from __future__ import annotations

import os
import pathlib
import signal
import sys
import time

import dataset
import harness
import psutil
import sqlalchemy as sa

from trove.common import concurrency

concurrency.use_native_threads()

from trove import conf as trove_conf  # noqa: E402 - after the threads are chosen
from trove.cmd import standalone_broker  # noqa: E402
from trove.common import crypto  # noqa: E402
from trove.datastores import metrics  # noqa: E402
from trove.db import base, models  # noqa: E402
from trove.rpc import conductor, payloads, serializer, transport  # noqa: E402

_RUN = "import sys; from trove.cmd import conductor; sys.exit(conductor.main())"


def _tree_cpu_seconds(pid: int) -> float:
    parent = psutil.Process(pid)
    return sum(harness.cpu_seconds(each.pid) for each in [parent, *parent.children(recursive=True)])


class Agents:
    """The guests of all instances in one process: they seal with their own keys."""

    def __init__(self, config: pathlib.Path, data: dataset.Dataset) -> None:
        """Connect to the guest bus."""
        conf = trove_conf.new()
        conf([], project="trove", default_config_files=[str(config)])
        self._ids = data.instance_ids
        self._sender = transport.Sender(conf, transport.Bus.AGENT)
        self._sealer = serializer.Sealer(
            data.keys.get, clock=concurrency.SystemClock(), window_s=600
        )

    def send_round(self, sequence: int, *, with_figures: bool = False) -> None:
        """Send one heartbeat for each instance."""
        figures = dict.fromkeys(metrics.METRICS, 123456.0 + sequence) if with_figures else {}
        heartbeat = payloads.Heartbeat(
            boot=1,
            sequence=sequence,
            service_status="HEALTHY",
            engine_version="10.11.6-MariaDB",
            agent_version="0.0.1",
            disk_used_bytes=210 * 2**20 + sequence,
            disk_total_bytes=2 * 2**30,
            metrics=figures,
        ).to_wire()
        for instance_id in self._ids:
            envelope = self._sealer.seal(
                instance_id, serializer.Direction.UP, "heartbeat", heartbeat
            )
            self._sender.cast(conductor.TOPIC, "deliver", envelope=envelope)

    def close(self) -> None:
        """Disconnect."""
        self._sender.close()


def _stored(database: base.Database, sequence: int) -> int:
    """Count the instances whose newest heartbeat is ``sequence``."""
    with database.reader() as session:
        return int(
            session.scalar(
                sa.select(sa.func.count())
                .select_from(models.InstanceHeartbeat)
                .where(models.InstanceHeartbeat.sequence == sequence)
            )
            or 0
        )


def main() -> int:
    """Measure and print."""
    parser = harness.argument_parser(__doc__)
    parser.add_argument("--instances", type=int, default=4000, help="agents (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="measured rounds (%(default)s)")
    parser.add_argument("--mariadb", action="store_true", help="store into MariaDB, not SQLite")
    options = parser.parse_args()
    figures = harness.Figures(
        f"heartbeats: {options.instances} agents through RabbitMQ into"
        f" {'MariaDB' if options.mariadb else 'SQLite'}"
    )
    with (
        harness.work_directory() as directory,
        dataset.backend(directory, use_mariadb=options.mariadb) as url,
        standalone_broker.PrivateBroker(directory / "broker") as broker,
    ):
        key = crypto.generate_key()
        data = dataset.fill(url, options.instances, ring=crypto.KeyRing([key]))
        config = directory / "trove.conf"
        config.touch(mode=0o600)
        config.write_text(
            f"[DEFAULT]\ntransport_url = {broker.control_url}\n"
            f"[database]\nconnection = {url}\n"
            f"[guest]\ntransport_url = {broker.guest_url}\nmessage_window_s = 600\n"
            f"key_encryption_keys = {crypto.encode_key(key)}\n"
            # a frozen process must not lose its connection
            "[oslo_messaging_rabbit]\nheartbeat_timeout_threshold = 0\n"
        )
        argv = [sys.executable, "-c", _RUN, "--config-file", str(config)]
        with harness.process(argv, log=directory / "conductor.log") as process:
            _measure(figures, options, url=url, agents=Agents(config, data), pid=process.pid)
    return figures.finish(options.json)


def _measure(figures: harness.Figures, options, *, url: str, agents: Agents, pid: int) -> None:  # type: ignore[no-untyped-def]
    database = base.Database(url)

    def wait_stored(sequence: int) -> None:
        harness.wait_for(
            lambda: _stored(database, sequence) == options.instances,
            timeout_s=300,
            interval_s=0.02,
            what=f"{options.instances} heartbeats stored",
        )

    def conductor_listens() -> bool:
        try:
            agents.send_round(1)
        except transport.NoAnswer:
            return False
        return True

    harness.wait_for(conductor_listens, timeout_s=60, what="the conductor to listen")
    wait_stored(1)
    rates: dict[bool, list[float]] = {True: [], False: []}
    costs: dict[bool, list[float]] = {True: [], False: []}
    for number in range(2 * options.rounds):
        sequence, with_figures = number + 2, bool(number % 2)
        os.killpg(pid, signal.SIGSTOP)
        try:
            sent = time.monotonic()
            agents.send_round(sequence, with_figures=with_figures)
            sent = time.monotonic() - sent
            before = _tree_cpu_seconds(pid)
        finally:
            os.killpg(pid, signal.SIGCONT)
        began = time.monotonic()
        wait_stored(sequence)
        rates[with_figures].append(options.instances / (time.monotonic() - began))
        costs[with_figures].append(options.instances / (_tree_cpu_seconds(pid) - before))
        name = f"round {number // 2 + 1}, {'with' if with_figures else 'without'} figures"
        figures.add(f"{name}: sent (one process of agents)", options.instances / sent, "/s")
        figures.add(f"{name}: stored", rates[with_figures][-1], "/s")
        figures.add(f"{name}: stored per CPU second", costs[with_figures][-1], "/CPU s")
    figures.add("stored, best round", max(rates[True]), "/s")
    figures.add("best without figures, per conductor CPU second", max(costs[False]), "/CPU s")
    figures.add(
        "stored per conductor CPU second, best round", max(costs[True]), "/CPU s", at_least=2000
    )
    agents.close()
    database.dispose()


if __name__ == "__main__":
    sys.exit(main())
