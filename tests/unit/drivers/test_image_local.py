"""Images of the local drivers: which engines are found, what is removed and what is not."""

from __future__ import annotations

import json
import os
import pathlib

import pytest
from oslo_config import cfg

from tests.fixtures.local import IMAGE_ID
from trove.common import exception
from trove.drivers import local_state
from trove.drivers.image.local import LocalImage, checked_engine_user, find_engine


def test_an_image_is_not_removed_while_a_server_runs_from_it(agent_conf: cfg.ConfigOpts) -> None:
    state = local_state.LocalState(agent_conf.local.state_dir)
    driver = LocalImage(agent_conf)
    assert [image.id for image in driver.list_images()] == [IMAGE_ID]
    server = state.directory("servers") / "some-instance"
    server.mkdir()
    (server / "server.json").write_text(json.dumps({"image_id": IMAGE_ID}))
    with pytest.raises(exception.DriverError, match="some-instance"):
        driver.delete_image(IMAGE_ID)
    (server / "server.json").unlink()
    for _ in range(2):
        driver.delete_image(IMAGE_ID)
        assert list(driver.list_images()) == []
    assert not state.image(IMAGE_ID).exists()


#: manager, program, what it says, the version in that.
ANSWERS = [
    ("mariadb", "mariadbd", "mariadbd  Ver 10.11.19-MariaDB-0+deb12u1 for debian", "10.11.19"),
    ("mysql", "mysqld", "mysqld  Ver 5.6.24 for linux-glibc2.5 on x86_64 (MySQL)", "5.6.24"),
    ("mysql", "mysqld", "/usr/sbin/mysqld  Ver 8.0.36-0ubuntu0.22.04.1 for Linux", "8.0.36"),
    ("postgresql", "postgres", "postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)", "15.18"),
    ("redis", "redis-server", "Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc", "7.0.15"),
    ("valkey", "valkey-server", "Valkey server v=9.1.2 sha=00000000:1 malloc=libc", "9.1.2"),
    ("mongodb", "mongod", "db version v6.0.27", "6.0.27"),
]


def _program(path: pathlib.Path, *, says: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(("manager", "name", "says", "version"), ANSWERS)
def test_an_engine_is_found_by_its_program_or_directory(
    tmp_path: pathlib.Path, manager: str, name: str, says: str, version: str
) -> None:
    program = _program(tmp_path / "bin" / name, says=says)
    assert find_engine(manager, program) == (program, version)
    assert find_engine(manager, str(tmp_path)) == (program, version)
    assert find_engine(manager, str(tmp_path / "bin")) == (program, version)


def test_of_several_versions_the_newest_is_taken_unless_one_is_named(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new, other = (
        _program(tmp_path / each / "valkey-server", says=f"Valkey server v={each}.0 sha=0")
        for each in ("8.9", "8.10", "7.2")
    )
    monkeypatch.setenv("PATH", os.pathsep.join(str(tmp_path / each) for each in ("8.9", "8.10")))
    assert find_engine("valkey", None) == (new, "8.10.0")
    assert find_engine("valkey", old) == (old, "8.9.0")
    assert find_engine("valkey", other) == (other, "7.2.0")


def test_a_program_that_acts_by_its_name_keeps_it(tmp_path: pathlib.Path) -> None:
    real = pathlib.Path(_program(tmp_path / "redis-check-rdb", says="Redis server v=7.0.15 sha"))
    (tmp_path / "redis-server").symlink_to(real)
    assert find_engine("redis", str(tmp_path)) == (str(tmp_path / "redis-server"), "7.0.15")


@pytest.mark.parametrize(
    ("manager", "words"),
    [
        ("postgresql", "apt-get install --no-install-recommends postgresql-15"),
        ("redis", "apt-get install --no-install-recommends redis-server"),
        ("mongodb", "mongodb-org-server"),
        ("valkey", "valkey-server"),
        ("mysql", "mysql-community-server"),
    ],
)
def test_a_missing_engine_is_told_of_with_what_to_install(
    tmp_path: pathlib.Path, manager: str, words: str
) -> None:
    with pytest.raises(exception.DriverError, match="is installed") as caught:
        find_engine(manager, str(tmp_path / "mongod"))
    assert words in str(caught.value)
    assert "--file" in str(caught.value)


def test_another_program_is_not_taken_for_the_engine(tmp_path: pathlib.Path) -> None:
    program = _program(tmp_path / "mysqld", says="mysqld  Ver 10.11.19-MariaDB for debian")
    with pytest.raises(exception.DriverError, match="is not the engine of mysql"):
        find_engine("mysql", program)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's agents run engines as other users")
def test_the_user_of_an_engine_is_named_for_it_alone_and_must_exist(conf: cfg.ConfigOpts) -> None:
    conf.set_override(
        "engine_users", {"mongodb": "nobody", "redis": "trove-no-such"}, group="local"
    )
    assert checked_engine_user(conf, "mongodb") == "nobody"
    with pytest.raises(exception.DriverError, match=r"useradd .* trove-no-such' as root"):
        checked_engine_user(conf, "redis")
