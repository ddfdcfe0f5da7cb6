"""What 'pip install' of a clean clone brings: scripts, data files, metadata."""

from __future__ import annotations

import configparser
import email
import pathlib
import subprocess
import sys
import zipfile

import pytest

from tests.fixtures import project


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Build a wheel from a clone, so that only what is committed can be in it."""
    if not (project.ROOT / ".git").exists():
        pytest.skip("needs a git checkout to clone")
    directory = tmp_path_factory.mktemp("packaging")
    clone = directory / "clone"
    subprocess.run(
        ["git", "clone", "--quiet", str(project.ROOT), str(clone)], check=True, timeout=120
    )
    # without isolation nothing is downloaded: pbr and setuptools are requirements of the tests
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"),
            *("--no-build-isolation", "--wheel-dir", str(directory), str(clone)),
        ],
        check=True,
        timeout=240,
    )
    (path,) = directory.glob("trove-*.whl")
    return zipfile.ZipFile(path)


def _metadata(wheel: zipfile.ZipFile, name: str) -> str:
    (member,) = (item for item in wheel.namelist() if item.endswith(f".dist-info/{name}"))
    return wheel.read(member).decode()


def test_every_committed_file_of_the_package_is_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    committed = subprocess.run(
        ["git", "ls-tree", "-r", "--name-only", "HEAD", "trove"],
        cwd=project.ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    assert set(committed) <= set(wheel.namelist())
    suffixes = {pathlib.PurePath(name).suffix for name in wheel.namelist()}
    assert ".j2" in suffixes
    assert "trove/py.typed" in wheel.namelist()
    assert any(name.startswith("trove/db/migrations/versions/") for name in wheel.namelist())


def test_wheel_ships_the_samples(wheel: zipfile.ZipFile) -> None:
    names = "\n".join(wheel.namelist())
    assert "data/etc/trove/trove.conf.sample" in names
    assert "data/etc/trove/policy.yaml.sample" in names


def test_wheel_carries_no_tests(wheel: zipfile.ZipFile) -> None:
    assert {name.split("/")[0] for name in wheel.namelist() if ".d" not in name.split("/")[0]} == {
        "trove"
    }


def test_wheel_has_the_entry_points_of_setup_cfg(wheel: zipfile.ZipFile) -> None:
    parser = configparser.RawConfigParser()
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(_metadata(wheel, "entry_points.txt"))
    assert {group: dict(parser[group]) for group in parser.sections()} == project.entry_points()


def test_wheel_has_a_version_without_tags_and_the_licence(wheel: zipfile.ZipFile) -> None:
    metadata = email.message_from_string(_metadata(wheel, "METADATA"))
    assert metadata["Name"] == "trove"
    assert metadata["Version"].split(".")[0].isdigit()
    assert "Apache" in (metadata["License"] or metadata["License-Expression"])
    assert metadata["Requires-Python"] == ">=3.11"
    assert "pecan" in metadata.as_string()
