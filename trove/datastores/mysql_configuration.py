"""The MySQL family's configuration file, sized from the memory of the flavor.

With M the memory in MiB (the formulas hold from 256 MiB on; the contract test starts a server with
the smallest):

* buffer pool: 60 % of what is left after 160 MiB for the operating system, the agent and the
  server's fixed parts, at least 32 MiB, a multiple of 8 MiB; 70 % of M from 8 GiB on;
* redo log: a quarter of the buffer pool, 16 MiB to 1 GiB;
* connections: M/4, 64 to 4000; each costs some 0.4 MiB when it works;
* temporary tables: M/32, 8 to 64 MiB; key buffer and Aria page cache: M/64, 4 to 128 MiB each;
* performance schema: from 4 GiB on with its own defaults, else for statistics of statements alone;
* binary logs are kept for a day, or until they are archived where they are, in files of a 64th of
  the volume, 4 to 256 MiB.
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

_OPTION_NAME = re.compile(r"[a-z][a-z0-9_-]*\Z")
_SIZE = re.compile(r"(-?\d+)([KMGT]?)\Z", re.IGNORECASE)
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
#: Stands for a path or an address where only the values are asked for.
_PLACE = "\0"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """What follows from the size of the flavor."""

    buffer_pool_mib: int
    redo_log_mib: int
    log_buffer_mib: int
    key_buffer_mib: int
    temporary_table_mib: int
    binlog_mib: int
    max_connections: int
    thread_cache: int
    table_open_cache: int
    io_threads: int
    performance_schema: bool


def _between(low: int, value: float, high: int) -> int:
    return int(max(low, min(value, high)))


def sizes(memory_mib: int, volume_size_gib: int | None) -> Sizes:
    """Return the sizes for a flavor and a volume, by the formulas of this module."""
    pool = max((memory_mib - 160) * 0.6, memory_mib * 0.7 if memory_mib >= 8192 else 0)
    volume_mib = (volume_size_gib or 16) * 1024
    pool_mib = max(32, int(pool) // 8 * 8)
    connections = _between(64, memory_mib / 4, 4000)
    return Sizes(
        buffer_pool_mib=pool_mib,
        redo_log_mib=_between(16, pool_mib / 4, 1024),
        log_buffer_mib=_between(4, memory_mib / 128, 64),
        key_buffer_mib=_between(4, memory_mib / 64, 128),
        temporary_table_mib=_between(8, memory_mib / 32, 64),
        binlog_mib=_between(4, volume_mib / 64, 256),
        max_connections=connections,
        thread_cache=_between(4, connections / 8, 128),
        table_open_cache=_between(400, memory_mib, 10000),
        io_threads=2 if memory_mib < 2048 else 4,
        performance_schema=memory_mib >= 4096,
    )


class _Placeholder(jinja2.Undefined):
    """What is not known where only the values are asked for."""

    def __str__(self) -> str:
        return _PLACE


@functools.cache
def _template(name: str, *, undefined: type[jinja2.Undefined]) -> jinja2.Template:
    source = importlib.resources.files("trove.datastores") / "templates" / name
    environment = jinja2.Environment(  # noqa: S701 (not HTML: nothing to escape)
        undefined=undefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.from_string(source.read_text(encoding="utf-8"))


def _override(name: str, value: object) -> tuple[str, str]:
    """Return an option of the instance's configuration as text; raises GuestError."""
    text = {True: "ON", False: "OFF"}[value] if isinstance(value, bool) else str(value)
    if not _OPTION_NAME.match(name) or not parameters.is_plain(text):
        raise exception.GuestError(reason=f"the configuration value {name[:64]!r} is not valid")
    return name, text


def render(
    template: str,
    *,
    memory_mib: int,
    volume_size_gib: int | None,
    overrides: Mapping[str, object],
    **facts: object,
) -> str:
    """Return the text of the configuration file; ``facts`` are paths, addresses and the like.

    Raises GuestError for an override that is no option.
    """
    return _template(template, undefined=jinja2.StrictUndefined).render(
        sizes=sizes(memory_mib, volume_size_gib),
        memory_mib=memory_mib,
        overrides=[_override(name, overrides[name]) for name in sorted(overrides)],
        **facts,
    )


def options(text: str) -> dict[str, str | int]:
    """Return the options of a configuration file by the name of the variable that each sets.

    What looks like a size is a number of bytes; an option without a value is ON. The last of two
    options for one variable counts, as it does to the server.
    """
    found: dict[str, str | int] = {}
    for line in text.splitlines():
        stripped = line.strip()
        if not stripped or stripped[0] in "#[":
            continue
        name, _, value = (part.strip() for part in stripped.partition("="))
        found[parameters.canonical(name).removeprefix("loose_")] = _parse(value or "ON")
    return found


def _parse(text: str) -> str | int:
    size = _SIZE.match(text)
    return text if size is None else int(size[1]) * _UNITS[size[2].upper()]


def defaults(
    template: str, memory_mib: int, volume_size_gib: int | None
) -> Mapping[str, str | int]:
    """Return what an instance of this size is configured with; no paths, no addresses."""
    text = _template(template, undefined=_Placeholder).render(
        sizes=sizes(memory_mib, volume_size_gib), memory_mib=memory_mib
    )
    return {
        name: value
        for name, value in sorted(options(text).items())
        if isinstance(value, int) or _PLACE not in value
    }
