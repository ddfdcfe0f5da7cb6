"""Options of the key manager."""

from oslo_config import cfg

GROUP = cfg.OptGroup("barbican", title="Key manager")

OPTS = [
    cfg.StrOpt(
        "certificate_authority_ref",
        help=(
            "Reference of the authority that signs the certificates of instances: a secret with its"
            " certificate and key as PEM, or a certificate container. By default it is the oldest"
            " secret of certificate_authority_name in the service's project."
        ),
    ),
    cfg.StrOpt(
        "certificate_authority_name",
        default="trove-instance-authority",
        help=(
            "Name of the secret that 'trove-manage certificate-authority create' keeps a new"
            " authority in."
        ),
    ),
    cfg.IntOpt(
        "authority_cache_s",
        default=300,
        min=0,
        help="Seconds for which a process remembers the authority.",
    ),
]
