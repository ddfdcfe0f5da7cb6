# shellcheck shell=bash
# Sourced after processes.sh: what the cloud consists of, in the order in which it is started.

# Ended first, in this order; the stores that they all use come last.
# shellcheck disable=SC2034 # of who sources this, like the two below
SERVICES=(
    nova-compute cinder-volume neutron-dhcp neutron-l3 neutron-metadata neutron-linuxbridge
    nova-api nova-conductor nova-scheduler cinder-api cinder-scheduler neutron-server glance-api
    placement keystone swift-proxy swift-object swift-container swift-account libvirtd virtlogd
)
# shellcheck disable=SC2034
EXTRA_SERVICES=(
    designate-api designate-producer designate-worker designate-mdns designate-central named barbican
)
# shellcheck disable=SC2034
STORES=(memcached guest-broker broker mariadb epmd)

UWSGI=(
    uwsgi --plugins python3 --master --die-on-term --need-app --processes 1 --threads 4
    --enable-threads --lazy-apps --thunder-lock --buffer-size 65535
    --add-header Connection:close --disable-logging
)

# make_pair HOST_END OTHER_END ADDRESS: two joined interfaces; Neutron gets the other end.
make_pair() {
    ip link show "$1" >/dev/null 2>&1 || ip link add "$1" type veth peer name "$2"
    [[ $(ip addr show dev "$1") == *"inet $3/"* ]] || ip addr add "$3/$PREFIX" dev "$1"
    ip link set "$1" up
    ip link set "$2" up
    # checksums that are left to hardware which is not there make DHCP clients drop the answers
    ethtool -K "$1" tx off >/dev/null 2>&1 || true
}

make_interfaces() {
    make_pair "$HOST_IF" "$PHYS_IF" "$HOST_IP"
    make_pair "$GUEST_IF" "$GUEST_PHYS_IF" "$GUEST_IP"
    sysctl -qw net.bridge.bridge-nf-call-iptables=1 2>/dev/null || true
    limit_guests
}

# limit_guests: from the guests' network to the bus and to object storage, and nowhere else.
limit_guests() {
    iptables -N minicloud-guests 2>/dev/null || iptables -F minicloud-guests
    iptables -A minicloud-guests -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
    iptables -A minicloud-guests -p icmp -j ACCEPT
    iptables -A minicloud-guests -p tcp -d "$GUEST_IP" --dport "$BROKER_PORT" -j ACCEPT
    iptables -A minicloud-guests -p tcp -d "$HOST_IP" --dport "$SWIFT_PORT" -j ACCEPT
    iptables -A minicloud-guests -j DROP
    iptables -C INPUT -i "$GUEST_IF" -j minicloud-guests 2>/dev/null ||
        iptables -I INPUT -i "$GUEST_IF" -j minicloud-guests
    iptables -C FORWARD -i "$GUEST_IF" -j DROP 2>/dev/null || iptables -I FORWARD -i "$GUEST_IF" -j DROP
}

# start_broker NAME ADDRESS DISTRIBUTION_PORT: RabbitMQ, with the files of that name.
start_broker() {
    mkdir -p "$DATA/$1"
    # it takes settings from variables without a prefix, so it gets an environment of its own
    start "$1" env -i PATH="$PATH" LC_ALL=C.UTF-8 HOME="$DATA/$1" \
        RABBITMQ_NODENAME="$1@localhost" RABBITMQ_NODE_IP_ADDRESS="$2" RABBITMQ_NODE_PORT="$BROKER_PORT" \
        RABBITMQ_DIST_PORT="$3" ERL_EPMD_ADDRESS=127.0.0.1 ERL_EPMD_PORT=14369 \
        RABBITMQ_MNESIA_BASE="$DATA/$1/mnesia" RABBITMQ_LOG_BASE="$LOGS/$1" \
        RABBITMQ_CONFIG_FILE="$ETC/$1.conf" RABBITMQ_ENABLED_PLUGINS_FILE="$ETC/$1.plugins" \
        RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS="+S 1:1 +sbwt none +sbwtdcpu none +sbwtdio none" \
        RABBITMQ_SERVER_START_ARGS='-kernel inet_dist_use_interface {127,0,0,1}' \
        RABBITMQ_CONF_ENV_FILE=/dev/null /usr/lib/rabbitmq/bin/rabbitmq-server
}

