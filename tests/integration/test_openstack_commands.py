"""Every command of python-troveclient's plugin for the openstack client, on the running service.

Each test runs commands as people type them and looks at what they print. A command of a capability
that no engine has here yet is run as well: it must print the documented refusal. The first test
holds the module against the list of commands that are installed.
"""

from __future__ import annotations

import ast
import base64
import dataclasses
import importlib.metadata
import json
import pathlib
import uuid
from collections.abc import Iterator
from typing import Any

import pymysql
import pytest

from tests.fixtures import project
from tests.fixtures.certificates import TenantAuthority
from tests.fixtures.engine import passable_directory
from tests.fixtures.other_versions import break_mariadb, make_mariadb
from tests.fixtures.stack import CommandFailed, Stack, stack
from tests.fixtures.waiting import wait_until

__all__ = ["stack"]

_PLUGIN = "python-troveclient"
_GROUP = "openstack.database.v1"


@dataclasses.dataclass(frozen=True)
class Client:
    """The openstack client as a member of a project, or as an administrator."""

    stack: Stack
    cloud: str = "trove"

    def __call__(self, command: str, *args: str) -> Any:
        """Run a command; returns its JSON where it has any, else its text."""
        return self.stack.openstack(*command.split(), *args, cloud=self.cloud)

    def json(self, command: str, *args: str) -> Any:
        """Run a command that prints a document."""
        printed = self(command, *args, "-f", "json")
        assert not isinstance(printed, str), printed
        return printed

    def refused(self, command: str, *args: str, match: str) -> None:
        """Run a command that must end with an error."""
        with pytest.raises(CommandFailed, match=match):
            self(command, *args)

    def instance(self, instance_id: str) -> dict[str, Any]:
        """Show an instance."""
        return dict(self.json("database instance show", instance_id))

    def settle(self, instance_id: str, *, status: str = "ACTIVE") -> dict[str, Any]:
        """Wait until nothing is done to an instance any more."""

        def look() -> dict[str, Any] | None:
            seen = self.instance(instance_id)
            assert seen["status"] != "ERROR", seen
            is_done = seen["status"] == status and seen["operating_status"] != ""
            return seen if is_done or seen["status"] == status != "ACTIVE" else None

        return wait_until(look, timeout_s=90, what=f"{instance_id} {status}") or {}

    def healthy(self, instance_id: str) -> dict[str, Any]:
        """Wait until an instance is ACTIVE and HEALTHY."""
        return self.stack.wait_active(instance_id, timeout_s=90)


@pytest.fixture(scope="module")
def user(stack: Stack) -> Client:
    """Give the client of a member."""
    return Client(stack)


@pytest.fixture(scope="module")
def admin(stack: Stack) -> Client:
    """Give the client of an administrator."""
    return Client(stack, "trove-admin")


@pytest.fixture(scope="module")
def instance(user: Client) -> dict[str, Any]:
    """Give an instance with a database and a user."""
    return _create(user, "orders", "--databases", "shop", "--users", "ann:s3cret-Word")


@pytest.fixture
def other(user: Client) -> Iterator[dict[str, Any]]:
    """Give an instance that a test may do anything to."""
    made = _create(user, f"other-{uuid.uuid4().hex[:6]}")
    yield made
    user.stack.rest("trove-admin")("POST", f"/instances/{made['id']}/action", {"reset_status": {}})
    user.stack.rest("trove-admin")("DELETE", f"/instances/{made['id']}")
    user.stack.rest().wait_gone(made["id"])


def _create(user: Client, name: str, *args: str) -> dict[str, Any]:
    made = user.json(
        "database instance create",
        *(name, "--flavor", "db.tiny", "--size", "1", "--datastore", "mariadb"),
        *args,
    )
    assert made["status"] == "BUILD"
    return user.healthy(made["id"])


