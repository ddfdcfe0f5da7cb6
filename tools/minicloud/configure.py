#!/usr/bin/python3
"""Write every configuration file of the small cloud under its state directory.

Settings come from the environment, as settings.sh exports them. Outside the state directory only
libvirt's qemu.conf (the packaged one is kept beside it) and a stand-in for mount.nfs are written.
"""

import base64
import hashlib
import json
import os
import pathlib
import shutil

E = os.environ
ETC, DATA, LOGS, RUN = (pathlib.Path(E[name]) for name in ("ETC", "DATA", "LOGS", "RUN"))
HOST_IP, GUEST_IP, PASSWORD, REGION = (E[n] for n in ("HOST_IP", "GUEST_IP", "PASSWORD", "REGION"))
IDENTITY = f"http://{HOST_IP}:{E['KEYSTONE_PORT']}"
BROKER = f"rabbit://openstack:{PASSWORD}@{HOST_IP}:{E['BROKER_PORT']}/"
QEMU_CONF = pathlib.Path("/etc/libvirt/qemu.conf")
MOUNT_NFS = pathlib.Path("/usr/sbin/mount.nfs")


def write(name, sections, head=""):
    """Write a file of sections; ``sections`` is {section: {option: value}}."""
    path = ETC / name
    path.parent.mkdir(parents=True, exist_ok=True)
    text = [head] if head else []
    for section, values in sections.items():
        text.append(f"[{section}]")
        text += [f"{key} = {_text(value)}" for key, value in values.items()]
    path.write_text("\n".join(text) + "\n")


def _text(value):
    return str(value).lower() if isinstance(value, bool) else value


def database(name, section="database"):
    """Return the section of a service's database."""
    url = f"mysql+pymysql://os:{PASSWORD}@{HOST_IP}/{name}?charset=utf8mb4"
    return {
        section: {
            "connection": url,
            "max_pool_size": 5,
            "max_overflow": 10,
            "connection_recycle_time": 3600,
        }
    }


def credentials(user, **more):
    """Return the options of a service's own identity."""
    return {
        "auth_type": "password",
        "auth_url": IDENTITY,
        "project_domain_name": "Default",
        "user_domain_name": "Default",
        "project_name": "service",
        "username": user,
        "password": PASSWORD,
        "region_name": REGION,
        **more,
    }


def authtoken(user, service_type):
    """Return the section with which a service checks tokens."""
    return {
        "keystone_authtoken": credentials(
            user,
            www_authenticate_uri=IDENTITY,
            memcached_servers=f"{HOST_IP}:11211",
            service_token_roles_required=True,
            service_token_roles="admin",
            service_type=service_type,
        )
    }


MESSAGING = {
    "oslo_messaging_rabbit": {"heartbeat_in_pthread": False, "rabbit_qos_prefetch_count": 10},
    "oslo_messaging_notifications": {"driver": "noop"},
}


def privsep(config):
    """Return how privileged helpers are started: as root already, without sudo."""
    return {"helper_command": f"privsep-helper --config-file {ETC / config}"}


def databases_and_brokers():
    """Write for MariaDB and for both brokers: the cloud's own, and the guests'."""
    write(
        "my.cnf",
        {
            "mysqld": {
                "user": "root",
                "datadir": DATA / "mysql",
                "socket": E["MYSQL_SOCKET"],
                "pid-file": RUN / "mysqld.own.pid",
                "bind-address": HOST_IP,
                "port": 3306,
                "skip-name-resolve": 1,
                "skip-log-bin": 1,
                "performance_schema": "OFF",
                "innodb_buffer_pool_size": "192M",
                "innodb_log_file_size": "48M",
                # a cloud that is thrown away need not survive a power cut
                "innodb_flush_log_at_trx_commit": 0,
                "innodb_doublewrite": 0,
                "innodb_flush_method": "nosync",
                "sync_frm": 0,
                "max_connections": 400,
                "character-set-server": "utf8mb4",
                "collation-server": "utf8mb4_general_ci",
            }
        },
    )
    broker("broker", HOST_IP, users=("openstack", "trove"), vhosts=("/", "trove"))
    broker("guest-broker", GUEST_IP, users=("trove",), vhosts=("trove-guests",), api=HOST_IP)