start_stores() {
    if [ ! -d "$DATA/mysql/mysql" ]; then
        mkdir -p "$DATA/mysql"
        mariadb-install-db --defaults-file="$ETC/my.cnf" --auth-root-authentication-method=normal \
            --skip-test-db >"$LOGS/mariadb-install.log" 2>&1
    fi
    start mariadb mariadbd --defaults-file="$ETC/my.cnf"
    start memcached memcached -u root -l "$HOST_IP" -p 11211 -m 32 -t 1
    start epmd epmd -address 127.0.0.1 -port 14369
    start_broker broker "$HOST_IP" 25673
    start_broker guest-broker "$GUEST_IP" 25674
    wait_port "$HOST_IP" 3306
}

# make_databases NAME...: databases that the services' common user may use.
make_databases() {
    local name
    {
        echo "CREATE USER IF NOT EXISTS os@'%' IDENTIFIED BY '$PASSWORD'; GRANT ALL ON *.* TO os@'%';"
        for name in "$@"; do
            echo "CREATE DATABASE IF NOT EXISTS $name CHARACTER SET utf8mb3;"
        done
    } | mariadb -S "$MYSQL_SOCKET" -u root
}

nova_schemas() {
    local manage=(nova-manage --config-file "$ETC/nova.conf")
    "${manage[@]}" api_db sync
    "${manage[@]}" cell_v2 map_cell0 \
        --database_connection "mysql+pymysql://os:$PASSWORD@$HOST_IP/nova_cell0?charset=utf8mb4"
    "${manage[@]}" db sync
    "${manage[@]}" cell_v2 create_cell --name cell1
}

make_schemas() {
    [ -e "$DATA/.schemas" ] && return 0
    make_databases keystone placement glance nova_api nova nova_cell0 neutron cinder
    (
        set -e
        neutron-db-manage --config-file "$ETC/neutron.conf" --config-file "$ETC/ml2.ini" upgrade heads
        placement-manage --config-file "$ETC/placement/placement.conf" db sync
        cinder-manage --config-file "$ETC/cinder.conf" db sync
    ) >"$LOGS/schemas-1.log" 2>&1 &
    local other=$!
    (
        set -e
        keystone-manage --config-file "$ETC/keystone.conf" db_sync
        glance-manage --config-file "$ETC/glance-api.conf" db_sync
        nova_schemas
    ) >"$LOGS/schemas-2.log" 2>&1
    wait "$other"
    touch "$DATA/.schemas"
}

start_identity() {
    local manage=(keystone-manage --config-file "$ETC/keystone.conf")
    if [ ! -e "$DATA/.identity" ]; then
        "${manage[@]}" fernet_setup --keystone-user root --keystone-group root
        "${manage[@]}" credential_setup --keystone-user root --keystone-group root
        "${manage[@]}" bootstrap --bootstrap-password "$PASSWORD" --bootstrap-region-id "$REGION" \
            --bootstrap-admin-url "$AUTH_URL" --bootstrap-internal-url "$AUTH_URL" \
            --bootstrap-public-url "$AUTH_URL"
    fi >>"$LOGS/keystone-manage.log" 2>&1
    start keystone env OS_KEYSTONE_CONFIG_FILES="$ETC/keystone.conf" "${UWSGI[@]}" \
        --http-socket "$HOST_IP:$KEYSTONE_PORT" --wsgi-file /usr/bin/keystone-wsgi-public \
        --pyargv "--config-file $ETC/keystone.conf"
    wait_http "$AUTH_URL"
    if [ ! -e "$DATA/.identity" ]; then
        /usr/bin/python3 "$HERE/minicloud/objects.py" identity
        touch "$DATA/.identity"
    fi
    start placement env OS_PLACEMENT_CONFIG_DIR="$ETC/placement" "${UWSGI[@]}" \
        --http-socket "$HOST_IP:$PLACEMENT_PORT" --wsgi-file /usr/bin/placement-api
}

make_rings() {
    local kind name
    for kind in account:6202 container:6201 object:6200; do
        name=${kind%:*}
        swift-ring-builder "$name.builder" create 4 1 1
        swift-ring-builder "$name.builder" add "r1z1-127.0.0.1:${kind#*:}/d1" 1
        swift-ring-builder "$name.builder" rebalance
    done
}

