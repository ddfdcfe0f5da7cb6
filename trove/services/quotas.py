"""What a project may use: defaults from the configuration, own limits from the database."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from oslo_config import cfg
from oslo_log import log

from trove.common import context, exception
from trove.db import base, quotas

LOG = log.getLogger(__name__)

_LARGEST_LIMIT = 2**31 - 1


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """What a project uses and may use of a resource; -1 is unlimited.

    ``reserved`` is held for changes under way, beside what is ``in_use``.
    """

    resource: str
    in_use: int
    reserved: int
    limit: int


def default_limits(conf: cfg.ConfigOpts) -> Mapping[str, int]:
    """Return the configured limit of every resource."""
    return {
        quotas.INSTANCES: conf.quota.max_instances_per_tenant,
        quotas.RAM: conf.quota.max_ram_per_tenant,
        quotas.VOLUMES: conf.quota.max_volumes_per_tenant,
        quotas.BACKUPS: conf.quota.max_backups_per_tenant,
    }


def check_limits(limits: Mapping[str, int]) -> None:
    """Raise NotFound for an unknown resource, BadRequest for a limit that is none."""
    for resource, limit in sorted(limits.items()):
        if resource not in quotas.RESOURCES:
            known = ", ".join(quotas.RESOURCES)
            raise exception.NotFound(f"There is no quota of {resource!r}; there are: {known}.")
        if not quotas.UNLIMITED <= limit <= _LARGEST_LIMIT:
            raise exception.BadRequest(
                reason=f"the limit of {resource} must be -1 (unlimited) to {_LARGEST_LIMIT}"
            )


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

    def list_quotas(self, project_id: str) -> Sequence[Quota]:
        """Return the quotas of a project, known or not, in a fixed order."""
        with self._database.reader() as session:
            limits = quotas.get_limits(session, project_id, defaults=default_limits(self._conf))
            # first: what is settled meanwhile would be missing from both
            held = quotas.get_held(session, project_id)
            usage = quotas.get_usage(session, project_id)
        return [
            Quota(
                resource=resource,
                in_use=max(0, usage[resource] - held[resource]),
                reserved=held[resource],
                limit=limits[resource],
            )
            for resource in quotas.RESOURCES
        ]

    @base.retry_on_conflict
    def update(self, project_id: str, limits: Mapping[str, int]) -> None:
        """Give a project limits of its own; raises NotFound, BadRequest."""
        check_limits(limits)
        with self._database.writer() as session:
            quotas.set_limits(session, project_id, limits)
        LOG.info("project %s: quota set to %s", project_id, dict(limits))

    def resync(self, project_id: str | None = None, *, dry_run: bool) -> Sequence[quotas.Drift]:
        """Correct the usage of one project or of all; return what was wrong.

        With ``dry_run`` nothing is changed.
        """
        with self._database.reader() as session:
            projects = [project_id] if project_id else quotas.list_projects(session)
        return [drift for each in projects for drift in self._recount(each, dry_run=dry_run)]

    @base.retry_on_conflict
    def _recount(self, project_id: str, *, dry_run: bool) -> Sequence[quotas.Drift]:
        with self._database.writer() as session:
            return quotas.recount(session, project_id, dry_run=dry_run)
