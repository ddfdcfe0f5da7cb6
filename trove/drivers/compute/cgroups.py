"""Limits of memory, processes and processors by cgroup, version 2 or 1, where they can be set.

One group a instance, ``trove/<instance id>``, in the highest group that this process may write to.
Everything that the agent starts is born into the group, so it also tells which processes are an
instance's. Where there is no such group, one log line says why and instances run without limits.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import pathlib
import signal
from collections.abc import Iterator, Mapping, Sequence

from oslo_log import log

from trove.drivers.compute import processes

LOG = log.getLogger(__name__)

_MIB = 1024 * 1024
_CONTROLLERS = ("memory", "pids")
_CPU = "cpu"
_CPU_PERIOD_US = 100_000


class NotPossible(Exception):
    """This process may not make groups here."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What an instance may use."""

    memory_mib: int
    processes: int
    cpus: float | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Mount:
    path: pathlib.Path
    version: int
    controllers: frozenset[str]


def _mounts(proc: pathlib.Path) -> list[_Mount]:
    found = []
    for line in (proc / "self/mounts").read_text(encoding="utf-8").splitlines():
        _, path, kind, options, *_ = line.split()
        if kind == "cgroup2":
            with contextlib.suppress(OSError):
                names = (pathlib.Path(path) / "cgroup.controllers").read_text().split()
                found.append(
                    _Mount(path=pathlib.Path(path), version=2, controllers=frozenset(names))
                )
        elif kind == "cgroup":
            names = options.split(",")
            found.append(_Mount(path=pathlib.Path(path), version=1, controllers=frozenset(names)))
    return found


def _own_group(proc: pathlib.Path, mount: _Mount) -> pathlib.PurePath:
    """Return the path of the group that we are in, below the mount."""
    for line in (proc / "self/cgroup").read_text(encoding="utf-8").splitlines():
        _, names, path = line.split(":", 2)
        controllers = frozenset(filter(None, names.split(",")))
        if (mount.version == 2 and not names) or (
            mount.version == 1 and controllers and controllers <= mount.controllers
        ):
            return pathlib.PurePath(path.lstrip("/"))
    return pathlib.PurePath()


def _highest_writable(proc: pathlib.Path, mount: _Mount) -> pathlib.Path:
    own = _own_group(proc, mount)
    for part in [*reversed(own.parents), own]:
        group = mount.path / part
        if os.access(group, os.W_OK | os.X_OK) and os.access(group / "cgroup.procs", os.W_OK):
            return group
    raise NotPossible(f"no group below {mount.path} belongs to this user")


def _write(path: pathlib.Path, value: str) -> None:
    # not write_text: O_CREAT and O_TRUNC mean nothing here, and a missing file must not be made
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, value.encode("ascii"))
    finally:
        os.close(descriptor)


def _prepare_parent(base: pathlib.Path, mount: _Mount, controllers: Sequence[str]) -> pathlib.Path:
    parent = base / "trove"
    try:
        parent.mkdir(exist_ok=True)
        if mount.version == 2:
            enable = " ".join(f"+{name}" for name in controllers)
            for group in (base, parent):
                _write(group / "cgroup.subtree_control", enable)
    except OSError as e:
        raise NotPossible(f"{e.filename or parent}: {e.strerror}") from e
    return parent


def find_parents(
    proc: pathlib.Path = pathlib.Path("/proc"), *, has_cpu: bool = False
) -> Mapping[str, pathlib.Path]:
    """Return where groups of instances are made: controller -> directory.

    With version 2 all controllers have one directory. ``has_cpu`` asks for that controller too,
    where the kernel has it. Raises NotPossible with the reason.
    """
    mounts = _mounts(proc)
    wanted = (*_CONTROLLERS, _CPU) if has_cpu else _CONTROLLERS
    for mount in mounts:
        if mount.version == 2 and mount.controllers.issuperset(_CONTROLLERS):
            there = [name for name in wanted if name in mount.controllers]
            parent = _prepare_parent(_highest_writable(proc, mount), mount, there)
            return dict.fromkeys(there, parent)
    found = {}
    for controller in wanted:
        for mount in mounts:
            if mount.version == 1 and controller in mount.controllers:
                found[controller] = _prepare_parent(
                    _highest_writable(proc, mount), mount, _CONTROLLERS
                )
    if not found:
        raise NotPossible("the kernel offers no memory and no pids controller")
    return found