def broker(name, address, *, users, vhosts, api=None):
    """Write for one RabbitMQ; ``api`` is where its management API listens, if it has one."""
    salt = b"mini"
    digest = hashlib.sha256(salt + PASSWORD.encode()).digest()
    definitions = {
        "users": [
            {
                "name": user,
                "password_hash": base64.b64encode(salt + digest).decode(),
                "hashing_algorithm": "rabbit_password_hashing_sha256",
                "tags": "administrator",
            }
            for user in users
        ],
        "vhosts": [{"name": vhost} for vhost in vhosts],
        "permissions": [
            {"user": user, "vhost": vhost, "configure": ".*", "write": ".*", "read": ".*"}
            for user in users
            for vhost in vhosts
        ],
    }
    (ETC / f"{name}.json").write_text(json.dumps(definitions))
    lines = [
        f"listeners.tcp.default = {address}:{E['BROKER_PORT']}",
        f"load_definitions = {ETC / name}.json",
        "vm_memory_high_watermark.absolute = 1GB",
        "disk_free_limit.absolute = 100MB",
        "log.console.level = warning",
    ]
    plugins = "[]."
    if api is not None:
        plugins = "[rabbitmq_management]."
        lines += [
            f"management.tcp.ip = {api}",
            f"management.tcp.port = {E['BROKER_API_PORT']}",
        ]
    (ETC / f"{name}.conf").write_text("\n".join(lines) + "\n")
    (ETC / f"{name}.plugins").write_text(plugins + "\n")


def identity_and_placement():
    """Write for Keystone and Placement."""
    write(
        "keystone.conf",
        {
            "DEFAULT": {"use_stderr": True, "log_dir": ""},
            "token": {"provider": "fernet", "expiration": 86400},
            "fernet_tokens": {"key_repository": DATA / "keystone/fernet-keys"},
            "credential": {"key_repository": DATA / "keystone/credential-keys"},
            "cache": {
                "enabled": True,
                "backend": "dogpile.cache.memcached",
                "memcache_servers": f"{HOST_IP}:11211",
            },
            **database("keystone"),
        },
    )
    write(
        "placement/placement.conf",
        {
            "DEFAULT": {"use_stderr": True},
            "api": {"auth_strategy": "keystone"},
            **database("placement", "placement_database"),
            **authtoken("placement", "placement"),
        },
    )


def images():
    """Write for Glance."""
    write(
        "glance-api.conf",
        {
            "DEFAULT": {
                "bind_host": HOST_IP,
                "workers": 1,
                "use_stderr": True,
                "enabled_backends": "file:file",
                "node_staging_uri": f"file://{DATA}/glance/staging",
            },
            "glance_store": {"default_backend": "file"},
            "file": {
                "filesystem_store_datadir": DATA / "glance/images",
                "filesystem_thin_provisioning": True,
            },
            "os_glance_staging_store": {"filesystem_store_datadir": DATA / "glance/staging"},
            "os_glance_tasks_store": {"filesystem_store_datadir": DATA / "glance/tasks"},
            "paste_deploy": {
                "flavor": "keystone",
                "config_file": "/etc/glance/glance-api-paste.ini",
            },
            "oslo_concurrency": {"lock_path": DATA / "glance/lock"},
            **database("glance"),
            **authtoken("glance", "image"),
            **MESSAGING,
        },
    )


