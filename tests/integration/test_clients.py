"""The clients that people have, unmodified, against the running service.

The openstack client with python-troveclient's commands, openstacksdk, plain PyMySQL. Nothing here
is mocked: every command goes through API, RabbitMQ, taskmanager, agent and MariaDB.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator
from typing import Any

import openstack
import pymysql
import pytest

from tests.fixtures.stack import CommandFailed, Stack, stack
from tests.fixtures.waiting import wait_until

__all__ = ["stack"]


@pytest.fixture(scope="module")
def instance(stack: Stack) -> dict[str, Any]:
    """Give one instance made by the openstack client, with a database and a user."""
    made = stack.openstack(
        *("database", "instance", "create", "orders", "--flavor", "2", "--size", "1"),
        *("--datastore", "mariadb", "--databases", "shop", "--users", "ann:s3cret-Word"),
        *("-f", "json"),
    )
    assert made["status"] == "BUILD"
    return stack.wait_active(made["id"])


def _connect(stack: Stack, address: str, user: str, password: str, **kwargs: Any) -> Any:
    context = ssl.create_default_context(cafile=str(stack.state_dir / "ca.pem"))
    return pymysql.connect(
        host=address, user=user, password=password, ssl=context, connect_timeout=5, **kwargs
    )


def _address(shown: dict[str, Any]) -> str:
    addresses = shown["addresses"]
    first = addresses[0]
    return str(first["address"])


def _names(rows: list[dict[str, Any]]) -> list[str]:
    return [row["Name"] for row in rows]


def test_create_gives_a_database_that_answers_over_verified_tls(
    stack: Stack, instance: dict[str, Any]
) -> None:
    with (
        _connect(stack, _address(instance), "ann", "s3cret-Word", database="shop") as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute("CREATE TABLE t (n INT)")
        cursor.execute("INSERT INTO t VALUES (41), (1)")
        cursor.execute("SELECT SUM(n) FROM t")
        assert cursor.fetchone()[0] == 42
        cursor.execute("SHOW STATUS LIKE 'Ssl_cipher'")
        assert cursor.fetchone()[1]


def test_restart_keeps_the_data_and_comes_back_healthy(
    stack: Stack, instance: dict[str, Any]
) -> None:
    def started() -> float:
        with (
            _connect(stack, _address(instance), "ann", "s3cret-Word") as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute(
                "SELECT VARIABLE_VALUE FROM information_schema.GLOBAL_STATUS"
                " WHERE VARIABLE_NAME = 'UPTIME'"
            )
            return time.time() - int(cursor.fetchone()[0])

    before = started()
    wait_until(lambda: time.time() > before + 5, what="a moment that a restart can be told by")
    stack.openstack("database", "instance", "restart", instance["id"])
    stack.wait_active(instance["id"])
    assert started() > before + 3
    assert "shop" in _names(stack.openstack("database", "db", "list", instance["id"], "-f", "json"))


@pytest.fixture
def sdk(stack: Stack) -> Iterator[openstack.connection.Connection]:
    """Give openstacksdk, signed in by the clouds.yaml that the service wrote."""
    clouds = openstack.config.OpenStackConfig(config_files=[str(stack.state_dir / "clouds.yaml")])
    connection = openstack.connection.Connection(config=clouds.get_one("trove"))
    yield connection
    connection.close()


# the SDK warns of parts of its own configuration that will go
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::PendingDeprecationWarning")
def test_every_method_of_openstacksdk_s_proxy(sdk: openstack.connection.Connection) -> None:
    database = sdk.database

    def settle(instance: Any) -> Any:
        # the SDK trusts the status that it read last
        seen = database.get_instance(instance.id)
        return database.wait_for_status(seen, "ACTIVE", failures=["ERROR"], interval=0.2, wait=60)

    flavors = {flavor.name: flavor for flavor in database.flavors()}
    assert database.get_flavor("2").name == "db.small"
    assert database.find_flavor("db.small").ram == flavors["db.small"].ram == 512
    assert database.find_flavor("nope", ignore_missing=True) is None

    made = database.create_instance(
        name="sdk", flavor="1", volume={"size": 1}, datastore={"type": "mariadb"}
    )
    made = settle(made)
    assert database.get_instance(made.id).name == "sdk"
    assert database.find_instance("sdk").id == made.id
    assert database.find_instance("nope", ignore_missing=True) is None
    # pages of one: the SDK follows the links
    assert made.id in {found.id for found in database.instances(limit=1)}
    database.update_instance(made, name="renamed")
    assert database.get_instance(made.id).name == "renamed"

    database.create_database(made, name="one")
    assert [found.name for found in database.databases(made)] == ["one"]
    database.create_user(made, name="joe", password="joes-Pw", databases=[{"name": "one"}])
    assert [found.name for found in database.users(made)] == ["joe"]
    # what the SDK itself refuses, whatever the server can do
    for unsupported in (
        lambda: database.find_user("joe", made),
        lambda: database.get_user("joe", made),
        lambda: database.find_database("one", made),
        lambda: database.get_database("one", made),
    ):
        with pytest.raises(openstack.exceptions.MethodNotSupported):
            unsupported()
    database.delete_user("joe", instance=made)
    database.delete_database("one", instance=made)
    assert list(database.databases(made)) == []
    assert list(database.users(made)) == []

    assert made.is_root_enabled(database) is False
    assert made.enable_root_user(database)["password"]
    assert made.is_root_enabled(database) is True
    made.restart(database)
    assert database.get_instance(made).status == "REBOOT"
    settle(made)
    made.resize_volume(database, 2)
    assert settle(made).volume["size"] == 2
    made.resize(database, "2")
    assert settle(made).flavor["id"] == "2"
    database.delete_instance(made)
    database.wait_for_delete(made, interval=0.2, wait=60)
    database.delete_instance(made, ignore_missing=True)


def test_delete_ends_in_not_found_and_leaves_no_process_or_directory(stack: Stack) -> None:
    made = stack.openstack(
        *("database", "instance", "create", "short-lived", "--flavor", "1", "--size", "1"),
        *("--datastore", "mariadb", "-f", "json"),
    )
    stack.wait_active(made["id"])
    stack.openstack("database", "instance", "delete", made["id"])

    def gone() -> bool:
        listed = stack.openstack("database", "instance", "list", "-f", "json")
        return made["id"] not in {row["ID"] for row in listed}

    wait_until(gone, timeout_s=60)
    with pytest.raises(CommandFailed, match=r"(?i)no instance|cannot be found|not found"):
        stack.openstack("database", "instance", "show", made["id"])
    assert not list(stack.state_dir.rglob(f"*{made['id']}*"))
