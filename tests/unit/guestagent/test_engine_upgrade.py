"""Data and programs are brought together, forward or back, wherever an agent dies in between."""

import json
import os
import pathlib
from collections.abc import Callable

import pytest

from trove.common import exception
from trove.guestagent import state
from trove.guestagent.datastores import base, upgrade
from trove.guestagent.system import filesystem, users


class Crash(BaseException):
    """The agent died here."""


class Volume:
    """A data volume, and agents of images with programs of several versions."""

    def __init__(self, directory: pathlib.Path) -> None:
        self.layout = state.Layout(
            state_dir=directory / "state",
            mount_point=directory / "volume",
            engine_user=users.engine_user("mysql"),
        )
        self.layout.mount_point.mkdir()
        self.layout.data_dir.mkdir()
        self.write("10.11.19")
        self.agent("10.11.19").leave("10.11.19")
        self.stops = 0
        self.returns = 0

    def write(self, text: str) -> None:
        """Have the engine change its data."""
        table = self.layout.data_dir / "schema" / "table"
        table.parent.mkdir(exist_ok=True)
        table.write_text(text)

    def read(self) -> str:
        return (self.layout.data_dir / "schema" / "table").read_text()

    def agent(self, version: str) -> upgrade.Transition:
        def stop() -> None:
            self.stops += 1

        def note_return() -> None:
            self.returns += 1

        part = upgrade.CopyingUpgrade("mariadb", find_version=lambda: version, layout=self.layout)
        return upgrade.Transition(part, layout=self.layout, stop=stop, on_return=note_return)

    def names(self) -> set[str]:
        return {path.name for path in self.layout.mount_point.iterdir()}


