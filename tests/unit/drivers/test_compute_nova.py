"""The compute driver of Nova on a stand-in: what is asked for, what answers mean, what is told."""

from __future__ import annotations

import configparser
import dataclasses
import json
import pathlib
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from oslo_config import cfg

from tests.fixtures import cloud as standin_cloud
from tests.fixtures.cloud.fixtures import cloud_conf, make_conf, standin_servers, standins
from tests.fixtures.cloud.nova import Nova
from tests.fixtures.local import server_spec
from trove import states
from trove.common import exception
from trove.drivers import cloud
from trove.drivers.compute.base import ServerSpec
from trove.drivers.compute.nova import NovaCompute

__all__ = ["cloud_conf", "standin_servers", "standins"]

Status = states.ServerStatus
SERVERS = r"/v2\.1/servers$"
NEVER = "00000000-0000-4000-8000-000000000000"


@pytest.fixture
def nova(standins: standin_cloud.StandInCloud) -> Nova:
    made: Nova = standins.find("compute")
    return made


@pytest.fixture
def driver(cloud_conf: cfg.ConfigOpts, nova: Nova) -> NovaCompute:
    return NovaCompute(cloud_conf)


def make_spec(driver: NovaCompute, **changes: Any) -> ServerSpec:
    values = {"flavor": driver.list_flavors()[0], "port_id": str(uuid.uuid4())}
    return server_spec(**(values | changes))


def boot(driver: NovaCompute, nova: Nova, **changes: Any) -> ServerSpec:
    """Make a server that is ACTIVE."""
    spec = make_spec(driver, **changes)
    driver.create_server(spec)
    nova.put(spec.instance_id, "active")
    return spec


def server_id(driver: NovaCompute, spec: ServerSpec) -> str:
    server = driver.find_server(spec.instance_id)
    assert server is not None
    return server.id


def status(driver: NovaCompute, spec: ServerSpec) -> Status:
    server = driver.find_server(spec.instance_id)
    assert server is not None
    return server.status


# -- what is asked for -----


def test_a_server_is_made_with_ports_volume_config_drive_and_tags(
    driver: NovaCompute, nova: Nova
) -> None:
    spec = make_spec(driver, management_port_id="management", volume_id="v" * 36)
    driver.create_server(spec)
    (request,) = [each for each in nova.requests if each.method == "POST"]
    asked = request.body["server"]
    # the one to the guest bus is the first
    assert asked["networks"] == [{"port": "management"}, {"port": spec.port_id}]
    assert asked["config_drive"] is True
    image, volume = asked["block_device_mapping_v2"]
    assert (image["uuid"], image["boot_index"]) == (spec.image_id, 0)
    assert (volume["uuid"], volume["boot_index"]) == (spec.volume_id, -1)
    assert volume["delete_on_termination"] is False
    assert asked["tags"] == ["trove", f"trove-instance-{spec.instance_id}"]
    assert asked["metadata"] == {
        "trove_instance_id": spec.instance_id,
        "trove_project_id": spec.project_id,
    }
    assert asked["name"] == f"trove-{spec.instance_id}"
    assert not {"key_name", "availability_zone", "personality"} & set(asked)
    assert "os:scheduler_hints" not in request.body
    assert request.headers["openstack-api-version"] == "compute 2.90"


def test_the_agents_files_go_as_one_document_of_user_data(driver: NovaCompute, nova: Nova) -> None:
    conf = "[guest]\ntransport_url = rabbit://u:p$$w@h/v\n[guestagent]\ninstance_id = x\n"
    spec = make_spec(
        driver, volume_id="some-volume", files={"guest.conf": conf, "instance.key": "a2V5"}
    )
    driver.create_server(spec)
    document = json.loads(nova.server_of(spec.instance_id).user_data)
    assert document["trove"] == 1
    assert set(document["files"]) == {"guest.conf", "instance.key"}
    assert document["files"]["instance.key"] == "a2V5"
    parser = configparser.RawConfigParser()
    parser.read_string(document["files"]["guest.conf"])
    assert dict(parser["guest"]) == {"transport_url": "rabbit://u:p$$w@h/v"}
    assert dict(parser["guestagent"]) == {
        "instance_id": "x",
        "bind_address": spec.address,
        "volume_id": "some-volume",
    }


