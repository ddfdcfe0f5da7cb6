"""Volumes of snapshots become databases of others, wherever an agent is killed on the way."""

from __future__ import annotations

import itertools
import json
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from tests.fixtures.syncing import no_syncing
from trove.common import exception
from trove.guestagent import state
from trove.guestagent.backup import adopting, freezing
from trove.guestagent.datastores import base
from trove.guestagent.system import filesystem, users

__all__ = ["no_syncing"]

MARKER = {"format": 1, "backup_id": "b", "manager": "mariadb", "engine_version": "10.11.6"}


class Part(base.Backup):
    """An engine that takes over what the former agent kept."""

    def adopt(self, work: pathlib.Path, kept: pathlib.Path) -> None:
        if (kept / "users.json").exists():
            (work / "users").write_text((kept / "users.json").read_text())

    def estimate_bytes(self) -> int:
        raise AssertionError

    def open_full(self) -> base.Stream:
        raise AssertionError

    def check(self, facts: Mapping[str, Any]) -> None:
        raise AssertionError

    def restore(self, recovery: base.Recovery, work: pathlib.Path) -> dict[str, Any]:
        raise AssertionError

    def verify(self, work: pathlib.Path) -> dict[str, Any]:
        raise AssertionError


class Killed(BaseException):
    """The agent was."""


@pytest.fixture
def places(tmp_path: pathlib.Path) -> Callable[[], state.Layout]:
    """Return what makes volumes of a snapshot, each a new one."""
    numbers = itertools.count()

    def make() -> state.Layout:
        root = tmp_path / str(next(numbers))
        layout = state.Layout(
            state_dir=root / "state", mount_point=root / "volume", engine_user=users.current()
        )
        for name in ("data", "data.verify", "tmp", "tls", "agent/logs", "lost+found"):
            (layout.mount_point / name).mkdir(parents=True)
        for name in ("data/rows", "tls/key", "agent/archive.json", "agent/logs/error", "stray"):
            (layout.mount_point / name).write_text(name)
        (layout.mount_point / "agent/users.json").write_text("joe")
        (layout.mount_point / "agent/restored.json").write_text('{"snapshot": "other"}')
        (layout.volume_agent_dir / freezing.MARKER).write_text(json.dumps(MARKER))
        return layout

    return make


def adopt(layout: state.Layout) -> str:
    """Do what the job does."""
    adoption = adopting.Adoption(Part(), manager="mariadb", layout=layout)
    done = adoption.find_done("b")
    version = done or adoption.check("b")
    if done is None:
        adoption.clear()
        adoption.place("b", engine_version=version)
    adoption.forget()
    return version


def names(layout: state.Layout) -> list[str]:
    root = layout.mount_point
    return sorted(
        str(pathlib.Path(folder, name).relative_to(root))
        for folder, _, files in os.walk(root)
        for name in files
    )


ADOPTED = ["agent/restored.json", "data/rows", "data/users"]


def test_nothing_of_the_former_instance_is_left_but_its_data(
    places: Callable[[], state.Layout],
) -> None:
    layout = places()
    for _ in range(2):
        assert adopt(layout) == "10.11.6"
        assert names(layout) == ADOPTED
    assert (layout.data_dir / "users").read_text() == "joe"
    assert (layout.mount_point / "lost+found").is_dir()


def test_agents_that_are_killed_anywhere_lose_nothing(
    places: Callable[[], state.Layout], monkeypatch: pytest.MonkeyPatch
) -> None:
    acts = 0

    def before(real: Callable[..., Any], die_at: int) -> Callable[..., Any]:
        def act(*args: Any, **options: Any) -> Any:
            nonlocal acts
            acts += 1
            if acts == die_at:
                raise Killed
            return real(*args, **options)

        return act

    for die_at in itertools.count(1):
        layout, acts = places(), 0
        with monkeypatch.context() as patches:
            for owner, name in (
                (pathlib.Path, "rename"),
                (pathlib.Path, "unlink"),
                (filesystem, "remove_tree"),
                (filesystem, "write_file"),
            ):
                patches.setattr(owner, name, before(getattr(owner, name), die_at))
            try:
                adopt(layout)
            except Killed:
                pass
            else:
                break
        assert adopt(layout) == "10.11.6"
        assert names(layout) == ADOPTED
        assert (layout.data_dir / "users").read_text() == "joe"
    assert die_at > 10


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"backup_id": "other"}, "does not hold the snapshot of backup b"),
        ({"manager": "mysql"}, "a snapshot of mysql, not of mariadb"),
        ({"format": 2}, "by a later release"),
    ],
)
def test_what_is_something_else_is_left_as_it_is(
    places: Callable[[], state.Layout], changes: dict[str, Any], expected: str
) -> None:
    layout = places()
    marker = layout.volume_agent_dir / freezing.MARKER
    marker.write_text(json.dumps(MARKER | changes))
    before = names(layout)
    with pytest.raises(exception.GuestError, match=expected):
        adopt(layout)
    marker.unlink()
    with pytest.raises(exception.GuestError, match="does not hold"):
        adopt(layout)
    before.remove(f"agent/{freezing.MARKER}")
    assert names(layout) == before
