"""Whether memory ran out, as the kernel tells it."""

from __future__ import annotations

import os
import pathlib

import pytest

from trove.guestagent.system import memory, process


@pytest.mark.parametrize(
    ("lines", "name", "text"),
    [
        ("0::/guest\n", "guest/memory.events", "low 0\noom 3\noom_kill 2\n"),
        ("0::/guest\n", "unified/guest/memory.events", "oom 3\noom_kill 2\n"),
        (
            "4:memory:/guest\n0::/\n",
            "memory/guest/memory.oom_control",
            "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
        ),
    ],
)
def test_counter_of_the_group_is_found_and_compared(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, lines: str, name: str, text: str
) -> None:
    counter = tmp_path / name
    counter.parent.mkdir(parents=True)
    counter.write_text(text)
    read_text = pathlib.Path.read_text

    def read(path: pathlib.Path, **options: str) -> str:
        return lines if str(path) == "/proc/7/cgroup" else read_text(path, **options)

    monkeypatch.setattr(pathlib.Path, "read_text", read)
    monkeypatch.setattr(memory, "_GROUPS", tmp_path)
    monkeypatch.setattr(memory, "_MESSAGES", str(tmp_path / "nothing"))
    before = memory.mark(7)
    assert before == memory.Mark(counter=counter, kills=2)
    identity = process.Identity(pid=7, start_ticks=1, boot_id="b")
    assert not memory.was_killed(identity, before)
    counter.write_text(text.replace("oom_kill 2", "oom_kill 3"))
    assert memory.was_killed(identity, before)


def test_messages_of_the_kernel_name_the_process(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = tmp_path / "kmsg"
    said.write_text("6,1,5000000,-;Out of memory: Killed process 77 (mariadbd) total-vm:1kB\n")
    monkeypatch.setattr(memory, "_MESSAGES", str(said))
    ticks = os.sysconf("SC_CLK_TCK")

    def identity(pid: int, started_s: int) -> process.Identity:
        return process.Identity(pid=pid, start_ticks=started_s * ticks, boot_id="b")

    assert memory.was_killed(identity(77, 4), None)
    assert not memory.was_killed(identity(7, 4), None)
    # another process had the number before
    assert not memory.was_killed(identity(77, 6), None)


def test_nothing_is_claimed_without_a_witness(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_GROUPS", tmp_path)
    monkeypatch.setattr(memory, "_MESSAGES", str(tmp_path / "nothing"))
    assert memory.mark(os.getpid()) is None
    identity = process.Identity(pid=1, start_ticks=1, boot_id="b")
    assert not memory.was_killed(identity, None)
