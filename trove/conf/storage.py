"""Options of the object store that guests publish to."""

from oslo_config import cfg

GROUP = cfg.OptGroup("storage", title="Object storage")

OPTS = [
    cfg.StrOpt(
        "driver",
        help=(
            "Where backups and published logs go: 'swift' is the cloud's object store, 's3' a"
            " bucket of any store that speaks S3, 'filesystem' a directory of this machine, for the"
            " local drivers. Without one there are no backups, and logs are listed, enabled and"
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
    cfg.URIOpt(
        "s3_endpoint",
        schemes=["http", "https"],
        help=(
            "Where the control plane reaches S3: https://s3.example.org. Without it that of"
            " Amazon's region s3_region."
        ),
    ),
    cfg.StrOpt(
        "s3_region",
        default="us-east-1",
        help="Region that requests are signed for; the store says which one it has.",
    ),
    cfg.StrOpt(
        "s3_bucket",
        help="Bucket that everything goes to; the operator makes it.",
    ),
    cfg.StrOpt(
        "s3_prefix",
        default="",
        help=(
            "What all keys in the bucket begin with, so that more than one service can use it; a"
            " slash follows it."
        ),
    ),
    cfg.StrOpt(
        "s3_access_key",
        help="Access key of the service; guests see it in signed URLs, where it opens nothing.",
    ),
    cfg.StrOpt(
        "s3_secret_key",
        secret=True,
        help="Secret of the access key; it never leaves the control plane.",
    ),
    cfg.StrOpt(
        "s3_secret_key_file",
        help="File with the secret of the access key, in the place of s3_secret_key.",
    ),
    cfg.StrOpt(
        "s3_addressing",
        default="path",
        choices=[
            ("path", "https://s3.example.org/bucket/key"),
            ("virtual", "https://bucket.s3.example.org/key"),
        ],
        help="Where the bucket's name is in URLs.",
    ),
    cfg.StrOpt(
        "s3_cafile",
        help="Certificates of the authorities that S3's is checked by; else the system's.",
    ),
    cfg.URIOpt(
        "s3_guest_endpoint",
        schemes=["http", "https"],
        help="Where guests reach S3, when that is elsewhere than s3_endpoint.",
    ),
    cfg.StrOpt(
        "s3_guest_cafile",
        help=(
            "Certificates of the authorities that guests check S3's by, when they are others than"
            " those of s3_cafile; without any those of their image."
        ),
    ),
    cfg.IntOpt(
        "s3_grant_s",
        default=900,
        min=60,
        max=86400,
        help="Seconds for which the signed URLs are good that a guest is given.",
    ),
    cfg.IntOpt(
        "s3_part_mib",
        default=64,
        min=5,
        max=1024,
        help=(
            "Largest object that the control plane puts in one request, and size of the parts of"
            " larger ones; one part is in memory."
        ),
    ),
]
