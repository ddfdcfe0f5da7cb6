#!/usr/bin/env bash
# Everything that has to hold, in a clean clone: style, types, import rules, then all tests.
#
#   tools/run-tests.sh [PYTEST-ARGUMENT...]
#
# Installs missing packages (as root or by sudo), engines that Debian lacks (tools/test-engines.sh)
# and a virtual environment of its own (.venv-tests; TROVE_VENV names another place). The tests are
# shared by half as many workers again as there are cores, at most six, since half of the time they
# wait for servers; TROVE_TEST_WORKERS says another number.
# Their files are in memory where there is plenty of it, else below /tmp; TMPDIR says another place.
# The last line is pytest's own; the exit code tells.
set -Eeuo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
# shellcheck source=tools/packages.sh
. tools/packages.sh

VENV=${TROVE_VENV:-$PWD/.venv-tests}
LOG=$(mktemp -t trove-run-tests-XXXXXX.log)
trap 'restore_policy || true; exit 130' INT TERM

# memory_directory: print a new directory in memory, where there is plenty of it. Engines sync what
# they write, and on a disk wait for what all others wrote. Short: sockets lie in it.
memory_directory() {
    local free available made
    [ "$(stat -f -c %T /dev/shm 2>/dev/null)" = tmpfs ] || return 0
    free=$(df --output=avail /dev/shm | tail -n 1)
    available=$(sed -n 's/^MemAvailable: *\([0-9]*\) kB$/\1/p' /proc/meminfo)
    [ "${free:-0}" -gt $((8 << 20)) ] && [ "${available:-0}" -gt $((12 << 20)) ] || return 0
    made=$(mktemp -d /dev/shm/t-XXXXXX)
    # Swift keeps what it knows of an object in them; older kernels have none there
    if python -c 'import os, sys; os.setxattr(sys.argv[1], "user.trove", b"1")' "$made" 2>/dev/null; then
        echo "$made"
    else
        rmdir "$made"
    fi
}

check_python
mapfile -t missing < <(
    missing_packages
    for engine in mariadb postgresql redis; do missing_engine_packages "$engine"; done
    # of MySQL 5.6
    [ -e "/usr/lib/$(uname -m)-linux-gnu/libaio.so.1" ] || echo libaio1
    command -v git >/dev/null || echo git
)
if [ "${#missing[@]}" -gt 0 ]; then
    echo "==> installing ${missing[*]}"
    install_packages "$LOG" "${missing[@]}"
fi
echo "==> engines for tests alone"
# they come while the environment is made
ENGINES_LOG=$(mktemp -t trove-run-tests-XXXXXX.log)
tools/test-engines.sh >"$ENGINES_LOG" 2>&1 &
engines=$!
echo "==> Python environment in $VENV"
make_venv "$VENV" "$LOG" requirements.txt test-requirements.txt setup.cfg -- \
    -e . -r test-requirements.txt
PATH=$VENV/bin:$PATH
export PATH

# the processes that tests start would compile everything, each of them
unset PYTHONDONTWRITEBYTECODE

result=0
# without one its tests are skipped; with another archive than the pinned one something is wrong
wait "$engines" || result=1
cat "$ENGINES_LOG"
rm -f "$ENGINES_LOG"
check() {
    echo "==> $*"
    "$@" || result=1
}
check ruff check .
check ruff format --check .
check lint-imports
[ "$result" -eq 0 ] || echo "==> the checks above found something; the tests run nevertheless"

# Not exec: an interrupt still has to put apt's policy back. The output ends with pytest's summary.
cores=$(nproc)
workers=${TROVE_TEST_WORKERS:-$((cores < 4 ? (cores * 3 + 1) / 2 : 6))}
# one for all workers: they must find the same tests in the same order
export PYTHONHASHSEED=${PYTHONHASHSEED:-$RANDOM}
# A module at a time, so that its database servers are started by one worker only; in order, so that
# the small modules of tests/unit are left for whoever is done first.
distribution="-n $workers --dist loadfile --no-loadscope-reorder"
memory=
if [ -z "${TMPDIR:-}" ]; then
    memory=$(memory_directory)
fi
if [ -n "$memory" ]; then
    # users of engines pass through, and make files of their own
    chmod 1777 "$memory"
    export TMPDIR=$memory
    echo "==> files of the tests are in $memory, and stay there when one fails"
fi
# Types take a while of one processor, and the tests wait for servers at first: pytest tells of mypy
# when both are done.
TROVE_TEST_BESIDE=$(mktemp -t trove-run-tests-XXXXXX.log)
export TROVE_TEST_BESIDE
{
    types=0
    mypy >"$TROVE_TEST_BESIDE" 2>&1 || types=$?
    echo "$types" >"$TROVE_TEST_BESIDE.code"
    exit "$types"
} &
beside=$!
trap 'kill "$beside"; restore_policy || true; exit 130' INT TERM
echo "==> PYTHONHASHSEED=$PYTHONHASHSEED python -m pytest $distribution $*"
code=0
# shellcheck disable=SC2086
python -m pytest $distribution "$@" || code=$?
[ -z "$memory" ] || [ "$code" -ne 0 ] || rm -rf "$memory"
wait "$beside" || result=1
rm -f "$LOG" "$TROVE_TEST_BESIDE" "$TROVE_TEST_BESIDE.code"
[ "$code" -ne 0 ] || code=$result
exit "$code"
