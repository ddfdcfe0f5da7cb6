"""Options of notifications; whether and where they are sent is oslo.messaging's to say."""

from oslo_config import cfg

GROUP = cfg.OptGroup("notifications", title="Notifications")

OPTS = [
    cfg.IntOpt(
        "exists_interval_s",
        default=3600,
        min=0,
        help="Seconds between trove.instance.exists of every instance; 0: never.",
    ),
    cfg.IntOpt(
        "max_waiting",
        default=100000,
        min=1000,
        help=(
            "Notifications that wait at most while the message broker takes none; beyond it the"
            " oldest are dropped."
        ),
    ),
]
