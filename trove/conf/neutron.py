"""Options of the network driver ``neutron``."""

from oslo_config import cfg

GROUP = cfg.OptGroup("neutron", title="Networks of a cloud")

OPTS = [
    cfg.StrOpt(
        "management_network",
        help="Id of the network over which guests reach the message broker and the object store,"
        " and nothing else. Without it they go over the user's network, which is fit for trials"
        " only.",
    ),
    cfg.StrOpt(
        "management_security_group",
        help="Id of the security group of ports on the management network. By default this service"
        " makes one that admits nobody and lets guests reach the hosts of [guest] transport_url and"
        " [guestagent] endpoints.",
    ),
    cfg.StrOpt(
        "default_network",
        help="Id of the network of instances for which the user names none. Without it users must"
        " name one.",
    ),
    cfg.StrOpt(
        "external_network",
        help="Id of the network that public addresses come from. By default the one that a router"
        " leads to from the instance's subnet.",
    ),
]
