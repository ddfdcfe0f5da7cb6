"""The options of every process, one group a module; nothing is read at import.

Only ``trove.cmd`` and ``trove.wsgi`` make a configuration; every other module is handed one.
"""

from __future__ import annotations

import copy
import importlib
from collections.abc import Iterator, Sequence
from typing import Any

from oslo_config import cfg
from oslo_log import log

#: The modules of this package, one option group each.
ALL = (
    "api",
    "backup",
    "barbican",
    "cinder",
    "conductor",
    "database",
    "designate",
    "events",
    "glance",
    "guest",
    "guestagent",
    "local",
    "logs",
    "neutron",
    "notifications",
    "nova",
    "prometheus",
    "quota",
    "service_credentials",
    "storage",
    "taskmanager",
    "tls",
    "verifier",
)
#: Those of the guest agent. The guest image lacks what the others import (oslo.db), so modules are
#: imported when they are asked for.
GUEST = ("guest", "guestagent")


def _modules(names: Sequence[str]) -> Iterator[Any]:
    return (importlib.import_module(f"trove.conf.{name}") for name in names)


def register_opts(conf: cfg.ConfigOpts, names: Sequence[str] = ALL) -> None:
    """Register the option groups of this project on ``conf``."""
    for module in _modules(names):
        # a copy: a group carries the values of the configuration that it was registered on
        conf.register_group(copy.deepcopy(module.GROUP))
        conf.register_opts(module.OPTS, group=module.GROUP)


def new(names: Sequence[str] = ALL) -> cfg.ConfigOpts:
    """Return a fresh configuration object with options registered, not yet parsed."""
    conf = cfg.ConfigOpts()
    log.register_options(conf)
    register_opts(conf, names)
    return conf


def load(
    args: Sequence[str],
    *,
    prog: str,
    default_config_files: Sequence[str] | None = None,
    names: Sequence[str] = ALL,
    has_output: bool = False,
) -> cfg.ConfigOpts:
    """Parse command line and files into a new configuration and set up logging.

    ``args`` are the arguments behind the program's name; ``default_config_files`` replaces the
    usual search in ``/etc/trove``. A program that ``has_output`` logs to standard error where the
    configuration names nothing else: its output is for whoever reads it.
    """
    conf = new(names)
    if has_output:
        conf.set_default("use_stderr", True)
    conf(
        list(args),
        project="trove",
        prog=prog,
        default_config_files=(
            list(default_config_files) if default_config_files is not None else None
        ),
    )
    log.setup(conf, "trove")
    return conf


def list_opts() -> list[tuple[str, list[cfg.Opt]]]:
    """List all groups with their options, for oslo-config-generator."""
    return [
        (module.GROUP.name, list(getattr(module, "SAMPLE_OPTS", module.OPTS)))
        for module in _modules(ALL)
    ]