def test_files_that_do_not_fit_are_told_before_anything_is_made(
    driver: NovaCompute, nova: Nova
) -> None:
    spec = make_spec(driver, files={"guest.conf": "", "large": "x" * 50_000})
    with pytest.raises(cloud.CloudError, match="at most 65535") as told:
        driver.create_server(spec)
    assert not told.value.retryable
    assert nova.servers == {}


def test_the_operator_names_zone_key_pair_and_servers(
    standins: standin_cloud.StandInCloud, nova: Nova, tmp_path: pathlib.Path
) -> None:
    more = "[nova]\navailability_zone = az1\nkeypair = ops\nserver_name = db-{name}-{project_id}\n"
    driver = NovaCompute(make_conf(standins, tmp_path, more=more))
    first, second = make_spec(driver), make_spec(driver, availability_zone="az2")
    for spec in (first, second):
        driver.create_server(spec)
    asked = [nova.server_of(spec.instance_id).values for spec in (first, second)]
    assert [each["availability_zone"] for each in asked] == ["az1", "az2"]
    assert {(each["key_name"], each["name"]) for each in asked} == {("ops", "db-db1-p1")}


@pytest.mark.parametrize("template", ["{flavor}", "{", "{0}", "{name.x}"])
def test_a_name_of_servers_that_cannot_be_made_is_told_at_start(
    cloud_conf: cfg.ConfigOpts, template: str
) -> None:
    cloud_conf.set_override("server_name", template, group="nova")
    with pytest.raises(exception.ConfigurationError, match="server_name"):
        NovaCompute(cloud_conf)


def test_a_users_zone_cannot_name_a_host(driver: NovaCompute, nova: Nova) -> None:
    with pytest.raises(cloud.CloudError, match="no availability zone nova:host-2"):
        driver.create_server(make_spec(driver, availability_zone="nova:host-2"))
    assert nova.servers == {}


@pytest.mark.parametrize("flavor_id", ["../servers", "1?x=y", "", "1/2"])
def test_a_flavors_id_is_no_path(driver: NovaCompute, nova: Nova, flavor_id: str) -> None:
    with pytest.raises(exception.FlavorNotFound):
        driver.get_flavor(flavor_id)
    assert nova.requests == []


# -- finding -----


def test_finding_and_listing_are_one_request_each(driver: NovaCompute, nova: Nova) -> None:
    specs = [boot(driver, nova) for _ in range(3)]
    nova.requests.clear()
    assert driver.find_server(specs[1].instance_id) is not None
    assert driver.find_server(NEVER) is None
    assert len(driver.list_servers()) == 3
    assert [(each.method, each.path) for each in nova.requests] == [
        ("GET", "/v2.1/servers/detail")
    ] * 3


def test_a_list_has_all_pages(driver: NovaCompute, nova: Nova) -> None:
    nova.page_size = 2
    specs = [make_spec(driver) for _ in range(5)]
    for spec in specs:
        driver.create_server(spec)
    nova.requests.clear()
    found = driver.list_servers()
    assert {each.instance_id for each in found} == {spec.instance_id for spec in specs}
    assert len(found) == 5
    assert len(nova.requests) == 3
    for number in range(3, 8):
        nova.add_flavor(str(number), f"f{number}", ram=64 * number)
    assert len(driver.list_flavors()) == 7


