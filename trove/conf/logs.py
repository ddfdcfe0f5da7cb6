"""Options of the logs of instances."""

from oslo_config import cfg

GROUP = cfg.OptGroup("logs", title="Logs of instances")

OPTS = [
    cfg.StrOpt(
        "container",
        default="database_logs",
        regex=r"^[^/]{1,255}$",
        help="Container that logs are published to, in the object store of the project.",
    ),
    cfg.ListOpt(
        "exposed",
        default=[],
        help=(
            "System logs (such as error, guest) that projects see and publish as their own; the"
            " others are for administrators, who publish them to their own project."
        ),
    ),
]
