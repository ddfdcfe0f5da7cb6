"""Agents and a whole conductor over a real broker."""

from __future__ import annotations

import datetime
import pathlib
import subprocess
import sys
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from oslo_config import cfg

from tests.fixtures import guest_channel
from tests.fixtures.guest_channel import heartbeat
from tests.fixtures.rabbit import RabbitBroker
from tests.fixtures.waiting import wait_until
from trove.common import crypto, exception
from trove.conductor import service
from trove.db import base, guest_jobs, heartbeats
from trove.rpc import conductor as conductor_rpc
from trove.rpc import payloads, serializer, transport
from trove.rpc.serializer import Direction


class Site:
    """A conductor on a broker and a database, with agents."""

    def __init__(self, conf: cfg.ConfigOpts, database: base.Database) -> None:
        self.conf = conf
        self.database = database
        self.ring = crypto.KeyRing.from_config(conf.guest.key_encryption_keys)
        self.keys: dict[str, bytes] = {}
        self.agents: list[guest_channel.Agent] = []
        self.conductor = service.Conductor(conf)
        self.conductor.start()
        assert self.conductor.wait_serving(20)

    def add_agent(self, **options: Any) -> tuple[str, guest_channel.Agent]:
        key = crypto.generate_key()
        instance_id = guest_channel.add_instance(self.database, self.ring, key=key)
        self.keys[instance_id] = key
        agent = guest_channel.Agent(self.conf, instance_id, key, **options)
        self.agents.append(agent)
        return instance_id, agent

    def report(self, instance_id: str) -> heartbeats.Report:
        with self.database.reader() as session:
            report = heartbeats.find_report(session, instance_id)
        assert report is not None
        return report

    def job(self, job_id: str) -> guest_jobs.GuestJob:
        with self.database.reader() as session:
            job = guest_jobs.find(session, job_id)
        assert job is not None
        return job

    def close(self) -> None:
        for agent in self.agents:
            agent.client.close()
        self.conductor.stop()


@pytest.fixture
def site(rabbit: RabbitBroker, sqlite_database: base.Database) -> Iterator[Site]:
    conf = guest_channel.make_conf(
        control_url=rabbit.control_url,
        guest_url=rabbit.guest_url,
        database_url=sqlite_database.engine.url.render_as_string(hide_password=False),
    )
    made = Site(conf, sqlite_database)
    yield made
    made.close()


def test_hello_heartbeat_and_outcome_reach_the_database(site: Site) -> None:
    instance_id, agent = site.add_agent()
    job_id = guest_channel.add_job(site.database, instance_id)
    ack = agent.client.hello(payloads.Hello(heartbeat=heartbeat(1, 1), csr_pem="csr"))
    assert ack.accepted
    assert site.report(instance_id).order == (1, 1)
    agent.client.heartbeat(heartbeat(1, 2, disk_used_bytes=77))
    wait_until(lambda: site.report(instance_id).disk_used_bytes == 77, timeout_s=5)
    outcome = payloads.JobOutcome(job_id=job_id, succeeded=True, heartbeat=heartbeat(1, 3))
    for _ in range(2):
        assert agent.client.job_done(outcome).accepted
    assert site.job(job_id).succeeded is True
    assert site.report(instance_id).order == (1, 3)
    assert site.conductor.manager.counters() == {}


@pytest.mark.parametrize("wall_ahead_s", [-86_400.0, 86_400.0])
def test_an_agent_with_a_wrong_wall_clock_learns_the_time(site: Site, wall_ahead_s: float) -> None:
    instance_id, agent = site.add_agent(wall_ahead_s=wall_ahead_s)
    assert agent.client.hello(payloads.Hello(heartbeat=heartbeat(1, 1))).accepted
    agent.client.heartbeat(heartbeat(1, 2))
    wait_until(lambda: site.report(instance_id).order == (1, 2), timeout_s=5)
    assert site.conductor.manager.counters() == {"stale": 1}
    age = datetime.datetime.now(datetime.UTC) - site.report(instance_id).received
    assert age < datetime.timedelta(seconds=30)


def test_a_grant_is_refused_or_given_whatever_the_wall_clock_says(site: Site) -> None:
    _, agent = site.add_agent(wall_ahead_s=86_400.0)
    answer = agent.client.grant(payloads.GrantRequest(backup_id=str(uuid.uuid4())))
    assert answer.accepted
    assert answer.storage is None
    assert site.conductor.manager.counters() == {"stale": 1, "refused_grant": 1}


