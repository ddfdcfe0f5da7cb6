"""This release and the one before understand each other on the guest channel.

``previous_release.json`` was written by :mod:`tests.fixtures.recorded_payloads` on the release
before;
it is replaced when this one is out.
"""

from __future__ import annotations

import json
import pathlib
from typing import Any

import pytest

from tests.fixtures import recorded_payloads
from trove.rpc import payloads

_FILE = pathlib.Path(__file__).parent / "previous_release.json"
_PREVIOUS: dict[str, Any] = json.loads(_FILE.read_text(encoding="utf-8"))


def _covers(now: Any, before: Any) -> bool:
    """Tell whether everything that was there is there, the same, whatever there is besides."""
    if isinstance(before, dict):
        return isinstance(now, dict) and all(
            name in now and _covers(now[name], value) for name, value in before.items()
        )
    if isinstance(before, list):
        return isinstance(now, list) and all(map(_covers, now, before))
    return type(now) is type(before) and bool(now == before)


@pytest.mark.parametrize("name", sorted(_PREVIOUS["payloads"]))
def test_payloads_of_the_release_before_are_read(name: str) -> None:
    for example in _PREVIOUS["payloads"][name].values():
        read = getattr(payloads, name).from_wire(example)
        assert _covers(read.to_wire(), example)


@pytest.mark.parametrize("name", sorted(_PREVIOUS["payloads"]))
def test_payloads_hold_all_that_the_release_before_reads(name: str) -> None:
    now = recorded_payloads.record()["payloads"][name]
    before = _PREVIOUS["payloads"][name]
    assert _covers(now["all"], before["all"])
    # what it needs is sent, and nothing more is needed of it
    assert before["least"].keys() == now["least"].keys()


def test_release_before_is_asked_what_it_knows_and_answered_what_it_asks() -> None:
    now = recorded_payloads.record()
    for registry in ("calls", "jobs", "reports"):
        for name, types in _PREVIOUS[registry].items():
            assert now[registry][name] == types


def test_example_holds_every_field() -> None:
    wire = recorded_payloads.record()["payloads"]["Heartbeat"]
    assert None not in wire["all"].values()
    assert set(wire["least"]) == {"boot", "sequence", "service_status"}
