"""What the kernel tells of a process and of the machine, limits of control groups included."""

from __future__ import annotations

import math
import os
import pathlib

from trove.rpc import payloads

_PROC = pathlib.Path("/proc")
_CGROUPS = pathlib.Path("/sys/fs/cgroup")
_KIB_PER_MIB = 1024
_BYTES_PER_MIB = 1024 * 1024


def _fields(path: pathlib.Path) -> dict[str, int]:
    """Return the numbers of a file of lines like ``VmRSS:  123 kB``."""
    found: dict[str, int] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if words and words[0].isdigit():
            found[name] = int(words[0])
    return found


def read_process(pid: int, *, version: str | None = None) -> payloads.ProcessFacts | None:
    """Return what a process uses; None when there is none."""
    try:
        fields = _fields(_PROC / str(pid) / "status")
    except (FileNotFoundError, ProcessLookupError):
        return None
    return payloads.ProcessFacts(
        version=version,
        threads=fields.get("Threads", 0),
        fd_size=fields.get("FDSize", 0),
        vm_size_kib=fields.get("VmSize", 0),
        vm_peak_kib=fields.get("VmPeak", 0),
        vm_rss_kib=fields.get("VmRSS", 0),
        vm_hwm_kib=fields.get("VmHWM", 0),
    )


def read_hardware() -> payloads.HwInfo:
    """Return the memory and the CPUs that this process may use."""
    memory_mib = _fields(_PROC / "meminfo").get("MemTotal", 0) // _KIB_PER_MIB
    cpus = len(os.sched_getaffinity(0))
    for group in _own_groups():
        for name in ("memory.max", "memory.limit_in_bytes"):
            limit = _words(group / name)
            if limit and limit[0].isdigit():
                memory_mib = min(memory_mib, int(limit[0]) // _BYTES_PER_MIB)
        quota = _words(group / "cpu.max")
        if len(quota) == 2 and quota[0].isdigit():
            cpus = min(cpus, max(1, math.ceil(int(quota[0]) / int(quota[1]))))
    return payloads.HwInfo(memory_mib=memory_mib, cpus=cpus)


def _own_groups() -> list[pathlib.Path]:
    """Return the control groups of this process and those around them, of version 2 and 1."""
    groups = []
    for line in (_PROC / "self" / "cgroup").read_text(encoding="utf-8").splitlines():
        _, controllers, path = line.split(":", 2)
        root = _CGROUPS / controllers if controllers else _CGROUPS
        own = root / path.lstrip("/")
        groups += [each for each in (own, *own.parents) if each.is_relative_to(root)]
    return groups


def _words(path: pathlib.Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii").split()
    except OSError:
        return []
