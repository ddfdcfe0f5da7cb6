"""What handlers call."""

from __future__ import annotations

import dataclasses

from oslo_config import cfg

from trove.api.ratelimit import RateLimiter
from trove.common.concurrency import Clock
from trove.services.accounts import Accounts
from trove.services.administration import Administration
from trove.services.backup_schedules import BackupSchedules
from trove.services.backups import Backups
from trove.services.certificates import Certificates
from trove.services.clusters import Clusters
from trove.services.configurations import Configurations
from trove.services.datastores import Datastores
from trove.services.events import Events
from trove.services.final_backups import FinalBackups
from trove.services.flavors import Flavors
from trove.services.instance_actions import InstanceActions
from trove.services.instance_modules import InstanceModules
from trove.services.instance_resets import InstanceResets
from trove.services.instances import Instances
from trove.services.logs import Logs
from trove.services.modules import Modules
from trove.services.monitoring import Monitoring
from trove.services.operations import Operations
from trove.services.parameters import Parameters
from trove.services.proofs import Proofs
from trove.services.quotas import Quotas
from trove.services.restores import Restores
from trove.services.tls import Tls
from trove.services.versions import Versions
from trove.services.volume_types import VolumeTypes


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """All use cases, and what views need beside rows."""

    conf: cfg.ConfigOpts
    clock: Clock
    limiter: RateLimiter
    instances: Instances
    actions: InstanceActions
    resets: InstanceResets
    administration: Administration
    accounts: Accounts
    certificates: Certificates
    configurations: Configurations
    parameters: Parameters
    datastores: Datastores
    flavors: Flavors
    quotas: Quotas
    tls: Tls
    modules: Modules
    instance_modules: InstanceModules
    logs: Logs
    monitoring: Monitoring
    backups: Backups
    backup_schedules: BackupSchedules
    final_backups: FinalBackups
    restores: Restores
    proofs: Proofs
    clusters: Clusters
    versions: Versions
    volume_types: VolumeTypes
    operations: Operations
    events: Events
