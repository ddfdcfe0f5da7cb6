"""The Python API of python-troveclient, which the dashboard and the legacy command line use.

The client is the real one, over HTTP; behind the API is the fake guest. Every manager that has
routes to talk to is used; those whose routes ended long ago must see a plain 404.
"""

from __future__ import annotations

import datetime
import pathlib
from collections.abc import Iterator
from typing import Any

import bcrypt
import pytest
from keystoneauth1 import session
from keystoneauth1.identity import generic
from troveclient import exceptions
from troveclient.v1 import client as trove_client

from tests.fixtures import api as api_fixture
from tests.fixtures import served
from trove import states
from trove.db import backups, base
from trove.storage import filesystem

_PASSWORD = "s3cret"


def _line(name: str, project: str, roles: str) -> str:
    digest = bcrypt.hashpw(_PASSWORD.encode(), bcrypt.gensalt(4)).decode()
    return f"{name}:{digest}:{project}:{roles}\n"


@pytest.fixture
def api(sqlite_database: base.Database, tmp_path: pathlib.Path) -> api_fixture.Api:
    users = tmp_path / "htpasswd"
    users.write_text(_line("joe", "project-a", "member") + _line("ops", "admin", "admin"))
    made = api_fixture.make_api(
        sqlite_database,
        auth_strategy="http_basic",
        http_basic_auth_user_file=str(users),
        embedded_services=True,
        start=datetime.datetime.now(datetime.UTC),
        objects=filesystem.FilesystemStore(tmp_path / "objects"),
    )
    made.add_datastore()
    return made


@pytest.fixture
def url(api: api_fixture.Api) -> Iterator[str]:
    with served.serve(api.wsgi) as url:
        yield url


def _client(url: str, user: str, project: str) -> Any:
    auth = generic.Password(
        auth_url=f"{url}/identity/v3",
        username=user,
        password=_PASSWORD,
        project_name=project,
        user_domain_id="default",
        project_domain_id="default",
    )
    return trove_client.Client(session=session.Session(auth=auth), auth=auth)


@pytest.fixture
def client(url: str) -> Any:
    return _client(url, "joe", "project-a")


@pytest.fixture
def admin(url: str) -> Any:
    return _client(url, "ops", "admin")


@pytest.fixture
def instance(api: api_fixture.Api, client: Any) -> Any:
    made = client.instances.create(
        "orders",
        flavor_id="1",
        volume={"size": 1, "type": None},
        datastore="mariadb",
        datastore_version="10.11",
        access={"is_public": False},
        locality="affinity",
    )
    assert made.status == "BUILD"
    assert made.locality == "affinity"
    api.make_active(made.id)
    return client.instances.get(made.id)


# -- instances, as the dashboard's tables, workflows and actions use them -----


def test_instances_are_listed_and_shown(client: Any, instance: Any) -> None:
    (listed,) = client.instances.list(limit=10, include_clustered=False)
    assert (listed.id, listed.status, listed.operating_status) == (
        instance.id,
        "ACTIVE",
        "HEALTHY",
    )
    # what the dashboard's rows read without asking again
    assert listed.datastore["type"] == "mariadb"
    assert listed.flavor["id"] == "1"
    assert listed.volume["size"] == 1
    assert listed.access == {"is_public": False}
    assert not hasattr(instance, "replica_of")
    assert not hasattr(instance, "configuration")
    (detailed,) = client.instances.list(detailed=True)
    assert detailed.created
    assert client.instances.find(name="orders").id == instance.id


def test_pages_end_without_a_next_marker(client: Any, instance: Any) -> None:
    client.instances.create("second", flavor_id="1", volume={"size": 1})
    first = client.instances.list(limit=1)
    assert first.next
    second = client.instances.list(limit=1, marker=first.next)
    assert {first[0].id, second[0].id} >= {instance.id}
    assert second.next is None


