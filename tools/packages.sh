# shellcheck shell=bash
# Sourced by the scripts beside it: distribution packages, installed only when they are missing.
#
# Installing a server package also starts and enables its service on most machines. What is
# installed here is for private use, so starting is refused while apt runs, and the service is not
# enabled afterwards. What was installed before is left alone.

POLICY_RC_D=/usr/sbin/policy-rc.d

# as_root COMMAND...: run it as root, by sudo for an ordinary user.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    else
        sudo "$@"
    fi
}

# restore_policy: put back what told apt whether services may start.
restore_policy() {
    if [ -e "$POLICY_RC_D.trove-saved" ] || [ -L "$POLICY_RC_D.trove-saved" ]; then
        as_root mv -f "$POLICY_RC_D.trove-saved" "$POLICY_RC_D"
    elif grep -qs 'trove: nothing starts' "$POLICY_RC_D"; then
        as_root rm -f "$POLICY_RC_D"
    fi
}

# forbid_starts: no service starts until restore_policy.
forbid_starts() {
    restore_policy
    if [ -e "$POLICY_RC_D" ] || [ -L "$POLICY_RC_D" ]; then
        as_root mv "$POLICY_RC_D" "$POLICY_RC_D.trove-saved"
    fi
    as_root sh -c "printf '#!/bin/sh\n# trove: nothing starts while packages are installed\nexit 101\n' \
        >'$POLICY_RC_D' && chmod 755 '$POLICY_RC_D'"
}

# install_packages LOG PACKAGE...: install with apt, output to the file LOG. APT_OPTIONS (an array) are
# added to its own.
# Returns 1 with an explanation on stderr when that is not possible.
install_packages() {
    local log=$1 package
    shift
    [ $# -eq 0 ] && return 0
    local command="apt-get install --no-install-recommends $*"
    if ! command -v apt-get >/dev/null; then
        echo "These packages are missing, and there is no apt-get here: $*" >&2
        return 1
    fi
    if [ "$(id -u)" -ne 0 ] && ! command -v sudo >/dev/null; then
        echo "Packages are missing. Run as root, then try again:  $command" >&2
        return 1
    fi
    if [ "$(id -u)" -ne 0 ]; then
        echo "Root is needed once, for:  $command"
        sudo -v || {
            echo "Have an administrator run:  $command" >&2
            return 1
        }
    fi
    local apt=(
        env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=600
        ${APT_OPTIONS[@]+"${APT_OPTIONS[@]}"}
    )
    local result=0
    forbid_starts
    {
        as_root "${apt[@]}" install -y --no-install-recommends "$@" ||
            { as_root "${apt[@]}" update && as_root "${apt[@]}" install -y --no-install-recommends "$@"; }
    } >>"$log" 2>&1 || result=$?
    restore_policy
    if [ "$result" -ne 0 ]; then
        tail -n 5 "$log" >&2
        echo "Packages could not be installed. Run as root, then try again:  apt-get update && $command" >&2
        return 1
    fi
    if [ -d /run/systemd/system ]; then
        for package in "$@"; do
            case $package in
            rabbitmq-server) as_root systemctl disable rabbitmq-server >>"$log" 2>&1 || true ;;
            mariadb-server) as_root systemctl disable mariadb >>"$log" 2>&1 || true ;;
            postgresql-*) as_root systemctl disable postgresql >>"$log" 2>&1 || true ;;
            redis-server) as_root systemctl disable redis-server >>"$log" 2>&1 || true ;;
            esac
        done
    fi
}

# missing_packages: print the packages that the service needs and this machine lacks, one a line.
missing_packages() {
    local path="$PATH:/usr/local/sbin:/usr/sbin:/sbin"
    "${PYTHON:-python3}" -c 'import ensurepip, venv' 2>/dev/null || echo python3-venv
    [ -x /usr/lib/rabbitmq/bin/rabbitmq-server ] || echo rabbitmq-server
    PATH=$path command -v nft >/dev/null || echo nftables
}

# missing_engine_packages DATASTORE: the same of an engine and its own client, where Debian 12 has them.
missing_engine_packages() {
    local path="$PATH:/usr/local/sbin:/usr/sbin:/sbin" each
    case $1 in
    mariadb)
        PATH=$path command -v mariadbd >/dev/null || echo mariadb-server
        PATH=$path command -v mariadb >/dev/null || echo mariadb-client
        PATH=$path command -v mariabackup >/dev/null || echo mariadb-backup
        ;;
    postgresql)
        for each in /usr/lib/postgresql/*/bin/postgres; do
            [ ! -x "$each" ] || break
        done
        [ -x "$each" ] || PATH=$path command -v postgres >/dev/null || echo postgresql-15
        PATH=$path command -v psql >/dev/null || echo postgresql-client-15
        ;;
    redis)
        PATH=$path command -v redis-server >/dev/null || echo redis-server
        PATH=$path command -v redis-cli >/dev/null || echo redis-tools
        ;;
    valkey)
        PATH=$path command -v valkey-cli >/dev/null || PATH=$path command -v redis-cli >/dev/null ||
            echo redis-tools
        ;;
    esac
}

# check_python: say what to do when Python is too old or not there.
check_python() {
    if ! command -v "${PYTHON:-python3}" >/dev/null; then
        return 0 # python3-venv brings it
    fi
    if ! "${PYTHON:-python3}" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
        echo "Python 3.11 or newer is needed; ${PYTHON:-python3} is $("${PYTHON:-python3}" -V 2>&1)." \
            "Name a newer one:  PYTHON=/path/to/python3 $0" >&2
        return 1
    fi
}

# compile_modules DIRECTORY: bytecode of what is used, also where Python is told to write none.
# Without, every process of the service and every agent compiles it again.
compile_modules() {
    env -u PYTHONDONTWRITEBYTECODE "$1/bin/python" -c '
import trove.cmd.guestagent
import trove.cmd.manage
import trove.cmd.standalone_supervisor
import openstackclient.shell'
}

# make_venv DIRECTORY LOG FILE... -- PIP-ARGUMENT...: a virtual environment with these packages.
# Does nothing when it was made from the same FILEs before.
make_venv() {
    local directory=$1 log=$2 files=()
    shift 2
    while [ "$1" != -- ]; do
        files+=("$1")
        shift
    done
    shift
    local stamp
    stamp=$({ "${PYTHON:-python3}" -V; pwd; echo "$@"; cat "${files[@]}"; } | sha256sum)
    if [ "$(cat "$directory/.stamp" 2>/dev/null)" = "$stamp" ] && [ -x "$directory/bin/python" ]; then
        return 0
    fi
    if [ -d "$directory" ] && [ ! -w "$directory" ]; then
        echo "$directory belongs to another user: name a directory of your own, TROVE_VENV=DIRECTORY" >&2
        return 1
    fi
    # pbr reads the version from git; a copy without history has none
    if ! git rev-parse HEAD >/dev/null 2>&1; then
        export PBR_VERSION=${PBR_VERSION:-0.0.1}
    fi
    rm -f "$directory/.stamp"
    {
        "${PYTHON:-python3}" -m venv "$directory" &&
            "$directory/bin/python" -m pip install --disable-pip-version-check --no-compile "$@"
    } >>"$log" 2>&1 || {
        tail -n 5 "$log" >&2
        echo "Python packages could not be installed into $directory: check the network and the disk," \
            "then try again. All output: $log" >&2
        return 1
    }
    compile_modules "$directory" >>"$log" 2>&1
    printf '%s\n' "$stamp" >"$directory/.stamp"
}