def test_a_hostile_guest_changes_nothing_but_its_own(site: Site) -> None:
    x, agent_x = site.add_agent()
    y, agent_y = site.add_agent()
    job_of_y = guest_channel.add_job(site.database, y)
    agent_y.client.hello(payloads.Hello(heartbeat=heartbeat(1, 1)))
    sender = transport.Sender(site.conf, transport.Bus.AGENT, inbox=transport.agent_inbox(x))

    def deliver(envelope: object) -> object:
        return sender.call(conductor_rpc.TOPIC, "deliver", timeout_s=5, envelope=envelope)

    def up(sealer: serializer.Sealer, instance_id: str) -> dict[str, Any]:
        lie = heartbeat(9, 9, service_status="CRASHED")
        return sealer.seal(instance_id, Direction.UP, "heartbeat", lie.to_wire())

    thief = serializer.Sealer(lambda _: site.keys[x], clock=serializer.ChannelClock(), window_s=120)
    stranger = serializer.Sealer(
        lambda _: crypto.generate_key(), clock=serializer.ChannelClock(), window_s=120
    )
    genuine = up(agent_x.sealer, x)
    for envelope in (
        up(thief, y),
        up(thief, x) | {"i": y},
        up(stranger, y),
        up(stranger, str(uuid.uuid4())),
        up(thief, x) | {"c": "A" * (2 * serializer.MAX_BYTES)},
        {"method": "heartbeat", "payload": heartbeat(9, 9).to_wire()},
        None,
    ):
        assert deliver(envelope) is None
    assert deliver(genuine) is not None
    assert deliver(genuine) is None
    outcome = payloads.JobOutcome(job_id=job_of_y, succeeded=False, heartbeat=heartbeat(9, 10))
    assert agent_x.client.job_done(outcome).accepted
    sender.close()
    assert site.job(job_of_y).succeeded is None
    assert site.report(y).order == (1, 1)
    assert site.conductor.manager.counters() == {
        "forged": 3,
        "unknown_instance": 1,
        "oversized": 1,
        "malformed": 2,
        "replayed": 1,
        "foreign_job": 1,
    }


def test_reports_get_through_after_the_broker_was_killed(site: Site, rabbit: RabbitBroker) -> None:
    instance_id, agent = site.add_agent()
    job_id = guest_channel.add_job(site.database, instance_id)
    agent.client.hello(payloads.Hello(heartbeat=heartbeat(1, 1)))
    rabbit.kill()
    outcome = payloads.JobOutcome(job_id=job_id, succeeded=True, heartbeat=heartbeat(1, 2))
    with pytest.raises(exception.ServiceUnavailable):
        agent.client.job_done(outcome)
    with pytest.raises(exception.ServiceUnavailable):
        agent.client.heartbeat(heartbeat(1, 3))
    rabbit.start()

    def gets_through() -> bool:
        try:
            return agent.client.job_done(outcome).accepted
        except exception.ServiceUnavailable:
            return False

    wait_until(gets_through, timeout_s=15, what="an outcome after the broker's restart")
    assert site.job(job_id).succeeded is True
    agent.client.heartbeat(heartbeat(1, 4))
    wait_until(lambda: site.report(instance_id).order == (1, 4), timeout_s=5)


def test_an_agent_without_conductor_is_told_so_at_once(rabbit: RabbitBroker) -> None:
    conf = guest_channel.make_conf(control_url=rabbit.control_url, guest_url=rabbit.guest_url)
    agent = guest_channel.Agent(conf, str(uuid.uuid4()), crypto.generate_key())
    with pytest.raises(exception.ServiceUnavailable):
        agent.client.hello(payloads.Hello(heartbeat=heartbeat()))
    agent.client.close()


def test_a_conductor_without_key_encryption_key_does_not_start(rabbit: RabbitBroker) -> None:
    conf = guest_channel.make_conf(
        control_url=rabbit.control_url, guest_url=rabbit.guest_url, database_url="sqlite://"
    )
    service.check(conf)
    conf.set_override("key_encryption_keys", [], group="guest")
    with pytest.raises(exception.ConfigurationError, match="key_encryption_keys"):
        service.check(conf)


def test_the_program_says_what_is_missing_instead_of_a_traceback(tmp_path: pathlib.Path) -> None:
    options = tmp_path / "trove.conf"
    options.write_text("[DEFAULT]\ntransport_url = rabbit://u:p@127.0.0.1:1/\n")
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "trove.cmd.conductor", "--config-file", options],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 1
    assert "key_encryption_keys is not set" in ended.stderr
    assert "Traceback" not in ended.stderr