def test_instance_is_renamed_and_its_access_changed_at_once(
    api: api_fixture.Api, client: Any, instance: Any
) -> None:
    # the dashboard sends both together
    client.instances.update(instance.id, name="renamed", allowed_cidrs=["10.0.0.0/8"])
    seen = client.instances.get(instance.id)
    assert seen.name == "renamed"
    api.make_active(instance.id)
    client.instances.update(instance.id, is_public=True)


@pytest.mark.parametrize(
    ("method", "arguments", "status"),
    [
        ("restart", (), "REBOOT"),
        ("resize_volume", (2,), "RESIZE"),
        ("resize_instance", ("2",), "RESIZE"),
    ],
)
def test_actions_show_at_once(
    client: Any, instance: Any, method: str, arguments: tuple[Any, ...], status: str
) -> None:
    getattr(client.instances, method)(instance.id, *arguments)
    assert client.instances.get(instance.id).status == status
    with pytest.raises(exceptions.UnprocessableEntity):
        client.instances.restart(instance.id)


def test_replica_actions_refuse_what_is_no_replica(client: Any, instance: Any) -> None:
    for refuse in (
        lambda: client.instances.promote_to_replica_source(instance.id),
        lambda: client.instances.eject_replica_source(instance.id),
        lambda: client.instances.update(instance.id, detach_replica_source=True),
        lambda: client.instances.upgrade(instance.id, "no such version"),
    ):
        with pytest.raises(exceptions.BadRequest):
            refuse()


def test_force_delete_is_an_administrator_s(
    api: api_fixture.Api, client: Any, admin: Any, instance: Any
) -> None:
    with pytest.raises(exceptions.Forbidden):
        client.instances.force_delete(instance.id)
    # across projects, by the administrator's own URL
    admin.instances.force_delete(instance.id)
    assert client.instances.get(instance.id).status == "SHUTDOWN"


def test_instance_backups_and_default_configuration(client: Any, instance: Any) -> None:
    assert list(client.instances.backups(instance.id)) == []
    defaults = client.instances.configuration(instance.id).configuration
    assert int(defaults["max_connections"]) >= 64


# -- databases, users, root -----


def test_databases_users_and_root(client: Any, instance: Any) -> None:
    client.databases.create(instance.id, [{"name": "shop", "character_set": "utf8mb4"}])
    assert [each.name for each in client.databases.list(instance.id)] == ["shop"]
    client.users.create(
        instance.id,
        [{"name": "a.b", "password": "pw-pw-pw", "host": "10.0.0.%", "databases": []}],
    )
    (user,) = client.users.list(instance.id)
    assert (user.name, user.host) == ("a.b", "10.0.0.%")
    assert client.users.get(instance.id, "a.b", hostname="10.0.0.%").name == "a.b"
    client.users.grant(instance.id, "a.b", ["shop"], hostname="10.0.0.%")
    access = client.users.list_access(instance.id, "a.b", hostname="10.0.0.%")
    assert [each.name for each in access] == ["shop"]
    client.users.revoke(instance.id, "a.b", "shop", hostname="10.0.0.%")
    client.users.change_passwords(
        instance.id, [{"name": "a.b", "host": "10.0.0.%", "password": "new-pw"}]
    )
    client.users.update_attributes(instance.id, "a.b", {"name": "c"}, hostname="10.0.0.%")
    client.users.delete(instance.id, "c", hostname="10.0.0.%")
    assert list(client.users.list(instance.id)) == []
    client.databases.delete(instance.id, "shop")

    name, password = client.root.create(instance.id)
    assert (name, bool(password)) == ("root", True)
    assert client.root.create_instance_root(instance.id, "own-Password1")[1] == "own-Password1"
    assert client.root.is_instance_root_enabled(instance.id).rootEnabled is True
    client.root.delete(instance.id)
    assert client.root.is_root_enabled(instance.id).rootEnabled is False


# -- configurations -----