start_swift() {
    local name
    [ -e "$ETC/swift/object.ring.gz" ] || (cd "$ETC/swift" && make_rings) >"$LOGS/swift-rings.log" 2>&1
    mkdir -p "$DATA/swift/nodes/d1" /var/cache/swift
    for name in account container object; do
        start "swift-$name" env SWIFT_DIR="$ETC/swift" "swift-$name-server" "$ETC/swift/$name-server.conf"
    done
    start swift-proxy swift-proxy-server "$ETC/swift/proxy-server.conf"
}

start_libvirt() {
    start virtlogd virtlogd
    start libvirtd libvirtd --config "$ETC/libvirtd.conf"
}

start_nova_api() {
    start nova-api nova-api --config-file "$ETC/nova.conf"
}

# point_nova_cell DATABASE: have Nova's API look for the cell's servers in a database, which need not
# be there; all else of Nova goes on with the right one.
point_nova_cell() {
    local manage=(nova-manage --config-file "$ETC/nova.conf" cell_v2) cell
    cell=$("${manage[@]}" list_cells 2>>"$LOGS/nova-manage.log" | awk '$2 == "cell1" {print $4}')
    "${manage[@]}" update_cell --cell_uuid "$cell" --name cell1 \
        --database_connection "mysql+pymysql://os:$PASSWORD@$HOST_IP/$1?charset=utf8mb4" \
        >>"$LOGS/nova-manage.log" 2>&1
    # it keeps what it knows of its cells
    end_all 10 nova-api
    start_nova_api
    wait_http "http://$HOST_IP:$NOVA_PORT"
}

start_apis() {
    wait_port "$HOST_IP" "$BROKER_PORT"
    start_libvirt
    start glance-api glance-api --config-file "$ETC/glance-api.conf"
    start neutron-server neutron-server --config-file "$ETC/neutron.conf" --config-file "$ETC/ml2.ini"
    start nova-conductor nova-conductor --config-file "$ETC/nova.conf"
    start nova-scheduler nova-scheduler --config-file "$ETC/nova.conf"
    start_nova_api
    start cinder-api cinder-api --config-file "$ETC/cinder.conf"
    start cinder-scheduler cinder-scheduler --config-file "$ETC/cinder.conf"
    wait_http "http://$HOST_IP:$PLACEMENT_PORT"
    wait_http "http://$HOST_IP:$NEUTRON_PORT"
    wait_http "http://$HOST_IP:$NOVA_PORT"
    wait_http "http://$HOST_IP:$GLANCE_PORT"
    wait_http "http://$HOST_IP:$CINDER_PORT/healthcheck"
    wait_http "http://$HOST_IP:$SWIFT_PORT/healthcheck"
}

# mount_share: a file system of its own, since Nova and Cinder look whether the share is a mount.
mount_share() {
    if [ ! -e "$DATA/nfs.img" ]; then
        truncate -s 20G "$DATA/nfs.img"
        mkfs.ext4 -q -F -m 0 -E lazy_itable_init=1,nodiscard "$DATA/nfs.img"
    fi
    mkdir -p "$DATA/nfs-export"
    mountpoint -q "$DATA/nfs-export" || mount -o loop,noatime "$DATA/nfs.img" "$DATA/nfs-export"
}

start_dhcp() {
    start neutron-dhcp neutron-dhcp-agent --config-file "$ETC/neutron.conf" --config-file "$ETC/dhcp.ini"
}

# The agent's privileged helper can get stuck at its start (eventlet: "cannot switch to a different
# thread"), and nothing is answered on any network until the agent is started anew.
await_addresses() {
    /usr/bin/python3 "$HERE/minicloud/objects.py" addresses && return 0
    end_all 10 neutron-dhcp
    start_dhcp
    /usr/bin/python3 "$HERE/minicloud/objects.py" addresses
}

start_agents() {
    local i
    mount_share
    start neutron-linuxbridge env PATH="$ETC/bin:$PATH" neutron-linuxbridge-agent \
        --config-file "$ETC/neutron.conf" --config-file "$ETC/linuxbridge.ini"
    start_dhcp
    start neutron-l3 neutron-l3-agent --config-file "$ETC/neutron.conf" --config-file "$ETC/l3.ini"
    start neutron-metadata neutron-metadata-agent \
        --config-file "$ETC/neutron.conf" --config-file "$ETC/metadata.ini"
    start cinder-volume cinder-volume --config-file "$ETC/cinder.conf"
    for ((i = 0; i < 450; i++)); do
        virsh -c qemu:///system version >/dev/null 2>&1 && break
        sleep 0.2
    done
    start nova-compute nova-compute --config-file "$ETC/nova-compute.conf"
}