def compute():
    """Write for Nova: its compute service gets a file without databases, which it refuses."""
    sections = {
        "DEFAULT": {
            "host": "minicloud",
            "my_ip": HOST_IP,
            "state_path": DATA / "nova",
            "instances_path": DATA / "nova/instances",
            "use_stderr": True,
            "transport_url": BROKER,
            "enabled_apis": "osapi_compute,metadata",
            "osapi_compute_listen": HOST_IP,
            "osapi_compute_workers": 1,
            "metadata_listen": HOST_IP,
            "metadata_workers": 1,
            "compute_driver": "libvirt.LibvirtDriver",
            "allow_resize_to_same_host": True,
            "reserved_host_memory_mb": 0,
            "reserved_host_disk_mb": 0,
            "ram_allocation_ratio": 4,
            "cpu_allocation_ratio": 32,
            "disk_allocation_ratio": 8,
            # converting to raw costs more than reading qcow2 does
            "force_raw_images": False,
            "mkisofs_cmd": "genisoimage",
            "vif_plugging_timeout": 120,
            "shutdown_timeout": 20,
            "resume_guests_state_on_host_boot": False,
            "heal_instance_info_cache_interval": 60,
        },
        "api": {"auth_strategy": "keystone"},
        "wsgi": {"api_paste_config": "/etc/nova/api-paste.ini"},
        **authtoken("nova", "compute"),
        "service_user": credentials("nova", send_service_user_token=True),
        "placement": credentials("placement"),
        "glance": {"api_servers": f"http://{HOST_IP}:{E['GLANCE_PORT']}"},
        "cinder": credentials("nova", os_region_name=REGION, catalog_info="volumev3::internalURL"),
        "neutron": credentials(
            "neutron", service_metadata_proxy=True, metadata_proxy_shared_secret=PASSWORD
        ),
        "conductor": {"workers": 1},
        "scheduler": {"workers": 1, "discover_hosts_in_cells_interval": 5},
        "vnc": {"enabled": False},
        "spice": {"enabled": False},
        "libvirt": {
            "virt_type": "qemu",
            "cpu_mode": "none",
            "connection_uri": "qemu:///system",
            "inject_partition": -2,
            "inject_key": False,
            "disk_cachemodes": "file=unsafe",
            "nfs_mount_point_base": DATA / "nova/mnt",
            "wait_soft_reboot_seconds": 60,
        },
        "oslo_concurrency": {"lock_path": DATA / "nova/lock"},
        "nova_sys_admin": privsep("nova.conf"),
        "vif_plug_linux_bridge_privileged": privsep("nova.conf"),
        "privsep_osbrick": privsep("nova.conf"),
        **MESSAGING,
    }
    write("nova-compute.conf", sections)
    write("nova.conf", {**sections, **database("nova_api", "api_database"), **database("nova")})


