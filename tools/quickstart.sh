#!/usr/bin/env bash
# A database service on this machine, from nothing to the answer of a first query.
#
#   tools/quickstart.sh                 start everything, create a database, query it
#   tools/quickstart.sh --datastore postgresql    the same with another engine than mariadb:
#                                       postgresql, redis, valkey or mongodb
#   tools/quickstart.sh down            stop everything; data stays
#   tools/quickstart.sh down --purge    stop everything and remove all data
#
# Options: --state-dir DIR (where everything lies), --port PORT (of the API; 8779), --test-engines
# (valkey and mongodb, which Debian 12 lacks, from tools/test-engines.sh when they are not installed).
# TROVE_VENV names another virtual environment than .venv; one that has the programs is used as it is.
# Root is needed only to install missing packages. Nothing that exists on this machine is touched:
# no broker, no database, no client configuration.
set -Eeuo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
# shellcheck source=tools/packages.sh
. tools/packages.sh
# shellcheck source=tools/engines.sh
. tools/engines.sh

DATABASE=shop
DB_USER=quickstart
VENV=${TROVE_VENV:-$PWD/.venv}

usage() {
    sed -n '2,14s/^# \{0,1\}//p' tools/quickstart.sh
}

say() {
    printf '%s\n' "$*"
}

step() {
    STEP=$*
    printf '\033[1m==> %s\033[0m\n' "$*"
}

failed() {
    local code=$1
    trap - ERR
    restore_policy || true
    {
        printf '\nThis step failed: %s\n' "$STEP"
        say "What was said on the way: $LOG"
        [ -d "$STATE_DIR/log" ] && say "Logs of the service:      $STATE_DIR/log"
        say "Mend what is named above and run the same command again; it goes on where it stopped."
    } >&2
    exit "$code"
}

default_state_dir() {
    if [ "$(id -u)" -eq 0 ]; then
        echo /var/lib/trove-standalone
    else
        echo "${XDG_DATA_HOME:-$HOME/.local/share}/trove-standalone"
    fi
}

# in_json KEY: a value of the JSON object on stdin; the first address for the key "address".
in_json() {
    "$VENV/bin/python" -c '
import json, sys
shown = json.load(sys.stdin)
key = sys.argv[1]
if key == "address":
    print(shown["addresses"][0]["address"])
else:
    print(shown.get(key) or "")' "$1"
}

# client ARGUMENT...: the openstack client, with our configuration and nobody else's.
client() {
    local name unset=()
    for name in $(compgen -v OS_ || true); do
        unset+=(-u "$name")
    done
    env "${unset[@]}" OS_CLIENT_CONFIG_FILE="$STATE_DIR/clouds.yaml" OS_CLOUD=trove \
        "$VENV/bin/openstack" "$@"
}

show() {
    client database instance show "$INSTANCE" -f json
}

install() {
    step "Looking for what is needed"
    check_python
    local missing
    mapfile -t missing < <(
        missing_packages
        missing_engine_packages "$DATASTORE"
    )
    if [ "${#missing[@]}" -gt 0 ]; then
        step "Installing ${missing[*]}"
        install_packages "$LOG" "${missing[@]}"
    fi
    step "Python environment in $VENV"
    if [ -n "${TROVE_VENV:-}" ] && [ -x "$VENV/bin/trove-standalone" ] && [ -x "$VENV/bin/openstack" ]; then
        return 0
    fi
    make_venv "$VENV" "$LOG" requirements.txt setup.cfg -- \
        -e . python-openstackclient 'python-troveclient>=8.11'
}

create() {
    local password ARGUMENTS=()
    if client database instance list -f value -c Name | grep -x "$INSTANCE" >/dev/null; then
        step "The instance '$INSTANCE' is there already"
        if [ ! -s "$PASSWORD_FILE" ]; then
            say "Its password is not known here (made with another state directory?): delete it with" >&2
            say "  OS_CLIENT_CONFIG_FILE=$STATE_DIR/clouds.yaml $VENV/bin/openstack --os-cloud trove database instance delete $INSTANCE" >&2
            return 1
        fi
        return 0
    fi
    step "Creating the instance '$INSTANCE' of $DATASTORE with a user"
    password=$("$VENV/bin/python" -c 'import secrets; print(secrets.token_urlsafe(18))')
    (umask 077 && printf '%s' "$password" >"$PASSWORD_FILE")
    create_arguments "$password"
    client database instance create "$INSTANCE" --flavor 2 --size 1 --datastore "$DATASTORE" \
        "${ARGUMENTS[@]}" -f value -c id >>"$LOG"
}

