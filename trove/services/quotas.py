"""What a project may use: defaults from the configuration, own limits from the database."""

from __future__ import annotations

from collections.abc import Mapping

from oslo_config import cfg

from trove.common import context
from trove.db import base, quotas


def default_limits(conf: cfg.ConfigOpts) -> Mapping[str, int]:
    """Return the configured limit of every resource."""
    return {
        quotas.INSTANCES: conf.quota.max_instances_per_tenant,
        quotas.RAM: conf.quota.max_ram_per_tenant,
        quotas.VOLUMES: conf.quota.max_volumes_per_tenant,
        quotas.BACKUPS: conf.quota.max_backups_per_tenant,
    }


class Quotas:
    """Use cases of quotas."""

    def __init__(self, *, conf: cfg.ConfigOpts, database: base.Database) -> None:
        """Take the configuration and the database."""
        self._conf = conf
        self._database = database

    def get_limits(self, caller: context.RequestContext) -> Mapping[str, int]:
        """Return the limits of the caller's project; -1 is unlimited."""
        with self._database.reader() as session:
            return quotas.get_limits(
                session, str(caller.project_id), defaults=default_limits(self._conf)
            )
