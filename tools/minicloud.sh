#!/usr/bin/env bash
# A real OpenStack on this machine, for tests: Debian 12's packages (Zed), without systemd.
#
#   tools/minicloud.sh up [--extras]     install, configure and start; may be repeated
#   tools/minicloud.sh status            what runs and what answers
#   tools/minicloud.sh test [ARGUMENT..] run tests/cloud on it, with arguments for pytest and the
#                                        virtual environment $TROVE_VENV (.venv); $TROVE_TEST_IMAGE
#                                        is the guest image, built of this tree unless it is named
#   tools/minicloud.sh stop|start nova-api|nova-cell   have one go and come back, as tests need
#   tools/minicloud.sh down [--purge]    stop what was started; --purge: servers and all data go too
#
# Keystone, Placement, Glance, Nova (QEMU, emulated), Neutron (Linux bridge), Cinder, Swift, a broker
# for them and one for guest agents; with --extras Barbican and Designate with BIND. State lies in
# $MINICLOUD_STATE (/var/lib/minicloud). Everything listens on 127.0.0.1 and 172.31.250.x alone.
# Needs root, about 5 GiB of memory and 10 GiB of disk; clouds.yaml lies in the state directory.
set -Eeuo pipefail
HERE=$(cd "$(dirname "$(readlink -f "$0")")" && pwd)
# shellcheck source=tools/packages.sh
. "$HERE/packages.sh"
# shellcheck source=tools/minicloud/settings.sh
. "$HERE/minicloud/settings.sh"
# shellcheck source=tools/minicloud/processes.sh
. "$HERE/minicloud/processes.sh"
# shellcheck source=tools/minicloud/services.sh
. "$HERE/minicloud/services.sh"

usage() {
    sed -n '2,15s/^# \{0,1\}//p' "$HERE/minicloud.sh"
}

# stage NAME COMMAND...: run a part and tell how long it took.
stage() {
    local name=$1 began=$SECONDS
    shift
    "$@"
    say "$(printf '%-12s %4d s' "$name" $((SECONDS - began)))"
}