def test_configurations(api: api_fixture.Api, client: Any, instance: Any) -> None:
    group = client.configurations.create(
        "g", '{"max_connections": 99}', description="d", datastore="mariadb"
    )
    assert group.values == {"max_connections": 99}
    (listed,) = client.configurations.list()
    # the columns of the list; one that is missing costs a request a row
    assert listed.to_dict()["datastore_version_number"]
    client.instances.modify(instance.id, configuration=group.id)
    api.make_active(instance.id)
    assert client.instances.get(instance.id).configuration["id"] == group.id
    (attached,) = client.configurations.instances(group.id)
    assert attached.id == instance.id
    client.configurations.edit(group.id, '{"connect_timeout": 17}')
    assert client.configurations.get(group.id).values == {
        "max_connections": 99,
        "connect_timeout": 17,
    }
    client.configurations.update(group.id, '{"max_connections": 70}', "renamed", "e")
    assert client.configurations.get(group.id).values == {"max_connections": 70}
    api.make_active(instance.id)
    with pytest.raises(exceptions.BadRequest):
        client.configurations.delete(group.id)
    client.instances.update(instance.id, remove_configuration=True)
    api.make_active(instance.id)
    client.configurations.delete(group.id)
    with pytest.raises(exceptions.NotFound):
        client.configurations.get(group.id)


def test_configuration_parameters(client: Any, admin: Any) -> None:
    (version,) = client.datastore_versions.list("mariadb")
    parameters = client.configuration_parameters
    by_name = parameters.parameters("mariadb", version.name)
    assert {each.name for each in by_name} >= {"max_connections"}
    assert len(parameters.parameters_by_version(version.id)) == len(by_name)
    one = parameters.get_parameter("mariadb", version.id, "max_connections")
    assert (one.type, one.restart_required) == ("integer", False)
    assert parameters.get_parameter_by_version(version.id, "max_connections").max == one.max


# -- datastores, flavors, limits, quotas -----


def test_datastores_flavors_limits(client: Any) -> None:
    (store,) = client.datastores.list()
    assert client.datastores.get(store.id).name == "mariadb"
    (version,) = client.datastore_versions.list(store.name)
    assert client.datastore_versions.get(store.name, version.name).id == version.id
    assert client.datastore_versions.get_by_uuid(version.id).name == version.name
    flavors = client.flavors.list()
    assert client.flavors.get(flavors[0].str_id).name == flavors[0].name
    associated = client.flavors.list_datastore_version_associated_flavors(store.id, version.id)
    assert len(associated) == len(flavors)
    types = client.volume_types.list_datastore_version_associated_volume_types(store.id, version.id)
    assert isinstance(list(types), list)
    absolute, *_rates = client.limits.list()
    assert absolute.verb == "ABSOLUTE"


def test_quotas(client: Any, admin: Any) -> None:
    assert {each.resource for each in client.quota.show("project-a")} >= {"instances", "ram"}
    assert admin.quota.update("project-a", {"instances": 3}) == {"instances": 3}
    limits = {each.resource: each.limit for each in client.quota.show("project-a")}
    assert limits["instances"] == 3
    with pytest.raises(exceptions.Forbidden):
        client.quota.update("project-a", {"instances": 4})


# -- modules -----


def test_modules(client: Any, admin: Any, instance: Any) -> None:
    made = client.modules.create("greeting", "ping", b"message=hello", datastore="mariadb")
    assert made.md5
    assert client.modules.get(made.id).instance_count == 0
    assert [each.id for each in client.modules.list()] == [made.id]
    assert [each.id for each in client.modules.list(datastore="mariadb")] == [made.id]
    changed = client.modules.update(made.id, description="d", module_type="ping")
    assert changed.description == "d"
    assert list(client.modules.instances(made.id)) == []
    client.modules.reapply(made.id)
    assert made.id in {each.id for each in admin.modules.list()}
    with pytest.raises(exceptions.Forbidden):
        client.modules.create("a", "ping", b"message=a", auto_apply=True)
    client.modules.delete(made.id)
    with pytest.raises(exceptions.NotFound):
        client.modules.get(made.id)


