#!/usr/bin/env bash
# A database service on this machine, from nothing to the answer of a first SQL query.
#
#   tools/quickstart.sh                 start everything, create a database, query it
#   tools/quickstart.sh down            stop everything; data stays
#   tools/quickstart.sh down --purge    stop everything and remove all data
#
# Options: --state-dir DIR (where everything lies), --port PORT (of the API; 8779).
# TROVE_VENV names another virtual environment than .venv; one that has the programs is used as it is.
# Root is needed only to install missing packages. Nothing that exists on this machine is touched:
# no broker, no database, no client configuration.
set -Eeuo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
# shellcheck source=tools/packages.sh
. tools/packages.sh

INSTANCE=quickstart
DATABASE=shop
DB_USER=quickstart
VENV=${TROVE_VENV:-$PWD/.venv}

usage() {
    sed -n '2,11s/^# \{0,1\}//p' tools/quickstart.sh
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
    mapfile -t missing < <(missing_packages)
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
    local password
    if client database instance list -f value -c Name | grep -x "$INSTANCE" >/dev/null; then
        step "The instance '$INSTANCE' is there already"
        if [ ! -s "$STATE_DIR/quickstart.password" ]; then
            say "Its password is not known here (made with another state directory?): delete it with" >&2
            say "  OS_CLIENT_CONFIG_FILE=$STATE_DIR/clouds.yaml $VENV/bin/openstack --os-cloud trove database instance delete $INSTANCE" >&2
            return 1
        fi
        return 0
    fi
    step "Creating the instance '$INSTANCE' with a database and a user"
    password=$("$VENV/bin/python" -c 'import secrets; print(secrets.token_urlsafe(18))')
    (umask 077 && printf '%s' "$password" >"$STATE_DIR/quickstart.password")
    client database instance create "$INSTANCE" --flavor 2 --size 1 --datastore mariadb \
        --databases "$DATABASE" --users "$DB_USER:$password" -f value -c id >>"$LOG"
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

# sql ARGUMENT...: the mariadb client on the new database, over TCP and TLS.
sql() {
    MYSQL_PWD=$(cat "$STATE_DIR/quickstart.password") mariadb --no-defaults --table \
        --protocol=tcp --host="$ADDRESS" --port=3306 --user="$DB_USER" \
        --ssl-ca="$STATE_DIR/ca.pem" --ssl-verify-server-cert "$DATABASE" "$@"
}

query() {
    step "Connecting to $ADDRESS over TCP and TLS, and asking"
    local began=$SECONDS
    # just after 'up' the status may still be the one from before the stop
    until sql --execute 'SELECT 1' >>"$LOG" 2>&1; do
        if [ $((SECONDS - began)) -gt 60 ]; then
            say "The database does not answer at $ADDRESS:3306; the client said:" >&2
            tail -n 1 "$LOG" >&2
            return 1
        fi
        sleep 0.5
    done
    sql <<'SQL'
CREATE TABLE IF NOT EXISTS visits (id INT AUTO_INCREMENT PRIMARY KEY, at TIMESTAMP DEFAULT NOW());
INSERT INTO visits () VALUES ();
SELECT VERSION() AS engine, COUNT(*) AS visits,
    (SELECT VARIABLE_VALUE FROM information_schema.SESSION_STATUS
     WHERE VARIABLE_NAME = 'Ssl_cipher') AS tls FROM visits;
SQL
}

next_commands() {
    cat <<EOF

It works. Go on with:
  export OS_CLIENT_CONFIG_FILE=$STATE_DIR/clouds.yaml OS_CLOUD=trove PATH=$VENV/bin:\$PATH
  openstack database instance list
  openstack database db create $INSTANCE another
  openstack database user create $INSTANCE someone a-password --databases another
  MYSQL_PWD=\$(cat $STATE_DIR/quickstart.password) mariadb -h $ADDRESS -u $DB_USER \\
      --ssl-ca=$STATE_DIR/ca.pem --ssl-verify-server-cert $DATABASE
  trove-manage --config-file $STATE_DIR/trove.conf operation list
Stop with:
  tools/quickstart.sh down$OPTIONS            (data stays)
  tools/quickstart.sh down --purge$OPTIONS    (everything goes)
EOF
}

up() {
    install
    step "Starting the service in $STATE_DIR"
    "$VENV/bin/trove-standalone" up --state-dir "$STATE_DIR" ${PORT:+--port "$PORT"} >>"$LOG"
    step "Registering the database engine of this machine"
    "$VENV/bin/trove-manage" --config-file "$STATE_DIR/trove.conf" \
        image import --datastore mariadb --default
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

COMMAND=up PORT='' PURGE='' STEP=start ADDRESS='' OPTIONS=''
STATE_DIR=$(default_state_dir)
while [ $# -gt 0 ]; do
    case $1 in
    up | down) COMMAND=$1 ;;
    --purge) PURGE=1 ;;
    --state-dir | --port)
        [ $# -gt 1 ] || {
            say "$1 needs a value" >&2
            exit 2
        }
        if [ "$1" = --port ]; then
            PORT=$2
        else
            STATE_DIR=$(readlink -m "$2")
            OPTIONS=" --state-dir $STATE_DIR"
        fi
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
LOG=$(mktemp -t trove-quickstart-XXXXXX.log)
trap 'failed $?' ERR
trap 'restore_policy || true; exit 130' INT TERM
"$COMMAND"
