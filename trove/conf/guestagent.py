"""Options of trove-guestagent; written by the compute driver into the server."""

from oslo_config import cfg

GROUP = cfg.OptGroup("guestagent", title="Guest agent")

OPTS = [
    cfg.StrOpt("instance_id", help="Instance this agent serves."),
    cfg.StrOpt("key_file", help="File (0600) with the base64 key of the instance."),
    cfg.StrOpt("datastore_manager", default="mariadb", help="Datastore family to run."),
    cfg.StrOpt("state_dir", default="/var/lib/trove-guestagent", help="Agent's own state."),
    cfg.StrOpt("mount_point", default="/var/lib/trove-data", help="Where the data volume is."),
    cfg.StrOpt(
        "volume_id",
        help=(
            "Volume to mount there; its device is known by the beginning of this id. Without one"
            " the mount point is a mere directory."
        ),
    ),
    cfg.ListOpt(
        "endpoints",
        default=[],
        help=(
            "Object storage and whatever else the guest may reach on the management network beside"
            " the broker, as host:port or URL."
        ),
    ),
    cfg.DictOpt(
        "hosts",
        default={},
        help="Addresses of hosts that the broker or endpoints are named by, as name:address.",
    ),
    cfg.HostAddressOpt("bind_address", default="127.0.0.1", help="Address the engine listens on."),
    cfg.PortOpt("port", help="Port the engine listens on; by default the engine's standard port."),
    cfg.StrOpt("basedir", help="Where the engine is installed; by default the system's."),
    cfg.DictOpt(
        "former_basedirs",
        default={},
        help=(
            "Where other versions of the engine are installed, as version:directory: PostgreSQL is"
            " upgraded from one major version to another with the programs of both. Debian's"
            " packages are found without it."
        ),
    ),
    cfg.StrOpt("template_dir", help="Ready data directory that new instances are copied from."),
    cfg.StrOpt(
        "engine_user",
        help=(
            "System user the engine runs as when the agent is root, by default the one that the"
            " engine's package makes; else the agent's own user."
        ),
    ),
    cfg.IntOpt(
        "first_boot",
        default=1,
        min=1,
        help="Number of the agent's first start, above all starts in earlier servers.",
    ),
    cfg.ListOpt(
        "bundle_public_keys",
        default=[],
        help=(
            "Keys that sign releases of the agent, as printed by 'trove-manage guest bundle-key'."
            " Set it for trove-taskmanager and trove-manage: guests trust what was set when their"
            " server was made."
        ),
    ),
    cfg.FloatOpt("probe_interval_s", default=2.0, min=0.1, help="Seconds between engine pings."),
]