def test_servers_of_others_are_nobodys(driver: NovaCompute, nova: Nova) -> None:
    spec = boot(driver, nova)
    stranger = nova.server_of(boot(driver, nova).instance_id)
    stranger.values["tags"] = []
    assert [each.instance_id for each in driver.list_servers()] == [spec.instance_id]


def test_what_changed_is_told_by_the_list(driver: NovaCompute, nova: Nova) -> None:
    spec = boot(driver, nova)
    (before,) = driver.list_servers()
    assert driver.list_servers()[0].changed == before.changed
    nova.put(spec.instance_id, "active", "powering-off")
    assert driver.list_servers()[0].changed != before.changed


# -- states -----


@pytest.mark.parametrize(
    ("vm_state", "task_state", "expected"),
    [
        ("active", None, Status.ACTIVE),
        ("active", "powering-off", Status.ACTIVE),
        ("active", "rebooting", Status.REBOOT),
        ("active", "rebooting_hard", Status.REBOOT),
        ("active", "resize_prep", Status.RESIZE),
        ("active", "resize_finish", Status.RESIZE),
        # a live migration may fail and stay: it has ended when it is ACTIVE
        ("active", "migrating", Status.RESIZE),
        ("resized", None, Status.VERIFY_RESIZE),
        ("resized", "resize_reverting", Status.RESIZE),
        ("stopped", None, Status.SHUTOFF),
        # nobody must start it again
        ("stopped", "powering-on", Status.REBOOT),
        ("building", "networking", Status.BUILD),
        ("error", None, Status.ERROR),
        ("active", "deleting", Status.UNKNOWN),
        ("paused", None, Status.UNKNOWN),
        ("suspended", None, Status.UNKNOWN),
        ("shelved_offloaded", None, Status.UNKNOWN),
        ("rescued", None, Status.UNKNOWN),
    ],
)
def test_novas_words_mean(
    driver: NovaCompute, nova: Nova, vm_state: str, task_state: str | None, expected: Status
) -> None:
    spec = boot(driver, nova)
    nova.put(spec.instance_id, vm_state, task_state)
    assert status(driver, spec) is expected
    assert [each.status for each in driver.list_servers()] == [expected]


def test_a_server_that_an_administrator_paused_says_so(driver: NovaCompute, nova: Nova) -> None:
    spec = boot(driver, nova)
    nova.put(spec.instance_id, "paused")
    server = driver.find_server(spec.instance_id)
    assert server is not None
    assert server.fault is not None
    assert "PAUSED" in server.fault


def test_a_server_without_a_host_tells_service_cause_request_and_remedy(
    driver: NovaCompute, nova: Nova
) -> None:
    nova.fail_next("No valid host was found. ")
    spec = make_spec(driver)
    assert driver.create_server(spec).status is Status.BUILD
    driver.find_server(spec.instance_id)
    server = driver.find_server(spec.instance_id)
    assert server is not None
    assert server.status is Status.ERROR
    request_id = nova.server_of(spec.instance_id).actions[0]["request_id"]
    assert server.fault == (
        f"Nova failed to create the server: No valid host was found (request {request_id})."
        " Choose a smaller flavor or another availability zone, or have the operator add capacity"
    )
    # the list has neither
    assert [each.fault for each in driver.list_servers()] == [None]
    # without the request id it is told still
    nova.refuse("GET", "os-instance-actions", 500)
    server = driver.find_server(spec.instance_id)
    assert server is not None
    assert server.fault is not None
    assert "No valid host" in server.fault


# -- replies that are lost, and twins -----


@pytest.mark.parametrize("times", [1, 2])
def test_a_server_whose_reply_was_lost_is_found(
    driver: NovaCompute, nova: Nova, times: int
) -> None:
    spec = make_spec(driver)
    nova.lose_reply("POST", SERVERS, times=times)
    made = driver.create_server(spec)
    assert list(nova.servers) == [made.id]
    assert driver.create_server(spec).id == made.id
    assert nova.count("POST", SERVERS) == 1


