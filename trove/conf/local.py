"""Options of the local drivers."""

from oslo_config import cfg

GROUP = cfg.OptGroup("local", title="Local drivers: instances as processes of this machine")

OPTS = [
    cfg.StrOpt("state_dir", default="/var/lib/trove", help="Servers, volumes, ports, images."),
    cfg.StrOpt(
        "address_pool",
        default="127.64.0.0/16",
        help="Part of 127.0.0.0/8 that instances get their addresses from.",
    ),
    cfg.MultiStrOpt(
        "flavors",
        default=[
            "1:db.tiny:256:1",
            "2:db.small:512:1",
            "3:db.medium:1024:2",
            "4:db.large:4096:2",
        ],
        help="Flavors, each id:name:memory-in-MiB:cpus.",
    ),
    cfg.MultiStrOpt(
        "volume_types",
        default=[],
        help="Volume types that users may choose, each name:description; none: any name will do.",
    ),
    cfg.StrOpt(
        "agent_command",
        default="trove-guestagent",
        help="Program that is started as the server of an instance.",
    ),
    cfg.DictOpt(
        "engine_users",
        default={},
        help=(
            "System users that engines run as where the agents are root, as manager:user; by"
            " default [guestagent] engine_user, else the user that the engine's package makes."
        ),
    ),
    cfg.BoolOpt("use_cgroups", default=True, help="Limit memory and processes by cgroup."),
    cfg.BoolOpt(
        "use_firewall",
        default=True,
        help="Enforce who may connect to instances by nftables, where this machine allows it.",
    ),
    cfg.FloatOpt(
        "max_cpus",
        min=0.1,
        help="Processors that one instance may use, by cgroup; by default there is no limit.",
    ),
    cfg.StrOpt(
        "agent_user",
        help=(
            "System user that agents, and their engines, run as where they are started by root; by"
            " default agents run as root, and engines as the users in engine_users."
        ),
    ),
    cfg.IntOpt("max_processes", default=4096, min=64, help="Process limit of one instance."),
]
