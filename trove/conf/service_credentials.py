"""Options of the identity that this service has in the cloud, read by keystoneauth1."""

from keystoneauth1 import loading
from oslo_config import cfg

GROUP = cfg.OptGroup("service_credentials", title="Identity of this service in the cloud")


def _session_opts() -> list[cfg.Opt]:
    """Return the options of keystoneauth1's sessions; none may wait for ever for an answer."""
    opts: list[cfg.Opt] = loading.get_session_conf_options()
    for opt in opts:
        if opt.dest == "timeout":
            opt.default = 60
    return opts


OPTS = [
    *_session_opts(),
    *loading.get_auth_common_conf_options(),
    cfg.StrOpt("region_name", help="Region whose services are used; by default the only one."),
    cfg.StrOpt(
        "interface",
        default="internal",
        choices=["internal", "public", "admin"],
        help="Which endpoints of the catalog are used.",
    ),
]

#: keystoneauth1 registers the options of the chosen ``auth_type`` when it reads them.
SAMPLE_OPTS = [*OPTS, *loading.get_auth_plugin_conf_options("password")]
