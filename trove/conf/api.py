"""Options of trove-api."""

from oslo_config import cfg

GROUP = cfg.OptGroup("api", title="REST API")

OPTS = [
    cfg.HostAddressOpt("bind_host", default="127.0.0.1", help="Address trove-api listens on."),
    cfg.PortOpt("bind_port", default=8779, help="Port trove-api listens on."),
    cfg.IntOpt("workers", default=1, min=1, help="API processes."),
    cfg.IntOpt("threads", default=16, min=1, help="Threads that serve requests, a process."),
    cfg.StrOpt(
        "auth_strategy",
        default="keystone",
        choices=[
            ("keystone", "tokens, validated by keystonemiddleware"),
            ("http_basic", "HTTP basic authentication against http_basic_auth_user_file"),
            ("noauth", "for tests: trusts X-Project-Id, X-User-Id and X-Roles; loopback only"),
        ],
        help="How callers are authenticated.",
    ),
    cfg.StrOpt(
        "http_basic_auth_user_file",
        default="/etc/trove/htpasswd",
        help=(
            "Users of the http_basic strategy, one a line: name:bcrypt-hash:project-id:roles with"
            " roles separated by commas. 'htpasswd -nbB' makes the first two fields."
        ),
    ),
    cfg.BoolOpt(
        "embedded_services",
        default=False,
        help=(
            "Serve, beside the Database API, what clients else get from Keystone (with the"
            " http_basic strategy), Swift and Barbican, below /identity, /object-store and"
            " /key-manager: for one machine without a cloud."
        ),
    ),
    cfg.URIOpt(
        "public_endpoint",
        help="URL under which clients reach the API, for links; by default taken from requests.",
    ),
    cfg.BoolOpt(
        "enable_proxy_headers_parsing",
        default=False,
        help="Honour X-Forwarded-* headers; only behind a proxy that sets them.",
    ),
    cfg.IntOpt("max_request_body_bytes", default=1048576, min=1024, help="Largest body accepted."),
    cfg.IntOpt("default_page_size", default=20, min=1, help="Items of a list page by default."),
    cfg.IntOpt("max_page_size", default=1000, min=1, help="Most items of a list page."),
    cfg.IntOpt(
        "guest_call_timeout_s",
        default=8,
        min=1,
        max=10,
        help="Seconds a request waits for a guest agent.",
    ),
    cfg.IntOpt("http_get_rate", default=200, min=0, help="GETs a minute and project; 0: any."),
    cfg.IntOpt("http_post_rate", default=200, min=0, help="POSTs a minute and project; 0: any."),
    cfg.IntOpt("http_put_rate", default=200, min=0, help="PUTs a minute and project; 0: any."),
    cfg.IntOpt(
        "http_delete_rate", default=200, min=0, help="DELETEs a minute and project; 0: any."
    ),
    cfg.IntOpt(
        "max_accepted_volume_size_gib", default=10, min=1, help="Largest volume a user may ask for."
    ),
    cfg.IntOpt(
        "agent_heartbeat_expiry_s",
        default=90,
        min=1,
        help="Seconds without a heartbeat after which operating_status is ERROR.",
    ),
    cfg.ListOpt(
        "module_types",
        default=["ping", "new_relic_license"],
        help="Types of modules that users may make; the guest agents must know them.",
    ),
    cfg.StrOpt("region", default="RegionOne", help="Region that new instances are shown in."),
    cfg.StrOpt("healthcheck_disable_file", help="While this file exists /healthcheck says 503."),
]
