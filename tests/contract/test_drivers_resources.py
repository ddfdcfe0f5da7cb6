"""What every volume, image and secrets driver does."""

import pathlib
import uuid
from collections.abc import Iterator

import pytest

from tests.contract.conftest import Cloud
from tests.fixtures.disks import qcow2
from tests.fixtures.waiting import wait_until
from trove.common import exception
from trove.drivers.image.local import LocalImage
from trove.drivers.volume.base import Volume


@pytest.fixture
def instance_id() -> str:
    return str(uuid.uuid4())


_made: list[tuple[Cloud, str]] = []


@pytest.fixture(autouse=True)
def nothing_stays() -> Iterator[None]:
    """Remove the volumes that a test made: a real cloud keeps them."""
    yield
    while _made:
        cloud, instance_id = _made.pop()
        found = cloud.settled(instance_id)
        if found is not None:
            cloud.volume.delete_volume(found.id)


def make_volume(
    cloud: Cloud, instance_id: str, *, size_gib: int = 1, snapshot_id: str | None = None
) -> Volume:
    """Ask until it is there, as whoever makes an instance does."""
    _made.append((cloud, instance_id))

    def ask() -> Volume | None:
        made = cloud.volume.create_volume(
            instance_id=instance_id,
            size_gib=size_gib,
            volume_type=None,
            project_id="p",
            snapshot_id=snapshot_id,
        )
        return None if made.status == "creating" else made

    made = wait_until(ask, timeout_s=60)
    assert made is not None
    return made


def listed(cloud: Cloud, instance_id: str) -> list[str]:
    """Return the ids of an instance's volumes; a real cloud has those of others too."""
    found = cloud.volume.list_volumes()
    return [each.id for each in found if each.instance_id == instance_id]


def test_an_instance_gets_one_volume_however_often_it_is_asked_for(
    cloud: Cloud, instance_id: str
) -> None:
    volume = make_volume(cloud, instance_id)
    assert (volume.instance_id, volume.size_gib) == (instance_id, 1)
    assert volume.status in ("available", "in-use", "creating")
    assert make_volume(cloud.again(), instance_id).id == volume.id
    found = cloud.again().volume.find_volume(instance_id)
    assert found is not None
    assert found.id == volume.id
    assert listed(cloud, instance_id) == [volume.id]


def test_a_deleted_volume_is_gone_and_may_be_deleted_again(cloud: Cloud, instance_id: str) -> None:
    volume = make_volume(cloud, instance_id)
    other_id = str(uuid.uuid4())
    other = make_volume(cloud, other_id)
    for _ in range(2):
        cloud.volume.delete_volume(volume.id)
        assert cloud.settled(instance_id) is None
    assert listed(cloud, instance_id) == []
    assert listed(cloud, other_id) == [other.id]


def test_a_volume_grows_and_never_shrinks(cloud: Cloud, instance_id: str) -> None:
    volume = make_volume(cloud, instance_id)
    for wanted, size in ((2, 2), (2, 2), (1, 2)):
        cloud.volume.extend_volume(volume.id, wanted)
        found = cloud.again().settled(instance_id)
        assert found is not None
        assert (found.id, found.size_gib) == (volume.id, size)


def test_volumes_take_each_others_place(cloud: Cloud, instance_id: str) -> None:
    other_id = str(uuid.uuid4())
    volume, other = make_volume(cloud, instance_id), make_volume(cloud, other_id, size_gib=2)
    for _ in range(2):
        cloud.volume.give_volume(volume.id, other_id)
        cloud.volume.give_volume(other.id, instance_id)
    assert cloud.again().volume.find_volume(instance_id).id == other.id  # type: ignore[union-attr]
    assert cloud.again().volume.find_volume(other_id).id == volume.id  # type: ignore[union-attr]
    assert (listed(cloud, instance_id), listed(cloud, other_id)) == ([other.id], [volume.id])
    # each keeps its size, and its snapshots
    cloud.volume.extend_volume(volume.id, 3)
    found = cloud.settled(other_id)
    assert found is not None
    assert (found.id, found.size_gib) == (volume.id, 3)
    cloud.volume.delete_volume(volume.id)
    assert cloud.settled(other_id) is None
    kept = cloud.settled(instance_id)
    assert kept is not None
    assert (kept.id, kept.size_gib) == (other.id, 2)
    with pytest.raises(exception.DriverError):
        cloud.volume.give_volume(str(uuid.uuid4()), instance_id)


def test_a_volume_that_is_gone_cannot_grow(cloud: Cloud, instance_id: str) -> None:
    with pytest.raises(exception.DriverError):
        cloud.volume.extend_volume(instance_id, 2)