install() {
    local missing
    mapfile -t missing < <(comm -23 <(printf '%s\n' "$@" | sort -u) \
        <(dpkg-query -W -f '${Package} ${Status}\n' "$@" 2>/dev/null | sed -n 's/ .* ok installed$//p' | sort -u))
    [ ${#missing[@]} -eq 0 ] && return 0
    # no file of this machine is asked about, and no disk is waited for after each of 300 packages
    local APT_OPTIONS=(-o Dpkg::Options::=--force-confold -o Dpkg::Options::=--force-unsafe-io)
    install_packages "$LOGS/packages.log" "${missing[@]}"
}

up() {
    local began=$SECONDS
    mkdir -p "$ETC" "$DATA" "$LOGS" "$RUN"
    stage packages install "${CORE_PACKAGES[@]}"
    stage configure /usr/bin/python3 "$HERE/minicloud/configure.py"
    stage interfaces make_interfaces
    stage stores start_stores
    stage schemas make_schemas
    stage identity start_identity
    stage objects start_swift
    stage apis start_apis
    stage agents start_agents
    stage cloud /usr/bin/python3 "$HERE/minicloud/objects.py" cloud
    stage await /usr/bin/python3 "$HERE/minicloud/objects.py" await
    stage addresses await_addresses
    if [ -n "$EXTRAS" ]; then
        stage packages install "${EXTRA_PACKAGES[@]}"
        stage barbican start_barbican
        stage designate start_designate
    fi
    say "up in $((SECONDS - began)) s: OS_CLIENT_CONFIG_FILE=$CLOUDS_YAML openstack --os-cloud minicloud-admin ..."
}

status() {
    local name code failed=0
    for name in "${STORES[@]}" "${SERVICES[@]}" "${EXTRA_SERVICES[@]}"; do
        if is_running "$name"; then
            printf '%-24s runs (%s)\n' "$name" "$(cat "$RUN/$name.pid")"
        elif [ -e "$RUN/$name.pid" ]; then
            printf '%-24s ENDED; see %s\n' "$name" "$LOGS/$name.log"
            failed=1
        fi
    done
    is_running keystone || {
        echo "the cloud is down"
        return 1
    }
    for name in keystone:$KEYSTONE_PORT placement:$PLACEMENT_PORT glance:$GLANCE_PORT nova:$NOVA_PORT \
        neutron:$NEUTRON_PORT cinder:$CINDER_PORT swift:$SWIFT_PORT barbican:$BARBICAN_PORT \
        designate-api:$DESIGNATE_PORT; do
        # what is an extra need not be there
        [ -e "$RUN/${name%:*}.pid" ] || [[ ${name%:*} != barbican && ${name%:*} != designate-api ]] || continue
        code=$(curl -s -o /dev/null -m 5 -w '%{http_code}' "http://$HOST_IP:${name#*:}/" || true)
        printf '%-24s answers %s\n' "${name%:*}" "$code"
        [ "$code" != 000 ] || failed=1
    done
    return $failed
}

run_tests() {
    local venv=${TROVE_VENV:-$HERE/../.venv} image=${TROVE_TEST_IMAGE:-$STATE/mariadb.qcow2}
    [ -x "$venv/bin/python" ] || {
        echo "There is no virtual environment in $venv; TROVE_VENV names one." >&2
        return 1
    }
    is_running keystone || up
    # an image that is not named is this tree's, whatever was built before
    [ -n "${TROVE_TEST_IMAGE:-}" ] ||
        stage image "$HERE/build-image.sh" --datastore mariadb --output "$image"
    cd "$HERE/.."
    # the programs that are started are this tree's too, whichever the environment was made for
    OS_CLIENT_CONFIG_FILE=$CLOUDS_YAML TROVE_TEST_CLOUD=minicloud-trove TROVE_TEST_IMAGE=$image \
        PYTHONPATH=$PWD "$venv/bin/python" -m pytest -p no:cacheprovider tests/cloud "$@"
}

# stop_one, start_one NAME: Nova's API, or the cell that its servers are in.
stop_one() {
    case $1 in
    nova-cell) point_nova_cell nova_is_away ;;
    *) end_all 10 "$1" ;;
    esac
}

start_one() {
    case $1 in
    nova-cell) point_nova_cell nova ;;
    *) start_nova_api ;;
    esac
    wait_http "http://$HOST_IP:$NOVA_PORT"
}

down() {
    [ -z "$PURGE" ] || remove_servers
    end_all 20 "${EXTRA_SERVICES[@]}" "${SERVICES[@]}"
    end_all 30 "${STORES[@]}"
    [ -z "$PURGE" ] || remove_state
    say "down"
}

COMMAND=${1:-}
[ $# -gt 0 ] && shift
EXTRAS='' PURGE='' SERVICE='' ARGUMENTS=()
while [ $# -gt 0 ]; do
    case $COMMAND/$1 in
    up/--extras) EXTRAS=1 ;;
    down/--purge) PURGE=1 ;;
    stop/nova-api | start/nova-api | stop/nova-cell | start/nova-cell) SERVICE=$1 ;;
    test/*) ARGUMENTS+=("$1") ;;
    *)
        usage >&2
        exit 2
        ;;
    esac
    shift
done
case $COMMAND in
up | down | stop | start)
    [ "$(id -u)" -eq 0 ] || {
        echo "Root is needed: interfaces, mounts and servers are made." >&2
        exit 1
    }
    case $COMMAND in
    stop | start) "${COMMAND}_one" "${SERVICE:?which service}" ;;
    *) "$COMMAND" ;;
    esac
    ;;
status) status ;;
test) run_tests "${ARGUMENTS[@]}" ;;
*)
    usage
    [ "$COMMAND" = --help ] || exit 2
    ;;
esac