def _query(shown: dict[str, Any], user: Client, statement: str) -> Any:
    """Ask an instance as ann; returns the first column of the first row."""
    ca = str(user.stack.state_dir / "ca.pem")
    with (
        pymysql.connect(
            host=shown["addresses"][0]["address"],
            user="ann",
            password="s3cret-Word",
            ssl={"ca": ca},
            connect_timeout=5,
        ) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute(statement)
        return cursor.fetchone()[0]


def _names(rows: list[dict[str, Any]]) -> set[str]:
    return {row["Name"] for row in rows}


def _version(user: Client) -> dict[str, Any]:
    (version,) = user.json("datastore version list", "mariadb")
    return dict(version)


def test_every_installed_command_is_run_here() -> None:
    installed = {
        point.name.replace("_", " ")
        for point in importlib.metadata.distribution(_PLUGIN).entry_points
        if point.group == _GROUP
    }
    tree = project.parse(pathlib.Path(__file__))
    run = {
        node.args[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant)
    }
    assert len(installed) >= 84
    assert installed - run == set()


# -- instances -----


def test_instance_list_and_show(user: Client, admin: Client, instance: dict[str, Any]) -> None:
    (row,) = [r for r in user.json("database instance list") if r["ID"] == instance["id"]]
    assert row["Name"] == "orders"
    assert (row["Datastore"], row["Status"], row["Operating Status"]) == (
        "mariadb",
        "ACTIVE",
        "HEALTHY",
    )
    assert (str(row["Flavor ID"]), row["Size"], row["Public"]) == ("1", 1, False)
    assert row["Addresses"] == instance["addresses"]
    everywhere = admin.json("database instance list", "--all-projects")
    (foreign,) = [r for r in everywhere if r["ID"] == instance["id"]]
    assert foreign["Tenant ID"] == "demo"
    assert foreign["Server ID"]
    assert instance["id"] in {
        r["ID"] for r in admin.json("database instance list", "--project-id", "demo")
    }
    assert admin.json("database instance list", "--project-id", "nobody") == []
    assert admin.json("database instance list") == []
    user.refused("database instance list", "--all-projects", match="HTTP 403")
    shown = user.json("database instance show", "orders")
    assert shown["id"] == instance["id"]
    assert shown["volume"] == 1
    user.refused("database instance show", "nobody", match="No instance with a name or ID")


def test_instance_list_pages(user: Client, instance: dict[str, Any], other: dict[str, Any]) -> None:
    first = user.json("database instance list", "--limit", "1")
    second = user.json("database instance list", "--limit", "1", "--marker", first[0]["ID"])
    assert len(first) == len(second) == 1
    assert first != second


def test_instance_create_with_access_and_nothing_that_is_not_there(
    user: Client, instance: dict[str, Any]
) -> None:
    user.refused(
        "database instance create",
        *("x", "--flavor", "nope", "--size", "1", "--datastore", "mariadb"),
        match="(?i)flavor",
    )
    user.refused(
        "database instance create",
        *("x", "--flavor", "1", "--size", "1", "--datastore", "nope"),
        match="HTTP 404",
    )
    user.refused(
        "database instance create",
        *("x", "--flavor", "1", "--size", "1000", "--datastore", "mariadb"),
        match="HTTP 413",
    )
    user.refused(
        "database instance create", "x", "--replica-of", instance["id"], match="HTTP (400|501)"
    )


def test_instance_update_name_access_and_configuration(user: Client, other: dict[str, Any]) -> None:
    user("database instance update", other["id"], "--name", "renamed")
    assert user.instance("renamed")["id"] == other["id"]
    user(
        "database instance update",
        *(other["id"], "--is-private", "--allowed-cidr", "127.0.0.0/8"),
    )
    seen = user.healthy(other["id"])
    assert seen["allowed_cidrs"] == ["127.0.0.0/8"]
    group = user.json("database configuration create", "g", '{"max_connections": 77}')
    user("database instance update", other["id"], "--configuration", group["id"])
    user.settle(other["id"])
    assert user.instance(other["id"])["configuration"] == group["id"]
    user("database instance update", other["id"], "--remove-configuration")
    user.settle(other["id"])
    assert "configuration" not in user.instance(other["id"])
    user("database configuration delete", group["id"])
    user.refused(
        "database instance update", other["id"], "--detach-replica-source", match="not a replica"
    )


def test_instance_resize_flavor_and_volume(user: Client, other: dict[str, Any]) -> None:
    user("database instance resize flavor", other["id"], "db.small")
    assert user.instance(other["id"])["status"] in ("RESIZE", "ACTIVE")
    assert str(user.healthy(other["id"])["flavor"]) == "2"
    user("database instance resize volume", other["id"], "2")
    assert user.healthy(other["id"])["volume"] == 2
    user.refused("database instance resize volume", other["id"], "1", match="HTTP 400")
    user.refused("database instance resize flavor", other["id"], "db.small", match="HTTP 400")


def test_instance_restart_reboot_and_rebuild_keep_the_data(
    user: Client, admin: Client, instance: dict[str, Any]
) -> None:
    one = instance["id"]
    user("database instance restart", one)
    user.healthy(one)
    user.refused("database instance reboot", one, match="HTTP 403")
    admin("database instance reboot", one)
    user.healthy(one)
    image = admin.json("datastore version show", _version(user)["ID"])["image"]
    admin("database instance rebuild", one, image)
    assert user.healthy(one)["addresses"] == instance["addresses"]
    assert _query(instance, user, "SELECT 42") == 42
    assert "shop" in _names(user.json("database db list", one))


def test_instance_upgrade_to_the_same_version_is_refused(
    user: Client, instance: dict[str, Any]
) -> None:
    user.refused(
        "database instance upgrade", instance["id"], _version(user)["ID"], match="HTTP 400"
    )
    user.refused("database instance upgrade", instance["id"], "nope", match="HTTP 400")


def test_instance_upgrade_runs_the_new_version_or_the_old_one_again(
    user: Client, admin: Client, other: dict[str, Any]
) -> None:
    one, old = other["id"], other["datastore_version"]
    user("database db create", one, "kept")
    with passable_directory() as directory:
        versions = {number: make_mariadb(directory, number) for number in ("10.11.98", "11.8.99")}
        for number, basedir in versions.items():
            user.stack.manage(
                *("image", "import", "--datastore", "mariadb", "--datastore-version", number),
                *("--file", str(basedir / "bin" / "mariadbd")),
            )
        break_mariadb(versions["11.8.99"], "11.8.99")
        user("database instance upgrade", one, "11.8.99")
        assert user.instance(one)["status"] == "UPGRADE"
        failed = user.healthy(one)
        assert failed["datastore_version"] == old
        assert "this build is broken" in failed["fault"]
        assert "The instance runs on its old image." in failed["fault"]
        assert _names(user.json("database db list", one)) == {"kept"}
        user("database instance upgrade", one, "10.11.98")
        assert user.healthy(one)["datastore_version"] == "10.11.98"
        assert _names(user.json("database db list", one)) == {"kept"}
        user.refused("database instance upgrade", one, old, match="is older than")
        # gone before its programs are; other tests know of one version
        user("database instance delete", one)
        user.stack.rest().wait_gone(one)
        for version in user.json("datastore version list", "mariadb"):
            if version["Name"] in versions:
                admin("datastore version delete", version["ID"])
    assert _version(user)["Name"] == old


def test_replica_commands_refuse_what_is_no_replica(user: Client, instance: dict[str, Any]) -> None:
    one = instance["id"]
    user.refused("database instance detach", one, match="not a replica")
    user.refused("database instance promote", one, match="not a replica")
    user.refused("database instance eject", one, match="not a replica source")


def test_instance_reset_status_and_force_delete(
    user: Client, admin: Client, other: dict[str, Any]
) -> None:
    user.refused("database instance reset status", other["id"], match="HTTP 403")
    admin("database instance reset status", other["id"])
    user.refused("database instance force delete", other["id"], match="HTTP 403")
    admin("database instance force delete", other["id"])
    user.stack.rest().wait_gone(other["id"])


def test_instance_delete_by_name(user: Client) -> None:
    made = user.json(
        "database instance create",
        *("short-lived", "--flavor", "1", "--size", "1", "--datastore", "mariadb"),
    )
    # in BUILD too
    user("database instance delete", "short-lived")
    user.stack.rest().wait_gone(made["id"])
    user.refused("database instance delete", "short-lived", match="(?i)not found|no instance|fail")


# -- databases, users, root -----


def test_db_commands(user: Client, instance: dict[str, Any]) -> None:
    one = instance["id"]
    user("database db create", one, "ledger", "--character_set", "utf8mb4")
    assert {"ledger", "shop"} <= _names(user.json("database db list", one))
    user.refused("database db create", one, "ledger", match="already exists")
    user("database db delete", one, "ledger")
    assert "ledger" not in _names(user.json("database db list", one))


def test_user_commands(user: Client, instance: dict[str, Any]) -> None:
    one = instance["id"]
    user("database user create", one, "bob.o-k", "first-Pw1", "--databases", "shop")
    assert {"ann", "bob.o-k"} <= _names(user.json("database user list", one))
    assert user.json("database user show", one, "bob.o-k")["name"] == "bob.o-k"
    user("database db create", one, "extra")
    user("database user grant access", one, "bob.o-k", "extra")
    granted = user.json("database user show access", one, "bob.o-k")
    assert _names(granted) == {"shop", "extra"}
    user("database user revoke access", one, "bob.o-k", "extra")
    assert _names(user.json("database user show access", one, "bob.o-k")) == {"shop"}
    user("database user update attributes", one, "bob.o-k", "--new_name", "rob")
    user("database user delete", one, "rob")
    assert "rob" not in _names(user.json("database user list", one))
    user("database db delete", one, "extra")


def test_root_commands(user: Client, instance: dict[str, Any]) -> None:
    one = instance["id"]
    enabled = user.json("database root enable", one)
    assert enabled["name"] == "root"
    assert str(user.json("database root show", one)["is_root_enabled"]) == "True"
    user("database root disable", one)
    assert str(user.json("database root show", one)["is_root_enabled"]) == "False"


# -- configurations -----


def test_configuration_commands(user: Client, other: dict[str, Any]) -> None:
    one, version = other["id"], _version(user)
    group = user.json(
        "database configuration create",
        *("tuned", '{"max_connections": 99}', "--description", "for orders"),
        *("--datastore", "mariadb", "--datastore-version", version["Name"]),
    )
    assert json.loads(group["values"]) == {"max_connections": 99}
    (row,) = [r for r in user.json("database configuration list") if r["ID"] == group["id"]]
    assert row["Name"] == "tuned"
    assert row["Datastore Version Number"]
    assert user.json("database configuration show", "tuned")["id"] == group["id"]

    user("database configuration attach", one, group["id"])
    user.settle(one)
    attached = user.json("database configuration instances", group["id"])
    assert [each["ID"] for each in attached] == [one]
    user.refused("database configuration delete", group["id"], match="HTTP 400")

    # dynamic: at once; not dynamic: with the next restart
    user("database configuration parameter set", group["id"], '{"max_connections": 55}')
    user.healthy(one)
    user("database configuration set", group["id"], '{"back_log": 60}', "--name", "other")
    user.settle(one, status="RESTART_REQUIRED")
    user("database instance restart", one)
    user.healthy(one)
    shown = user.json("database configuration show", group["id"])
    assert (shown["name"], json.loads(shown["values"])) == ("other", {"back_log": 60})

    user("database configuration detach", one)
    user.settle(one, status="RESTART_REQUIRED")
    assert user.json("database configuration instances", group["id"]) == []
    user("database configuration delete", group["id"])
    user.refused("database configuration show", group["id"], match="No configuration|HTTP 404")


def test_configuration_values_are_checked(user: Client) -> None:
    create = "database configuration create"
    user.refused(create, "x", '{"max_connections": "many"}', match="max_connections")
    user.refused(create, "x", '{"no_such_thing": 1}', match="no_such_thing")
    user.refused(create, "x", '{"max_connections": 100000000}', match="max_connections")


def test_configuration_parameters_and_defaults(user: Client, instance: dict[str, Any]) -> None:
    version = _version(user)
    rows = user.json("database configuration parameter list", version["ID"])
    assert "max_connections" in _names(rows)
    by_name = user.json(
        "database configuration parameter list", version["Name"], "--datastore", "mariadb"
    )
    assert by_name == rows
    shown = user.json("database configuration parameter show", version["ID"], "max_connections")
    assert shown["type"] == "integer"
    assert shown["min"] < shown["max"]
    user.refused("database configuration parameter show", version["ID"], "nope", match="HTTP 404")
    defaults = user.json("database configuration default", instance["id"])
    assert int(defaults["max_connections"]) >= 64


# -- logs -----


def test_log_commands_publish_and_read_back(
    user: Client, admin: Client, instance: dict[str, Any], tmp_path: pathlib.Path
) -> None:
    one = instance["id"]
    listed = user.json("database log list", one)
    assert {"general", "slow_query"} <= _names(listed)
    assert {"error", "guest"} <= _names(admin.json("database log list", one))
    enabled = user.json("database log set", one, "general", "--enable")
    assert enabled["status"] in ("Enabled", "Ready")
    marker = f"marker_{uuid.uuid4().hex}"
    _query(instance, user, f"SELECT '{marker}'")
    published = user.json("database log set", one, "general", "--publish")
    assert published["published"] > 0
    assert published["container"]
    assert user.json("database log show", one, "general")["pending"] >= 0
    assert marker in str(user("database log tail", one, "general", "--lines", "200"))
    file = tmp_path / "general.log"
    user("database log save", one, "general", "--file", str(file))
    assert marker in file.read_text()
    user("database log set", one, "general", "--disable", "--discard")
    assert "No published" in str(user("database log tail", one, "general"))
    user.refused("database log set", one, "nope", "--enable", match="HTTP 400")


# -- TLS -----


def test_ssl_commands(user: Client, other: dict[str, Any]) -> None:
    one, address = other["id"], other["addresses"][0]["address"]
    shown = user.json("database ssl show", one, "--include-certificate")
    assert (shown["status"], shown["mode"]) == ("on", "builtin")
    user.refused("database ssl enable", one, "http://127.0.0.1:1/v1/secrets/nope", match="HTTP 400")
    user.refused("database ssl rollback", one, match="HTTP 400")
    bundle = TenantAuthority().bundle(address=address, password="passphrase")
    reference = _store(
        user,
        *("--payload-content-type", "application/octet-stream"),
        *("--payload-content-encoding", "base64"),
        *("--payload", base64.b64encode(bundle).decode()),
    )
    password = _store(user, "--payload", "passphrase")
    user.refused("database ssl enable", one, reference, match="HTTP 400")
    enabled = user.json(
        "database ssl enable", one, reference, "--mode", "enforced", "--password_ref", password
    )
    assert enabled["restart_required"] is False
    assert _mode(user, one, "enforced")["status"] == "on"
    user("database ssl disable", one)
    _mode(user, one, "builtin")
    user("database ssl rollback", one)
    _mode(user, one, "enforced")


def _store(user: Client, *args: str) -> str:
    """Store a secret with the key manager's own command; returns its reference."""
    return str(user.json("secret store", *args)["Secret href"])


def _mode(user: Client, instance_id: str, mode: str) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        seen = user.json("database ssl show", instance_id)
        is_done = seen["mode"] == mode and user.instance(instance_id)["operating_status"]
        return dict(seen) if is_done else None

    return wait_until(look, timeout_s=60, what=f"TLS mode {mode}") or {}


# -- catalog, quotas, limits -----


def test_flavor_and_limit_commands(user: Client) -> None:
    assert "db.small" in _names(user.json("database flavor list"))
    version = _version(user)
    associated = user.json(
        "database flavor list",
        *("--datastore-type", "mariadb", "--datastore-version-id", version["ID"]),
    )
    assert "db.small" in _names(associated)
    assert user.json("database flavor show", "db.small")["ram"] == 512
    # the client prints the absolute limits as a table before the list that was asked for
    text = user("database limit list", "-f", "json")
    assert "max_instances" in text
    rates = json.loads(text[text.index("[\n") :])
    assert {row["Verb"] for row in rates} == {"GET", "POST", "PUT", "DELETE"}


def test_quota_commands(user: Client, admin: Client) -> None:
    rows = {row["Resource"]: row for row in admin.json("database quota show", "demo")}
    assert set(rows) == {"instances", "ram", "volumes", "backups"}
    assert admin.json("database quota update", "demo", "backups", "7") == {"backups": 7}
    rows = {row["Resource"]: row for row in user.json("database quota show", "demo")}
    assert rows["backups"]["Limit"] == 7
    user.refused("database quota update", "demo", "backups", "8", match="HTTP 403")
    admin.refused("database quota update", "demo", "nonsense", "1", match="HTTP 404")


def test_datastore_commands(user: Client, admin: Client) -> None:
    (row,) = [r for r in user.json("datastore list") if r["Name"] == "mariadb"]
    assert user.json("datastore show", "mariadb")["id"] == row["ID"]
    version = _version(user)
    shown = user.json("datastore version show", version["Name"], "--datastore", "mariadb")
    assert shown["id"] == version["ID"]
    image = admin.json("datastore version show", version["ID"])["image"]
    admin(
        "datastore version create",
        *("next", "spare", "mariadb", image, "--active", "--version-number", "10.11.99"),
    )
    (made,) = admin.json("datastore version list", "spare")
    assert made["Name"] == "next"
    admin("datastore version set", made["ID"], "--disable", "--version-name", "renamed")
    assert "spare" not in _names(user.json("datastore list"))
    assert admin.json("datastore version show", made["ID"])["name"] == "renamed"
    admin.refused("datastore delete", "spare", match="HTTP 400")
    admin("datastore version delete", made["ID"])
    admin("datastore delete", "spare")
    admin.refused("datastore show", "spare", match="No datastore")
    user.refused("datastore delete", "mariadb", match="HTTP 403")


# -- backups -----


def _await_backup(user: Client, backup_id: str) -> dict[str, Any]:
    def completed() -> dict[str, Any] | None:
        shown: dict[str, Any] = user.json("database backup show", backup_id)
        assert shown["status"] != "FAILED", shown
        return shown if shown["status"] == "COMPLETED" else None

    return wait_until(completed, timeout_s=60, what=f"{backup_id} COMPLETED") or {}


def test_backup_commands(user: Client, instance: dict[str, Any]) -> None:
    assert user.json("database backup list") == []
    user.refused("database backup show", "b", match="No backup")
    made = user.json(
        "database backup create", "b", "-i", instance["id"], "--description", "of today"
    )
    full = _await_backup(user, made["id"])
    assert (full["name"], full["description"]) == ("b", "of today")
    assert full["instance_id"] == instance["id"]
    made = user.json(
        *("database backup create", "later", "-i", instance["id"]),
        *("--parent", full["id"], "--incremental"),
    )
    later = _await_backup(user, made["id"])
    assert later["parent_id"] == full["id"]
    assert _names(user.json("database backup list")) == {"b", "later"}
    rows = user.json("database backup list instance", instance["id"])
    assert {row["ID"] for row in rows} == {full["id"], later["id"]}
    # an increment is nothing without what it is of: both go
    user("database backup delete", full["id"])
    wait_until(lambda: user.json("database backup list") == [], timeout_s=60.0)
    user.refused("database backup delete", str(uuid.uuid4()), match="(?i)not found|404|fail")
    # the client asks Mistral, not this service
    user.refused("database backup execution delete", "x", match="(?s).")


def test_backup_strategy_commands(user: Client, instance: dict[str, Any]) -> None:
    made = user.json(
        "database backup strategy create",
        *("--instance-id", instance["id"], "--swift-container", "nightly"),
    )
    assert made["swift_container"] == "nightly"
    rows = user.json("database backup strategy list", "--instance-id", instance["id"])
    assert [row["Swift Container"] for row in rows] == ["nightly"]
    user("database backup strategy delete", "--instance-id", instance["id"])
    assert user.json("database backup strategy list", "--instance-id", instance["id"]) == []


# -- what no engine can do here yet -----


def test_cluster_commands_refuse_politely(user: Client, admin: Client) -> None:
    some = str(uuid.uuid4())
    missing = "No cluster|HTTP 404"
    assert user.json("database cluster list") == []
    user.refused(
        "database cluster create",
        *("c", "mariadb", _version(user)["Name"]),
        *("--instance", "flavor=1,volume=1", "--instance", "flavor=1,volume=1"),
        *("--instance", "flavor=1,volume=1"),
        match="HTTP 501",
    )
    user.refused("database cluster show", some, match=missing)
    user.refused("database cluster list instances", some, match=missing)
    user.refused("database cluster modules", some, match=missing)
    user.refused("database cluster delete", some, match=missing)
    user.refused("database cluster force delete", some, match=missing)
    user.refused("database cluster grow", some, "--instance", "flavor=1,volume=1", match=missing)
    user.refused("database cluster shrink", some, some, match="No (cluster|instance)|HTTP 404")
    user.refused("database cluster upgrade", some, "v", match=missing)
    admin.refused("database cluster reset status", some, match=missing)
