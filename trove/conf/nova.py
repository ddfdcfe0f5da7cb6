"""Options of the compute driver ``nova``."""

from oslo_config import cfg

GROUP = cfg.OptGroup("nova", title="Servers of Nova")

OPTS = [
    cfg.StrOpt(
        "availability_zone",
        help="Availability zone of servers whose users choose none; by default the one that Nova"
        " chooses.",
    ),
    cfg.StrOpt(
        "keypair",
        help="Key pair of the service's user whose owner may log in to servers, where the guest"
        " image lets anybody do so; by default none.",
    ),
    cfg.StrOpt(
        "server_name",
        default="trove-{instance_id}",
        help="Names of servers; {instance_id}, {project_id} and {name} stand for those of the"
        " instance. Servers are found by their tags, not by their names.",
    ),
    cfg.FloatOpt(
        "look_interval_s",
        default=5.0,
        min=0.1,
        help="Seconds between lists of all servers, which tell what became of each.",
    ),
]
