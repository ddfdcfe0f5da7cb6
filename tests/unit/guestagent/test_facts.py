"""What the kernel tells of processes and of the machine."""

from __future__ import annotations

import os
import pathlib

import pytest

from trove.guestagent.system import facts


def test_a_process_is_described_and_one_that_is_not_there_is_none() -> None:
    found = facts.read_process(os.getpid(), version="1")
    assert found is not None
    assert found.version == "1"
    assert found.threads >= 1
    assert found.fd_size > 0
    assert 0 < found.vm_rss_kib <= found.vm_hwm_kib <= found.vm_peak_kib
    assert facts.read_process(2**22 + 1) is None


def test_the_hardware_is_at_most_that_of_the_machine() -> None:
    found = facts.read_hardware()
    assert 0 < found.memory_mib <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20
    assert 1 <= found.cpus <= (os.cpu_count() or 1)


@pytest.mark.parametrize(
    ("line", "folder", "name"),
    [("0::/a/b", "a", "memory.max"), ("4:memory:/a/b", "memory/a", "memory.limit_in_bytes")],
)
def test_limits_of_control_groups_count(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, line: str, folder: str, name: str
) -> None:
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text("MemTotal:  8388608 kB\nHugePages:   0\n")
    (proc / "self/cgroup").write_text(f"{line}\n")
    (groups / folder / "b").mkdir(parents=True)
    (groups / folder / name).write_text(f"{512 * 2**20}\n")
    (groups / folder / "b" / name).write_text("max\n")
    (groups / folder / "b" / "cpu.max").write_text("50000 100000\n")
    monkeypatch.setattr(facts, "_PROC", proc)
    monkeypatch.setattr(facts, "_CGROUPS", groups)
    found = facts.read_hardware()
    assert found.memory_mib == 512
    assert found.cpus == 1