def network():
    """Write for Neutron: Linux bridge, two physical networks, VXLAN for tenants."""
    firewall = {
        "enable_security_group": True,
        "enable_ipset": True,
        "firewall_driver": "iptables",
    }
    write(
        "neutron.conf",
        {
            "DEFAULT": {
                "host": "minicloud",
                "core_plugin": "ml2",
                "service_plugins": "router",
                "use_stderr": True,
                "transport_url": BROKER,
                "auth_strategy": "keystone",
                "bind_host": HOST_IP,
                "api_workers": 1,
                "rpc_workers": 1,
                "rpc_state_report_workers": 0,
                "api_paste_config": "/etc/neutron/api-paste.ini",
                "state_path": DATA / "neutron",
                "notify_nova_on_port_status_changes": True,
                "notify_nova_on_port_data_changes": True,
                "dhcp_agents_per_network": 1,
                "dns_domain": "minicloud.test.",
            },
            "experimental": {"linuxbridge": True},
            # empty means sudo; this is root already
            "agent": {"root_helper": "env"},
            "nova": credentials("nova"),
            "oslo_concurrency": {"lock_path": DATA / "neutron/lock"},
            **database("neutron"),
            **authtoken("neutron", "network"),
            **MESSAGING,
        },
    )
    write(
        "ml2.ini",
        {
            "ml2": {
                "type_drivers": "flat,vxlan",
                "tenant_network_types": "vxlan",
                "mechanism_drivers": "linuxbridge",
                "extension_drivers": "port_security",
            },
            "ml2_type_flat": {"flat_networks": "outside,guests"},
            "ml2_type_vxlan": {"vni_ranges": "1:1000"},
            "securitygroup": firewall,
        },
    )
    write(
        "linuxbridge.ini",
        {
            "linux_bridge": {
                "physical_interface_mappings": f"outside:{E['PHYS_IF']},guests:{E['GUEST_PHYS_IF']}"
            },
            "vxlan": {"enable_vxlan": True, "local_ip": HOST_IP, "l2_population": False},
            "securitygroup": firewall,
            "agent": {"polling_interval": 1},
        },
    )
    # the agent tries a deletion again for ever when the rule is gone already, which the ebtables of
    # nf_tables tells by the code that it has for everything else
    program = ETC / "bin/ebtables"
    program.parent.mkdir(exist_ok=True)
    program.write_text(
        "#!/bin/sh\n"
        '/usr/sbin/ebtables "$@"\n'
        "code=$?\n"
        'case " $* " in *" -D "*) [ $code -eq 4 ] && exit 0 ;; esac\n'
        "exit $code\n"
    )
    program.chmod(0o755)
    proxy = {"metadata_proxy_user": "root", "metadata_proxy_group": "root"}
    write(
        "dhcp.ini",
        {
            "DEFAULT": {
                "interface_driver": "linuxbridge",
                "dhcp_driver": "neutron.agent.linux.dhcp.Dnsmasq",
                "enable_isolated_metadata": True,
                "dhcp_confs": DATA / "neutron/dhcp",
                **proxy,
            }
        },
    )
    write(
        "l3.ini",
        {"DEFAULT": {"interface_driver": "linuxbridge", "agent_mode": "legacy", **proxy}},
    )
    write(
        "metadata.ini",
        {
            "DEFAULT": {
                "nova_metadata_host": HOST_IP,
                "metadata_proxy_shared_secret": PASSWORD,
                "metadata_workers": 0,
            }
        },
    )


def volumes():
    """Write for Cinder: files on an NFS share, which is a bind mount: it needs no kernel module."""
    (ETC / "nfs_shares").write_text(f"{HOST_IP}:{DATA}/nfs-export\n")
    write(
        "cinder.conf",
        {
            "DEFAULT": {
                "host": "minicloud",
                "my_ip": HOST_IP,
                "use_stderr": True,
                "transport_url": BROKER,
                "auth_strategy": "keystone",
                "api_paste_config": "/etc/cinder/api-paste.ini",
                "osapi_volume_listen": HOST_IP,
                "osapi_volume_workers": 1,
                "state_path": DATA / "cinder",
                "enabled_backends": "nfs",
                "glance_api_servers": f"http://{HOST_IP}:{E['GLANCE_PORT']}",
                "os_region_name": REGION,
                "rootwrap_config": "/etc/cinder/rootwrap.conf",
                "resource_query_filters_file": "/etc/cinder/resource_filters.json",
            },
            "nfs": {
                "volume_driver": "cinder.volume.drivers.nfs.NfsDriver",
                "volume_backend_name": "nfs",
                "nfs_shares_config": ETC / "nfs_shares",
                "nfs_mount_point_base": DATA / "cinder/mnt",
                "nfs_snapshot_support": True,
                "nas_secure_file_operations": False,
                "nas_secure_file_permissions": False,
            },
            "oslo_concurrency": {"lock_path": DATA / "cinder/lock"},
            "service_user": credentials("cinder", send_service_user_token=True),
            "nova": credentials("nova"),
            "cinder_sys_admin": privsep("cinder.conf"),
            "privsep_osbrick": privsep("cinder.conf"),
            **database("cinder"),
            **authtoken("cinder", "block-storage"),
            **MESSAGING,
        },
    )
    if not MOUNT_NFS.exists():
        MOUNT_NFS.write_text(
            "#!/bin/sh\n"
            "# minicloud: the share HOST:/path is on this machine, so it is bind-mounted\n"
            'exec mount --bind "${1#*:}" "$2"\n'
        )
        MOUNT_NFS.chmod(0o755)


