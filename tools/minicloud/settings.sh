# shellcheck shell=bash
# Sourced by tools/minicloud.sh and its parts: where everything of the cloud lies, and its addresses.
#
# MINICLOUD_STATE names the directory that holds configuration, data, logs and pid files. Everything
# listens on 127.0.0.1 or on 172.31.250.x, on veth pairs made for it.

export STATE=${MINICLOUD_STATE:-/var/lib/minicloud}
export ETC=$STATE/etc DATA=$STATE/data LOGS=$STATE/logs RUN=$STATE/run

# The host's end and Neutron's end of two pairs. Servers reach the control plane, and the host stands
# for the world outside, over the first; over the second, agents reach the guest bus and object
# storage, and nothing else.
export HOST_IF=mc-host PHYS_IF=mc-phys
export GUEST_IF=mc-guest GUEST_PHYS_IF=mc-gphys
export HOST_IP=172.31.250.1 CIDR=172.31.250.0/25
export POOL_START=172.31.250.32 POOL_END=172.31.250.120
export GUEST_IP=172.31.250.129 GUEST_CIDR=172.31.250.128/25
export GUEST_POOL_START=172.31.250.140 GUEST_POOL_END=172.31.250.250
export PREFIX=25
export PRIVATE_CIDR=10.78.0.0/24

# One password for everything: whoever reaches these addresses is on this machine already.
export PASSWORD=minicloud-secret
export REGION=RegionOne
export AUTH_URL=http://$HOST_IP:5000/v3
export MYSQL_SOCKET=$RUN/mysqld.sock
export CLOUDS_YAML=$STATE/clouds.yaml

# Debian's own Python and programs: a shim or a virtual environment would hide them.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export LC_ALL=C.UTF-8
unset PYTHONDONTWRITEBYTECODE PYTHONPATH PYTHONHOME VIRTUAL_ENV

# Debian packages of the cloud's core, and of the services that are added when they are wanted.
# shellcheck disable=SC2034 # of who sources this
CORE_PACKAGES=(
    keystone placement-api glance-api
    nova-api nova-conductor nova-scheduler nova-compute nova-compute-qemu
    neutron-server neutron-linuxbridge-agent neutron-dhcp-agent neutron-metadata-agent neutron-l3-agent
    cinder-api cinder-scheduler cinder-volume
    swift-proxy swift-account swift-container swift-object
    rabbitmq-server mariadb-server memcached
    libvirt-daemon-system libvirt-clients qemu-system-x86 qemu-utils genisoimage
    iptables ebtables ipset conntrack dnsmasq-base haproxy iproute2 iputils-ping ethtool
    xfsprogs uwsgi-core uwsgi-plugin-python3 curl psmisc procps
    python3-pymysql python3-openstacksdk python3-openstackclient
)
# shellcheck disable=SC2034
EXTRA_PACKAGES=(
    barbican-api
    designate-api designate-central designate-producer designate-worker designate-mdns
    bind9 bind9-utils
)

# What answers at its address and port, by name: for `status` and for waiting.
export KEYSTONE_PORT=5000 PLACEMENT_PORT=8778 GLANCE_PORT=9292 NOVA_PORT=8774 NEUTRON_PORT=9696
export CINDER_PORT=8776 SWIFT_PORT=8080 BARBICAN_PORT=9311 DESIGNATE_PORT=9001
export BROKER_PORT=5672 BROKER_API_PORT=15672
