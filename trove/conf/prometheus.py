"""Options of what Prometheus scrapes."""

from oslo_config import cfg

GROUP = cfg.OptGroup("prometheus", title="Prometheus")

OPTS = [
    cfg.StrOpt(
        "bind_host",
        default="127.0.0.1",
        help="Address that trove-conductor serves figures of all instances on. One that others can"
        " reach needs a token.",
    ),
    cfg.PortOpt(
        "port",
        min=1,
        help="Port that figures are served on, in a process of its own; without one they are not.",
    ),
    cfg.StrOpt(
        "token",
        secret=True,
        help="What a scraper must send as 'Authorization: Bearer <token>'; by default nothing.",
    ),
    cfg.FloatOpt(
        "cache_s",
        default=15.0,
        min=0,
        help="Seconds that an answer is given again before figures are read anew: at most the"
        " interval of the scrapes.",
    ),
]