def test_a_server_that_was_made_although_nova_said_500_is_found(
    driver: NovaCompute, nova: Nova
) -> None:
    spec = make_spec(driver)
    nova.refuse("POST", SERVERS, 500, after=True)
    assert driver.create_server(spec).id in nova.servers


def test_a_request_that_was_dropped_may_be_tried_again(driver: NovaCompute, nova: Nova) -> None:
    spec = make_spec(driver)
    nova.drop("POST", SERVERS)
    with pytest.raises(cloud.CloudUnavailable, match="Nova failed to create a server") as told:
        driver.create_server(spec)
    assert told.value.retryable
    assert driver.create_server(spec).id in nova.servers


def test_of_two_servers_the_oldest_stays_whoever_made_it(
    driver: NovaCompute, nova: Nova, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec(driver)
    older = driver.create_server(spec)
    # the other one did not see it, and ports differ
    real = driver._find
    answers: list[Callable[[str], Any]] = [lambda _: None]
    monkeypatch.setattr(driver, "_find", lambda each: (answers.pop() if answers else real)(each))
    kept = driver.create_server(dataclasses.replace(spec, port_id="another"))
    assert kept.id == older.id
    assert len(nova.servers) == 2
    for _ in range(2):
        assert driver.find_server(spec.instance_id) is not None
    assert list(nova.servers) == [older.id]


def test_a_server_that_is_going_is_found_until_it_is_gone(driver: NovaCompute, nova: Nova) -> None:
    spec = boot(driver, nova)
    driver.delete_server(server_id(driver, spec))
    found = driver.find_server(spec.instance_id)
    assert found is not None
    # asked again it asks for nothing more
    driver.delete_server(found.id)
    assert nova.count("POST", "action") == 1
    assert driver.find_server(spec.instance_id) is None


# -- refusals -----


def test_a_quota_of_the_cloud_is_told_with_request_and_remedy(
    driver: NovaCompute, nova: Nova
) -> None:
    nova.max_servers = 0
    with pytest.raises(cloud.CloudQuotaExceeded) as told:
        driver.create_server(make_spec(driver))
    assert not told.value.retryable
    assert told.value.message.startswith(
        "Nova failed to create a server with flavor db.tiny: Quota exceeded for instances"
    )
    assert told.value.request_id in nova.request_ids
    assert f"(request {told.value.request_id})" in told.value.message
    assert "The operator raises this service's quota in Nova" in told.value.message


def test_nova_that_is_down_may_be_tried_again(driver: NovaCompute, nova: Nova) -> None:
    spec = boot(driver, nova)
    calls: list[Callable[[], object]] = [
        driver.list_flavors,
        driver.list_servers,
        lambda: driver.find_server(spec.instance_id),
        lambda: driver.create_server(spec),
        lambda: driver.start_server(NEVER),
        lambda: driver.attach_volume(NEVER, NEVER),
        lambda: driver.detach_volume(NEVER, NEVER),
    ]
    with nova.down():
        for call in calls:
            with pytest.raises(cloud.CloudUnavailable, match=r"Nova failed to .*request req-"):
                call()
    with nova.unreachable():
        for call in calls:
            with pytest.raises(cloud.CloudUnavailable, match=r"Nova failed to .*ConnectFailure"):
                call()


def test_nova_that_does_not_answer_in_time_may_be_tried_again(
    cloud_conf: cfg.ConfigOpts, nova: Nova
) -> None:
    cloud_conf.set_override("timeout", 1, group="service_credentials")
    driver = NovaCompute(cloud_conf)
    nova.delay("GET", "/servers/detail", 1.5)
    with pytest.raises(cloud.CloudUnavailable, match=r"list servers: .*Time"):
        driver.find_server(NEVER)


def test_a_token_that_is_no_longer_valid_is_renewed(
    driver: NovaCompute, standins: standin_cloud.StandInCloud
) -> None:
    driver.list_servers()
    standins.identity.revoke_all()
    assert driver.list_servers() == []


def test_an_endpoint_that_is_not_in_the_catalog_is_told(
    cloud_conf: cfg.ConfigOpts, nova: Nova
) -> None:
    cloud_conf.set_override("region_name", "Elsewhere", group="service_credentials")
    with pytest.raises(cloud.CloudError, match="not in the catalog") as told:
        NovaCompute(cloud_conf).list_servers()
    assert not told.value.retryable


@pytest.mark.parametrize("held", ["port_id", "volume_id"])
def test_what_the_server_before_has_still_is_waited_for(
    driver: NovaCompute, nova: Nova, held: str
) -> None:
    before = boot(driver, nova, volume_id="v1")
    with pytest.raises(cloud.CloudUnavailable, match="port or volume is still in use"):
        driver.create_server(make_spec(driver, **{held: getattr(before, held)}))


# -- starting, stopping, resizing -----


def test_what_is_done_already_is_not_asked_for_again(driver: NovaCompute, nova: Nova) -> None:
    spec = boot(driver, nova)
    target = server_id(driver, spec)
    small, large = driver.list_flavors()
    calls: list[Callable[[], None]] = [
        lambda: driver.start_server(target),
        lambda: driver.resize_server(target, small),
        lambda: driver.confirm_resize(target),
        lambda: driver.revert_resize(target),
        lambda: driver.migrate_server(target, "host-1"),
    ]
    for call in calls:
        call()
    nova.put(spec.instance_id, "stopped")
    driver.stop_server(target)
    nova.put(spec.instance_id, "active", "powering-off")
    driver.stop_server(target)
    nova.put(spec.instance_id, "stopped", "powering-on")
    driver.start_server(target)
    nova.put(spec.instance_id, "active", "resize_prep")
    driver.resize_server(target, large)
    driver.migrate_server(target, None)
    nova.put(spec.instance_id, "active", "rebooting")
    driver.reboot_server(target)
    assert nova.count("POST", "/action$") == 0


def test_what_another_has_begun_a_moment_ago_is_no_error(driver: NovaCompute, nova: Nova) -> None:
    spec = boot(driver, nova)
    target = server_id(driver, spec)
    calls: list[tuple[str, Callable[[], None]]] = [
        ("stopped", lambda: driver.start_server(target)),
        ("active", lambda: driver.stop_server(target)),
        ("active", lambda: driver.reboot_server(target)),
        ("active", lambda: driver.resize_server(target, driver.list_flavors()[1])),
    ]
    for vm_state, call in calls:
        nova.put(spec.instance_id, vm_state)
        nova.refuse("POST", "action", 409, "Cannot do that while it is in task_state x", after=True)
        call()
    assert nova.count("POST", "action") == len(calls)
    nova.put(spec.instance_id, "stopped")
    nova.refuse("POST", "action", 409, "Cannot 'start' instance: it is locked")
    with pytest.raises(cloud.CloudConflict, match="locked"):
        driver.start_server(target)


@pytest.mark.parametrize(
    ("vm_state", "expected"), [("active", "SOFT"), ("stopped", "HARD"), ("error", "HARD")]
)
def test_a_guest_that_runs_is_rebooted_softly(
    driver: NovaCompute, nova: Nova, vm_state: str, expected: str
) -> None:
    spec = boot(driver, nova)
    nova.put(spec.instance_id, vm_state)
    driver.reboot_server(server_id(driver, spec))
    assert nova.requests[-1].body == {"reboot": {"type": expected}}


def test_a_soft_reboot_that_is_refused_becomes_a_hard_one(driver: NovaCompute, nova: Nova) -> None:
    spec = boot(driver, nova)
    nova.refuse("POST", "action", 409, "Cannot 'reboot' instance")
    driver.reboot_server(server_id(driver, spec))
    assert nova.requests[-1].body == {"reboot": {"type": "HARD"}}


def test_a_resize_that_finds_no_host_leaves_the_old_flavor(driver: NovaCompute, nova: Nova) -> None:
    spec = boot(driver, nova)
    small, large = driver.list_flavors()
    nova.refuse_next_resize()
    driver.resize_server(server_id(driver, spec), large)
    assert status(driver, spec) is Status.RESIZE
    server = driver.find_server(spec.instance_id)
    assert server is not None
    assert (server.status, server.flavor_id) == (Status.ACTIVE, small.id)
    request_id = nova.server_of(spec.instance_id).actions[-1]["request_id"]
    assert driver.find_setback(server.id) == (
        f"Nova failed to resize the server: No valid host was found (request {request_id})."
        " Choose a smaller flavor or another availability zone, or have the operator add capacity"
    )
    nova.refuse("GET", "os-instance-actions", 500)
    assert driver.find_setback(server.id) is None


def test_what_went_well_is_no_setback(driver: NovaCompute, nova: Nova) -> None:
    spec = boot(driver, nova)
    assert driver.find_setback(server_id(driver, spec)) is None


def test_a_server_that_lists_leave_out_is_not_gone(driver: NovaCompute, nova: Nova) -> None:
    spec = boot(driver, nova)
    found = server_id(driver, spec)
    # as Nova says of a server whose cell does not answer
    nova.refuse("GET", f"/servers/{found}", 500, "Cell c1 is not responding")
    with pytest.raises(cloud.CloudUnavailable, match="not responding"):
        driver.check_gone(found)
    # and of one that lost its tags
    with pytest.raises(cloud.CloudUnavailable, match="not listed"):
        driver.check_gone(found)
    nova.put(spec.instance_id, "active", "deleting")
    driver.check_gone(found)
    del nova.servers[found]
    driver.check_gone(found)


def test_a_resize_that_breaks_the_server_tells_why(driver: NovaCompute, nova: Nova) -> None:
    spec = boot(driver, nova)
    nova.fail_next("Disk is too small")
    driver.resize_server(server_id(driver, spec), driver.list_flavors()[1])
    driver.find_server(spec.instance_id)
    server = driver.find_server(spec.instance_id)
    assert server is not None
    assert server.fault is not None
    assert server.fault.startswith("Nova failed to resize the server: Disk is too small (request")


def test_a_refused_resize_names_the_request(driver: NovaCompute, nova: Nova) -> None:
    spec = boot(driver, nova)
    nova.refuse("POST", "action", 403, "Quota exceeded for ram: Requested 512")
    with pytest.raises(cloud.CloudQuotaExceeded, match=r"resize to flavor db\.small server"):
        driver.resize_server(server_id(driver, spec), driver.list_flavors()[1])


def test_a_migration_goes_to_the_host_that_was_asked_for(driver: NovaCompute, nova: Nova) -> None:
    spec = boot(driver, nova)
    target = server_id(driver, spec)
    with pytest.raises(cloud.CloudError, match="No valid host"):
        driver.migrate_server(target, "host-9")
    driver.migrate_server(target, "host-2")
    driver.find_server(spec.instance_id)
    moved = driver.find_server(spec.instance_id)
    assert moved is not None
    assert (moved.status, moved.host) == (Status.VERIFY_RESIZE, "host-2")


# -- volumes -----


def test_a_volume_is_attached_and_detached_once(driver: NovaCompute, nova: Nova) -> None:
    spec = boot(driver, nova)
    target = server_id(driver, spec)
    for _ in range(2):
        driver.attach_volume(target, "v1")
    assert nova.count("POST", "os-volume_attachments") == 1
    for _ in range(2):
        driver.detach_volume(target, "v1")
        assert "v1" in nova.servers[target].volumes
    driver.find_server(spec.instance_id)
    driver.find_server(spec.instance_id)
    assert nova.servers[target].volumes == {}
    driver.detach_volume(target, "v1")


def test_an_attachment_whose_reply_was_lost_is_seen(driver: NovaCompute, nova: Nova) -> None:
    spec = boot(driver, nova)
    nova.lose_reply("POST", "os-volume_attachments")
    driver.attach_volume(server_id(driver, spec), "v1")
    nova.drop("POST", "os-volume_attachments")
    with pytest.raises(cloud.CloudUnavailable, match="attach volume v2 to server"):
        driver.attach_volume(server_id(driver, spec), "v2")


def test_a_volume_that_another_server_has_is_refused(driver: NovaCompute, nova: Nova) -> None:
    first, second = boot(driver, nova), boot(driver, nova)
    driver.attach_volume(server_id(driver, first), "v1")
    with pytest.raises(cloud.CloudError, match="v1 is in use"):
        driver.attach_volume(server_id(driver, second), "v1")


# -- server groups -----


@pytest.mark.parametrize("locality", ["affinity", "anti-affinity"])
def test_servers_of_one_group_share_it_and_the_last_one_removes_it(
    driver: NovaCompute, nova: Nova, locality: str
) -> None:
    group = {"locality": locality, "group_id": str(uuid.uuid4())}
    specs = [boot(driver, nova, **group) for _ in range(2)]
    boot(driver, nova)
    ((group_id, made),) = nova.groups.items()
    assert (made["name"], made["policy"]) == (f"trove-{group['group_id']}", locality)
    assert made["members"] == [server_id(driver, spec) for spec in specs]
    driver.delete_server(server_id(driver, specs[0]))
    assert list(nova.groups) == [group_id]
    while driver.find_server(specs[0].instance_id) is not None:
        pass
    driver.delete_server(server_id(driver, specs[1]))
    assert nova.groups == {}


def test_a_group_without_a_server_is_listed_and_removed(driver: NovaCompute, nova: Nova) -> None:
    boot(driver, nova, locality="soft-anti-affinity", group_id="used")
    for number, name in enumerate(["trove-empty", "another's"]):
        group = {"id": str(number), "name": name, "policy": "affinity", "members": []}
        nova.groups[group["id"]] = group
    assert driver.list_empty_groups() == {"empty"}
    driver.remove_empty_group("used")
    driver.remove_empty_group("empty")
    driver.remove_empty_group("empty")
    assert sorted(group["name"] for group in nova.groups.values()) == ["another's", "trove-used"]


def test_a_group_whose_reply_was_lost_is_found(driver: NovaCompute, nova: Nova) -> None:
    spec = make_spec(driver, locality="affinity", group_id="g")
    nova.lose_reply("POST", "os-server-groups")
    with pytest.raises(cloud.CloudUnavailable, match="create server group"):
        driver.create_server(spec)
    driver.create_server(spec)
    assert len(nova.groups) == 1
    assert nova.count("POST", "os-server-groups") == 1


def test_of_two_groups_the_one_that_is_used_stays(driver: NovaCompute, nova: Nova) -> None:
    boot(driver, nova, locality="affinity", group_id="g")
    (used,) = nova.groups
    nova.groups = {
        "0": {"id": "0", "name": "trove-g", "policy": "affinity", "members": []},
        **nova.groups,
    }
    boot(driver, nova, locality="affinity", group_id="g")
    assert list(nova.groups) == [used]


def test_a_group_that_went_meanwhile_is_made_again(
    driver: NovaCompute, nova: Nova, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec(driver, locality="affinity", group_id="g")
    with monkeypatch.context() as patch:
        patch.setattr(driver, "_ensure_group", lambda *_: "gone")
        nova.groups["other"] = {"id": "other", "name": "x", "policy": "affinity", "members": []}
        with pytest.raises(cloud.CloudUnavailable, match="removed meanwhile"):
            driver.create_server(spec)
    assert driver.create_server(spec).id in nova.servers