def objects():
    """Write for Swift."""
    write(
        "swift/swift.conf",
        {
            "swift-hash": {"swift_hash_path_suffix": "mini", "swift_hash_path_prefix": "mini"},
            "storage-policy:0": {"name": "Policy-0", "default": "yes"},
        },
    )
    common = {"workers": 0, "user": "root", "swift_dir": ETC / "swift", "log_level": "INFO"}
    for kind, port in (("account", 6202), ("container", 6201), ("object", 6200)):
        write(
            f"swift/{kind}-server.conf",
            {
                "DEFAULT": {
                    **common,
                    "bind_ip": "127.0.0.1",
                    "bind_port": port,
                    "devices": DATA / "swift/nodes",
                    "mount_check": False,
                    "fallocate_reserve": 0,
                    "log_address": "/dev/null",
                },
                "pipeline:main": {"pipeline": f"healthcheck {kind}-server"},
                f"app:{kind}-server": {"use": f"egg:swift#{kind}"},
                "filter:healthcheck": {"use": "egg:swift#healthcheck"},
            },
        )
    # name of the filter in the pipeline -> its options besides "use"
    filters = {
        "catch_errors": {},
        "gatekeeper": {},
        "healthcheck": {},
        "proxy-logging": {"use": "egg:swift#proxy_logging"},
        "cache": {"use": "egg:swift#memcache", "memcache_servers": f"{HOST_IP}:11211"},
        "listing_formats": {},
        "bulk": {},
        "tempurl": {},
        "authtoken": {
            "paste.filter_factory": "keystonemiddleware.auth_token:filter_factory",
            "delay_auth_decision": True,
            **authtoken("swift", "object-store")["keystone_authtoken"],
        },
        "keystoneauth": {"operator_roles": "admin, member, swiftoperator"},
        "copy": {},
        "slo": {},
        "dlo": {},
        "versioned_writes": {"allow_versioned_writes": True},
    }
    write(
        "swift/proxy-server.conf",
        {
            "DEFAULT": {**common, "bind_ip": HOST_IP, "bind_port": E["SWIFT_PORT"]},
            "pipeline:main": {"pipeline": " ".join([*filters, "proxy-logging", "proxy-server"])},
            "app:proxy-server": {
                "use": "egg:swift#proxy",
                "account_autocreate": True,
                "node_timeout": 60,
                "conn_timeout": 5,
            },
            **{
                f"filter:{name}": options
                if "use" in options or "paste.filter_factory" in options
                else {"use": f"egg:swift#{name}", **options}
                for name, options in filters.items()
            },
        },
    )


def virtualisation():
    """Write for libvirt: all as root, without cgroups and security driver, which need a systemd."""
    (ETC / "libvirtd.conf").write_text(
        'unix_sock_group = "root"\n'
        'unix_sock_ro_perms = "0777"\n'
        'unix_sock_rw_perms = "0770"\n'
        'auth_unix_ro = "none"\n'
        'auth_unix_rw = "none"\n'
        'host_uuid = "aa10aa10-0000-4000-8000-00000000aa10"\n'
        'log_outputs = "2:stderr"\n'
    )
    saved = QEMU_CONF.with_name("qemu.conf.before-minicloud")
    if QEMU_CONF.exists() and not saved.exists():
        shutil.copy2(QEMU_CONF, saved)
    QEMU_CONF.write_text(
        "# written by tools/minicloud.sh; the packaged file is qemu.conf.before-minicloud\n"
        'user = "root"\ngroup = "root"\nsecurity_driver = "none"\n'
        "dynamic_ownership = 0\nremember_owner = 0\n"
        "namespaces = []\ncgroup_controllers = []\nmax_core = 0\n"
    )


