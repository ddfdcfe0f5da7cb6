"""Key and account of a new server's agent are replaced, on a real broker with a real agent process.

Everything is real but the cloud and the database engine: conductor, task manager, RabbitMQ with
accounts for each agent, and the agent's own program.
"""

from __future__ import annotations

import configparser
import contextlib
import dataclasses
import pathlib
import subprocess
import sys
from collections.abc import Callable, Iterator

import amqp
import pytest

from tests.fixtures import guest_channel
from tests.fixtures.control_plane import ControlPlane
from tests.fixtures.guest_channel import heartbeat
from tests.fixtures.project import environment_with_entry_points
from tests.fixtures.rabbit import ManagedBroker
from tests.fixtures.rabbit_thief import connect, connected
from tests.fixtures.waiting import wait_until
from trove import states
from trove.common import concurrency, crypto
from trove.conductor import service
from trove.db import base, guest_keys
from trove.drivers.broker.rabbitmq import RabbitManagement
from trove.rpc import guest, payloads, serializer, transport
from trove.taskmanager.operations import create, engine, flows


class Site:
    """A control plane whose servers are directories with an agent's process."""

    def __init__(
        self, broker: ManagedBroker, database: base.Database, directory: pathlib.Path
    ) -> None:
        self.database = database
        self.directory = directory
        self._environment = environment_with_entry_points(directory / "installed")
        self.conf = guest_channel.make_conf(
            control_url=broker.control_url,
            guest_url=broker.guest_url,
            database_url=database.engine.url.render_as_string(hide_password=False),
        )
        broker.configure(self.conf)
        for option, value in (("sweep_interval_s", 0.1), ("lease_s", 2), ("threads", 2)):
            self.conf.set_override(option, value, group="taskmanager")
        self.conf.set_override("job_retry_interval_s", 2, group="taskmanager")
        self.plane = ControlPlane(database, clock=concurrency.SystemClock())
        self.plane.key_ring = crypto.KeyRing.from_config(self.conf.guest.key_encryption_keys)
        self.broker = RabbitManagement(self.conf)
        keys = guest_keys.GuestKeys(
            database, self.plane.key_ring, clock=self.plane.clock, max_age_s=0
        )
        self.guests = guest.GuestClient(self.conf, keys.key_of)
        self.plane.tools = dataclasses.replace(
            self.plane.tools,
            conf=self.conf,
            guests=self.guests,
            key_ring=self.plane.key_ring,
            drivers=dataclasses.replace(self.plane.tools.drivers, broker=self.broker),
        )
        self.plane.compute.on_start = self.start_agent
        self.agents: dict[str, subprocess.Popen[bytes]] = {}
        self._ends = contextlib.ExitStack()
        self._ends.callback(self.guests.close)

    def start_conductor(self) -> service.Conductor:
        """Start a conductor; ended with the site unless that was done before."""
        made = service.Conductor(self.conf)
        made.start()
        assert made.wait_serving(20)
        self._ends.callback(made.stop)
        return made

    def start_runner(self) -> engine.Runner:
        """Start a runner of operations; nothing waits for an engine here."""
        without_engine = tuple(step for step in create.FLOW.steps if step.name != "prepare")
        short = dataclasses.replace(create.FLOW, steps=without_engine)
        made = engine.Runner(
            self.plane.tools, [short if each.kind == short.kind else each for each in flows.ALL]
        )
        made.start()
        self._ends.callback(made.stop)
        return made

    def server(self, instance_id: str) -> pathlib.Path:
        """Return the directory of a server."""
        return self.directory / instance_id[:8]

    def start_agent(self, instance_id: str) -> None:
        """Start the agent of a server, with the files that the server was made with."""
        directory = self.server(instance_id)
        directory.mkdir(exist_ok=True)
        for name, content in self.plane.compute.spec_of(instance_id).files.items():
            (directory / name).write_text(content)
        local = configparser.RawConfigParser(default_section="")
        local["DEFAULT"] = {"log_file": str(directory / "agent.log")}
        local["guestagent"] = {
            "key_file": str(directory / "instance.key"),
            "state_dir": str(directory),
            "mount_point": str(directory / "data"),
            "bind_address": "127.200.0.1",
        }
        (directory / "data").mkdir(exist_ok=True)
        with (directory / "local.conf").open("w") as file:
            local.write(file)
        argv = [sys.executable, "-m", "trove.cmd.guestagent"]
        for name in ("guest.conf", "local.conf"):
            argv += ["--config-file", str(directory / name)]
        with (directory / "agent.err").open("ab") as errors:
            self.agents[instance_id] = subprocess.Popen(argv, env=self._environment, stderr=errors)

    def kill_agent(self, instance_id: str) -> None:
        """End an agent as a crash does."""
        self.agents[instance_id].kill()
        self.agents[instance_id].wait()

    def boot(self, instance_id: str) -> int:
        return self.plane.instance(instance_id).heartbeat.boot

    def keys(self, instance_id: str) -> guest_keys.Keys:
        with self.database.reader() as session:
            wrapped = guest_keys.find_wrapped(session, instance_id)
        assert wrapped is not None
        return guest_keys.unwrap(self.plane.key_ring, instance_id, wrapped)

    def await_success(self, operation_id: str) -> None:
        def is_over() -> bool:
            return not self.plane.operation(operation_id).state.is_active

        wait_until(is_over, timeout_s=40, what="the end of the operation")
        operation = self.plane.operation(operation_id)
        assert operation.state is states.OperationState.SUCCEEDED, operation.error

    def close(self) -> None:
        for instance_id in self.agents:
            self.kill_agent(instance_id)
        self._ends.close()
        for owner in self.broker.list_owners():
            self.broker.remove_accounts(owner)


