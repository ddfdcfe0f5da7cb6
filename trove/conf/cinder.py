"""Options of the volume driver ``cinder``."""

from oslo_config import cfg

GROUP = cfg.OptGroup("cinder", title="Volumes of Cinder")

OPTS = [
    cfg.StrOpt(
        "volume_type",
        help="Type of volumes whose users choose none; by default the default of Cinder.",
    ),
    cfg.StrOpt(
        "availability_zone",
        help="Availability zone of volumes; by default the one that Cinder chooses.",
    ),
    cfg.BoolOpt(
        "extend_attached",
        default=True,
        help="Whether the backend extends volumes that servers use. Where it does not, as with"
        " NFS, the database is stopped and its volume taken from its server meanwhile.",
    ),
    cfg.FloatOpt(
        "look_interval_s",
        default=1.0,
        min=0.1,
        help="Seconds before a volume that changes is looked at again; the longer it takes, the"
        " rarer it is looked at.",
    ),
]
