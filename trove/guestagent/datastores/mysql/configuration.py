"""The server's configuration file, sized from the memory of the flavor.

With M the memory in MiB (the formulas hold from 256 MiB on; the contract test starts a server with
the smallest):

* buffer pool: 60 % of what is left after 160 MiB for the operating system, the agent and the
  server's fixed parts, at least 32 MiB, a multiple of 8 MiB; 70 % of M from 8 GiB on;
* redo log: a quarter of the buffer pool, 16 MiB to 1 GiB;
* connections: M/4, 64 to 4000; each costs some 0.4 MiB when it works;
* temporary tables: M/32, 8 to 64 MiB; key buffer and Aria page cache: M/64, 4 to 128 MiB each;
* binary logs are kept for a day, in files of a 64th of the volume, 4 to 256 MiB.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.resources
import re

import jinja2

from trove.common import exception
from trove.guestagent.datastores import base

_OPTION_NAME = re.compile(r"^[a-z][a-z0-9_-]*$")


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


def sizes(settings: base.Settings) -> Sizes:
    """Return the sizes for a flavor and a volume, by the formulas of this module."""
    memory = settings.memory_mib
    pool = max((memory - 160) * 0.6, memory * 0.7 if memory >= 8192 else 0)
    volume_mib = (settings.volume_size_gib or 16) * 1024
    pool_mib = max(32, int(pool) // 8 * 8)
    connections = _between(64, memory / 4, 4000)
    return Sizes(
        buffer_pool_mib=pool_mib,
        redo_log_mib=_between(16, pool_mib / 4, 1024),
        log_buffer_mib=_between(4, memory / 128, 64),
        key_buffer_mib=_between(4, memory / 64, 128),
        temporary_table_mib=_between(8, memory / 32, 64),
        binlog_mib=_between(4, volume_mib / 64, 256),
        max_connections=connections,
        thread_cache=_between(4, connections / 8, 128),
        table_open_cache=_between(400, memory, 10000),
        io_threads=2 if memory < 2048 else 4,
        performance_schema=memory >= 4096,
    )


@functools.cache
def _template(name: str) -> jinja2.Template:
    source = importlib.resources.files("trove.datastores") / "templates" / name
    environment = jinja2.Environment(  # noqa: S701 (not HTML: nothing to escape)
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.from_string(source.read_text(encoding="utf-8"))


def _override(name: str, value: object) -> tuple[str, str]:
    """Return an option of the instance's configuration as text; raises GuestError."""
    text = {True: "ON", False: "OFF"}[value] if isinstance(value, bool) else str(value)
    if not _OPTION_NAME.match(name) or not text.isprintable():
        raise exception.GuestError(reason=f"the configuration value {name[:64]!r} is not valid")
    return name, text


def render(template: str, settings: base.Settings, **places: object) -> str:
    """Return the text of the configuration file; ``places`` are paths and addresses."""
    return _template(template).render(
        sizes=sizes(settings),
        memory_mib=settings.memory_mib,
        server_id=settings.server_id,
        has_tls=settings.has_tls,
        overrides=[
            _override(name, settings.overrides[name]) for name in sorted(settings.overrides)
        ],
        **places,
    )
