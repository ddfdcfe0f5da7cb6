"""Options of the object store that guests publish to."""

from oslo_config import cfg

GROUP = cfg.OptGroup("storage", title="Object storage")

OPTS = [
    cfg.StrOpt(
        "driver",
        help=(
            "Where published logs go: 'swift' is the cloud's object store, 'filesystem' a directory"
            " of this machine, for the local drivers. Without one logs are listed, enabled and"
            " disabled, but not published."
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
    cfg.StrOpt(
        "swift_account_prefix",
        default="AUTH_",
        help="What the names of accounts begin with in Swift (its reseller prefix).",
    ),
    cfg.StrOpt(
        "swift_guest_interface",
        default="public",
        choices=["internal", "public", "admin"],
        help="Which endpoint of the object store guests use.",
    ),
    cfg.URIOpt(
        "swift_guest_url",
        schemes=["http", "https"],
        help=(
            "Where guests reach the object store, without a path, when no endpoint of the catalog"
            " says it: https://objects.example.org."
        ),
    ),
    cfg.StrOpt(
        "swift_guest_cafile",
        help=(
            "Certificates of the authorities that guests check the object store's by; without it"
            " those of their image."
        ),
    ),
    cfg.IntOpt(
        "swift_grant_s",
        default=900,
        min=60,
        max=86400,
        help="Seconds for which the signed URLs are good that a guest is given.",
    ),
    cfg.IntOpt(
        "swift_segment_mib",
        default=1024,
        min=1,
        max=5120,
        help="Size of the segments that large objects are put in.",
    ),
]