def keys_and_names():
    """Write for Barbican and Designate."""
    write(
        "barbican/barbican.conf",
        {
            "DEFAULT": {
                "sql_connection": f"mysql+pymysql://os:{PASSWORD}@{HOST_IP}/barbican?charset=utf8mb4",
                "host_href": f"http://{HOST_IP}:{E['BARBICAN_PORT']}",
                "transport_url": BROKER,
                "use_stderr": True,
                "db_auto_create": False,
            },
            "secretstore": {
                "enabled_secretstore_plugins": "store_crypto",
                "namespace": "barbican.secretstore.plugin",
            },
            "crypto": {
                "enabled_crypto_plugins": "simple_crypto",
                "namespace": "barbican.crypto.plugin",
            },
            "simple_crypto_plugin": {
                "kek": base64.b64encode(hashlib.sha256(PASSWORD.encode()).digest()).decode()
            },
            "queue": {"enable": False},
            "oslo_policy": {"enforce_scope": False},
            **authtoken("barbican", "key-manager"),
            "oslo_messaging_notifications": {"driver": "noop"},
        },
    )
    write(
        "designate.conf",
        {
            "DEFAULT": {
                "host": "minicloud",
                "state_path": DATA / "designate",
                "use_stderr": True,
                "transport_url": BROKER,
                "root_helper": "env",
                # central answers within this, or is not there yet
                "rpc_response_timeout": 15,
            },
            "service:api": {
                "listen": f"{HOST_IP}:{E['DESIGNATE_PORT']}",
                "api_base_uri": f"http://{HOST_IP}:{E['DESIGNATE_PORT']}/",
                "auth_strategy": "keystone",
                "enable_api_v2": True,
                "enabled_extensions_v2": "quotas, reports",
                "api_paste_config": "/etc/designate/api-paste.ini",
                "workers": 1,
                "threads": 4,
            },
            "service:central": {"workers": 1, "threads": 4},
            "service:mdns": {"listen": f"{HOST_IP}:5354", "workers": 1, "threads": 4},
            "service:producer": {"workers": 1, "threads": 4},
            "service:worker": {"workers": 1, "threads": 4, "notify": True, "poll_delay": 1},
            "storage:sqlalchemy": {
                "connection": f"mysql+pymysql://os:{PASSWORD}@{HOST_IP}/designate?charset=utf8mb4",
                "max_pool_size": 5,
            },
            "oslo_concurrency": {"lock_path": DATA / "designate/lock"},
            **authtoken("designate", "dns"),
            **MESSAGING,
        },
    )
    (DATA / "designate").mkdir(parents=True, exist_ok=True)
    key = base64.b64encode(hashlib.sha256(b"rndc" + PASSWORD.encode()).digest()).decode()
    rndc_key = f'key "rndc-key" {{\n    algorithm hmac-sha256;\n    secret "{key}";\n}};\n'
    (ETC / "rndc.key").write_text(rndc_key)
    (DATA / "bind").mkdir(parents=True, exist_ok=True)
    (ETC / "named.conf").write_text(
        f'include "{ETC}/rndc.key";\n'
        "options {\n"
        f'    directory "{DATA}/bind";\n'
        f'    pid-file "{RUN}/named.own.pid";\n'
        f'    session-keyfile "{RUN}/named.session.key";\n'
        f"    listen-on port 5353 {{ {HOST_IP}; }};\n"
        "    listen-on-v6 { none; };\n"
        "    allow-new-zones yes;\n"
        "    recursion no;\n"
        "    notify no;\n"
        "    minimal-responses yes;\n"
        "    dnssec-validation no;\n"
        "};\n"
        f"controls {{ inet {HOST_IP} port 953 allow {{ {HOST_IP}; }} keys {{ rndc-key; }}; }};\n"
    )
    # JSON is YAML
    (ETC / "pools.yaml").write_text(
        json.dumps(
            [
                {
                    "name": "default",
                    "description": "The only pool",
                    "attributes": {},
                    "ns_records": [{"hostname": "ns1.minicloud.test.", "priority": 1}],
                    "nameservers": [{"host": HOST_IP, "port": 5353}],
                    "targets": [
                        {
                            "type": "bind9",
                            "description": "BIND",
                            "masters": [{"host": HOST_IP, "port": 5354}],
                            "options": {
                                "host": HOST_IP,
                                "port": 5353,
                                "rndc_host": HOST_IP,
                                "rndc_port": 953,
                                "rndc_key_file": str(ETC / "rndc.key"),
                            },
                        }
                    ],
                }
            ]
        )
    )


