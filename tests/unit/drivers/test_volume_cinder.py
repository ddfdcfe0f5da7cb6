"""The volume driver of Cinder on a stand-in that is slow, full, down or loses replies."""

from __future__ import annotations

import uuid

import pytest
from oslo_config import cfg

from tests.fixtures import cloud as standin
from tests.fixtures.cloud.cinder import Cinder
from trove.drivers import cloud
from trove.drivers.volume.cinder import CinderVolume


@pytest.fixture
def cinder(standins: standin.StandInCloud) -> Cinder:
    return standins.find("block-storage")


@pytest.fixture
def driver(cloud_conf: cfg.ConfigOpts) -> CinderVolume:
    return CinderVolume(cloud_conf)


@pytest.fixture
def instance_id() -> str:
    return str(uuid.uuid4())


def create(driver: CinderVolume, instance_id: str, *, size_gib: int = 1) -> str:
    return driver.create_volume(
        instance_id=instance_id, size_gib=size_gib, volume_type=None, project_id="p"
    ).id


def look(driver: CinderVolume, instance_id: str) -> tuple[str, int]:
    found = driver.find_volume(instance_id)
    assert found is not None
    return found.status, found.size_gib


def test_only_public_types_are_offered(driver: CinderVolume) -> None:
    assert [(each.name, each.description) for each in driver.list_volume_types()] == [
        ("ssd", "fast")
    ]


def test_a_volume_carries_its_instance_and_what_is_configured(
    cloud_conf: cfg.ConfigOpts, cinder: Cinder, instance_id: str
) -> None:
    cloud_conf.set_override("volume_type", "ssd", group="cinder")
    cloud_conf.set_override("availability_zone", "az1", group="cinder")
    create(CinderVolume(cloud_conf), instance_id, size_gib=2)
    (volume,) = cinder.volumes.values()
    assert volume["name"] == f"trove-{instance_id}"
    assert volume["metadata"] == {"trove_instance_id": instance_id}
    assert (volume["size"], volume["volume_type"], volume["availability_zone"]) == (2, "ssd", "az1")


def test_a_lost_reply_makes_no_second_volume(
    driver: CinderVolume, cinder: Cinder, instance_id: str
) -> None:
    cinder.lose_reply("POST", "/volumes$")
    with pytest.raises(cloud.CloudUnavailable):
        create(driver, instance_id)
    assert create(driver, instance_id) in cinder.volumes
    assert len(cinder.volumes) == 1


def test_of_two_that_were_made_at_once_the_older_one_stays(
    driver: CinderVolume, cinder: Cinder, instance_id: str
) -> None:
    name = f"trove-{instance_id}"
    other: list[str] = []
    add = cinder.add_volume

    def add_after_another(**values: object) -> dict[str, object]:
        other.append(add(**{**values, "name": name, "status": "available"})["id"])
        return add(**values)

    cinder.add_volume = add_after_another
    try:
        assert create(driver, instance_id) == other[0]
    finally:
        del cinder.add_volume
    assert [each["status"] for each in cinder.volumes.values()] == ["available", "deleting"]
    assert look(driver, instance_id) == ("available", 1)
    assert list(cinder.volumes) == other


def test_a_second_one_that_is_still_being_made_goes_later(
    driver: CinderVolume, cinder: Cinder, instance_id: str
) -> None:
    first = cinder.add_volume(name=f"trove-{instance_id}")["id"]
    second = cinder.add_volume(name=f"trove-{instance_id}", status="creating", looks=1)["id"]
    made = driver.create_volume(
        instance_id=instance_id, size_gib=1, volume_type=None, project_id="p"
    )
    assert (made.id, made.status) == (first, "creating")
    assert cinder.volumes[second]["status"] == "creating"
    assert create(driver, instance_id) == first
    assert cinder.volumes[second]["status"] == "deleting"
    assert create(driver, instance_id) == first
    assert list(cinder.volumes) == [first]


def test_the_one_that_a_server_has_stays_even_if_it_is_younger(
    driver: CinderVolume, cinder: Cinder, instance_id: str
) -> None:
    cinder.add_volume(name=f"trove-{instance_id}")
    used = cinder.add_volume(name=f"trove-{instance_id}")["id"]
    cinder.volume_attached(used, "server")
    found = driver.find_volume(instance_id)
    assert found is not None
    assert (found.id, found.status) == (used, "in-use")


