"""The image driver of Glance on a stand-in, and the files that it takes."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import pathlib

import pytest
from oslo_config import cfg

from tests.fixtures import cloud as standin
from tests.fixtures.cloud.glance import Glance
from tests.fixtures.disks import qcow2
from trove.common import exception
from trove.drivers import cloud
from trove.drivers.image.base import Image
from trove.drivers.image.glance import GlanceImage


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """A file as the builder of images leaves it."""

    path: pathlib.Path

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.path.read_bytes()).hexdigest()

    def note(self, **values: object) -> None:
        known = {
            "datastore": "mariadb",
            "manager": "mariadb",
            "version": "10.11.6",
            "agent_version": "1.2.3",
            "sha256": self.sha256,
        }
        path = self.path.with_name(self.path.name + ".json")
        path.write_text(json.dumps(known | values))


@pytest.fixture
def built(tmp_path: pathlib.Path) -> Built:
    made = Built(path=tmp_path / "guest.img")
    made.path.write_bytes(qcow2())
    made.note()
    return made


@pytest.fixture
def glance(standins: standin.StandInCloud) -> Glance:
    return standins.find("image")


@pytest.fixture
def driver(cloud_conf: cfg.ConfigOpts) -> GlanceImage:
    return GlanceImage(cloud_conf)


def run_import(driver: GlanceImage, built: Built, **values: object) -> Image:
    arguments = {
        "manager": "mariadb",
        "name": "mariadb",
        "file": str(built.path),
        "image_id": None,
        "version": None,
    }
    return driver.import_image(**(arguments | values))


def test_a_file_becomes_an_image_that_says_what_it_is(
    driver: GlanceImage, glance: Glance, built: Built, capsys: pytest.CaptureFixture[str]
) -> None:
    image = run_import(driver, built)
    assert (image.manager, image.version, image.agent_version) == ("mariadb", "10.11.6", "1.2.3")
    assert (image.status, image.tags) == ("active", ("mariadb", "trove"))
    assert glance.contents[image.id] == built.path.read_bytes()
    stored = glance.images[image.id]
    wanted = {
        "name": "trove-mariadb-10.11.6",
        "disk_format": "qcow2",
        "container_format": "bare",
        "min_disk": 2,
        "visibility": "private",
        "protected": False,
        "hw_disk_bus": "virtio",
        "os_type": "linux",
        "trove_datastore": "mariadb",
        "trove_version": "10.11.6",
        "trove_agent_version": "1.2.3",
        "trove_sha256": built.sha256,
    }
    assert wanted.items() <= stored.items()
    assert list(driver.list_images()) == [image]
    assert driver.get_image(image.id) == image
    # no bar where there is no terminal
    assert capsys.readouterr() == ("", "")


def test_a_terminal_sees_how_far_an_upload_is(
    driver: GlanceImage, built: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    run_import(driver, built)
    assert "guest.img: 100%" in terminal.getvalue()


def test_the_same_file_again_is_the_same_image(
    driver: GlanceImage, cloud_conf: cfg.ConfigOpts, glance: Glance, built: Built
) -> None:
    image = run_import(driver, built)
    assert run_import(GlanceImage(cloud_conf), built) == image
    assert glance.count("PUT", "/file") == 1
    built.path.write_bytes(qcow2(filling=b"y"))
    built.note()
    assert run_import(driver, built).id != image.id


def test_a_bootable_disk_is_raw_and_needs_a_version(
    driver: GlanceImage, glance: Glance, tmp_path: pathlib.Path
) -> None:
    disk = Built(path=tmp_path / "disk.qcow2")
    disk.path.write_bytes(b"\xeb".ljust(510, b"\0") + b"\x55\xaa" + b"\0" * 9000)
    with pytest.raises(exception.DriverError, match="name the version"):
        run_import(driver, disk)
    image = run_import(driver, disk, version="10.11")
    assert image.version == "10.11"
    assert glance.images[image.id]["disk_format"] == "raw"
    assert glance.images[image.id]["min_disk"] == 1


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (qcow2(backing=4096), "has a backing file"),
        (b"just a text\n" * 100, "neither qcow2 nor a bootable disk"),
        (b"KDMV".ljust(3000, b"\0"), "qemu-img convert"),
        (b"", "neither qcow2"),
    ],
    ids=["backing", "text", "vmdk", "empty"],
)
def test_a_file_that_is_no_whole_disk_is_refused(
    driver: GlanceImage, glance: Glance, built: Built, content: bytes, reason: str
) -> None:
    built.path.write_bytes(content)
    built.note()
    with pytest.raises(exception.DriverError, match=reason):
        run_import(driver, built)
    assert glance.images == {}


def test_a_file_must_be_what_its_builder_noted(
    driver: GlanceImage, glance: Glance, built: Built
) -> None:
    built.note(sha256="0" * 64)
    with pytest.raises(exception.DriverError, match="not what its builder noted"):
        run_import(driver, built)
    built.note(manager="postgresql")
    with pytest.raises(exception.DriverError, match="built for postgresql"):
        run_import(driver, built)
    built.note(version=10.11)
    with pytest.raises(exception.DriverError, match="is no note"):
        run_import(driver, built)
    with pytest.raises(exception.DriverError, match="No such file"):
        run_import(driver, Built(path=built.path.with_name("nothing")))
    assert glance.images == {}


def test_without_a_file_or_with_two_sources_nothing_is_done(
    driver: GlanceImage, built: Built
) -> None:
    for values in ({"file": None}, {"image_id": "i"}):
        with pytest.raises(exception.DriverError, match="either the file"):
            run_import(driver, built, **values)


def test_an_import_that_died_before_the_contents_is_gone_on_with(
    driver: GlanceImage, glance: Glance, built: Built
) -> None:
    glance.lose_reply("POST", "/images")
    with pytest.raises(cloud.CloudUnavailable):
        run_import(driver, built)
    (half,) = driver.list_images()
    assert half.status == "queued"
    assert driver.find_tagged(["mariadb"]) is None
    image = run_import(driver, built)
    assert (image.id, image.status) == (half.id, "active")


@pytest.mark.parametrize("status", ["saving", "killed"])
def test_an_import_that_died_in_the_middle_is_begun_again(
    driver: GlanceImage, glance: Glance, built: Built, status: str
) -> None:
    half = glance.add_image(trove_sha256=built.sha256, trove_datastore="mariadb", status=status)
    image = run_import(driver, built)
    assert set(glance.images) == {image.id}
    assert image.id != half["id"]


def test_contents_that_did_not_arrive_leave_nothing(
    driver: GlanceImage, glance: Glance, built: Built
) -> None:
    glance.drop("PUT", "/file")
    with pytest.raises(cloud.CloudUnavailable):
        run_import(driver, built)
    assert glance.images == {}
    glance.refuse("PUT", "/file", 413, "Denying attempt to upload image because it is too large")
    with pytest.raises(cloud.CloudQuotaExceeded, match="too large"):
        run_import(driver, built)
    assert glance.images == {}


def test_a_lost_reply_to_the_contents_loses_nothing(
    driver: GlanceImage, glance: Glance, built: Built
) -> None:
    glance.lose_reply("PUT", "/file")
    assert run_import(driver, built).status == "active"
    assert len(glance.images) == 1


def test_an_image_that_arrived_damaged_is_removed(
    driver: GlanceImage, glance: Glance, built: Built
) -> None:
    glance.corrupts = True
    with pytest.raises(exception.DriverError, match="damaged on its way"):
        run_import(driver, built)
    assert glance.images == {}
    glance.corrupts = False
    assert run_import(driver, built).status == "active"


def test_an_operator_who_gives_up_leaves_nothing(
    driver: GlanceImage, glance: Glance, built: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(driver, "_verify", interrupt)
    monkeypatch.setattr(driver, "_upload", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_import(driver, built)
    assert glance.images == {}


def test_a_protected_image_is_protected_at_last_and_not_deleted(
    cloud_conf: cfg.ConfigOpts, glance: Glance, built: Built
) -> None:
    cloud_conf.set_override("protected", True, group="glance")
    driver = GlanceImage(cloud_conf)
    glance.corrupts = True
    with pytest.raises(exception.DriverError):
        run_import(driver, built)
    assert glance.images == {}
    glance.corrupts = False
    image = run_import(driver, built)
    with pytest.raises(exception.DriverError, match="openstack image set --unprotect"):
        driver.delete_image(image.id)
    glance.images[image.id]["protected"] = False
    driver.delete_image(image.id)
    assert glance.images == {}


def test_an_image_that_there_is_gets_to_say_what_it_is(driver: GlanceImage, glance: Glance) -> None:
    image_id = glance.add_image(content=b"x", name="mine", architecture="x86_64")["id"]
    image = driver.import_image(
        manager="mariadb", name="mariadb", file=None, image_id=image_id, version="10.11"
    )
    assert (image.id, image.manager, image.version) == (image_id, "mariadb", "10.11")
    assert glance.images[image_id]["trove_datastore"] == "mariadb"
    assert glance.images[image_id]["architecture"] == "x86_64"
    with pytest.raises(exception.DriverError, match="is for mariadb, not for mysql"):
        driver.import_image(
            manager="mysql", name="mysql", file=None, image_id=image_id, version="8"
        )


def test_an_image_that_cannot_be_used_is_refused(driver: GlanceImage, glance: Glance) -> None:
    def adopt(image_id: str, version: str | None = "1") -> Image:
        return driver.import_image(
            manager="mariadb", name="m", file=None, image_id=image_id, version=version
        )

    with pytest.raises(exception.ImageNotFound):
        adopt("5e0ccb71-1d63-4a4d-a02b-5e5d2dd5bbd2")
    with pytest.raises(exception.DriverError, match="status queued"):
        adopt(glance.add_image()["id"])
    with pytest.raises(exception.DriverError, match="name the version"):
        adopt(glance.add_image(content=b"x")["id"], None)
    foreign = glance.add_image(content=b"x", owner="another", visibility="public")["id"]
    with pytest.raises(exception.DriverError, match="openstack image set --property"):
        adopt(foreign)


def test_what_other_projects_tag_is_not_used(driver: GlanceImage, glance: Glance) -> None:
    for visibility in ("private", "shared", "community"):
        glance.add_image(content=b"evil", owner="evil", tags=["mariadb"], visibility=visibility)
    assert driver.find_tagged(["mariadb"]) is None
    public = glance.add_image(
        content=b"good", owner="operator", tags=["mariadb"], visibility="public"
    )
    found = driver.find_tagged(["mariadb"])
    assert found is not None
    assert found.id == public["id"]


def test_a_hash_that_another_project_claims_is_not_believed(
    driver: GlanceImage, glance: Glance, built: Built
) -> None:
    evil = glance.add_image(
        content=b"evil", owner="evil", trove_sha256=built.sha256, trove_datastore="mariadb"
    )
    assert run_import(driver, built).id != evil["id"]


def test_the_newest_of_the_highest_version_is_found_by_tags(
    driver: GlanceImage, glance: Glance
) -> None:
    glance.page = 2
    versions = ["10.11.6", "10.11.10", "10.11.10", "10.11.9"]
    ids = [
        glance.add_image(content=b"x", tags=["mariadb", "t"], trove_version=version)["id"]
        for version in versions
    ]
    glance.add_image(content=b"x", tags=["mariadb"], trove_version="11.4")
    glance.add_image(tags=["mariadb", "t"], trove_version="12.0")
    found = driver.find_tagged(["t", "mariadb"])
    assert found is not None
    assert found.id == ids[2]


def test_a_service_that_is_down_is_told_as_such(driver: GlanceImage, glance: Glance) -> None:
    assert driver.find_tagged(["t", "mariadb"]) is None
    before = len(glance.requests)
    with glance.down(), pytest.raises(cloud.CloudUnavailable, match="Glance failed to list images"):
        driver.list_images()
    # whoever asked tries again when it wants to, without keeping a thread
    assert len(glance.requests) == before + 1
    with glance.unreachable(), pytest.raises(cloud.CloudUnavailable) as caught:
        driver.get_image("i")
    assert caught.value.retryable
    with pytest.raises(exception.ImageNotFound):
        driver.get_image("i")