def test_modules_of_an_instance(client: Any, instance: Any, tmp_path: pathlib.Path) -> None:
    made = client.modules.create("greeting", "ping", b"message=hello")
    (applied,) = client.instances.module_apply(instance.id, [made.id])
    assert (applied.name, applied.status) == ("greeting", "OK")
    assert [each.id for each in client.instances.modules(instance.id)] == [made.id]
    assert [each.md5 for each in client.instances.module_query(instance.id)] == [made.md5]
    saved = client.instances.module_retrieve(instance.id, directory=str(tmp_path))
    (file,) = saved.values()
    assert pathlib.Path(file).read_bytes() == b"message=hello"
    (count,) = client.modules.instances(made.id, count_only=True)
    assert count.instance_count == 1
    with pytest.raises(exceptions.Forbidden):
        client.modules.delete(made.id)
    client.instances.module_remove(instance.id, made.id)
    assert list(client.instances.modules(instance.id)) == []


# -- logs and TLS -----


def test_logs_and_tls(client: Any, instance: Any) -> None:
    assert {each.name for each in client.instances.log_list(instance.id)} >= {"general"}
    shown = client.instances.log_action(instance.id, "general", enable=True)
    assert shown.status in ("Enabled", "Ready")
    assert client.instances.log_show(instance.id, "general").name == "general"
    assert client.instances.ssl_show(instance.id).mode == "builtin"
    with pytest.raises(exceptions.BadRequest):
        client.instances.ssl_enable(instance.id, "basic", "http://127.0.0.1/v1/secrets/nope")
    with pytest.raises(exceptions.BadRequest):
        client.instances.ssl_rollback(instance.id)


# -- administration -----


def test_management_of_instances(api: api_fixture.Api, admin: Any, instance: Any) -> None:
    (listed,) = admin.mgmt_instances.list(deleted=False)
    assert (listed.id, listed.tenant_id) == (instance.id, "project-a")
    shown = admin.mgmt_instances.show(instance.id)
    assert shown.task_description == "No tasks for the instance."
    assert admin.mgmt_instances.root_enabled_history(instance.id).enabled == "Never"
    admin.mgmt_instances.reboot(instance.id)
    assert admin.mgmt_instances.show(instance.id).status == "REBOOT"
    admin.mgmt_instances.reset_task_status(instance.id)
    assert admin.mgmt_instances.show(instance.id).status == "ACTIVE"
    with pytest.raises(exceptions.BadRequest):
        admin.mgmt_instances.update(instance.id)


def test_management_is_closed_to_members(client: Any, instance: Any) -> None:
    for refused in (
        lambda: client.mgmt_instances.list(),
        lambda: client.mgmt_instances.show(instance.id),
        lambda: client.mgmt_instances.stop(instance.id),
        lambda: client.mgmt_ds_versions.list(),
    ):
        with pytest.raises(exceptions.Forbidden):
            refused()


def test_management_of_datastore_versions(api: api_fixture.Api, admin: Any, client: Any) -> None:
    image = api.images.import_image(manager="mariadb", name="m", file=None, image_id=None)
    admin.mgmt_ds_versions.create(
        "11.4", "mariadb", "mariadb", image.id, active="true", version="11.4.2"
    )
    by_name = {each.name: each for each in admin.mgmt_ds_versions.list()}
    made = admin.mgmt_ds_versions.get(by_name["11.4"].id)
    assert made.version == "11.4.2"
    admin.mgmt_ds_versions.edit(made.id, active="false")
    assert "11.4" not in {each.name for each in client.datastore_versions.list("mariadb")}
    admin.mgmt_ds_versions.delete(made.id)
    with pytest.raises(exceptions.BadRequest):
        admin.mgmt_ds_versions.get(made.id)


