"""Options of the events feed."""

from oslo_config import cfg

GROUP = cfg.OptGroup("events", title="Events feed")

OPTS = [
    cfg.IntOpt(
        "retention_days",
        default=30,
        min=1,
        help="Days for which events are kept; who follows the feed must come back sooner.",
    ),
]
