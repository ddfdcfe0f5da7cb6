"""An agent goes on as another release, and back when that does not report; its engine stays."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import signal
import sys
from collections.abc import Iterator

import pytest
from oslo_config import cfg

from tests.fixtures import local
from tests.fixtures.engine import (
    mariadb_template,
    needs_mariadb,
    new_address,
    passable_directory,
)
from tests.fixtures.plane import Plane, make_plane
from tests.fixtures.project import environment_with_entry_points
from tests.fixtures.rabbit import RabbitBroker
from tests.fixtures.waiting import wait_until
from tests.fixtures.wheels import make_bundle
from trove import conf as trove_conf
from trove import states
from trove.common import crypto
from trove.drivers import local_state
from trove.drivers.compute import processes
from trove.drivers.compute.local import LocalCompute
from trove.guestagent import software
from trove.guestagent.system import process
from trove.rpc import bundles, payloads
from trove.storage.filesystem import FilesystemStore

__all__ = ["mariadb_template"]

pytestmark = needs_mariadb

_INSTANCE = "11111111-1111-4111-8111-111111111111"


@dataclasses.dataclass
class Upgraded:
    """A server of the local driver, its control plane, and bundles for it."""

    compute: LocalCompute
    plane: Plane
    directory: pathlib.Path
    store: FilesystemStore
    bundles: pathlib.Path
    key: str

    @property
    def software(self) -> software.Software:
        """What is installed there."""
        return software.Software(self.directory)

    def pid(self) -> int:
        """Return the agent's process."""
        record = local_state.read_json(self.directory / "agent.pid")
        assert record is not None
        return int(record["pid"])

    def engine(self) -> process.Identity | None:
        """Return the engine's process."""
        return process.read_pid_file(self.directory / "agent" / "engine.pid")

    def upgrade(
        self, version: str, *, main: str | None = None, trial_s: float = 60
    ) -> payloads.JobOutcome:
        """Send a release, with another main if one is given, and return the job's outcome."""
        instead = None if main is None else {"trove/cmd/guestagent.py": main}
        bundle = make_bundle(self.bundles, version, self.key, instead=instead)
        account = self.store.account("s")
        account.put("b", version, [bundle.read_bytes()])
        facts = bundles.facts_of(bundle)
        return self.plane.run(
            payloads.UpgradeAgentJob(
                version=version,
                sha256=facts.sha256,
                size_bytes=facts.size_bytes,
                kind="filesystem",
                container="b",
                name=version,
                grant=dict(self.store.grant("s", container="b", prefix=version)),
                trial_s=trial_s,
            )
        )

    def hello(self, number: int) -> payloads.Heartbeat:
        """Wait for the agent's hello of this number; return what it says."""
        wait_until(lambda: len(self.plane.hellos) >= number, timeout_s=60, what=f"hello {number}")
        return self.plane.hellos[number - 1].heartbeat


@pytest.fixture
def upgraded(
    rabbit: RabbitBroker,
    tmp_path: pathlib.Path,
    mariadb_template: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Upgraded]:
    environment = environment_with_entry_points(tmp_path / "installed")
    monkeypatch.setenv("PYTHONPATH", environment["PYTHONPATH"])
    key = crypto.generate_key()
    signing = bundles.generate_key()
    with passable_directory() as home:
        conf = _make_conf(home)
        text = (
            f"[guest]\ntransport_url = {rabbit.guest_url}\nheartbeat_interval_s = 2\n"
            f"[guestagent]\ninstance_id = {_INSTANCE}\ndatastore_manager = mariadb\n"
            f"bundle_public_keys = {bundles.public_key_of(bundles.load_key(signing))}\n"
        )
        (tmp_path / "guest.conf").write_text(text)
        guest_conf = trove_conf.new(trove_conf.GUEST)
        guest_conf([], project="t", default_config_files=[str(tmp_path / "guest.conf")])
        plane, server = make_plane(guest_conf, _INSTANCE, key)
        local.add_image(conf, program="/usr/sbin/mariadbd")
        image = local_state.LocalState(conf.local.state_dir).image(local.IMAGE_ID)
        (image / "template").symlink_to(mariadb_template)
        compute = LocalCompute(conf)
        spec = local.server_spec(
            instance_id=_INSTANCE,
            address=new_address(),
            files={"guest.conf": text, "instance.key": crypto.encode_key(key)},
        )
        (tmp_path / "bundles").mkdir()
        try:
            compute.create_server(spec)
            yield Upgraded(
                compute=compute,
                plane=plane,
                directory=home / "s" / "servers" / _INSTANCE,
                store=FilesystemStore(tmp_path / "objects"),
                bundles=tmp_path / "bundles",
                key=signing,
            )
        finally:
            server.stop()
            plane.guests.close()
            for found in processes.using_path(home):
                found.send(signal.SIGKILL)


def _make_conf(home: pathlib.Path) -> cfg.ConfigOpts:
    conf = trove_conf.new()
    conf([], project="trove", default_config_files=[])
    conf.set_override("state_dir", str(home / "s"), group="local")
    conf.set_override("use_cgroups", False, group="local")
    conf.set_override(
        "agent_command", f"{sys.executable} -W ignore -m trove.cmd.guestagent", group="local"
    )
    return conf


def _is_active(upgraded: Upgraded) -> bool:
    server = upgraded.compute.find_server(_INSTANCE)
    return server is not None and server.status is states.ServerStatus.ACTIVE


def test_agent_goes_on_as_another_release_and_back_while_its_engine_runs(
    upgraded: Upgraded,
) -> None:
    assert upgraded.hello(1).agent_version == "0.0.0"
    prepared = upgraded.plane.run(payloads.PrepareJob(memory_mib=256, vcpus=1))
    assert prepared.succeeded, prepared.error
    engine, agent = upgraded.engine(), upgraded.pid()
    assert engine is not None

    outcome = upgraded.upgrade("1.0.0")
    assert outcome.succeeded, outcome.error
    hello = upgraded.hello(2)
    assert (hello.agent_version, hello.boot) == ("1.0.0", 2)
    # the same process, for whoever supervises it; the engine was adopted
    assert upgraded.pid() == agent
    assert _is_active(upgraded)
    assert upgraded.engine() == engine
    assert process.is_alive(engine)
    users = payloads.Users(users=(payloads.User(name="bob", password="x"),))
    upgraded.plane.guests.call(_INSTANCE, "create_users", users)
    wait_until(lambda: upgraded.software.find_trial() is None, what="the end of the trial")

    # the same release again is nothing to do; one that is started anew is the one that counts
    os.kill(agent, signal.SIGKILL)
    wait_until(lambda: not _is_active(upgraded), what="the agent's end")
    upgraded.compute.start_server(_INSTANCE)
    assert upgraded.hello(3).agent_version == "1.0.0"

    # a release that ends at once
    outcome = upgraded.upgrade("2.0.0", main="raise SystemExit('broken')\n")
    assert outcome.succeeded, outcome.error
    assert upgraded.hello(4).agent_version == "1.0.0"
    assert _is_active(upgraded)

    # a release that runs and says nothing
    outcome = upgraded.upgrade("3.0.0", main="import signal\nsignal.pause()\n", trial_s=1)
    assert outcome.succeeded, outcome.error
    assert upgraded.hello(5).agent_version == "1.0.0"
    assert upgraded.software.find_trial() is None
    assert process.is_alive(engine)
    page = upgraded.plane.guests.call(_INSTANCE, "list_users", payloads.Page(limit=5))
    assert isinstance(page, payloads.Users)
    assert [user.name for user in page.users] == ["bob"]
