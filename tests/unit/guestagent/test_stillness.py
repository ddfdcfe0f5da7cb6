"""Processes that stand still with all that they started."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from tests.fixtures.waiting import wait_until
from trove.common import concurrency
from trove.guestagent.system import process, stillness

CLOCK = concurrency.SystemClock()
#: Children of children, each of which counts lines.
TREE = "sh -c 'while :; do echo; done' & while :; do echo; done"


@pytest.fixture
def tree() -> Iterator[subprocess.Popen[bytes]]:
    """Give a process whose child writes as it does itself."""
    with subprocess.Popen(["sh", "-c", TREE], stdout=subprocess.PIPE, process_group=0) as root:
        yield root
        identity = process.identify(root.pid)
        assert identity is not None
        stillness.let_go(identity)
        subprocess.run(["kill", "-9", "--", f"-{root.pid}"], check=True)


def identity_of(root: subprocess.Popen[bytes]) -> process.Identity:
    found = process.identify(root.pid)
    assert found is not None
    return found


def states(root: subprocess.Popen[bytes]) -> set[str]:
    """Return the states of all processes of a group."""
    listed = subprocess.run(
        ["ps", "-o", "state=", "--ppid", str(root.pid), "--pid", str(root.pid)],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(listed.stdout.split())


def test_a_tree_is_held_and_let_go(tree: subprocess.Popen[bytes]) -> None:
    root = identity_of(tree)
    assert tree.stdout is not None
    tree.stdout.readline()
    for _ in range(2):
        stillness.hold(root, timeout_s=10, clock=CLOCK)
        assert stillness.is_held(root)
        assert states(tree) == {"T"}
    for _ in range(2):
        stillness.let_go(root)
    wait_until(lambda: "T" not in states(tree))
    assert not stillness.is_held(root)


def test_a_process_that_is_gone_is_told_of() -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as child:
        root = identity_of(child)
    with pytest.raises(ProcessLookupError):
        stillness.hold(root, timeout_s=10, clock=CLOCK)
    stillness.let_go(root)
    assert not stillness.is_held(root)
