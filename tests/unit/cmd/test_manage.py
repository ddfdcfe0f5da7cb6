"""trove-manage and trove-status on a real database."""

from __future__ import annotations

import datetime
import json
import logging
import pathlib
from collections.abc import Callable, Iterator

import pytest

from trove import conf as trove_conf
from trove.cmd import manage, status_checks
from trove.common import crypto, exception
from trove.db import base, datastores, instances, operations
from trove.drivers import factory
from trove.drivers.image import base as image_base

Run = Callable[..., tuple[int, str, str]]
NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


class OneImage(image_base.ImageDriver):
    """An image driver that finds the version it is told to."""

    version = "10.11.19"

    def __init__(self) -> None:
        self.images: dict[str, image_base.Image] = {}

    def import_image(
        self,
        *,
        manager: str,
        name: str,
        file: str | None,
        image_id: str | None,
        version: str | None = None,
    ) -> image_base.Image:
        """Return the image of the version."""
        image_id = image_id or f"image-{self.version}"
        image = image_base.Image(
            id=image_id,
            name=name,
            manager=manager,
            version=self.version,
            tags=(manager,),
            agent_version="1.2",
        )
        self.images[image_id] = image
        return image

    def get_image(self, image_id: str) -> image_base.Image:
        """Return an image."""
        if image_id not in self.images:
            raise exception.ImageNotFound(image_id=image_id)
        return self.images[image_id]

    def list_images(self) -> list[image_base.Image]:
        """Return all images."""
        return list(self.images.values())

    def delete_image(self, image_id: str) -> None:
        """Remove an image."""
        self.images.pop(image_id, None)