# -- backups -----


def _end(api: api_fixture.Api, backup_id: str, instance_id: str) -> None:
    """Let a backup be as after it was made, a second later."""
    api.clock.advance(1)
    with api.database.writer() as session:
        for to in (states.BackupStatus.SAVING, states.BackupStatus.COMPLETED):
            backups.change_status(
                session,
                backup_id,
                expect=backups.TRANSITIONS[to],
                to=to,
                stored_bytes=2**29,
                now=api.clock.now(),
            )
    api.make_active(instance_id)


def test_backups(api: api_fixture.Api, client: Any, instance: Any) -> None:
    assert list(client.backups.list()) == []
    full = client.backups.create("full", instance.id, description="mine", swift_container="box")
    assert (full.status, full.size, full.locationRef, full.parent_id) == ("NEW", None, None, None)
    assert client.instances.get(instance.id).status == "BACKUP"
    with pytest.raises(exceptions.UnprocessableEntity):
        client.backups.create("another", instance.id)
    with pytest.raises(exceptions.UnprocessableEntity):
        client.backups.delete(full.id)
    _end(api, full.id, instance.id)
    increment = client.backups.create(
        "increment", instance, incremental=True, storage_driver="filesystem"
    )
    assert increment.parent_id == full.id
    _end(api, increment.id, instance.id)
    found = client.backups.get(full.id)
    assert (found.status, found.size) == ("COMPLETED", 0.5)
    assert found.datastore["type"] == "mariadb"
    page = client.backups.list(limit=1)
    assert [each.name for each in page] == ["increment"]
    rest = client.backups.list(limit=1, marker=page.next)
    assert [each.name for each in rest] == ["full"]
    assert rest.next is None
    for listed in (
        client.backups.list(instance_id=instance.id),
        client.backups.list(datastore="mariadb"),
        client.instances.backups(instance.id),
    ):
        assert [each.name for each in listed] == ["increment", "full"]
    client.backups.delete(full)
    with pytest.raises(exceptions.BadRequest):
        client.backups.create(
            "r",
            None,
            restore_from="box/nothing",
            restore_ds_version=found.datastore["version_id"],
            restore_size=1,
        )
    with pytest.raises(exceptions.NotFound):
        client.backups.get("8f4b7b3e-56b0-4b2c-9d0f-0a5b54c38ad8")


# -- what no engine can do here yet -----


def test_strategies_and_clusters(client: Any, instance: Any) -> None:
    made = client.backup_strategies.create(swift_container="c")
    assert (made.project_id, made.instance_id) == ("project-a", "")
    # the dashboard joins both ids
    client.backup_strategies.delete(project_id=f"{made.project_id}{made.instance_id}")
    assert list(client.backup_strategies.list()) == []
    assert list(client.clusters.list()) == []
    with pytest.raises(exceptions.NotFound):
        client.clusters.get("8f4b7b3e-56b0-4b2c-9d0f-0a5b54c38ad8")


def test_routes_that_ended_long_ago_are_not_found(client: Any, instance: Any) -> None:
    for ended in (
        lambda: client.security_groups.list(),
        lambda: client.security_groups.get("x"),
        lambda: client.metadata.list(instance.id),
        lambda: client.volume_types.list(),
    ):
        with pytest.raises(exceptions.NotFound):
            ended()


def test_fault_is_readable(api: api_fixture.Api, client: Any, instance: Any) -> None:
    api.set_instance(
        instance.id,
        task=states.TaskStatus.BUILDING_ERROR_SERVER,
        fault_message="It failed.",
        fault_details="secret of the operator",
        fault_created=api.clock.now(),
    )
    seen = client.instances.get(instance.id)
    assert seen.status == "ERROR"
    assert seen.fault["message"] == "It failed."
    assert seen.fault["details"] is None
