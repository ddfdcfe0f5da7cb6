"""The agent as a process of its own, over a real broker: start, signals, size, idleness."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.fixtures.engine import (
    Guest,
    guest,
    mariadb_template,
    needs_mariadb,
)
from tests.fixtures.plane import Plane, make_plane
from tests.fixtures.project import environment_with_entry_points
from tests.fixtures.rabbit import RabbitBroker
from tests.fixtures.waiting import wait_until
from trove import conf as trove_conf
from trove.common import crypto
from trove.guestagent.datastores import mysql as family
from trove.guestagent.system import process
from trove.rpc import payloads

__all__ = ["guest", "mariadb_template"]

pytestmark = needs_mariadb

#: What the agent may weigh and how long it may take, twice what the goals say: the machine that
#: runs the tests is shared.
_MAX_RSS_KIB = 64 * 1024
_MAX_START_S = 5.0


@dataclasses.dataclass
class Process:
    """The agent's process."""

    start: Callable[[], subprocess.Popen[bytes]]
    plane: Plane
    guest: Guest
    log: pathlib.Path


@pytest.fixture
def agent(guest: Guest, rabbit: RabbitBroker, tmp_path: pathlib.Path) -> Iterator[Process]:
    """An agent process that can be started, and the control plane it talks to."""
    key = crypto.generate_key()
    key_file = guest.directory / "instance.key"
    key_file.write_text(crypto.encode_key(key))
    key_file.chmod(0o600)
    layout = guest.layout
    config = guest.directory / "guest.conf"
    log = guest.directory / "agent.log"
    config.write_text(
        f"""[DEFAULT]
log_file = {log}
[guest]
transport_url = {rabbit.guest_url}
heartbeat_interval_s = 2
[guestagent]
instance_id = {guest.instance_id}
key_file = {key_file}
datastore_manager = mariadb
state_dir = {layout.state_dir}
mount_point = {layout.mount_point}
bind_address = {guest.address}
template_dir = {guest.template}
"""
    )
    conf = trove_conf.new(trove_conf.GUEST)
    conf([], project="trove", prog="test", default_config_files=[str(config)])
    plane, server = make_plane(conf, guest.instance_id, key)
    environment = environment_with_entry_points(tmp_path / "installed")
    started: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", "trove.cmd.guestagent", "--config-file", str(config)],
                env=environment,
            )
        )
        return started[-1]

    try:
        yield Process(start=start, plane=plane, guest=guest, log=log)
    finally:
        for child in started:
            child.kill()
            child.wait()
        guest.datastore = guest.datastore or family.make_mariadb(guest.environment())
        server.stop()
        plane.guests.close()


def _memory_kib(pid: int) -> int:
    text = pathlib.Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in text.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1])


def _cpu_s(pid: int) -> float:
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_life_of_an_agent_process(agent: Process, record_property: Any) -> None:
    begun = time.monotonic()
    child = agent.start()
    wait_until(lambda: agent.plane.hellos, what="hello", interval_s=0.01)
    start_s = time.monotonic() - begun
    begun = time.monotonic()
    outcome = agent.plane.run(payloads.PrepareJob(memory_mib=256, vcpus=1, volume_size_gib=1))
    prepare_s = time.monotonic() - begun
    assert outcome.succeeded, outcome.error
    users = payloads.Users(users=(payloads.User(name="bob", password="x"),))
    agent.plane.guests.call(agent.guest.instance_id, "create_users", users)
    page = agent.plane.guests.call(agent.guest.instance_id, "list_users", payloads.Page(limit=5))
    assert isinstance(page, payloads.Users)
    assert [user.name for user in page.users] == ["bob"]
    rss_kib = _memory_kib(child.pid)
    for name, value in (("start_s", start_s), ("prepare_s", prepare_s), ("rss_kib", rss_kib)):
        record_property(name, value)
    assert rss_kib <= _MAX_RSS_KIB
    assert start_s <= _MAX_START_S

    # killed: the engine stays, the next agent adopts it
    agent.guest.datastore = family.make_mariadb(agent.guest.environment())
    engine = agent.guest.engine()
    assert engine is not None
    child.kill()
    child.wait()
    assert process.is_alive(engine)
    child = agent.start()
    wait_until(lambda: len(agent.plane.hellos) == 2, what="second hello")
    assert agent.plane.hellos[1].heartbeat.boot == 2
    assert agent.plane.hellos[1].heartbeat.service_status == "HEALTHY"
    assert agent.guest.engine() == engine

    # a second agent on the same directories refuses to start
    second = agent.start()
    assert second.wait(30) not in (0, None)
    assert process.is_alive(engine)

    # SIGTERM: the agent only; SIGPWR: the engine, cleanly, too
    child.send_signal(signal.SIGTERM)
    assert child.wait(15) == 0
    assert process.is_alive(engine)
    child = agent.start()
    wait_until(lambda: len(agent.plane.hellos) == 3, what="third hello")
    child.send_signal(signal.SIGPWR)
    assert child.wait(60) == 0
    assert not process.is_alive(engine)
    assert "Shutdown complete" in agent.guest.layout.log.read_text()
    assert agent.plane.heartbeats[-1].service_status == "SHUTDOWN"


def test_idle_agent_rests(agent: Process, record_property: Any) -> None:
    child = agent.start()
    wait_until(lambda: agent.plane.hellos, what="hello")
    assert agent.plane.run(payloads.PrepareJob(memory_mib=256, vcpus=1)).succeeded
    count = len(agent.plane.heartbeats)
    wait_until(lambda: len(agent.plane.heartbeats) > count + 1)
    before, begun = _cpu_s(child.pid), time.monotonic()
    count = len(agent.plane.heartbeats)
    wait_until(lambda: len(agent.plane.heartbeats) >= count + 3, timeout_s=60)
    share = (_cpu_s(child.pid) - before) / (time.monotonic() - begun)
    record_property("cpu_share", share)
    # heartbeats here are five times as frequent as they are by default
    assert share < 0.02


def _build_template(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "trove.cmd.guestagent_template", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


def test_template_program_makes_a_data_directory_and_says_what_it_is(
    mariadb_template: pathlib.Path,
) -> None:
    done = _build_template("--manager", "mariadb", "--target", str(mariadb_template))
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    assert made["version"].startswith("10.")
    assert made["binary"].endswith("/mariadbd")
    assert (pathlib.Path(made["target"]) / "ibdata1").exists()


def test_template_program_says_what_is_missing(tmp_path: pathlib.Path) -> None:
    target = tmp_path / "t"
    done = _build_template(
        "--manager", "mariadb", "--target", str(target), "--basedir", str(tmp_path)
    )
    assert done.returncode == 1
    assert "install the package mariadb-server" in done.stderr
    assert "Traceback" not in done.stderr
    assert not target.exists()