def test_a_name_that_begins_alike_is_somebody_elses(
    driver: CinderVolume, cinder: Cinder, instance_id: str
) -> None:
    cinder.add_volume(name=f"trove-{instance_id}-copy")
    cinder.add_volume(name="unrelated")
    assert driver.find_volume(instance_id) is None
    assert [each.instance_id for each in driver.list_volumes()] == [f"{instance_id}-copy"]


def test_all_volumes_are_listed_over_pages(driver: CinderVolume, cinder: Cinder) -> None:
    cinder.page = 2
    for number in range(5):
        cinder.add_volume(name=f"trove-{number}")
    assert {each.instance_id for each in driver.list_volumes()} == set("01234")
    assert cinder.count("GET", "/volumes/detail") == 3


@pytest.mark.parametrize(
    ("status", "word"),
    [
        ("creating", "creating"),
        ("attaching", "busy"),
        ("reserved", "busy"),
        ("detaching", "busy"),
        ("error_restoring", "error"),
    ],
)
def test_the_words_of_cinder_are_those_of_the_interface(
    driver: CinderVolume, cinder: Cinder, instance_id: str, status: str, word: str
) -> None:
    cinder.add_volume(name=f"trove-{instance_id}", status=status, looks=9)
    assert look(driver, instance_id)[0] == word


def test_why_a_volume_is_in_error_is_told_with_the_request(
    driver: CinderVolume, cinder: Cinder, instance_id: str
) -> None:
    cinder.broken.add(7)
    create(driver, instance_id, size_gib=7)
    found = driver.find_volume(instance_id)
    assert found is not None
    assert found.status == "error"
    assert "Could not find any available weighted backend (request req-" in str(found.fault)
    cinder.refuse("GET", "/messages", 500)
    found = driver.find_volume(instance_id)
    assert found is not None
    assert "in status error" in str(found.fault)


def test_a_volume_that_a_server_has_grows_there(
    driver: CinderVolume, cinder: Cinder, instance_id: str
) -> None:
    cinder.looks = 1
    volume_id = cinder.add_volume(name=f"trove-{instance_id}")["id"]
    cinder.volume_attached(volume_id, "server")
    driver.extend_volume(volume_id, 3)
    assert cinder.volumes[volume_id]["status"] == "extending"
    driver.extend_volume(volume_id, 3)
    assert look(driver, instance_id) == ("in-use", 3)
    assert cinder.count("POST", "/action") == 1


def test_a_lost_reply_extends_once(driver: CinderVolume, cinder: Cinder, instance_id: str) -> None:
    volume_id = cinder.add_volume(name=f"trove-{instance_id}")["id"]
    cinder.lose_reply("POST", "/action")
    with pytest.raises(cloud.CloudUnavailable):
        driver.extend_volume(volume_id, 2)
    driver.extend_volume(volume_id, 2)
    assert look(driver, instance_id) == ("available", 2)
    assert cinder.count("POST", "/action") == 1


def test_a_backend_that_cannot_grow_a_used_volume_is_told_with_what_helps(
    driver: CinderVolume, cinder: Cinder, instance_id: str
) -> None:
    cinder.extends_attached = False
    volume_id = cinder.add_volume(name=f"trove-{instance_id}")["id"]
    cinder.volume_attached(volume_id, "server")
    driver.extend_volume(volume_id, 2)
    found = driver.find_volume(instance_id)
    assert found is not None
    assert (found.status, found.size_gib) == ("error", 1)
    assert "[cinder] extend_attached = false" in str(found.fault)


def test_a_used_volume_is_not_extended_where_the_backend_cannot(
    cloud_conf: cfg.ConfigOpts, cinder: Cinder, instance_id: str
) -> None:
    cloud_conf.set_override("extend_attached", False, group="cinder")
    driver = CinderVolume(cloud_conf)
    assert not driver.extends_attached
    volume_id = cinder.add_volume(name=f"trove-{instance_id}")["id"]
    cinder.volume_attached(volume_id, "server")
    with pytest.raises(cloud.CloudConflict, match="extend_attached"):
        driver.extend_volume(volume_id, 2)
    cinder.volume_detached(volume_id)
    driver.extend_volume(volume_id, 2)
    assert look(driver, instance_id) == ("available", 2)


def test_over_quota_says_so_with_request_and_remedy(
    driver: CinderVolume, cinder: Cinder, instance_id: str
) -> None:
    cinder.quota_gib = 3
    with pytest.raises(cloud.CloudQuotaExceeded) as caught:
        create(driver, instance_id, size_gib=4)
    assert "exceeds allowed gigabytes quota" in caught.value.message
    assert cinder.request_ids[-1] in caught.value.message
    assert "raises this service's quota in Cinder" in caught.value.message
    assert not caught.value.retryable
    volume_id = create(driver, instance_id, size_gib=3)
    look(driver, instance_id)
    with pytest.raises(cloud.CloudQuotaExceeded):
        driver.extend_volume(volume_id, 4)


