# shellcheck shell=bash
# Sourced after settings.sh: processes by pid file, and waiting for what they serve.

say() {
    printf '%s %s\n' "$(date +%T)" "$*" | tee -a "$LOGS/minicloud.log"
}

# is_running NAME: whether the process that its pid file names is there, and is ours.
is_running() {
    local pid
    [ -s "$RUN/$1.pid" ] || return 1
    pid=$(cat "$RUN/$1.pid")
    # a pid is reused after a restart of the machine: a service leads a session of its own
    [ "$(ps -o sid= -p "$pid" 2>/dev/null | tr -d ' ')" = "$pid" ]
}

# start NAME COMMAND...: start a service in a session of its own, unless it runs.
start() {
    local name=$1
    shift
    is_running "$name" && return 0
    setsid "$@" >>"$LOGS/$name.log" 2>&1 </dev/null &
    echo $! >"$RUN/$name.pid"
}

# pids_of NAME: every process of a service's session.
pids_of() {
    is_running "$1" || return 0
    ps -o pid= --sid "$(cat "$RUN/$1.pid")" 2>/dev/null || true
}

# end_all SECONDS NAME...: end services with SIGTERM, after SECONDS with SIGKILL.
end_all() {
    local seconds=$1 name pid alive pids=()
    shift
    for name in "$@"; do
        for pid in $(pids_of "$name"); do
            pids+=("$pid")
            kill "$pid" 2>/dev/null || true
        done
        rm -f "$RUN/$name.pid"
    done
    for ((i = 0; i < seconds * 5; i++)); do
        alive=()
        for pid in "${pids[@]}"; do
            # a dead process that nobody has reaped yet is dead all the same
            [[ $(ps -o stat= -p "$pid" 2>/dev/null) =~ ^(Z|$) ]] || alive+=("$pid")
        done
        [ ${#alive[@]} -eq 0 ] && return 0
        sleep 0.2
    done
    kill -9 "${alive[@]}" 2>/dev/null || true
}

# wait_port HOST PORT [SECONDS]: wait until somebody accepts connections.
wait_port() {
    local i
    for ((i = 0; i < ${3:-90} * 5; i++)); do
        (exec 3<>"/dev/tcp/$1/$2") 2>/dev/null && return 0
        sleep 0.2
    done
    say "nobody listens on $1:$2 after ${3:-90} s; see $LOGS"
    return 1
}

# wait_http URL [SECONDS]: wait until a service answers, asking for a token included.
wait_http() {
    local i code=
    for ((i = 0; i < ${2:-90} * 5; i++)); do
        code=$(curl -s -o /dev/null -m 3 -w '%{http_code}' "$1" || true)
        case $code in 2* | 3* | 401) return 0 ;; esac
        sleep 0.2
    done
    say "$1 answers $code after ${2:-90} s; see $LOGS"
    return 1
}
