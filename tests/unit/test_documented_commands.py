"""Commands of the openstack client in the documentation are ones that the client takes."""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import pathlib
import re
import shlex
from collections.abc import Mapping

import pytest

from tests.fixtures import project

_PAGES = project.ROOT / "doc" / "source"
_GROUP = "openstack.database.v1"
_COMMAND = re.compile(r"^ +\$ openstack ((?:database|datastore) .*)$", re.MULTILINE)


def documented(page: pathlib.Path) -> list[str]:
    """Return the commands of a page, without comments and where their output goes."""
    text = re.sub(r" *\\\n +", " ", page.read_text(encoding="utf-8"))
    # what a reader puts in is one word
    text = re.sub(r"<([a-z -]+)>", lambda found: found[1].replace(" ", "-"), text)
    return [re.split(r" [|#>] ", found)[0].strip() for found in _COMMAND.findall(text)]


@pytest.fixture(scope="module")
def commands() -> Mapping[tuple[str, ...], str]:
    """Give the commands of python-troveclient and of this package: words -> class."""
    found = {each.name: each.value for each in importlib.metadata.entry_points(group=_GROUP)}
    found.update(project.entry_points()[_GROUP])
    return {tuple(name.split("_")): value for name, value in found.items()}


def _parse(line: str, commands: Mapping[tuple[str, ...], str]) -> None:
    words = shlex.split(line)
    # the words of a command may be those of another one and an argument
    for length in range(len(words), 1, -1):
        if (target := commands.get(tuple(words[:length]))) is not None:
            break
    else:
        raise AssertionError(f"there is no such command: {line}")
    module, _, name = target.partition(":")
    made = getattr(importlib.import_module(module), name)(argparse.Namespace(), None)
    parser = made.get_parser(" ".join(words[:length]))
    try:
        parser.parse_args(words[length:])
    except SystemExit as e:
        if e.code:
            raise AssertionError(f"these arguments are refused: {line}") from None


def test_every_documented_command_is_one_that_the_client_takes(
    commands: Mapping[tuple[str, ...], str],
) -> None:
    found = {
        f"{page.relative_to(_PAGES)}: {line}": line
        for page in sorted(_PAGES.rglob("*.rst"))
        for line in documented(page)
    }
    assert len(found) > 100
    wrong = []
    for where, line in found.items():
        try:
            _parse(line, commands)
        except AssertionError as e:
            wrong.append(f"{where}: {e}")
    assert wrong == []
