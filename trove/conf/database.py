"""Where the SQL backend is; the remaining [database] options are oslo.db's."""

from oslo_config import cfg
from oslo_db import options

GROUP = cfg.OptGroup("database", title="SQL backend")

OPTS = list(options.database_opts)
