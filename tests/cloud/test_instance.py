"""One instance on a real cloud, from its create to its delete, as its user and others see it."""

from __future__ import annotations

import base64
import os
import pathlib
import subprocess
import urllib.parse
from collections.abc import Iterator
from typing import Any

import amqp
import openstack
import pytest
import requests

from tests.fixtures import rabbit_thief
from tests.fixtures.on_cloud import BOOT_S, CloudService, NetworkHost
from tests.fixtures.stack import CommandFailed
from tests.fixtures.waiting import wait_until
from tests.fixtures.wheels import make_wheel
from trove import states
from trove.rpc import transport

USER, PASSWORD = "ann", "s3cret-of-ann"
#: The most that a create may take beyond Nova, Cinder, Neutron, the boot of the guest and the first
#: start of its engine, whose time in an emulated server says nothing of this service.
MOST_OVERHEAD_S = 5.0


@pytest.fixture(scope="module")
def instance(service: CloudService) -> Iterator[str]:
    """Give an instance with a database and a user."""
    instance_id = service.create("orders", "--databases", "shop", "--users", f"{USER}:{PASSWORD}")
    service.wait_ready(instance_id)
    yield instance_id
    service.delete(instance_id)


@pytest.fixture
def ready(service: CloudService, instance: str) -> str:
    """Give the instance when nothing is being done to it."""
    service.wait_operations(instance)
    service.wait_ready(instance)
    return instance


def _address(shown: dict[str, Any], kind: str = "private") -> str:
    return str(next(a["address"] for a in shown["addresses"] if a["type"] == kind))


def _ask(service: CloudService, host: NetworkHost, instance: str, statement: str) -> str:
    return host.sql(_address(service.show(instance)), USER, PASSWORD, statement).strip()


def _databases(service: CloudService, instance: str) -> str:
    """Return what the agent answers when it is asked for the databases."""
    return str(service.openstack("database", "db", "list", instance, "-f", "json"))


def _find_queue(service: CloudService, beginning: str) -> str:
    """Return a queue of the guest bus; the broker lists a new one a while later."""

    def look() -> str | None:
        names = sorted(service.broker_names("queues"))
        return next((name for name in names if name.startswith(beginning)), None)

    return wait_until(look, timeout_s=120, interval_s=1, what=f"a queue {beginning}") or ""


def test_a_create_answers_over_the_users_network(
    service: CloudService, host: NetworkHost, ready: str
) -> None:
    _ask(service, host, ready, "CREATE TABLE IF NOT EXISTS shop.kept (n INT)")
    _ask(service, host, ready, "INSERT INTO shop.kept VALUES (1)")
    assert _ask(service, host, ready, "SELECT MAX(n) FROM shop.kept") == "1"
    assert _ask(service, host, ready, "SHOW STATUS LIKE 'Ssl_cipher'").split()[1:]


def test_a_create_costs_little_of_our_own(service: CloudService, ready: str) -> None:
    _, waiting, _ = os.getloadavg()
    if waiting > 2 * (os.cpu_count() or 1):
        pytest.skip(f"a time says nothing of this service while {waiting:.0f} others want to run")
    assert service.overhead_s(ready, "create_instance") <= MOST_OVERHEAD_S


def test_the_engines_port_alone_answers_on_the_users_network(
    service: CloudService, host: NetworkHost, ready: str
) -> None:
    assert host.open_ports(_address(service.show(ready)), known=3306) == {3306}


def test_nothing_answers_on_the_management_network(
    service: CloudService, management_host: NetworkHost, ready: str
) -> None:
    broker = urllib.parse.urlsplit(service.settings.guest_transport_url)
    assert management_host.can_connect(str(broker.hostname), broker.port or 5672)
    assert management_host.open_ports(service.management_address(ready)) == set()


def test_the_server_is_not_the_users(service: CloudService, ready: str) -> None:
    assert service.server(ready).project_id == service.own.current_project_id
    assert ready not in str([server.name for server in service.user.compute.servers()])


def test_another_project_sees_nothing(service: CloudService, ready: str) -> None:
    with pytest.raises(CommandFailed, match=r"not be found|No instance|404|cannot"):
        service.openstack(
            *("database", "instance", "show", ready), cloud=service.settings.other_cloud
        )


def test_networks_of_other_projects_are_refused(service: CloudService) -> None:
    """That of the agents, and one of another user: not even by its id."""
    other = openstack.connect(cloud=service.settings.other_cloud)
    networks = other.network.networks(project_id=other.current_project_id)
    others = next(iter(networks)).name
    before = service.holdings()
    for network in (service.settings.management_network, others):
        with pytest.raises(CommandFailed, match="400"):
            service.create("intruder", network=network)
    assert not service.holdings().beyond(before)


def test_the_config_drive_of_a_running_instance_opens_nothing(
    service: CloudService, ready: str
) -> None:
    files = service.config_drive_files(ready)
    with pytest.raises(amqp.AccessRefused):
        rabbit_thief.connect(service.account_url(ready))
    keys = service.guest_keys(ready)
    assert not keys.is_bootstrap
    assert base64.b64decode(files["instance.key"]) not in {keys.current, keys.next}


