"""MongoDB's configuration file, sized from the flavor and the volume.

With M the memory in MiB and V the volume in MiB (the formulas hold from 512 MiB of memory on):

* WiredTiger's cache: half of what is left after 512 MiB for the operating system, the agent and
  the server itself, at least 256 MiB, which is the least that MongoDB takes; from 8 GiB on 60 % of
  what is left;
* the oplog: V/20, 64 MiB to 50 GiB; it counts when the database is made, MongoDB does not shrink
  or grow an oplog of an existing one by its configuration;
* connections: M/4, 64 to 16000; each may cost 1 MiB of stack;
* files of the journal: V/128, 8 to 100 MiB.

The file is YAML of which JSON is a part: it is written as JSON, so nothing needs to be quoted.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from trove.common import exception
from trove.datastores import parameters

#: The name of every instance's replica set; the set is told apart by its id and its key.
REPLICA_SET = "trove"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """What follows from the size of the flavor and the volume."""

    cache_mib: int
    oplog_mib: int
    journal_file_mib: int
    max_connections: int


def _between(low: int, value: float, high: int) -> int:
    return int(max(low, min(value, high)))


def sizes(memory_mib: int, volume_size_gib: int | None) -> Sizes:
    """Return the sizes for a flavor and a volume, by the formulas of this module."""
    volume_mib = (volume_size_gib or 16) * 1024
    share = 0.6 if memory_mib >= 8192 else 0.5
    return Sizes(
        cache_mib=max(256, int((memory_mib - 512) * share) // 64 * 64),
        oplog_mib=_between(64, volume_mib / 20, 50 * 1024),
        journal_file_mib=_between(8, volume_mib / 128, 100),
        max_connections=_between(64, memory_mib / 4, 16000),
    )


def sized_options(memory_mib: int, volume_size_gib: int | None) -> dict[str, str | int | float]:
    """Return the options that follow from the sizes, by their paths in the file."""
    size = sizes(memory_mib, volume_size_gib)
    return {
        "net.maxIncomingConnections": size.max_connections,
        "replication.oplogSizeMB": size.oplog_mib,
        "storage.wiredTiger.engineConfig.cacheSizeGB": size.cache_mib / 1024,
        "storage.wiredTiger.engineConfig.configString": (
            f"log=(file_max={size.journal_file_mib}MB,prealloc=false)"
        ),
    }


def defaults(memory_mib: int, volume_size_gib: int | None) -> Mapping[str, str | int]:
    """Return what an instance of this size is configured with; no paths, no addresses."""
    sized = sized_options(memory_mib, volume_size_gib)
    return {
        name: value if isinstance(value, int) else str(value)
        for name, value in sorted(sized.items())
    }


def overrides(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values of a configuration group as MongoDB spells their names; raises GuestError.

    Names with dots are options of the file, others are parameters.
    """
    rules = parameters.load("mongodb")
    found = {}
    for name, value in sorted(values.items()):
        rule = rules.get(parameters.canonical(name))
        if rule is None or rule.spelling is None or not isinstance(value, str | int | float):
            raise exception.GuestError(reason=f"the parameter {name[:64]!r} cannot be set")
        if isinstance(value, str) and not parameters.is_plain(value):
            raise exception.GuestError(reason=f"the value of {name[:64]!r} is not valid")
        found[rule.spelling] = value
    return found


def dynamic_names() -> frozenset[str]:
    """Return the names, as MongoDB spells them, of what a running server can be told."""
    return frozenset(
        rule.spelling
        for rule in parameters.load("mongodb").values()
        if rule.spelling is not None and not rule.restart_required
    )


def nest(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options by their paths as the tree that the file is."""
    tree: dict[str, Any] = {}
    for path, value in options.items():
        *sections, last = path.split(".")
        place = tree
        for section in sections:
            place = place.setdefault(section, {})
        place[last] = value
    return tree


def render(options: Mapping[str, Any], server_parameters: Mapping[str, Any]) -> str:
    """Return the text of the configuration file."""
    tree = nest(options)
    tree["setParameter"] = dict(server_parameters)
    return json.dumps(tree, indent=1, sort_keys=True) + "\n"


def flatten(text: str) -> dict[str, Any]:
    """Return the options of a configuration file that :func:`render` made, by their paths."""
    found: dict[str, Any] = {}

    def walk(prefix: str, place: Mapping[str, Any]) -> None:
        for name, value in place.items():
            if isinstance(value, dict):
                walk(f"{prefix}{name}.", value)
            else:
                found[f"{prefix}{name}"] = value

    walk("", json.loads(text))
    return found