def clouds():
    """Write the clouds.yaml of the users that tests need."""

    def entry(user, project):
        return {
            "auth": {
                "auth_url": E["AUTH_URL"],
                "username": user,
                "password": PASSWORD,
                "project_name": project,
                "user_domain_name": "Default",
                "project_domain_name": "Default",
            },
            "region_name": REGION,
            "identity_api_version": 3,
        }

    users = {
        "minicloud-admin": ("admin", "admin"),
        "minicloud-trove": ("trove", "service"),
        "minicloud-demo": ("demo", "demo"),
        "minicloud-other": ("other", "other"),
    }
    known = {name: entry(*who) for name, who in users.items()}
    known["minicloud-trove"]["trove_tests"] = for_tests()
    pathlib.Path(E["CLOUDS_YAML"]).write_text(json.dumps({"clouds": known}, indent=2) + "\n")


def for_tests():
    """Return what tests/cloud must know of a cloud besides its catalog."""
    broker_port = E["BROKER_PORT"]
    program = str(pathlib.Path(__file__).resolve().parent.parent / "minicloud.sh")
    return {
        "admin_cloud": "minicloud-admin",
        "user_cloud": "minicloud-demo",
        "other_cloud": "minicloud-other",
        "control_transport_url": f"rabbit://trove:{PASSWORD}@{HOST_IP}:{broker_port}/trove",
        "guest_transport_url": f"rabbit://trove:{PASSWORD}@{GUEST_IP}:{broker_port}/trove-guests",
        "guest_management_url": f"http://trove:{PASSWORD}@{HOST_IP}:{E['BROKER_API_PORT']}",
        # where the catalog says that objects are: reached from the guests' network too
        "guest_endpoints": [f"http://{HOST_IP}:{E['SWIFT_PORT']}"],
        "management_network": "trove-mgmt",
        "user_network": "private",
        "external_network": "provider",
        "flavor": "m1.small",
        "larger_flavor": "m1.medium",
        "impossible_flavor": "m1.impossible",
        # Neutron's name of the machine that runs the tests, which is a node of this cloud
        "host": "minicloud",
        "stop_nova_api": [program, "stop", "nova-api"],
        "start_nova_api": [program, "start", "nova-api"],
        "stop_nova_cell": [program, "stop", "nova-cell"],
        "start_nova_cell": [program, "start", "nova-cell"],
        # the driver of NFS cannot
        "extend_attached": False,
    }


def main():
    """Write all of them."""
    for name in (
        "nova/instances",
        "nova/mnt",
        "cinder/mnt",
        "glance/images",
        "neutron",
        "keystone",
    ):
        (DATA / name).mkdir(parents=True, exist_ok=True)
    ETC.mkdir(parents=True, exist_ok=True)
    databases_and_brokers()
    identity_and_placement()
    images()
    compute()
    network()
    volumes()
    objects()
    virtualisation()
    keys_and_names()
    clouds()


main()
