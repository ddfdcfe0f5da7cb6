"""The documentation builds, without a warning and without a network."""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys

import pytest

from tests.fixtures import project


def test_documentation_builds_without_warnings(tmp_path: pathlib.Path) -> None:
    if not (project.ROOT / ".git").exists():
        pytest.skip("the release notes are read from the git history")
    done = subprocess.run(
        [
            *(sys.executable, "-W", "ignore", "-m", "sphinx", "-q", "-W", "--keep-going"),
            *("-b", "html", "-d", str(tmp_path / "doctrees")),
            *(str(project.ROOT / "doc" / "source"), str(tmp_path / "html")),
        ],
        cwd=project.ROOT,
        env=project.environment_with_entry_points(tmp_path / "metadata"),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    pages = {path.name for path in (tmp_path / "html").rglob("*.html")}
    assert {"quickstart.html", "configuration.html", "policies.html", "operations.html"} <= pages
    assert "key_encryption_keys" in (tmp_path / "html/reference/configuration.html").read_text()
    assert "instance:create" in (tmp_path / "html/reference/policies.html").read_text()


def test_the_faults_that_are_listed_are_tried() -> None:
    page = project.ROOT / "doc" / "source" / "contributor" / "backup-faults.rst"
    listed = re.findall(r"``([\w/]+\.py)::(\w+)``", page.read_text(encoding="utf-8"))
    assert len(listed) > 30
    for path, name in listed:
        text = (project.ROOT / "tests" / path).read_text(encoding="utf-8")
        assert f"def {name}(" in text, f"{path}::{name}"
