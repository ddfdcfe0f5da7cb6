"""Setting up a guest from its config drive, on a tree of files of the test's own."""

from __future__ import annotations

import json
import pathlib
import stat
from typing import Any

import pytest

from trove.guestagent.boot import configdrive, errors, init

MANAGEMENT_MAC = "fa:16:3e:00:00:01"
USER_MAC = "fa:16:3e:00:00:02"
NETWORK = {
    "links": [
        {"id": "tap1", "ethernet_mac_address": MANAGEMENT_MAC, "mtu": 1450},
        {"id": "tap2", "ethernet_mac_address": USER_MAC.upper(), "mtu": 1450},
    ],
    "networks": [
        {
            "id": "network0",
            "link": "tap1",
            "type": "ipv4",
            "ip_address": "10.1.0.7",
            "netmask": "255.255.255.0",
            "routes": [{"network": "0.0.0.0", "netmask": "0.0.0.0", "gateway": "10.1.0.1"}],  # noqa: S104
        },
        {"id": "network1", "link": "tap2", "type": "ipv4_dhcp"},
    ],
}
CONF = """\
[guest]
transport_url = rabbit://agent:pa$$word@10.1.0.2:5672/trove
[guestagent]
instance_id = {instance_id}
first_boot = {first_boot}
bind_address = 192.168.0.9
datastore_manager = mariadb
"""


class Machine:
    """A guest's root tree, and what was done to the machine."""

    def __init__(self, root: pathlib.Path) -> None:
        """Make a server with two interfaces and an image of MariaDB."""
        self.paths = init.Paths(root=root)
        for name, mac in (("eth0", MANAGEMENT_MAC), ("eth1", USER_MAC)):
            (self.paths.interfaces / name).mkdir(parents=True)
            (self.paths.interfaces / name / "address").write_text(f"{mac}\n")
        self.paths.image_file.parent.mkdir(parents=True)
        self.paths.image_file.write_text(json.dumps({"port": 3306, "more_ports": [3307]}))
        (root / "etc").mkdir()
        (root / "run").mkdir()
        self.drive: configdrive.ConfigDrive | None = self.make_drive()
        self.rules = ""
        self.name = ""

    @staticmethod
    def make_drive(**changes: Any) -> configdrive.ConfigDrive:
        values = {"instance_id": "instance-1", "first_boot": 1, "key": "first key", **changes}
        conf = CONF.format(**values)
        return configdrive.ConfigDrive(
            server_id="server",
            hostname="My DB.example",
            network=NETWORK,
            files={"guest.conf": conf, "instance.key": values["key"]},
        )

    def _set_name(self, name: str) -> None:
        self.name = name

    def _load(self, rules: str) -> None:
        # the network may only come up behind the firewall
        assert not list(self.paths.network_dir.glob("*")) or self.rules
        self.rules = rules

    def boot(self) -> str:
        return init.Init(
            self.paths,
            read_drive=lambda: self.drive,
            load_firewall=self._load,
            set_host_name=self._set_name,
            patience_s=0.0,
        ).run()

    @property
    def key(self) -> pathlib.Path:
        return self.paths.config_dir / "instance.key"


@pytest.fixture
def machine(tmp_path: pathlib.Path) -> Machine:
    return Machine(tmp_path)


def test_first_boot_writes_the_files_for_root_alone(machine: Machine) -> None:
    assert machine.boot() == "instance instance-1, first boot"
    assert machine.key.read_text() == "first key"
    assert "pa$$word" in (machine.paths.config_dir / "guest.conf").read_text()
    for path in machine.paths.config_dir.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(machine.paths.config_dir.stat().st_mode) == 0o700
    assert machine.name == "my-db"
    init.await_done(machine.paths)


def test_later_boot_leaves_keys_that_were_rotated(machine: Machine) -> None:
    machine.boot()
    machine.key.write_text("rotated key")
    rotated = machine.paths.agent_state_dir / "agent" / "channel.json"
    rotated.parent.mkdir(parents=True)
    rotated.write_text("rotated")
    assert machine.boot() == "instance instance-1, files kept"
    assert machine.key.read_text() == "rotated key"
    assert rotated.read_text() == "rotated"


@pytest.mark.parametrize("change", [{"instance_id": "instance-2"}, {"first_boot": 1001}])
def test_another_server_begins_with_its_own_files(
    machine: Machine, change: dict[str, object]
) -> None:
    machine.boot()
    rotated = machine.paths.agent_state_dir / "agent" / "channel.json"
    rotated.parent.mkdir(parents=True)
    rotated.write_text("rotated")
    machine.drive = machine.make_drive(key="second key", **change)
    machine.boot()
    assert machine.key.read_text() == "second key"
    assert not rotated.exists()


def test_a_boot_that_died_while_writing_writes_again(machine: Machine) -> None:
    machine.boot()
    (machine.paths.state_dir / "seen.json").unlink()
    machine.key.write_text("half")
    machine.boot()
    assert machine.key.read_text() == "first key"


def test_network_and_firewall_know_the_sides(machine: Machine) -> None:
    machine.boot()
    management = (machine.paths.network_dir / "10-management.network").read_text()
    user = (machine.paths.network_dir / "20-user.network").read_text()
    assert f"MACAddress={MANAGEMENT_MAC}" in management
    assert "To=10.1.0.2" in management
    assert f"MACAddress={USER_MAC}" in user
    assert "From=192.168.0.9" in user
    assert 'iifname "eth1" tcp dport 3306 accept' in machine.rules
    assert 'iifname "eth1" tcp dport 3307 accept' in machine.rules
    assert "10.1.0.2 . 5672" in machine.rules


def test_network_is_made_at_every_boot(machine: Machine) -> None:
    machine.boot()
    # /run is empty after a boot
    for path in machine.paths.network_dir.iterdir():
        path.unlink()
    machine.rules = ""
    machine.boot()
    assert len(list(machine.paths.network_dir.iterdir())) == 2
    assert machine.rules


def test_without_a_firewall_there_is_no_network(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(rules: str) -> None:
        raise errors.BootError("the firewall was not loaded")

    monkeypatch.setattr(machine, "_load", fail)
    with pytest.raises(errors.BootError):
        machine.boot()
    assert not machine.paths.network_dir.exists()
    assert not machine.paths.done_file.exists()


def test_missing_drive_and_missing_interface_are_told(machine: Machine) -> None:
    machine.drive = None
    with pytest.raises(errors.BootError, match="config-2"):
        machine.boot()
    machine.drive = machine.make_drive()
    (machine.paths.interfaces / "eth1" / "address").unlink()
    with pytest.raises(errors.BootError, match=USER_MAC):
        machine.boot()


@pytest.mark.parametrize(
    ("text", "name"),
    [("db-1", "db-1"), ("Große DB", "gro-e-db"), ("", "trove"), ("--", "trove"), ("a.b", "a")],
)
def test_host_names_are_proper(text: str, name: str) -> None:
    assert init.host_name(text) == name
