#!/usr/bin/python3
"""Make what the small cloud needs in its services; all of it may be repeated.

``objects.py identity``   users, roles, the catalog
``objects.py cloud``      flavors, networks, quotas
``objects.py await``      nothing: waits until every agent reports
``objects.py addresses``  nothing: waits until servers of all networks are given their addresses
"""

import os
import pathlib
import subprocess
import sys
import time

import openstack

E = os.environ
HOST_IP, PASSWORD, REGION = E["HOST_IP"], E["PASSWORD"], E["REGION"]
PATIENCE_S = 180
DHCP_S = 120

SERVICE_USERS = (
    "glance", "placement", "nova", "neutron", "cinder", "swift", "barbican", "designate", "trove",
)  # fmt: skip
#: Users of tests: each a member of its own project.
TENANTS = ("demo", "other")
#: Name, type and URL of the services in the catalog.
SERVICES = (
    ("glance", "image", f":{E['GLANCE_PORT']}"),
    ("placement", "placement", f":{E['PLACEMENT_PORT']}"),
    ("nova", "compute", f":{E['NOVA_PORT']}/v2.1"),
    ("neutron", "network", f":{E['NEUTRON_PORT']}"),
    ("cinderv3", "volumev3", f":{E['CINDER_PORT']}/v3/%(project_id)s"),
    ("cinder", "block-storage", f":{E['CINDER_PORT']}/v3/%(project_id)s"),
    ("swift", "object-store", f":{E['SWIFT_PORT']}/v1/AUTH_%(project_id)s"),
)
EXTRA_SERVICES = {
    "barbican": ("key-manager", f":{E['BARBICAN_PORT']}"),
    "designate": ("dns", f":{E['DESIGNATE_PORT']}"),
}
#: Name -> virtual processors, memory in MiB. One size of disk: Nova refuses to resize to less.
#: For the last one no machine that this is meant for has the memory.
FLAVORS = {
    "m1.tiny": (1, 512),
    "m1.small": (2, 1024),
    "m1.medium": (2, 1536),
    "m1.impossible": (2, 1024 * 1024),
}
DISK_GIB = 4


def connect(user="admin", project="admin"):
    """Return a connection of one of the users."""
    return openstack.connect(
        auth_url=E["AUTH_URL"],
        username=user,
        password=PASSWORD,
        project_name=project,
        user_domain_name="Default",
        project_domain_name="Default",
        region_name=REGION,
        identity_api_version="3",
    )


def identity(cloud):
    """Make users, projects, roles and the catalog."""
    api = cloud.identity

    def project(name):
        return api.find_project(name) or api.create_project(name=name, domain_id="default")

    def user(name):
        return api.find_user(name) or api.create_user(
            name=name, password=PASSWORD, domain_id="default"
        )

    roles = {
        name: api.find_role(name) or api.create_role(name=name)
        for name in ("admin", "member", "reader", "service", "creator", "ResellerAdmin")
    }

    def grant(user_name, project_name, *role_names):
        for role in role_names:
            api.assign_project_role_to_user(project(project_name), user(user_name), roles[role])

    for name in SERVICE_USERS:
        grant(name, "service", "admin", "service")
    # the second is for Swift: published logs of a project that nobody's token speaks for
    grant("trove", "service", "creator", "ResellerAdmin")
    for name in TENANTS:
        grant(name, name, "member", "creator")
    for name, kind, url in SERVICES:
        register(api, name, kind, url)


def register(api, name, kind, url):
    """Put a service with its three endpoints into the catalog."""
    service = next(iter(api.services(type=kind)), None) or api.create_service(name=name, type=kind)
    have = {endpoint.interface for endpoint in api.endpoints(service_id=service.id)}
    for interface in {"public", "internal", "admin"} - have:
        api.create_endpoint(
            service_id=service.id,
            interface=interface,
            url=f"http://{HOST_IP}{url}",
            region_id=REGION,
        )