def test_a_stolen_broker_account_reaches_no_other_instance(
    service: CloudService, ready: str
) -> None:
    """That of an instance whose server boots, with the rights that all have."""
    thief_id = service.create("thief")
    wait_until(lambda: service.has_server(thief_id), timeout_s=120, interval_s=1)
    # trove-api has a queue for answers since its first question
    assert "shop" in _databases(service, ready)
    aim = rabbit_thief.Aim(
        own=thief_id,
        victim=ready,
        victim_inbox=_find_queue(service, f"answer.{ready}"),
        control_inbox=_find_queue(service, transport.CONTROL_INBOX),
    )
    for make in rabbit_thief.ATTEMPTS:
        # one connection has too few channels for all
        thief = rabbit_thief.Thief(service.account_url(thief_id))
        allowed = [what for what, try_it in make(aim).items() if not thief.is_refused(try_it)]
        thief.close()
        assert allowed == []
    # the broker's own API is not for agents
    url = urllib.parse.urlsplit(service.account_url(thief_id))
    api = urllib.parse.urlsplit(service.settings.guest_management_url)
    answer = requests.get(
        f"{api.scheme}://{api.hostname}:{api.port}/api/queues",
        auth=(urllib.parse.unquote(url.username or ""), urllib.parse.unquote(url.password or "")),
        timeout=10,
    )
    assert answer.status_code == 401
    assert "shop" in _databases(service, ready)
    service.delete(thief_id, force=True)
    with pytest.raises(amqp.AccessRefused):
        rabbit_thief.connect(urllib.parse.urlunsplit(url))


def test_a_log_is_published_to_the_users_objects(
    service: CloudService, host: NetworkHost, ready: str
) -> None:
    def change(option: str) -> dict[str, Any]:
        asked = service.openstack(
            *("database", "log", "set", ready, "general", f"--{option}", "-f", "json")
        )
        return dict(asked)

    change("enable")
    for number in range(3):
        _ask(service, host, ready, f"SELECT 'marker {number}'")
    wait_until(
        lambda: change("publish")["status"] == "Published",
        timeout_s=120,
        interval_s=2,
        what="everything being published",
    )
    text = service.openstack("database", "log", "tail", ready, "general")
    assert "marker 2" in str(text)
    published = service.holdings().found["objects"]
    assert [name for name in published if f"{ready}/mariadb-general" in name]
    change("disable")
    change("discard")
    left = service.holdings().found["objects"]
    assert not [name for name in left if ready in name]


def test_restart(service: CloudService, host: NetworkHost, ready: str) -> None:
    before = _ask(service, host, ready, "SHOW STATUS LIKE 'Uptime'").split()[1]
    service.openstack("database", "instance", "restart", ready)
    service.wait_operations(ready)
    service.wait_ready(ready)
    assert (
        int(_ask(service, host, ready, "SHOW STATUS LIKE 'Uptime'").split()[1]) < int(before) + 60
    )
    assert _ask(service, host, ready, "SELECT MAX(n) FROM shop.kept") == "1"


def test_access_is_changed(service: CloudService, host: NetworkHost, ready: str) -> None:
    address = _address(service.show(ready))
    service.openstack("database", "instance", "update", ready, "--allowed-cidr", "192.0.2.0/24")
    service.wait_operations(ready)
    wait_until(lambda: not host.can_connect(address, 3306), timeout_s=30, what="no access")
    service.openstack("database", "instance", "update", ready, "--allowed-cidr", "0.0.0.0/0")
    service.wait_operations(ready)
    wait_until(lambda: host.can_connect(address, 3306), timeout_s=30, what="access")


def test_a_public_address_comes_and_goes(service: CloudService, ready: str) -> None:
    service.openstack("database", "instance", "update", ready, "--is-public")
    service.wait_operations(ready)
    shown = service.wait_ready(ready)
    public = _address(shown, "public")
    known = {ip.floating_ip_address for ip in service.admin.network.ips()}
    assert public in known
    service.openstack("database", "instance", "update", ready, "--is-private")
    service.wait_operations(ready)
    assert public not in {ip.floating_ip_address for ip in service.admin.network.ips()}


def test_a_configuration_is_attached(service: CloudService, host: NetworkHost, ready: str) -> None:
    made = service.openstack(
        *("database", "configuration", "create", "few", '{"max_connections": 77}'),
        *("--datastore", "mariadb", "-f", "json"),
    )
    service.openstack("database", "configuration", "attach", ready, made["id"])
    service.wait_operations(ready)
    assert _ask(service, host, ready, "SELECT @@max_connections") == "77"
    service.openstack("database", "configuration", "detach", ready)
    service.wait_operations(ready)
    service.wait_status(ready, "ACTIVE", timeout_s=60)
    service.openstack("database", "configuration", "delete", made["id"])


