"""Options of trove-taskmanager."""

from oslo_config import cfg

GROUP = cfg.OptGroup("taskmanager", title="Task manager")

OPTS = [
    cfg.IntOpt("workers", default=1, min=1, help="Task manager processes."),
    cfg.IntOpt("threads", default=16, min=1, help="Operations stepped at a time, a process."),
    cfg.FloatOpt("sweep_interval_s", default=1.0, min=0.05, help="Seconds between looks for work."),
    cfg.FloatOpt("lease_s", default=10.0, min=0.5, help="Seconds a claim on an operation holds."),
    cfg.FloatOpt(
        "reconcile_interval_s",
        default=5.0,
        min=0.1,
        help="Seconds between reconciler runs, each with one list of all servers. A compute driver"
        " may ask for longer intervals.",
    ),
    cfg.FloatOpt(
        "orphans_interval_s",
        default=60.0,
        min=0,
        help="Seconds between lists of volumes, ports, broker accounts and DNS records, which show"
        " what is left over of instances.",
    ),
    cfg.IntOpt(
        "operations_retention_days",
        default=90,
        min=1,
        help="Days after which ended operations are forgotten, with their steps and jobs. The last"
        " ones of each instance are kept as long as it lives.",
    ),
    cfg.FloatOpt("usage_timeout_s", default=900.0, min=1, help="Longest a create may take."),
    cfg.FloatOpt("restart_timeout_s", default=300.0, min=1, help="Longest a restart may take."),
    cfg.FloatOpt(
        "upgrade_timeout_s",
        default=7200.0,
        min=1,
        help="Longest an upgrade of an instance to another datastore version may take; most of it"
        " goes into keeping a copy of the data and converting them.",
    ),
    cfg.FloatOpt(
        "configure_timeout_s",
        default=120.0,
        min=1,
        help="Longest it may take to apply changed configuration values to an instance.",
    ),
    cfg.FloatOpt("tls_timeout_s", default=180.0, min=1, help="Longest a change of TLS may take."),
    cfg.FloatOpt(
        "reapply_timeout_s",
        default=86400.0,
        min=1,
        help="Longest it may take to apply a module again to all its instances.",
    ),
    cfg.FloatOpt(
        "guest_stop_timeout_s",
        default=30.0,
        min=0.1,
        help="Longest a delete waits for the engine's clean shutdown.",
    ),
    cfg.FloatOpt(
        "job_retry_interval_s",
        default=10.0,
        min=0.1,
        help="Seconds after which a job without outcome is sent to its guest again.",
    ),
    cfg.ListOpt(
        "default_allowed_cidrs",
        default=["0.0.0.0/0", "::/0"],
        help="Networks that may connect to instances whose access names none.",
    ),
    cfg.StrOpt("compute_driver", default="nova", help="Entry point in trove.drivers.compute."),
    cfg.StrOpt("volume_driver", default="cinder", help="Entry point in trove.drivers.volume."),
    cfg.StrOpt("network_driver", default="neutron", help="Entry point in trove.drivers.network."),
    cfg.StrOpt("image_driver", default="glance", help="Entry point in trove.drivers.image."),
    cfg.StrOpt("broker_driver", default="shared", help="Entry point in trove.drivers.broker."),
    cfg.StrOpt(
        "dns_driver", help="Entry point in trove.drivers.dns; by default instances have no names."
    ),
    cfg.StrOpt("secrets_driver", default="local", help="Entry point in trove.drivers.secrets."),
]
