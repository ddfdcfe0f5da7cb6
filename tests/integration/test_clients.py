"""The clients that people have, unmodified, against the running service.

The openstack client with python-troveclient's commands, openstacksdk, plain PyMySQL. Nothing here
is mocked: every command goes through API, RabbitMQ, taskmanager, agent and MariaDB.
"""

from __future__ import annotations

import json
import ssl
import time
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


def test_instance_list_shows_it_with_datastore_flavor_and_address(
    stack: Stack, instance: dict[str, Any]
) -> None:
    (row,) = stack.openstack("database", "instance", "list", "-f", "json")
    assert row["ID"] == instance["id"]
    assert row["Name"] == "orders"
    assert row["Datastore"] == "mariadb"
    assert row["Status"] == "ACTIVE"
    assert row["Operating Status"] == "HEALTHY"
    assert str(row["Flavor ID"]) == "2"
    assert row["Size"] == 1


def test_databases_are_created_listed_and_deleted(stack: Stack, instance: dict[str, Any]) -> None:
    db = ("database", "db")
    stack.openstack(*db, "create", instance["id"], "ledger", "--character_set", "utf8mb4")
    listed = stack.openstack(*db, "list", instance["id"], "-f", "json")
    assert {"ledger", "shop"} <= set(_names(listed))
    with pytest.raises(CommandFailed, match="already exists"):
        stack.openstack(*db, "create", instance["id"], "ledger")
    stack.openstack(*db, "delete", instance["id"], "ledger")
    assert "ledger" not in _names(stack.openstack(*db, "list", instance["id"], "-f", "json"))


def test_users_and_their_access_are_managed(stack: Stack, instance: dict[str, Any]) -> None:
    user = ("database", "user")
    one = instance["id"]
    stack.openstack(*user, "create", one, "bob.o-k", "first-Pw1", "--databases", "shop")
    listed = stack.openstack(*user, "list", one, "-f", "json")
    assert {"ann", "bob.o-k"} <= set(_names(listed))
    shown = stack.openstack(*user, "show", one, "bob.o-k", "-f", "json")
    assert shown["name"] == "bob.o-k"
    with _connect(stack, _address(instance), "bob.o-k", "first-Pw1", database="shop"):
        pass

    stack.openstack("database", "db", "create", one, "extra")
    stack.openstack(*user, "grant", "access", one, "bob.o-k", "extra")
    access = stack.openstack(*user, "show", "access", one, "bob.o-k", "-f", "json")
    assert set(_names(access)) == {"shop", "extra"}
    stack.openstack(*user, "revoke", "access", one, "bob.o-k", "extra")
    access = stack.openstack(*user, "show", "access", one, "bob.o-k", "-f", "json")
    assert _names(access) == ["shop"]

    stack.openstack(
        *user, "update", "attributes", one, "bob.o-k", "--new_name", "rob", "--new_password", "Pw2x"
    )
    with _connect(stack, _address(instance), "rob", "Pw2x", database="shop"):
        pass
    stack.openstack(*user, "delete", one, "rob")
    assert "rob" not in _names(stack.openstack(*user, "list", one, "-f", "json"))
    with pytest.raises(CommandFailed, match=r"cannot be found|not found"):
        stack.openstack(*user, "show", one, "rob")


def test_root_is_enabled_shown_and_disabled(stack: Stack, instance: dict[str, Any]) -> None:
    root = ("database", "root")
    one = instance["id"]
    shown = stack.openstack(*root, "show", one, "-f", "json")
    assert str(shown["is_root_enabled"]) == "False"
    enabled = stack.openstack(*root, "enable", one, "-f", "json")
    with (
        _connect(stack, _address(instance), enabled["name"], enabled["password"]) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute("SHOW DATABASES")
        assert ("shop",) in cursor.fetchall()
    assert str(stack.openstack(*root, "show", one, "-f", "json")["is_root_enabled"]) == "True"
    stack.openstack(*root, "disable", one)
    assert str(stack.openstack(*root, "show", one, "-f", "json")["is_root_enabled"]) == "False"
    with pytest.raises(pymysql.err.OperationalError):
        _connect(stack, _address(instance), enabled["name"], enabled["password"])


def test_datastores_versions_flavors_and_limits_are_shown(stack: Stack) -> None:
    (row,) = stack.openstack("datastore", "list", "-f", "json")
    assert row["Name"] == "mariadb"
    shown = stack.openstack("datastore", "show", "mariadb", "-f", "json")
    assert shown["id"] == row["ID"]
    (version,) = stack.openstack("datastore", "version", "list", "mariadb", "-f", "json")
    assert version["Version"].startswith("10.") or version["Name"].startswith("10.")
    by_name = ("datastore", "version", "show", version["Name"], "--datastore", "mariadb")
    assert stack.openstack(*by_name, "-f", "json")["id"] == version["ID"]
    by_id = ("datastore", "version", "show", version["ID"])
    assert stack.openstack(*by_id, "-f", "json")["name"] == version["Name"]
    flavors = stack.openstack("database", "flavor", "list", "-f", "json")
    assert "db.small" in _names(flavors)
    assert stack.openstack("database", "flavor", "show", "db.small", "-f", "json")["ram"] == 512
    assert stack.openstack("database", "flavor", "show", "2", "-f", "json")["name"] == "db.small"
    # the client prints the absolute limits as a table before the list that was asked for
    text = stack.openstack("database", "limit", "list", "-f", "json")
    assert "max_instances" in text
    limits = json.loads(text[text.index("[\n") :])
    assert {row["Verb"] for row in limits} == {"GET", "POST", "PUT", "DELETE"}


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


# the SDK warns of parts of its own configuration that will go
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::PendingDeprecationWarning")
def test_openstacksdk_runs_the_main_path(stack: Stack) -> None:
    cloud = stack.cloud()
    connection = openstack.connection.Connection(
        config=openstack.config.OpenStackConfig(
            config_files=[str(stack.state_dir / "clouds.yaml")]
        ).get_one("trove")
    )
    assert cloud
    database = connection.database
    made = database.create_instance(
        name="sdk", flavor="1", volume={"size": 1}, datastore={"type": "mariadb"}
    )
    database.wait_for_status(made, "ACTIVE", failures=["ERROR"], interval=0.2, wait=60)
    assert made.id in {found.id for found in database.instances()}
    assert database.find_instance("sdk").id == made.id
    assert {flavor.name for flavor in database.flavors()} >= {"db.tiny"}

    database.create_database(made, name="one")
    assert [found.name for found in database.databases(made)] == ["one"]
    database.create_user(made, name="joe", password="joes-Pw", databases=[{"name": "one"}])
    assert [found.name for found in database.users(made)] == ["joe"]
    database.delete_user("joe", instance=made)
    database.delete_database("one", instance=made)
    assert list(database.databases(made)) == []
    assert made.is_root_enabled(database) is False
    made.restart(database)
    database.wait_for_status(made, "ACTIVE", failures=["ERROR"], interval=0.2, wait=60)
    database.delete_instance(made)
    database.wait_for_delete(made, interval=0.2, wait=60)
    connection.close()


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