class Cgroups:
    """The groups of all instances; does nothing where groups cannot be made."""

    def __init__(self, *, enabled: bool = True, has_cpu: bool = False) -> None:
        """Find out on first use what is possible, and say so once when nothing is."""
        self._enabled = enabled
        self._has_cpu = has_cpu

    @functools.cached_property
    def _parents(self) -> Mapping[str, pathlib.Path]:
        if not self._enabled:
            LOG.info("instances run without limits: [local] use_cgroups is off")
            return {}
        try:
            return find_parents(has_cpu=self._has_cpu)
        except (NotPossible, OSError) as e:
            reason = str(e)
        LOG.warning(
            "instances run without limits of memory and processes: no cgroup can be made: %s",
            reason,
        )
        return {}

    def create(self, instance_id: str, limits: Limits) -> Sequence[pathlib.Path]:
        """Make the groups of an instance, or change their limits; returns their directories.

        A limit that the kernel refuses is logged and left out.
        """
        made = []
        for directory in sorted(set(self._groups(instance_id))):
            try:
                directory.mkdir(exist_ok=True)
            except OSError as e:
                LOG.warning("instance %s runs without limits: %s", instance_id, e)
                continue
            made.append(directory)
            self._limit(directory, limits)
        return made

    def _limit(self, directory: pathlib.Path, limits: Limits) -> None:
        wanted: list[tuple[str, object]] = [
            ("memory.max", limits.memory_mib * _MIB),
            ("memory.limit_in_bytes", limits.memory_mib * _MIB),
            ("pids.max", limits.processes),
        ]
        if limits.cpus is not None:
            quota_us = int(limits.cpus * _CPU_PERIOD_US)
            wanted += [
                ("cpu.max", f"{quota_us} {_CPU_PERIOD_US}"),
                ("cpu.cfs_period_us", _CPU_PERIOD_US),
                ("cpu.cfs_quota_us", quota_us),
            ]
        for name, value in wanted:
            if (directory / name).exists():
                try:
                    _write(directory / name, str(value))
                except OSError as e:
                    LOG.warning("%s cannot be set: %s", directory / name, e.strerror)

    def processes(self, instance_id: str) -> Iterator[processes.Process]:
        """Give the processes in the groups of an instance."""
        for directory in self._groups(instance_id):
            yield from processes.in_cgroup(directory / "cgroup.procs")

    def count_killed(self, instance_id: str) -> int:
        """Return how many processes of an instance the kernel killed for want of memory."""
        killed = 0
        for directory in set(self._groups(instance_id)):
            # of version 2 and 1
            for name in ("memory.events", "memory.oom_control"):
                with contextlib.suppress(OSError):
                    for line in (directory / name).read_text(encoding="ascii").splitlines():
                        key, _, value = line.partition(" ")
                        killed += int(value) if key == "oom_kill" else 0
        return killed

    def kill(self, instance_id: str) -> None:
        """Kill what is in the groups of an instance."""
        for process in self.processes(instance_id):
            process.send(signal.SIGKILL)

    def delete(self, instance_id: str) -> None:
        """Remove the groups of an instance once they are empty; nothing when they are gone."""
        for directory in set(self._groups(instance_id)):
            with contextlib.suppress(FileNotFoundError):
                try:
                    directory.rmdir()
                except FileNotFoundError:
                    raise
                except OSError as e:
                    LOG.warning("cgroup %s stays for now: %s", directory, e.strerror)

    def _groups(self, instance_id: str) -> list[pathlib.Path]:
        return [parent / instance_id for parent in self._parents.values()]
