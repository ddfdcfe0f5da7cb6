"""Options of the guest channel, shared by control plane and agent."""

from oslo_config import cfg

GROUP = cfg.OptGroup("guest", title="Guest channel")

OPTS = [
    cfg.StrOpt(
        "transport_url",
        secret=True,
        help="RabbitMQ URL (own virtual host) of the bus that guest agents use.",
    ),
    cfg.StrOpt(
        "management_url",
        secret=True,
        help=(
            "Management API of RabbitMQ with a user that has the tag administrator, such as"
            " https://user:password@broker:15671. With [taskmanager] broker_driver = rabbitmq"
            " every agent gets an account of its own there."
        ),
    ),
    cfg.StrOpt(
        "management_ca_file",
        help="Certificates of the authorities that vouch for the management API; by default those"
        " that Python trusts.",
    ),
    cfg.ListOpt(
        "key_encryption_keys",
        secret=True,
        default=[],
        help=(
            "Keys that wrap the keys of instances, newest first, each as printed by 'trove-manage"
            " key generate', or barbican: and the reference of a secret that holds it. There is no"
            " default: control processes do not start without one."
        ),
    ),
    cfg.IntOpt(
        "message_window_s",
        default=120,
        min=5,
        help="Seconds after which a sealed message is too old to be accepted.",
    ),
    cfg.FloatOpt("heartbeat_interval_s", default=10.0, min=0.5, help="Seconds between heartbeats."),
    cfg.FloatOpt(
        "call_timeout_s", default=8.0, min=0.5, help="Seconds a call to a guest may take."
    ),
]