def test_a_volume_grows(service: CloudService, host: NetworkHost, ready: str) -> None:
    size = int(service.show(ready)["volume"]) + 1
    service.openstack("database", "instance", "resize", "volume", ready, str(size))
    service.wait_operations(ready)
    shown = service.wait_ready(ready)
    assert int(shown["volume"]) == size
    assert _ask(service, host, ready, "SELECT MAX(n) FROM shop.kept") == "1"


def test_reboot(service: CloudService, host: NetworkHost, ready: str) -> None:
    service.openstack("database", "instance", "reboot", ready, cloud=service.settings.admin_cloud)
    service.wait_operations(ready)
    service.wait_ready(ready)
    assert _ask(service, host, ready, "SELECT MAX(n) FROM shop.kept") == "1"


def test_a_flavor_is_changed(service: CloudService, host: NetworkHost, ready: str) -> None:
    flavor = service.admin.compute.find_flavor(service.settings.larger_flavor)
    service.openstack("database", "instance", "resize", "flavor", ready, flavor.id)
    service.wait_operations(ready)
    shown = service.wait_ready(ready)
    assert shown["flavor"] == flavor.id
    assert service.server(ready).status == "ACTIVE"
    assert _ask(service, host, ready, "SELECT MAX(n) FROM shop.kept") == "1"


def test_a_flavor_that_no_host_has_room_for_is_told(
    service: CloudService, host: NetworkHost, ready: str
) -> None:
    if service.settings.impossible_flavor is None:
        pytest.skip("no flavor of this cloud is known to fit on no host")
    before = service.show(ready)["flavor"]
    flavor = service.admin.compute.find_flavor(service.settings.impossible_flavor)
    service.openstack("database", "instance", "resize", "flavor", ready, flavor.id)
    service.wait_operations(ready)
    failed = service.operations(ready)[0]
    assert failed.state is states.OperationState.FAILED
    assert "No valid host" in str(failed.error)
    assert "(request req-" in str(failed.error)
    assert service.wait_ready(ready)["flavor"] == before
    assert _ask(service, host, ready, "SELECT MAX(n) FROM shop.kept") == "1"


def test_an_instance_whose_cell_is_down_is_not_gone(service: CloudService, ready: str) -> None:
    if not (service.settings.stop_nova_cell and service.settings.start_nova_cell):
        pytest.skip("no cell can be stopped here")
    told = f"instance {ready}: its server is not listed"
    subprocess.run(service.settings.stop_nova_cell, check=True, capture_output=True, timeout=120)
    try:
        assert not service.has_server(ready)
        wait_until(
            lambda: told in service.log_of("trove-taskmanager"),
            timeout_s=180,
            interval_s=1,
            what="the server being missed",
        )
        assert service.show(ready)["status"] == "ACTIVE"
        assert "shop" in _databases(service, ready)
    finally:
        subprocess.run(
            service.settings.start_nova_cell, check=True, capture_output=True, timeout=120
        )
    wait_until(lambda: service.has_server(ready), timeout_s=60, interval_s=1, what="the cell")
    service.wait_ready(ready)


def test_a_rebuild_takes_a_new_image_and_keeps_the_data(
    service: CloudService, host: NetworkHost, ready: str
) -> None:
    image_id = service.import_image("10.11.99")
    before = service.server(ready).id
    service.openstack(
        "database", "instance", "rebuild", ready, image_id, cloud=service.settings.admin_cloud
    )
    service.wait_operations(ready, timeout_s=2 * BOOT_S)
    service.wait_ready(ready)
    server = service.server(ready)
    assert (server.id != before) or (server.image["id"] == image_id)
    assert _ask(service, host, ready, "SELECT MAX(n) FROM shop.kept") == "1"


def test_the_agent_goes_on_as_another_release_and_back(
    service: CloudService, host: NetworkHost, ready: str, tmp_path: pathlib.Path
) -> None:
    """Below systemd, in a server that nobody logs in to; the engine runs all the while."""
    _, boot = service.agent(ready)
    uptime_s = int(_ask(service, host, ready, "SHOW STATUS LIKE 'Uptime'").split()[1])
    wheel = make_wheel(tmp_path, "77.1.0")
    assert service.upgrade_agent(ready, wheel, trial_s=300) == "SUCCEEDED"
    assert service.agent(ready) == ("77.1.0", boot + 1)
    # one that ends at its start
    broken = {"trove/cmd/guestagent_server.py": "raise SystemExit(1)\n"}
    wheel = make_wheel(tmp_path, "77.2.0", instead=broken)
    ended = service.upgrade_agent(ready, wheel, trial_s=300)
    assert ended.startswith("FAILED")
    assert "went back to 77.1.0" in ended
    assert service.agent(ready)[0] == "77.1.0"
    service.wait_ready(ready)
    assert "shop" in _databases(service, ready)
    after_s = int(_ask(service, host, ready, "SHOW STATUS LIKE 'Uptime'").split()[1])
    assert after_s > uptime_s