start_barbican() {
    local home=$ETC/barbican-home
    make_databases barbican
    # it reads its configuration from fixed places; one of them is below the home directory
    mkdir -p "$home/.barbican"
    cp "$ETC/barbican/barbican.conf" "$home/.barbican/barbican.conf"
    if [ ! -e "$DATA/.barbican" ]; then
        env HOME="$home" barbican-manage db upgrade \
            -d "mysql+pymysql://os:$PASSWORD@$HOST_IP/barbican?charset=utf8mb4" >"$LOGS/barbican-manage.log" 2>&1
        touch "$DATA/.barbican"
    fi
    start barbican env HOME="$home" "${UWSGI[@]}" --http-socket "$HOST_IP:$BARBICAN_PORT" \
        --wsgi-file /usr/bin/barbican-wsgi-api
    wait_port "$HOST_IP" "$BARBICAN_PORT"
    /usr/bin/python3 "$HERE/minicloud/objects.py" barbican
}

# update_pool OPTION...: tell Designate of BIND, as soon as its central service answers.
update_pool() {
    local i
    for ((i = 0; i < 5; i++)); do
        designate-manage "$@" pool update --file "$ETC/pools.yaml" >>"$LOGS/designate-manage.log" 2>&1 && return 0
        sleep 2
    done
    return 1
}

start_designate() {
    local name config=(--config-file "$ETC/designate.conf")
    make_databases designate
    if [ ! -e "$DATA/.designate" ]; then
        designate-manage "${config[@]}" database sync >"$LOGS/designate-manage.log" 2>&1
        touch "$DATA/.designate"
    fi
    start named named -f -c "$ETC/named.conf"
    start designate-central designate-central "${config[@]}"
    wait_port "$HOST_IP" 953
    update_pool "${config[@]}" || {
        say "Designate has no pool; see $LOGS/designate-manage.log"
        return 1
    }
    for name in api producer worker mdns; do
        start "designate-$name" "designate-$name" "${config[@]}"
    done
    wait_port "$HOST_IP" "$DESIGNATE_PORT"
    /usr/bin/python3 "$HERE/minicloud/objects.py" designate
}

# remove_servers: of Nova's names only; other domains of this machine are nobody's business here.
remove_servers() {
    local domain
    for domain in $(virsh -c qemu:///system list --all --name 2>/dev/null | grep '^instance-' || true); do
        virsh -c qemu:///system destroy "$domain" >/dev/null 2>&1 || true
        virsh -c qemu:///system undefine --nvram "$domain" >/dev/null 2>&1 || true
    done
}

remove_state() {
    local name pid
    for name in $(ip netns list 2>/dev/null | awk '/^q(dhcp|router)-/{print $1}'); do
        for pid in $(ip netns pids "$name"); do
            kill "$pid" 2>/dev/null || true
        done
        ip netns del "$name" || true
    done
    awk -v d="$DATA/" 'index($2, d) == 1 {print $2}' /proc/mounts | sort -r | while read -r name; do
        umount "$name" || umount -l "$name"
    done
    # Neutron's own names: taps, bridges and tunnels
    for name in $(ip -o link | sed -n 's/^[0-9]*: \(\(tap\|brq\)[0-9a-f]\{8\}-[0-9a-f]\{2\}\|vxlan-[0-9]*\)[@:].*/\1/p'); do
        ip link del "$name" 2>/dev/null || true
    done
    for name in iptables ip6tables; do
        "$name-save" 2>/dev/null | grep -v -e neutron- -e minicloud-guests -e "$GUEST_IF" | "$name-restore" || true
    done
    for name in $(ipset list -n 2>/dev/null | grep -E '^NIPv[46]' || true); do
        ipset destroy "$name" || true
    done
    ip link del "$HOST_IF" 2>/dev/null || true
    ip link del "$GUEST_IF" 2>/dev/null || true
    [ ! -e /etc/libvirt/qemu.conf.before-minicloud ] ||
        mv /etc/libvirt/qemu.conf.before-minicloud /etc/libvirt/qemu.conf
    ! grep -qs 'minicloud:' /usr/sbin/mount.nfs || rm -f /usr/sbin/mount.nfs
    rm -rf --one-file-system "$DATA" "$ETC" "$RUN" "$CLOUDS_YAML" "$STATE"/mariadb.qcow2*
}
