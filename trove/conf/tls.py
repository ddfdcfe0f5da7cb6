"""Options of the certificates that instances get."""

from oslo_config import cfg

GROUP = cfg.OptGroup("tls", title="TLS of instances")

OPTS = [
    cfg.StrOpt(
        "ca_certificate_file",
        default="/etc/trove/ca.pem",
        help="Certificate of the authority that signs the certificates of instances.",
    ),
    cfg.StrOpt("ca_key_file", default="/etc/trove/ca-key.pem", help="Its private key (0600)."),
    cfg.IntOpt("certificate_days", default=825, min=1, help="Days a certificate is valid."),
]