@pytest.fixture
def config(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "trove.conf"
    path.write_text(f"[database]\nconnection = sqlite:///{tmp_path}/t.db\n")
    return path


@pytest.fixture
def run(config: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*args: str) -> tuple[int, str, str]:
        code = manage.main(["--config-file", str(config), *args])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


@pytest.fixture
def images(monkeypatch: pytest.MonkeyPatch) -> OneImage:
    driver = OneImage()
    monkeypatch.setattr(factory, "load_image", lambda conf: driver)
    return driver


@pytest.fixture
def database(run: Run, config: pathlib.Path) -> Iterator[base.Database]:
    assert run("db", "sync")[0] == 0
    made = base.Database(f"sqlite:///{config.parent}/t.db")
    yield made
    made.dispose()


def test_the_schema_is_brought_to_the_newest_version(run: Run) -> None:
    code, _, err = run("db", "version")
    assert code == 1
    assert "trove-manage db sync" in err
    code, out, _ = run("db", "sync")
    assert (code, "went to" in out) == (0, True)
    code, out, _ = run("db", "sync")
    assert (code, "is at" in out) == (0, True)
    assert run("db", "version")[0] == 0


def test_an_unusable_database_is_said_without_a_traceback(run: Run, config: pathlib.Path) -> None:
    config.write_text("[database]\nconnection = sqlite:////nonexistent/t.db\n")
    code, _, err = run("operation", "list")
    assert code == 1
    assert "[database] connection" in err
    config.write_text("[database\n")
    code, _, err = run("operation", "list")
    assert code == 1
    assert "Configuration error" in err


@pytest.mark.usefixtures("database")
def test_importing_registers_datastore_version_image_and_default(
    run: Run, images: OneImage
) -> None:
    for _ in range(2):
        code, out, _ = run("image", "import", "--datastore", "mariadb")
        assert code == 0
        assert "10.11.19" in out
    (row,) = json.loads(run("datastore", "list", "--json")[1])
    assert (row["version"], row["engine"], row["image"], row["default"], row["active"]) == (
        "10.11.19",
        "10.11.19",
        "image-10.11.19",
        True,
        True,
    )
    assert "10.11.19" in run("datastore", "list")[1]


@pytest.mark.usefixtures("database")
def test_a_newer_engine_takes_over_its_name_and_the_default_when_asked(
    run: Run, images: OneImage
) -> None:
    named = ("image", "import", "--datastore", "mariadb", "--datastore-version", "10.11")
    run(*named)
    images.version = "10.11.20"
    run(*named, "--default")
    rows = json.loads(run("datastore", "list", "--json")[1])
    assert {(row["engine"], row["active"], row["default"]) for row in rows} == {
        ("10.11.19", False, False),
        ("10.11.20", True, True),
    }


@pytest.mark.usefixtures("database")
def test_an_inactive_version_does_not_replace_the_active_one(run: Run, images: OneImage) -> None:
    run("image", "import", "--datastore", "mariadb")
    images.version = "11.4.1"
    run("image", "import", "--datastore", "mariadb", "--inactive")
    rows = json.loads(run("datastore", "list", "--json")[1])
    assert {(row["version"], row["active"], row["default"]) for row in rows} == {
        ("10.11.19", True, True),
        ("11.4.1", False, False),
    }


@pytest.mark.usefixtures("database", "images")
def test_an_unknown_manager_is_refused_with_the_known_ones(run: Run) -> None:
    code, _, err = run("image", "import", "--datastore", "oracle")
    assert code == 1
    assert "'oracle'" in err
    assert "mariadb" in err


def _operation(database: base.Database) -> str:
    with database.writer() as session:
        version = datastores.upsert_version(
            session,
            datastores.NewVersion(
                datastore_name="mariadb",
                name="10.11",
                version="10.11.19",
                manager="mariadb",
                image_id="i",
            ),
            make_default=True,
            now=NOW,
        )
        instances.create_instance(
            session,
            instances.NewInstance(
                id="i1",
                project_id="p1",
                user_id="u1",
                name="db1",
                datastore_version_id=version.id,
                flavor_id="1",
                flavor_ram_mib=256,
                key_wrapped=b"k",
            ),
            now=NOW,
        )
        operation_id = operations.create(
            session,
            kind=operations.CREATE_INSTANCE,
            resource_id="i1",
            lock_key="instance:i1",
            deadline=NOW,
            now=NOW,
            project_id="p1",
        )
        operations.journal(
            session, operation_id, step="create_port", event="started", now=NOW, message="hello"
        )
    return operation_id


def test_an_operation_is_shown_with_where_its_time_went(run: Run, database: base.Database) -> None:
    operation_id = _operation(database)
    with database.writer() as session:
        for step, timings in (
            ("create_port", {"total": 2.5, "network": 2.0}),
            ("await_server", {"total": 11.25, "compute": 11.0}),
        ):
            operations.journal(
                session, operation_id, step=step, event="done", timings=timings, now=NOW
            )
    lines = run("operation", "show", operation_id)[1].splitlines()
    assert lines[-4].split() == ["STEP", "TOTAL", "COMPUTE", "NETWORK", "OWN"]
    assert lines[-3].split() == ["create_port", "2.5", "2.0", "0.5"]
    assert lines[-1].split() == ["all", "13.75", "11.0", "2.0", "0.75"]
    shown = json.loads(run("operation", "show", operation_id, "--json")[1])
    assert shown["timings"]["overhead"] == 0.75
    assert shown["journal"][-1]["seconds"] == 11.25


def test_operations_are_listed_shown_and_cancelled(run: Run, database: base.Database) -> None:
    operation_id = _operation(database)
    assert operation_id in run("operation", "list", "--active", "--instance", "i1")[1]
    assert json.loads(run("operation", "list", "--instance", "other", "--json")[1]) == []
    _, out, _ = run("operation", "show", operation_id)
    assert "create_port" in out
    assert "hello" in out
    assert json.loads(run("operation", "show", operation_id, "--json")[1])["journal"]
    assert run("operation", "cancel", operation_id)[0] == 0
    with database.reader() as session:
        assert operations.get(session, operation_id).cancel == operations.UNDO
    code, _, err = run("operation", "show", "nothing")
    assert code == 1
    assert "nothing" in err


def test_what_is_logged_is_no_part_of_the_answer(
    run: Run, database: base.Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    operation_id = _operation(database)
    list_journal = operations.list_journal

    def list_and_log(*args: object) -> object:
        logging.getLogger("trove.test").error("a library complains")
        return list_journal(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(operations, "list_journal", list_and_log)
    _, out, err = run("operation", "show", operation_id, "--json")
    assert json.loads(out)["id"] == operation_id
    assert "a library complains" in err


def test_instances_of_all_projects_are_listed(run: Run, database: base.Database) -> None:
    _operation(database)
    (row,) = json.loads(run("instance", "list", "--json")[1])
    assert (row["id"], row["project"], row["status"]) == ("i1", "p1", "BUILD")
    assert "mariadb 10.11" in run("instance", "list")[1]


def test_a_generated_key_is_one_that_the_configuration_takes(run: Run) -> None:
    _, out, _ = run("key", "generate")
    assert len(crypto.decode_key(out)) == crypto.KEY_BYTES
    assert out != run("key", "generate")[1]


def test_the_upgrade_check_fails_without_schema_and_keys(config: pathlib.Path, run: Run) -> None:
    conf = trove_conf.new()
    conf([], project="trove", default_config_files=[str(config)])
    checks = status_checks.Checks(conf)
    assert "db sync" in (checks.check_schema().details or "")
    assert "key generate" in (checks.check_keys().details or "")
    run("db", "sync")
    key = crypto.encode_key(crypto.generate_key())
    conf.set_override("key_encryption_keys", [key], group="guest")
    assert checks.check_schema().details is None
    assert checks.check_keys().details is None


@pytest.mark.usefixtures("database", "images")
def test_a_datastore_cannot_have_the_name_of_a_path(run: Run) -> None:
    code, _, err = run("image", "import", "--datastore", "versions", "--manager", "mariadb")
    assert code == 1
    assert "'versions'" in err


@pytest.mark.usefixtures("database")
def test_the_default_is_the_version_that_is_named(run: Run, images: OneImage) -> None:
    run("image", "import", "--datastore", "mariadb", "--datastore-version", "old")
    images.version = "11.4.1"
    run("image", "import", "--datastore", "mariadb", "--datastore-version", "new")
    code, out, _ = run("datastore", "default", "mariadb", "new")
    assert (code, "new" in out) == (0, True)
    rows = json.loads(run("datastore", "list", "--json")[1])
    assert {row["version"]: row["default"] for row in rows} == {"old": False, "new": True}
    for unknown in (("mariadb", "x"), ("x", "new")):
        assert run("datastore", "default", *unknown)[0] == 1


@pytest.mark.usefixtures("database", "images")
@pytest.mark.parametrize("kind", ["version-flavor", "version-volume-type"])
def test_versions_are_associated_and_no_longer(run: Run, kind: str) -> None:
    run("image", "import", "--datastore", "mariadb")
    version = ("mariadb", "10.11.19")
    command = ("datastore", kind)
    for _ in range(2):
        code, out, _ = run(*command, "add", *version, "2", "1")
        assert (code, "1, 2" in out) == (0, True)
    assert json.loads(run(*command, "list", *version, "--json")[1]) == [{"id": "1"}, {"id": "2"}]
    assert "2" in run(*command, "list", *version)[1]
    code, out, _ = run(*command, "delete", *version, "1", "2")
    assert (code, "all" in out) == (0, True)
    code, _, err = run(*command, "delete", *version, "1")
    assert (code, "not associated" in err) == (1, True)


def test_quotas_are_shown_set_and_counted_anew(run: Run, database: base.Database) -> None:
    _operation(database)
    code, out, _ = run("quota", "update", "p1", "instances=3", "ram=-1")
    assert (code, "3 of instances" in out) == (0, True)
    for wrong in ("hats=1", "ram=x", "ram", "ram=-2"):
        assert run("quota", "update", "p1", wrong)[0] == 1
    (drift, *_) = json.loads(run("quota", "resync", "--dry-run", "--json")[1])
    assert drift == {"project_id": "p1", "resource": "instances", "recorded": 0, "counted": 1}
    assert "256" in run("quota", "resync", "p1")[1]
    assert "right" in run("quota", "resync")[1]
    shown = json.loads(run("quota", "show", "p1", "--json")[1])
    assert shown[0] == {"resource": "instances", "in_use": 1, "reserved": 0, "limit": 3}
    assert "IN USE" in run("quota", "show", "p1")[1]


@pytest.mark.usefixtures("database", "images")
def test_images_are_listed_with_the_versions_that_use_them(run: Run) -> None:
    run("image", "import", "--datastore", "mariadb", "--datastore-version", "10.11")
    (row,) = json.loads(run("image", "list", "--json")[1])
    assert (row["id"], row["manager"], row["engine"], row["agent"], row["status"]) == (
        "image-10.11.19",
        "mariadb",
        "10.11.19",
        "1.2",
        "active",
    )
    assert row["used_by"] == "mariadb 10.11 (engine 10.11.19)"
    assert "image-10.11.19" in run("image", "list")[1]


@pytest.mark.usefixtures("database")
def test_an_image_is_deleted_only_when_no_version_uses_it(run: Run, images: OneImage) -> None:
    run("image", "import", "--datastore", "mariadb", "--datastore-version", "10.11")
    code, _, err = run("image", "delete", "image-10.11.19")
    assert code == 1
    assert "used by mariadb 10.11 (engine 10.11.19)" in err
    # the same version, from another image
    run("image", "import", "--datastore", "mariadb", "--datastore-version", "10.11", *_ID)
    code, out, _ = run("image", "delete", "image-10.11.19")
    assert (code, "is deleted" in out) == (0, True)
    assert set(images.images) == {"other"}
    code, _, err = run("image", "delete", "image-10.11.19")
    assert code == 1
    assert "cannot be found" in err


_ID = ("--image-id", "other")


def test_an_image_that_a_version_finds_by_its_tags_is_not_deleted(
    run: Run, images: OneImage, database: base.Database
) -> None:
    run("image", "import", "--datastore", "mariadb")
    with database.writer() as session:
        datastores.upsert_version(
            session,
            datastores.NewVersion(
                datastore_name="mariadb",
                name="10.11.19",
                version="10.11.19",
                manager="mariadb",
                image_id=None,
            ),
            make_default=False,
            now=NOW,
        )
        version = datastores.list_datastores(session)[0].versions[0]
        datastores.change_version(
            session, version.id, {"image_tags": ["mariadb"]}, is_default=None, now=NOW
        )
    code, _, err = run("image", "delete", "image-10.11.19")
    assert code == 1
    assert "used by mariadb 10.11.19" in err


@pytest.mark.usefixtures("database")
def test_nothing_is_registered_when_the_image_cannot_be_had(run: Run, images: OneImage) -> None:
    def refuse(**arguments: object) -> image_base.Image:
        raise exception.DriverError(service="Image import", reason="no such file")

    images.import_image = refuse
    code, out, err = run("image", "import", "--datastore", "mariadb", "--default")
    assert (code, out) == (1, "")
    assert "no such file" in err
    assert json.loads(run("datastore", "list", "--json")[1]) == []


@pytest.mark.usefixtures("images")
def test_an_unusable_database_is_said_before_anything_is_uploaded(
    run: Run, images: OneImage
) -> None:
    assert run("image", "import", "--datastore", "mariadb")[0] == 1
    assert images.images == {}