def test_an_unknown_type_is_refused(driver: CinderVolume, instance_id: str) -> None:
    with pytest.raises(cloud.CloudError, match="nonesuch could not be found"):
        driver.create_volume(
            instance_id=instance_id, size_gib=1, volume_type="nonesuch", project_id="p"
        )


@pytest.mark.parametrize("status", [500, 503])
def test_a_service_that_is_down_can_be_tried_again(
    driver: CinderVolume, cinder: Cinder, instance_id: str, status: int
) -> None:
    with cinder.down(status), pytest.raises(cloud.CloudUnavailable) as caught:
        driver.find_volume(instance_id)
    assert caught.value.retryable
    with cinder.unreachable(), pytest.raises(cloud.CloudUnavailable):
        create(driver, instance_id)
    assert create(driver, instance_id) in cinder.volumes


def test_a_volume_in_use_is_not_deleted(
    driver: CinderVolume, cinder: Cinder, instance_id: str
) -> None:
    volume_id = cinder.add_volume(name=f"trove-{instance_id}")["id"]
    cinder.volume_attached(volume_id, "server")
    with pytest.raises(cloud.CloudConflict, match="in status in-use"):
        driver.delete_volume(volume_id)
    assert cinder.count("DELETE", "") == 0


def test_a_volume_that_cannot_be_deleted_is_the_operators_and_goes_when_mended(
    driver: CinderVolume, cinder: Cinder, instance_id: str
) -> None:
    volume_id = create(driver, instance_id)
    cinder.undeletable.add(volume_id)
    look(driver, instance_id)
    driver.delete_volume(volume_id)
    assert look(driver, instance_id)[0] == "error"
    with pytest.raises(cloud.CloudConflict, match="openstack volume set --state error"):
        driver.delete_volume(volume_id)
    # what the operator does
    cinder.undeletable.clear()
    cinder.volumes[volume_id]["status"] = "error"
    driver.delete_volume(volume_id)
    assert driver.find_volume(instance_id) is None


def test_a_snapshot_goes_when_it_can_and_what_stops_it_is_told(
    driver: CinderVolume, cinder: Cinder, instance_id: str
) -> None:
    made = driver.create_snapshot(volume_id=create(driver, instance_id), owner_id=instance_id)
    cinder.snapshots[made.id]["status"] = "backing-up"
    with pytest.raises(cloud.CloudConflict, match="in status backing-up"):
        driver.delete_snapshot(made.id)
    cinder.snapshots[made.id]["status"] = "available"
    cinder.undeletable.add(made.id)
    driver.delete_snapshot(made.id)
    with pytest.raises(cloud.CloudConflict, match="openstack volume snapshot set --state error"):
        driver.delete_snapshot(made.id)
    # what the operator does
    cinder.undeletable.clear()
    cinder.snapshots[made.id]["status"] = "error"
    driver.delete_snapshot(made.id)
    assert driver.find_snapshot(instance_id) is None


def test_a_volume_that_is_larger_than_its_snapshot_is_extended_when_it_is_there(
    driver: CinderVolume, cinder: Cinder, instance_id: str
) -> None:
    """Cinder's NFS driver makes one that no server can have, else."""
    source = str(uuid.uuid4())
    made = driver.create_snapshot(volume_id=create(driver, source), owner_id=source)
    driver.find_snapshot(source)

    def ask() -> tuple[str, int]:
        volume = driver.create_volume(
            instance_id=instance_id,
            size_gib=3,
            volume_type=None,
            project_id="p",
            snapshot_id=made.id,
        )
        return volume.status, volume.size_gib

    cinder.looks = 2
    seen = [ask() for _ in range(8)]
    assert seen[0] == ("creating", 1)
    assert set(seen) == {("creating", 1), ("available", 3)}
    assert seen == sorted(seen, key=lambda each: each[1])
    assert cinder.count("POST", "/action") == 1


def test_a_deletion_that_is_under_way_is_not_asked_for_again(
    driver: CinderVolume, cinder: Cinder, instance_id: str
) -> None:
    cinder.looks = 5
    volume_id = cinder.add_volume(name=f"trove-{instance_id}")["id"]
    for _ in range(3):
        driver.delete_volume(volume_id)
    assert look(driver, instance_id)[0] == "deleting"
    assert cinder.count("DELETE", "") == 1
