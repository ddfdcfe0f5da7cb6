"""Options of the DNS driver ``designate``."""

from oslo_config import cfg

GROUP = cfg.OptGroup("designate", title="Names in a cloud's DNS")

OPTS = [
    cfg.StrOpt(
        "zone",
        help="Name or id of the zone that instances have their names in; it belongs to the project"
        " of [service_credentials].",
    ),
    cfg.IntOpt("ttl_s", default=300, min=1, help="How long resolvers may remember an address."),
    cfg.StrOpt(
        "hostname_template",
        default="{instance_id}",
        help="What names look like in front of the zone's; {instance_id} is replaced.",
    ),
]
