"""Options of backups."""

from oslo_config import cfg

GROUP = cfg.OptGroup("backup", title="Backups")

OPTS = [
    cfg.StrOpt(
        "account",
        default="project",
        choices=["project", "service"],
        help=(
            "Whose account of the object store backups go to: that of the project that the instance"
            " belongs to, or the service's own, which users do not reach."
        ),
    ),
    cfg.StrOpt(
        "container",
        default="database_backups",
        regex=r"^[^/]{1,255}$",
        help="Container that backups go to where no backup strategy names another.",
    ),
    cfg.IntOpt(
        "segment_mib",
        default=8,
        min=1,
        max=64,
        help=(
            "Size of the objects that a backup is stored in. An agent that makes a backup or"
            " restores one has three of them in memory."
        ),
    ),
    cfg.IntOpt(
        "compression_level",
        default=2,
        min=1,
        max=19,
        help=(
            "Level of zstd: higher is smaller and slower. 2 makes backups somewhat smaller than"
            " gzip does, in a small part of its time."
        ),
    ),
    cfg.IntOpt(
        "rate_limit_mib_s",
        default=0,
        min=0,
        help="Most MiB of data a second that an agent reads for a backup; 0 is no limit.",
    ),
    cfg.IntOpt(
        "timeout_s",
        default=86400,
        min=60,
        help="Longest a backup may take, and a database to be restored.",
    ),
    cfg.BoolOpt(
        "point_in_time",
        default=True,
        help=(
            "Keep the log of every database that has a backup in an archive, so that it can be"
            " restored to any moment since."
        ),
    ),
    cfg.FloatOpt(
        "archive_interval_s",
        default=30.0,
        min=1.0,
        max=60.0,
        help="Longest that writes are on the volume of an instance alone.",
    ),
    cfg.IntOpt(
        "archive_spool_mib",
        default=1024,
        min=16,
        help=(
            "Most of its log that a database keeps while the archive cannot be reached. Beyond it"
            " the archive ends with a gap, which is told, and begins anew with the next full"
            " backup."
        ),
    ),
    cfg.IntOpt(
        "final_retention_days",
        default=0,
        min=0,
        help=(
            "Days that the last backup of an instance is kept that is made when the instance is"
            " deleted with final_backup; 0: until somebody deletes it."
        ),
    ),
    cfg.FloatOpt(
        "freeze_timeout_s",
        default=60.0,
        min=1.0,
        max=600.0,
        help=(
            "Longest that a database stands still while its volume is snapshot. After it the"
            " database goes on by itself, and the backup fails."
        ),
    ),
    cfg.StrOpt(
        "verify",
        default="all",
        choices=["all", "sampled", "scheduled", "none"],
        help=(
            "Which backups are proven when they are completed, by restoring them and having their"
            " engine check the result: all, or a part of them. With any but none, each database has"
            " its newest backup proven in time, before the last proof of any is older than"
            " verify_max_age_days; with scheduled that is all that is proven. Others can be proven"
            " at any time."
        ),
    ),
    cfg.FloatOpt(
        "verify_sample_rate",
        default=0.1,
        min=0.0,
        max=1.0,
        help="Which part of the backups is proven with verify = sampled.",
    ),
    cfg.FloatOpt(
        "sweep_interval_hours",
        default=24.0,
        min=0.0,
        help=(
            "How often the containers of backups are swept: segments are removed that no backup"
            " has, that no manifest is with and that were not changed for two days. 0: never."
        ),
    ),
    cfg.StrOpt(
        "verify_place",
        default="instance",
        choices=["instance", "server", "host"],
        help=(
            "Where backups are proven: beside the database of their instance, whose volume needs"
            " room for a second copy; on a server that is made for it, of the same flavor and"
            " image and with a volume of the same size, in the service's project; or on a host that"
            " runs trove-verifier."
        ),
    ),
    cfg.StrOpt(
        "verify_fallback",
        default="none",
        choices=["none", "server"],
        help=(
            "Where a backup is proven instead that no host can prove (verify_place = host), for"
            " want of its engine, one of its programs or room: nowhere, or on a server."
        ),
    ),
    cfg.StrOpt(
        "verify_network",
        help=(
            "Network of the servers that are made for proofs, from which the guest bus (unless"
            " there is a network of its own for that) and the object store are reached; none: the"
            " default one of the network service."
        ),
    ),
    cfg.FloatOpt(
        "verify_interval_days",
        default=30.0,
        min=0.0,
        help=(
            "After how long a backup is proven again that was to be proven when it was completed"
            " (verify = all, sampled); 0: never, but for the newest of each database."
        ),
    ),
    cfg.IntOpt(
        "verify_at_once",
        default=20,
        min=1,
        help="Most proofs at a time with which old ones are renewed.",
    ),
    cfg.FloatOpt(
        "verify_max_age_days",
        default=7.0,
        min=0.1,
        help=(
            "A database with backups, none of which has been proven within this time, is told of"
            " by an event and counted, unless verify = none."
        ),
    ),
]
