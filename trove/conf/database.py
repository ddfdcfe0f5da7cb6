"""Where the SQL backend is; the remaining [database] options are oslo.db's."""

import copy

from oslo_config import cfg
from oslo_db import options

GROUP = cfg.OptGroup("database", title="SQL backend")

#: A first connection that waited for the backend would keep requests without an answer for
#: minutes; whatever needs the backend here says that it is away, and tries again by itself.
_DEFAULTS = {"max_retries": 0}


def _with_default(option: cfg.Opt) -> cfg.Opt:
    if option.name not in _DEFAULTS:
        return option
    changed = copy.copy(option)
    changed.default = _DEFAULTS[option.name]
    return changed


OPTS = [_with_default(option) for option in options.database_opts]
