"""What servers of the Redis family are configured with: sizes, fixed values, the file's text.

Sizes follow from the memory of the flavor:

- ``maxmemory``: 60 % of what 128 MiB for system and agent leave, at least 16 MiB. The other 40 %
  are for the copies of pages that are written while a child of the server writes a snapshot or
  rewrites the log of writes, for fragmentation, and for buffers that do not count as data.
- ``maxclients``: 4 a MiB, from 128 to 10,000.
- ``repl-backlog-size``: a 16th of the data, from 1 to 256 MiB.
- ``client-output-buffer-limit``: a client that does not read what it asked for is disconnected at a
  quarter of the data (an eighth for 60 s), a subscriber at 32 MiB or less, a replica at a quarter
  of the data, at least 16 MiB.
- ``io-threads``: one with less than 4 CPUs, then three for each four, at most 8.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

from trove.common import exception
from trove.datastores import parameters

_MIB = 1024 * 1024
_NAME = re.compile(r"[a-z][a-z0-9_-]*\Z")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """What follows from the size of the flavor."""

    data_mib: int
    max_clients: int
    backlog_mib: int
    client_buffer_mib: int
    subscriber_buffer_mib: int
    replica_buffer_mib: int
    io_threads: int


def _between(low: int, value: float, high: int) -> int:
    return int(max(low, min(value, high)))


def sizes(memory_mib: int, vcpus: int = 1) -> Sizes:
    """Return the sizes for a flavor, by the formulas of this module."""
    data_mib = max(16, int((memory_mib - 128) * 0.6))
    return Sizes(
        data_mib=data_mib,
        max_clients=_between(128, memory_mib * 4, 10000),
        backlog_mib=_between(1, data_mib / 16, 256),
        client_buffer_mib=max(4, data_mib // 4),
        subscriber_buffer_mib=_between(4, data_mib / 4, 32),
        replica_buffer_mib=max(16, data_mib // 4),
        io_threads=1 if vcpus < 4 else min(8, vcpus * 3 // 4),
    )


def sized(memory_mib: int, vcpus: int = 1) -> dict[str, str]:
    """Return the options that follow from the flavor."""
    found = sizes(memory_mib, vcpus)
    limits = (
        ("normal", found.client_buffer_mib),
        ("replica", found.replica_buffer_mib),
        ("pubsub", found.subscriber_buffer_mib),
    )
    return {
        "maxmemory": str(found.data_mib * _MIB),
        "maxclients": str(found.max_clients),
        "repl-backlog-size": str(found.backlog_mib * _MIB),
        "client-output-buffer-limit": " ".join(
            f"{kind} {limit * _MIB} {limit * _MIB // 2} 60" for kind, limit in limits
        ),
        "io-threads": str(found.io_threads),
    }


#: What every instance has. Writes are logged and synced every second; snapshots come on top.
FIXED: Mapping[str, str] = {
    "appendonly": "yes",
    "appendfsync": "everysec",
    "aof-use-rdb-preamble": "yes",
    "save": "3600 1 300 100 60 10000",
    "maxmemory-policy": "noeviction",
    "databases": "16",
    "tcp-keepalive": "300",
    "slowlog-log-slower-than": "10000",
    "slowlog-max-len": "1024",
    "shutdown-timeout": "10",
    # the log of writes is whole then; a snapshot takes long, and on a full disk there is no end
    "shutdown-on-sigterm": "nosave",
    "acl-pubsub-default": "resetchannels",
    "enable-protected-configs": "no",
    "enable-debug-command": "no",
    "enable-module-command": "no",
    # the agent knows its server by the command line
    "set-proc-title": "no",
    "daemonize": "no",
    "supervised": "no",
}


def option(name: str, value: object) -> tuple[str, str]:
    """Return an option of the instance's configuration as the engine spells it.

    Raises GuestError for what is none.
    """
    text = {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
    if not _NAME.match(name) or not parameters.is_plain(text):
        raise exception.GuestError(reason=f"the configuration value {name[:64]!r} is not valid")
    return name.replace("_", "-"), text


def options(
    *, memory_mib: int, vcpus: int = 1, overrides: Mapping[str, object] | None = None
) -> dict[str, str]:
    """Return all options but places, addresses and secrets; overrides in place of the usual ones.

    Raises GuestError for an override that is no option.
    """
    found = {**FIXED, **sized(memory_mib, vcpus)}
    found.update(option(name, value) for name, value in (overrides or {}).items())
    return found


def quote(text: str) -> str:
    """Return a text as one argument of the configuration file."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def render(values: Mapping[str, str], places: Mapping[str, str], *, memory_mib: int) -> str:
    """Return the text of the configuration file; ``places`` are quoted, ``values`` are plain."""
    lines = [
        "# Written by the guest agent; changes are lost."
        f" Sizes follow from {memory_mib} MiB of memory.",
        *(f"{name} {quote(place)}" for name, place in places.items()),
        *(f"{name} {value or quote('')}" for name, value in values.items()),
    ]
    return "\n".join(lines) + "\n"


def defaults(memory_mib: int, volume_size_gib: int | None) -> Mapping[str, str | int]:
    """Return what an instance of this size is configured with; no paths, no addresses."""
    # the number of CPUs is not asked for
    found = {
        parameters.canonical(name): int(value) if value.isdigit() else value
        for name, value in options(memory_mib=memory_mib).items()
        if name != "io-threads"
    }
    return dict(sorted(found.items()))
