"""Datastores and versions as operators keep them, and what they allow users to choose."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fixtures import api as api_fixture
from trove.common import exception
from trove.db import associations, base, datastores, instances, models
from trove.drivers.volume.base import VolumeType
from trove.services.versions import Versions

PATH = "/mgmt/datastore-versions"


@pytest.fixture
def api(sqlite_database: base.Database) -> api_fixture.Api:
    return api_fixture.make_api(sqlite_database)


@pytest.fixture
def image(api: api_fixture.Api) -> str:
    return api.images.import_image(manager="mariadb", name="m", file=None, image_id=None).id


def send(
    api: api_fixture.Api, method: str, path: str, body: Any = None, *, status: int
) -> dict[str, Any]:
    """Send as an administrator; return the fault if there is one."""
    answer = api.request(method, path, body, status=status, roles="admin")
    if status < 400:
        assert answer.body == b""
        return {}
    (fault,) = answer.json.values()
    return dict(fault)


def create_body(image_id: str, /, **values: Any) -> dict[str, Any]:
    body = {
        "name": "10.11",
        "datastore_name": "mariadb",
        "datastore_manager": "mariadb",
        "image": image_id,
        "image_tags": [],
        "packages": [],
        "active": True,
        "default": False,
    }
    return {"version": {k: v for k, v in {**body, **values}.items() if v is not None}}


def versions(api: api_fixture.Api) -> list[dict[str, Any]]:
    return list(api.get(PATH, roles="admin")["versions"])


def test_a_version_is_registered_with_its_datastore_and_shown(
    api: api_fixture.Api, image: str
) -> None:
    body = create_body(image.upper(), version="10.11.6", default=True, registry_ext="x")
    send(api, "POST", PATH, body, status=202)
    send(api, "POST", PATH, create_body(image, name="11.4", active=False), status=202)
    first, second = versions(api)
    assert first == {
        "id": first["id"],
        "name": "10.11",
        "version": "10.11.6",
        "datastore_id": second["datastore_id"],
        "datastore_name": "mariadb",
        "datastore_manager": "mariadb",
        "image": image,
        "image_tags": [],
        "packages": [],
        "active": True,
        "registry_ext": "x",
        "repl_strategy": None,
        "default": True,
    }
    assert (second["version"], second["active"], second["default"]) == ("11.4", False, False)
    assert api.get(f"{PATH}/{first['id']}", roles="admin") == {"version": first}
    (shown,) = api.get("/datastores")["datastores"]
    assert shown["default_version"] == first["id"]
    assert [each["id"] for each in shown["versions"]] == [first["id"]]


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"name": None}, "name is missing"),
        ({"active": None}, "active is missing"),
        ({"active": "true"}, "version.active"),
        ({"hats": 1}, "unknown keys 'hats'"),
        ({"image": "x"}, "version.image must be a UUID"),
        ({"image": models.new_id()}, "cannot be found"),
        ({"image": None}, "neither image nor image_tags"),
        ({"image": None, "image_tags": ["nothing"]}, "no image with the tags nothing"),
        ({"image_tags": [""]}, "version.image_tags.0"),
        ({"image_tags": ["a" * 21]}, "version.image_tags.0"),
        ({"image_tags": ["a", "a"]}, "the same item twice"),
        ({"image_tags": list("abcdef")}, "at most 5"),
        ({"packages": [1]}, "version.packages.0"),
        ({"datastore_manager": "oracle"}, "no datastore manager 'oracle'"),
        ({"datastore_name": "versions"}, "cannot have the name 'versions'"),
        ({"name": "a" * 151}, "at most 150"),
    ],
)
def test_a_version_that_makes_no_sense_is_refused(
    api: api_fixture.Api, image: str, values: dict[str, Any], text: str
) -> None:
    fault = send(api, "POST", PATH, create_body(image, **values), status=400)
    assert text in fault["message"]
    assert versions(api) == []
    assert api.get("/datastores", roles="admin") == {"datastores": []}


def test_names_of_versions_are_unique_with_their_number(api: api_fixture.Api, image: str) -> None:
    send(api, "POST", PATH, create_body(image, version="1"), status=202)
    fault = send(api, "POST", PATH, create_body(image, version="1"), status=400)
    assert fault["message"] == 'A datastore version with the name "10.11" already exists.'
    send(api, "POST", PATH, create_body(image, version="2"), status=202)
    ambiguous = api.request("GET", "/datastores/mariadb/versions/10.11", status=400)
    assert "Multiple datastore versions" in ambiguous.text
    second = next(each["id"] for each in versions(api) if each["version"] == "2")
    # the id says which, the name could not
    send(api, "PATCH", f"{PATH}/{second}", {"default": True}, status=202)
    assert [each["id"] for each in versions(api) if each["default"]] == [second]


def test_tags_choose_the_image_when_an_instance_is_made(api: api_fixture.Api, image: str) -> None:
    body = create_body("", image=None, image_tags=["mariadb"])
    send(api, "POST", PATH, body, status=202)
    (version,) = versions(api)
    assert (version["image"], version["image_tags"]) == (None, ["mariadb"])
    assert api.create_instance()


def test_images_that_cannot_be_looked_up_are_a_503(api: api_fixture.Api, image: str) -> None:
    error = exception.DriverError(service="images", reason="/etc/secret")
    api.images.injector.fail("get_image", error)
    fault = send(api, "POST", PATH, create_body(image), status=503)
    assert "/etc" not in fault["message"]


def test_a_version_is_changed_by_what_the_flat_body_names(api: api_fixture.Api, image: str) -> None:
    (version_id,) = api.add_datastore(default=False)
    path = f"{PATH}/{version_id}"
    before = api.get(path, roles="admin")["version"]
    change = {"name": "new", "packages": ["p"], "active": False, "default": True}
    send(api, "PATCH", path, change, status=202)
    assert api.get(path, roles="admin")["version"] == {**before, **change}
    change = {"image": image, "image_tags": ["mariadb"], "default": False, "repl_strategy": "r"}
    send(api, "PATCH", path, change, status=202)
    after = api.get(path, roles="admin")["version"]
    assert {key: after[key] for key in change} == change
    assert after["name"] == "new"


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({}, "at least 1"),
        ({"version": {"name": "x"}}, "unknown keys 'version'"),
        ({"datastore_name": "x"}, "unknown keys"),
        ({"image": models.new_id()}, "cannot be found"),
        ({"datastore_manager": "oracle"}, "no datastore manager"),
        ({"name": "11.4"}, "already exists"),
    ],
)
def test_a_change_that_makes_no_sense_is_refused(
    api: api_fixture.Api, body: dict[str, Any], text: str
) -> None:
    first, _ = api.add_datastore(versions=("10.11", "11.4"))
    with api.database.writer() as session:
        # what is unique is name and number together
        datastores.change_version(
            session, first, {"version": "11.4"}, is_default=None, now=api.clock.now()
        )
    before = versions(api)
    assert text in send(api, "PATCH", f"{PATH}/{first}", body, status=400)["message"]
    assert versions(api) == before


def test_an_unknown_version_is_a_bad_request(api: api_fixture.Api) -> None:
    path = f"{PATH}/{models.new_id()}"
    api.request("GET", path, roles="admin", status=400)
    send(api, "PATCH", path, {"active": True}, status=400)
    send(api, "DELETE", path, status=400)


def test_what_is_used_is_not_removed_and_then_its_name_is_free(
    api: api_fixture.Api, image: str
) -> None:
    (version_id,) = api.add_datastore(versions=("10.11",))
    instance_id = api.create_instance()
    path = f"{PATH}/{version_id}"
    group = api.request(
        "POST", "/configurations", {"configuration": {"name": "c", "values": {}}}, status=200
    ).json["configuration"]["id"]
    fault = send(api, "DELETE", path, status=400)
    assert "1 instance and 1 configuration" in fault["message"]
    fault = send(api, "DELETE", "/datastores/mariadb", status=400)
    assert "has versions" in fault["message"]
    with api.database.writer() as session:
        instances.mark_deleted(session, instance_id, now=api.clock.now())
    api.request("DELETE", f"/configurations/{group}", status=202)
    # the instance that was deleted still refers to the version
    send(api, "DELETE", path, status=202)
    send(api, "DELETE", path, status=400)
    assert versions(api) == []
    assert api.get("/datastores", roles="admin")["datastores"][0]["versions"] == []
    api.request("GET", f"/datastores/versions/{version_id}", status=400)
    send(api, "POST", PATH, create_body(image), status=202)
    (again,) = versions(api)
    assert again["id"] != version_id
    send(api, "DELETE", f"{PATH}/{again['id']}", status=202)
    send(api, "DELETE", "/datastores/mariadb", status=202)
    send(api, "DELETE", "/datastores/mariadb", status=404)
    assert api.get("/datastores", roles="admin") == {"datastores": []}
    send(api, "POST", PATH, create_body(image), status=202)


def test_an_instance_is_not_made_of_a_version_that_is_removed_meanwhile(
    database: base.Database,
) -> None:
    api = api_fixture.make_api(database)
    (version_id,) = api.add_datastore()
    service = Versions(database=database, images=None, clock=api.clock)
    api.volumes.injector.watch = lambda method: service.delete(version_id)
    body = {"instance": {"name": "x", "flavorRef": "1", "volume": {"size": 1}}}
    refused = api.request("POST", "/instances", body, status=400)
    assert "removed" in refused.text
    assert api.get(f"/mgmt/quotas/{api_fixture.PROJECT}")["quotas"][0]["in_use"] == 0


def test_versions_remove_their_default_and_their_associations(api: api_fixture.Api) -> None:
    (version_id,) = api.add_datastore()
    service = Versions(database=api.database, images=None, clock=api.clock)
    service.associate(associations.FLAVORS, version_id, ["1"])
    send(api, "DELETE", f"{PATH}/{version_id}", status=202)
    assert service.list_associations(associations.FLAVORS, version_id) == []
    (shown,) = api.get("/datastores", roles="admin")["datastores"]
    assert "default_version" not in shown


def test_flavors_and_volume_types_are_those_of_the_version(api: api_fixture.Api) -> None:
    (version_id,) = api.add_datastore()
    api.volumes.types = [
        VolumeType(id="id-slow", name="slow"),
        VolumeType(id="id-fast", name="fast", description="solid state"),
    ]
    path = "/datastores/mariadb/versions/10.11"
    assert len(api.get(f"{path}/flavors")["flavors"]) == 4
    fast, slow = api.get(f"{path}/volume-types")["volume_types"]
    assert fast == {
        "id": "id-fast",
        "name": "fast",
        "is_public": True,
        "description": "solid state",
    }
    service = Versions(database=api.database, images=None, clock=api.clock)
    service.associate(associations.FLAVORS, version_id, ["2", "3"])
    service.associate(associations.VOLUME_TYPES, version_id, ["slow"])
    flavors = api.get(f"/datastores/mariadb/versions/{version_id}/flavors")["flavors"]
    assert [each["str_id"] for each in flavors] == ["2", "3"]
    assert api.get(f"{path}/volume-types")["volume_types"] == [slow]
    for what in ("flavors", "volume-types"):
        api.request("GET", f"/datastores/mariadb/versions/9/{what}", status=404)
        api.request("GET", f"/datastores/nothing/versions/10.11/{what}", status=404)


def test_only_associated_flavors_and_volume_types_can_be_used(api: api_fixture.Api) -> None:
    (version_id,) = api.add_datastore()
    api.volumes.types = [VolumeType(id="s", name="slow"), VolumeType(id="f", name="fast")]

    def attempt(flavor: str, volume_type: str | None) -> int:
        volume = {"size": 1, "type": volume_type}
        body = {"instance": {"name": "x", "flavorRef": flavor, "volume": volume}}
        return int(api.request("POST", "/instances", body).status_int)

    assert [attempt("1", "fast"), attempt("1", "s"), attempt("1", None)] == [200, 200, 200]
    assert attempt("1", "nothing") == 400
    service = Versions(database=api.database, images=None, clock=api.clock)
    service.associate(associations.FLAVORS, version_id, ["2"])
    service.associate(associations.VOLUME_TYPES, version_id, ["fast"])
    assert [attempt("1", "fast"), attempt("2", "slow"), attempt("2", "s")] == [400, 400, 400]
    assert [attempt("2", "fast"), attempt("2", "f"), attempt("2", None)] == [200, 200, 200]
    with api.database.reader() as session:
        rows = session.query(models.Instance.volume_type).filter_by(flavor_id="2")
        assert sorted(row.volume_type for row in rows) == ["f", "fast", "fast"]
    service.associate(associations.VOLUME_TYPES, version_id, ["slow"])
    assert attempt("2", None) == 400
    service.dissociate(associations.FLAVORS, version_id, ["2"])
    service.dissociate(associations.VOLUME_TYPES, version_id, ["slow", "fast"])
    assert attempt("1", "slow") == 200


def test_a_resize_keeps_to_the_flavors_of_the_version(api: api_fixture.Api) -> None:
    (version_id,) = api.add_datastore()
    instance_id = api.create_instance(active=True)
    service = Versions(database=api.database, images=None, clock=api.clock)
    service.associate(associations.FLAVORS, version_id, ["1", "2"])
    path = f"/instances/{instance_id}/action"
    api.request("POST", path, {"resize": {"flavorRef": "3"}}, status=400)
    api.request("POST", path, {"resize": {"flavorRef": "2"}}, status=202)


def test_volume_types_that_cannot_be_listed_are_a_503(api: api_fixture.Api) -> None:
    api.add_datastore()
    error = exception.DriverError(service="volumes", reason="/etc/secret")
    api.volumes.injector.fail("list_volume_types", error)
    path = "/datastores/mariadb/versions/10.11/volume-types"
    assert "/etc" not in api.request("GET", path, status=503).text
    assert api.get(path) == {"volume_types": []}
