"""Options of trove-verifier."""

from oslo_config import cfg

GROUP = cfg.OptGroup("verifier", title="Verifier: proofs of backups on a host of the operator's")

OPTS = [
    cfg.StrOpt(
        "name",
        help=(
            "Name of this host among all that prove backups, by default that of the machine. It"
            " stays the same as long as state_dir does: what was begun under it goes on under it."
        ),
    ),
    cfg.StrOpt(
        "state_dir",
        default="/var/lib/trove-verifier",
        help=(
            "Where backups are restored, in the clear, while they are proven: a directory of this"
            " service alone, with room for at_once of them. It may be in memory (tmpfs). All"
            " in it that belongs to no proof is removed."
        ),
    ),
    cfg.StrOpt(
        "user",
        help=(
            "User of the operating system that proofs run as where this service is root, one that"
            " has nothing else; none: as the user of this service, who can read its configuration."
        ),
    ),
    cfg.IntOpt(
        "at_once",
        default=2,
        min=1,
        help="Most proofs at a time on this host.",
    ),
    cfg.IntOpt(
        "memory_mib",
        default=1024,
        min=128,
        help="Memory that a proof may use, agent and engine together, where it can be limited.",
    ),
    cfg.FloatOpt(
        "cpus",
        default=1.0,
        min=0.1,
        help="Processors that a proof may use, agent and engine together, where it can be limited.",
    ),
    cfg.IntOpt(
        "max_processes",
        default=512,
        min=64,
        help="Processes and threads that a proof may have, where they can be limited.",
    ),
    cfg.BoolOpt("use_cgroups", default=True, help="Limit memory, processors and processes."),
    cfg.BoolOpt(
        "use_firewall",
        default=True,
        help=(
            "Let proofs reach the guest bus, the object store and what else is in [guestagent]"
            " endpoints, and nothing beside; by nftables, with [verifier] user."
        ),
    ),
    cfg.MultiStrOpt(
        "engines",
        default=[],
        help=(
            "Engines that are installed outside of their packages' usual places, each"
            " manager:program or manager:directory."
        ),
    ),
    cfg.FloatOpt(
        "report_interval_s",
        default=5.0,
        min=0.1,
        help="How often this host tells that it is there.",
    ),
    cfg.FloatOpt(
        "lost_after_s",
        default=60.0,
        min=1.0,
        help=(
            "How long a host is not heard of until its proofs are begun anew on another one. Read"
            " by trove-taskmanager."
        ),
    ),
]
