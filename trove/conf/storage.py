"""Options of the object store that guests publish to."""

from oslo_config import cfg

GROUP = cfg.OptGroup("storage", title="Object storage")

OPTS = [
    cfg.StrOpt(
        "driver",
        help=(
            "Where published logs go: 'filesystem' is a directory of this machine, for the local"
            " drivers. Without one logs are listed, enabled and disabled, but not published."
        ),
    ),
    cfg.StrOpt(
        "filesystem_directory",
        default="/var/lib/trove/objects",
        help=(
            "Directory of the filesystem store, with one directory a project. trove-api and the"
            " guest agents must see the same one, under the same path."
        ),
    ),
]
