"""One instance on a real cloud, from its create to its delete, as its user and others see it."""

from __future__ import annotations

import base64
import configparser
import urllib.parse
from collections.abc import Iterator
from typing import Any

import amqp
import pytest

from tests.fixtures.on_cloud import BOOT_S, CloudService, NetworkHost
from tests.fixtures.stack import CommandFailed
from tests.fixtures.waiting import wait_until

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


def test_a_create_answers_over_the_users_network(
    service: CloudService, host: NetworkHost, ready: str
) -> None:
    _ask(service, host, ready, "CREATE TABLE IF NOT EXISTS shop.kept (n INT)")
    _ask(service, host, ready, "INSERT INTO shop.kept VALUES (1)")
    assert _ask(service, host, ready, "SELECT MAX(n) FROM shop.kept") == "1"
    assert _ask(service, host, ready, "SHOW STATUS LIKE 'Ssl_cipher'").split()[1:]


def test_a_create_costs_little_of_our_own(service: CloudService, ready: str) -> None:
    assert service.overhead_s(ready, "create_instance") <= MOST_OVERHEAD_S


def test_the_engines_port_alone_answers_on_the_users_network(
    service: CloudService, host: NetworkHost, ready: str
) -> None:
    address = _address(service.show(ready))
    assert host.can_connect(address, 3306)
    assert not [port for port in (22, 80, 111, 443, 5355) if host.can_connect(address, port)]


def test_the_server_is_not_the_users(service: CloudService, ready: str) -> None:
    assert service.server(ready).project_id == service.own.current_project_id
    assert ready not in str([server.name for server in service.user.compute.servers()])


def test_another_project_sees_nothing(service: CloudService, ready: str) -> None:
    with pytest.raises(CommandFailed, match=r"not be found|No instance|404|cannot"):
        service.openstack(
            *("database", "instance", "show", ready), cloud=service.settings.other_cloud
        )


def test_a_network_of_another_project_is_refused(service: CloudService) -> None:
    with pytest.raises(CommandFailed, match="400"):
        service.create("intruder", network=service.settings.management_network)


def test_the_config_drive_of_a_running_instance_opens_nothing(
    service: CloudService, ready: str
) -> None:
    files = service.config_drive_files(ready)
    parser = configparser.RawConfigParser()
    parser.read_string(files["guest.conf"])
    url = urllib.parse.urlsplit(parser["guest"]["transport_url"].replace("$$", "$"))
    connection = amqp.Connection(
        host=f"{url.hostname}:{url.port}",
        userid=urllib.parse.unquote(url.username or ""),
        password=urllib.parse.unquote(url.password or ""),
        virtual_host=url.path.lstrip("/"),
        connect_timeout=10,
    )
    with pytest.raises(amqp.exceptions.AccessRefused):
        connection.connect()
    keys = service.guest_keys(ready)
    assert not keys.is_bootstrap
    assert base64.b64decode(files["instance.key"]) not in {keys.current, keys.next}


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
