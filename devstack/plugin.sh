#!/bin/bash
#
# The Database service as a plugin of DevStack. Its phases are at the end; every function may run
# again, as "stack.sh" does after a failure.

function is_trove_enabled {
    [[ ,${ENABLED_SERVICES} =~ ,"trove" ]] || [[ ,${ENABLED_SERVICES} =~ ,"tr-" ]]
}

# -- install -----

function install_trove {
    setup_develop "$TROVE_DIR"
    pip_install PyMySQL
    # the management API of the broker gives each guest an account of its own
    sudo rabbitmq-plugins enable rabbitmq_management
}

function install_trove_client {
    if use_library_from_git python-troveclient; then
        git_clone_by_name python-troveclient
        setup_dev_lib python-troveclient
    else
        pip_install_gr python-troveclient
    fi
    # the commands that python-troveclient lacks
    pip_install "trove[osc] @ file://$TROVE_DIR"
}

function install_trove_dashboard {
    git_clone "$TROVE_DASHBOARD_REPO" "$TROVE_DASHBOARD_DIR" "$TROVE_DASHBOARD_BRANCH"
    setup_develop "$TROVE_DASHBOARD_DIR"
}

# -- post-config -----

function create_trove_accounts {
    create_service_user "$TROVE_SERVICE_USER" admin
    if is_service_enabled s-proxy; then
        # logs are put into the accounts of users' projects
        get_or_create_role ResellerAdmin
        get_or_add_user_project_role ResellerAdmin "$TROVE_SERVICE_USER" "$SERVICE_PROJECT_NAME"
    fi
    get_or_create_service trove database "Trove Database Service"
    local url="$SERVICE_PROTOCOL://$SERVICE_HOST/database/v1.0/\$(project_id)s"
    get_or_create_endpoint database "$TROVE_REGION" "$url" "$url" "$url"
}

# trove_guest_broker_host: the address under which guests reach the broker.
function trove_guest_broker_host {
    if [[ -n "$TROVE_GUEST_BROKER_HOST" ]]; then
        echo "$TROVE_GUEST_BROKER_HOST"
    else
        echo "$TROVE_MGMT_HOST_ADDRESS"
    fi
}

# trove_guest_transport_url: the URL of the guest bus.
function trove_guest_transport_url {
    local host
    host=$(trove_guest_broker_host)
    echo "rabbit://$RABBIT_USERID:$RABBIT_PASSWORD@$host:5672/$TROVE_GUEST_VHOST"
}

function create_trove_vhosts {
    local vhost known
    known=$(sudo rabbitmqctl list_vhosts --silent)
    for vhost in trove "$TROVE_GUEST_VHOST"; do
        if ! grep -qx "$vhost" <<<"$known"; then
            sudo rabbitmqctl add_vhost "$vhost"
        fi
        sudo rabbitmqctl set_permissions -p "$vhost" "$RABBIT_USERID" ".*" ".*" ".*"
    done
    sudo rabbitmqctl set_user_tags "$RABBIT_USERID" administrator
}

# A key is made once: without it no agent can be spoken to any more.
function trove_key_encryption_key {
    local key=""
    if [[ -r "$TROVE_CONF" ]]; then
        key=$(iniget "$TROVE_CONF" guest key_encryption_keys)
    fi
    if [[ -z "$key" ]]; then
        key=$("$TROVE_BIN_DIR/trove-manage" key generate)
    fi
    echo "$key"
}

function configure_trove_credentials {
    local group=service_credentials
    iniset "$TROVE_CONF" $group auth_type password
    iniset "$TROVE_CONF" $group auth_url "$KEYSTONE_SERVICE_URI/v3"
    iniset "$TROVE_CONF" $group username "$TROVE_SERVICE_USER"
    iniset "$TROVE_CONF" $group password "$SERVICE_PASSWORD"
    iniset "$TROVE_CONF" $group user_domain_name "$SERVICE_DOMAIN_NAME"
    iniset "$TROVE_CONF" $group project_name "$SERVICE_PROJECT_NAME"
    iniset "$TROVE_CONF" $group project_domain_name "$SERVICE_DOMAIN_NAME"
    iniset "$TROVE_CONF" $group region_name "$TROVE_REGION"
    iniset "$TROVE_CONF" $group interface public
    if [[ -n "${SSL_BUNDLE_FILE:-}" ]]; then
        iniset "$TROVE_CONF" $group cafile "$SSL_BUNDLE_FILE"
    fi
}