def objects(cloud):
    """Make flavors, networks and quotas."""
    for name, (vcpus, ram_mib) in FLAVORS.items():
        if not cloud.compute.find_flavor(name):
            cloud.compute.create_flavor(
                name=name, vcpus=vcpus, ram=ram_mib, disk=DISK_GIB, is_public=True
            )
    service = cloud.identity.find_project("service").id
    cloud.network.update_quota(service, security_groups=100, security_group_rules=1000)
    cloud.set_compute_quotas(service, ram=4 * 1024 * 1024)
    outside = network(
        cloud,
        "provider",
        cidr=E["CIDR"],
        gateway_ip=E["HOST_IP"],
        allocation_pools=[{"start": E["POOL_START"], "end": E["POOL_END"]}],
        is_shared=True,
        is_router_external=True,
        provider_network_type="flat",
        provider_physical_network="outside",
    )
    # no gateway: whoever is on it reaches the bus, and object storage by the one route that it has
    network(
        cloud,
        "trove-mgmt",
        cidr=E["GUEST_CIDR"],
        gateway_ip=None,
        allocation_pools=[{"start": E["GUEST_POOL_START"], "end": E["GUEST_POOL_END"]}],
        host_routes=[{"destination": f"{HOST_IP}/32", "nexthop": E["GUEST_IP"]}],
        project_id=service,
        provider_network_type="flat",
        provider_physical_network="guests",
    )
    for number, tenant in enumerate(TENANTS):
        tenant_network(cloud, tenant, outside, number)
    blank_image(cloud)


def blank_image(cloud):
    """Make an image that boots into nothing: enough where only Nova's answers matter."""
    if cloud.image.find_image("blank"):
        return
    path = pathlib.Path(E["DATA"]) / "blank.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(path), "16M"], check=True)
    cloud.image.create_image(
        name="blank",
        filename=str(path),
        disk_format="qcow2",
        container_format="bare",
        visibility="public",
    )


def tenant_network(cloud, tenant, outside, number):
    """Make a network of a user's own, behind a router to the outside."""
    project_id = cloud.identity.find_project(tenant).id
    name = "private" if number == 0 else f"{tenant}-private"
    first, second, _, _ = E["PRIVATE_CIDR"].split(".")
    made = network(cloud, name, cidr=f"{first}.{second}.{number}.0/24", project_id=project_id)
    router = cloud.network.find_router(f"{tenant}-router") or cloud.network.create_router(
        name=f"{tenant}-router",
        project_id=project_id,
        external_gateway_info={"network_id": outside.id},
    )
    if not list(cloud.network.ports(device_id=router.id, network_id=made.id)):
        subnet = next(cloud.network.subnets(network_id=made.id))
        cloud.network.add_interface_to_router(router, subnet_id=subnet.id)


_SUBNET = ("cidr", "gateway_ip", "allocation_pools", "host_routes")


def network(cloud, name, **options):
    """Return the network of a name, made with one subnet when there is none."""
    of_subnet = {key: options.pop(key) for key in _SUBNET if key in options}
    found = cloud.network.find_network(name) or cloud.network.create_network(name=name, **options)
    if not list(cloud.network.subnets(network_id=found.id)):
        if "project_id" in options:
            of_subnet["project_id"] = options["project_id"]
        cloud.network.create_subnet(
            network_id=found.id, name=f"{name}-v4", ip_version=4, **of_subnet
        )
    return found


def await_agents(cloud):
    """Wait until the hypervisor, Neutron's agents and Cinder's services report."""
    began = time.monotonic()
    while True:
        hypervisors = [h.state for h in cloud.compute.hypervisors()]
        agents = {agent.binary: agent.is_alive for agent in cloud.network.agents()}
        # this SDK has no call for it
        listed = cloud.block_storage.get("/os-services").json()["services"]
        volumes = {service["binary"]: service["state"] for service in listed}
        if (
            hypervisors == ["up"]
            and len(agents) >= 4
            and all(agents.values())
            and volumes.get("cinder-volume") == "up"
        ):
            return
        if time.monotonic() - began > PATIENCE_S:
            sys.exit(f"not up: hypervisors {hypervisors}, agents {agents}, volumes {volumes}")
        time.sleep(1)


def await_addresses(cloud):
    """Wait until the server that gives addresses runs for all networks."""
    began = time.monotonic()
    networks = {subnet.network_id for subnet in cloud.network.subnets() if subnet.is_dhcp_enabled}
    while True:
        files = [pathlib.Path(E["DATA"], "neutron/dhcp", each, "pid") for each in networks]
        missing = [
            file.parent.name
            for file in files
            if not file.exists() or not pathlib.Path("/proc", file.read_text().strip()).exists()
        ]
        if not missing:
            return
        if time.monotonic() - began > DHCP_S:
            sys.exit(f"nobody gives addresses on {missing}")
        time.sleep(1)


def main(command):
    """Do what the command says."""
    cloud = connect()
    if command == "identity":
        identity(cloud)
    elif command == "cloud":
        objects(cloud)
    elif command == "await":
        await_agents(cloud)
    elif command == "addresses":
        await_addresses(cloud)
    elif command in EXTRA_SERVICES:
        register(cloud.identity, command, *EXTRA_SERVICES[command])
    else:
        sys.exit(__doc__)


main(sys.argv[1])
