"""The options of every process, one group a module; nothing is read at import.

Only ``trove.cmd`` and ``trove.wsgi`` make a configuration; every other module is handed one.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

from oslo_config import cfg
from oslo_log import log

from trove.conf import api, conductor, database, guest, guestagent, local, quota, taskmanager, tls

_MODULES = (api, conductor, database, guest, guestagent, local, quota, taskmanager, tls)


def register_opts(conf: cfg.ConfigOpts) -> None:
    """Register every option group of this project on ``conf``."""
    for module in _MODULES:
        # a copy: a group carries the values of the configuration that it was registered on
        conf.register_group(copy.deepcopy(module.GROUP))
        conf.register_opts(module.OPTS, group=module.GROUP)


def new() -> cfg.ConfigOpts:
    """Return a fresh configuration object with all options registered, not yet parsed."""
    conf = cfg.ConfigOpts()
    log.register_options(conf)
    register_opts(conf)
    return conf


def load(
    args: Sequence[str], *, prog: str, default_config_files: Sequence[str] | None = None
) -> cfg.ConfigOpts:
    """Parse command line and files into a new configuration and set up logging.

    ``args`` are the arguments behind the program's name; ``default_config_files`` replaces the
    usual search in ``/etc/trove``.
    """
    conf = new()
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
    return [(module.GROUP.name, list(module.OPTS)) for module in _MODULES]
