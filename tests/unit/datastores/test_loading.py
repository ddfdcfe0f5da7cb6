"""The spec of one datastore, found without the others."""

from __future__ import annotations

import subprocess
import sys

import pytest

from trove.datastores import all as all_specs
from trove.datastores import loading, spec

assert all_specs


@pytest.mark.parametrize("manager", sorted(spec.registry()))
def test_every_spec_is_found_by_its_manager(manager: str) -> None:
    assert loading.find_spec(manager) is spec.registry()[manager]


@pytest.mark.parametrize("manager", ["", "oracle", "names", "../x", "Mongodb", "all"])
def test_what_is_no_manager_has_no_spec(manager: str) -> None:
    assert loading.find_spec(manager) is None


def test_an_agent_does_not_load_what_other_engines_are_made_of() -> None:
    program = (
        "import sys\n"
        "from trove.datastores import loading\n"
        "assert loading.find_spec('mongodb')\n"
        "print(sorted(name for name in sys.modules if name.startswith('trove.datastores.m')))\n"
        "print('jinja2' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    loaded, has_jinja = done.stdout.splitlines()
    assert "mariadb" not in loaded
    assert has_jinja == "False"