await() {
    step "Waiting until the database answers"
    local began=$SECONDS shown status operating fault
    while :; do
        shown=$(show)
        status=$(in_json status <<<"$shown")
        operating=$(in_json operating_status <<<"$shown")
        say "    $((SECONDS - began)) s: $status ${operating:+/ $operating}"
        case "$status/$operating" in
        ACTIVE/HEALTHY) break ;;
        ERROR/* | FAILED/*)
            fault=$(in_json fault <<<"$shown")
            say "The instance failed: ${fault:-no reason was given}" >&2
            say "Look into $STATE_DIR/log/taskmanager.log; start afresh with: tools/quickstart.sh down --purge" >&2
            return 1
            ;;
        esac
        if [ $((SECONDS - began)) -gt 180 ]; then
            say "The database is not ready after 180 s; look into $STATE_DIR/log/taskmanager.log" >&2
            return 1
        fi
        sleep 0.5
    done
    ADDRESS=$(in_json address <<<"$shown")
}

query() {
    local began=$SECONDS
    connection
    step "Connecting to $ADDRESS over TCP ${PLAIN:-and TLS}, and asking"
    # just after 'up' the status may still be the one from before the stop
    until is_answering >>"$LOG" 2>&1; do
        if [ $((SECONDS - began)) -gt 60 ]; then
            say "The database does not answer at $ADDRESS; the client said:" >&2
            tail -n 1 "$LOG" >&2
            return 1
        fi
        sleep 0.5
    done
    ask
}

more_commands() {
    case $DATASTORE in
    redis | valkey) echo "  openstack database user create $INSTANCE someone a-password" ;;
    *)
        echo "  openstack database db create $INSTANCE another"
        echo "  openstack database user create $INSTANCE someone a-password --databases another"
        ;;
    esac
}

next_commands() {
    cat <<EOF

It works. Go on with:
  export OS_CLIENT_CONFIG_FILE=$STATE_DIR/clouds.yaml OS_CLOUD=trove PATH=$VENV/bin:\$PATH
  openstack database instance list
$(more_commands)
  $(shown_command)
  trove-manage --config-file $STATE_DIR/trove.conf operation list
Stop with:
  tools/quickstart.sh down$OPTIONS            (data stays)
  tools/quickstart.sh down --purge$OPTIONS    (everything goes)
EOF
}

up() {
    install
    find_engine
    make_engine_user
    step "Starting the service in $STATE_DIR"
    "$VENV/bin/trove-standalone" up --state-dir "$STATE_DIR" ${PORT:+--port "$PORT"} >>"$LOG"
    step "Registering the database engine of this machine"
    "$VENV/bin/trove-manage" --config-file "$STATE_DIR/trove.conf" \
        image import --datastore "$DATASTORE" ${ENGINE_FILE:+--file "$ENGINE_FILE"} --default
    create
    await
    query
    next_commands
    rm -f "$LOG"
}

down() {
    step "Stopping the service in $STATE_DIR"
    if [ ! -x "$VENV/bin/trove-standalone" ]; then
        say "There is no $VENV: nothing was started from here."
    else
        "$VENV/bin/trove-standalone" down --state-dir "$STATE_DIR" ${PURGE:+--purge}
    fi
    rm -f "$LOG"
}

COMMAND=up PORT='' PURGE='' STEP=start ADDRESS='' OPTIONS='' DATASTORE=mariadb TEST_ENGINES='' ENGINE_FILE=''
SECRET='' CLIENT=() PLAIN=''
STATE_DIR=$(default_state_dir)
while [ $# -gt 0 ]; do
    case $1 in
    up | down) COMMAND=$1 ;;
    --purge) PURGE=1 ;;
    --test-engines) TEST_ENGINES=1 ;;
    --state-dir | --port | --datastore)
        [ $# -gt 1 ] || {
            say "$1 needs a value" >&2
            exit 2
        }
        case $1 in
        --port) PORT=$2 ;;
        --datastore) DATASTORE=$2 ;;
        --state-dir)
            STATE_DIR=$(readlink -m "$2")
            OPTIONS=" --state-dir $STATE_DIR"
            ;;
        esac
        shift
        ;;
    -h | --help)
        usage
        exit 0
        ;;
    *)
        usage >&2
        exit 2
        ;;
    esac
    shift
done
if ! printf '%s\n' "${DATASTORES[@]}" | grep -qxF -- "$DATASTORE"; then
    say "There is no datastore '$DATASTORE' here; there are: ${DATASTORES[*]}" >&2
    exit 2
fi
# one of each datastore beside the others
INSTANCE=quickstart PASSWORD_FILE=$STATE_DIR/quickstart.password
if [ "$DATASTORE" != mariadb ]; then
    INSTANCE=quickstart-$DATASTORE PASSWORD_FILE=$STATE_DIR/quickstart-$DATASTORE.password
fi
LOG=$(mktemp -t trove-quickstart-XXXXXX.log)
trap 'failed $?' ERR
trap 'restore_policy || true; exit 130' INT TERM
"$COMMAND"
