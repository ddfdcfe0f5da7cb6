"""Modules on the guest: applied once, told of truthfully, kept within their directories."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import os
import pathlib
import stat
import uuid

import pytest

from trove.common import concurrency, exception
from trove.guestagent import modules, state
from trove.guestagent.modules import types
from trove.guestagent.system import users
from trove.rpc import payloads


def module(contents: bytes, kind: str = "ping", **changes: object) -> payloads.Module:
    values: dict[str, object] = {
        "id": str(uuid.uuid4()),
        "type": kind,
        "name": "m",
        "md5": hashlib.md5(contents, usedforsecurity=False).hexdigest(),
        "contents": base64.b64encode(contents).decode(),
        "tenant": "p",
        "datastore": "mariadb",
        "datastore_version": "10.11",
    }
    return payloads.Module(**(values | changes))  # type: ignore[arg-type]


@pytest.fixture
def layout(tmp_path: pathlib.Path) -> state.Layout:
    made = state.Layout(
        state_dir=tmp_path / "state", mount_point=tmp_path / "volume", engine_user=users.current()
    )
    made.mount_point.mkdir()
    return made


@pytest.fixture
def clock() -> concurrency.ManualClock:
    return concurrency.ManualClock()


@pytest.fixture
def guest(layout: state.Layout, clock: concurrency.ManualClock) -> modules.Modules:
    return modules.Modules(layout, clock=clock)


def apply(guest: modules.Modules, *wanted: payloads.Module, force: bool = False):
    return guest.apply(wanted, force=force).modules


def listed(guest: modules.Modules, *, include_contents: bool = False):
    return guest.list_results(include_contents=include_contents).modules


def test_ping_answers_with_its_message_and_is_known_to_the_next_agent(
    guest: modules.Modules, layout: state.Layout, clock: concurrency.ManualClock
) -> None:
    ping = module(b"message=Hello there\n")
    (result,) = apply(guest, ping)
    assert (result.status, result.message) == ("OK", "Hello there")
    assert (result.tenant, result.datastore, result.datastore_version) == (
        "p",
        "mariadb",
        "10.11",
    )
    assert result.created == result.updated == "2026-01-01T00:00:00"
    again = modules.Modules(layout, clock=clock)
    assert listed(again) == (result,)
    (shown,) = listed(again, include_contents=True)
    assert base64.b64decode(shown.contents or "") == b"message=Hello there\n"


def test_what_is_applied_with_the_same_contents_is_left_alone_unless_forced(
    guest: modules.Modules, clock: concurrency.ManualClock
) -> None:
    ping = module(b"message=a")
    (first,) = apply(guest, ping)
    clock.advance(60)
    assert apply(guest, ping) == (first,)
    (forced,) = apply(guest, ping, force=True)
    assert (forced.created, forced.updated) == ("2026-01-01T00:00:00", "2026-01-01T00:01:00")
    (changed,) = apply(guest, module(b"message=b", id=ping.id))
    assert (changed.message, changed.created) == ("b", first.created)
    assert len(listed(guest)) == 1


def test_a_licence_lies_in_the_modules_own_directory_and_goes_with_it(
    guest: modules.Modules, layout: state.Layout
) -> None:
    licence = module(b"license_key=0123456789abcdef", "new_relic_license")
    (result,) = apply(guest, licence)
    assert result.status == "OK"
    assert "0123456789abcdef" not in str(result)
    directory = layout.volume_agent_dir / "modules" / licence.id
    path = directory / "newrelic.cfg"
    assert path.read_text() == "license_key=0123456789abcdef\n"
    for each in directory.iterdir():
        assert stat.S_IMODE(each.stat().st_mode) == 0o600
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    for _ in range(2):
        guest.remove(licence.id)
        assert not directory.exists()
    assert listed(guest) == ()


@pytest.mark.parametrize(
    ("kind", "contents"),
    [
        ("ping", b"hello"),
        ("ping", b"message="),
        ("ping", b"\xff\xfe"),
        ("ping", b"message=a\nother=b"),
        ("new_relic_license", b"license_key=../../etc/passwd"),
        ("new_relic_license", b"license_key=$(reboot)"),
        ("no_such_type", b"message=secret"),
    ],
)
def test_bad_contents_are_an_error_that_repeats_nothing_and_others_go_on(
    guest: modules.Modules, kind: str, contents: bytes
) -> None:
    bad, good = module(contents, kind), module(b"message=fine")
    first, second = apply(guest, bad, good)
    assert (first.status, second.status) == ("ERROR", "OK")
    value = contents.decode("latin-1").partition("=")[2]
    assert not value or value not in str(first.message)
    assert {r.id: r.status for r in listed(guest)} == {bad.id: "ERROR", good.id: "OK"}


def test_a_failed_change_leaves_what_was_there(
    guest: modules.Modules, layout: state.Layout
) -> None:
    licence = module(b"license_key=0123456789abcdef", "new_relic_license")
    apply(guest, licence)
    (result,) = apply(guest, module(b"license_key=!", "new_relic_license", id=licence.id))
    assert result.status == "ERROR"
    path = layout.volume_agent_dir / "modules" / licence.id / "newrelic.cfg"
    assert path.read_text() == "license_key=0123456789abcdef\n"
    (mended,) = apply(guest, licence)
    assert mended.status == "OK"


def test_damaged_contents_are_refused(guest: modules.Modules) -> None:
    (wrong_sum,) = apply(guest, module(b"message=a", md5="0" * 32))
    (no_base64,) = apply(guest, dataclasses.replace(module(b"message=a"), contents="*"))
    assert (wrong_sum.status, no_base64.status) == ("ERROR", "ERROR")


@pytest.mark.parametrize("module_id", ["../x", "a/b", "", ".", str(uuid.uuid4()) + "\n"])
def test_an_id_that_is_none_reaches_no_file(
    guest: modules.Modules, layout: state.Layout, module_id: str
) -> None:
    with pytest.raises(exception.GuestError):
        apply(guest, module(b"message=a", id=module_id))
    with pytest.raises(exception.GuestError):
        guest.remove(module_id)
    assert os.listdir(layout.mount_point) == []


def test_a_full_disk_is_told(
    guest: modules.Modules, layout: state.Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("trove.guestagent.system.filesystem.write_file", full)
    (result,) = apply(guest, module(b"message=a"))
    assert result.status == "ERROR"
    assert "disk is full" in str(result.message)


def test_every_type_has_a_name_that_clients_know() -> None:
    assert set(types.TYPES) == {"ping", "new_relic_license"}
