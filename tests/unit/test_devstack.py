"""The plugin of DevStack, run phase by phase with DevStack's functions written down.

What it would do to a machine is seen in the calls; the configuration that it writes is read by the
service itself, and ``trove-manage`` runs for real where no cloud is needed.
"""

from __future__ import annotations

import configparser
import dataclasses
import os
import pathlib
import shutil
import subprocess
import sys

import pytest
from oslo_config import cfg

from trove import conf as trove_conf
from trove.common import crypto
from trove.drivers import factory
from trove.drivers.broker.rabbitmq import RabbitManagement
from trove.drivers.compute.nova import NovaCompute
from trove.drivers.network.neutron import NeutronNetwork

ROOT = pathlib.Path(__file__).parents[2]
PLUGIN = ROOT / "devstack"
SERVICES = "key,mysql,rabbit,trove,tr-api,tr-tmgr,tr-cond"

_MANAGE = """#!/bin/sh
printf 'trove-manage' >>"$CALLS"; printf '\\t%s' "$@" >>"$CALLS"; echo >>"$CALLS"
case "$*" in *"image import"*) exit 0;; esac
exec {python} -W ignore -c 'import sys; from trove.cmd import manage; sys.exit(manage.main())' "$@"
"""


@dataclasses.dataclass(frozen=True)
class DevStack:
    """One machine that is stacked; everything lies below ``home``."""

    home: pathlib.Path

    def run(self, *phase: str, services: str = SERVICES, **settings: str) -> None:
        """Run a phase of the plugin."""
        environment = {
            **os.environ,
            **settings,
            "HARNESS": str(self.home),
            "CALLS": str(self.home / "calls"),
            "PLUGIN": str(PLUGIN),
            "ENABLED_SERVICES": services,
        }
        done = subprocess.run(
            ["bash", str(ROOT / "tests/fixtures/devstack.sh"), *phase],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "command not found" not in done.stderr

    def calls(self, name: str) -> list[list[str]]:
        """Return the arguments of all calls of a function."""
        lines = (self.home / "calls").read_text().splitlines()
        return [line.split("\t")[1:] for line in lines if line.split("\t")[0] == name]

    @property
    def conf_file(self) -> pathlib.Path:
        """The configuration of the service."""
        return self.home / "etc" / "trove.conf"

    def conf(self) -> cfg.ConfigOpts:
        """Return the configuration as the service reads it."""
        conf = trove_conf.new()
        conf([], project="trove", default_config_files=[str(self.conf_file)])
        return conf


def make_devstack(home: pathlib.Path) -> DevStack:
    """Return a machine on which nothing was stacked."""
    manage = home / "bin" / "trove-manage"
    manage.parent.mkdir()
    manage.write_text(_MANAGE.format(python=sys.executable))
    manage.chmod(0o755)
    (home / "calls").touch()
    return DevStack(home)


@pytest.fixture
def devstack(tmp_path: pathlib.Path) -> DevStack:
    """Give a machine on which nothing was stacked."""
    return make_devstack(tmp_path)


@pytest.fixture(scope="module")
def stacked(tmp_path_factory: pytest.TempPathFactory) -> DevStack:
    """Give a machine that was stacked with everything; tests only look at it."""
    made = make_devstack(tmp_path_factory.mktemp("stacked"))
    services = f"{SERVICES},barbican,designate,s-proxy"
    made.run("stack", "post-config", services=services, TROVE_DNS_ZONE="db.example.org.")
    made.run("stack", "extra", services=services, TROVE_GUEST_IMAGE="/guest.qcow2")
    return made


def test_the_scripts_follow_the_style_of_devstack() -> None:
    assert shutil.which("bashate"), "bashate is a requirement of the tests"
    for ignored, name in (("E006", "plugin.sh"), ("E005,E006", "settings")):
        done = subprocess.run(
            ["bashate", "--ignore", ignored, str(PLUGIN / name)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stdout) == (0, ""), done.stdout


def test_install_brings_service_and_client(devstack: DevStack) -> None:
    devstack.run("stack", "install")
    assert devstack.calls("setup_develop") == [[str(ROOT)]]
    assert ["python-troveclient"] in devstack.calls("pip_install_gr")
    assert devstack.calls("rabbitmq-plugins") == [["enable", "rabbitmq_management"]]
    assert devstack.calls("git_clone") == []


def test_install_brings_the_dashboard_where_there_is_horizon(devstack: DevStack) -> None:
    devstack.run("stack", "install", services=f"{SERVICES},horizon")
    assert [call[1] for call in devstack.calls("git_clone")] == [
        str(devstack.home / "dest/trove-dashboard")
    ]


def test_accounts_and_endpoints_are_what_clients_look_for(stacked: DevStack) -> None:
    assert stacked.calls("create_service_user") == [["trove", "admin"]]
    assert stacked.calls("get_or_create_service")[0][:2] == ["trove", "database"]
    url = "http://192.0.2.10/database/v1.0/$(project_id)s"
    assert stacked.calls("get_or_create_endpoint") == [["database", "RegionOne", url, url, url]]
    assert stacked.calls("write_uwsgi_config")[0][1:] == [
        "trove.wsgi.api:make_application()",
        "/database",
        "",
        "trove-api",
    ]


def test_the_configuration_is_one_that_the_service_takes(stacked: DevStack) -> None:
    conf = stacked.conf()
    drivers = factory.load(conf)
    assert isinstance(drivers.compute, NovaCompute)
    assert isinstance(drivers.network, NeutronNetwork)
    assert isinstance(drivers.broker, RabbitManagement)
    crypto.KeyRing.from_config(conf.guest.key_encryption_keys)
    assert conf.neutron.management_network == "id-of-trove-mgmt"
    assert conf.guest.transport_url.endswith("@192.168.254.2:5672/trove_guests")
    assert stacked.conf_file.stat().st_mode & 0o777 == 0o600


def test_every_option_that_is_set_exists(stacked: DevStack) -> None:
    conf = stacked.conf()
    factory.load(conf)  # has the options of the credential registered
    written = configparser.RawConfigParser(strict=False, default_section="")
    written.read(stacked.conf_file)
    settings = [(group, name) for group in written.sections() for name in written[group]]
    assert ("taskmanager", "dns_driver") in settings
    for group, name in settings:
        assert name in (conf if group == "DEFAULT" else conf[group]), f"[{group}] {name}"


def test_the_schema_is_made_by_trove_manage(stacked: DevStack) -> None:
    assert stacked.calls("recreate_database") == [["trove"]]
    assert (stacked.home / "trove.db").stat().st_size > 0


def test_stacking_again_keeps_the_key_and_makes_nothing_twice(devstack: DevStack) -> None:
    for _ in range(2):
        devstack.run("stack", "post-config")
        devstack.run("stack", "extra", TROVE_GUEST_IMAGE="/guest.qcow2")
        key = devstack.conf().guest.key_encryption_keys
    made = [call for call in devstack.calls("iniset") if call[2] == "key_encryption_keys"]
    assert [call[3] for call in made] == [key[0], key[0]]
    vhosts = [call for call in devstack.calls("rabbitmqctl") if call[0] == "add_vhost"]
    assert vhosts == [["add_vhost", "trove"], ["add_vhost", "trove_guests"]]
    created = [call[0] for call in devstack.calls("openstack") if call[1] == "create"]
    assert sorted(created) == ["flavor", "network", "port", "subnet"]


def test_the_image_is_imported_once_the_service_runs(stacked: DevStack) -> None:
    assert [call[0] for call in stacked.calls("run_process")] == ["tr-api", "tr-cond", "tr-tmgr"]
    imported = [call for call in stacked.calls("trove-manage") if "import" in call]
    assert imported[0][2:] == [
        "image",
        "import",
        "--datastore",
        "mariadb",
        "--datastore-version",
        "10.11",
        "--file",
        "/guest.qcow2",
        "--default",
    ]


def test_tempest_is_told_of_the_service(devstack: DevStack) -> None:
    devstack.run("stack", "test-config", services=f"{SERVICES},tempest")
    told = {(call[1], call[2]): call[3] for call in devstack.calls("iniset")}
    assert told["service_available", "trove"] == "True"
    assert told["database", "enabled_datastores"] == "mariadb"


def test_unstack_and_clean_leave_nothing(devstack: DevStack) -> None:
    devstack.run("stack", "post-config")
    devstack.run("unstack")
    assert sorted(call[0] for call in devstack.calls("stop_process")) == [
        "tr-api",
        "tr-cond",
        "tr-tmgr",
    ]
    devstack.run("clean")
    assert not (devstack.home / "etc").exists()


def test_without_its_services_the_plugin_does_nothing(devstack: DevStack) -> None:
    devstack.run("stack", "install", services="key,mysql")
    assert {line.split("\t")[0] for line in (devstack.home / "calls").read_text().splitlines()} == {
        "define_plugin",
        "enable_service",
    }