def test_a_snapshot_is_made_once_and_holds_its_volume(cloud: Cloud, instance_id: str) -> None:
    owner_id = str(uuid.uuid4())
    volume = make_volume(cloud, instance_id)
    assert cloud.volume.find_snapshot(owner_id) is None
    if not cloud.volume.has_snapshots:
        with pytest.raises(exception.DriverError):
            cloud.volume.create_snapshot(volume_id=volume.id, owner_id=owner_id)
        cloud.volume.delete_snapshot(owner_id)
        return
    made = cloud.volume.create_snapshot(volume_id=volume.id, owner_id=owner_id)
    assert (made.owner_id, made.volume_id, made.size_gib) == (owner_id, volume.id, 1)
    again = cloud.again().volume.create_snapshot(volume_id=volume.id, owner_id=owner_id)
    assert again.id == made.id
    assert [each.owner_id for each in cloud.volume.list_snapshots(volume.id)] == [owner_id]
    assert not cloud.volume.list_snapshots(str(uuid.uuid4()))
    wait_until(lambda: has_snapshot(cloud, owner_id, "available"), timeout_s=60)
    if not cloud.volume.snapshots_outlive_volumes:
        with pytest.raises(exception.DriverError):
            cloud.volume.delete_volume(volume.id)
    for _ in range(2):
        cloud.volume.delete_snapshot(made.id)
        wait_until(lambda: cloud.volume.find_snapshot(owner_id) is None, timeout_s=60)
    cloud.volume.delete_volume(volume.id)
    assert cloud.settled(instance_id) is None


def test_a_volume_is_made_of_a_snapshot(cloud: Cloud, instance_id: str) -> None:
    owner_id, other_id = str(uuid.uuid4()), str(uuid.uuid4())
    volume = make_volume(cloud, instance_id)
    made = cloud.volume.create_snapshot(volume_id=volume.id, owner_id=owner_id)
    wait_until(lambda: has_snapshot(cloud, owner_id, "available"), timeout_s=60)
    for _ in range(2):
        other = make_volume(cloud, other_id, size_gib=2, snapshot_id=made.id)
        assert (other.instance_id, other.size_gib) == (other_id, 2)
    assert listed(cloud, other_id) == [other.id]
    with pytest.raises(exception.DriverError):
        make_volume(cloud, str(uuid.uuid4()), snapshot_id=str(uuid.uuid4()))
    cloud.volume.delete_volume(other.id)
    assert cloud.settled(other_id) is None
    cloud.volume.delete_snapshot(made.id)
    wait_until(lambda: cloud.volume.find_snapshot(owner_id) is None, timeout_s=60)


def has_snapshot(cloud: Cloud, owner_id: str, status: str) -> bool:
    found = cloud.volume.find_snapshot(owner_id)
    return found is not None and found.status == status


def test_an_unknown_instance_has_no_volume(cloud: Cloud, instance_id: str) -> None:
    assert cloud.volume.find_volume(instance_id) is None
    assert listed(cloud, instance_id) == []


def test_an_unknown_image_is_not_found(cloud: Cloud) -> None:
    unknown = str(uuid.uuid4())
    assert unknown not in {image.id for image in cloud.image.list_images()}
    with pytest.raises(exception.ImageNotFound):
        cloud.image.get_image(unknown)


def test_an_image_is_imported_once_and_deleted(cloud: Cloud, tmp_path: pathlib.Path) -> None:
    if isinstance(cloud.image, LocalImage):
        # its images are engines of this machine: tests/integration imports one
        return
    file = tmp_path / "guest.qcow2"
    file.write_bytes(qcow2(filling=uuid.uuid4().bytes))
    images = [
        each.image.import_image(
            manager="mariadb", name="contract", file=str(file), image_id=None, version="0.0.1"
        )
        for each in (cloud, cloud.again())
    ]
    try:
        assert images[0] == images[1] == cloud.image.get_image(images[0].id)
        assert (images[0].manager, images[0].status) == ("mariadb", "active")
        assert "mariadb" in images[0].tags
        assert images[0] in cloud.image.list_images()
    finally:
        for _ in range(2):
            cloud.image.delete_image(images[0].id)
    with pytest.raises(exception.ImageNotFound):
        cloud.image.get_image(images[0].id)


def test_a_deleted_image_is_gone_and_may_be_deleted_again(cloud: Cloud) -> None:
    unknown = str(uuid.uuid4())
    for _ in range(2):
        cloud.image.delete_image(unknown)
    assert unknown not in {image.id for image in cloud.image.list_images()}


def test_volume_types_have_ids_and_names_of_their_own(cloud: Cloud) -> None:
    types = cloud.volume.list_volume_types()
    assert len({each.id for each in types}) == len({each.name for each in types}) == len(types)


def test_no_image_has_tags_that_nobody_gave(cloud: Cloud) -> None:
    assert cloud.image.find_tagged(["mariadb", str(uuid.uuid4())]) is None