@pytest.fixture
def site(
    managed_rabbit: ManagedBroker, sqlite_database: base.Database, tmp_path: pathlib.Path
) -> Iterator[Site]:
    made = Site(managed_rabbit, sqlite_database, tmp_path)
    yield made
    made.close()


def account_in(files: pathlib.Path) -> str:
    """Return the URL of the guest bus that a server was made with."""
    parser = configparser.RawConfigParser()
    parser.read(files / "guest.conf")
    return parser["guest"]["transport_url"].replace("$$", "$")


def test_what_a_server_was_made_with_is_worth_nothing_afterwards(site: Site) -> None:
    conductor = site.start_conductor()
    site.start_runner()
    instance_id, operation_id = site.plane.create()
    site.await_success(operation_id)
    keys = site.keys(instance_id)
    assert (keys.generation, keys.next, keys.is_bootstrap) == (1, None, False)
    assert site.boot(instance_id) == 1

    # whoever reads the config drive now: the account is gone
    stolen = site.server(instance_id)
    with pytest.raises(amqp.AccessRefused):
        connect(account_in(stolen))
    # and with any other way onto the bus, the key opens nothing and is opened by nobody
    key = crypto.decode_key((stolen / "instance.key").read_text())
    clock = serializer.ChannelClock()
    sealer = serializer.Sealer(lambda _: key, clock=clock, window_s=120)
    way_in = transport.Sender(
        site.conf, transport.Bus.AGENT, inbox=transport.agent_inbox(instance_id)
    )
    hello = payloads.Hello(heartbeat=heartbeat(boot=99)).to_wire()
    envelope = sealer.seal(instance_id, serializer.Direction.UP, "hello", hello)
    assert way_in.call("trove-conductor", "deliver", timeout_s=10, envelope=envelope) is None
    assert conductor.manager.counters() == {"forged": 1}
    assert site.boot(instance_id) == 1
    way_in.close()
    downwards = transport.Sender(site.conf, transport.Bus.GUEST)
    order = sealer.seal(instance_id, serializer.Direction.DOWN, "ping", {})
    topic = guest.topic(instance_id)
    assert downwards.call(topic, "deliver", timeout_s=10, envelope=order) is None
    downwards.close()
    assert site.guests.call(instance_id, "ping", payloads.Empty(), timeout_s=10)

    # the next agent of this server goes on with what was kept
    site.kill_agent(instance_id)
    site.start_agent(instance_id)
    wait_until(lambda: site.boot(instance_id) == 2, timeout_s=20, what="the second hello")
    assert site.guests.call(instance_id, "ping", payloads.Empty(), timeout_s=10)

    # to delete the instance is to end its account with all connections
    current = site.broker.ensure_account(
        instance_id, 1, create.channel.account_password(keys.current)
    )
    with connected(current) as connection:
        site.await_success(site.plane.delete(instance_id))
        with pytest.raises((amqp.AMQPError, OSError)):
            connection.drain_events(timeout=5)
    assert instance_id not in site.broker.list_owners()


@pytest.mark.parametrize("lost", ["before the job is noted", "before the report arrives"])
def test_all_may_die_between_the_new_key_and_its_first_message(site: Site, lost: str) -> None:
    conductor = site.start_conductor()
    instance_id, operation_id = site.plane.create()
    # so far that the agent said hello, and not further
    stop_at_hello(site, operation_id, lambda: site.boot(instance_id) == 1)
    conductor.stop()
    runner = site.start_runner()
    kept = site.server(instance_id) / "agent" / "channel.json"
    wait_until(kept.exists, timeout_s=20, what="the new key on disk")
    site.kill_agent(instance_id)
    runner.stop()
    if lost == "before the job is noted":
        for path in (site.server(instance_id) / "agent" / "jobs").iterdir():
            path.unlink()
    assert site.keys(instance_id).is_bootstrap
    site.start_conductor()
    site.start_agent(instance_id)
    site.start_runner()
    site.await_success(operation_id)
    keys = site.keys(instance_id)
    assert (keys.generation, keys.next, keys.is_bootstrap) == (1, None, False)
    assert site.guests.call(instance_id, "ping", payloads.Empty(), timeout_s=10)


def stop_at_hello(site: Site, operation_id: str, said_hello: Callable[[], bool]) -> None:
    """Drive a create until its agent said hello; a waiting operation is held back by its lease."""
    runner = engine.Runner(site.plane.tools, flows.ALL)

    def advance() -> bool:
        if site.plane.operation(operation_id).step != "await_agent":
            runner.drive(operation_id)
        return said_hello()

    wait_until(advance, timeout_s=30, what="hello")
