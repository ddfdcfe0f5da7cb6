"""Options of trove-conductor."""

from oslo_config import cfg

GROUP = cfg.OptGroup("conductor", title="Conductor")

OPTS = [
    cfg.IntOpt("workers", default=1, min=1, help="Conductor processes."),
    cfg.IntOpt("threads", default=16, min=1, help="Threads that serve guest messages, a process."),
    cfg.FloatOpt(
        "heartbeat_flush_interval_s",
        default=0.2,
        min=0.01,
        help="Longest time a heartbeat waits for others before all are stored in one statement.",
    ),
    cfg.IntOpt("heartbeat_batch_size", default=500, min=1, help="Most heartbeats a statement."),
]