function configure_trove {
    sudo install -d -o "$STACK_USER" "$TROVE_CONF_DIR"
    local key
    key=$(trove_key_encryption_key)
    rm -f "$TROVE_CONF"
    install -m 600 /dev/null "$TROVE_CONF"

    iniset "$TROVE_CONF" DEFAULT debug "$ENABLE_DEBUG_LOG_LEVEL"
    iniset "$TROVE_CONF" DEFAULT transport_url "$(get_transport_url trove)"
    iniset "$TROVE_CONF" database connection "$(database_connection_url "$TROVE_DATABASE")"
    setup_logging "$TROVE_CONF"

    iniset "$TROVE_CONF" api auth_strategy keystone
    configure_keystone_authtoken_middleware "$TROVE_CONF" "$TROVE_SERVICE_USER"
    configure_trove_credentials

    iniset "$TROVE_CONF" guest transport_url "$(trove_guest_transport_url)"
    iniset "$TROVE_CONF" guest key_encryption_keys "$key"
    iniset "$TROVE_CONF" guest management_url \
        "http://$RABBIT_USERID:$RABBIT_PASSWORD@$RABBIT_HOST:$TROVE_RABBIT_MANAGEMENT_PORT"

    iniset "$TROVE_CONF" taskmanager compute_driver nova
    iniset "$TROVE_CONF" taskmanager volume_driver cinder
    iniset "$TROVE_CONF" taskmanager network_driver neutron
    iniset "$TROVE_CONF" taskmanager image_driver glance
    iniset "$TROVE_CONF" taskmanager broker_driver rabbitmq
    if is_service_enabled barbican; then
        iniset "$TROVE_CONF" taskmanager secrets_driver barbican
    else
        iniset "$TROVE_CONF" taskmanager secrets_driver local
        iniset "$TROVE_CONF" local state_dir "$DATA_DIR/trove"
    fi
    if is_service_enabled designate && [[ -n "${TROVE_DNS_ZONE:-}" ]]; then
        iniset "$TROVE_CONF" taskmanager dns_driver designate
        iniset "$TROVE_CONF" designate zone "$TROVE_DNS_ZONE"
    fi
    if is_service_enabled s-proxy; then
        iniset "$TROVE_CONF" storage driver swift
        iniset "$TROVE_CONF" storage swift_guest_url "http://$(trove_guest_broker_host):8080"
        iniset "$TROVE_CONF" guestagent endpoints "$(trove_guest_broker_host):8080"
    fi

    write_uwsgi_config "$TROVE_UWSGI_CONF" "$TROVE_UWSGI" "/database" "" trove-api
}

function init_trove_database {
    recreate_database "$TROVE_DATABASE"
    "$TROVE_BIN_DIR/trove-manage" --config-file "$TROVE_CONF" db sync
}

function configure_trove_dashboard {
    cp -a "$TROVE_DASHBOARD_DIR"/trove_dashboard/enabled/_[0-9]*.py \
        "$HORIZON_DIR/openstack_dashboard/local/enabled/"
}

# -- extra -----

# The host's own port on the management network, by which guests reach the broker.
function plug_trove_host {
    local network_id=$1 port_id mac bridge
    port_id=$(openstack port show trove-mgmt-host -f value -c id 2>/dev/null || true)
    if [[ -z "$port_id" ]]; then
        port_id=$(openstack port create trove-mgmt-host --network "$network_id" \
            --fixed-ip "ip-address=$TROVE_MGMT_HOST_ADDRESS" --host "$(hostname)" \
            --device-owner trove:host --disable-port-security -f value -c id)
    fi
    mac=$(openstack port show "$port_id" -f value -c mac_address)
    if [[ "$Q_AGENT" == linuxbridge ]]; then
        bridge="brq${network_id:0:11}"
        if ! ip link show "$TROVE_MGMT_INTERFACE" >/dev/null 2>&1; then
            sudo ip link add "$TROVE_MGMT_INTERFACE" type veth peer name "tap${port_id:0:11}"
            sudo brctl addif "$bridge" "tap${port_id:0:11}"
            sudo ip link set "tap${port_id:0:11}" up
        fi
    else
        sudo ovs-vsctl -- --may-exist add-port "${OVS_BRIDGE:-br-int}" "$TROVE_MGMT_INTERFACE" \
            -- set Interface "$TROVE_MGMT_INTERFACE" type=internal \
            -- set Interface "$TROVE_MGMT_INTERFACE" external-ids:iface-status=active \
            -- set Interface "$TROVE_MGMT_INTERFACE" "external-ids:attached-mac=$mac" \
            -- set Interface "$TROVE_MGMT_INTERFACE" "external-ids:iface-id=$port_id"
    fi
    sudo ip link set dev "$TROVE_MGMT_INTERFACE" address "$mac" up
    sudo ip address replace "$TROVE_MGMT_HOST_ADDRESS/${TROVE_MGMT_SUBNET_RANGE#*/}" \
        dev "$TROVE_MGMT_INTERFACE"
}

function create_trove_management_network {
    local network_id
    network_id=$(openstack network show "$TROVE_MGMT_NETWORK" -f value -c id 2>/dev/null || true)
    if [[ -z "$network_id" ]]; then
        network_id=$(openstack network create "$TROVE_MGMT_NETWORK" \
            --project "$SERVICE_PROJECT_NAME" --no-share -f value -c id)
    fi
    if ! openstack subnet show "$TROVE_MGMT_SUBNET" >/dev/null 2>&1; then
        openstack subnet create "$TROVE_MGMT_SUBNET" --project "$SERVICE_PROJECT_NAME" \
            --network "$network_id" --subnet-range "$TROVE_MGMT_SUBNET_RANGE" \
            --allocation-pool "$TROVE_MGMT_SUBNET_POOL" --gateway none
    fi
    if [[ -z "$TROVE_GUEST_BROKER_HOST" ]]; then
        plug_trove_host "$network_id"
    fi
    iniset "$TROVE_CONF" neutron management_network "$network_id"
}