@pytest.fixture
def volume(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Volume:
    # not what is to be shown here, and slow on a busy disk
    monkeypatch.setattr(filesystem, "sync_file_system", lambda path: None)
    return Volume(tmp_path)


def start(volume: Volume, version: str, wanted: str | None = None) -> None:
    """Have an agent with programs of a version start the engine, which changes the data."""
    agent = volume.agent(version)
    agent.enter(wanted or version)
    volume.write(version)
    agent.leave(version)


def test_new_programs_of_the_series_take_over_the_data_as_they_are(volume: Volume) -> None:
    assert volume.agent("10.11.19").check(running="10.11.19", new="10.11.20") == "10.11.19"
    start(volume, "10.11.20")
    assert volume.names() == {"data", "agent"}
    volume.agent("10.11.20").commit()
    assert volume.agent("10.11.20").find() == upgrade.Memory(version="10.11.20")
    # and now there is no way back
    with pytest.raises(exception.GuestError, match=r"older than 10\.11\.20"):
        volume.agent("10.11.19").enter()


def test_old_programs_put_the_data_back_as_they_left_them(volume: Volume) -> None:
    start(volume, "11.4.2")
    assert volume.read() == "11.4.2"
    agent = volume.agent("10.11.19")
    agent.enter("10.11.19")
    assert volume.read() == "10.11.19"
    assert volume.names() == {"data", "agent"}
    assert agent.find() == upgrade.Memory(version="10.11.19")


def test_nothing_goes_back_once_the_record_has_the_new_version(volume: Volume) -> None:
    start(volume, "11.4.2")
    with pytest.raises(exception.GuestError, match=r"has version 10\.11\.19 of the engine"):
        volume.agent("10.11.19").enter("11.4.2")
    with pytest.raises(exception.GuestError, match=r"rebuild .* of 11\.4\.2"):
        volume.agent("10.11.19").enter()
    assert volume.read() == "11.4.2"
    volume.agent("11.4.2").commit()
    assert volume.names() == {"data", "agent"}


def test_a_commit_that_nobody_asked_for_is_made_up_for_by_the_next_upgrade(volume: Volume) -> None:
    start(volume, "11.4.2")
    assert "data.before" in volume.names()
    volume.agent("11.4.2").check(running="11.4.2", new="11.8")
    assert volume.names() == {"data", "agent"}


def test_data_of_an_agent_that_remembered_nothing_are_known_after_the_check(
    volume: Volume,
) -> None:
    (volume.layout.volume_agent_dir / "engine.json").unlink()
    volume.agent("10.11.19").check(running="10.11.19-MariaDB", new="11.4")
    start(volume, "11.4.2")
    assert "data.before" in volume.names()


def test_who_follows_the_log_is_told_before_the_data_go_back(volume: Volume) -> None:
    start(volume, "10.11.20")
    volume.agent("10.11.19").enter("10.11.19")
    assert volume.returns == 0
    start(volume, "11.4.2", "11.4")
    volume.agent("10.11.19").enter("10.11.19")
    assert volume.returns == 1


def test_restored_data_of_an_older_version_are_upgraded_at_the_next_start(volume: Volume) -> None:
    agent = volume.agent("10.11.19")
    agent.check_restored("10.11.10-MariaDB")
    agent.adopt("10.11.10-MariaDB")
    agent.enter("10.11.19")
    assert agent.find() == upgrade.Memory(
        version="10.11.19", old="10.11.10", phase=upgrade.Phase.BEGUN
    )
    agent.leave("10.11.19-MariaDB")
    agent.commit()
    assert agent.find() == upgrade.Memory(version="10.11.19")


def test_restored_data_of_a_later_version_of_the_series_are_taken_as_they_are(
    volume: Volume,
) -> None:
    agent = volume.agent("10.11.19")
    agent.check_restored("10.11.23")
    agent.adopt("10.11.23")
    assert agent.find() == upgrade.Memory(version="10.11.19")
    with pytest.raises(exception.GuestError, match=r"10\.11\.19 is older than 11\.4\.2"):
        agent.check_restored("11.4.2")


def test_data_are_not_replaced_while_they_are_being_upgraded(volume: Volume) -> None:
    agent = volume.agent("11.4.2")
    agent.enter("11.4")
    with pytest.raises(exception.GuestError, match="that has to end first"):
        agent.check_restored("11.4.2")
    agent.leave("11.4.2")
    # it has proved itself: what was kept makes room for the restored
    agent.check_restored("11.4.2")
    assert volume.names() == {"data", "agent"}


def test_other_programs_than_wanted_touch_nothing(volume: Volume) -> None:
    with pytest.raises(exception.GuestError, match=r"has version 10\.11\.20 .* not 11\.4"):
        volume.agent("10.11.20").enter("11.4")
    assert volume.agent("10.11.20").find() == upgrade.Memory(version="10.11.19")


def test_an_engine_that_says_another_version_has_not_proved_itself(volume: Volume) -> None:
    agent = volume.agent("11.4.2")
    agent.enter("11.4")
    assert agent.loses_writes
    with pytest.raises(exception.GuestError, match=r"says that it is 10\.11\.19"):
        agent.leave("10.11.19-MariaDB")
    assert agent.loses_writes
    agent.leave("11.4.2-MariaDB")
    assert not agent.loses_writes


def test_a_volume_without_space_for_the_copy_refuses(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filesystem, "can_share_blocks", lambda path: False)
    full = filesystem.DiskUse(used_bytes=2**30, total_bytes=2**30, available_bytes=2**20)
    monkeypatch.setattr(filesystem, "disk_use", lambda path: full)
    with pytest.raises(exception.GuestError, match=r"1 MiB left.*resize the volume first"):
        volume.agent("10.11.19").check(running="10.11.19", new="11.4")
    # within the series nothing is copied
    volume.agent("10.11.19").check(running="10.11.19", new="10.11.20")


def test_a_damaged_memory_is_told_and_nothing_starts(volume: Volume) -> None:
    (volume.layout.volume_agent_dir / "engine.json").write_text(json.dumps(["x"]))
    with pytest.raises(exception.GuestError, match="is damaged"):
        volume.agent("10.11.19").enter()


def test_an_engine_without_upgrades_is_left_alone(volume: Volume) -> None:
    none = upgrade.Transition(
        base.Unsupported("x", "upgrade"), layout=volume.layout, stop=lambda: None
    )
    none.enter("99")
    none.leave("99")
    none.commit()
    assert none.check(running="1", new="2") == "1"
    assert not none.loses_writes


def _count(monkeypatch: pytest.MonkeyPatch, die_at: int) -> Callable[[], int]:
    """Have every change of a name count, and the agent die at one of them, before or after."""
    done = 0
    rename, replace = os.rename, os.replace

    def dying(real: Callable[..., None]) -> Callable[..., None]:
        def change(source: object, target: object, **options: object) -> None:
            nonlocal done
            done += 1
            if done == die_at:
                raise Crash
            real(source, target, **options)
            done += 1
            if done == die_at:
                raise Crash

        return change

    monkeypatch.setattr(os, "rename", dying(rename))
    monkeypatch.setattr(os, "replace", dying(replace))
    return lambda: done


@pytest.mark.parametrize("die_at", range(1, 9))
def test_the_way_forward_survives_a_death_anywhere(volume: Volume, die_at: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        done = _count(patch, die_at)
        with pytest.raises(Crash):
            start(volume, "11.4.2")
        assert done() == die_at
    start(volume, "11.4.2")
    assert volume.read() == "11.4.2"
    assert (volume.layout.mount_point / "data.before" / "schema" / "table").read_text() == (
        "10.11.19"
    )
    volume.agent("11.4.2").commit()
    assert volume.names() == {"data", "agent"}


@pytest.mark.parametrize("die_at", range(1, 9))
def test_the_data_are_back_wherever_the_way_forward_ended(volume: Volume, die_at: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        _count(patch, die_at)
        with pytest.raises(Crash):
            start(volume, "11.4.2")
    volume.agent("10.11.19").enter("10.11.19")
    assert volume.read() == "10.11.19"
    assert volume.names() == {"data", "agent"}
    assert volume.agent("10.11.19").find() == upgrade.Memory(version="10.11.19")


@pytest.mark.parametrize("die_at", range(1, 7))
def test_the_way_back_survives_a_death_anywhere(volume: Volume, die_at: int) -> None:
    start(volume, "11.4.2")
    with pytest.MonkeyPatch.context() as patch:
        _count(patch, die_at)
        with pytest.raises(Crash):
            volume.agent("10.11.19").enter("10.11.19")
    volume.agent("10.11.19").enter("10.11.19")
    assert volume.read() == "10.11.19"
    assert volume.names() == {"data", "agent"}


@pytest.mark.parametrize("die_at", range(1, 5))
def test_a_commit_survives_a_death_anywhere(volume: Volume, die_at: int) -> None:
    start(volume, "11.4.2")
    with pytest.MonkeyPatch.context() as patch:
        _count(patch, die_at)
        with pytest.raises(Crash):
            volume.agent("11.4.2").commit()
    volume.agent("11.4.2").commit()
    assert volume.read() == "11.4.2"
    assert volume.names() == {"data", "agent"}
    assert volume.agent("11.4.2").find() == upgrade.Memory(version="11.4.2")
