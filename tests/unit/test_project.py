"""The project's files fit each other: entry points, package data, README."""

from __future__ import annotations

import ast
import configparser
import importlib
import importlib.metadata
import os
import re
import stat
import subprocess
import sys

import pytest

from tests.fixtures import project

ENTRY_POINTS = [
    pytest.param(group, name, target, id=f"{group}/{name}")
    for group, names in project.entry_points().items()
    for name, target in names.items()
]


@pytest.mark.parametrize(("group", "name", "target"), ENTRY_POINTS)
def test_entry_point_names_something_callable(group: str, name: str, target: str) -> None:
    module, _, attribute = target.partition(":")
    assert callable(getattr(importlib.import_module(module), attribute))


def test_every_file_of_the_package_is_shipped() -> None:
    """pbr packs what git tracks: a data file that is not tracked is missing after 'pip install'."""
    if not (project.ROOT / ".git").exists():
        pytest.skip("not a git checkout: the files here are the ones that were packed")
    # files that are new to git show as untracked; those it is told to ignore would never show
    ignored = subprocess.run(
        ["git", "ls-files", "--others", "--ignored", "--exclude-standard", "trove"],
        cwd=project.ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    assert [name for name in ignored if "__pycache__" not in name] == []


def _imported(*, osc: bool = False) -> set[str]:
    """Return the top-level modules that the service imports, or those of the commands in osc."""
    found = set()
    for path in (project.ROOT / "trove").rglob("*.py"):
        if (path.parent.name == "osc") is not osc:
            continue
        for node in ast.walk(project.parse(path)):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
    return found - set(sys.stdlib_module_names) - {"trove"}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _names(requirements: str) -> set[str]:
    """Return the distributions of requirements, one a line."""
    return {
        _normal(re.split(r"[<>=!~ \[]", line)[0])
        for line in requirements.splitlines()
        if line and not line.startswith("#")
    }


def _distributions(modules: set[str]) -> dict[str, set[str]]:
    found = importlib.metadata.packages_distributions()
    return {module: {_normal(name) for name in found[module]} for module in modules}


def test_the_commands_of_the_openstack_client_need_the_extra_only() -> None:
    parser = configparser.RawConfigParser()
    parser.read(project.ROOT / "setup.cfg")
    extra = _names(parser["extras"]["osc"])
    imported = _distributions(_imported(osc=True))
    assert [module for module, names in imported.items() if not names & extra] == []


def test_requirements_are_what_the_package_imports() -> None:
    required = _names((project.ROOT / "requirements.txt").read_text())
    imported = _distributions(_imported())
    assert [module for module, names in imported.items() if not names & required] == []
    # imported by name only when the strategy is chosen, since it costs every other process memory
    by_name = {"keystonemiddleware"}
    assert required - set().union(*imported.values()) == by_name


def test_package_says_that_it_is_typed() -> None:
    assert (project.ROOT / "trove" / "py.typed").is_file()


def test_readme_shows_the_two_commands_and_they_are_there() -> None:
    readme = (project.ROOT / "README.rst").read_text()
    commands = re.findall(r"^\s+\$?\s*(tools/\S+)", readme, flags=re.MULTILINE)
    assert commands[:2] == ["tools/quickstart.sh", "tools/run-tests.sh"]
    for command in commands:
        path = project.ROOT / command
        assert path.is_file(), command
        assert os.stat(path).st_mode & stat.S_IXUSR, f"{command} is not executable"


def test_readme_points_at_files_that_exist() -> None:
    readme = (project.ROOT / "README.rst").read_text()
    paths = re.findall(r"``((?:doc|etc|tools|trove|tests)/[\w./-]*)``", readme)
    assert paths
    for path in paths:
        assert (project.ROOT / path).exists(), path


def test_licence_is_apache_2() -> None:
    text = (project.ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text


def test_tox_has_the_environments_that_the_documentation_names() -> None:
    tox = (project.ROOT / "tox.ini").read_text()
    for environment in ("functional", "integration", "pep8", "cover", "docs", "genconfig"):
        assert f"[testenv:{environment}]" in tox