function create_trove_flavor {
    if ! openstack flavor show "$TROVE_FLAVOR" >/dev/null 2>&1; then
        openstack flavor create "$TROVE_FLAVOR" --ram "$TROVE_FLAVOR_RAM" \
            --disk "$TROVE_FLAVOR_DISK" --vcpus "$TROVE_FLAVOR_VCPUS"
    fi
}

function import_trove_image {
    local image=$TROVE_GUEST_IMAGE
    if [[ -z "$TROVE_DATASTORE" ]]; then
        echo "TROVE_DATASTORE is empty: no guest image is imported"
        return 0
    fi
    if [[ -z "$image" ]]; then
        image="$DATA_DIR/trove/trove-$TROVE_DATASTORE.qcow2"
        sudo install -d -o "$STACK_USER" "$DATA_DIR/trove"
        if [[ ! -s "$image" ]]; then
            sudo "$TROVE_DIR/tools/build-image.sh" --datastore "$TROVE_DATASTORE" --output "$image"
        fi
    fi
    "$TROVE_BIN_DIR/trove-manage" --config-file "$TROVE_CONF" image import \
        --datastore "$TROVE_DATASTORE" --datastore-version "$TROVE_DATASTORE_VERSION" \
        --file "$image" --default
}

function start_trove {
    run_process tr-api \
        "$(command -v uwsgi) --procname-prefix trove-api --ini $TROVE_UWSGI_CONF"
    run_process tr-cond "$TROVE_BIN_DIR/trove-conductor --config-file $TROVE_CONF"
    run_process tr-tmgr "$TROVE_BIN_DIR/trove-taskmanager --config-file $TROVE_CONF"
    if ! wait_for_service 60 "$SERVICE_PROTOCOL://$SERVICE_HOST/database"; then
        die $LINENO "trove-api does not answer; see the log of devstack@tr-api"
    fi
}

# -- test-config -----

function configure_trove_tempest {
    iniset "$TEMPEST_CONFIG" service_available trove True
    iniset "$TEMPEST_CONFIG" database enabled_datastores "$TROVE_DATASTORE"
    iniset_multiline "$TEMPEST_CONFIG" database default_datastore_versions \
        "$TROVE_DATASTORE:$TROVE_DATASTORE_VERSION"
    iniset "$TEMPEST_CONFIG" database flavor_id \
        "$(openstack flavor show "$TROVE_FLAVOR" -f value -c id)"
    iniset "$TEMPEST_CONFIG" database subnet_cidr "$FIXED_RANGE"
}

# -- unstack and clean -----

function stop_trove {
    local process
    for process in tr-api tr-tmgr tr-cond; do
        stop_process $process
    done
}

function cleanup_trove {
    remove_uwsgi_config "$TROVE_UWSGI_CONF" trove-api
    if [[ "${Q_AGENT:-}" != linuxbridge ]] && command -v ovs-vsctl >/dev/null; then
        sudo ovs-vsctl --if-exists del-port "$TROVE_MGMT_INTERFACE"
    elif ip link show "$TROVE_MGMT_INTERFACE" >/dev/null 2>&1; then
        sudo ip link delete "$TROVE_MGMT_INTERFACE"
    fi
    sudo rm -rf "$TROVE_CONF_DIR"
    rm -f "${HORIZON_DIR:-/nonexistent}"/openstack_dashboard/local/enabled/_17[0-9][0-9]_*database*.py
}

# -- phases -----

if is_trove_enabled; then
    if [[ "$1" == "stack" && "$2" == "install" ]]; then
        echo_summary "Installing Trove"
        install_trove
        install_trove_client
        if is_service_enabled horizon; then
            install_trove_dashboard
        fi
    elif [[ "$1" == "stack" && "$2" == "post-config" ]]; then
        echo_summary "Configuring Trove"
        if is_service_enabled key; then
            create_trove_accounts
        fi
        create_trove_vhosts
        configure_trove
        init_trove_database
        if is_service_enabled horizon; then
            configure_trove_dashboard
        fi
    elif [[ "$1" == "stack" && "$2" == "extra" ]]; then
        echo_summary "Starting Trove"
        create_trove_management_network
        create_trove_flavor
        start_trove
        import_trove_image
    elif [[ "$1" == "stack" && "$2" == "test-config" ]]; then
        if is_service_enabled tempest; then
            echo_summary "Configuring Tempest for Trove"
            configure_trove_tempest
        fi
    fi
    if [[ "$1" == "unstack" ]]; then
        stop_trove
    fi
    if [[ "$1" == "clean" ]]; then
        cleanup_trove
    fi
fi
