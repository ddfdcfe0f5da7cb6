"""Default quotas of a project; -1 is unlimited."""

from oslo_config import cfg

GROUP = cfg.OptGroup("quota", title="Quotas")

OPTS = [
    cfg.IntOpt("max_instances_per_tenant", default=10, min=-1, help="Instances of a project."),
    cfg.IntOpt("max_ram_per_tenant", default=-1, min=-1, help="Memory of a project in MiB."),
    cfg.IntOpt("max_volumes_per_tenant", default=40, min=-1, help="Volume GiB of a project."),
    cfg.IntOpt("max_backups_per_tenant", default=50, min=-1, help="Backups of a project."),
]
