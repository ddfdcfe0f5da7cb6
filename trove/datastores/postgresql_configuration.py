"""PostgreSQL's configuration file, sized from the memory of the flavor and from the volume.

With M the memory and V the volume in MiB (the formulas hold from 256 MiB on; the contract suite
starts a server with the smallest):

* ``shared_buffers``: a quarter of what is left after 128 MiB for the operating system and the
  agent, at least 32 MiB, at most 32 GiB, a multiple of 8 MiB;
* ``effective_cache_size``: 70 % of what is left;
* ``max_connections``: M/8, 40 to 1000; each costs some 3 MiB when it works;
* ``work_mem``: half of what shared buffers leave, divided by the connections, 1 to 512 MiB: a
  statement may take several times as much;
* ``maintenance_work_mem``: M/16, 16 MiB to 2 GiB; of it at most three are in use at a time;
* ``max_wal_size``: V/16, 64 MiB to 16 GiB; ``min_wal_size``: a quarter of that, at least 16 MiB;
* ``max_slot_wal_keep_size``, what a replica that is away may hold back: V/4;
* ``temp_file_limit``, what the temporary files of one session may take: V/4;
* workers for parallel queries: as many as there are processors, half of them (1 to 4) a query.

Files of the write-ahead log have 4 MiB (``initdb --wal-segsize``): small volumes hold several.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.resources
import re
from collections.abc import Mapping

import jinja2

from trove.common import exception
from trove.datastores import parameters

TEMPLATE = "postgresql.conf.j2"
WAL_SEGMENT_MIB = 4
#: When the slow query log is on and the group does not say from when on: ms.
SLOW_MS = 1000
SLOW_PARAMETER = "log_min_duration_statement"

_OPTION_NAME = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)?\Z")
_LINE = re.compile(r"([a-z][a-z0-9_.]*) = (?:'((?:[^']|'')*)'|(\S+))\Z")
_NUMBER = re.compile(r"-?\d+\Z")
#: Stands for a path or an address where only the values are asked for.
_PLACE = "\x1a"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """What follows from the size of the flavor and of the volume."""

    shared_buffers_mib: int
    effective_cache_mib: int
    max_connections: int
    work_mem_mib: int
    maintenance_work_mem_mib: int
    max_wal_mib: int
    min_wal_mib: int
    slot_wal_keep_mib: int
    temp_file_limit_mib: int


def _between(low: int, value: float, high: int) -> int:
    return int(max(low, min(value, high)))


def sizes(memory_mib: int, volume_size_gib: int | None) -> Sizes:
    """Return the sizes for a flavor and a volume, by the formulas of this module."""
    volume_mib = (volume_size_gib or 16) * 1024
    left_mib = max(0, memory_mib - 128)
    buffers_mib = _between(32, left_mib / 4, 32768) // 8 * 8
    connections = _between(40, memory_mib / 8, 1000)
    max_wal_mib = _between(64, volume_mib / 16, 16384)
    return Sizes(
        shared_buffers_mib=buffers_mib,
        effective_cache_mib=_between(64, left_mib * 0.7, 1 << 20),
        max_connections=connections,
        work_mem_mib=_between(1, (left_mib - buffers_mib) / 2 / connections, 512),
        maintenance_work_mem_mib=_between(16, memory_mib / 16, 2048),
        max_wal_mib=max_wal_mib,
        min_wal_mib=max(4 * WAL_SEGMENT_MIB, max_wal_mib // 4),
        slot_wal_keep_mib=volume_mib // 4,
        temp_file_limit_mib=volume_mib // 4,
    )


class _Placeholder(jinja2.Undefined):
    """What is not known where only the values are asked for."""

    def __str__(self) -> str:
        return _PLACE


def quote(value: object) -> str:
    """Return a value as it stands in the file."""
    text = str(value)
    if any(character in text for character in "\0\r\n"):
        raise exception.GuestError(reason="a value of the configuration has more than one line")
    # the file knows escapes as well
    return "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


@functools.cache
def _template(*, undefined: type[jinja2.Undefined]) -> jinja2.Template:
    source = importlib.resources.files("trove.datastores") / "templates" / TEMPLATE
    environment = jinja2.Environment(  # noqa: S701 (not HTML: nothing to escape)
        undefined=undefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["quote"] = quote
    return environment.from_string(source.read_text(encoding="utf-8"))


def _override(name: str, value: object) -> tuple[str, str]:
    """Return a parameter of the instance's configuration as text; raises GuestError."""
    text = {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)
    if not _OPTION_NAME.match(name) or not parameters.is_plain(text):
        raise exception.GuestError(reason=f"the configuration value {name[:64]!r} is not valid")
    return name, text


def render(
    *,
    memory_mib: int,
    vcpus: int,
    volume_size_gib: int | None,
    overrides: Mapping[str, object],
    **facts: object,
) -> str:
    """Return the text of the configuration file; ``facts`` are paths, addresses and the like.

    Raises GuestError for an override that is no parameter.
    """
    slow_ms = overrides.get(SLOW_PARAMETER, SLOW_MS)
    return _template(undefined=jinja2.StrictUndefined).render(
        sizes=sizes(memory_mib, volume_size_gib),
        memory_mib=memory_mib,
        vcpus=vcpus,
        slow_ms=slow_ms,
        overrides=[
            _override(name, overrides[name]) for name in sorted(overrides) if name != SLOW_PARAMETER
        ],
        **facts,
    )


def options(text: str) -> dict[str, str | int]:
    """Return the values of a configuration file; the last of two for one name counts."""
    found: dict[str, str | int] = {}
    for line in text.splitlines():
        match = _LINE.match(line.strip())
        if match is not None:
            value = match[3] if match[2] is None else match[2].replace("''", "'")
            found[match[1]] = int(value) if _NUMBER.match(value) else value
    return found


def defaults(memory_mib: int, volume_size_gib: int | None) -> Mapping[str, str | int]:
    """Return what an instance of this size is configured with; no paths, no addresses."""
    text = _template(undefined=_Placeholder).render(
        sizes=sizes(memory_mib, volume_size_gib), memory_mib=memory_mib
    )
    return {
        name: value
        for name, value in sorted(options(text).items())
        if isinstance(value, int) or _PLACE not in value
    }
